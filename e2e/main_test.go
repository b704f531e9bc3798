package e2e

import (
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(tidy{pgtest.Wrap(m)})
}

// tidy removes what tests share when all of them have ended.
type tidy struct{ tests goleak.TestingM }

// Run implements goleak.TestingM.
func (t tidy) Run() int {
	code := t.tests.Run()
	http.DefaultClient.CloseIdleConnections()
	for _, folder := range builds.folders {
		_ = os.RemoveAll(folder)
	}
	return code
}
