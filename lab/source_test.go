package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/watcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 30 * time.Second

// quick is a Swarm that does not keep tests waiting.
var quick = Timing{Warning: 30 * time.Millisecond, Grace: 5 * time.Second, Notice: 10 * time.Millisecond, Restart: 10 * time.Millisecond}

func spec(id string, replicas uint64, labels map[string]string) *watcher.Service {
	return &watcher.Service{ID: id, Name: id, Version: 1, Mode: watcher.Replicated, Replicas: replicas, Labels: labels}
}

func picture(specs ...*watcher.Service) *watcher.Picture {
	p := &watcher.Picture{Services: map[string]*watcher.Service{}}
	for i, s := range specs {
		s.Order = i
		p.Services[s.ID] = s
	}
	return p
}

var port80 = map[string]string{"com.docker.lb.port": "80", "com.docker.lb.hosts": "a.example.com"}

// history is everything a source told.
type history struct {
	mu      sync.Mutex
	updates []watcher.Update
}

func (h *history) emit(u watcher.Update) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updates = append(h.updates, u)
}

func (h *history) since(n int) []watcher.Update {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.updates[n:])
}

// newSource gives a source whose updates are recorded.
func newSource(t *testing.T, specs ...*watcher.Service) (*Source, *history) {
	t.Helper()
	s := NewSource(quick, []string{"com.docker.lb", "lb"})
	h := &history{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		s.Close()
	})
	err := s.Apply(picture(specs...))
	go func() { ended <- s.Run(ctx, h.emit) }()
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(h.since(0)) > 0 }, deadline, time.Millisecond)
	return s, h
}

// told waits until the source's newest picture was told, and gives all that was.
func told(t *testing.T, s *Source, h *history) []watcher.Update {
	t.Helper()
	require.Eventually(t, func() bool {
		us := h.since(0)
		return us[len(us)-1].Picture == s.Picture()
	}, deadline, time.Millisecond)
	return h.since(0)
}

// askTask asks the task of a picture as an Envoy would reach it.
func askTask(t *testing.T, p *watcher.Picture, task *watcher.Task, port uint32) (echo.Answer, error) {
	t.Helper()
	i := slices.IndexFunc(task.Ports, func(h watcher.HostPort) bool { return h.Target == port })
	require.GreaterOrEqual(t, i, 0, "task %s has no port %d", task.ID, port)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr, Timeout: deadline}).Get(
		"http://" + net.JoinHostPort(p.Nodes[task.NodeID].Addr.String(), fmt.Sprint(task.Ports[i].Published)) + "/")
	if err != nil {
		return echo.Answer{}, err
	}
	defer resp.Body.Close()
	var a echo.Answer
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

func TestEveryReplicaIsATaskThatAnswers(t *testing.T) {
	s, h := newSource(t,
		spec("shop_web", 2, map[string]string{"com.docker.lb.hosts": "a", "com.docker.lb.port": "80", "lb.admin.port": "9000"}),
		&watcher.Service{ID: "g", Name: "g", Mode: watcher.Global, Expose: []uint32{8080}},
		&watcher.Service{ID: "job", Name: "job", Mode: watcher.ReplicatedJob, Replicas: 3, Expose: []uint32{80}},
	)
	first := told(t, s, h)[0]
	require.True(t, first.Changes.All)
	require.True(t, first.Full)
	require.NoError(t, first.Err)
	require.True(t, first.Picture.Loopback)
	require.False(t, first.Picture.Static)

	p := s.Picture()
	require.Len(t, p.Tasks["shop_web"], 2)
	for i, task := range p.Tasks["shop_web"] {
		require.True(t, task.Ready())
		for _, port := range []uint32{80, 9000} {
			a, err := askTask(t, p, task, port)
			require.NoError(t, err)
			require.Equal(t, "shop_web", a.Service)
			require.Equal(t, fmt.Sprintf("shop_web.%d", i+1), a.Task)
		}
	}
	require.Len(t, p.Tasks["g"], 3, "a global service has a task on every node")
	a, err := askTask(t, p, p.Tasks["g"][1], 8080)
	require.NoError(t, err)
	require.Equal(t, "g.lab-2", a.Task)
	require.Empty(t, p.Tasks["job"], "tasks of jobs are never endpoints")
}

func TestApplyChangesOnlyWhatChanged(t *testing.T) {
	s, h := newSource(t, spec("a", 1, port80), spec("b", 1, port80), spec("c", 1, port80))
	before := s.Picture()
	n := len(told(t, s, h))

	relabelled := spec("b", 1, map[string]string{"com.docker.lb.port": "80", "com.docker.lb.hosts": "b.example.com"})
	require.NoError(t, s.Apply(picture(spec("a", 1, port80), relabelled, spec("c", 1, port80))))
	us := told(t, s, h)[n:]
	require.Len(t, us, 1)
	require.Equal(t, watcher.Changes{Services: map[string]struct{}{"b": {}}}, us[0].Changes)
	after := s.Picture()
	require.Same(t, before.Services["a"], after.Services["a"])
	require.Equal(t, before.Tasks["b"][0].ID, after.Tasks["b"][0].ID, "a label replaces no task")
	require.Greater(t, after.Services["b"].Version, before.Services["b"].Version)

	require.NoError(t, s.Apply(picture(spec("a", 1, port80), relabelled, spec("c", 1, port80))))
	require.Same(t, after, s.Picture(), "the same again is nothing new")

	require.NoError(t, s.Apply(picture(spec("a", 1, port80))))
	require.Len(t, s.Picture().Services, 1)
	require.Len(t, s.Picture().Tasks, 1)
	require.Len(t, before.Services, 3, "a picture that was handed on stays as it is")
}

func TestNewPortsAreNewTasks(t *testing.T) {
	s, _ := newSource(t, spec("a", 2, port80))
	before := s.Picture().Tasks["a"]
	require.NoError(t, s.Edit("a", func(spec *watcher.Service) { spec.Labels["lb.port"] = "81"; delete(spec.Labels, "com.docker.lb.port") }))
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	require.NoError(t, s.Settled(ctx, "a"))
	for i, task := range s.Picture().Tasks["a"] {
		require.NotEqual(t, before[i].ID, task.ID)
		_, err := askTask(t, s.Picture(), task, 81)
		require.NoError(t, err)
	}
}

// counts of ready and leaving tasks of a service in each picture that was told.
func shape(us []watcher.Update, id string) (ready, all []int) {
	for _, u := range us {
		n := 0
		for _, task := range u.Picture.Tasks[id] {
			if task.Ready() {
				n++
			}
		}
		ready, all = append(ready, n), append(all, len(u.Picture.Tasks[id]))
	}
	return ready, all
}

func TestRollingUpdates(t *testing.T) {
	for name, tc := range map[string]struct {
		rollout      Rollout
		least, most  int // ready tasks
		batchesDelay time.Duration
	}{
		"start-first one by one": {Rollout{StartFirst: true, Parallelism: 1}, 3, 4, 0},
		"stop-first one by one":  {Rollout{Parallelism: 1}, 2, 3, 0},
		"stop-first two by two":  {Rollout{Parallelism: 2, Delay: 40 * time.Millisecond}, 1, 3, 40 * time.Millisecond},
		"stop-first all at once": {Rollout{}, 0, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, h := newSource(t, spec("a", 3, port80))
			before := s.Picture().Tasks["a"]
			n := len(told(t, s, h))
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			began := time.Now()
			require.NoError(t, s.Update(ctx, "a", tc.rollout))
			require.GreaterOrEqual(t, time.Since(began), tc.batchesDelay+quick.Warning)

			after := s.Picture().Tasks["a"]
			require.Len(t, after, 3)
			for i := range after {
				require.Equal(t, i+1, after[i].Slot)
				require.NotEqual(t, before[i].ID, after[i].ID)
				_, err := askTask(t, s.Picture(), after[i], 80)
				require.NoError(t, err)
				_, err = askTask(t, s.Picture(), before[i], 80)
				require.Error(t, err, "the old task is gone")
			}
			ready, _ := shape(told(t, s, h)[n:], "a")
			require.GreaterOrEqual(t, slices.Min(ready), tc.least)
			require.LessOrEqual(t, slices.Max(ready), tc.most)
		})
	}
}

func TestALeavingTaskIsWarnedAndStillAnswers(t *testing.T) {
	s, _ := newSource(t, spec("a", 2, port80))
	s.timing.Warning = time.Hour // it does not leave before the test says so
	require.NoError(t, s.Edit("a", func(spec *watcher.Service) { spec.Replicas = 1 }))
	p := s.Picture()
	require.Len(t, p.Tasks["a"], 2)
	require.True(t, p.Tasks["a"][0].Ready())
	require.True(t, p.Tasks["a"][1].Leaving(), "the highest slot leaves")
	_, err := askTask(t, p, p.Tasks["a"][1], 80)
	require.NoError(t, err)
}

func TestScaleWaitsForTheEnd(t *testing.T) {
	s, _ := newSource(t, spec("a", 1, port80))
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for _, n := range []uint64{4, 2, 0, 1} {
		require.NoError(t, s.Scale(ctx, "a", n))
		require.Len(t, s.Picture().Tasks["a"], int(n))
	}
	require.ErrorContains(t, s.Scale(ctx, "b", 1), `the lab runs no service "b"`)
}

func TestAKilledTaskHasNoWarning(t *testing.T) {
	s, h := newSource(t, spec("a", 2, port80))
	victim := s.Picture().Tasks["a"][0]
	n := len(told(t, s, h))
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	name, err := s.Kill(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "a.1", name)

	us := told(t, s, h)[n:]
	_, all := shape(us, "a")
	require.Equal(t, []int{1, 2}, all, "it vanishes, then another one starts")
	for _, u := range us {
		for _, task := range u.Picture.Tasks["a"] {
			require.False(t, task.Leaving())
			require.NotEqual(t, victim.ID, task.ID)
		}
	}
	_, err = askTask(t, us[0].Picture, victim, 80)
	require.Error(t, err)
	_, err = s.Kill(ctx, "b")
	require.Error(t, err)
}

func TestRunMayBeCalledAgain(t *testing.T) {
	s := NewSource(quick, []string{"lb"})
	defer s.Close()
	require.NoError(t, s.Apply(picture(spec("a", 1, map[string]string{"lb.port": "80"}))))
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		h := &history{}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx, h.emit) }()
		require.Eventually(t, func() bool { return len(h.since(0)) == 1 }, deadline, time.Millisecond)
		require.True(t, h.since(0)[0].Changes.All, "whoever listens anew knows nothing")
		cancel()
		require.NoError(t, <-ended)
	}
}

func TestTooManyTasksAreRefused(t *testing.T) {
	s := NewSource(quick, []string{"lb"})
	defer s.Close()
	require.ErrorContains(t, s.Apply(picture(spec("a", 1<<62, port80), spec("b", 1<<62, port80))), "more than 2000 tasks")
	require.Empty(t, s.Picture().Services)
}

func TestTCPAndUDPRoutesGetAnEcho(t *testing.T) {
	s, _ := newSource(t, spec("db", 1, map[string]string{
		"lb.tcp_port": "5432", "lb.port": "5432", "lb.dns.udp_port": "53", "lb.dns.port": "5353", "lb.bad.port": "no",
	}))
	p := s.Picture()
	task := p.Tasks["db"][0]
	require.Len(t, task.Ports, 2)
	for i, network := range []string{"udp", "tcp"} {
		require.Equal(t, network, task.Ports[i].Protocol)
		c, err := net.Dial(network, fmt.Sprintf("127.0.0.1:%d", task.Ports[i].Published))
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		_, err = c.Write([]byte("ping"))
		require.NoError(t, err)
		buf := make([]byte, 4)
		_, err = io.ReadFull(c, buf)
		require.NoError(t, err)
		require.Equal(t, "ping", string(buf))
		require.NoError(t, c.Close())
	}
}
