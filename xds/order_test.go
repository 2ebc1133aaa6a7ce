package xds

import (
	"fmt"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
)

func TestAdditionsGoInOrder(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", 1), secret("cert", "1"), extension("jwt", "1"),
		routes("http", "a"), listener("http", 10443, "http", "cert"))
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"a"}, []string{"cert"})
	c.ask(translate.Extension, "jwt")
	c.ack(c.nextOf(translate.Extension, "jwt"))

	r.publish(t, w.put(edsCluster("b", time.Second), endpoints("a", 2), secret("cert", "2"), extension("jwt", "2"),
		routes("http", "a"), listener("http", 10444, "http", "cert"), routes("http", "a", "a")))
	cds := c.nextOf(translate.Cluster, "b")
	c.ack(c.nextOf(translate.Endpoints, "a"))
	c.ack(c.nextOf(translate.Secret, "cert"))
	c.ack(c.nextOf(translate.Extension, "jwt"))
	c.expectNothing() // b's endpoints have not been asked for
	c.ask(translate.Endpoints, "b")
	c.ack(c.nextGone(translate.Endpoints, "b")) // there are none, which is an answer too
	c.expectNothing()
	c.ack(cds)
	c.ack(c.nextOf(translate.Listener, "http"))
	c.ack(c.nextOf(translate.Routes, "http"))
	c.expectNothing()
}

// TestGate: one cluster that does not get warm holds listeners and routes only so long,
// and even then no route overtakes its cluster.
func TestGate(t *testing.T) {
	const gate = 150 * time.Millisecond
	r := start(t, Options{Gate: gate}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000"}, nil)

	began := time.Now()
	r.publish(t, w.put(edsCluster("slow", time.Second), endpoints("slow", 1), routes("http", "svc0000", "slow")))
	slow := c.nextOf(translate.Cluster, "slow") // not acknowledged: it warms
	c.expectNothing()
	r.publish(t, w.put(edsCluster("other", time.Second), endpoints("other", 1), routes("http", "svc0000", "slow", "other")))
	other := c.nextOf(translate.Cluster, "other") // before the routes that name it, although CDS is busy
	rds := c.nextOf(translate.Routes, "http")
	require.GreaterOrEqual(t, time.Since(began), gate)
	c.ack(rds)

	// What the first ones waited for is not waited for again.
	r.publish(t, w.put(routes("http", "svc0000", "slow", "other", "other")))
	c.ack(c.nextOf(translate.Routes, "http"))
	c.ack(other)
	c.ack(slow)
	c.expectNothing()
}

// TestEndpointsAreNeverStaged: whatever waits, the newest endpoints go out; those that
// arrive while a response is unacknowledged go as one.
func TestEndpointsAreNeverStaged(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := shop("dev", 2)
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000", "svc0001"}, nil)
	r.publish(t, w.put(edsCluster("slow", time.Second), endpoints("slow", 1), routes("http", "slow")))
	c.nextOf(translate.Cluster, "slow")
	for port := range uint32(5) {
		r.publish(t, w.put(endpoints("svc0000", 100+port)))
		if port == 0 {
			c.expectNothingBut(translate.Endpoints, "svc0000")
		}
	}
	c.expectNothing() // the first is not acknowledged
	r.publish(t, w.put(endpoints("svc0001", 7)))
	c.ack(c.last)
	m := c.nextOf(translate.Endpoints, "svc0000", "svc0001")
	require.Equal(t, r.Snapshot("dev")[translate.Endpoints]["svc0000"], version(m, "svc0000"))
	c.ack(m)
	c.expectNothing()
}

func TestSubscriptions(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 3).put(secret("cert", "1"), secret("key", "1"),
		uses(extension("jwt", "1"), "cert", "key", "missing", "other"))
	r.publish(t, w)

	t.Run("a name that is asked for again is answered", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Endpoints, "svc0000")
		c.ack(c.nextOf(translate.Endpoints, "svc0000"))
		c.ask(translate.Endpoints, "svc0000")
		c.ack(c.nextOf(translate.Endpoints, "svc0000"))
		c.ask(translate.Endpoints, "svc0000", "svc0001", "nobody")
		m := c.nextOf(translate.Endpoints, "svc0000", "svc0001")
		require.Equal(t, []string{"nobody"}, m.GetRemovedResources())
		c.ack(m)
		c.expectNothing()
	})
	t.Run("a name that was left is not sent", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Endpoints, "svc0000", "svc0001")
		c.ack(c.next())
		c.leave(translate.Endpoints, "svc0000")
		c.expectNothing()
		r.publish(t, w.put(endpoints("svc0000", 77), endpoints("svc0001", 77)))
		c.ack(c.nextOf(translate.Endpoints, "svc0001"))
		c.expectNothing()
	})
	t.Run("an empty subscription is everything for clusters and listeners", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Cluster)
		c.ack(c.nextOf(translate.Cluster, "svc0000", "svc0001", "svc0002"))
		c.ask(translate.Listener)
		c.ack(c.nextOf(translate.Listener, "http"))
		for _, kind := range []translate.Kind{translate.Endpoints, translate.Secret, translate.Extension, translate.Routes} {
			c.ask(kind)
			c.ask(kind, "*")
		}
		c.expectNothing() // and nothing for the others
	})
	t.Run("a star together with names", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Cluster, "*", "svc0001", "lazy")
		m := c.nextOf(translate.Cluster, "svc0000", "svc0001", "svc0002")
		require.Equal(t, []string{"lazy"}, m.GetRemovedResources())
		c.ack(m)
		c.leave(translate.Cluster, "svc0001") // still has it, by the star, and is told so
		c.ack(c.nextOf(translate.Cluster, "svc0001"))
		c.ask(translate.Cluster, "svc0002")
		c.ack(c.nextOf(translate.Cluster, "svc0002"))
		c.expectNothing()
	})
	t.Run("clusters by name, then all", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Cluster, "svc0001")
		c.ack(c.nextOf(translate.Cluster, "svc0001"))
		c.ask(translate.Cluster, "*")
		c.ack(c.nextOf(translate.Cluster, "svc0000", "svc0001", "svc0002"))
		c.expectNothing()
	})
	t.Run("secrets: only what there is, at once, and one changed at a time", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Secret, "cert", "key", "missing", "*")
		m := c.nextOf(translate.Secret, "cert", "key")
		require.Equal(t, []string{"missing"}, m.GetRemovedResources())
		c.ack(m)
		r.publish(t, w.put(secret("cert", "2"), secret("key", "2"), secret("other", "2")))
		c.ack(c.nextOf(translate.Secret, "cert"))
		c.ack(c.nextOf(translate.Secret, "key"))
		c.expectNothing()
		r.publish(t, w.put(secret("missing", "3"))) // found at last
		c.ack(c.nextOf(translate.Secret, "missing"))
	})
	t.Run("a type that is not served is empty, and harms nothing", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		for _, url := range []string{"type.googleapis.com/envoy.config.route.v3.VirtualHost", "foo.Bar"} {
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url})
			m := c.next()
			require.Equal(t, url, m.GetTypeUrl())
			require.Empty(t, m.GetResources())
			c.ack(m)
			c.nack(m, "what is this")
		}
		c.expectNothing()
		c.ask(translate.Cluster)
		c.nextOf(translate.Cluster, "svc0000", "svc0001", "svc0002")
	})
	t.Run("but not any number of them", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		for i := range maxStrange + 1 {
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: fmt.Sprintf("foo.Bar%d", i)})
		}
		requireStatus(t, c.end(), "InvalidArgument", "more than 64 types")
	})
	t.Run("a stale or made-up nonce is no acknowledgement", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Endpoints, "svc0000")
		m := c.nextOf(translate.Endpoints, "svc0000")
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: "999"})
		r.publish(t, w.put(endpoints("svc0000", 4711)))
		c.expectNothing()
		c.ack(m)
		c.nextOf(translate.Endpoints, "svc0000")
	})
	t.Run("a message without a type is refused", func(t *testing.T) {
		c := openRaw(t, r.addr, "dev")
		c.send(&discovery.DeltaDiscoveryRequest{})
		requireStatus(t, c.end(), "InvalidArgument", "type URL is required")
	})
}

// expectNothingBut is nextOf that keeps the message in last, unacknowledged.
func (c *raw) expectNothingBut(kind translate.Kind, names ...string) {
	c.t.Helper()
	c.last = c.nextOf(kind, names...)
}

func version(m *discovery.DeltaDiscoveryResponse, name string) string {
	for _, r := range m.GetResources() {
		if r.GetName() == name {
			return r.GetVersion()
		}
	}
	return ""
}
