package state_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/state"
)

func TestAuditStatusIsOneLineWhoeverMakesTheChange(t *testing.T) {
	t.Parallel()
	run := state.Run{
		RunID: "eks-1", DefinitionID: "d", Alias: "a", ClusterName: "c", Engine: state.EKSEngine, User: "ada",
		AttemptCount: new(int64(2)),
	}
	line := func(by state.Auditor, u state.RunUpdate) string {
		var out bytes.Buffer
		slog.New(slog.NewJSONHandler(&out, nil)).Info("audit", state.AuditStatus(by, run, state.StatusStopped, u)...)
		return out.String()
	}
	const of = `"owner":"ada","run_id":"eks-1","definition_id":"d","alias":"a","cluster":"c","engine":"eks","status":"STOPPED","attempt":2`
	ended := state.RunUpdate{ExitCode: new(int64(1)), ExitReason: new("why")}
	assert.Contains(t, line(state.Program, ended),
		`"msg":"audit","event":"FlotillaTaskStatus","who":"flotilla","token":"","email":"",`+of+`,"exit_code":1,"exit_reason":"why"}`)
	assert.Contains(t, line(state.Auditor{Who: "bo@example.com", Token: "ci", Email: "bo@example.com"}, ended),
		`"who":"bo@example.com","token":"ci","email":"bo@example.com",`+of+`,"exit_code":1,"exit_reason":"why"}`)
	assert.Contains(t, line(state.Program, state.RunUpdate{}), of+"}")
}
