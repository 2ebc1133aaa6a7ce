package engine

import (
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

// Tasks are listed slowly while nothing is published, at once when something changes.
func TestThePaceOfTasks(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	d.PutTask("web", "t", nil)
	o := quick(d)
	o.Interesting = func(s *watcher.Service) bool { return s.Labels["lb.port"] != "" }
	o.PollInterval = 20 * time.Millisecond
	o.Timing.SlowPoll, o.Timing.FastFor = time.Hour, time.Nanosecond
	w := start(t, o)
	w.Picture("the first picture", func(p *watcher.Picture) bool { return has(p, "web", "t:ready") })

	// Nothing is interesting: the next list would be in an hour, but for an event.
	d.PutService("web", func(s *swarm.Service) { s.Spec.Labels = map[string]string{"lb.port": "80"} })
	w.Picture("a service that is published", func(p *watcher.Picture) bool { return p.Services["web"].Labels["lb.port"] != "" })
	d.Want("t", swarm.TaskStateShutdown)
	w.Picture("its task leaving", func(p *watcher.Picture) bool { return has(p, "web", "t:leaving") })

	r := &run{Options: o.withDefaults()}
	r.interesting.Store(true)
	require.Equal(t, 20*time.Millisecond, r.interval())
	r.interesting.Store(false)
	require.Equal(t, time.Hour, r.interval())
	r.fastUntil.Store(time.Now().Add(time.Minute).UnixNano())
	require.Equal(t, 5*time.Millisecond, r.interval())
}

func TestTheDefaultsAreThoseOfTheDocument(t *testing.T) {
	o := Options{}.withDefaults()
	require.Equal(t, "unix:///var/run/docker.sock", o.Host)
	require.Equal(t, time.Second, o.PollInterval)
	require.Equal(t, 250*time.Millisecond, o.Timing.FastPoll)
	require.Equal(t, 5*time.Second, o.Timing.SlowPoll)
	require.Equal(t, 30*time.Second, o.Timing.FullList)
	require.Equal(t, 10*time.Second, o.Timing.Timeout)

	o = Options{PollInterval: 100 * time.Millisecond}.withDefaults()
	require.Equal(t, 100*time.Millisecond, o.Timing.FastPoll, "fast is never slower")
}

func TestPausesGrowAndHaveJitter(t *testing.T) {
	b := &backoff{Timing: Timing{BackoffMin: 200 * time.Millisecond, BackoffMax: 10 * time.Second, Jitter: func() float64 { return 0.5 }}}
	var got []time.Duration
	for range 8 {
		got = append(got, b.pause())
	}
	ms := time.Millisecond
	require.Equal(t, []time.Duration{150 * ms, 300 * ms, 600 * ms, 1200 * ms, 2400 * ms, 4800 * ms, 7500 * ms, 7500 * ms}, got)
	b.reset()
	require.Equal(t, 150*ms, b.pause())
}

// While Docker is away it is not hammered.
func TestNoBusyLoopWhileDockerFails(t *testing.T) {
	d := fakedocker.Start(t)
	d.Between("/tasks", fakedocker.Refuse(500, "no leader"))
	o := quick(d)
	o.Timing.BackoffMin, o.Timing.BackoffMax = time.Hour, time.Hour
	w := start(t, o)
	w.Fails("no leader")
	require.Len(t, d.Asked("/tasks"), 1)
	w.Stop()
}
