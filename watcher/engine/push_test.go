package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// What is believed of lists and push, step by step. The switching as a whole is
// tested beside the real push, in watcher/swarmkit.
func TestOnlyOnePlaceIsBelieved(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // pollers end at once
	var emitted []watcher.Update
	r := &run{Options: New(Options{Host: "unix:///nowhere/docker.sock", Push: &noPush{}}).options, reports: make(chan report), questions: make(chan uint64, 1), metrics: newMetrics()}
	r.Timing.PushBack, r.Timing.PushRetry = time.Hour, time.Hour
	r.down.Store(&map[string]bool{})
	var err error
	r.conn, err = newConnection(r.Options)
	require.NoError(t, err)
	defer r.conn.close()
	l := &loop{run: r, ctx: ctx, emit: func(u watcher.Update) { emitted = append(emitted, u) }, place: place{patience: stopped()}}
	defer r.pollers.Wait()
	defer l.patience.Stop()
	pushed := report{part: tasksPart}
	confirmed := func(n uint64) report { return report{part: tasksPart, full: true, confirmed: n} }
	listed := func(poller int) report { return report{part: tasksPart, full: true, poller: poller} }

	require.True(t, l.admits(pushed), "push from the start")
	require.Equal(t, watcher.ViaSwarmKit, l.via)
	l.pushLost(errors.New("cut; wait"))
	require.Equal(t, 1, l.poller)
	require.True(t, l.admits(listed(1)))
	require.Equal(t, watcher.ViaEngine, l.via)

	require.False(t, l.admits(pushed), "it is asked first")
	require.Equal(t, uint64(1), <-l.questions)
	require.False(t, l.admits(listed(1)), "a list that was under way, while push is asked")
	require.False(t, l.admits(confirmed(0)), "the answer to another question")
	require.True(t, l.admits(confirmed(1)))
	require.Equal(t, watcher.ViaSwarmKit, l.via)
	require.NoError(t, l.fallback)

	l.pushLost(errors.New("cut again; wait"))
	require.False(t, l.admits(listed(1)), "a list from before push was back")
	require.True(t, l.admits(listed(2)))

	require.False(t, l.admits(pushed))
	l.impatient()
	require.Equal(t, 3, l.poller, "no answer: lists go on")
	require.False(t, l.admits(confirmed(2)), "not again at once")
	require.Equal(t, 3, l.poller)
	require.True(t, l.admits(listed(3)))
	l.pushLost(errors.New("and again; wait"))
	require.Equal(t, 3, l.poller, "lists go on as they are")
	require.Empty(t, emitted, "nothing to tell before there is a picture")
}

type noPush struct{ Pusher }
