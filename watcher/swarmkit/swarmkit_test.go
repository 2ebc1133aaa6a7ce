package swarmkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/swarmkit/v2/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/swarmkit/fakeswarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick has no check but those that are asked for, and gives up nothing too early on a busy machine.
func quick(m *fakeswarm.Manager) Options {
	return Options{Socket: m.Socket(), Timing: Timing{
		Timeout: 5 * time.Second, Check: time.Hour, Lag: 5 * time.Second, Grace: 5 * time.Second, Pause: time.Millisecond,
	}}
}

// following is a Follow that runs.
type following struct {
	t         *testing.T
	m         *fakeswarm.Manager
	updates   chan watcher.TaskUpdate
	questions chan uint64
	ended     chan error
	last      watcher.TaskUpdate
}

func start(t *testing.T, m *fakeswarm.Manager, o Options) *following {
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{t: t, m: m, updates: make(chan watcher.TaskUpdate, 10_000), questions: make(chan uint64, 1), ended: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		f.ended <- New(o).Follow(ctx, f.questions, func(u watcher.TaskUpdate) bool { f.updates <- u; return true })
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

// until takes updates up to one that is as wanted.
func (f *following) until(what string, ok func(watcher.TaskUpdate) bool) watcher.TaskUpdate {
	f.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case u := <-f.updates:
			if !u.Listed && f.last.Tasks != nil {
				require.NotEmpty(f.t, cmp.Diff(f.last.Tasks, u.Tasks, addrs), "an event that changed nothing is not told")
			}
			f.last = u
			if ok(u) {
				return u
			}
		case err := <-f.ended:
			require.FailNowf(f.t, "it ended", "%s: %v", what, err)
		case <-deadline:
			require.FailNowf(f.t, "it did not come to this", "%s; last: %v", what, names(f.last.Tasks))
		}
	}
}

var addrs = cmpopts.EquateComparable(netip.Addr{})

// has waits for exactly these tasks of service web.
func (f *following) has(want ...string) watcher.TaskUpdate {
	f.t.Helper()
	return f.until(fmt.Sprint(want), func(u watcher.TaskUpdate) bool { return slices.Equal(names(u.Tasks), want) })
}

func (f *following) ends() error {
	f.t.Helper()
	select {
	case err := <-f.ended:
		return err
	case <-time.After(10 * time.Second):
		require.FailNow(f.t, "it did not end")
		return nil
	}
}

// names lists the tasks of service web as "id:ready" and the like.
func names(tasks map[string][]*watcher.Task) (out []string) {
	for _, t := range tasks["web"] {
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

func TestWhatATaskIs(t *testing.T) {
	m := fakeswarm.Start(t)
	network := func(id, name string, addresses ...string) *api.NetworkAttachment {
		return &api.NetworkAttachment{Network: &api.Network{ID: id, Spec: api.NetworkSpec{Annotations: api.Annotations{Name: name}}}, Addresses: addresses}
	}
	m.Put("web", "b", func(x *api.Task) {
		x.Slot, x.NodeID = 2, "n2"
		x.Networks = []*api.NetworkAttachment{network("in", "ingress", "10.0.0.7/24"), {}, network("net", "dev", "nonsense", "10.0.1.14/24", "10.0.1.15/24")}
		x.Status.PortStatus = &api.PortStatus{Ports: []*api.PortConfig{
			{Protocol: api.ProtocolUDP, TargetPort: 9000, PublishedPort: 9001, PublishMode: api.PublishModeHost},
			{Protocol: api.ProtocolTCP, TargetPort: 80, PublishedPort: 30001, PublishMode: api.PublishModeIngress},
		}}
	})
	m.Put("web", "a", func(x *api.Task) { x.Networks = []*api.NetworkAttachment{network("h", "host")} })
	m.Put("", "attached", nil)
	m.Put("job", "job", func(x *api.Task) { x.JobIteration = &api.Version{} })
	m.Put("plugin", "plugin", func(x *api.Task) { x.Spec.Runtime = &api.TaskSpec_Generic{Generic: &api.GenericRuntimeSpec{}} })
	m.Put("web", "unreleased", func(x *api.Task) { x.DesiredState, x.Status.State = api.TaskStateReady, api.TaskStatePreparing })
	m.Put("web", "history", func(x *api.Task) { x.DesiredState, x.Status.State = api.TaskStateShutdown, api.TaskStateFailed })
	m.Put("web", "unheard-of", func(x *api.Task) { x.Status.State = 513 })

	u := start(t, m, quick(m)).has("a:ready", "b:ready")
	require.True(t, u.Listed)
	require.Empty(t, cmp.Diff(map[string][]*watcher.Task{"web": {
		{ID: "a", ServiceID: "web", NodeID: "n1", Slot: 1, State: watcher.Running, Desired: watcher.Running, HostNetwork: true},
		{
			ID: "b", ServiceID: "web", NodeID: "n2", Slot: 2, State: watcher.Running, Desired: watcher.Running,
			Addresses: []watcher.Address{{Network: "in", Addr: netip.MustParseAddr("10.0.0.7")}, {Network: "net", Addr: netip.MustParseAddr("10.0.1.14")}},
			Ports:     []watcher.HostPort{{Protocol: "udp", Target: 9000, Published: 9001}},
		},
	}}, u.Tasks, addrs))
}

// The life of a task as swarm.md §3 measured it; with and without ALPN, from the leader and from another manager.
func TestTheLifeOfATask(t *testing.T) {
	for _, alpn := range []bool{false, true} {
		for _, follower := range []bool{false, true} {
			t.Run(fmt.Sprintf("alpn %v follower %v", alpn, follower), func(t *testing.T) {
				m := fakeswarm.Start(t)
				m.Down()
				m.ALPN(alpn)
				m.Follow(follower)
				m.Up()
				m.Put("web", "old", nil)
				f := start(t, m, quick(m))
				f.has("old:ready")
				m.Put("web", "new", func(x *api.Task) { x.DesiredState, x.Status.State = api.TaskStateReady, api.TaskStateNew })
				m.Want("old", api.TaskStateShutdown)
				f.has("old:leaving")
				m.Want("new", api.TaskStateRunning)
				f.has("new:coming", "old:leaving")
				m.Observe("old", api.TaskStateShutdown)
				f.has("new:coming")
				m.Observe("new", api.TaskStateRunning)
				f.has("new:ready")
				m.Put("web", "two", func(x *api.Task) { x.Slot = 2 })
				f.has("new:ready", "two:ready")
				m.Want("two", api.TaskStateRemove)
				f.has("new:ready", "two:leaving")
				m.Remove("two")
				f.has("new:ready")
				m.Remove("old") // history: no news
				m.Observe("new", api.TaskStateFailed)
				f.has()
			})
		}
	}
}

// Nothing is ever watched but tasks, nothing is called but ListTasks, and nothing of
// what comes is logged.
func TestSecretsAreNeverAskedFor(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Check, o.Timing.Grace = time.Millisecond, 300*time.Millisecond
	var log locked
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	require.NoError(t, New(o).Check(t.Context()))
	f := start(t, m, o)
	f.has("a:ready")
	m.Want("a", api.TaskStateShutdown)
	f.has("a:leaving")
	require.Eventually(t, func() bool { return len(m.Listed()) > 5 }, 10*time.Second, time.Millisecond)
	lived(t, o)
	m.Put("web", "b", nil)
	f.has("a:leaving", "b:ready")
	m.Compact()
	m.Put("web", "c", nil)
	f.has("a:leaving", "b:ready", "c:ready")
	m.Cut(errors.New("cut"))
	require.Eventually(t, func() bool { return len(m.Watched()) == 3 }, 10*time.Second, time.Millisecond)
	for _, r := range m.Watched() {
		require.Len(t, r.Entries, 1)
		require.Equal(t, "task", r.Entries[0].Kind)
		require.Empty(t, r.Entries[0].Filters)
		require.False(t, r.IncludeOldObject)
	}
	require.Empty(t, m.Refused())
	require.NotContains(t, log.String(), "hunter2")
}

// locked is a buffer for several goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The list is asked for after the first message, so that nothing falls in between.
func TestTheListFollowsTheFirstMessage(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	asked, release := make(chan struct{}), make(chan struct{})
	m.OnWatch(func(context.Context, *api.WatchRequest) error { close(asked); <-release; return nil })
	f := start(t, m, quick(m))
	<-asked
	require.Empty(t, m.Listed())
	m.Put("web", "b", nil)
	close(release)
	f.has("a:ready", "b:ready")
}

// What happens between the first message and the answer to the list is not lost, and not undone by it.
func TestEventsWhileTheListIsMade(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	m.Put("web", "b", nil)
	m.Put("web", "c", nil)
	m.OnList(func(context.Context) error { // after the stream is established, before the list is made
		m.Want("a", api.TaskStateRemove)
		m.Remove("b")
		m.Observe("c", api.TaskStateFailed)
		m.Put("web", "d", nil)
		return nil
	})
	f := start(t, m, quick(m))
	u := f.until("the list", func(watcher.TaskUpdate) bool { return true })
	require.Equal(t, []string{"a:leaving", "d:ready"}, names(u.Tasks))
	m.OnList(nil)
	m.Put("web", "e", nil)
	u = f.until("something new", func(watcher.TaskUpdate) bool { return true })
	require.Equal(t, []string{"a:leaving", "d:ready", "e:ready"}, names(u.Tasks), "no late event brought anything back")
}

func TestEventsMayComeTwiceAndInTheWrongOrder(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	f := start(t, m, quick(m))
	f.has("a:ready")

	m.Deliver(func(w *api.WatchMessage) []*api.WatchMessage { return []*api.WatchMessage{w, w, w} })
	m.Put("web", "b", nil)
	f.has("a:ready", "b:ready")

	var held []*api.WatchMessage
	m.Deliver(func(w *api.WatchMessage) []*api.WatchMessage { held = append(held, w); return nil })
	m.Want("a", api.TaskStateShutdown)
	m.Observe("a", api.TaskStateShutdown)
	m.Put("web", "c", nil)
	m.Want("c", api.TaskStateRemove)
	m.Remove("c")
	m.Deliver(func(w *api.WatchMessage) []*api.WatchMessage {
		slices.Reverse(held)
		return append(held, w)
	})
	m.Put("web", "d", nil)
	for {
		u := f.until("the next", func(watcher.TaskUpdate) bool { return true })
		require.NotContains(t, names(u.Tasks), "a:leaving", "an older version")
		require.NotContains(t, names(u.Tasks), "c:leaving", "what is removed stays removed")
		if slices.Equal(names(u.Tasks), []string{"b:ready", "d:ready"}) {
			return
		}
	}
}

// Updates that change nothing that counts are not told.
func TestUpdatesWithoutAChange(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	f := start(t, m, quick(m))
	f.has("a:ready")
	for i := range 20 {
		m.Put("", "a", func(x *api.Task) { x.Status.Message = fmt.Sprint(i) })
	}
	m.Put("web", "b", nil)
	u := f.until("the next", func(watcher.TaskUpdate) bool { return true })
	require.Equal(t, []string{"a:ready", "b:ready"}, names(u.Tasks))
}

// A cut stream is taken up where it ended, without a word; what happened meanwhile comes.
func TestACutStreamIsTakenUp(t *testing.T) {
	for _, follower := range []bool{false, true} {
		t.Run(fmt.Sprintf("follower %v", follower), func(t *testing.T) {
			m := fakeswarm.Start(t)
			m.Follow(follower)
			m.Put("web", "a", nil)
			o := quick(m)
			o.Timing.Grace = 500 * time.Millisecond // how long the first stream must have lived
			f := start(t, m, o)
			f.has("a:ready")
			m.Put("web", "b", nil)
			f.has("a:ready", "b:ready")
			lived(t, o)
			lists := len(m.Listed())
			m.OnWatch(func(_ context.Context, r *api.WatchRequest) error {
				m.OnWatch(nil)
				m.Want("a", api.TaskStateShutdown)
				return nil
			})
			m.Cut(status.Error(codes.Unavailable, "transport is closing"))
			f.has("a:leaving", "b:ready")
			last := m.Watched()[len(m.Watched())-1]
			require.NotNil(t, last.ResumeFrom)
			require.Eventually(t, func() bool { return len(m.Listed()) == lists+1 }, 10*time.Second, time.Millisecond, "one check that there is no gap")
			require.NotContains(t, m.Listed()[lists].Filters.DesiredStates, api.TaskStateShutdown)
		})
	}
}

// lived waits until a stream that began before has lived for Timing.Grace.
func lived(t *testing.T, o Options) {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool { return time.Since(began) > o.Timing.Grace }, 10*time.Second, time.Millisecond)
}

// Where the manager cannot resume, everything is listed anew.
func TestACompactedLog(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Grace = 200 * time.Millisecond
	f := start(t, m, o)
	f.has("a:ready")
	m.Put("web", "b", nil)
	f.has("a:ready", "b:ready")
	lived(t, o)
	m.Silence(true)
	m.Remove("a")
	m.Compact()
	m.Silence(false)
	m.Cut(errors.New("raft: stopped"))
	u := f.has("b:ready")
	require.True(t, u.Listed)
	w := m.Watched()
	require.NotNil(t, w[1].ResumeFrom, "tried")
	require.Nil(t, w[2].ResumeFrom)
	m.Put("web", "c", nil)
	f.has("b:ready", "c:ready")
}

// dockerd restarts, or the node is demoted and promoted: the socket is another one.
func TestASocketThatIsMadeAnew(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Grace = time.Second
	f := start(t, m, o)
	f.has("a:ready")
	lived(t, o)
	m.Down()
	m.Want("a", api.TaskStateRemove)
	m.Up()
	f.has("a:leaving")
}

// What does not come back at once is said in time.
func TestAStreamThatIsLost(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Grace = 50 * time.Millisecond
	f := start(t, m, o)
	f.has("a:ready")
	lived(t, o)
	m.Down()
	err := f.ends()
	require.ErrorContains(t, err, "there is no control socket at "+m.Socket())
	require.ErrorContains(t, err, "; run Waggle on a manager")
}

// A stream that ends as soon as it has begun is not taken up again and again.
func TestAStreamThatEndsAtOnce(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	f := start(t, m, quick(m))
	f.has("a:ready")
	m.Cut(status.Error(codes.Unavailable, "the node is no manager"))
	require.ErrorContains(t, f.ends(), "the node is no manager")
	require.Len(t, m.Watched(), 1)
}

// The majority of the managers is lost: the stream says nothing, and a list fails.
func TestAManagerWithoutALeader(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Check = 20 * time.Millisecond
	f := start(t, m, o)
	f.has("a:ready")
	m.NoLeader()
	require.ErrorContains(t, f.ends(), "has no leader (raft: no elected cluster leader); bring back a majority of the managers")
}

// The same, and the list hangs.
func TestAManagerThatDoesNotAnswer(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	o := quick(m)
	o.Timing.Check, o.Timing.Timeout = 20*time.Millisecond, 500*time.Millisecond
	f := start(t, m, o)
	f.has("a:ready")
	m.OnList(fakeswarm.Hang)
	require.ErrorContains(t, f.ends(), "did not answer within 500ms")
}

// The stream is silent although things happen: in each way that a list can show it.
func TestASilentStream(t *testing.T) {
	for name, happens := range map[string]func(*fakeswarm.Manager){
		"a task changed":            func(m *fakeswarm.Manager) { m.Put("", "a", func(x *api.Task) { x.NodeID = "n2" }) },
		"a new task":                func(m *fakeswarm.Manager) { m.Put("web", "b", nil) },
		"a task is to be shut down": func(m *fakeswarm.Manager) { m.Want("a", api.TaskStateShutdown) },
		"a task is to be removed":   func(m *fakeswarm.Manager) { m.Want("a", api.TaskStateRemove) },
		"a task is gone":            func(m *fakeswarm.Manager) { m.Remove("a") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := fakeswarm.Start(t)
			m.Put("web", "a", nil)
			o := quick(m)
			o.Timing.Check, o.Timing.Lag = 10*time.Millisecond, 50*time.Millisecond
			f := start(t, m, o)
			f.has("a:ready")
			m.Silence(true)
			happens(m)
			require.ErrorContains(t, f.ends(), "has gone silent (1 changes of tasks have not come within 50ms); it is opened anew")
		})
	}
}

// A manager that follows may be behind the leader, whose list is newer: no alarm, and
// a question is answered when the stream has caught up.
func TestAQuestionIsAnsweredWhenTheStreamHasCaughtUp(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	m.Put("web", "b", nil)
	m.Put("web", "f", nil)
	f := start(t, m, quick(m))
	f.has("a:ready", "b:ready", "f:ready")
	var held []*api.WatchMessage
	m.Deliver(func(w *api.WatchMessage) []*api.WatchMessage { held = append(held, w); return nil })
	m.Want("a", api.TaskStateShutdown)
	m.Remove("b")
	m.Put("web", "c", nil)
	m.Observe("f", api.TaskStateFailed)
	lists := len(m.Listed())
	f.questions <- 7
	require.Eventually(t, func() bool { return len(m.Listed()) == lists+1 }, 10*time.Second, time.Millisecond)
	m.Deliver(func(w *api.WatchMessage) []*api.WatchMessage { return append(held, w) })
	m.Put("web", "d", nil)
	u := f.until("the answer", func(u watcher.TaskUpdate) bool { return u.Confirmed == 7 })
	require.True(t, u.Listed)
	require.Equal(t, []string{"a:leaving", "c:ready"}, names(u.Tasks)[:2], "told together with what it confirms, or after")
	m.Deliver(nil)

	f.questions <- 8
	f.until("the next answer", func(u watcher.TaskUpdate) bool { return u.Confirmed == 8 && len(u.Tasks["web"]) == 3 })
}

// A question that comes while a list is under way needs another list.
func TestAQuestionDuringACheck(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	f := start(t, m, quick(m))
	f.has("a:ready")
	listing, release := make(chan struct{}, 10), make(chan struct{})
	m.OnList(func(context.Context) error { listing <- struct{}{}; <-release; return nil })
	f.questions <- 1
	<-listing
	f.questions <- 2
	f.questions <- 3 // taken only after 2 was
	require.Eventually(t, func() bool { return len(f.questions) == 0 }, 10*time.Second, time.Millisecond)
	close(release)
	f.until("the first answer", func(u watcher.TaskUpdate) bool { return u.Confirmed == 1 })
	f.until("the last answer", func(u watcher.TaskUpdate) bool { return u.Confirmed == 3 })
	require.Len(t, m.Listed(), 3)
}

// Who listens slowly gets what is there then, and no picture twice.
func TestWhoListensSlowlyGetsTheNewest(t *testing.T) {
	m := fakeswarm.Start(t)
	m.Put("web", "a", nil)
	told, release := make(chan watcher.TaskUpdate), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- New(quick(m)).Follow(ctx, nil, func(u watcher.TaskUpdate) bool {
			<-release
			select {
			case told <- u:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	require.Eventually(t, func() bool { return len(m.Listed()) == 1 }, 10*time.Second, time.Millisecond)
	for i := range 50 {
		m.Put("web", fmt.Sprintf("t%02d", i), nil)
	}
	close(release)
	n := 0
	for u := range told {
		if n++; len(u.Tasks["web"]) == 51 {
			break
		}
	}
	require.Less(t, n, 52)
	cancel()
	require.NoError(t, <-ended)
}
