package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// follow keeps what runs to what the stack files say, until ctx ends; with Once it
// asks every route once instead.
func (l *lab) follow(ctx context.Context) error {
	if l.o.Once {
		if err := l.announce(); err != nil {
			return err
		}
		l.tellProblems(nil)
		return l.tryAll(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex // one of the two below at a time
	var announced error
	var told []translate.Problem
	var shown []row
	first := true

	// What is behind guards and certificates may change without a stack file. It is
	// followed, not read anew each time: what a broken version of a file is told of
	// depends on the one before.
	again := make(chan struct{}, 1)
	behind := secrets.NewWatch(l.cfg, secrets.Options{}, func(m *secrets.Material) {
		l.material.Store(m)
		select {
		case again <- struct{}{}:
		default:
		}
	})
	behind.Look()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { behind.Run(ctx) })
	watching.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-again:
			}
			mu.Lock()
			if !first {
				told = l.tellProblems(told)
			}
			mu.Unlock()
		}
	})

	err := l.files.Run(ctx, func(u watcher.Update) {
		behind.Declare(u.Picture)
		mu.Lock()
		defer mu.Unlock()
		if u.Err != nil {
			l.now("what ran before stays: %v", u.Err)
			return
		}
		before := l.src.Picture()
		if err := l.src.Apply(u.Picture); err != nil {
			l.now("%v", err)
		}
		after, rows := l.src.Picture(), l.rows()
		switch {
		case first: // from now on saved changes are seen
			if announced = l.announce(); announced != nil {
				cancel()
			}
			fmt.Fprintln(l.progress, honesty)
			fmt.Fprintf(l.progress, "Saved changes of %s are live at once. Ctrl-C ends it.\n", list(l.o.Files))
		case after != before:
			l.now("applied (%s)", difference(before, after))
			for _, f := range l.files.Findings() {
				fmt.Fprintln(l.progress, f)
			}
			l.tellNew(shown, rows)
		}
		first, shown = false, rows
		told = l.tellProblems(told)
	})
	return errors.Join(announced, err)
}

// now tells something with the time of day.
func (l *lab) now(format string, args ...any) {
	fmt.Fprintf(l.progress, "%s: %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// tellNew prints what can be tried now and could not before.
func (l *lab) tellNew(before, now []row) {
	for _, r := range now {
		if !slices.ContainsFunc(before, func(o row) bool { return o.try() == r.try() && slices.Equal(o.services, r.services) }) {
			fmt.Fprintf(l.progress, "          %s: %s\n", list(r.services), r.try())
		}
	}
}

// tellProblems prints problems that were not told yet, and gives all there are.
func (l *lab) tellProblems(told []translate.Problem) []translate.Problem {
	now := l.built().Problems()
	for _, p := range now {
		if !slices.Contains(told, p) {
			fmt.Fprintln(l.progress, tell(p))
		}
	}
	return slices.Clone(now)
}

// difference says which services are others than before.
func difference(before, after *watcher.Picture) string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(after.Services)) {
		switch was := before.Services[id]; {
		case was == nil:
			parts = append(parts, "new: "+after.Services[id].Name)
		case was != after.Services[id]:
			parts = append(parts, "changed: "+after.Services[id].Name)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before.Services)) {
		if after.Services[id] == nil {
			parts = append(parts, "gone: "+before.Services[id].Name)
		}
	}
	if len(parts) == 0 {
		return "tasks only"
	}
	return list(parts)
}

// tryAll asks every route once.
func (l *lab) tryAll(ctx context.Context) error {
	bad := 0
	for _, r := range l.rows() {
		host := r.host
		if host == "*" {
			host = "anything.example.com"
		}
		if r.client {
			fmt.Fprintf(l.progress, "- %s: asks for a certificate of the client, and the lab has none\n", r.url())
			continue
		}
		got, err := l.ask(ctx, r, host)
		switch {
		case err != nil:
			fmt.Fprintf(l.progress, "✗ %s: %v\n", r.url(), err)
		case got.status != 200 || !slices.Contains(r.services, got.service):
			fmt.Fprintf(l.progress, "✗ %s: %v\n", r.url(), got)
		default:
			fmt.Fprintf(l.progress, "✓ %s: %v\n", r.url(), got)
			continue
		}
		bad++
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d routes do not answer", ErrStory, bad)
	}
	return nil
}
