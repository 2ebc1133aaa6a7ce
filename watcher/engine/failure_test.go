package engine

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

// Every way in which a list can fail leaves the last picture, says so, and passes.
func TestAFailedListIsNeverAPicture(t *testing.T) {
	tests := []struct {
		name string
		bad  fakedocker.Middleware
		says string
	}{
		{"500", fakedocker.Refuse(500, "rpc error: code = Unknown desc = no leader"), "no leader"},
		{"503", fakedocker.Refuse(503, "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."), "is not a Swarm manager"},
		{"quorum lost", fakedocker.Refuse(503, "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster."), "has lost the cluster"},
		{"locked", fakedocker.Refuse(503, "Swarm is encrypted and needs to be unlocked before it can be used."), "docker swarm unlock"},
		{"a truncated answer", fakedocker.Truncate, "broke off in the middle"},
		{"an empty answer", fakedocker.Say(""), "look at the daemon's log"},
		{"not JSON", fakedocker.Say("<html>"), "broke off in the middle"},
		{"another JSON", fakedocker.Say(`{"a":1}`), "look at the daemon's log"},
		{"an entry without its ID", fakedocker.Say(`[{}]`), "without an ID"},
		{"nothing at all", fakedocker.Hang, "did not answer within"},
	}
	for _, tt := range tests {
		for _, path := range []string{"/tasks", "/services", "/nodes", "/networks"} {
			t.Run(tt.name+path, func(t *testing.T) {
				t.Parallel()
				d := fakedocker.Start(t)
				d.PutService("web", nil)
				d.PutNetwork("net", nil)
				d.PutTask("web", "t", nil)
				o := quick(d)
				o.Timing.Timeout = 200 * time.Millisecond
				if tt.name != "nothing at all" {
					o.Timing.Timeout = 5 * time.Second
				}
				w := start(t, o)
				good := w.Picture("the first picture", func(p *watcher.Picture) bool { return has(p, "web", "t:ready") })

				d.Between(path, tt.bad)
				d.CutEvents() // a full list follows
				u := w.Fails("")
				if !strings.Contains(u.Err.Error(), tt.says) && tt.says != "look at the daemon's log" {
					u = w.Fails(tt.says)
				}
				require.Contains(t, u.Err.Error(), d.Host())
				require.Same(t, good.Picture.Services["web"], u.Picture.Services["web"])
				require.True(t, has(u.Picture, "web", "t:ready"))
				require.Len(t, u.Picture.Nodes, 1)
				require.Len(t, u.Picture.Networks, 1)

				d.Between(path, nil)
				d.PutService("after", nil)
				w.Picture("all well again", func(p *watcher.Picture) bool { return p.Services["after"] != nil })
			})
		}
	}
}

// While the structure cannot be read, tasks are followed all the same, and the error stays visible.
func TestTasksAreFollowedWhileTheStructureFails(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutTask("web", "a", nil)
	w := start(t, quick(d))
	w.Picture("the first picture", func(p *watcher.Picture) bool { return has(p, "web", "a:ready") })
	d.Between("/configs", fakedocker.Refuse(500, "too large"))
	d.CutEvents()
	at := w.Fails("too large").At
	require.False(t, at.IsZero())
	d.Want("a", swarm.TaskStateShutdown)
	w.Picture("the task leaving", func(p *watcher.Picture) bool { return has(p, "web", "a:leaving") })
	require.Equal(t, at, w.Fails("too large").At, "the time of the last success")
	d.Between("/configs", nil)
	w.Until("all well again", func(u watcher.Update) bool { return u.Err == nil && u.Full })
}

// Docker answers with the networks of its own node alone when it has no leader to
// ask. That is half a list, and Docker does not say so.
func TestHalfAListOfNetworksIsSeen(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutNetwork("net", nil)
	d.PutService("web", func(s *swarm.Service) {
		s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "net"}}
	})
	w := start(t, quick(d))
	w.Picture("the first picture", func(p *watcher.Picture) bool { return p.Networks["net"] != nil })
	d.Between("/networks", fakedocker.Say("[]"))
	d.CutEvents()
	u := w.Fails("the list lacks net, which service web is on")
	require.Contains(t, u.Picture.Networks, "net")
	d.Between("/networks", nil)
	w.Until("all well again", func(u watcher.Update) bool { return u.Err == nil && u.Full })

	d.RemoveService("web")
	d.RemoveNetwork("net")
	w.Picture("a network that nobody is on may go", func(p *watcher.Picture) bool { return p.Networks["net"] == nil })
}

func TestDockerMayBeAwayAtTheStartAndLater(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.Down()
	w := start(t, quick(d))
	u := w.Fails("the socket does not exist")
	require.Nil(t, u.Picture)
	require.True(t, u.At.IsZero())
	d.Up()
	w.Picture("the first picture", func(p *watcher.Picture) bool { return p.Services["web"] != nil })

	d.Down()
	u = w.Fails("the socket does not exist")
	require.NotNil(t, u.Picture)
	require.False(t, u.At.IsZero())
	d.PutService("meanwhile", nil)
	d.Speak("1.40", "1.41") // and comes back as another version
	d.Up()
	w.Picture("what happened meanwhile", func(p *watcher.Picture) bool { return p.Services["meanwhile"] != nil })
}

func TestADemotedManager(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutNetwork("net", nil)
	w := start(t, quick(d))
	w.Picture("the first picture", func(p *watcher.Picture) bool { return p.Services["web"] != nil })
	d.Demote()
	u := w.Fails("is not a Swarm manager; run Waggle on a manager")
	require.Contains(t, u.Picture.Services, "web")
	require.Contains(t, u.Picture.Networks, "net")
	d.PutService("meanwhile", nil)
	d.Promote()
	w.Picture("all well again", func(p *watcher.Picture) bool { return p.Services["web"] != nil })
}

// Without events there are full lists, one after the other with longer pauses.
func TestWithoutEventsThereAreLists(t *testing.T) {
	d := fakedocker.Start(t)
	d.Between("/events", fakedocker.Refuse(403, "forbidden"))
	w := start(t, quick(d))
	w.Fails("forbids reading /events")
	d.PutService("web", nil)
	w.Picture("found by a list", func(p *watcher.Picture) bool { return p.Services["web"] != nil })
	w.Fails("forbids reading /events")
	d.Between("/events", nil)
	w.Until("all well again", func(u watcher.Update) bool { return u.Err == nil && u.Changes.Empty() && d.Streams() == 1 })
}

// A proxy that hides configs and secrets costs those alone, and is said once.
func TestAReadOnlyProxy(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutConfig("c", "data")
	d.PutSecret("s")
	d.Between("/configs", fakedocker.Refuse(403, "forbidden"))
	d.Between("/secrets", fakedocker.Refuse(404, "not found"))
	o := quick(d)
	var log lines
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	require.NoError(t, New(o).Check(t.Context()))
	log.take()
	w := start(t, o)
	for range 3 {
		u := w.Until("a full picture without them", func(u watcher.Update) bool { return u.Full })
		require.Empty(t, u.Picture.Configs)
		require.Empty(t, u.Picture.Secrets)
		require.Contains(t, u.Picture.Services, "web")
		d.CutEvents()
	}
	w.Stop()
	said := log.take()
	require.Len(t, said, 2)
	require.Contains(t, strings.Join(said, ""), "/configs")
	require.Contains(t, strings.Join(said, ""), "/secrets")
	for _, path := range []string{"/events", "/tasks", "/services", "/networks", "/nodes", "/configs", "/secrets", "/_ping"} {
		require.NotEmpty(t, d.Asked(path))
	}
	require.Empty(t, d.Asked("/info"))
}

// lines is a writer that keeps what is logged.
type lines struct {
	mu   sync.Mutex
	said []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, string(b))
	return len(b), nil
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.said
	l.said = nil
	return said
}
