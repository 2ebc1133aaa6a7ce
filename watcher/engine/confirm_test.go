package engine

import (
	"testing"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
	"github.com/waggle-lb/waggle/watcher/watchtest"
)

// Whoever doubts what was told has a complete list soon, although nothing happened.
func TestConfirm(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	source := New(quick(d)) // its next full list would come in an hour
	w := watchtest.Start(t, source)
	w.Until("the first full list", func(u watcher.Update) bool { return u.Full })
	for range 2 {
		source.Confirm()
		source.Confirm()
		w.Until("another full list", func(u watcher.Update) bool { return u.Full && u.Changes.Empty() })
	}
}
