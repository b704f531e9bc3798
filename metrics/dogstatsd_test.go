package metrics

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
)

// message is one line of the DogStatsD protocol: name:value|type|#tag,tag and fields that the agent adds nothing to.
type message struct {
	name, value, kind string
	tags              []string
}

func parseMessage(t *testing.T, line string) message {
	t.Helper()
	head, rest, ok := strings.Cut(line, "|")
	require.True(t, ok, line)
	var m message
	m.name, m.value, ok = strings.Cut(head, ":")
	require.True(t, ok, line)
	parts := strings.Split(rest, "|")
	m.kind = parts[0]
	for _, part := range parts[1:] {
		if tags, isTags := strings.CutPrefix(part, "#"); isTags {
			m.tags = strings.Split(tags, ",")
			slices.Sort(m.tags)
		}
	}
	return m
}

// receive reads lines until count of them have come.
func receive(t *testing.T, agent net.PacketConn, count int) map[string]message {
	t.Helper()
	require.NoError(t, agent.SetReadDeadline(time.Now().Add(10*time.Second)))
	got := map[string]message{}
	buffer := make([]byte, 65536)
	for len(got) < count {
		n, _, err := agent.ReadFrom(buffer)
		require.NoError(t, err, "got only %v", got)
		for line := range strings.SplitSeq(strings.TrimSpace(string(buffer[:n])), "\n") {
			m := parseMessage(t, line)
			got[m.name] = m
		}
	}
	return got
}

func TestDogStatsDSpeaksTheProtocolToAnAgent(t *testing.T) {
	t.Parallel()
	agent, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { assert.NoError(t, agent.Close()) }()
	client, err := NewDogStatsD(config.Metrics{
		DogStatsDAddress: agent.LocalAddr().String(), DogStatsDNamespace: "flotilla", DogStatsDTags: []string{"env:test"},
	})
	require.NoError(t, err)

	misuse(client)
	client.Increment(EngineEKSARANullCommandHash, runTags, 3)
	client.Distribution(EngineEKSARAMemoryIncreaseRatio, runTags, 1.75)
	client.Distribution(EngineEKSARAFinalMemoryMB, runTags, 896)
	client.Distribution(EngineEKSARADefaultMemory, runTags, 512)
	client.Gauge(QueueDepth, []string{"cluster:a|b,c\nd"}, 7)
	client.Timing(StatusWorkerRunOnce, nil, 20*time.Millisecond)
	require.NoError(t, client.Close())

	tags := []string{"cluster:prod", "engine:eks", "env:test"}
	want := map[string]message{}
	for _, m := range []message{
		{"flotilla.engine.eks.ara.null_command_hash", "3", "c", tags},
		{"flotilla.engine.eks.ara.memory_increase_ratio", "1.75", "h", tags},
		{"flotilla.engine.eks.ara.final_memory_mb", "896", "h", tags},
		{"flotilla.engine.eks.ara.default_memory", "512", "d", tags},
		{"flotilla.queue.depth", "7", "g", []string{"cluster:a_b_c_d", "env:test"}},
		{"flotilla.status_worker.run_once", "20.000000", "ms", []string{"env:test"}},
	} {
		want[m.name] = m
	}
	assert.Equal(t, want, receive(t, agent, len(want)))
}

func TestDogStatsDWithoutAnAgentLosesMeasurementsOnly(t *testing.T) {
	t.Parallel()
	agent, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	address := agent.LocalAddr().String()
	require.NoError(t, agent.Close())
	client, err := NewDogStatsD(config.Metrics{DogStatsDAddress: address})
	require.NoError(t, err)
	for range 1000 {
		client.Increment(QueueClaims, nil, 1)
	}
	assert.NoError(t, client.Close())
}

func TestDogStatsDRefusesAnInvalidAddress(t *testing.T) {
	t.Parallel()
	_, err := NewDogStatsD(config.Metrics{DogStatsDAddress: "nowhere"})
	assert.ErrorContains(t, err, `metrics_dogstatsd_address "nowhere"`)
}
