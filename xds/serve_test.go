package xds

import (
	"context"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

func TestColdStart(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 20).put(listener("https", 10443, "http", "cert"), secret("cert", "one"), secret("unused", "two"))
	r.publish(t, w)
	c := envoylike.New(envoylike.Options{Node: "dev/a"})
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	require.Empty(t, c.Faults())
	require.Equal(t, [translate.NumKinds]int{20, 20, 1, 0, 2, 1}, c.Counts().Resources, "each resource is sent once, and only what is asked for")

	p := r.Proxies()[0]
	require.Equal(t, "dev/a", p.NodeID)
	require.Equal(t, "dev", p.Collection)
	require.Equal(t, "a", p.Instance)
	require.Equal(t, "1.40.0", p.Version)
	require.NotEmpty(t, p.Address)
	require.True(t, p.Current)
	require.Len(t, p.Kinds, 5)
	for _, k := range p.Kinds {
		require.NotEmpty(t, k.Sent, k.Kind)
		require.Equal(t, k.Sent, k.ACKed, k.Kind)
	}
}

func TestSilentUntilTheFirstPublish(t *testing.T) {
	r := start(t, Options{}, "dev")
	c := openRaw(t, r.addr, "dev")
	c.ask(translate.Cluster)
	c.ask(translate.Secret, "cert")
	c.expectNothing()
	require.Nil(t, r.Snapshot("dev"))
	require.NoError(t, r.Publish(translate.Delta{Collection: "dev"}))
	m := c.next()
	require.Equal(t, translate.Cluster.TypeURL(), m.GetTypeUrl())
	require.Empty(t, m.GetResources())
	require.Equal(t, []string{"cert"}, c.next().GetRemovedResources())
}

func TestNothingIsSentWhenNothingChanged(t *testing.T) {
	r := start(t, Options{}, "dev")
	r.publish(t, shop("dev", 3))
	c := envoylike.New(envoylike.Options{Node: "dev"})
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	before := c.Counts()
	require.NoError(t, r.Publish(shop("dev", 3).whole()), "the same bytes again")
	require.NoError(t, r.Publish(translate.Delta{Collection: "dev"}))
	w := shop("dev", 3)
	w.delta()
	r.publish(t, w.put(endpoints("svc0001", 1, 2, 3)))
	r.reaches(t, c, "dev")
	after := c.Counts()
	require.Equal(t, before.Messages+1, after.Messages)
	require.Equal(t, before.Sum()+1, after.Sum())
}

func TestServeEndsStreamsAndReturns(t *testing.T) {
	r := start(t, Options{}, "dev")
	r.publish(t, shop("dev", 3))
	c := openRaw(t, r.addr, "dev")
	c.ask(translate.Cluster)
	c.next()
	began := time.Now()
	r.stop()
	require.Less(t, time.Since(began), stopWithin+time.Second)
	requireStatus(t, c.end(), "Unavailable", "stopping")
}

// TestServeEndsWithAStuckProxy: one that does not read holds nobody up, at the end or before.
func TestServeEndsWithAStuckProxy(t *testing.T) {
	r := start(t, Options{Gate: 5 * time.Millisecond}, "dev")
	w := shop("dev", 3000)
	r.publish(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stuck, err := discovery.NewAggregatedDiscoveryServiceClient(dial(t, r.addr)).DeltaAggregatedResources(ctx)
	require.NoError(t, err)
	require.NoError(t, stuck.Send(&discovery.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: "dev/stuck"}, TypeUrl: translate.Cluster.TypeURL(),
	}))
	require.Eventually(t, func() bool { return len(r.Proxies()) == 1 }, patience, time.Millisecond)
	c := envoylike.New(envoylike.Options{Node: "dev/fine", AnyEndpoints: true})
	connect(t, c, r.addr)
	for i := range 50 {
		r.publish(t, w.put(edsCluster("svc0001", time.Duration(2+i)*time.Second), routes("http", "svc0001")))
	}
	r.reaches(t, c, "dev")
	began := time.Now()
	r.stop()
	require.Less(t, time.Since(began), stopWithin+2*time.Second)
}

func TestPublishRefusesNonsenseWhole(t *testing.T) {
	s := New(Options{Guard: identity.Insecure()})
	s.SetCollections([]string{"dev"})
	good := edsCluster("a", time.Second)
	for name, changes := range map[string][]translate.Change{
		"in the delta twice":   {{Kind: translate.Cluster, Name: "a", Resource: good}, {Kind: translate.Cluster, Name: "a"}},
		"holds clusters \"a\"": {{Kind: translate.Cluster, Name: "b", Resource: good}},
		"neither a message":    {{Kind: translate.Cluster, Name: "a", Resource: &translate.Resource{Kind: translate.Cluster, Name: "a"}}},
		"unknown kind":         {{Kind: translate.NumKinds, Name: "a"}},
		"has no name":          {{Kind: translate.Cluster}},
	} {
		all := append([]translate.Change{{Kind: translate.Endpoints, Name: "a", Resource: endpoints("a", 1)}}, changes...)
		err := s.Publish(translate.Delta{Collection: "dev", Changes: all})
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, `collection "dev"`)
		require.Nil(t, s.Snapshot("dev"), "nothing may have been applied")
	}
	require.ErrorContains(t, s.Publish(translate.Delta{Collection: "prod"}), `collection "prod": there is no such collection`)
}

func TestBodyIsUsedAsItIs(t *testing.T) {
	r := start(t, Options{}, "dev")
	full := routes("http", "svc0000")
	w := shop("dev", 1)
	r.publish(t, w)
	version := r.Snapshot("dev")[translate.Routes]["http"]
	body, err := encodeForTest(full)
	require.NoError(t, err)
	r.publish(t, w.put(&translate.Resource{Kind: translate.Routes, Name: "http", Body: body}))
	require.Equal(t, version, r.Snapshot("dev")[translate.Routes]["http"], "the same bytes are the same version")
	require.Len(t, version, 16)
}

func TestServeFailsOnAClosedListener(t *testing.T) {
	lis := newListener(t)
	require.NoError(t, lis.Close())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.ErrorContains(t, New(Options{Guard: identity.Insecure()}).Serve(ctx, lis), "serving xDS on 127.0.0.1")
}

// TestPublishCostsTheChange: what one changed endpoint costs does not depend on how many
// others there are. (BenchmarkPublish measures it in time.)
func TestPublishCostsTheChange(t *testing.T) {
	cost := func(services int) float64 {
		s := New(Options{Guard: identity.Insecure()})
		s.SetCollections([]string{"dev"})
		require.NoError(t, s.Publish(shop("dev", services).delta()))
		port := uint32(0)
		return testing.AllocsPerRun(200, func() {
			port++
			require.NoError(t, s.Publish(translate.Delta{Collection: "dev", Changes: []translate.Change{
				{Kind: translate.Endpoints, Name: "svc0001", Resource: endpoints("svc0001", port)},
			}}))
		})
	}
	small, large := cost(10), cost(3000)
	require.InDelta(t, small, large, 3, "allocations of one publish at 10 and at 3 000 services")
}

// TestFramesAreShared: what many proxies are sent is in memory once.
func TestFramesAreShared(t *testing.T) {
	k := newCollection("dev", New(Options{Guard: identity.Insecure()}))
	edits, err := encodeAll(shop("dev", 5).delta().Changes)
	require.NoError(t, err)
	k.publish(edits, time.Now())
	clusters := &k.tables[translate.Cluster]
	require.Same(t, clusters.everything(), clusters.everything())
	require.Same(t, clusters.since(0), clusters.since(0))
	require.Len(t, clusters.everything().pieces, 1)
	one := newFrame(clusters.everything().entries[:1])
	require.Same(t, &one.entries[0].wire[0], &one.pieces[0].ReadOnlyData()[0], "the entry's own bytes")
}
