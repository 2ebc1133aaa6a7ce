package swarmkit

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/watcher/swarmkit/fakeswarm"
)

// Whatever stands in the way is one sentence with the way out.
func TestWhatStandsInTheWay(t *testing.T) {
	dir, err := os.MkdirTemp("", "swarm")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	refusing := func(err error) func(*testing.T) string {
		return func(t *testing.T) string {
			m := fakeswarm.Start(t)
			m.OnWatch(func(context.Context, *api.WatchRequest) error { return err })
			return m.Socket()
		}
	}
	for _, tt := range []struct {
		name   string
		socket func(*testing.T) string
		says   string
	}{
		{"no socket", func(*testing.T) string { return filepath.Join(dir, "none") }, "there is no control socket at"},
		{"a dead socket", func(t *testing.T) string {
			path := filepath.Join(dir, "dead")
			lis, err := net.Listen("unix", path)
			require.NoError(t, err)
			lis.(*net.UnixListener).SetUnlinkOnClose(false)
			require.NoError(t, lis.Close())
			return path
		}, "nobody listens on the control socket"},
		{"a directory", func(t *testing.T) string {
			path := filepath.Join(dir, "made")
			require.NoError(t, os.Mkdir(path, 0o700))
			return path
		}, "is a directory, which Docker makes where a file to mount is missing"},
		{"another program", func(t *testing.T) string {
			path := filepath.Join(dir, "http")
			lis, err := net.Listen("unix", path)
			require.NoError(t, err)
			s := &httptest.Server{Listener: lis, Config: &http.Server{Handler: http.NotFoundHandler()}}
			s.Start()
			t.Cleanup(s.Close)
			return path
		}, "does not speak TLS as dockerd does"},
		{"not running yet", refusing(status.Error(codes.Unknown, "watch server is not running")), "refuses to be watched (watch server is not running)"},
		{"no Watch", refusing(status.Error(codes.Unimplemented, "unknown service")), "knows no Watch"},
		{"going down", refusing(status.Error(codes.Unavailable, "shutting down")), "has closed the control socket"},
		{"no answer", func(t *testing.T) string {
			m := fakeswarm.Start(t)
			m.OnWatch(func(ctx context.Context, _ *api.WatchRequest) error { return fakeswarm.Hang(ctx) })
			return m.Socket()
		}, "did not answer within"},
		{"no leader", func(t *testing.T) string {
			m := fakeswarm.Start(t)
			m.NoLeader()
			return m.Socket()
		}, "has no leader"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Socket: tt.socket(t)}
			if tt.name == "no answer" {
				o.Timing.Timeout = 200 * time.Millisecond
			}
			for _, err := range []error{New(o).Check(t.Context()), New(o).Follow(t.Context(), nil, nil)} {
				require.ErrorContains(t, err, tt.says)
				require.ErrorContains(t, err, o.Socket)
				require.ErrorContains(t, err, "; ")
				require.NotContains(t, err.Error(), "\n")
			}
		})
	}
	// Root may open everything, so this one cannot be made here.
	require.ErrorContains(t, New(Options{Socket: "/s/control.sock"}).sentence(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}),
		"may not be used by this user: permission denied; run Waggle as root, or set swarm.source: engine")
}

// Whoever has had enough is not kept.
func TestTheEndWhileNobodyAnswers(t *testing.T) {
	m := fakeswarm.Start(t)
	asked := make(chan struct{}, 1)
	m.OnWatch(func(ctx context.Context, _ *api.WatchRequest) error { asked <- struct{}{}; return fakeswarm.Hang(ctx) })
	o := quick(m)
	o.Timing.Timeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(o).Follow(ctx, nil, nil) }()
	<-asked
	cancel()
	require.NoError(t, <-ended)
}
