package xds

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// The traps of go-control-plane's stock cache, measured with v0.14.0. Each of these
// tests fails with it.

// Trap 4: "Delta swap: add `[b]` and remove `[a]` in ONE CDS response; RDS BEFORE CDS if
// CDS is un-ACKed."
func TestTrap4SwapIsMakeBeforeBreak(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", 1), routes("http", "a"), listener("http", 10080, "http"))
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"a"}, nil)

	r.publish(t, w.put(edsCluster("b", time.Second), endpoints("b", 2), routes("http", "b")).
		drop(translate.Cluster, "a").drop(translate.Endpoints, "a"))
	cds := c.nextOf(translate.Cluster, "b")
	require.Empty(t, cds.GetRemovedResources(), "the old cluster must stay")
	c.expectNothing() // the routes wait for the acknowledgement of the clusters

	r.publish(t, w.put(routes("http", "b", "b"))) // and do not overtake it with the next change either
	c.expectNothing()

	c.ask(translate.Endpoints, "b")
	eds := c.nextOf(translate.Endpoints, "b") // endpoints do not wait
	c.ack(eds)
	c.expectNothing()
	c.ack(cds)
	rds := c.nextOf(translate.Routes, "http")
	c.expectNothing() // nothing is taken before the routes that left it are acknowledged
	c.ack(rds)
	gone := c.nextGone(translate.Cluster, "a")
	c.leave(translate.Endpoints, "a")
	c.ack(gone)
	c.expectNothing()
}

// Trap 5: "Delta: cluster-only change: EDS not re-sent → may warm for ever on old Envoys."
// (On new ones until the fetch timeout.)
func TestTrap5AChangedClusterBringsItsEndpoints(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 3)
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000", "svc0001", "svc0002"}, nil)
	versions := r.Snapshot("dev")[translate.Endpoints]

	r.publish(t, w.put(edsCluster("svc0001", 5*time.Second)))
	cds := c.nextOf(translate.Cluster, "svc0001")
	eds := c.nextOf(translate.Endpoints, "svc0001") // although CDS is not acknowledged
	require.Equal(t, versions["svc0001"], eds.GetResources()[0].GetVersion(), "by force, not under another version")
	c.ack(cds)
	c.ack(eds)
	c.expectNothing()
}

// Trap 6: "`ClearSnapshot`: open watches stranded, later updates never delivered." There
// is no such call: a collection that becomes empty, or goes and comes back, goes on.
func TestTrap6EmptyingStrandsNobody(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 2)
	r.publish(t, w)
	c := envoylike.New(envoylike.Options{Node: "dev"})
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")

	full := w.now
	w.now = map[translate.Ref]*translate.Resource{}
	r.publish(t, w)
	r.reaches(t, c, "dev")
	require.Empty(t, c.State()[translate.Cluster])
	w.now = full
	r.publish(t, w)
	r.reaches(t, c, "dev")
	require.Len(t, c.State()[translate.Cluster], 2)
	require.Empty(t, c.Faults())

	// Taken out of the configuration, the proxy keeps what it has; put back, it is asked to
	// connect again and follows from there.
	r.SetCollections(nil)
	require.Error(t, r.Publish(w.whole()))
	require.True(t, c.Active())
	require.Len(t, r.Proxies(), 1)
	r.SetCollections([]string{"dev"})
	require.NoError(t, r.Publish(w.put(endpoints("svc0000", 7)).whole()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, c.Wait(ctx, func() bool { return !c.Connected() }))
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	require.Empty(t, c.Faults())
}

// Trap 7: "`status` per unknown node id: 2 000 rogue ids = 2 000 entries for ever."
func TestTrap7UnknownNodesLeaveNothing(t *testing.T) {
	r := start(t, Options{}, "dev")
	r.publish(t, shop("dev", 1))
	conn := dial(t, r.addr)
	for i := range 300 {
		s, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		require.NoError(t, err)
		_ = s.Send(&discovery.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: fmt.Sprintf("rogue%d/x", i)}, TypeUrl: translate.Cluster.TypeURL(),
		})
		_, err = s.Recv()
		requireStatus(t, err, "NotFound", fmt.Sprintf(`collection "rogue%d" (from node ID`, i))
	}
	require.Empty(t, r.Proxies())
	require.Len(t, r.all(), 1)
	require.Eventually(t, func() bool {
		k := r.collection("dev")
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.streams) == 0
	}, patience, time.Millisecond)
	families, err := gather(r.Server)
	require.NoError(t, err)
	require.NotContains(t, families, "rogue")
}

// Trap 8: "Node id may change mid-stream: stream opened as `dev` re-announced `prod`: got
// prod's clusters, `removed=[dev-only]`."
func TestTrap8NodeIsFrozen(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	r.publish(t, shop("dev", 1))
	r.publish(t, newWorld("prod").put(edsCluster("only-prod", time.Second), endpoints("only-prod", 1)))
	for _, other := range []string{"prod", "dev/other", ""} {
		c := openRaw(t, r.addr, "dev/one")
		c.ask(translate.Cluster)
		c.ack(c.nextOf(translate.Cluster, "svc0000"))
		c.node = "dev/one" // to repeat it is fine: Envoy may
		c.ask(translate.Endpoints, "svc0000")
		c.nextOf(translate.Endpoints, "svc0000")
		c.send(&discovery.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: other}, TypeUrl: translate.Endpoints.TypeURL(), ResourceNamesSubscribe: []string{"only-prod"},
		})
		requireStatus(t, c.end(), "InvalidArgument", fmt.Sprintf(`changed from "dev/one" to %q`, other))
	}
}

// Trap 9: "Known = sent, not ACKed: identical resource not re-sent after NACK, even under
// a new version." What was in a rejected response is unknown: the good ones are sent
// again, the culprit is found, and neither is sent without end.
func TestTrap9AfterANACK(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := shop("dev", 5)
	r.publish(t, w)
	names := []string{"svc0000", "svc0001", "svc0002", "svc0003", "svc0004"}
	r.easygoing(t, "dev")
	c := subscribeAll(t, r, "dev", names, nil)

	for i, name := range names {
		w.put(endpoints(name, uint32(20000+i)))
	}
	bad := endpoints("svc0003", 666)
	r.publish(t, w.put(bad))
	good := map[string]bool{}
	m := c.nextOf(translate.Endpoints, names...)
	responses := 0
	for {
		if contains(resourceNames(m), "svc0003") {
			c.nack(m, "malformed IP address: app.example.com")
		} else {
			for _, name := range resourceNames(m) {
				good[name] = true
			}
			c.ack(m)
		}
		if responses++; r.Proxies()[0].kind(translate.Endpoints).NACK != nil && len(good) == 4 && len(c.in) == 0 {
			if p := r.Proxies()[0].kind(translate.Endpoints); len(p.Rejected) == 1 {
				break
			}
		}
		require.Less(t, responses, 12, "it must come to an end")
		m = c.next()
	}
	c.expectNothing()
	p := r.Proxies()[0]
	require.Equal(t, []string{"svc0003"}, p.kind(translate.Endpoints).Rejected)
	require.Equal(t, "malformed IP address: app.example.com", p.kind(translate.Endpoints).NACK.Message)
	require.False(t, p.Current)

	// Other changes go on; the rejected one is not among them, until it is different.
	r.publish(t, w.put(endpoints("svc0001", 5)))
	c.ack(c.nextOf(translate.Endpoints, "svc0001"))
	c.expectNothing()
	r.publish(t, w.put(endpoints("svc0003", 6)))
	c.ack(c.nextOf(translate.Endpoints, "svc0003"))
	c.expectNothing()
	r.settles(t, 2)
	require.Empty(t, r.Proxies()[0].kind(translate.Endpoints).Rejected)
	// Back to what was good before is a change as well.
	r.publish(t, w.put(endpoints("svc0003", 20003)))
	c.ack(c.nextOf(translate.Endpoints, "svc0003"))
}

// Trap 10: "Global mutex: SetSnapshot of dev blocks watches of prod."
func TestTrap10CollectionsDoNotWaitForEachOther(t *testing.T) {
	r := start(t, Options{}, "dev", "prod")
	r.publish(t, shop("dev", 1))
	w := shop("prod", 1)
	r.publish(t, w)
	dev := r.collection("dev")
	dev.mu.Lock()
	dev.publishing.Lock() // a publish to dev that takes for ever
	defer dev.mu.Unlock()
	defer dev.publishing.Unlock()

	c := openRaw(t, r.addr, "prod")
	c.ask(translate.Cluster)
	c.ack(c.nextOf(translate.Cluster, "svc0000"))
	r.publish(t, w.put(edsCluster("new", time.Second)))
	c.nextOf(translate.Cluster, "new")
}

// subscribeAll is a stream that has everything of a small collection and has
// acknowledged it.
func subscribeAll(t *testing.T, r *running, node string, clusters, secrets []string) *raw {
	t.Helper()
	c := openRaw(t, r.addr, node)
	c.ask(translate.Cluster)
	c.ack(c.next())
	c.ask(translate.Endpoints, clusters...)
	c.ack(c.nextOf(translate.Endpoints, clusters...))
	if len(secrets) > 0 {
		c.ask(translate.Secret, secrets...)
		c.ack(c.nextOf(translate.Secret, secrets...))
	}
	c.ask(translate.Listener)
	c.ack(c.nextOf(translate.Listener, "http"))
	c.ask(translate.Routes, "http")
	c.ack(c.nextOf(translate.Routes, "http"))
	c.expectNothing()
	return c
}

func (p Proxy) kind(kind translate.Kind) ProxyKind {
	for _, k := range p.Kinds {
		if k.Kind == kind {
			return k
		}
	}
	return ProxyKind{}
}

func contains(names []string, name string) bool {
	return strings.Contains(" "+strings.Join(names, " ")+" ", " "+name+" ")
}
