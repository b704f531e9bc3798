package services

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestClusterChoice(t *testing.T) {
	t.Parallel()
	known := func(s *setup) {
		s.configured = []state.Cluster{
			{Name: testCluster}, {Name: "gpus"}, {Name: "target"},
			{Name: "tiered", AllowedTiers: []string{"Tier1"}},
			{Name: "closed", AllowedTiers: []string{"Tier2"}, Status: state.ClusterMaintenance},
			{Name: "off", AllowedTiers: []string{"Tier1"}, Status: state.ClusterOffline},
		}
		s.config.EKS.GPUClusterDefault = "gpus"
	}
	b := newBench(t, known)
	type common = state.ExecutionRequestCommon
	cases := map[string]struct {
		target  string
		req     common
		want    string
		warning string
	}{
		"the default":                               {"", common{}, testCluster, ""},
		"the request's":                             {"", common{ClusterName: "tiered"}, "tiered", ""},
		"the request's before the tier's":           {"", common{ClusterName: "gpus", Tier: new("Tier1")}, "gpus", ""},
		"one in maintenance is absent":              {"", common{ClusterName: "closed"}, testCluster, `cluster "closed" is in maintenance`},
		"an unknown one is absent":                  {"", common{ClusterName: "mars"}, testCluster, `cluster "mars" is not known`},
		"an offline one is absent":                  {"", common{ClusterName: "off"}, testCluster, `cluster "off" is offline`},
		"an empty one is absent":                    {"", common{ClusterName: ""}, testCluster, ""},
		"a hostile one is absent":                   {"", common{ClusterName: strings.Repeat("x", 1<<20)}, testCluster, "is not known"},
		"the tier's, not an offline one":            {"", common{Tier: new("Tier1")}, "tiered", ""},
		"the tier's before the target":              {"target", common{Tier: new("Tier1")}, "tiered", ""},
		"only an active cluster takes a tier":       {"", common{Tier: new("Tier2")}, testCluster, ""},
		"the definition's target":                   {"target", common{}, "target", ""},
		"a target in maintenance":                   {"closed", common{}, "closed", ""},
		"a required one in maintenance":             {"", common{ClusterName: "closed", ClusterRequired: true}, "closed", ""},
		"the target before that of GPUs":            {"target", common{GPU: new(int64(1))}, "target", ""},
		"the target, if the request's is not known": {"target", common{ClusterName: "mars"}, "target", "mars"},
		"that of GPUs":                              {"", common{GPU: new(int64(1))}, "gpus", ""},
		"no GPU":                                    {"", common{GPU: new(int64(0))}, testCluster, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := b.definition(t, func(d *state.Definition) { d.TargetCluster = &c.target })
			created, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(c.req))
			require.NoError(t, err)
			assert.Equal(t, c.want, created.Run.ClusterName)
			if c.warning == "" {
				assert.Empty(t, created.Warnings)
				return
			}
			require.Len(t, created.Warnings, 1)
			assert.Contains(t, created.Warnings[0], c.warning)
			assert.Less(t, len(created.Warnings[0]), 1_500)
			assert.Contains(t, b.log.String(), "cluster of the request ignored")
		})
	}
}

func TestClustersThatCannotBeChosen(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *setup) {
		s.configured = []state.Cluster{{Name: testCluster}, {Name: "off", Status: state.ClusterOffline}}
	})
	d := b.definition(t, func(d *state.Definition) { d.TargetCluster = new("gone") })
	var malformed state.MalformedInput
	_, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, &malformed)
	assert.Contains(t, malformed.Message, "gone")

	for _, name := range []string{"mars", "off"} {
		_, err = b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: b.definition(t, nil).DefinitionID}, request(state.ExecutionRequestCommon{
			ClusterName: name, ClusterRequired: true,
		}))
		require.ErrorAs(t, err, &malformed)
		assert.Contains(t, malformed.Message, name)
	}

	b = newBench(t, func(s *setup) { s.config.EKS.ClusterDefault = "" })
	_, err = b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: b.definition(t, nil).DefinitionID}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, &malformed)
	assert.Contains(t, malformed.Message, "eks_cluster_default")
}

func TestATierSpreadsOverItsClusters(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *setup) {
		s.configured = []state.Cluster{{Name: "a", AllowedTiers: []string{"Tier4"}}, {Name: "b", AllowedTiers: []string{"Tier4"}}}
	})
	d := b.definition(t, nil)
	turn := 0
	b.executions.pick = func(n int) int { turn++; return turn % n }
	assert.Equal(t, "b", b.run(t, d, state.ExecutionRequestCommon{}).ClusterName, "the default tier counts")
	assert.Equal(t, "a", b.run(t, d, state.ExecutionRequestCommon{}).ClusterName)
}

func TestANewClusterIsKnownAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	mars := state.ExecutionRequestCommon{ClusterName: "mars"}
	assert.Equal(t, testCluster, b.run(t, d, mars).ClusterName)
	require.NoError(t, b.clusters.Create(t.Context(), state.Cluster{Name: "mars", Region: "sky"}))
	assert.Equal(t, "mars", b.run(t, d, mars).ClusterName)

	// The second reading finds the row of another server.
	b.exec(t, `INSERT INTO cluster_state (name, region) VALUES ('venus', 'sky')`)
	b.clock.Advance(2 * time.Second)
	assert.Equal(t, "venus", b.run(t, d, state.ExecutionRequestCommon{ClusterName: "venus"}).ClusterName)

	b.exec(t, `UPDATE cluster_state SET status = 'offline' WHERE name = 'venus'`)
	b.clock.Advance(cacheAge)
	assert.Equal(t, testCluster, b.run(t, d, state.ExecutionRequestCommon{ClusterName: "venus"}).ClusterName, "the cache is 10 s old at most")
}

// history is the history that the lifecycle choice reads. It counts the reads.
type history struct {
	ExecutionStore
	share, minutes       float64
	shareErr, minutesErr error
	shares, runtimes     int
	hash                 string
}

func (h *history) ReattemptRate(context.Context) (float64, error) {
	h.shares++
	return h.share, h.shareErr
}

func (h *history) EstimateRuntime(_ context.Context, _, hash string) (float64, error) {
	h.runtimes++
	h.hash = hash
	return h.minutes, h.minutesErr
}

func TestLifecycleChoice(t *testing.T) {
	t.Parallel()
	type common = state.ExecutionRequestCommon
	broken := errors.New("replica gone")
	missing := state.Missingf("nothing")
	cases := map[string]struct {
		req      common
		past     history
		override bool
		want     string
	}{
		"spot by default":                      {common{}, history{}, false, "spot"},
		"as asked":                             {common{NodeLifecycle: new("ondemand")}, history{}, false, "ondemand"},
		"never spot with a GPU":                {common{NodeLifecycle: new("spot"), GPU: new(int64(1))}, history{}, false, "ondemand"},
		"overridden":                           {common{NodeLifecycle: new("spot")}, history{}, true, "ondemand"},
		"many attempts, just":                  {common{}, history{share: 0.05}, false, "ondemand"},
		"few attempts":                         {common{}, history{share: 0.049}, false, "spot"},
		"a long run":                           {common{}, history{minutes: 30.1}, false, "ondemand"},
		"a run just not long":                  {common{}, history{minutes: 30}, false, "spot"},
		"no history":                           {common{}, history{shareErr: missing, minutesErr: missing}, false, "spot"},
		"history that cannot be read":          {common{}, history{share: 1, minutes: 99, shareErr: broken, minutesErr: broken}, false, "spot"},
		"attempts unknown but a long run":      {common{}, history{shareErr: broken, minutes: 99}, false, "ondemand"},
		"a spark job keeps what was asked for": {common{SparkExtension: &state.SparkExtension{}}, history{share: 1, minutes: 99}, true, "spot"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			past := c.past
			b := newBench(t, func(s *setup) {
				s.config.EKS.SpotOverride = c.override
				s.store = func(inner ExecutionStore) ExecutionStore { past.ExecutionStore = inner; return &past }
			})
			run := b.run(t, b.definition(t, nil), c.req)
			assert.Equal(t, c.want, *run.NodeLifecycle)
			deadline := map[string]int64{"spot": 172_800, "ondemand": 604_800}[c.want]
			assert.Equal(t, deadline, *run.ActiveDeadlineSeconds, "chosen after the lifecycle is final")
			if past.runtimes > 0 {
				assert.Equal(t, *run.CommandHash, past.hash)
			}
		})
	}
}

func TestSubmittingReadsTheReattemptRateOnceIn10Seconds(t *testing.T) {
	t.Parallel()
	past := &history{shareErr: state.Missingf("nothing")}
	b := newBench(t, func(s *setup) {
		s.store = func(inner ExecutionStore) ExecutionStore { past.ExecutionStore = inner; return past }
	})
	d := b.definition(t, func(d *state.Definition) { d.Command = nil })
	for range 5 {
		b.run(t, d, state.ExecutionRequestCommon{})
	}
	assert.Equal(t, 1, past.shares)
	assert.Zero(t, past.runtimes, "a run without a command has no history")
	b.clock.Advance(cacheAge)
	b.run(t, d, state.ExecutionRequestCommon{ActiveDeadlineSeconds: new(int64(5))})
	assert.Equal(t, 2, past.shares)
}

func TestSubmittingReadsTheRuntimeOfACommandOnceIn10Seconds(t *testing.T) {
	t.Parallel()
	past := &history{minutesErr: state.Missingf("nothing")}
	b := newBench(t, func(s *setup) {
		s.store = func(inner ExecutionStore) ExecutionStore { past.ExecutionStore = inner; return past }
	})
	one, other := b.definition(t, nil), b.definition(t, nil)
	reads := func(d state.Definition, command string) int {
		b.run(t, d, state.ExecutionRequestCommon{Command: &command})
		return past.runtimes
	}
	assert.Equal(t, 1, reads(one, "a"))
	assert.Equal(t, 1, reads(one, "a"))
	assert.Equal(t, 2, reads(one, "b"), "another command")
	assert.Equal(t, 3, reads(other, "a"), "another definition")
	b.clock.Advance(cacheAge)
	past.minutes, past.minutesErr = 99, nil
	assert.Equal(t, "ondemand", *b.run(t, one, state.ExecutionRequestCommon{Command: new("a")}).NodeLifecycle)
	runtimes := b.executions.runtimes
	get := func(key string) error {
		_, err := runtimes.get(t.Context(), key, cacheAge, func(context.Context) (float64, error) { return past.minutes, past.minutesErr })
		return err
	}
	for i := range maxRuntimes + 1 {
		require.NoError(t, get(strconv.Itoa(i)))
		require.LessOrEqual(t, len(runtimes.held), maxRuntimes)
	}
	past.minutesErr = errors.New("replica gone")
	require.ErrorIs(t, get("unknown"), past.minutesErr)
	assert.NotContains(t, runtimes.held, "unknown")
}

func TestUnreadableHistoryIsNotReadAgainFor10Seconds(t *testing.T) {
	t.Parallel()
	past := &history{shareErr: errors.New("replica gone"), minutesErr: errors.New("replica gone")}
	b := newBench(t, func(s *setup) {
		s.store = func(inner ExecutionStore) ExecutionStore { past.ExecutionStore = inner; return past }
	})
	d := b.definition(t, nil)
	submit := func(command string) string {
		return *b.run(t, d, state.ExecutionRequestCommon{Command: &command}).NodeLifecycle
	}
	for i := range 20 {
		assert.Equal(t, "spot", submit(strconv.Itoa(i)))
	}
	assert.Equal(t, 1, past.shares)
	assert.Equal(t, 1, past.runtimes, "whatever the command")
	assert.Equal(t, 2, strings.Count(b.log.String(), "cannot read the history for the lifecycle choice"))
	past.minutes, past.shareErr, past.minutesErr = 99, nil, nil
	b.clock.Advance(cacheAge)
	assert.Equal(t, "ondemand", submit("x"))
}

// TestLifecycleChoiceFromStoredRuns runs the real queries on real rows.
func TestLifecycleChoiceFromStoredRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	long := b.run(t, d, state.ExecutionRequestCommon{Command: new("long")})
	b.exec(t, `UPDATE task SET status = 'STOPPED', exit_code = 0, started_at = now() - interval '2 hours', finished_at = now() WHERE run_id = $1`, long.RunID)
	b.clock.Advance(cacheAge)
	assert.Equal(t, "ondemand", *b.run(t, d, state.ExecutionRequestCommon{Command: new("long")}).NodeLifecycle)
	assert.Equal(t, "spot", *b.run(t, d, state.ExecutionRequestCommon{Command: new("short")}).NodeLifecycle, "another command of the same definition")
}
