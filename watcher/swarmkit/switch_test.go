package swarmkit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/swarmkit/v2/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
	"github.com/waggle-lb/waggle/watcher/swarmkit/fakeswarm"
)

// manager is one Swarm manager: its Engine API and its control socket, which tell the same tasks.
type manager struct {
	engine  *fakedocker.Daemon
	control *fakeswarm.Manager
}

func startManager(t *testing.T) manager {
	m := manager{fakedocker.Start(t), fakeswarm.Start(t)}
	m.engine.PutService("web", nil)
	return m
}

// put changes a task. The Engine API answers from the leader's store, which has each
// change first.
func (m manager) put(id string, slot int, desired, state api.TaskState) {
	name := func(s api.TaskState) swarm.TaskState { return swarm.TaskState(strings.ToLower(s.String())) }
	m.engine.PutTask("web", id, func(x *swarm.Task) {
		x.Slot, x.DesiredState, x.Status.State = slot, name(desired), name(state)
		x.NetworksAttachments = []swarm.NetworkAttachment{fakedocker.On("net", fmt.Sprintf("10.0.1.%d/24", slot))}
	})
	m.control.Put("web", id, func(x *api.Task) {
		x.Slot, x.DesiredState, x.Status.State = uint64(slot), desired, state
		x.Networks = []*api.NetworkAttachment{{
			Network:   &api.Network{ID: "net", Spec: api.NetworkSpec{Annotations: api.Annotations{Name: "net"}}},
			Addresses: []string{fmt.Sprintf("10.0.1.%d/24", slot)},
		}}
	})
}

func (m manager) remove(id string) {
	m.engine.RemoveTask(id)
	m.control.Remove(id)
}

// source has quick lists, and push that gives up after a tenth of a second.
func (m manager) source(change func(*engine.Options, *Options)) *engine.Source {
	push := quick(m.control)
	push.Timing.Grace, push.Timing.Pause = 100*time.Millisecond, 5*time.Millisecond
	o := engine.Options{Host: m.engine.Host(), PollInterval: 10 * time.Millisecond, Timing: engine.Timing{
		FastPoll: 5 * time.Millisecond, FullList: time.Hour, Confirm: 10 * time.Millisecond, Settle: 5 * time.Millisecond, Timeout: 5 * time.Second,
		BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		PushFirst: 10 * time.Second, PushBack: 5 * time.Second, PushRetry: 20 * time.Millisecond,
	}}
	if change != nil {
		change(&o, &push)
	}
	o.Push = New(push)
	return engine.New(o)
}

// watched is a running source. Of every update it is checked that its tasks are of
// one place, and that the endpoints never become none.
type watched struct {
	t          *testing.T
	updates    chan watcher.Update
	last       watcher.Update
	mayBeEmpty bool
}

func watch(t *testing.T, s *engine.Source) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{t: t, updates: make(chan watcher.Update, 100_000)}
	var wg sync.WaitGroup
	ended := make(chan error, 1)
	wg.Go(func() { ended <- s.Run(ctx, func(u watcher.Update) { w.updates <- u }) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		require.NoError(t, <-ended)
	})
	return w
}

func (w *watched) until(what string, ok func(watcher.Update) bool) watcher.Update {
	w.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		select {
		case u := <-w.updates:
			if u.Picture != nil {
				require.Contains(w.t, []string{watcher.ViaEngine, watcher.ViaSwarmKit}, u.Via)
				require.Equal(w.t, watcher.Diff(w.last.Picture, u.Picture), u.Changes)
				if u.Via != w.last.Via && w.last.Picture != nil && u.Changes.Empty() {
					require.Same(w.t, w.last.Picture, u.Picture, "a switch alone is no change")
				}
				if !w.mayBeEmpty {
					require.Truef(w.t, slices.ContainsFunc(u.Picture.Tasks["web"], (*watcher.Task).Ready), "no endpoint: %v via %s", names(u.Picture.Tasks), u.Via)
				}
			}
			w.last = u
			if ok(u) {
				return u
			}
		case <-deadline:
			require.FailNowf(w.t, "it did not come to this", "%s; last: %+v", what, w.last)
		}
	}
}

func (w *watched) via(via string, want ...string) watcher.Update {
	w.t.Helper()
	return w.until(fmt.Sprint(via, want), func(u watcher.Update) bool {
		return u.Via == via && u.Picture != nil && slices.Equal(names(u.Picture.Tasks), want)
	})
}

const running, toStop, stopped = api.TaskStateRunning, api.TaskStateShutdown, api.TaskStateShutdown

// Push is lost, lists go on at once, push is back: the tasks are right all the time,
// the places are never mixed, and all of it can be seen.
func TestSwitchingToListsAndBack(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	m.put("b", 2, running, running)
	s := m.source(nil)
	require.Equal(t, "auto", s.Name())
	require.NoError(t, s.Check(t.Context()))
	lists := len(m.engine.Asked("/tasks"))
	w := watch(t, s)
	u := w.via(watcher.ViaSwarmKit, "a:ready", "b:ready")
	require.NoError(t, u.Err)
	require.NoError(t, u.Fallback)
	m.put("a", 1, toStop, running)
	w.via(watcher.ViaSwarmKit, "a:leaving", "b:ready")
	require.Len(t, m.engine.Asked("/tasks"), lists, "nothing is listed while push works")

	m.control.Down()
	u = w.until("the news", func(u watcher.Update) bool { return u.Fallback != nil })
	require.NoError(t, u.Err, "it is no error of the picture")
	require.ErrorContains(t, u.Fallback, m.control.Socket())
	require.Equal(t, watcher.ViaSwarmKit, u.Via, "the picture is still that of push")
	m.put("a", 1, toStop, stopped)
	u = w.via(watcher.ViaEngine, "b:ready")
	require.Error(t, u.Fallback)
	m.put("c", 1, running, running)
	w.via(watcher.ViaEngine, "c:ready", "b:ready")

	m.control.Up()
	u = w.via(watcher.ViaSwarmKit, "c:ready", "b:ready")
	require.NoError(t, u.Fallback)
	m.put("b", 2, toStop, running)
	w.via(watcher.ViaSwarmKit, "c:ready", "b:leaving")
	lists = len(m.engine.Asked("/tasks"))
	m.remove("b")
	w.via(watcher.ViaSwarmKit, "c:ready")
	require.LessOrEqual(t, len(m.engine.Asked("/tasks")), lists+1, "one that was under way")

	measured := metrics(t, s)
	require.Equal(t, map[string]float64{
		"waggle_tasks_via engine": 0, "waggle_tasks_via swarmkit": 1,
		"waggle_tasks_switches_total engine": 1, "waggle_tasks_switches_total swarmkit": 1,
		"waggle_push_lost_total": measured["waggle_push_lost_total"],
	}, measured)
	require.Positive(t, measured["waggle_push_lost_total"])
}

// metrics of a source by "name label".
func metrics(t *testing.T, s *engine.Source) map[string]float64 {
	r := prometheus.NewRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, l := range m.Label {
				key += " " + l.GetValue()
			}
			out[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

// Under the default times, a task that leaves while push is cut is seen within the
// 2–3 s for which it still answers, and with time to spare.
func TestTheSwitchToListsIsFast(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	m.put("b", 2, running, running)
	s := engine.New(engine.Options{Host: m.engine.Host(), Push: New(Options{Socket: m.control.Socket()})})
	w := watch(t, s)
	w.via(watcher.ViaSwarmKit, "a:ready", "b:ready")
	m.control.Down()
	began := time.Now()
	m.put("a", 1, toStop, running)
	w.via(watcher.ViaEngine, "a:leaving", "b:ready")
	require.Less(t, time.Since(began), 1500*time.Millisecond)
}

// The stream is silent, or the majority is lost: lists show what happens, or say that they cannot.
func TestASilentStreamMakesListsGoOn(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	m.put("b", 2, running, running)
	s := m.source(func(_ *engine.Options, o *Options) {
		o.Timing.Check, o.Timing.Lag = 20*time.Millisecond, 50*time.Millisecond
	})
	w := watch(t, s)
	w.via(watcher.ViaSwarmKit, "a:ready", "b:ready")
	m.control.Silence(true)
	m.put("a", 1, toStop, running)
	u := w.until("the news", func(u watcher.Update) bool { return u.Fallback != nil })
	require.ErrorContains(t, u.Fallback, "has gone silent")
	w.until("the task leaving", func(u watcher.Update) bool {
		return slices.Equal(names(u.Picture.Tasks), []string{"a:leaving", "b:ready"})
	})
	m.control.Silence(false)
	w.via(watcher.ViaSwarmKit, "a:leaving", "b:ready")

	m.control.NoLeader()
	m.engine.Between("/tasks", fakedocker.Refuse(500, "rpc error: code = Unknown desc = The swarm does not have a leader."))
	u = w.until("both fail", func(u watcher.Update) bool { return u.Fallback != nil && u.Err != nil })
	require.ErrorContains(t, u.Fallback, "has no leader")
	require.Equal(t, []string{"a:leaving", "b:ready"}, names(u.Picture.Tasks), "the last picture stays")
	m.control.Leader()
	m.engine.Between("/tasks", nil)
	w.until("all well again", func(u watcher.Update) bool { return u.Err == nil && u.Via == watcher.ViaSwarmKit && u.Fallback == nil })
}

// A worker, or no control socket: lists from the start, and the reason is there to be read.
func TestWithoutAControlSocket(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	m.control.Down()
	s := m.source(nil)
	require.NoError(t, s.Check(t.Context()), "auto does without it")
	w := watch(t, s)
	u := w.via(watcher.ViaEngine, "a:ready")
	require.ErrorContains(t, u.Fallback, "there is no control socket")
	m.control.Up() // promoted
	w.via(watcher.ViaSwarmKit, "a:ready")
}

// swarm.source: swarmkit never lists tasks; what push cannot tell is an error.
func TestPushAlone(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	only := func(o *engine.Options, _ *Options) { o.PushOnly = true }
	s := m.source(only)
	require.Equal(t, watcher.ViaSwarmKit, s.Name())
	m.control.Down()
	require.ErrorContains(t, s.Check(t.Context()), "there is no control socket")
	w := watch(t, s)
	u := w.until("the error", func(u watcher.Update) bool { return u.Err != nil })
	require.Nil(t, u.Picture)
	require.ErrorContains(t, u.Err, "there is no control socket")
	m.control.Up()
	u = w.via(watcher.ViaSwarmKit, "a:ready")
	require.NoError(t, u.Err)
	require.NoError(t, s.Check(t.Context()))
	m.control.Down()
	u = w.until("the error", func(u watcher.Update) bool { return u.Err != nil })
	require.Equal(t, []string{"a:ready"}, names(u.Picture.Tasks))
	m.control.Up()
	w.until("all well again", func(u watcher.Update) bool { return u.Err == nil })
	require.Empty(t, m.engine.Asked("/tasks"))
}

// Push is slow to answer at the start: lists do not wait for it for ever.
func TestASlowStart(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	release := make(chan struct{})
	m.control.OnWatch(func(ctx context.Context, _ *api.WatchRequest) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	w := watch(t, m.source(func(o *engine.Options, _ *Options) { o.Timing.PushFirst = 10 * time.Millisecond }))
	w.via(watcher.ViaEngine, "a:ready")
	close(release)
	w.via(watcher.ViaSwarmKit, "a:ready")
}

// Push is back on a manager that lags behind the leader: it is not believed before
// it knows what lists have told.
func TestAManagerThatLagsIsNotBelieved(t *testing.T) {
	m := startManager(t)
	m.put("a", 1, running, running)
	m.control.Down()
	w := watch(t, m.source(func(o *engine.Options, _ *Options) { o.Timing.PushBack = 50 * time.Millisecond }))
	w.via(watcher.ViaEngine, "a:ready")

	var mu sync.Mutex
	var held []*api.WatchMessage
	asked := 0
	m.control.OnList(func(context.Context) error {
		mu.Lock()
		asked++
		second := asked == 2
		mu.Unlock()
		if second { // the one that decides whether push is believed
			m.control.Deliver(func(x *api.WatchMessage) []*api.WatchMessage {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, x)
				return nil
			})
			m.put("new", 2, running, running)
			m.put("a", 1, toStop, running)
		}
		return nil
	})
	m.control.Up()
	w.until("lists going on", func(u watcher.Update) bool {
		require.Equal(t, watcher.ViaEngine, u.Via, "push is behind")
		return slices.Equal(names(u.Picture.Tasks), []string{"a:leaving", "new:ready"})
	})
	m.control.Deliver(func(x *api.WatchMessage) []*api.WatchMessage {
		mu.Lock()
		defer mu.Unlock()
		all := append(held, x)
		held = nil
		return all
	})
	m.put("a", 1, toStop, stopped)
	w.until("push", func(u watcher.Update) bool {
		require.Contains(t, names(u.Picture.Tasks), "new:ready", "what was told is not taken back")
		return u.Via == watcher.ViaSwarmKit && len(u.Picture.Tasks["web"]) == 1
	})
}

// A service with one task, replaced again and again while push comes and goes: never
// without an endpoint, and in the end both places agree.
func TestTheEndpointIsAlwaysThere(t *testing.T) {
	m := startManager(t)
	m.put("t0", 1, running, running)
	w := watch(t, m.source(func(_ *engine.Options, o *Options) {
		o.Timing.Check, o.Timing.Grace = 20*time.Millisecond, 20*time.Millisecond
	}))
	w.until("the first picture", func(u watcher.Update) bool { return u.Picture != nil })
	const changes = 60
	for i := range changes {
		old, next := fmt.Sprintf("t%d", i), fmt.Sprintf("t%d", i+1)
		m.put(next, 1, running, api.TaskStateStarting)
		m.put(next, 1, running, running)
		switch i % 6 {
		case 1:
			m.control.Down()
		case 2:
			m.control.Up()
		case 3:
			m.control.Cut(status.Error(codes.Unavailable, "transport is closing"))
		case 4:
			m.control.Compact()
			m.control.Cut(errors.New("raft: stopped"))
		case 5:
			m.control.Follow(i%12 == 5)
		}
		w.until(next+" is there", func(u watcher.Update) bool {
			return u.Picture != nil && slices.ContainsFunc(u.Picture.Tasks["web"], func(x *watcher.Task) bool { return x.ID == next && x.Ready() })
		})
		m.put(old, 1, toStop, running)
		if i%2 == 0 {
			w.until(old+" leaves", func(u watcher.Update) bool { return slices.Contains(names(u.Picture.Tasks), old+":leaving") })
		}
		m.put(old, 1, toStop, stopped)
		m.remove(old)
	}
	last := fmt.Sprintf("t%d:ready", changes)
	pushed := w.via(watcher.ViaSwarmKit, last).Picture.Tasks
	m.control.Down()
	listed := w.via(watcher.ViaEngine, last).Picture.Tasks
	require.Empty(t, cmp.Diff(pushed, listed, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
}
