package control

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// bringing is a loop with somebody who brings the secret "users", of a service "a" that wants it.
func bringing(t *testing.T) (c *Control, b *board, s *swarm, asked *[][]secrets.Want) {
	t.Helper()
	b = &board{}
	pace := Pace{Tasks: 30 * time.Millisecond, Structure: 100 * time.Millisecond, MaxStructure: time.Second, Names: 10 * time.Second}
	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Networks = []string{"edge"}
	c = New(cfg, b, pace, slog.New(slog.DiscardHandler))
	asked = &[][]secrets.Want{}
	c.OnWanted(func(p *watcher.Picture, w []secrets.Want) {
		require.NotNil(t, p.Secrets["users"])
		if *asked = append(*asked, w); len(*asked) == 1 {
			c.Material(fetched(secrets.Fetched{Coming: map[string]bool{"users": true}}))
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	t.Cleanup(func() { require.NoError(t, <-ended) })
	s = newSwarm("a")
	s.p.Services["a"].Labels["com.docker.lb.basic_auth"] = "users"
	s.p.Secrets = map[string]*watcher.Secret{"users": {ID: "u", Name: "users"}}
	c.Material(fetched(secrets.Fetched{}))
	return c, b, s, asked
}

func fetched(f secrets.Fetched) *secrets.Material {
	return (*secrets.Material)(nil).WithFetched(map[string]secrets.Fetched{"default": f})
}

var users = fetched(secrets.Fetched{Content: map[string]secrets.Bytes{"users": secrets.Hide([]byte("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"))}})

// The first build waits for what is on its way, and no longer than that.
func TestTheFirstBuildWaitsForWhatIsComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, asked := bringing(t)
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Second)
		s.task("a", 7)
		c.Update(s.update(watcher.Changes{Tasks: set("a")}))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, b.take())
		require.False(t, c.Status().Ready)
		want := []secrets.Want{{Collection: "default", Name: "users", Use: "a//basic_auth"}}
		require.Equal(t, [][]secrets.Want{want}, *asked)

		c.Material(users)
		synctest.Wait()
		require.Contains(t, changed(b.take()), "put routes http")
		for _, p := range c.Status().Problems {
			require.NotContains(t, p.Label, "basic_auth", p.Reason)
		}
		require.Equal(t, [][]secrets.Want{want, want}, *asked, "and again, for what is in force")
		c.Update(s.update(watcher.Changes{Tasks: set("a")}))
		time.Sleep(time.Second)
		require.Len(t, *asked, 2, "tasks want nothing")
		s.service("a")
		s.p.Services["a"].Version = 2
		c.Update(s.update(watcher.Changes{Services: set("a")}))
		synctest.Wait()
		require.Empty(t, (*asked)[2])
	})
}

func TestTheFirstBuildDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, _ := bringing(t)
		start := time.Now()
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Minute)
		synctest.Wait()
		ps := b.take()
		require.NotEmpty(t, ps)
		require.Equal(t, 10*time.Second, ps[0].at.Sub(start))
		require.Len(t, c.Status().Problems, 1)
		require.Contains(t, c.Status().Problems[0].Reason, "the courier is fetching")
		c.Material(users)
		synctest.Wait()
		require.Contains(t, changed(b.take()), "put routes http")
		require.Empty(t, c.Status().Problems)
	})
}

// The development authority is asked for where a service wants it and there is none.
func TestTheLocalCAIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		cfg := config.ForCollections(nil)
		cfg.Collections["default"].Networks = []string{"edge"}
		c := New(cfg, b, DefaultPace, slog.New(slog.DiscardHandler))
		asked := 0
		c.OnWantedLocalCA(func() { asked++ })
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		t.Cleanup(func() { require.NoError(t, <-ended) })
		s := newSwarm("a")
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		require.Zero(t, asked)
		s.p.Services["a"].Version++
		s.p.Services["a"].Labels["com.docker.lb.tls"] = "local"
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, asked)
	})
}

// A label that names something new changes nothing that is published, for as long as
// that is on its way and something was there before.
func TestANewNameIsNotMissedInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, b, s, _ := bringing(t)
		c.Update(s.update(watcher.Changes{All: true}))
		synctest.Wait()
		c.Material(users)
		time.Sleep(time.Second)
		synctest.Wait()
		table := func() (all []proto.Message) {
			for _, p := range b.take() {
				for _, c := range p.delta.Changes {
					if c.Kind == translate.Routes && c.Name == "http" {
						all = append(all, c.Resource.Message)
					}
				}
			}
			return all
		}
		was := table()
		require.Len(t, was, 1)

		content := secrets.Hide([]byte("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"))
		c.wanted = func(_ *watcher.Picture, w []secrets.Want) { // nobody else looks at it now
			require.Equal(t, []secrets.Want{{Collection: "default", Name: "new", Use: "a//basic_auth"}}, w)
			before := map[string]secrets.Item{"a//basic_auth": {Kind: secrets.Secret, Name: "users", Data: content}}
			c.Material(fetched(secrets.Fetched{Coming: map[string]bool{"new": true}, Before: before}))
		}
		s.service("a")
		s.p.Services["a"].Version = 2
		s.p.Services["a"].Labels["com.docker.lb.basic_auth"] = "new"
		s.p.Secrets = map[string]*watcher.Secret{"new": {ID: "n", Name: "new"}}
		c.Update(s.update(watcher.Changes{Services: set("a"), Shared: true}))
		time.Sleep(time.Second)
		synctest.Wait()
		is := table()
		require.Len(t, is, 1)
		require.True(t, proto.Equal(was[0], is[0]), "the same as before, and nothing else in between")
		require.Len(t, c.Status().Problems, 1)
		require.Contains(t, c.Status().Problems[0].Reason, "which was named before, is used until it is there")
	})
}

func TestMerged(t *testing.T) {
	change := func(kind translate.Kind, name string, r *translate.Resource) translate.Change {
		return translate.Change{Kind: kind, Name: name, Resource: r}
	}
	one, two := &translate.Resource{Name: "one"}, &translate.Resource{Name: "two"}
	require.Equal(t, []translate.Delta{
		{Collection: "a", Changes: []translate.Change{change(translate.Cluster, "c", two), change(translate.Secret, "c", nil), change(translate.Routes, "r", one)}},
		{Collection: "b", Changes: []translate.Change{change(translate.Cluster, "c", one)}},
	}, merged(
		[]translate.Delta{{Collection: "a", Changes: []translate.Change{change(translate.Cluster, "c", one), change(translate.Secret, "c", one), change(translate.Routes, "r", one)}}},
		[]translate.Delta{{Collection: "b", Changes: []translate.Change{change(translate.Cluster, "c", one)}}, {Collection: "a", Changes: []translate.Change{change(translate.Cluster, "c", two), change(translate.Secret, "c", nil)}}},
	))
	require.Empty(t, merged(nil, nil))
}
