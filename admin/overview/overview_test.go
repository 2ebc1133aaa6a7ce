package overview

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate/labels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files")

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// replica is one that has nothing to complain about: dev and prod, one proxy each.
func replica(name string) answer {
	read, build := epoch.Add(-time.Second), epoch.Add(-5*time.Minute)
	return answer{
		api: name + ":19000",
		status: api.Status{
			Replica: name, Version: "1.0.0", Started: epoch.Add(-50 * time.Hour), Now: epoch, Ready: true,
			Source: api.Source{Name: "engine", LastRead: &read}, Config: api.Config{Hash: "c0ffee"}, Builds: 7, LastBuild: &build,
		},
		collections: api.Collections{Collections: []api.Collection{
			{Name: "dev", HTTPPort: 80, HTTPSPort: 443, TCPPorts: []uint32{5432}, UDPPorts: []uint32{}, Published: true, Generation: "00000000000000d1", Services: 1, Endpoints: 2},
			{Name: "prod", Default: true, HTTPPort: 80, HTTPSPort: 443, Published: true, Generation: "00000000000000p1", Services: 12, Endpoints: 40},
		}},
	}
}

func proxy(id, collection string, connected time.Duration) api.Proxy {
	return api.Proxy{
		NodeID: id, Collection: collection, Version: "1.40.0", Connected: epoch.Add(-connected), Current: true,
		Kinds: []api.ProxyKind{
			{Kind: "clusters", Sent: "a", ACKed: "a", Current: true}, {Kind: "routes", Sent: "b", ACKed: "b", Current: true},
		},
	}
}

// rejecting is a proxy that does not take its route table.
func rejecting(p api.Proxy) api.Proxy {
	p.Current = false
	p.Kinds = append([]api.ProxyKind{}, p.Kinds...)
	p.Kinds[1].Current, p.Kinds[1].Rejected = false, []string{"http"}
	p.LastNACK = &api.NACK{At: epoch, Kind: "routes", Resources: []string{"http"}, Message: "route: unknown cluster 'shop_web:8080'"}
	return p
}

func with(a answer, f func(*answer)) answer {
	f(&a)
	return a
}

var cases = map[string][]answer{
	"fine": {
		with(replica("cp1"), func(a *answer) {
			a.proxies.Proxies = []api.Proxy{proxy("dev/1", "dev", time.Minute), proxy("prod/1", "prod", 3*time.Hour)}
			a.problems.Problems = []api.Problem{{Severity: labels.Info, Service: "x", Reason: "a choice was made"}}
		}),
		with(replica("cp2"), func(a *answer) {
			a.proxies.Proxies = []api.Proxy{proxy("prod/2", "prod", 49*time.Hour)}
			a.problems.Problems = []api.Problem{{Severity: labels.Info, Service: "x", Reason: "a choice was made"}}
		}),
	},
	"one": {with(replica("cp1"), func(a *answer) {
		a.status.Insecure = true
		a.status.Source.Name, a.status.Source.Via, a.status.Source.Fallback = "auto", "engine", "the control socket is not there"
	})},
	// cp1 lost its daemon and serves what it had; cp3 has just started; cp4 is gone.
	"wrong": {
		with(replica("cp2"), func(a *answer) {
			a.proxies.Proxies = []api.Proxy{rejecting(proxy("prod/1", "prod", time.Minute)), proxy("old/1", "old", time.Minute)}
			a.proxies.Proxies[1].Retired = true
			a.problems.Problems = []api.Problem{
				{Severity: labels.Info, Service: "info", Reason: "not shown"},
				{Severity: labels.Warning, Service: "shop_web", Collection: "prod", Label: "com.docker.lb.retries", Value: "many", Reason: "not a number", Hint: "write 2"},
				{Severity: labels.Error, Service: "thief", Collection: "prod", Label: "com.docker.lb.hosts", Value: "shop.example.com", Reason: "the host is taken", Winner: "shop_web"},
			}
		}),
		with(replica("cp1"), func(a *answer) {
			a.status.Source.Stale, a.status.Source.Error = true, "list tasks: the daemon does not answer"
			read := epoch.Add(-192 * time.Second)
			a.status.Source.LastRead = &read
			a.status.Config = api.Config{Hash: "0ld", Error: "waggle.yml:3: prots: unknown key"}
			a.collections.Collections[1].Generation = "00000000000000p0"
			a.proxies.Proxies = []api.Proxy{with(answer{proxies: api.Proxies{Proxies: []api.Proxy{proxy("dev/1", "dev", time.Hour)}}}, func(a *answer) {
				p := &a.proxies.Proxies[0]
				p.Current, p.Kinds[1].Current = false, false
			}).proxies.Proxies[0]}
			a.problems.Problems = []api.Problem{
				{Severity: labels.Error, Service: "thief", Collection: "prod", Label: "com.docker.lb.hosts", Value: "shop.example.com", Reason: "the host is taken", Winner: "shop_web"},
			}
		}),
		with(replica("cp3"), func(a *answer) {
			a.status.Ready, a.status.NotReady, a.status.Source.LastRead = false, "no complete picture of what runs is published yet", nil
			a.collections.Collections = a.collections.Collections[:1]
			a.collections.Collections[0].Generation = ""
		}),
		{api: "cp4:19000", err: context.DeadlineExceeded},
	},
	// Certificates are what everybody forgets.
	"certificate": {with(replica("cp1"), func(a *answer) {
		end := epoch.Add(9 * 24 * time.Hour)
		a.status.Channel = api.Channel{CertificateEnds: &end, Error: "tls.crt and tls.key do not belong together"}
		later, rotated := epoch.Add(90*24*time.Hour), epoch.Add(-time.Hour)
		a.certificates.Certificates = []api.Certificate{
			{Collection: "dev", Source: "directory", Name: "lone.pem", Error: "the file lone.pem is a certificate, and no file beside it holds its key"},
			{Collection: "dev", Source: "directory", Name: "site.pem", Hosts: []string{"site.example.com"}, NotAfter: &later, Kept: "the file site.pem is empty"},
			{Collection: "prod", Source: "secret", Name: "shop_cert", Hosts: []string{"a", "b", "c", "d"}, NotAfter: &end},
			{Source: "local", Name: "Waggle development authority", NotAfter: &later, Rotated: &rotated},
		}
		for range 9 {
			a.certificates.Certificates = append(a.certificates.Certificates, api.Certificate{Collection: "prod", Source: "directory", Name: fmt.Sprint("more", len(a.certificates.Certificates)), NotAfter: &later})
		}
	})},
	// prod is tried with one proxy; a cluster and a host were rejected, at one replica.
	"rollout": {
		with(replica("cp1"), func(a *answer) {
			a.status.Held = []api.Held{
				{Collection: "dev", Since: epoch.Add(-time.Second), Reason: "just now"},
				{Collection: "prod", Since: epoch.Add(-time.Minute), Reason: "8 of 10 hosts would go"},
			}
			a.collections.Collections[1].Canary = &api.Canary{Since: epoch, Proxies: []string{"prod/1"}, Changes: 3}
			a.collections.Collections[1].Quarantine = []api.Quarantined{
				{Kind: "clusters", Name: "shop_web:8080", Since: epoch, Proxies: 2, Message: "no such policy"},
				{Kind: "routes", Name: "http", Hosts: []string{"shop.example.com"}, Since: epoch, Proxies: 2, Message: "missing )"},
			}
			a.problems.Problems = []api.Problem{
				{Severity: labels.Error, Service: "shop_web", Collection: "prod", Reason: "a proxy rejected cluster shop_web:8080: no such policy", Hint: "nothing is served in its place"},
				{Severity: labels.Error, Collection: "prod", Reason: "a proxy rejected listener http: no"},
			}
		}),
		replica("cp2"),
	},
	// Text of others must not reach the terminal as it is.
	"hostile": {with(replica("cp1"), func(a *answer) {
		a.problems.Problems = []api.Problem{{
			Severity: labels.Error, Service: "evil\x1b[2J", Label: "com.docker.lb.hosts\r", Value: "\x1b]0;owned\a", Reason: "not\na host\u202e",
		}}
		a.proxies.Proxies = []api.Proxy{proxy("dev/\x1b[31m", "dev", 0)}
	})},
}

// TestText compares what operators read with testdata/<case>.txt; -update writes it.
func TestText(t *testing.T) {
	for name, answers := range cases {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			require.NoError(t, merge(answers).Text(&got, false))
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(string(want), got.String()), "(-want +got; -update writes it)")
			require.NotRegexp(t, "[\x00-\x09\x0b-\x1f\x7f\u202e]", got.String())
		})
	}
}

func TestMergeIsTheSameInAnyOrder(t *testing.T) {
	for name, answers := range cases {
		forth := merge(answers)
		back := append([]answer{}, answers...)
		for i, j := 0, len(back)-1; i < j; i, j = i+1, j-1 {
			back[i], back[j] = back[j], back[i]
		}
		again := merge(back)
		require.Equal(t, forth.Collections, again.Collections, name)
		require.Equal(t, forth.Proxies, again.Proxies, name)
		require.Equal(t, forth.Problems, again.Problems, name)
		require.ElementsMatch(t, forth.Wrong, again.Wrong, name)
	}
}

// A proxy that moved is at both replicas for a moment: its newest stream counts.
func TestProxyThatMoved(t *testing.T) {
	old := rejecting(proxy("prod/1", "prod", time.Hour))
	old.Address = "10.0.0.9:1"
	for _, order := range [][]string{{"cp1", "cp2"}, {"cp2", "cp1"}} {
		at := map[string]api.Proxy{"cp1": old, "cp2": proxy("prod/1", "prod", time.Second)}
		var answers []answer
		for _, name := range order {
			answers = append(answers, with(replica(name), func(a *answer) { a.proxies.Proxies = []api.Proxy{at[name]} }))
		}
		o := merge(answers)
		require.Equal(t, []Proxy{{Proxy: at["cp2"], Replicas: []string{"cp2:19000", "cp1:19000"}, Connections: 2}}, o.Proxies)
		require.Empty(t, o.Wrong, "what the old stream rejected is no more")
		require.Equal(t, api.ProxyCounts{Connected: 1, Current: 1}, o.Collections[1].Proxies)
	}
}

// Two addresses of one replica are one replica.
func TestOneReplicaTwice(t *testing.T) {
	a, b := replica("cp1"), replica("cp1")
	b.api = "10.0.0.1:19000"
	a.proxies.Proxies = []api.Proxy{proxy("dev/1", "dev", time.Minute)}
	b.proxies = a.proxies
	o := merge([]answer{a, b})
	require.Len(t, o.Replicas, 1)
	require.Equal(t, 1, o.Proxies[0].Connections)
	require.Empty(t, o.Wrong)
	// Another run of it is another one.
	b.status.Started = epoch
	require.Len(t, merge([]answer{a, b}).Replicas, 2)
}

// serve answers as a replica would; generation says what prod serves at each ask.
func serve(t *testing.T, a answer, token string, generation func() string) *api.Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "the token is required", http.StatusUnauthorized)
			return
		}
		var v any
		switch r.URL.Path {
		case "/api/v1/status":
			v = a.status
		case "/api/v1/collections":
			c := a.collections
			c.Collections = append([]api.Collection{}, c.Collections...)
			c.Collections[1].Generation = generation()
			v = c
		case "/api/v1/proxies":
			v = a.proxies
		case "/api/v1/problems":
			v = a.problems
		case "/api/v1/certificates":
			v = a.certificates
		default:
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	c, err := api.NewClient(s.Listener.Addr().String(), token)
	require.NoError(t, err)
	return c
}

func always(s string) func() string { return func() string { return s } }

// Replicas that disagree are asked again: one of them may only be a moment behind.
func TestReplicasThatAreAMomentApart(t *testing.T) {
	var asked atomic.Int32
	o, err := Ask(t.Context(), []*api.Client{
		serve(t, replica("cp1"), "t", always("new")),
		serve(t, replica("cp2"), "t", func() string {
			if asked.Add(1) == 1 {
				return "old"
			}
			return "new"
		}),
	})
	require.NoError(t, err)
	require.EqualValues(t, 2, asked.Load())
	require.Empty(t, o.Wrong)
	require.True(t, o.Collections[1].Agree)
	require.Len(t, o.Collections[1].Generations, 2)
}

func TestNobodyAnswers(t *testing.T) {
	gone := httptest.NewServer(nil)
	address := gone.Listener.Addr().String()
	gone.Close()
	c, err := api.NewClient(address, "")
	require.NoError(t, err)
	_, err = Ask(t.Context(), []*api.Client{c})
	require.ErrorContains(t, err, "ask the control plane at "+address)
	require.ErrorContains(t, err, "refused")

	// The wrong token is told as the control plane tells it.
	locked := serve(t, replica("cp1"), "right", always("g"))
	wrong, err := api.NewClient(locked.Address, "wrong")
	require.NoError(t, err)
	_, err = Ask(t.Context(), []*api.Client{wrong})
	require.ErrorContains(t, err, "401: the token is required")

	// One that answers is enough, and the others are what is wrong.
	o, err := Ask(t.Context(), []*api.Client{c, locked})
	require.NoError(t, err)
	require.Len(t, o.Wrong, 1)
	require.Contains(t, o.Wrong[0], address+" does not answer")
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 900 * time.Millisecond: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s",
		59*time.Minute + 59*time.Second: "59m59s", 90 * time.Minute: "1h30m", 47 * time.Hour: "47h00m", 49 * time.Hour: "2d",
	} {
		require.Equal(t, want, ago(d))
	}
}
