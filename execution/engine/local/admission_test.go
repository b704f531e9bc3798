package local

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/state"
)

func makeTicket(second int, memory int64) ticket {
	return ticket{runID: fmt.Sprintf("run-%d", second), queuedAt: time.Unix(int64(second), 0), request: state.Size{Memory: memory, CPU: 100}}
}

// admitted takes all attempts that may start now.
func admitted(a *admission) []string {
	var ids []string
	for {
		t, ok := a.next()
		if !ok {
			return ids
		}
		ids = append(ids, t.runID)
	}
}

func TestAdmission(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		// waiting is added in this order; want is what starts first, and then after each release.
		waiting  []ticket
		released []string
		want     [][]string
	}{
		"as many as fit, in their order": {
			[]ticket{makeTicket(1, 400), makeTicket(2, 400), makeTicket(3, 400)}, []string{"run-1"},
			[][]string{{"run-1", "run-2"}, {"run-3"}}},
		"first come, first served, in whatever order they are added": {
			[]ticket{makeTicket(3, 600), makeTicket(1, 600), makeTicket(2, 600)}, []string{"run-1", "run-2"},
			[][]string{{"run-1"}, {"run-2"}, {"run-3"}}},
		"small runs do not pass a large one": {
			[]ticket{makeTicket(1, 300), makeTicket(2, 1000), makeTicket(3, 10)}, []string{"run-1", "run-2"},
			[][]string{{"run-1"}, {"run-2"}, {"run-3"}}},
		"a run that leaves the queue lets the next one start": {
			[]ticket{makeTicket(1, 300), makeTicket(2, 1000), makeTicket(3, 10)}, []string{"run-2"},
			[][]string{{"run-1"}, {"run-3"}}},
		"releasing an unknown run changes nothing": {
			[]ticket{makeTicket(1, 1000), makeTicket(2, 1)}, []string{"run-9"}, [][]string{{"run-1"}, nil}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAdmission(state.Size{Memory: 1000, CPU: 1000})
			for _, w := range c.waiting {
				assert.True(t, a.enqueueNew(w))
				assert.False(t, a.enqueueNew(w), "once")
			}
			assert.Equal(t, c.want[0], admitted(a))
			for i, id := range c.released {
				a.release(id)
				assert.Equal(t, c.want[i+1], admitted(a))
			}
		})
	}
}

func TestAdmissionAnnounced(t *testing.T) {
	t.Parallel()
	a := newAdmission(state.Size{Memory: 1000, CPU: 1000})
	known, reserved := a.announce(makeTicket(1, 600), true)
	assert.False(t, known)
	assert.True(t, reserved, "it fits and none waits")
	known, reserved = a.announce(makeTicket(1, 600), true)
	assert.True(t, known)
	assert.False(t, reserved)
	a.settle(makeTicket(1, 600), false)

	_, reserved = a.announce(makeTicket(2, 600), true)
	assert.False(t, reserved, "it does not fit")
	assert.Nil(t, admitted(a), "its acceptance is not committed")
	assert.False(t, a.enqueueNew(makeTicket(2, 600)), "nor may a list add it")
	a.settle(makeTicket(2, 600), true)

	_, reserved = a.announce(makeTicket(3, 10), true)
	assert.False(t, reserved, "it fits, but another waits")
	a.settle(makeTicket(3, 10), true)

	a.release("run-1")
	assert.Equal(t, []string{"run-2", "run-3"}, admitted(a))
	assert.True(t, newAdmission(state.Size{}).resume(makeTicket(4, 500)), "a running attempt has its share, even if it does not fit")
}

func TestCapacityDefaultsToAShareOfTheMachine(t *testing.T) {
	t.Parallel()
	whole, err := capacityOf(0, 0)
	assert.NoError(t, err)
	assert.Positive(t, whole.Memory)
	assert.Positive(t, whole.CPU)
	given, err := capacityOf(123, 456)
	assert.NoError(t, err)
	assert.Equal(t, state.Size{Memory: 123, CPU: 456}, given)
}
