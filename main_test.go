package main

import (
	"net/http"
	"os"
	"path/filepath"
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
	if built.Load() {
		if program, err := faultyProgram(); err == nil {
			_ = os.RemoveAll(filepath.Dir(program))
		}
	}
	return code
}
