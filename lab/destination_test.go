package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// TestDestination is what an example of the label language cannot say about where
// requests go: it takes many of them, tasks that come, go and fail, or a client of
// another kind.
func TestDestination(t *testing.T) {
	d := &destination{bench: benchFor(t, config.ForCollections(nil))}
	d.deploy(t, map[string]map[string]string{
		"plain": {}, "two:2": {"protocol": "h2c"}, "calls": {"protocol": "grpc"}, "same": {"protocol": "auto"},
		"v1": {"send_proxy_protocol": "v1"}, "v2": {"send_proxy_protocol": "v2", "protocol": "h2c"},
		"pinned:3": {"sticky_sessions": "pin,1h"},
		"half-a:2": {"hosts": "half.test", "sticky_sessions": "pin", "hash_on": "header:X-User"}, "half-b:2": {"hosts": "half.test", "sticky_sessions": "pin", "hash_on": "header:X-User"},
		"hashed:4": {"hash_on": "header:X-Tenant"}, "maglev:4": {"sticky_session_cookie": "sid", "lb_policy": "maglev"}, "client:4": {"ip_hash": "true"},
		"copied": {"mirror": "all"}, "sampled": {"mirror": "some,25%"}, "all": nil, "some": nil,
		"main:2": {"failover": "spare"}, "dead:2": {"failover": "spare"}, "spare": {},
		"retries": {}, "once": {"retries": "0"}, "none": {"retry_methods": "none"},
		"errors": {"retry_on": "connect-failure,gateway-error", "retry_methods": "GET,PUT"}, "slow": {"per_try_timeout": "200ms"},
		"checked:3": {"health_path": "/up", "health_interval": "50ms", "health_timeout": "1s", "health_fall": "2"},
		"near:3":    {"prefer_local": "true"}, "far:3": {}, "many:9": {},
		"updated:2": {"health_path": "/up", "health_interval": "1s"}, "moved:2": {"prefer_local": "true", "sticky_sessions": "pin"},
		"narrow": {"max_requests": "1"},
	})
	t.Run("protocols", d.protocols)
	t.Run("the client's address by the PROXY protocol", d.proxyProtocol)
	t.Run("sessions", d.sessions)
	t.Run("hashes", d.hashes)
	t.Run("the proxy's own node", d.local)
	t.Run("mirrors", d.mirrors)
	t.Run("another service stands in", d.failover)
	t.Run("retries", d.retries)
	t.Run("checks", d.checks)
	t.Run("limits", d.limits)
	for _, host := range []string{"updated", "moved", "hashed", "two"} {
		t.Run("an update loses no request: "+host, func(t *testing.T) { d.updates(t, host) })
	}
}

type destination struct {
	*bench
	services map[string]*watcher.Service
}

// deploy makes a service of each name with as many tasks as stand behind its
// colon, at the host <name>.test; nil labels are none at all.
func (d *destination) deploy(t *testing.T, services map[string]map[string]string) {
	t.Helper()
	p := &watcher.Picture{Services: map[string]*watcher.Service{}}
	for key, says := range services {
		name, replicas := key, uint64(1)
		if n, err := fmt.Sscanf(strings.ReplaceAll(key, ":", " "), "%s %d", &name, &replicas); n == 0 {
			require.NoError(t, err)
		}
		s := &watcher.Service{ID: name, Name: name, Mode: watcher.Replicated, Replicas: replicas, Ports: []watcher.Port{{Protocol: "tcp", Target: 80}}, Labels: map[string]string{}}
		if says != nil {
			s.Labels["lb.hosts"], s.Labels["lb.port"] = name+".test", "80"
		}
		for k, v := range says {
			s.Labels["lb."+k] = v
		}
		p.Services[name] = s
	}
	d.apply(t, p)
	require.Empty(t, slices.DeleteFunc(slices.Clone(d.built().Problems()), func(p labels.Problem) bool { return p.Severity == labels.Info }))
}

// answer of a task, with what the client sees.
type answered struct {
	*http.Response
	echo.Answer
	body string
}

// ask sends one request to <host>.test.
func (d *destination) ask(t *testing.T, method, host, path string, header http.Header) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.proxy("default")+path, nil)
	require.NoError(t, err)
	req.Host = host + ".test"
	for k, v := range header {
		req.Header[k] = v
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr, Timeout: deadline}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	a := answered{Response: resp, body: string(raw)}
	if bytes.HasPrefix(raw, []byte("{")) {
		require.NoError(t, json.Unmarshal(raw, &a.Answer))
	}
	return a
}

// works sends one request that a task must answer.
func (d *destination) works(t *testing.T, method, host, path string, header http.Header) answered {
	t.Helper()
	a := d.ask(t, method, host, path, header)
	require.Equal(t, 200, a.StatusCode, "%s: %v %s", host, a.Header, a.body)
	return a
}

// running are the echo servers of a service, in the order in which they started.
func (d *destination) running(t *testing.T, id string) []*echo.Server {
	t.Helper()
	d.src.mu.Lock()
	defer d.src.mu.Unlock()
	var out []*echo.Server
	for _, task := range d.src.services[id].tasks {
		out = append(out, task.servers...)
	}
	require.NotEmpty(t, out)
	return out
}

// seen is how many requests a service got so far.
func (d *destination) seen(t *testing.T, id string) int {
	t.Helper()
	n := 0
	for _, s := range d.running(t, id) {
		n += int(s.Seen())
	}
	return n
}

func (d *destination) protocols(t *testing.T) {
	for host, want := range map[string]string{"plain": "HTTP/1.1", "two": "HTTP/2.0", "calls": "HTTP/2.0", "same": "HTTP/1.1"} {
		require.Equal(t, want, d.works(t, "GET", host, "/", nil).Protocol, host)
	}
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &h2}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+d.proxy("default")+"/", nil)
	require.NoError(t, err)
	req.Host = "same.test"
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var a echo.Answer
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&a))
	require.Equal(t, "HTTP/2.0", a.Protocol, "auto: what the client speaks")

	conn, err := grpc.NewClient(d.proxy("default"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("calls.test"))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, health.Status)
}

func (d *destination) proxyProtocol(t *testing.T) {
	require.Regexp(t, `^v1 127\.0\.0\.1:\d+$`, d.works(t, "GET", "v1", "/", nil).Proxy)
	two := d.works(t, "GET", "v2", "/", nil)
	require.Regexp(t, `^v2 127\.0\.0\.1:\d+$`, two.Proxy)
	require.Equal(t, "HTTP/2.0", two.Protocol)
	require.Empty(t, d.works(t, "GET", "plain", "/", nil).Proxy)
}

// session gives the cookies of an answer as a client would send them.
func session(a answered) http.Header {
	var out []string
	for _, c := range a.Cookies() {
		out = append(out, c.Name+"="+c.Value)
	}
	return http.Header{"Cookie": {strings.Join(out, "; ")}}
}

func (d *destination) sessions(t *testing.T) {
	// A session with the first task: that one survives when the service shrinks.
	var first answered
	for first.Task != "pinned.1" {
		first = d.works(t, "GET", "pinned", "/", nil)
		require.Len(t, first.Cookies(), 1)
		require.Equal(t, 3600, first.Cookies()[0].MaxAge)
	}
	own := session(first)
	stays := func(say string) {
		for range 20 {
			a := d.works(t, "GET", "pinned", "/", own)
			require.Equal(t, "pinned.1", a.Task, say)
			require.Empty(t, a.Cookies(), say)
		}
	}
	stays("at first")
	for _, replicas := range []uint64{6, 2} {
		require.NoError(t, d.src.Scale(t.Context(), "pinned", replicas))
		d.settled(t, "pinned", replicas)
		stays(fmt.Sprintf("with %d tasks", replicas))
	}
	// The task goes: another one and a new cookie, no request lost.
	d.running(t, "pinned")[0].Kill()
	a := d.works(t, "GET", "pinned", "/", own)
	require.Equal(t, "pinned.2", a.Task)
	require.Len(t, a.Cookies(), 1)
	require.Equal(t, "pinned.2", d.works(t, "GET", "pinned", "/", session(a)).Task)

	// Two services share a match: the hash keeps a client with one of them, the
	// session with one of its tasks.
	services := map[string]bool{}
	for i := range 12 {
		user := http.Header{"X-User": {fmt.Sprint(i)}}
		a := d.works(t, "GET", "half", "/", user)
		services[a.Service] = true
		user["Cookie"] = session(a)["Cookie"]
		for range 5 {
			require.Equal(t, a.Task, d.works(t, "GET", "half", "/", user).Task, "%v", user)
		}
	}
	require.Len(t, services, 2)
}

// settled waits until the proxy has exactly so many endpoints of a service.
func (d *destination) settled(t *testing.T, id string, replicas uint64) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := until(t.Context(), d.proxy("default"), id+".test", "/", func(r reply) bool { return r.status == 200 })
		if err != nil {
			return false
		}
		seen := map[string]bool{}
		for range 10 * replicas {
			got, err := ask(t.Context(), d.proxy("default"), id+".test", "/")
			if err != nil {
				return false
			}
			seen[got.task] = true
		}
		return len(seen) == int(replicas)
	}, deadline, 10*time.Millisecond)
}

func (d *destination) hashes(t *testing.T) {
	same := func(host string, header http.Header) string {
		task := d.works(t, "GET", host, "/", header).Task
		for range 10 {
			require.Equal(t, task, d.works(t, "GET", host, "/", header).Task, "%s %v", host, header)
		}
		return task
	}
	for host, header := range map[string]func(string) http.Header{
		"hashed": func(v string) http.Header { return http.Header{"X-Tenant": {v}} },
		"maglev": func(v string) http.Header { return http.Header{"Cookie": {"sid=" + v}} },
	} {
		tasks := map[string]bool{}
		for i := range 12 {
			tasks[same(host, header(fmt.Sprint("tenant-", i)))] = true
		}
		require.Greater(t, len(tasks), 1, host)
	}
	same("client", nil)
	spread := map[string]bool{}
	for range 40 { // nothing to hash: at random
		spread[d.works(t, "GET", "hashed", "/", nil).Task] = true
	}
	require.Greater(t, len(spread), 1)
}

func (d *destination) local(t *testing.T) {
	spread := func(host string, n int) map[string]int {
		tasks := map[string]int{}
		for range n {
			tasks[d.works(t, "GET", host, "/", nil).Task]++
		}
		return tasks
	}
	require.Equal(t, map[string]int{"near.1": 40}, spread("near", 40), "its task on the proxy's node")
	require.Len(t, spread("far", 60), 3, "others have no preference")
	require.Len(t, spread("many", 200), 9)
	d.running(t, "near")[0].Kill() // and nobody notices
	// Retries stay in the zone until the dead task is set aside, which the main thread
	// of the proxy decides: four of them are enough, unless this machine is very busy.
	require.Eventually(t, func() bool { return d.ask(t, "GET", "near", "/", nil).StatusCode == 200 }, deadline, time.Millisecond)
	require.Len(t, spread("near", 60), 2, "without one there, the others")
}

func (d *destination) mirrors(t *testing.T) {
	const n = 200
	for range n {
		d.works(t, "POST", "copied", "/", nil)
		d.works(t, "GET", "sampled", "/", nil)
	}
	require.Eventually(t, func() bool { return d.seen(t, "all") == n }, deadline, 5*time.Millisecond, "every request")
	// Five standard deviations of a quarter of 200 are 31.
	require.InDelta(t, n/4, d.seen(t, "some"), 31)
	d.running(t, "all")[0].Kill()
	for range 5 {
		d.works(t, "GET", "copied", "/", nil) // nobody waits for a copy
	}
}

func (d *destination) failover(t *testing.T) {
	require.Equal(t, "main", d.works(t, "GET", "main", "/", nil).Service)
	// Requests go on while the service goes and comes back: none fails.
	failed := d.load(t, "main")
	require.NoError(t, d.src.Scale(t.Context(), "main", 0))
	_, err := until(t.Context(), d.proxy("default"), "main.test", "/", from("spare"))
	require.NoError(t, err)
	require.NoError(t, d.src.Scale(t.Context(), "main", 2))
	_, err = until(t.Context(), d.proxy("default"), "main.test", "/", from("main"))
	require.NoError(t, err)
	for range 20 {
		require.Equal(t, "main", d.works(t, "POST", "main", "/", nil).Service, "back")
	}
	require.Empty(t, failed())

	// Tasks that are gone without a word: who is asked is asked elsewhere.
	for _, s := range d.running(t, "dead") {
		s.Kill()
	}
	for range 20 {
		require.Equal(t, "spare", d.works(t, "GET", "dead", "/", nil).Service)
	}
}

// load asks again and again, until the returned function is called: it gives what failed.
func (d *destination) load(t *testing.T, host string) (failed func() []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var asking sync.WaitGroup
	var wrong []string
	asking.Go(func() {
		for ctx.Err() == nil {
			got, err := ask(ctx, d.proxy("default"), host+".test", "/")
			if ctx.Err() == nil && (err != nil || got.status != 200) {
				wrong = append(wrong, fmt.Sprint(got, err))
			}
		}
	})
	return func() []string {
		cancel()
		asking.Wait()
		return wrong
	}
}

func (d *destination) updates(t *testing.T, host string) {
	failed := d.load(t, host)
	for _, r := range []Rollout{{StartFirst: true}, {Parallelism: 1}, {StartFirst: true, Parallelism: 1}} {
		require.NoError(t, d.src.Update(t.Context(), host, r))
	}
	require.Empty(t, failed())
}

func (d *destination) retries(t *testing.T) {
	for _, tt := range []struct {
		method, host, path string
		status, attempts   int
		reason             string
	}{
		{"GET", "retries", "/?reset", 503, 3, "unreachable"},
		{"POST", "retries", "/?reset", 503, 1, "unreachable"},
		{"DELETE", "retries", "/?reset", 503, 1, "unreachable"},
		{"GET", "retries", "/?status=503", 503, 1, ""},
		{"GET", "once", "/?reset", 503, 1, "unreachable"},
		{"GET", "none", "/?reset", 503, 1, "unreachable"},
		{"GET", "errors", "/?status=502", 502, 3, ""},
		{"PUT", "errors", "/?status=502", 502, 3, ""},
		{"POST", "errors", "/?status=502", 502, 1, ""},
		{"GET", "errors", "/?reset", 503, 3, "unreachable"}, // Envoy counts a reset among gateway errors
		{"POST", "errors", "/?reset", 503, 1, "unreachable"},
		{"GET", "slow", "/?delay=10s", 504, 3, "timeout"},
		{"POST", "slow", "/?delay=10s", 504, 1, "timeout"},
	} {
		before := d.seen(t, tt.host)
		a := d.ask(t, tt.method, tt.host, tt.path, http.Header{"X-Envoy-Retry-On": {"5xx,reset"}, "X-Envoy-Max-Retries": {"9"}})
		say := fmt.Sprintf("%s %s%s: %v", tt.method, tt.host, tt.path, a.Header)
		require.Equal(t, tt.status, a.StatusCode, say)
		require.Equal(t, tt.reason, a.Header.Get("X-Waggle-Reason"), say)
		require.Equal(t, tt.attempts, d.seen(t, tt.host)-before, say)
	}
}

func (d *destination) checks(t *testing.T) {
	only := func(n int) func() bool {
		return func() bool {
			tasks := map[string]bool{}
			for range 60 {
				a := d.works(t, "GET", "checked", "/", nil)
				tasks[a.Task] = true
			}
			return len(tasks) == n
		}
	}
	servers := d.running(t, "checked")
	require.Eventually(t, only(3), deadline, time.Millisecond)
	servers[0].Answer("/up", 503)
	require.Eventually(t, only(2), deadline, time.Millisecond, "who is not well gets nothing")
	servers[0].Answer("/up", 0)
	require.Eventually(t, only(3), deadline, time.Millisecond, "and is back when it is")
	for _, s := range servers {
		s.Answer("/up", 503)
	}
	// All of them: then the checks are not believed.
	for range 5 {
		require.Eventually(t, only(3), deadline, time.Millisecond)
	}
}

func (d *destination) limits(t *testing.T) {
	var slow sync.WaitGroup
	before := d.seen(t, "narrow")
	slow.Go(func() { _, _ = ask(t.Context(), d.proxy("default"), "narrow.test", "/?delay=1s") })
	require.Eventually(t, func() bool { return d.seen(t, "narrow") > before }, deadline, time.Millisecond)
	a := d.ask(t, "GET", "narrow", "/", nil)
	require.Equal(t, 503, a.StatusCode)
	require.Equal(t, "unreachable", a.Header.Get("X-Waggle-Reason"))
	slow.Wait()
	require.Eventually(t, func() bool { return d.ask(t, "GET", "narrow", "/", nil).StatusCode == 200 }, deadline, time.Millisecond)
}
