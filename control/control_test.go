package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// board is a Publisher that remembers what it was given, and when.
type board struct {
	mu          sync.Mutex
	collections []string
	published   []publication
}

type publication struct {
	at    time.Time
	delta translate.Delta
}

func (b *board) SetCollections(names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.collections = names
}

func (b *board) Publish(d translate.Delta) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, publication{time.Now(), d})
	return nil
}

// take gives what was published since the last take.
func (b *board) take() []publication {
	b.mu.Lock()
	defer b.mu.Unlock()
	ps := b.published
	b.published = nil
	return ps
}

// changed lists the kinds and names in publications.
func changed(ps []publication) (names []string) {
	for _, p := range ps {
		for _, c := range p.delta.Changes {
			verb := "put"
			if c.Resource == nil {
				verb = "gone"
			}
			names = append(names, fmt.Sprintf("%s %s %s", verb, c.Kind, c.Name))
		}
	}
	return names
}

// swarm makes pictures with services that each have one task.
type swarm struct{ p watcher.Picture }

func newSwarm(names ...string) *swarm {
	s := &swarm{watcher.Picture{
		Services: map[string]*watcher.Service{}, Tasks: map[string][]*watcher.Task{},
		Nodes:    map[string]*watcher.Node{"n1": {ID: "n1", Hostname: "n1", Addr: netip.MustParseAddr("10.9.0.1")}},
		Networks: map[string]*watcher.Network{"net": {ID: "net", Name: "edge"}},
	}}
	for _, n := range names {
		s.service(n)
		s.task(n, 1)
	}
	return s
}

func (s *swarm) service(name string) {
	s.p.Services[name] = &watcher.Service{
		ID: name, Name: name, Version: 1, Mode: watcher.Replicated, Replicas: 1, Networks: []string{"net"},
		Labels: map[string]string{"com.docker.lb.hosts": name + ".example.com", "com.docker.lb.port": "8080"},
	}
}

func (s *swarm) task(name string, host byte) {
	s.p.Tasks[name] = []*watcher.Task{{
		ID: fmt.Sprintf("%s.%d", name, host), ServiceID: name, NodeID: "n1", Slot: 1,
		State: watcher.Running, Desired: watcher.Running,
		Addresses: []watcher.Address{{Network: "net", Addr: netip.AddrFrom4([4]byte{10, 0, 0, host})}},
	}}
}

// update is the swarm as it is now, as one step of a source.
func (s *swarm) update(ch watcher.Changes) watcher.Update {
	p := s.p
	p.Services, p.Tasks = clone(p.Services), clone(p.Tasks)
	return watcher.Update{Picture: &p, Changes: ch, Full: true, At: time.Now()}
}

func clone[V any](m map[string]V) map[string]V {
	c := make(map[string]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func set(names ...string) map[string]struct{} {
	m := map[string]struct{}{}
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}

// running starts a loop inside a synctest bubble, where time stands still until everybody waits.
func running(t *testing.T, cfg *config.Config) (*Control, *board) {
	t.Helper()
	b := &board{}
	c := New(cfg, b, Pace{Tasks: 30 * time.Millisecond, Structure: 100 * time.Millisecond, MaxStructure: time.Second}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return c, b
}

func TestNothingIsPublishedBeforeTheFirstCompletePicture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections([]string{"dev"}))
		c.Update(watcher.Update{Err: errors.New("no such socket")})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, b.take())
		require.Equal(t, []string{"default", "dev"}, b.collections)
		require.False(t, c.Status().Ready)
		require.EqualError(t, c.Status().SourceError, "no such socket")

		c.Update(newSwarm("a").update(watcher.Changes{All: true}))
		synctest.Wait()
		ps := b.take()
		require.Len(t, ps, 2, "both collections are told, also that nothing is in one")
		require.True(t, c.Status().Ready)
		require.NoError(t, c.Status().SourceError)
		require.Contains(t, changed(ps), "put clusters a:8080")
	})
}

func TestAFailedReadChangesNothingAndShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections(nil))
		u := newSwarm("a").update(watcher.Changes{All: true})
		c.Update(u)
		synctest.Wait()
		require.NotEmpty(t, b.take())

		read := c.Status().LastRead
		time.Sleep(time.Minute)
		c.Update(watcher.Update{Picture: u.Picture, Err: errors.New("500"), At: read})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, b.take())
		require.EqualError(t, c.Status().SourceError, "500")
		require.Equal(t, read, c.Status().LastRead)
		require.True(t, c.Status().Ready, "what is served stays served")
		require.Equal(t, 1.0, gaugeValue(t, c, "waggle_source_stale"))

		c.Update(watcher.Update{Picture: u.Picture, At: time.Now()})
		synctest.Wait()
		require.NoError(t, c.Status().SourceError)
		require.Equal(t, 0.0, gaugeValue(t, c, "waggle_source_stale"))
	})
}

func TestTheFirstChangeIsPublishedAtOnceAndTheNextAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections(nil))
		s := newSwarm("a", "b")
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Second) // quiet
		synctest.Wait()
		b.take()

		start := time.Now()
		for host := byte(10); host < 20; host++ { // ten changes, one millisecond apart
			s.task("a", host)
			c.Update(s.update(watcher.Changes{Tasks: set("a")}))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		ps := b.take()
		require.Len(t, ps, 2)
		require.Zero(t, ps[0].at.Sub(start), "leading edge")
		require.Equal(t, 30*time.Millisecond, ps[1].at.Sub(start), "the other nine together")
		require.Equal(t, []string{"put endpoints a:8080", "put endpoints a:8080"}, changed(ps))
	})
}

func TestTasksDoNotWaitForStructure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections(nil))
		s := newSwarm("a")
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		b.take()
		start := time.Now() // a structural build has just ended

		s.service("new")
		s.task("new", 50)
		c.Update(s.update(watcher.Changes{Services: set("new"), Tasks: set("new")}))
		s.task("a", 60)
		c.Update(s.update(watcher.Changes{Tasks: set("a")}))
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		ps := b.take()
		require.Len(t, ps, 1)
		require.Equal(t, 30*time.Millisecond, ps[0].at.Sub(start))
		require.Equal(t, []string{"put endpoints a:8080"}, changed(ps), "the new service waits, the task does not")

		time.Sleep(time.Second)
		synctest.Wait()
		ps = b.take()
		require.Len(t, ps, 1)
		require.Equal(t, 100*time.Millisecond, ps[0].at.Sub(start))
		require.Equal(t, []string{"put clusters new:8080", "put endpoints new:8080", "put routes http"}, changed(ps))
		var found bool
		for _, ch := range ps[0].delta.Changes {
			if ch.Kind == translate.Endpoints {
				text := fmt.Sprint(ch.Resource.Message)
				require.Contains(t, text, "10.0.0.50", "its task, told before its structure was built, is not lost")
				found = true
			}
		}
		require.True(t, found)
	})
}

func TestAnUnchangedPictureCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections(nil))
		s := newSwarm("a")
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		b.take()
		for range 100 {
			c.Update(s.update(watcher.Changes{}))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		require.Empty(t, b.take())
	})
}

func TestAnotherConfigurationIsTranslatedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b := running(t, config.ForCollections(nil))
		s := newSwarm("a")
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		b.take()

		c.Reconfigure(config.ForCollections([]string{"prod"}))
		synctest.Wait()
		require.Equal(t, []string{"default", "prod"}, b.collections)
		ps := b.take()
		var of []string
		for _, p := range ps {
			of = append(of, p.delta.Collection)
		}
		require.Contains(t, of, "prod", "a new collection is told what is in it")
	})
}

func TestQueriesAreAnsweredBetweenBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		c := New(config.ForCollections(nil), b, DefaultPace, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		c.Update(newSwarm("a").update(watcher.Changes{All: true}))
		clusters := 0
		require.NoError(t, c.Query(t.Context(), func(tb *translate.Builder) { clusters = len(tb.Resources("default")[translate.Cluster]) }))
		require.Equal(t, 1, clusters)
		cancel()
		require.NoError(t, <-ended)
		require.ErrorIs(t, c.Query(t.Context(), func(*translate.Builder) {}), ErrStopped)
		c.Update(watcher.Update{}) // and nobody hangs
		c.Reconfigure(config.ForCollections(nil))
	})
}

func TestPaceGrowsWithTheTable(t *testing.T) {
	p := DefaultPace
	require.Equal(t, 100*time.Millisecond, p.structure(10))
	require.Equal(t, 100*time.Millisecond, p.structure(1000))
	require.Equal(t, 500*time.Millisecond, p.structure(5000))
	require.Equal(t, time.Second, p.structure(100000))
}

func gaugeValue(t *testing.T, c *Control, name string) float64 {
	t.Helper()
	fams, err := gatherer(t, c).Gather()
	require.NoError(t, err)
	for _, f := range fams {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

func gatherer(t *testing.T, c *Control) prometheus.Gatherer {
	t.Helper()
	r := prometheus.NewRegistry()
	require.NoError(t, r.Register(c))
	return r
}
