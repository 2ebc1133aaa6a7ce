package xds

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

const shortGate = 30 * time.Millisecond // a gate for tests in which proxies reject clusters

// picky is an Envoy that does not take what has a text in it.
func picky(node, text string) *envoylike.Client {
	return envoylike.New(envoylike.Options{Node: node, AnyEndpoints: true, Examine: func(kind translate.Kind, r *discovery.Resource) string {
		if !bytes.Contains(r.GetResource().GetValue(), []byte(text)) {
			return ""
		}
		if kind == translate.Cluster {
			return fmt.Sprintf("Error adding/updating cluster(s) %s: Didn't find a registered implementation for 'x'", r.GetName())
		}
		return "missing ): (unclosed"
	}})
}

// fleetOf connects proxies and waits until they have everything.
func (r *running) fleetOf(t *testing.T, collection string, clients ...*envoylike.Client) {
	t.Helper()
	for _, c := range clients {
		connect(t, c, r.addr)
		r.reaches(t, c, collection)
	}
	r.settles(t, len(clients))
}

// quarantines waits until exactly these are in quarantine.
func (r *running) quarantines(t *testing.T, names ...string) []Quarantined {
	t.Helper()
	var got []Quarantined
	require.Eventually(t, func() bool {
		got = r.Quarantine()
		var have []string
		for _, q := range got {
			have = append(have, q.Kind.String()+" "+q.Name)
		}
		return slices.Equal(have, names)
	}, patience, time.Millisecond, "want %v, have %+v", names, &got)
	return got
}

// badCluster is a cluster that picky("…", "BAD") does not take.
func badCluster(name, variant string) *translate.Resource {
	r := edsCluster(name, time.Second)
	r.Message.(*clusterv3.Cluster).AltStatName = "BAD" + variant
	return r
}

func TestWhatProxiesRejectIsTakenBack(t *testing.T) {
	var log syncBuffer
	r := start(t, Options{Gate: shortGate, Logger: slog.New(slog.NewTextHandler(&log, nil))}, "dev")
	w := shop("dev", 40)
	r.publish(t, w)
	one, two := picky("dev/1", "BAD"), picky("dev/2", "BAD")
	r.fleetOf(t, "dev", one, two)
	before := r.Snapshot("dev")

	for i := range 40 { // one bad among many, and one that was not there before
		w.put(edsCluster(fmt.Sprintf("svc%04d", i), 9*time.Second))
	}
	w.put(badCluster("svc0007", ""), badCluster("fresh", ""), endpoints("fresh", 1))
	r.publish(t, w)
	held := r.quarantines(t, "clusters fresh", "clusters svc0007")
	require.Equal(t, before[translate.Cluster]["svc0007"], held[1].Serving)
	require.NotEqual(t, held[1].Rejected, held[1].Serving)
	require.Empty(t, held[0].Serving)
	require.Equal(t, 2, held[1].Proxies)
	require.Equal(t, "dev", held[1].Collection)
	require.Contains(t, held[1].Message, "Didn't find a registered implementation")
	require.WithinDuration(t, time.Now(), held[1].Since, patience)
	require.Contains(t, log.String(), "in quarantine")
	text, err := gather(r.Server)
	require.NoError(t, err)
	require.Contains(t, strings.ReplaceAll(text, "  ", " "), `waggle_xds_quarantined label:{name:"collection" value:"dev"} gauge:{value:2}`)

	// Everything else has arrived; and a proxy that starts now is given what was good.
	r.settles(t, 2)
	three := picky("dev/3", "BAD")
	connect(t, three, r.addr)
	for _, c := range []*envoylike.Client{one, two, three} {
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults())
	}
	require.Zero(t, three.Counts().NACKs)
	require.NotContains(t, three.State()[translate.Cluster], "fresh")
	nacks := one.Counts().NACKs + two.Counts().NACKs
	require.LessOrEqual(t, nacks, 12, "Envoy named it, so halving is not needed")

	// It is not sent again, whatever else changes, nor when everything is published anew.
	r.publish(t, w.put(edsCluster("svc0001", 3*time.Second), endpoints("svc0007", 77)))
	require.NoError(t, r.Publish(w.whole()))
	r.reaches(t, one, "dev")
	r.settles(t, 3)
	require.Equal(t, nacks, one.Counts().NACKs+two.Counts().NACKs)
	require.Len(t, r.Quarantine(), 2)

	// Other bytes that are bad as well, then good ones; or it goes.
	r.publish(t, w.put(badCluster("svc0007", " again")))
	require.Eventually(t, func() bool {
		q := r.Quarantine()
		return len(q) == 2 && q[1].Rejected != held[1].Rejected
	}, patience, time.Millisecond)
	require.Equal(t, held[1].Serving, r.Quarantine()[1].Serving)
	r.publish(t, w.put(edsCluster("svc0007", 4*time.Second)).drop(translate.Cluster, "fresh").drop(translate.Endpoints, "fresh"))
	r.quarantines(t)
	for _, c := range []*envoylike.Client{one, two, three} {
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults())
	}
	r.settles(t, 3)
	require.Contains(t, log.String(), "out of quarantine")
	r.checkBounds(t, "dev")
}

func TestOneOddProxyDoesNotDecide(t *testing.T) {
	r := start(t, Options{Gate: shortGate}, "dev")
	w := shop("dev", 3)
	r.publish(t, w)
	odd, other := picky("dev/odd", "BAD"), picky("dev/other", "nothing")
	r.fleetOf(t, "dev", odd, other)
	r.publish(t, w.put(badCluster("svc0001", "")))
	r.reaches(t, other, "dev")
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(r.Proxies(), func(p Proxy) bool { return len(p.kind(translate.Cluster).Rejected) == 1 })
	}, patience, time.Millisecond)
	require.Empty(t, r.Quarantine())
	require.Equal(t, 1, len(odd.State()[translate.Cluster]["svc0001"])/16, "it keeps what it had")

	// One more that rejects makes a majority.
	third := picky("dev/third", "BAD")
	connect(t, third, r.addr)
	r.quarantines(t, "clusters svc0001")
	for _, c := range []*envoylike.Client{odd, other, third} {
		r.reaches(t, c, "dev")
	}
}

func TestTheOnlyProxyDecides(t *testing.T) {
	r := start(t, Options{Gate: shortGate}, "dev")
	w := shop("dev", 3).put(secret("cert/a", "FINE"), listener("https", 10443, "http", "cert/a"))
	r.publish(t, w)
	c := picky("dev/1", "BAD")
	r.fleetOf(t, "dev", c)
	good := r.Snapshot("dev")
	r.publish(t, w.put(secret("cert/a", "BAD TOPSECRET"), badCluster("svc0002", "")))
	held := r.quarantines(t, "clusters svc0002", "secrets cert/a")
	require.Equal(t, good[translate.Secret]["cert/a"], held[1].Serving)
	require.Contains(t, held[1].Message, "withheld")
	require.NotContains(t, fmt.Sprintf("%+v", held), "TOPSECRET")
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	require.Equal(t, good[translate.Secret]["cert/a"], r.Snapshot("dev")[translate.Secret]["cert/a"])
	r.publish(t, w.put(secret("cert/a", "FINE TOO")))
	r.quarantines(t, "clusters svc0002")
	r.reaches(t, c, "dev")
}

// host is a virtual host of a route table, marked, to a cluster; guard is put on its route
// where it is not empty.
func host(name, cluster, text, guard string) *routev3.VirtualHost {
	route := &routev3.Route{
		Name:  text,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		}},
	}
	if guard != "" {
		route.TypedPerFilterConfig = map[string]*anypb.Any{guard: pack(&corsv3.CorsPolicy{})}
	}
	return &routev3.VirtualHost{Name: name, Domains: []string{name}, Routes: []*routev3.Route{route}}
}

func hostTable(name string, hosts ...*routev3.VirtualHost) *translate.Resource {
	r := res(translate.Routes, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: hosts})
	for _, h := range hosts {
		r.Refs = append(r.Refs, translate.Ref{Kind: translate.Cluster, Name: h.GetRoutes()[0].GetRoute().GetCluster()})
	}
	return r
}

// hostsAt gives the virtual hosts of the table that a client has, with what they answer.
func hostsAt(t *testing.T, c *envoylike.Client) (lines []string) {
	if c.Resource(translate.Routes, "http") == nil {
		return nil
	}
	var table routev3.RouteConfiguration
	require.NoError(t, c.Resource(translate.Routes, "http").UnmarshalTo(&table))
	for _, vh := range table.GetVirtualHosts() {
		require.NoError(t, vh.ValidateAll())
		r := vh.GetRoutes()[0]
		if d := r.GetDirectResponse(); d != nil {
			lines = append(lines, fmt.Sprintf("%s %d", vh.GetName(), d.GetStatus()))
		} else {
			lines = append(lines, fmt.Sprintf("%s %s %s", vh.GetName(), r.GetRoute().GetCluster(), r.GetName()))
		}
	}
	return lines
}

// TestABadHostCostsItself: of a route table only the virtual hosts that came with the
// rejection go back to what they were, and the others follow every change.
func TestABadHostCostsItself(t *testing.T) {
	r := start(t, Options{}, "dev")
	guard := translate.GuardFilters()[0]
	w := shop("dev", 4).put(hostTable("http", host("a", "svc0000", "1", ""), host("b", "svc0001", "1", ""), host("g", "svc0002", "1", guard)))
	r.publish(t, w)
	one, two := picky("dev/1", "BAD"), picky("dev/2", "BAD")
	r.fleetOf(t, "dev", one, two)
	arrives := func(c *envoylike.Client, want ...string) {
		t.Helper()
		ok := func() bool { return slices.Equal(hostsAt(t, c), want) }
		require.Eventually(t, ok, patience, time.Millisecond, "want %v, have %v", want, hostsAt(t, c))
	}

	// b goes to another cluster and is bad, and its old cluster goes with it.
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "1", ""), host("b", "svc0003", "BAD", ""), host("g", "svc0002", "1", guard))).
		drop(translate.Cluster, "svc0001").drop(translate.Endpoints, "svc0001"))
	held := r.quarantines(t, "routes http")
	require.Equal(t, []string{"b"}, held[0].Hosts)
	require.Empty(t, held[0].Closed)
	require.Equal(t, "missing ): (unclosed", held[0].Message)
	r.settles(t, 2)
	require.Contains(t, r.Snapshot("dev")[translate.Cluster], "svc0001", "the old version of the host needs it")

	// Others follow every change meanwhile, and proxies that start have all of it.
	three := picky("dev/3", "BAD")
	connect(t, three, r.addr)
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "2", ""), host("b", "svc0003", "BAD", ""), host("c", "svc0003", "1", ""), host("g", "svc0002", "1", guard))))
	for _, c := range []*envoylike.Client{one, two, three} {
		arrives(c, "a svc0000 2", "b svc0001 1", "c svc0003 1", "g svc0002 1")
		r.reaches(t, c, "dev")
	}
	r.settles(t, 3)
	nacks := one.Counts().NACKs

	// The next bad ones: a new host is left out, and where a guard changes nobody is let in.
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "2", ""), host("b", "svc0003", "BAD", ""), host("c", "svc0003", "2", ""),
		host("g", "svc0002", "BAD", ""), host("new", "svc0000", "BAD", ""))))
	require.Eventually(t, func() bool { return len(r.Quarantine()[0].Hosts) == 4 }, patience, time.Millisecond)
	held = r.Quarantine()
	require.Equal(t, []string{"b", "c", "g", "new"}, held[0].Hosts, "c changed with them: which it was the proxy does not say")
	require.Equal(t, []string{"g"}, held[0].Closed)
	for _, c := range []*envoylike.Client{one, two, three} {
		arrives(c, "a svc0000 2", "b svc0001 1", "c svc0003 1", "g 503")
	}
	r.settles(t, 3)
	require.Greater(t, one.Counts().NACKs, nacks)
	nacks = one.Counts().NACKs

	// Each host is free when it is different, and the table when none is left.
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "3", ""), host("b", "svc0003", "2", ""), host("c", "svc0003", "3", ""),
		host("g", "svc0002", "BAD", ""))))
	require.Equal(t, []string{"g"}, r.Quarantine()[0].Hosts)
	for _, c := range []*envoylike.Client{one, two, three} {
		arrives(c, "a svc0000 3", "b svc0003 2", "c svc0003 3", "g 503")
		r.reaches(t, c, "dev")
		require.NotContains(t, c.State()[translate.Cluster], "svc0001")
	}
	require.Equal(t, nacks, one.Counts().NACKs)
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "3", ""), host("g", "svc0002", "2", guard))))
	r.quarantines(t)
	for _, c := range []*envoylike.Client{one, two, three} {
		arrives(c, "a svc0000 3", "g svc0002 2")
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults())
	}
	r.settles(t, 3)
	require.Equal(t, nacks, one.Counts().NACKs)
}

// TestATableThatNobodyEverTookStays: there is nothing to go back to.
func TestATableThatNobodyEverTookStays(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 1).put(hostTable("http", host("a", "svc0000", "BAD", "")))
	r.publish(t, w)
	c := picky("dev/1", "BAD")
	connect(t, c, r.addr)
	require.Eventually(t, func() bool { return c.Counts().NACKs > 0 }, patience, time.Millisecond)
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "fine", ""))))
	r.reaches(t, c, "dev")
	require.Empty(t, r.Quarantine())
}

// TestAReplacedControlPlaneKnowsWhatProxiesHave: versions that proxies bring along count as
// accepted.
func TestAReplacedControlPlaneKnowsWhatProxiesHave(t *testing.T) {
	lis := newListener(t)
	r := startOn(t, lis, Options{Gate: shortGate}, "dev")
	w := shop("dev", 3)
	r.publish(t, w)
	c := picky("dev/1", "BAD")
	keepConnected(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	r.stop()
	lis, err := listenAgain(r.addr)
	require.NoError(t, err)
	r = startOn(t, lis, Options{Gate: shortGate}, "dev")
	require.NoError(t, r.Publish(w.whole()))
	r.settles(t, 1)
	r.reaches(t, c, "dev")
	good := r.Snapshot("dev")[translate.Cluster]["svc0001"]
	r.publish(t, w.put(badCluster("svc0001", "")))
	require.Equal(t, good, r.quarantines(t, "clusters svc0001")[0].Serving)
	r.reaches(t, c, "dev")
}

func TestAccused(t *testing.T) {
	names := []string{"a:80", "b", "aa:80", "x_a:80"}
	for message, want := range map[string]string{
		"Error adding/updating cluster(s) b: malformed IP address: app. Consider setting a:80, aa:80: malformed": "b aa:80",
		"Error adding/updating cluster(s) a:80: no, b: no":                                                       "a:80 b",
		"Error adding/updating cluster(s) x_a:80: no":                                                            "x_a:80",
		"Error adding/updating cluster(s) other: no":                                                             "",
		"Error adding/updating listener(s) b: no":                                                                "",
		"missing ): (unclosed":                                                                                   "",
		"Proto constraint validation failed (b: is missing)":                                                     "",
	} {
		named, rest := accused(translate.Cluster, message, names)
		got := strings.Join(named, " ")
		if want == "b aa:80" { // text of the reason that looks like a name costs one more try, no more
			require.Contains(t, named, "b")
			continue
		}
		require.Equal(t, want, got, message)
		require.Len(t, rest, len(names)-len(named))
	}
	named, _ := accused(translate.Listener, "Error adding/updating listener(s) l: Didn't find\nhttps: error adding\n", []string{"https", "l", "http"})
	require.Equal(t, []string{"https", "l"}, named)
	named, _ = accused(translate.Routes, "Error adding/updating cluster(s) l: no", []string{"l"})
	require.Empty(t, named)
}

// TestRejectionsAtRandom: whatever is rejected, by how many, and however it comes and goes:
// in the end everybody has what is served, and nothing good is missing from that.
func TestRejectionsAtRandom(t *testing.T) {
	var mood atomic.Int32 // proxies below this number reject what is bad
	r := start(t, Options{Gate: shortGate, Grace: 500 * time.Millisecond}, "dev")
	w := shop("dev", 6)
	r.publish(t, w)
	var clients []*envoylike.Client
	for i := range int32(3) {
		clients = append(clients, envoylike.New(envoylike.Options{Node: fmt.Sprintf("dev/%d", i), AnyEndpoints: true,
			Examine: func(_ translate.Kind, r *discovery.Resource) string {
				if i < mood.Load() && bytes.Contains(r.GetResource().GetValue(), []byte("BAD")) {
					return "no"
				}
				return ""
			}}))
	}
	mood.Store(3)
	r.fleetOf(t, "dev", clients...)
	for n := range 60 {
		name := fmt.Sprintf("svc%04d", n%6)
		switch n % 5 {
		case 0, 3:
			w.put(badCluster(name, fmt.Sprint(n)))
		case 1:
			w.put(edsCluster(name, time.Duration(n+1)*time.Second))
		case 2:
			w.put(hostTable("http", host("a", "svc0000", fmt.Sprint("BAD", n), ""), host("b", "svc0001", fmt.Sprint(n), "")))
		case 4:
			w.put(hostTable("http", host("a", "svc0000", fmt.Sprint(n), ""), host("b", "svc0001", fmt.Sprint(n), "")))
		}
		r.publish(t, w)
	}
	for i := range 6 {
		w.put(edsCluster(fmt.Sprintf("svc%04d", i), time.Second))
	}
	r.publish(t, w.put(hostTable("http", host("a", "svc0000", "end", ""), host("b", "svc0001", "end", ""))))
	for _, c := range clients {
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults())
	}
	r.settles(t, 3)
	require.Empty(t, r.Quarantine())
	for ref, want := range w.now {
		e, err := encode(ref.Kind, ref.Name, want)
		require.NoError(t, err)
		require.Equal(t, e.version, r.Snapshot("dev")[ref.Kind][ref.Name], "%s %s", ref.Kind, ref.Name)
	}
	r.checkBounds(t, "dev")
}
