package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/overview"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// still is a source with one picture, which it can have trouble with.
type still struct {
	picture *watcher.Picture
	err     error
}

func (still) Name() string { return "still" }

func (s still) Run(ctx context.Context, emit func(watcher.Update)) error {
	emit(watcher.Update{Picture: s.picture, Changes: watcher.Changes{All: true}, Full: true, At: time.Now()})
	if s.err != nil {
		emit(watcher.Update{Picture: s.picture, Err: s.err, At: time.Now()})
	}
	<-ctx.Done()
	return nil
}

// serveStack runs a control plane on the services of a stack file; it gives the
// addresses of its API and of xDS.
func serveStack(t *testing.T, stack, token string, trouble error) (api, xds string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shop.yml")
	require.NoError(t, os.WriteFile(file, []byte(stack), 0o600))
	picture, _, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{file}})
	require.NoError(t, err)
	cfg := config.ForCollections([]string{"dev", "prod"})
	cfg.XDS.Insecure, cfg.Admin.Token, cfg.StateDir = true, token, "" // nothing is kept
	var lis [2]net.Listener
	for i := range lis {
		lis[i], err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- controlPlane{guard: identity.Insecure(),
			cfg: cfg, source: still{picture, trouble}, admin: lis[0], xds: lis[1], log: slog.New(slog.DiscardHandler),
		}.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return lis[0].Addr().String(), lis[1].Addr().String()
}

const shopStack = `
services:
  web:
    deploy:
      replicas: 2
      labels: {com.docker.lb.hosts: shop.example.com, com.docker.lb.port: "8080", com.docker.lb.service_cluster: prod}
`

// connect runs a proxy until the test ends.
func connect(t *testing.T, node, xds string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- envoylike.New(envoylike.Options{Node: node}).Run(ctx, xds) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// waggle runs one command line.
func waggle(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// Two replicas of the same Swarm, a proxy at each: one picture, and nothing wrong.
func TestStatusOfTwoReplicas(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("s3cret\n"), 0o600))
	api1, xds1 := serveStack(t, shopStack, "s3cret", nil)
	api2, xds2 := serveStack(t, shopStack, "s3cret", nil)
	connect(t, "prod/a", xds1)
	connect(t, "prod/b", xds2)
	var o overview.Overview
	require.Eventually(t, func() bool {
		_, out, _ := waggle(t, "status", "--format", "json", "--api", api1+","+api2, "--token-file", token)
		o = overview.Overview{}
		require.NoError(t, json.Unmarshal([]byte(out), &o))
		return len(o.Wrong) == 0 && len(o.Collections) == 3 && o.Collections[2].Proxies.Current == 2
	}, 20*time.Second, 20*time.Millisecond)
	require.Len(t, o.Replicas, 2)
	require.Equal(t, "prod", o.Collections[2].Name)
	require.True(t, o.Collections[2].Agree)
	require.Equal(t, []string{"prod/a", "prod/b"}, []string{o.Proxies[0].NodeID, o.Proxies[1].NodeID})

	t.Setenv("WAGGLE_ADMIN_TOKEN_FILE", token)
	code, out, stderr := waggle(t, "status", "--api", api1, "--api", api2)
	require.Zero(t, code, out+stderr)
	require.Contains(t, out, "Nothing is wrong: 2 control planes that agree, 2 of 2 proxies have everything.")

	code, out, _ = waggle(t, "explain", "--api", api1, "--collection", "prod", "http://shop.example.com/")
	require.Zero(t, code)
	require.Contains(t, out, "→ shop_web")
	code, _, stderr = waggle(t, "explain", "--api", api1, "--collection", "nowhere", "http://shop.example.com/")
	require.Equal(t, exitCouldNot, code)
	require.Contains(t, stderr, "there are default, dev, prod")
}

func TestStatusOfSomethingWrong(t *testing.T) {
	api1, _ := serveStack(t, shopStack, "", nil)
	api2, _ := serveStack(t, strings.ReplaceAll(shopStack, `"8080"`, "eighty"), "", os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool {
		code, out, _ := waggle(t, "status", "--api", api1)
		return code == 0 && strings.Contains(out, "Nothing is wrong")
	}, 20*time.Second, 20*time.Millisecond)
	code, out, _ := waggle(t, "status", "--api", api2+","+api1)
	require.Equal(t, exitFound, code)
	for _, want := range []string{
		api2 + " cannot read what runs (source still), for ",
		"what was read last stays in force: i/o timeout",
		"the replicas disagree about collection prod",
		"1 error in the labels of services",
	} {
		require.Contains(t, out, want)
	}
}

func TestStatusCannotRun(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := lis.Addr().String()
	require.NoError(t, lis.Close())
	locked, _ := serveStack(t, shopStack, "s3cret", nil)
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, args := range map[string][]string{
		"ask the control plane at " + nobody: {"status", "--api", nobody},
		"401: the token of admin.token_file": {"status", "--api", locked},
		"is not an admin address":            {"status", "--api", "ftp://x"},
		"--api names no address":             {"status", "--api", ","},
		empty + " is empty":                  {"status", "--api", nobody, "--token-file", empty},
		"--format \"xml\" is unknown":        {"status", "--format", "xml"},
		"none of the others can be":          {"explain", "-f", "x.yml", "--api", nobody, "http://x/"},
		"control plane at " + nobody:         {"explain", "--api", nobody, "http://x/"},
	} {
		code, out, stderr := waggle(t, args...)
		require.Equal(t, exitCouldNot, code, args)
		require.Empty(t, out)
		require.Contains(t, stderr, want)
	}
}
