package lab

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/lab/load"
)

// story is the demo's: what happens in a Swarm, one thing after the other, under live load.
type story struct {
	*lab
	out     io.Writer
	traffic *traffic
	steps   int
	failed  []string // titles of steps
}

// step is one of them while it runs.
type step struct {
	facts []string
}

// say adds a line that the visitor reads under the step's title.
func (s *step) say(format string, args ...any) {
	s.facts = append(s.facts, fmt.Sprintf(format, args...))
}

// tellStory runs the demo's story, and then stays for the visitor unless it is told once.
func (l *lab) tellStory(ctx context.Context) error {
	out := l.o.Stdout
	if l.o.Format == "json" {
		out = l.progress
	}
	if err := l.announce(); err != nil {
		return err
	}
	traffic, err := startTraffic(ctx, l.addresses, l.authority, l.o.Rate)
	if err != nil {
		return err
	}
	defer traffic.stop()
	s := &story{lab: l, out: out, traffic: traffic}
	began := traffic.mark()
	start := time.Now()

	fmt.Fprintf(out, "The story. All the while %.0f requests a second go to each of %s.\n\n", l.o.Rate, list(s.collections()))
	for _, chapter := range []struct {
		title string
		run   func(context.Context, *step) error
	}{
		{"Everything answers, and a canary takes its share", s.everythingAnswers},
		{"A service appears", s.appears},
		{"Rolling update, start-first", s.startFirst},
		{"Rolling update, stop-first", s.stopFirst},
		{"Scaled up and down", s.scales},
		{"A task dies without warning", s.dies},
		{"A bad label", s.badLabel},
		{"A label that would take another team's host", s.takesHost},
		{"One collection's hosts are unknown to the others", s.isolated},
		{"The same host in three collections is three services", s.sameHost},
		{"The control plane is killed and started again", s.restarted},
	} {
		s.chapter(ctx, chapter.title, chapter.run)
		if ctx.Err() == nil {
			continue
		}
		if l.o.Once {
			return fmt.Errorf("%w: it was interrupted at %q", ErrStory, chapter.title)
		}
		return nil // Ctrl-C: the visitor has seen enough
	}
	traffic.stop()
	total := load.Merge(slices.Collect(maps.Values(traffic.since(began)))...)
	s.summary(total, time.Since(start))

	if l.o.Once {
		if len(s.failed) > 0 {
			return fmt.Errorf("%w: %s", ErrStory, strings.Join(s.failed, "; "))
		}
		return nil
	}
	if err := s.stay(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// chapter runs one step and tells how it went, unless ctx ended meanwhile.
func (s *story) chapter(ctx context.Context, title string, run func(context.Context, *step) error) {
	s.steps++
	st := &step{}
	m := s.traffic.mark()
	err := run(ctx, st)
	if err == nil {
		err = s.settle(ctx, m)
	}
	if ctx.Err() != nil {
		return
	}
	byCollection := s.traffic.since(m)
	total := load.Merge(slices.Collect(maps.Values(byCollection))...)
	sign := "✓"
	if err != nil || total.Failed > 0 {
		sign = "✗"
		s.failed = append(s.failed, title)
	}
	fmt.Fprintf(s.out, "%s %2d  %s\n", sign, s.steps, title)
	for _, f := range st.facts {
		fmt.Fprintf(s.out, "      %s\n", f)
	}
	if err != nil {
		fmt.Fprintf(s.out, "      FAILED: %v\n", err)
	}
	var counts []string
	for _, name := range s.collections() {
		counts = append(counts, fmt.Sprintf("%s %d", name, byCollection[name].Requests))
	}
	fmt.Fprintf(s.out, "      %d requests (%s), %d failed, p50 %s, p99 %s\n",
		total.Requests, strings.Join(counts, ", "), total.Failed, milliseconds(total.P50), milliseconds(total.P99))
	for _, f := range total.Failures[:min(3, len(total.Failures))] {
		fmt.Fprintf(s.out, "      failed: %v\n", f)
	}
	fmt.Fprintln(s.out)
}

// settle lets what a step did show in the load: half a second's worth of requests more, in
// every collection.
func (s *story) settle(ctx context.Context, m moment) error {
	return s.requests(ctx, m, uint64(s.o.Rate/2))
}

// requests waits until every collection has finished n requests more than it has now.
func (s *story) requests(ctx context.Context, m moment, n uint64) error {
	want := map[string]uint64{}
	for name, r := range s.traffic.since(m) {
		want[name] = r.Requests + n
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return await(ctx, "the load to go on", func() (bool, error) {
		for name, r := range s.traffic.since(m) {
			if r.Requests < want[name] {
				return false, nil
			}
		}
		return true, nil
	})
}

// honesty is what the lab cannot show.
const honesty = "Here a dead task refuses connections at once, where a Swarm's overlay network swallows them:\n" +
	"that nothing gets lost there either is shown on a real Swarm (make swarm-lab)."

func (s *story) summary(total load.Report, took time.Duration) {
	fmt.Fprintf(s.out, "%d of %d steps went well in %s: %d requests, %.0f a second, %d failed.\n",
		s.steps-len(s.failed), s.steps, took.Round(time.Second), total.Requests, total.Rate(), total.Failed)
	fmt.Fprintln(s.out, honesty)
}

// stay prints the table again, for the visitor.
func (s *story) stay() error {
	if err := s.printTable(s.out); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Everything stays up: try the lines above. Ctrl-C ends it.\n")
	return nil
}

func (s *story) collections() []string {
	var names []string
	for _, a := range s.addresses {
		names = append(names, a.collection)
	}
	return names
}

// proxy is where a collection is asked.
func (l *lab) proxy(collection string) string {
	for _, a := range l.addresses {
		if a.collection == collection {
			return a.http.String()
		}
	}
	return ""
}

// secure is where a collection is asked over TLS.
func (l *lab) secure(collection string) string {
	for _, a := range l.addresses {
		if a.collection == collection {
			return a.https.String()
		}
	}
	return ""
}

// await waits for cond, whose error ends it.
func await(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// milliseconds writes a latency as people read it.
func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// list joins names as a sentence does.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
