// Package watchtest runs a source in a test and holds every update that it emits
// to what watcher.Source and watcher.Update promise.
package watchtest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// patience bounds the wait for an update.
const patience = 10 * time.Second

// Watch is a running source.
type Watch struct {
	// Last is the newest update that was taken.
	Last watcher.Update
	// Stop ends the source; a test's end does too.
	Stop func()

	t       *testing.T
	updates chan watcher.Update
}

// Start runs a source until the test ends.
func Start(t *testing.T, s watcher.Source) *Watch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &Watch{t: t, updates: make(chan watcher.Update, 10_000)}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(u watcher.Update) { w.updates <- u }) }()
	w.Stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(w.Stop)
	return w
}

// Until takes updates up to one that is as wanted.
func (w *Watch) Until(what string, ok func(watcher.Update) bool) watcher.Update {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case u := <-w.updates:
			w.check(u)
			w.Last = u
			if ok(u) {
				return u
			}
		case <-deadline:
			require.FailNowf(w.t, "it did not come to this", "%s; last update: %+v", what, w.Last)
		}
	}
}

// check is the contract.
func (w *Watch) check(u watcher.Update) {
	w.t.Helper()
	if u.Err != nil {
		require.NotContains(w.t, u.Err.Error(), "\n")
		require.Contains(w.t, u.Err.Error(), "; ", "a sentence and the way out")
	} else {
		require.NotNil(w.t, u.Picture)
	}
	if u.Picture == nil {
		require.Nil(w.t, w.Last.Picture, "a picture that was told stays")
		require.True(w.t, u.Changes.Empty())
		require.False(w.t, u.Full)
		return
	}
	require.Equal(w.t, watcher.Diff(w.Last.Picture, u.Picture), u.Changes, "no other change than what could be read")
	require.False(w.t, u.At.IsZero(), "the time of the last success")
	if u.Changes.Empty() && w.Last.Picture != nil {
		require.Same(w.t, w.Last.Picture, u.Picture, "nothing new is the same picture")
	}
}

// Picture waits for one that is as wanted, whether or not something else cannot be read.
func (w *Watch) Picture(what string, ok func(*watcher.Picture) bool) watcher.Update {
	w.t.Helper()
	return w.Until(what, func(u watcher.Update) bool { return u.Picture != nil && ok(u.Picture) })
}

// Fails waits for an error that says so.
func (w *Watch) Fails(with string) watcher.Update {
	w.t.Helper()
	return w.Until("an error with "+with, func(u watcher.Update) bool { return u.Err != nil && strings.Contains(u.Err.Error(), with) })
}

// Tasks lists the tasks of a service as "id:ready", "id:leaving" or "id:coming".
func Tasks(p *watcher.Picture, service string) (out []string) {
	for _, t := range p.Tasks[service] {
		is := "coming"
		switch {
		case t.Ready():
			is = "ready"
		case t.Leaving():
			is = "leaving"
		}
		out = append(out, t.ID+":"+is)
	}
	return out
}
