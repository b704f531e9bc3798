package flotilla

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestResourcesAlwaysHaveTheirFixedMembersAndNoEmptyOnes(t *testing.T) {
	t.Parallel()
	moscow := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.FixedZone("", 3*60*60))
	empty := new("")
	for name, c := range map[string]struct {
		resource any
		want     string
	}{
		"an empty run": {runAnswer(&state.Run{}), `{"run_id":"","definition_id":"","alias":"","image":"","cluster":"","status":"",
			"group_name":"","description":"","env":[],"instance":{"instance_id":"","dns_name":""},"pod_events":[],
			"cloudtrail_notifications":{"Records":null},"spark_extension":{}}`},
		"a run with empty texts and times of another zone": {
			runAnswer(&state.Run{
				Command: empty, ExitReason: empty, QueuedAt: &moscow, ExitCode: new(int64(0)),
				PodEvents: state.PodEvents{{Timestamp: &moscow}},
			}),
			`{"run_id":"","definition_id":"","alias":"","image":"","cluster":"","status":"","exit_code":0,
			"queued_at":"2026-01-02T00:04:05.6Z","group_name":"","description":"","env":[],
			"instance":{"instance_id":"","dns_name":""},"pod_events":[{"timestamp":"2026-01-02T00:04:05.6Z",
			"event_type":"","reason":"","source_object":"","message":""}],
			"cloudtrail_notifications":{"Records":null},"spark_extension":{}}`,
		},
		"an empty definition": {definitionAnswer(&state.Definition{Command: empty}), `{"definition_id":"","alias":"","image":"","env":[],
			"adaptive_resource_allocation":true}`},
		"an empty cluster": {clusterAnswer(&state.Cluster{StatusSince: &moscow}), `{"id":"","name":"","cluster_version":"","status":"",
			"status_reason":"","status_since":"2026-01-02T00:04:05.6Z","allowed_tiers":[],"capabilities":[],
			"updated_at":null,"namespace":"","region":"","emr_virtual_cluster":"","spark_server_uri":""}`},
		"an empty template": {templateAnswer(&state.Template{}), `{"template_id":"","template_name":"","version":0,"schema":{},
			"command_template":"","defaults":{},"avatar_uri":"","image":"","env":[]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := json.Marshal(c.resource)
			require.NoError(t, err)
			assert.JSONEq(t, c.want, string(raw))
		})
	}
}
