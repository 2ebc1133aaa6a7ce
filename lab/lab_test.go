package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/identity"
)

// inProcess is a whole control plane without its API, as cmd/waggle puts one together.
func inProcess(ctx context.Context, src watcher.Source, cfg *config.Config, ca *secrets.LocalCA, lis net.Listener, _ string) (func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	log := slog.New(slog.DiscardHandler)
	server := xds.New(xds.Options{Guard: identity.Insecure(), Logger: log})
	loop := control.New(cfg, server, control.DefaultPace, log)
	providers := secrets.NewProviders(func(to netip.AddrPort, loopback bool) string { return translate.RefusedAddress(cfg, to, loopback) })
	disk := secrets.NewWatch(cfg, secrets.Options{Providers: providers, Log: log}, func(m *secrets.Material) { loop.Material(m.WithLocal(ca)) })
	loop.OnWantedIssuers(disk.WantIssuers)
	disk.Look()
	var wg sync.WaitGroup
	wg.Go(func() { _ = loop.Run(ctx) })
	wg.Go(func() { disk.Run(ctx) })
	wg.Go(func() {
		_ = src.Run(ctx, func(u watcher.Update) {
			disk.Declare(u.Picture)
			loop.Update(u)
		})
	})
	wg.Go(func() { _ = server.Serve(ctx, lis) })
	return func() { cancel(); wg.Wait() }, nil
}

// syncBuffer is what a running lab has printed so far.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// freeOptions is a lab on free ports.
func freeOptions(out, progress *syncBuffer) Options {
	return Options{API: "127.0.0.1:0", ControlPlane: inProcess, Stdout: out, Stderr: progress, Timing: quick}
}

func TestTheStoryGoesWell(t *testing.T) {
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.Once = true
	o.Timing = Timing{Warning: 300 * time.Millisecond, Grace: 5 * time.Second, Notice: 50 * time.Millisecond, Restart: 100 * time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err := Run(ctx, o)
	t.Logf("%s%s", out.String(), progress.String())
	require.NoError(t, err)
	for _, line := range []string{
		"curl http://shop.dev.localhost:", "curl http://shop.prod.localhost:", "shop-test_web, shop-test_web-canary",
		"11 of 11 steps went well", ", 0 failed.\n",
		"unknown_host", "not_built", "pirate_web",
	} {
		require.Contains(t, out.String(), line)
	}
	rate := regexp.MustCompile(`(\d+) a second, 0 failed`).FindStringSubmatch(out.String())
	require.Len(t, rate, 2)
	perSecond, err := strconv.Atoi(rate[1])
	require.NoError(t, err)
	require.GreaterOrEqual(t, perSecond, 3*100, "on three collections together")
}

// ready is the line that a lab prints when it is.
type ready struct {
	Ready       bool   `json:"ready"`
	API         string `json:"api"`
	Collections map[string]struct{ HTTP, HTTPS, Admin string }
}

// running starts a lab that stays up, waits for its ready line, and gives its ports.
// It must end well with the test.
func running(t testing.TB, o Options) ready {
	t.Helper()
	o.Format = "json"
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	out := o.Stdout.(*syncBuffer)
	var r ready
	require.Eventually(t, func() bool {
		select {
		case err := <-ended:
			ended <- err
			return true
		default:
			return strings.HasSuffix(out.String(), "\n")
		}
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, json.Unmarshal([]byte(out.String()), &r), "%s\n%s", out.String(), o.Stderr)
	require.True(t, r.Ready)
	return r
}

func TestAStackFileIsLiveOnSave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stack.yml")
	save := func(host string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(`
services:
  web:
    image: example/web
    deploy:
      replicas: 2
      labels: {lb.hosts: `+host+`, lb.port: "80"}
  bad:
    image: example/bad
    deploy:
      labels: {lb.hosts: bad.localhost, lb.port: many, lb.service_cluster: dev}
`), 0o600))
	}
	save("one.localhost")
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.Files = []string{file}
	r := running(t, o)
	require.Len(t, r.Collections, 2)
	proxy := r.Collections["default"].HTTP
	require.NotEmpty(t, r.Collections["dev"].HTTPS)
	require.NotEmpty(t, r.Collections["dev"].Admin)

	got, err := ask(t.Context(), proxy, "one.localhost", "/")
	require.NoError(t, err)
	require.Equal(t, "stack_web", got.service)
	require.Eventually(t, func() bool { return strings.Contains(progress.String(), "error: stack_bad lb.port=many: ") }, deadline, 5*time.Millisecond)

	save("two.localhost")
	_, err = until(t.Context(), proxy, "two.localhost", "/", from("stack_web"))
	require.NoError(t, err)
	_, err = until(t.Context(), proxy, "one.localhost", "/", because(503, "unknown_host"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		said := progress.String()
		return strings.Contains(said, "applied (changed: stack_web)") && strings.Contains(said, "stack_web: curl http://two.localhost:")
	}, deadline, 5*time.Millisecond)

	require.NoError(t, os.WriteFile(file, []byte("services: ["), 0o600))
	require.Eventually(t, func() bool { return strings.Contains(progress.String(), "what ran before stays") }, deadline, 5*time.Millisecond)
	got, err = ask(t.Context(), proxy, "two.localhost", "/")
	require.NoError(t, err)
	require.Equal(t, "stack_web", got.service)
}

func TestCtrlCEndsTheStory(t *testing.T) {
	var out, progress syncBuffer
	r := running(t, freeOptions(&out, &progress))
	require.Len(t, r.Collections, 3)
	require.Contains(t, r.API, "127.0.0.1:")
	for name, c := range r.Collections {
		got, err := ask(t.Context(), c.HTTP, "blog."+name+".localhost", "/")
		require.NoError(t, err)
		require.Equal(t, blog(name), got.service)
	}
	require.Eventually(t, func() bool { return strings.Contains(progress.String(), "The story.") }, time.Minute, 5*time.Millisecond)
	require.Equal(t, 1, strings.Count(out.String(), "\n"), "stdout has the ready line and nothing else")
}

func TestAnEnvoyThatEndsEndsTheLab(t *testing.T) {
	b := newBench(t)
	var out, progress syncBuffer
	b.o.Stdout, b.progress = &out, &progress
	b.files = stackfile.NewSource(stackfile.Options{Files: []string{"testdata/hosts.yml"}})
	ended := make(chan error, 1)
	go func() { ended <- b.live(t.Context()) }()
	b.fleet[0].Stop()
	require.EqualError(t, <-ended, "the Envoy of collection dev ended by itself, and the lab with it: start it again")
}

func TestOnceAsksEveryRouteOfAStackFile(t *testing.T) {
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.Files, o.Once, o.Stack = []string{"-"}, true, "s"
	o.Stdin = strings.NewReader(`
services:
  web:
    image: example/web
    deploy: {replicas: 1, labels: {lb.hosts: "a.example.com,*.b.example.com", lb.port: "80", lb.rest.default_backend: "true", lb.rest.port: "81"}}
`)
	require.NoError(t, Run(t.Context(), o), progress.String())
	for _, line := range []string{"✓ http://a.example.com:", "✓ http://any.b.example.com:", "200 from s_web"} {
		require.Contains(t, progress.String(), line)
	}
	require.Contains(t, out.String(), "curl --resolve a.example.com:")
	require.Contains(t, out.String(), "curl -H 'Host: anything.example.com' http://127.0.0.1:")
}

func TestWhatCannotRunIsSaidInOneSentence(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	var started bool
	for name, tc := range map[string]struct {
		change func(*Options)
		says   []string
	}{
		"HTTP port taken":      {func(o *Options) { o.HTTPBase = port }, []string{"(HTTP of collection dev) cannot be used", "address already in use", "--http-base N (0: any free)"}},
		"API port taken":       {func(o *Options) { o.API = taken.Addr().String() }, []string{"(the API) cannot be used", "--api"}},
		"ports wanted twice":   {func(o *Options) { o.HTTPBase, o.HTTPSBase = 21080, 21081 }, []string{"port 21081 is wanted twice"}},
		"port beyond the last": {func(o *Options) { o.AdminBase = 65535 }, []string{"port 65536", "--admin-base"}},
		"API elsewhere":        {func(o *Options) { o.API = "0.0.0.0:19000" }, []string{"--api 0.0.0.0:19000", "127.0.0.1:PORT"}},
		"unknown format":       {func(o *Options) { o.Format = "yaml" }, []string{`format "yaml" is unknown: use table or json`}},
		"demo with a file":     {func(o *Options) { o.Config = config.ForCollections(nil) }, []string{"the demo brings its own collections"}},
		"no such file":         {func(o *Options) { o.Files = []string{"nowhere.yml"} }, []string{"nowhere.yml"}},
		"no Envoy":             {func(*Options) { t.Setenv("ENVOY", "/nowhere/envoy") }, []string{"ENVOY=/nowhere/envoy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("ENVOY", os.Getenv("ENVOY"))
			var out, progress syncBuffer
			o := freeOptions(&out, &progress)
			o.ControlPlane = func(context.Context, watcher.Source, *config.Config, *secrets.LocalCA, net.Listener, string) (func(), error) {
				started = true
				return nil, errors.New("not in this test")
			}
			tc.change(&o)
			err := Run(t.Context(), o)
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrStory)
			for _, s := range tc.says {
				require.ErrorContains(t, err, s)
			}
			require.NotContains(t, err.Error(), "\n")
			require.Empty(t, out.String())
			require.False(t, started, "nothing was started")
		})
	}
}

func TestAControlPlaneThatDoesNotStart(t *testing.T) {
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.ControlPlane = func(context.Context, watcher.Source, *config.Config, *secrets.LocalCA, net.Listener, string) (func(), error) {
		return nil, errors.New("no luck")
	}
	require.ErrorContains(t, Run(t.Context(), o), "start the control plane: no luck")
}
