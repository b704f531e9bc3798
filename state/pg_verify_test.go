package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestVerifyARACountsWhatMustNotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  string
		want state.ARAReport
	}{
		"nothing wrong":               {`alias = alias`, state.ARAReport{}},
		"a command without a hash":    {`command_hash = NULL`, state.ARAReport{CommandsWithoutHash: 1}},
		"the hash of a description":   {`command_hash = md5(description)`, state.ARAReport{WrongHashes: 1}},
		"a hash without a command":    {`command = NULL`, state.ARAReport{WrongHashes: 1, WithoutCommand: 1}},
		"no command":                  {`command = NULL, command_hash = NULL`, state.ARAReport{WithoutCommand: 1}},
		"an empty command of old":     {`command = '', command_hash = NULL`, state.ARAReport{WithoutCommand: 1}},
		"a hash of two commands":      {`command = 'true'`, state.ARAReport{WrongHashes: 1, SharedHashes: 1}},
		"queued before":               {`command = 'true', queued_at = now() - INTERVAL '2 hours'`, state.ARAReport{Runs: -1}},
		"killed for memory":           {`exit_code = 137`, state.ARAReport{OOMKills: 1}},
		"a surviving command":         {`exit_code = 0, exit_reason = 'OOMKilled'`, state.ARAReport{}},
		"given more than asked for":   {`attempt_count = 1, memory = 896, requested_memory = 512`, state.ARAReport{Adjusted: 1}},
		"given what was asked for":    {`attempt_count = 1, memory = 896, requested_memory = 896`, state.ARAReport{}},
		"more than the definition's":  {`attempt_count = 1, memory = 513`, state.ARAReport{Adjusted: 1}},
		"the most memory there is":    {`attempt_count = 1, memory = 350000, requested_memory = 350000`, state.ARAReport{AtMaximum: 1}},
		"the most cpu there is":       {`attempt_count = 1, cpu = 60000`, state.ARAReport{AtMaximum: 1}},
		"a GPU has another maximum":   {`attempt_count = 1, gpu = 1, cpu = 60000`, state.ARAReport{}},
		"asked for, and still queued": {`status = 'QUEUED', memory = 350000`, state.ARAReport{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.run(t, state.StatusStopped)
			r := s.run(t, state.StatusStopped)
			s.force(t, r.RunID, c.set)
			since := time.Now().Add(-time.Hour)
			got, err := s.VerifyARA(t.Context(), since)
			require.NoError(t, err)
			c.want.Runs += 2
			c.want.Since = since
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want.CommandsWithoutHash+c.want.WrongHashes+c.want.SharedHashes == 0, got.Clean())
		})
	}
}
