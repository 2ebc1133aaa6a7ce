package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// mute is a source that cannot read anything.
type mute struct{}

func (mute) Name() string                { return "mute" }
func (mute) Check(context.Context) error { return errors.New("Docker does not answer") }
func (m mute) Run(ctx context.Context, emit func(watcher.Update)) error {
	emit(watcher.Update{Err: m.Check(ctx), At: time.Now()})
	<-ctx.Done()
	return nil
}

// A control plane that has served a proxy leaves what the next one needs while Docker is away.
func TestWhatWasAcceptedOutlivesTheControlPlane(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shop.yml")
	require.NoError(t, os.WriteFile(file, []byte(shopStack), 0o600))
	picture, _, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{file}})
	require.NoError(t, err)
	cfg := config.ForCollections([]string{"prod"})
	cfg.XDS.Insecure, cfg.StateDir = true, filepath.Join(t.TempDir(), "state")
	serve := func(src source) (apiAddr, xdsAddr string, stop func()) {
		var lis [2]net.Listener
		for i := range lis {
			var err error
			lis[i], err = net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- controlPlane{cfg: cfg, guard: identity.Insecure(), source: src, admin: lis[0], xds: lis[1],
				log: slog.New(slog.DiscardHandler), moment: time.Millisecond}.run(ctx)
		}()
		done := false
		stop = func() {
			if !done {
				done = true
				cancel()
				require.NoError(t, <-ended)
			}
		}
		t.Cleanup(stop)
		return lis[0].Addr().String(), lis[1].Addr().String(), stop
	}
	log := slog.New(slog.DiscardHandler)
	require.Error(t, reachedOrKnown(t.Context(), mute{}, cfg, log), "nothing is known yet")

	apiAddr, xdsAddr, stop := serve(checked{still{picture: picture}})
	status := func() (s api.Status) {
		r, err := http.Get("http://" + apiAddr + "/api/v1/status")
		require.NoError(t, err)
		defer r.Body.Close()
		require.NoError(t, json.NewDecoder(r.Body).Decode(&s))
		return s
	}
	connect(t, "prod/1", xdsAddr)
	require.Eventually(t, func() bool {
		r, err := http.Get("http://" + apiAddr + "/api/v1/proxies")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		var all api.Proxies
		return json.NewDecoder(r.Body).Decode(&all) == nil && len(all.Proxies) == 1 && all.Proxies[0].Current && len(all.Proxies[0].Kinds) >= 4
	}, 20*time.Second, 5*time.Millisecond)
	require.Empty(t, status().FromDisk)
	stop()

	require.NoError(t, reachedOrKnown(t.Context(), mute{}, cfg, log))
	apiAddr, xdsAddr, _ = serve(mute{})
	fresh := envoylike.New(envoylike.Options{Node: "prod/2"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- fresh.Run(ctx, xdsAddr) }()
	t.Cleanup(func() { cancel(); <-ended })
	require.NoError(t, fresh.Wait(ctx, fresh.Active))
	require.Len(t, fresh.State()[translate.Cluster], 1)
	s := status()
	require.False(t, s.Ready)
	require.True(t, s.Source.Stale)
	require.Contains(t, s.FromDisk, "prod")
	require.Contains(t, s.NotReady, "from disk")
}

// checked is a source that can always be read.
type checked struct{ watcher.Source }

func (checked) Check(context.Context) error { return nil }
