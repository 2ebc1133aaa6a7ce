package lab

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/envoy"
	"github.com/waggle-lb/waggle/lab/load"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// newStory is a story whose load goes to a server that does what the test wants.
func newStory(t *testing.T, h http.HandlerFunc) (*story, *syncBuffer) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	var out syncBuffer
	s := &story{
		lab: &lab{o: Options{Rate: 200}, addresses: []addresses{{collection: "dev"}}}, out: &out,
		traffic: &traffic{runs: map[string][]*load.Run{}},
	}
	r, err := load.Start(t.Context(), load.Target{URL: server.URL, Rate: 200})
	require.NoError(t, err)
	s.traffic.runs["dev"] = []*load.Run{r}
	t.Cleanup(s.traffic.stop)
	return s, &out
}

func TestAStepThatFailsIsMarked(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	t.Run("by itself", func(t *testing.T) {
		s, out := newStory(t, func(http.ResponseWriter, *http.Request) {})
		s.chapter(ctx, "Fine", func(_ context.Context, st *step) error { st.say("as it should be"); return nil })
		s.chapter(ctx, "Broken", func(context.Context, *step) error { return errors.New("no luck") })
		require.Equal(t, []string{"Broken"}, s.failed)
		require.Contains(t, out.String(), "✓  1  Fine\n      as it should be\n")
		require.Contains(t, out.String(), "✗  2  Broken\n      FAILED: no luck\n")
	})
	t.Run("by a lost request", func(t *testing.T) {
		s, out := newStory(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) })
		s.chapter(ctx, "Lossy", func(context.Context, *step) error { return nil })
		require.Equal(t, []string{"Lossy"}, s.failed)
		require.Contains(t, out.String(), "✗  1  Lossy\n")
		require.Contains(t, out.String(), "failed: ")
		require.Contains(t, out.String(), "status 502, want 200")
	})
}

func TestAnInterruptedStoryIsNoSuccess(t *testing.T) {
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.Once = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	require.Eventually(t, func() bool { return len(out.String()) > 0 }, time.Minute, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, ErrStory)
}

// A restarted control plane that sends something again must be found out: here one
// that comes back with another opinion on access logs, which is another listener.
func TestSendingAgainIsFoundOut(t *testing.T) {
	binary, err := envoy.Find()
	require.NoError(t, err)
	starts := 0
	forgetful := func(ctx context.Context, src watcher.Source, cfg *config.Config, ca *secrets.LocalCA, lis net.Listener, api string) (func(), error) {
		if starts++; starts > 1 {
			for _, c := range cfg.Collections {
				c.AccessLog = true
			}
		}
		return inProcess(ctx, src, cfg, ca, lis, api)
	}
	l := &lab{o: Options{API: "127.0.0.1:0", Rate: 60, ControlPlane: forgetful}}
	p, err := l.read(t.Context(), t.TempDir())
	require.NoError(t, err)
	require.NoError(t, l.assign())
	l.src = NewSource(quick, l.cfg.LabelPrefixes)
	t.Cleanup(l.src.Close)
	require.NoError(t, l.src.Apply(p))
	ca, err := newAuthority(time.Now())
	require.NoError(t, err)
	l.plane, err = startPlane(t.Context(), l.o.ControlPlane, l.src, l.cfg, ca, l.api)
	require.NoError(t, err)
	t.Cleanup(l.plane.kill)
	l.fleet, err = startFleet(t.Context(), binary, t.TempDir(), l.plane.address, l.addresses)
	require.NoError(t, err)
	t.Cleanup(l.fleet.stop)
	traffic, err := startTraffic(t.Context(), l.addresses, ca, l.o.Rate)
	require.NoError(t, err)
	t.Cleanup(traffic.stop)
	s := &story{lab: l, traffic: traffic}
	require.ErrorContains(t, s.restarted(t.Context(), &step{}), "the proxies were sent what they had already")
}
