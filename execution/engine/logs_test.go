package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/logs"
)

// attempt is a log and whether it is complete.
type attempt struct {
	log      string
	complete bool
}

// join reads all attempts in parts of at most limit bytes, and returns their text and whether it is complete.
func join(t *testing.T, limit int64, attempts ...attempt) (string, bool) {
	t.Helper()
	var text []byte
	for {
		chunk, err := JoinAttempts(int64(len(attempts)), LogQuery{Offset: int64(len(text)), Limit: limit}, read(attempts))
		require.NoError(t, err)
		require.LessOrEqual(t, int64(len(chunk.Data)), limit)
		require.Equal(t, int64(len(text)+len(chunk.Data)), chunk.Next)
		text = append(text, chunk.Data...)
		if len(chunk.Data) == 0 || chunk.Complete {
			return string(text), chunk.Complete
		}
	}
}

func read(attempts []attempt) func(n, offset, limit int64) (logs.Part, error) {
	return func(n, offset, limit int64) (logs.Part, error) {
		a := attempts[n-1]
		size := int64(len(a.log))
		from := min(offset, size)
		return logs.Part{Data: []byte(a.log[from:min(size, from+limit)]), Size: size, Complete: a.complete}, nil
	}
}

func TestJoinAttempts(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		attempts []attempt
		want     string
		complete bool
	}{
		"nothing yet":                               {[]attempt{{"", false}}, "", false},
		"one that runs":                             {[]attempt{{"abc\n", false}}, "abc\n", false},
		"one that has ended":                        {[]attempt{{"abc\n", true}}, "abc\n", true},
		"one that ended and wrote nothing":          {[]attempt{{"", true}}, "", true},
		"two that have ended":                       {[]attempt{{"a\n", true}, {"b\n", true}}, "a\n--- attempt 2 ---\nb\n", true},
		"a second that has not written yet":         {[]attempt{{"a\n", true}, {"", false}}, "a\n", false},
		"one in the middle that wrote nothing":      {[]attempt{{"a\n", true}, {"", true}, {"c", true}}, "a\n--- attempt 3 ---\nc", true},
		"an incomplete one hides those that follow": {[]attempt{{"a\n", false}, {"b\n", true}}, "a\n", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for limit := int64(1); limit < 40; limit++ {
				got, complete := join(t, limit, c.attempts...)
				assert.Equal(t, c.want, got)
				assert.Equal(t, c.complete, complete)
			}
		})
	}
}

func TestAQueryBeyondTheEndReturnsTheEnd(t *testing.T) {
	t.Parallel()
	chunk, err := JoinAttempts(2, LogQuery{Offset: 1 << 62, Limit: 1}, read([]attempt{{"ab\n", true}, {"c\n", false}}))
	require.NoError(t, err)
	assert.Equal(t, LogChunk{Next: int64(len("ab\n--- attempt 2 ---\nc\n"))}, chunk)
}
