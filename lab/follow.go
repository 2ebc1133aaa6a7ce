package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// follow keeps what runs to what the stack files say, until ctx ends; with Once it
// asks every route once instead.
func (l *lab) follow(ctx context.Context) error {
	told := l.tellProblems(nil)
	if l.o.Once {
		return l.tryAll(ctx)
	}
	fmt.Fprintln(l.progress, honesty)
	fmt.Fprintf(l.progress, "Saved changes of %s are live at once. Ctrl-C ends it.\n", list(l.o.Files))
	first, shown := true, l.rows()
	return l.files.Run(ctx, func(u watcher.Update) {
		if u.Err != nil {
			fmt.Fprintf(l.progress, "%s: what ran before stays: %v\n", time.Now().Format(time.TimeOnly), u.Err)
			return
		}
		for _, f := range l.files.Findings() {
			if !first {
				fmt.Fprintln(l.progress, f)
			}
		}
		before := l.src.Picture()
		if err := l.src.Apply(u.Picture); err != nil {
			fmt.Fprintf(l.progress, "%s: %v\n", time.Now().Format(time.TimeOnly), err)
		}
		if after := l.src.Picture(); after != before && !first {
			fmt.Fprintf(l.progress, "%s: applied (%s)\n", time.Now().Format(time.TimeOnly), difference(before, after))
			rows := l.rows()
			for _, r := range rows {
				if !slices.ContainsFunc(shown, func(o row) bool { return o.try() == r.try() && slices.Equal(o.services, r.services) }) {
					fmt.Fprintf(l.progress, "          %s: %s\n", list(r.services), r.try())
				}
			}
			shown = rows
		}
		first = false
		told = l.tellProblems(told)
	})
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
		got, err := ask(ctx, r.addr, host, r.path)
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
