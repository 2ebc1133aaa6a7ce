package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/lab/envoy"
	"github.com/waggle-lb/waggle/translate/cases/certs"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// request is what is sent to a collection's proxy.
type request struct {
	in     string // collection; "": default
	method string // "": GET
	host   string
	path   string // "": /
}

// want is what must come back. Empty fields are not looked at, but reason, which
// must be absent where it is empty.
type want struct {
	status     int
	service    string // who answered
	reason     string // x-waggle-reason
	location   string
	seenPath   string // what reached the task
	seenHost   string
	retryAfter string
}

func ok(service string) want         { return want{status: 200, service: service} }
func no(status int, why string) want { return want{status: status, reason: why} }
func sees(service, path string) want { return want{status: 200, service: service, seenPath: path} }
func moved(code int, to string) want { return want{status: code, location: to} }
func at(host string, p ...string) request {
	return request{host: host, path: strings.Join(p, "")}
}

// rules are the label language by real requests: stack files of testdata, and what
// the proxies make of them. LABELS in brackets: the section that says so.
var rules = []struct {
	name     string
	files    []string
	asks     []exchange
	problems []problem // that must be among those told
	shares   []share
}{
	{name: "hosts", files: []string{"hosts"}, // Which traffic
		asks: []exchange{
			{at("a.example.com"), ok("hosts_exact")},
			{at("A.EXAMPLE.com"), ok("hosts_exact")},
			{at("a.example.com:1234"), want{status: 200, service: "hosts_exact", seenHost: "a.example.com:1234"}},
			{at("mixed.example.com"), ok("hosts_exact")},
			{at("ported.example.com"), ok("hosts_exact")},
			{at("xn--bcher-kva.example.com"), ok("hosts_exact")},
			{at("other.example.com"), ok("hosts_wild")},
			{at("any.depth.example.com"), ok("hosts_wild")},
			{at("other.example.com:99"), ok("hosts_wild")},
			{at("b.example.com"), ok("hosts_wild")},
			{at("x.b.example.com"), ok("hosts_deeper")},
			{at("x.y.b.example.com"), ok("hosts_deeper")},
			{at("example.com"), ok("hosts_rest")},
			{at("good.example.org"), ok("hosts_half")},
			{at("a.b.example.org"), ok("hosts_rest")},
			{at("127.0.0.1:8080"), ok("hosts_rest")},
		},
		problems: []problem{
			{labels.Error, "hosts_half", "lb.hosts", ""},
			{labels.Warning, "hosts_exact", "lb.hosts", ""},
		},
	},
	{name: "context roots", files: []string{"paths"}, // Which traffic: context_root
		asks: []exchange{
			{at("paths.example.com"), sees("paths_root", "/")},
			{at("paths.example.com", "/apple"), sees("paths_root", "/apple")},
			{at("paths.example.com", "/app"), sees("paths_app", "/app")},
			{at("paths.example.com", "/app/"), sees("paths_app", "/app/")},
			{at("paths.example.com", "/app/x?y=1"), sees("paths_app", "/app/x")},
			{at("paths.example.com", "/app?y=1"), sees("paths_app", "/app")},
			{at("paths.example.com", "/app/adminx"), sees("paths_app", "/app/adminx")},
			{at("paths.example.com", "/app/admin"), sees("paths_admin", "/app/admin")},
			{at("paths.example.com", "/app/admin/users"), sees("paths_admin", "/app/admin/users")},
			{at("paths.example.com", "/app/x/../admin/users"), sees("paths_admin", "/app/admin/users")},
			{at("paths.example.com", "//app//admin"), sees("paths_admin", "/app/admin")},
			{at("paths.example.com", "/strip"), moved(301, "http://paths.example.com/strip/")},
			{at("paths.example.com", "/strip/"), sees("paths_stripped", "/")},
			{at("paths.example.com", "/strip/x/y?z=1"), sees("paths_stripped", "/x/y")},
			{at("paths.example.com", "/stripe"), sees("paths_root", "/stripe")},
			{request{host: "paths.example.com", method: "POST", path: "/strip/x"}, sees("paths_stripped", "/x")},
			{at("apponly.example.com", "/app"), ok("paths_app")},
			{at("apponly.example.com", "/"), no(404, "no_route")},
			{at("apponly.example.com", "/apple"), no(404, "no_route")},
			{at("nobody.example.com", "/app"), no(503, "unknown_host")},
		},
	},
	{name: "sharing", files: []string{"shares"}, // Whose host is it: same match
		asks: []exchange{
			{at("gone.example.com"), want{status: 503, reason: "no_task", retryAfter: "1"}},
		},
		shares: []share{
			{at("replicas.example.com"), map[string]float64{"shares_stable": 0.8, "shares_canary": 0.2}},
			{at("weights.example.com"), map[string]float64{"shares_heavy": 0.75, "shares_light": 0.25}},
			{at("halfgone.example.com"), map[string]float64{"shares_there": 1}},
		},
	},
	{name: "routes and ports", files: []string{"routes"}, // Grammar; Where it goes: port
		asks: []exchange{
			{at("many.example.com"), ok("routes_many")},
			{at("admin.example.com"), ok("routes_many")},
			{at("short.example.com"), ok("routes_many")},
			{at("loser.example.com"), ok("routes_everything-else")}, // the first prefix holds
			{at("published.example.com"), ok("routes_published")},
			{at("exposed.example.com"), ok("routes_exposed")},
			{at("whatever.example.com", "/deep/path"), sees("routes_everything-else", "/deep/path")},
			{at("portless.example.com"), no(503, "not_built")},
			{at("vip.example.com"), ok("routes_vip")},
			{at("host.example.com"), ok("routes_host")},
		},
		problems: []problem{
			{labels.Warning, "routes_many", "lb.hosts", ""},
			{labels.Error, "routes_many", "", ""},
			{labels.Info, "routes_vip", "lb.backend_mode", ""},
			{labels.Info, "routes_host", "lb.backend_mode", ""},
		},
	},
	{name: "collections", files: []string{"collections"}, // Which collection
		asks: []exchange{
			{request{in: "dev", host: "same.example.com"}, ok("collections_in-dev")},
			{request{in: "prod", host: "same.example.com"}, ok("collections_in-prod")},
			{request{in: "prod", host: "prod.example.com"}, ok("collections_in-prod")},
			{request{in: "dev", host: "prod.example.com"}, no(503, "unknown_host")},
			{request{in: "default", host: "same.example.com"}, no(503, "unknown_host")},
			{request{in: "default", host: "default.example.com"}, ok("collections_by-default")},
			{request{in: "dev", host: "default.example.com"}, no(503, "unknown_host")},
			{request{in: "dev", host: "moon.example.com"}, no(503, "unknown_host")},
			{request{in: "default", host: "moon.example.com"}, no(503, "unknown_host")},
			{request{in: "dev", host: "access.example.com"}, ok("collections_by-access")},
			{request{in: "prod", host: "constraint.example.com"}, ok("collections_by-constraint")},
			{request{in: "dev", host: "foreign.example.com"}, no(503, "unknown_host")},
			{request{in: "prod", host: "foreign.example.com"}, no(503, "unknown_host")},
		},
		problems: []problem{
			{labels.Error, "collections_nowhere", "lb.service_cluster", ""},
			{labels.Error, "collections_foreign", "lb.service_cluster", ""},
		},
	},
	{name: "the operator's keys", files: []string{"operator"}, // Grammar: precedence
		asks: []exchange{
			{request{in: "strict", host: "plain.example.com", path: "/must/x"}, sees("operator_plain", "/x")},
			{request{in: "strict", host: "plain.example.com", path: "/x"}, no(404, "no_route")},
			{request{in: "strict", host: "own.example.com", path: "/must/"}, ok("operator_own")},
			{request{in: "strict", host: "own.example.com", path: "/must/?delay=1s"}, no(504, "timeout")}, // required, whatever the label says
			{request{in: "strict", host: "named.example.com", path: "/must/x"}, sees("operator_own", "/x")},
		},
	},
	{name: "whose host is it", files: []string{"team-a", "team-b"}, // Whose host is it
		asks: []exchange{
			{at("shared.example.com"), ok("team-a_web")},
			{at("shared.example.com", "/api/x"), ok("team-a_api")},
			{at("shared.example.com", "/free/x"), ok("team-b_free")},
			{at("any.a.example.com"), ok("team-a_web")},
			{at("b.example.com"), ok("team-b_thief")}, // what nobody else claims is the thief's
		},
		problems: []problem{
			{labels.Error, "team-b_thief", "lb.hosts", "team-a_web"},
			{labels.Error, "team-b_thief-of-api", "", "team-a_api"},
		},
	},
	{name: "hosts by the operator's word", files: []string{"early", "late"}, // Whose host is it: share_hosts, host_owners
		asks:     []exchange{{request{in: "dev", host: "owned.example.com"}, ok("late_owned")}},
		problems: []problem{{labels.Error, "early_owned", "lb.hosts", "late_owned"}},
		shares:   []share{{request{in: "open", host: "merged.example.com"}, map[string]float64{"early_merged": 0.5, "late_merged": 0.5}}},
	},
	{name: "bad values", files: []string{"bad"}, // When a value is bad
		asks: []exchange{
			{at("bad.example.com"), ok("bad_good")},
			{at("bad.example.com", "/port/x"), no(503, "not_built")}, // never a wider match
			{at("bad.example.com", "/portal"), ok("bad_good")},
			{at("root.example.com"), no(503, "not_built")},
			{at("unbuilt.example.com", "/v1"), no(503, "not_built")},
			{at("guarded.example.com"), no(503, "guard_unavailable")},
			{at("badguard.example.com"), no(503, "guard_unavailable")},
			{at("comfort.example.com"), ok("bad_comfort")},
			{at("unknown.example.com"), ok("bad_unknown")},
			{at("named.example.com"), ok("bad_named")},
			{at("other.example.com"), no(503, "not_built")},
		},
		problems: []problem{
			{labels.Error, "bad_port", "lb.port", ""},
			{labels.Error, "bad_root", "lb.context_root", ""},
			{labels.Error, "bad_unbuilt", "lb.udp_port", ""},
			{labels.Error, "bad_guarded", "lb.basic_auth", ""},
			{labels.Error, "bad_badguard", "lb.max_body_size", ""},
			{"", "bad_comfort", "lb.retries", ""},
			{labels.Warning, "bad_comfort", "lb.hsts", ""},
			{labels.Warning, "bad_unknown", "lb.contextroot", ""},
			{labels.Error, "bad_named", "lb.other.port", ""},
		},
	},
	{name: "answers", files: []string{"answers"}, // Answers from the proxy
		asks: []exchange{
			{at("app.example.com", "/?status=503"), want{status: 503, service: "answers_app"}},
			{at("app.example.com", "/?status=404"), want{status: 404, service: "answers_app"}},
			{at("app.example.com", "/?bytes=1000000"), ok("answers_app")},
			{request{host: "app.example.com", method: "HEAD"}, ok("answers_app")},
			{request{host: "app.example.com", method: "DELETE", path: "/x"}, sees("answers_app", "/x")},
			{at("app.example.com", "/?delay=300ms"), ok("answers_app")},
			{at("impatient.example.com"), ok("answers_impatient")},
			{at("impatient.example.com", "/?delay=1s"), no(504, "timeout")},
			{at("empty.example.com"), want{status: 503, reason: "no_task", retryAfter: "1"}},
			{at("path.example.com", "/x"), no(404, "no_route")},
			{at("elsewhere.example.com"), no(503, "unknown_host")},
		},
	},
}

type exchange struct {
	request
	want
}

// problem is one that must be told. An empty field fits any.
type problem struct {
	severity       labels.Severity
	service, label string
	winner         string
}

// share is how a request, sent often, must spread over services.
type share struct {
	request
	by map[string]float64
}

// bench is a lab without a story: proxies of real Envoys, and services as a test wants them.
type bench struct {
	*lab
	n int // of pictures applied
}

func newBench(t *testing.T) *bench {
	t.Helper()
	cfg := config.ForCollections([]string{"dev", "prod", "strict", "open"})
	dev, prod := cfg.Collections["dev"], cfg.Collections["prod"]
	dev.AccessLabels, prod.AccessLabels = []string{"/dev"}, []string{"/prod"}
	prod.MatchConstraints = []string{"node.labels.collection==prod"}
	dev.HostOwners = map[string][]string{"owned.example.com": {"late"}}
	cfg.Collections["open"].ShareHosts = "any"
	strict := cfg.Collections["strict"]
	strict.Defaults = map[string]string{"port": "80", "context_root_rewrite": "true"}
	strict.Required = map[string]string{"context_root": "/must", "timeout": "200ms"}
	return benchFor(t, cfg)
}

// benchFor is a bench with one proxy for each collection of the configuration.
func benchFor(t *testing.T, cfg *config.Config) *bench {
	t.Helper()
	binary, err := envoy.Find()
	require.NoError(t, err)
	l := &lab{o: Options{API: "127.0.0.1:0"}, cfg: cfg}
	public := map[string]uint32{}
	for name, c := range cfg.Collections {
		public[name] = c.HTTPSPublicPort
	}
	require.NoError(t, l.assign())
	for name, c := range l.cfg.Collections {
		c.HTTPSPublicPort = public[name] // what redirects name is what the test says
	}
	timing := quick
	timing.Warning = 200 * time.Millisecond // by then any proxy has heard that a task leaves
	l.src = NewSource(timing, l.cfg.LabelPrefixes, operatorPorts(l.cfg)...)
	t.Cleanup(l.src.Close)
	made, err := certs.Make(nil)
	require.NoError(t, err)
	l.authority, err = made.Authority()
	require.NoError(t, err)
	l.src.Secure(l.authority)
	l.plane, err = startPlane(t.Context(), inProcess, l.src, l.cfg, l.authority, l.api)
	require.NoError(t, err)
	t.Cleanup(l.plane.kill)
	l.fleet, err = startFleet(t.Context(), binary, t.TempDir(), l.plane.address, l.addresses)
	require.NoError(t, err)
	t.Cleanup(l.fleet.stop)
	return &bench{lab: l}
}

// load makes the stack files those that run, and waits until every proxy has them: a
// marker service that came with them answers in each collection.
func (b *bench) load(t *testing.T, names ...string) {
	t.Helper()
	var files []string
	for _, n := range names {
		files = append(files, filepath.Join("testdata", n+".yml"))
	}
	p, findings, err := stackfile.Load(t.Context(), stackfile.Options{Files: files})
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(findings, func(f stackfile.Finding) bool { return f.Severity == stackfile.Error }), "%v", findings)
	b.apply(t, p)
}

// apply makes p what runs, as load does.
func (b *bench) apply(t *testing.T, p *watcher.Picture) {
	t.Helper()
	b.n++
	for _, a := range b.addresses {
		id := b.marker(a.collection)
		p.Services[id] = &watcher.Service{
			ID: id, Name: id, Order: 1000, Mode: watcher.Replicated, Replicas: 1,
			Labels: map[string]string{"lb.service_cluster": a.collection, "lb.hosts": fmt.Sprintf("marker-%d.test", b.n), "lb.port": "80"},
		}
	}
	require.NoError(t, b.src.Apply(p))
	for _, a := range b.addresses {
		path := "/"
		if a.collection == "strict" {
			path = "/must/"
		}
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		_, err := until(ctx, a.http.String(), fmt.Sprintf("marker-%d.test", b.n), path, from(b.marker(a.collection)))
		cancel()
		if err != nil { // most likely it has refused something, and says what
			log, _ := os.ReadFile(b.fleet[slices.Index(b.addresses, a)].Log())
			require.NoError(t, err, "the Envoy of %s: %s", a.collection, log)
		}
	}
}

// marker is the newest marker service of a collection; by its name the last to start.
func (b *bench) marker(collection string) string {
	return fmt.Sprintf("zz-marker-%d-%s", b.n, collection)
}

// send sends the request on a connection of its own.
func (b *bench) send(t *testing.T, r request) (*http.Response, string) {
	t.Helper()
	in := r.in
	if in == "" {
		in = "default"
	}
	req, err := http.NewRequest(r.method, "http://"+b.proxy(in), nil)
	require.NoError(t, err)
	req.Host = r.host
	path, query, _ := strings.Cut(r.path, "?")
	if path == "" {
		path = "/"
	}
	req.URL.Opaque, req.URL.RawQuery = "", query
	req.URL.Path, req.URL.RawPath = unescaped(path), path // as it is, unnormalised
	tr := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: tr, Timeout: deadline, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func unescaped(path string) string {
	if p, err := url.PathUnescape(path); err == nil {
		return p
	}
	return path
}

func (b *bench) check(t *testing.T, r request, w want) {
	t.Helper()
	resp, body := b.send(t, r)
	say := fmt.Sprintf("%s %s%s: %s %v %s", r.method, r.host, r.path, resp.Status, resp.Header, body)
	require.Equal(t, w.status, resp.StatusCode, say)
	require.Equal(t, w.reason, resp.Header.Get("X-Waggle-Reason"), say)
	if w.service != "" {
		require.Equal(t, w.service, resp.Header.Get("X-Waggle-Service"), say)
	}
	if w.location != "" {
		require.Equal(t, w.location, resp.Header.Get("Location"), say)
	}
	if w.retryAfter != "" {
		require.Equal(t, w.retryAfter, resp.Header.Get("Retry-After"), say)
	}
	if w.reason != "" { // one static sentence
		require.Empty(t, resp.Header.Get("X-Waggle-Service"), say)
		require.Contains(t, resp.Header.Get("Content-Type"), "text/plain", say)
		require.Equal(t, 1, strings.Count(body, "\n"), say)
		require.NotContains(t, body, r.host, say)
	}
	if w.seenPath != "" || w.seenHost != "" {
		var a echo.Answer
		require.NoError(t, json.Unmarshal([]byte(body), &a), say)
		if w.seenPath != "" {
			require.Equal(t, w.seenPath, a.Path, say)
		}
		if w.seenHost != "" {
			require.Equal(t, w.seenHost, a.Host, say)
		}
	}
}

func TestEveryRuleByRealRequests(t *testing.T) {
	b := newBench(t)
	for _, tc := range rules {
		t.Run(tc.name, func(t *testing.T) {
			b.load(t, tc.files...)
			for _, x := range tc.asks {
				t.Run(x.in+" "+x.method+" "+x.host+x.path, func(t *testing.T) { b.check(t, x.request, x.want) })
			}
			for _, p := range tc.problems {
				require.True(t, slices.ContainsFunc(b.built().Problems(), func(got labels.Problem) bool {
					return got.Service == p.service && (p.label == "" || got.Label == p.label) &&
						(p.severity == "" || got.Severity == p.severity) && (p.winner == "" || got.Winner == p.winner)
				}), "want %+v among %+v", p, b.built().Problems())
			}
			for _, s := range tc.shares {
				const n = 400
				got := map[string]int{}
				for range n {
					resp, _ := b.send(t, s.request)
					require.Equal(t, 200, resp.StatusCode)
					got[resp.Header.Get("X-Waggle-Service")]++
				}
				require.Len(t, got, len(s.by), "%v", got)
				for service, share := range s.by {
					// Four standard deviations of a half of 400 are 0.1.
					require.InDelta(t, share, float64(got[service])/n, 0.11, "%v", got)
				}
			}
		})
	}
	t.Run("a WebSocket through the proxy", func(t *testing.T) {
		b.load(t, "answers")
		cfg, err := websocket.NewConfig("ws://app.example.com/chat", "http://app.example.com")
		require.NoError(t, err)
		conn, err := net.Dial("tcp", b.proxy("default"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
		ws, err := websocket.NewClient(cfg, conn)
		require.NoError(t, err)
		require.NoError(t, websocket.Message.Send(ws, "hello"))
		var back string
		require.NoError(t, websocket.Message.Receive(ws, &back))
		require.Equal(t, "hello", back)
	})
	t.Run("a request is finished by a task that leaves", func(t *testing.T) {
		b.load(t, "answers")
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		began, answered := make(chan struct{}), make(chan error, 1)
		go func() {
			close(began)
			got, err := ask(ctx, b.proxy("default"), "app.example.com", "/?delay=1s")
			if err == nil && got.status != 200 {
				err = errors.New(got.String())
			}
			answered <- err
		}()
		<-began
		require.NoError(t, b.src.Update(ctx, "answers_app", Rollout{StartFirst: true}))
		require.NoError(t, <-answered)
	})
	t.Run("a task that is gone without a word is unreachable", func(t *testing.T) {
		b.load(t, "answers")
		svc, err := b.src.service("answers_app")
		require.NoError(t, err)
		svc.tasks[0].kill() // and nobody notices: it stays in the picture
		b.check(t, at("app.example.com"), no(503, "unreachable"))
	})
}
