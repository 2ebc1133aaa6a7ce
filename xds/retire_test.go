package xds

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// TestRemovalsGoInReverse: listener and routes first, then what they used.
func TestRemovalsGoInReverse(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", 1), secret("cert", "1"), routes("http", "a"),
		routes("https", "a"), listener("http", 10080, "http"))
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"a"}, nil)
	r.publish(t, w.put(listener("https", 10443, "https", "cert"), edsCluster("b", time.Second), endpoints("b", 1), routes("https", "b")))
	cds := c.nextOf(translate.Cluster, "b")
	c.ask(translate.Endpoints, "b")
	c.ack(c.nextOf(translate.Endpoints, "b"))
	c.ack(cds)
	lds := c.nextOf(translate.Listener, "https")
	c.ask(translate.Secret, "cert")
	c.ack(c.nextOf(translate.Secret, "cert"))
	c.ask(translate.Routes, "https")
	rds := c.nextOf(translate.Routes, "https")
	c.ack(lds)
	c.ack(rds)
	c.expectNothing()

	r.publish(t, w.drop(translate.Listener, "https").drop(translate.Routes, "https").drop(translate.Secret, "cert").
		drop(translate.Cluster, "b").drop(translate.Endpoints, "b"))
	lds = c.nextGone(translate.Listener, "https")
	c.expectNothing()
	c.ack(lds)
	rds = c.nextGone(translate.Routes, "https") // an Envoy has left it by itself by now
	c.expectNothing()
	c.ack(rds)
	cds = c.nextGone(translate.Cluster, "b")
	c.expectNothing()
	c.leave(translate.Endpoints, "b")
	c.ack(cds)
	c.ack(c.nextGone(translate.Secret, "cert"))
	c.expectNothing()
	r.settles(t, 1)
}

// TestWhatIsLeavingIsStillServed: a cluster that is on its way out keeps its endpoints and
// secrets for whoever asks for them late.
func TestWhatIsLeavingIsStillServed(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000"}, nil)
	r.publish(t, w.put(edsCluster("b", time.Second), endpoints("b", 1)))
	cds := c.nextOf(translate.Cluster, "b")
	// b goes and the routes change before the proxy has got round to b's endpoints.
	r.publish(t, w.drop(translate.Cluster, "b").drop(translate.Endpoints, "b").put(routes("http", "svc0000", "svc0000")))
	c.ask(translate.Endpoints, "b")
	c.ack(c.nextOf(translate.Endpoints, "b"))
	c.ack(cds)
	c.ack(c.nextOf(translate.Routes, "http"))
	c.ack(c.nextGone(translate.Cluster, "b"))
}

// TestGrace: a proxy that does not acknowledge keeps what is removed for the grace time.
func TestGrace(t *testing.T) {
	const grace = 300 * time.Millisecond
	for _, how := range []string{"silent", "rejects"} {
		t.Run(how, func(t *testing.T) {
			r := start(t, Options{Gate: 20 * time.Millisecond, Grace: grace}, "dev")
			w := newWorld("dev").put(edsCluster("a", time.Second), endpoints("a", 1), edsCluster("b", time.Second), endpoints("b", 1),
				routes("http", "a"), listener("http", 10080, "http"))
			r.publish(t, w)
			r.easygoing(t, "dev")
			c := subscribeAll(t, r, "dev", []string{"a", "b"}, nil)
			c.leave(translate.Endpoints, "a")
			began := time.Now()
			r.publish(t, w.put(routes("http", "b")).drop(translate.Cluster, "a").drop(translate.Endpoints, "a"))
			rds := c.nextOf(translate.Routes, "http")
			if how == "rejects" {
				c.nack(rds, "Only unique values for domains are permitted")
			}
			c.nextGone(translate.Cluster, "a")
			require.GreaterOrEqual(t, time.Since(began), grace)
			if how == "rejects" {
				require.Equal(t, []string{"http"}, r.Proxies()[0].kind(translate.Routes).Rejected)
			}
		})
	}
}

// TestAListenerTakesOverAnAddress: Envoy removes before it adds, in one response only.
func TestAListenerTakesOverAnAddress(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000"}, nil)
	r.publish(t, w.drop(translate.Listener, "http").put(listener("web", 10080, "http")))
	m := c.nextOf(translate.Listener, "web")
	require.Equal(t, []string{"http"}, m.GetRemovedResources())
	c.ack(m)
	c.expectNothing()
}

// TestReconnect: a proxy that comes back is sent what is different and loses what is gone,
// but only once it has the routes that left it.
func TestReconnect(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := shop("dev", 2)
	r.publish(t, w)
	v := r.Snapshot("dev")
	c := openRaw(t, r.addr, "dev")
	c.resume(translate.Cluster, nil, map[string]string{
		"svc0000": v[translate.Cluster]["svc0000"], "svc0001": "older", "gone": "1",
	})
	c.ack(c.nextOf(translate.Cluster, "svc0001"))
	// Same endpoints as before, but svc0001 is warming: they must come. `orphan` is a
	// cluster that Envoy applied out of a response that it rejected.
	c.resume(translate.Endpoints, []string{"gone", "orphan", "svc0000", "svc0001"}, map[string]string{
		"svc0000": v[translate.Endpoints]["svc0000"], "svc0001": v[translate.Endpoints]["svc0001"], "gone": "1",
	})
	m := c.nextOf(translate.Endpoints, "svc0001")
	require.ElementsMatch(t, []string{"gone", "orphan"}, m.GetRemovedResources())
	c.ack(m)
	c.expectNothing() // the routes may still use what is gone
	c.resume(translate.Secret, []string{"old-cert", "missing"}, map[string]string{"old-cert": "1"})
	c.ack(c.nextGone(translate.Secret, "missing"))
	c.resume(translate.Listener, nil, map[string]string{"http": v[translate.Listener]["http"], "old": "1"})
	lds := c.nextGone(translate.Listener, "old")
	c.resume(translate.Routes, []string{"http"}, map[string]string{"http": "older"})
	rds := c.nextOf(translate.Routes, "http")
	c.ack(lds)
	c.expectNothing()
	c.ack(rds)
	gone := c.nextGone(translate.Cluster, "gone", "orphan")
	c.leave(translate.Endpoints, "gone", "orphan")
	c.expectNothing() // a cluster may still use the secret
	c.ack(gone)
	c.ack(c.nextGone(translate.Secret, "old-cert"))
	c.expectNothing()
	r.settles(t, 1)
}

// TestWhatIsBackIsNotRemovedAsStale: a stale name that came back and goes again goes when
// the routes of that time have left it.
func TestWhatIsBackIsNotRemovedAsStale(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := newWorld("dev").put(edsCluster("b", time.Second), endpoints("b", 1), routes("http", "b"), listener("http", 10080, "http"))
	r.publish(t, w)
	v := r.Snapshot("dev")
	c := openRaw(t, r.addr, "dev")
	c.resume(translate.Cluster, nil, map[string]string{"a": "1", "b": v[translate.Cluster]["b"]})
	c.ack(c.nextOf(translate.Cluster))
	c.resume(translate.Endpoints, []string{"b"}, v[translate.Endpoints])
	c.resume(translate.Listener, nil, v[translate.Listener])
	c.ack(c.nextOf(translate.Listener))
	c.expectNothing() // the routes are not known yet, so a stays
	r.publish(t, w.put(edsCluster("a", time.Second), endpoints("a", 1), routes("http", "a", "b")))
	c.ack(c.nextOf(translate.Cluster, "a"))
	c.ask(translate.Endpoints, "a")
	c.ack(c.nextOf(translate.Endpoints, "a"))
	c.resume(translate.Routes, []string{"http"}, map[string]string{"http": "older"})
	rds := c.nextOf(translate.Routes, "http") // names a
	r.publish(t, w.put(edsCluster("c", time.Second), endpoints("c", 1), routes("http", "b", "c")).
		drop(translate.Cluster, "a").drop(translate.Endpoints, "a"))
	cds := c.nextOf(translate.Cluster, "c")
	c.ack(rds)
	c.ask(translate.Endpoints, "c")
	c.ack(c.nextOf(translate.Endpoints, "c"))
	c.expectNothing() // the routes without a wait for c
	c.ack(cds)
	rds = c.nextOf(translate.Routes, "http")
	c.expectNothing()
	c.ack(rds)
	c.nextGone(translate.Cluster, "a")
}

// TestATableTakenUpAgain: a listener goes and comes back so fast that a push of its route
// table crosses the proxy's leaving and asking again. The proxy may then have an older
// table than the server thinks, until the question has been answered.
func TestATableTakenUpAgain(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	w := shop("dev", 1).put(edsCluster("x", time.Second), endpoints("x", 1), routes("http", "x"))
	r.publish(t, w)
	c := subscribeAll(t, r, "dev", []string{"svc0000", "x"}, nil)
	r.publish(t, w.put(listener("http", 10081, "http"))) // stands for the going and coming back
	lds := c.nextOf(translate.Listener, "http")
	c.leave(translate.Routes, "http")
	c.expectNothing()
	r.publish(t, w.put(routes("http", "svc0000")).drop(translate.Cluster, "x").drop(translate.Endpoints, "x"))
	c.expectNothing() // the listener is not acknowledged
	r.publish(t, w.put(edsCluster("y", time.Second), endpoints("y", 1)))
	cds := c.nextOf(translate.Cluster, "y")
	c.ask(translate.Routes, "http") // it still has the table with x
	c.ack(lds)
	c.ack(cds)
	c.expectNothing() // the routes wait for y's endpoints, so x stays
	c.ask(translate.Endpoints, "y")
	c.ack(c.nextOf(translate.Endpoints, "y"))
	rds := c.nextOf(translate.Routes, "http")
	c.expectNothing()
	c.ack(rds)
	c.nextGone(translate.Cluster, "x")
}

// TestReconnectToAnEmptyCollection is the explicit empty world, and its opposite: a
// collection of which nothing is known yet says nothing.
func TestReconnectToAnEmptyCollection(t *testing.T) {
	r := start(t, Options{}, "dev")
	c := openRaw(t, r.addr, "dev")
	c.resume(translate.Cluster, nil, map[string]string{"a": "1"})
	c.resume(translate.Listener, nil, map[string]string{"http": "1"})
	c.resume(translate.Routes, []string{"http"}, map[string]string{"http": "1"})
	c.expectNothing()
	r.publish(t, newWorld("dev"))
	c.ack(c.nextOf(translate.Cluster))
	lds := c.nextGone(translate.Listener, "http")
	c.leave(translate.Routes, "http")
	c.ack(lds)
	c.ack(c.nextGone(translate.Cluster, "a"))
	c.expectNothing()
}

// TestRestartSendsNothing is invariant 7: every control plane is killed and started again,
// and no proxy is sent anything that it already has.
func TestRestartSendsNothing(t *testing.T) {
	build := func() *world {
		return shop("dev", 50).put(listener("https", 10443, "http", "cert"), secret("cert", "one"))
	}
	lis := newListener(t)
	addr := lis.Addr().String()
	r := startOn(t, lis, Options{}, "dev")
	r.publish(t, build())
	var clients []*envoylike.Client
	for i := range 5 {
		c := envoylike.New(envoylike.Options{Node: fmt.Sprintf("dev/%d", i)})
		clients = append(clients, c)
		connect(t, c, addr)
	}
	for _, c := range clients {
		r.reaches(t, c, "dev")
	}
	r.settles(t, 5)
	versions := r.Snapshot("dev")
	var before []envoylike.Counts
	for _, c := range clients {
		before = append(before, c.Counts())
	}
	for range 3 {
		r.stop()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for _, c := range clients {
			require.NoError(t, c.Wait(ctx, func() bool { return !c.Connected() }))
		}
		cancel()
		lis, err := listenAgain(addr)
		require.NoError(t, err)
		r = startOn(t, lis, Options{}, "dev")
		for _, c := range clients {
			connect(t, c, addr)
		}
		// Some are there before the first publish, some after: it makes no difference.
		require.Eventually(t, func() bool { return len(r.Proxies()) >= 2 }, patience, time.Millisecond)
		require.NoError(t, r.Publish(build().whole()))
		require.Equal(t, versions, r.Snapshot("dev"), "the same content has the same versions in any replica")
		for _, c := range clients {
			r.reaches(t, c, "dev")
		}
		r.settles(t, 5)
	}
	for i, c := range clients {
		after := c.Counts()
		require.Equal(t, before[i].Resources, after.Resources, "client %d", i)
		require.Equal(t, before[i].Removed, after.Removed, "client %d", i)
		require.Equal(t, before[i].Streams+3, after.Streams, "client %d", i)
		require.Empty(t, c.Faults())
	}
}

// TestMemoryFollowsSize is invariant 8: a collection that has changed for a long time keeps
// no more than one that has not, also when proxies are in the way.
func TestMemoryFollowsSize(t *testing.T) {
	r := start(t, Options{Gate: 10 * time.Millisecond, Grace: 50 * time.Millisecond}, "dev")
	w := shop("dev", 10)
	r.publish(t, w)
	quick := envoylike.New(envoylike.Options{Node: "dev/quick", AnyEndpoints: true})
	keepConnected(t, quick, r.addr)
	mute := envoylike.New(envoylike.Options{Node: "dev/mute", AnyEndpoints: true,
		Mute: func(kind translate.Kind) bool { return kind == translate.Routes }})
	keepConnected(t, mute, r.addr)
	r.reaches(t, quick, "dev")
	deaf := openRaw(t, r.addr, "dev/deaf") // takes what comes and acknowledges nothing at all
	deaf.ask(translate.Cluster)
	deaf.ask(translate.Listener)
	deaf.nextOf(translate.Cluster, resourcesOf(w, translate.Cluster)...)

	const window = 5
	began := time.Now()
	for n := 0; n < 1000 || time.Since(began) < 500*time.Millisecond; n++ {
		name := fmt.Sprintf("churn%d", n)
		w.put(edsCluster(name, time.Second), endpoints(name, uint32(n%60000+1)), secret(name, name), endpoints("svc0001", uint32(n+1)))
		if n >= window {
			old := fmt.Sprintf("churn%d", n-window)
			w.drop(translate.Cluster, old).drop(translate.Endpoints, old).drop(translate.Secret, old)
		}
		r.publish(t, w)
	}
	requireStatus(t, deaf.end(), "Unavailable", "takes no updates")
	r.checkBounds(t, "dev")
	r.reaches(t, quick, "dev")
	k := r.collection("dev")
	require.Eventually(t, func() bool { // the next publishes find nothing of the past
		r.publish(t, w.put(endpoints("svc0001", 1+uint32(time.Now().UnixNano()%60000))))
		k.mu.Lock()
		defer k.mu.Unlock()
		for kind := range k.tables {
			if len(k.tables[kind].gone) > 0 || len(k.tables[kind].goneLog) > 0 {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond)
	r.checkBounds(t, "dev")
}

func resourcesOf(w *world, kind translate.Kind) (names []string) {
	for ref := range w.now {
		if ref.Kind == kind {
			names = append(names, ref.Name)
		}
	}
	return names
}
