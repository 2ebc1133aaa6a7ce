package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

func TestWhatIsTooMuchForOneLook(t *testing.T) {
	for _, c := range []struct {
		was, is Size
		want    bool
	}{
		{Size{0, 0}, Size{0, 0}, false},
		{Size{1, 1}, Size{1, 1}, false},
		{Size{1, 1}, Size{0, 0}, true},
		{Size{4, 4}, Size{4, 0}, true},
		{Size{4, 0}, Size{0, 0}, true},
		{Size{4, 4}, Size{1, 1}, false},   // more than half, and not five
		{Size{10, 10}, Size{5, 5}, false}, // five, and not more than half
		{Size{10, 10}, Size{4, 10}, true},
		{Size{10, 10}, Size{10, 4}, true},
		{Size{100, 100}, Size{51, 50}, false},
		{Size{4, 4}, Size{9, 9}, false},
	} {
		require.Equal(t, c.want, shrunk(c.was, c.is), "%v", c)
	}
}

// many are the names of n services, and what changed when all of them did.
func many(n int) (names []string, changes watcher.Changes) {
	for i := range n {
		names = append(names, fmt.Sprintf("s%02d", i))
	}
	return names, watcher.Changes{Services: set(names...), Tasks: set(names...)}
}

// guarded is a loop in service, of n services with one task each, that counts how often
// another list was asked for.
func guarded(t *testing.T, n int) (c *Control, b *board, s *swarm, asked *int) {
	t.Helper()
	b, asked = &board{}, new(int)
	c = New(config.ForCollections(nil), b, DefaultPace, slog.New(slog.DiscardHandler))
	c.OnHeld(func() { *asked++ })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	names, _ := many(n)
	s = newSwarm(names...)
	c.Update(s.update(watcher.Changes{All: true}))
	later()
	require.NotEmpty(t, b.take())
	return c, b, s, asked
}

// later is when everything that is going to be built is built.
func later() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

// partial is a step that is no complete list.
func (s *swarm) partial(ch watcher.Changes) watcher.Update {
	u := s.update(ch)
	u.Full = false
	return u
}

func TestWhatGoesToNothingNeedsASecondList(t *testing.T) {
	for _, first := range []bool{false, true} { // whether a complete list is the first to miss it
		synctest.Test(t, func(t *testing.T) {
			c, b, s, asked := guarded(t, 2)
			_, all := many(2)
			was := s.p
			s.p.Services, s.p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
			gone := s.update(all)
			gone.Full = first
			since := time.Now()
			c.Update(gone)
			later()
			require.Empty(t, b.take())
			require.Equal(t, 1, *asked)
			require.Equal(t, []Held{{Collection: "default", Since: since, Was: Size{2, 2}}}, c.Status().Held)
			require.Equal(t, "2 of 2 hosts and 2 of 2 endpoints would go: a second complete list of what runs must confirm it", c.Status().Held[0].Reason())
			require.Equal(t, 1.0, gaugeValue(t, c, "waggle_held_back"))

			c.Update(s.partial(watcher.Changes{})) // no complete list
			later()
			require.Empty(t, b.take())

			builds := c.Status().Builds
			c.Update(s.update(watcher.Changes{}))
			synctest.Wait()
			require.ElementsMatch(t, []string{"gone clusters s00:8080", "gone clusters s01:8080", "gone endpoints s00:8080", "gone endpoints s01:8080", "put routes http"}, changed(b.take()))
			require.Empty(t, c.Status().Held)
			require.Equal(t, builds+1, c.Status().Builds, "whoever shows what is served looks again")
			require.Equal(t, 0.0, gaugeValue(t, c, "waggle_held_back"))

			s.p = was // and it comes back without asking
			c.Update(s.partial(all))
			later()
			require.Len(t, changed(b.take()), 5)
		})
	}
}

func TestWhatComesBackNeverWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, _ := guarded(t, 12)
		_, all := many(12)
		was := s.p
		s.p.Services, s.p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
		c.Update(s.update(all))
		later()
		s.p = was
		// Tasks are built before the structure that they belong to, and a list agrees meanwhile.
		c.Update(s.partial(all))
		c.Update(s.update(watcher.Changes{}))
		later()
		require.Empty(t, c.Status().Held)
		for _, p := range b.take() {
			for _, ch := range p.delta.Changes {
				require.NotNil(t, ch.Resource, "%s %s was taken away for a moment", ch.Kind, ch.Name)
				if ch.Kind == translate.Endpoints {
					require.Positive(t, ch.Resource.Addresses())
				}
			}
		}
	})
}

func TestHalfOfTheEndpointsNeedsASecondList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, _ := guarded(t, 10)
		names, _ := many(10)
		for _, n := range names[:6] {
			delete(s.p.Tasks, n)
		}
		c.Update(s.partial(watcher.Changes{Tasks: set(names[:6]...)}))
		later()
		require.Empty(t, b.take())
		require.Equal(t, Size{10, 4}, c.Status().Held[0].Is)

		// What does not get smaller is not held back: running tasks are found.
		s.task("s09", 99)
		c.Update(s.partial(watcher.Changes{Tasks: set("s09")}))
		later()
		require.Equal(t, []string{"put endpoints s09:8080"}, changed(b.take()))
		require.Len(t, c.Status().Held, 1)

		// One task more, and it is no longer too much.
		s.task("s00", 98)
		c.Update(s.partial(watcher.Changes{Tasks: set("s00")}))
		later()
		got := changed(b.take())
		require.Subset(t, got, []string{"put endpoints s00:8080", "put endpoints s01:8080", "put endpoints s05:8080"})
		require.NotContains(t, got, "put endpoints s06:8080")
		require.Empty(t, c.Status().Held)
	})
}

// A list that misses still more confirms what was missed before, and not the rest.
func TestEachLookConfirmsWhatWasSeenBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, asked := guarded(t, 20)
		names, _ := many(20)
		lose := func(names []string) watcher.Changes {
			for _, n := range names {
				delete(s.p.Services, n)
				delete(s.p.Tasks, n)
			}
			return watcher.Changes{Services: set(names...), Tasks: set(names...)}
		}
		c.Update(s.update(lose(names[:12])))
		later()
		c.Update(s.update(lose(names[12:])))
		later()
		require.Empty(t, b.take())
		require.Equal(t, 2, *asked)
		require.Equal(t, Size{}, c.Status().Held[0].Is)
		c.Update(s.update(watcher.Changes{}))
		later()
		require.Len(t, changed(b.take()), 41)
	})
}

// A complete list that agrees before anything is built has confirmed it already.
func TestAListThatCameBeforeTheBuildConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, asked := guarded(t, 10)
		names, all := many(10)
		c.Update(s.partial(watcher.Changes{Services: set(names[0])})) // the next one is gathered
		synctest.Wait()
		b.take()
		s.p.Services, s.p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
		start := time.Now()
		c.Update(s.partial(watcher.Changes{Services: all.Services}))
		c.Update(s.update(watcher.Changes{}))
		later()
		ps := b.take()
		require.Len(t, changed(ps), 21)
		require.Equal(t, DefaultPace.Structure, ps[0].at.Sub(start))
		require.Zero(t, *asked)
	})
}

// Stack files and the lab say what is meant, and so does the operator.
func TestWhatIsMeantIsNotGuarded(t *testing.T) {
	for name, prepare := range map[string]func(*watcher.Picture){
		"stack files": func(p *watcher.Picture) { p.Static = true },
		"the lab":     func(p *watcher.Picture) { p.Loopback = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, b, s, asked := guarded(t, 6)
				prepare(&s.p)
				c.Update(s.update(watcher.Changes{All: true}))
				later()
				b.take()
				_, all := many(6)
				s.p.Services, s.p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
				c.Update(s.update(all))
				later()
				require.Contains(t, changed(b.take()), "gone clusters s00:8080")
				require.Empty(t, c.Status().Held)
				require.Zero(t, *asked)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, b, _, asked := guarded(t, 6)
		cfg := config.ForCollections(nil)
		cfg.LabelPrefixes = []string{"com.example.other"}
		c.Reconfigure(cfg)
		later()
		require.Contains(t, changed(b.take()), "gone clusters s00:8080")
		require.Empty(t, c.Status().Held)
		require.Zero(t, *asked)
	})
}

// Whatever happens, what was given is what the tally says, and in the end everything is given.
func TestTheTallyIsWhatWasGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, _ := guarded(t, 8)
		names, all := many(8)
		full := s.p
		full.Services, full.Tasks = maps.Clone(full.Services), maps.Clone(full.Tasks)
		given := map[string]bool{}
		for _, n := range names {
			given[n+":8080"] = true
		}
		for i, keep := range []int{0, 8, 2, 3, 0, 5, 1, 8, 4, 0} {
			s.p.Services, s.p.Tasks = map[string]*watcher.Service{}, map[string][]*watcher.Task{}
			for _, n := range names[:keep] {
				s.p.Services[n], s.p.Tasks[n] = full.Services[n], full.Tasks[n]
			}
			c.Update(s.partial(all))
			for range i % 3 {
				later()
				c.Update(s.update(watcher.Changes{}))
			}
		}
		later()
		c.Update(s.update(watcher.Changes{}))
		later()
		c.Update(s.update(watcher.Changes{}))
		later()
		require.Empty(t, c.Status().Held)
		for _, p := range b.take() {
			for _, ch := range p.delta.Changes {
				if ch.Kind == translate.Cluster {
					given[ch.Name] = ch.Resource != nil
				}
			}
		}
		require.NotContains(t, slices.Collect(maps.Values(given)), true)
	})
}
