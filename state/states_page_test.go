package state

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/states.md shows the table of legal moves; this holds the page to it.
func TestLegalMovesAreDrawn(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/states.md")
	require.NoError(t, err)
	for _, from := range Statuses {
		var to []string
		for _, next := range Statuses {
			if from.MayBecome(next) {
				to = append(to, fmt.Sprintf("`%s`", next))
			}
		}
		row := fmt.Sprintf("| `%s` | %s |", from, strings.Join(to, ", "))
		if from.Final() {
			row = fmt.Sprintf("| `%s` | nothing: it is final |", from)
		}
		assert.Contains(t, string(page), row)
	}
}
