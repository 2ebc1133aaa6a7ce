package xds

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// tlsShop is a shop with a TLS listener for some certificates.
func tlsShop(collection string, certificates ...string) *world {
	w := shop(collection, 1).put(listener("https", 10443, "http", certificates...))
	for _, name := range certificates {
		w.put(secret(name, "KEY-OF-"+collection+"-"+name))
	}
	return w
}

// TestSecretsThatNothingRefersToAreNotServed: to know a name is not enough, and what has
// left the last listener or cluster that used it can be had no longer.
func TestSecretsThatNothingRefersToAreNotServed(t *testing.T) {
	var log syncBuffer
	r := start(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "dev")
	w := tlsShop("dev", "cert/a").put(secret("cert/idle", "SPARE"))
	r.publish(t, w)
	require.Contains(t, r.Snapshot("dev")[translate.Secret], "cert/a")
	require.NotContains(t, r.Snapshot("dev")[translate.Secret], "cert/idle")
	require.Contains(t, log.String(), "cert/idle")
	require.NotContains(t, log.String(), "SPARE")

	c := openRaw(t, r.addr, "dev")
	c.ask(translate.Secret, "cert/idle", "cert/a")
	m := c.nextOf(translate.Secret, "cert/a")
	require.Equal(t, []string{"cert/idle"}, m.GetRemovedResources())
	c.ack(m)
	r.publish(t, w.put(secret("cert/idle", "SPARE-2")))
	c.expectNothing()

	// A cluster may be what needs it. Then it is pushed, without being asked for again.
	r.publish(t, w.put(uses(edsCluster("svc0000", 2*time.Second), "cert/idle")))
	c.ack(c.nextOf(translate.Secret, "cert/idle"))
	c.expectNothing()
	// Two use it, one leaves it.
	r.publish(t, w.put(listener("https", 10443, "http", "cert/a", "cert/idle"), edsCluster("svc0000", 3*time.Second)))
	c.expectNothing()
	require.Contains(t, r.Snapshot("dev")[translate.Secret], "cert/idle")
	// The last one leaves it, although it is still published.
	r.publish(t, w.put(listener("https", 10443, "http", "cert/a")))
	c.ack(c.nextGone(translate.Secret, "cert/idle"))
	require.NotContains(t, r.Snapshot("dev")[translate.Secret], "cert/idle")
	c.ask(translate.Secret, "cert/idle")
	c.ack(c.nextGone(translate.Secret, "cert/idle"))
	// And the listener that used the other goes.
	r.publish(t, w.drop(translate.Listener, "https"))
	require.Empty(t, r.Snapshot("dev")[translate.Secret])
	c.ack(c.nextGone(translate.Secret, "cert/a"))
	// Back with the very bytes that were there before.
	r.publish(t, w.put(listener("https", 10443, "http", "cert/a")))
	c.ack(c.nextOf(translate.Secret, "cert/a"))
	// It was never there, then it is.
	c.ask(translate.Secret, "cert/new")
	c.ack(c.nextGone(translate.Secret, "cert/new"))
	r.publish(t, w.put(listener("https", 10443, "http", "cert/a", "cert/new")))
	c.expectNothing()
	r.publish(t, w.put(secret("cert/new", "N")))
	c.ack(c.nextOf(translate.Secret, "cert/new"))
	c.expectNothing()
}

// TestEverySecretThatIsAskedForIsAnswered, however often and in whatever company.
func TestEverySecretThatIsAskedForIsAnswered(t *testing.T) {
	r := start(t, Options{Gate: time.Minute}, "dev")
	r.publish(t, tlsShop("dev", "cert/a", "cert/b", "cert/c"))
	c := openRaw(t, r.addr, "dev")
	for range 3 {
		c.ask(translate.Secret, "cert/nobody", "*")
		c.ack(c.nextGone(translate.Secret, "cert/nobody"))
		c.expectNothing() // and the star is as if it were not there
	}
	c.ask(translate.Secret, "cert/b", "cert/nobody")
	m := c.nextOf(translate.Secret, "cert/b")
	require.Equal(t, []string{"cert/nobody"}, m.GetRemovedResources())
	c.ack(m)

	// Asked for again on the same stream: all names of the request are answered, each once.
	c.ask(translate.Secret, "cert/c", "cert/nobody", "cert/b", "cert/a", "*", "cert/b", "cert/else")
	sent, gone := map[string]int{}, map[string]int{}
	for len(sent)+len(gone) < 5 {
		m := c.next()
		require.LessOrEqual(t, len(m.GetResources()), 1, "one secret a response")
		for _, name := range resourceNames(m) {
			sent[name]++
		}
		for _, name := range m.GetRemovedResources() {
			gone[name]++
		}
		c.ack(m)
	}
	require.Equal(t, map[string]int{"cert/a": 1, "cert/b": 1, "cert/c": 1}, sent)
	require.Equal(t, map[string]int{"cert/nobody": 1, "cert/else": 1}, gone)
	c.expectNothing()

	// As Envoy does when nobody waits for a name any more, and asks anew later.
	c.leave(translate.Secret, "cert/nobody", "cert/a")
	c.expectNothing()
	c.ask(translate.Secret, "cert/a", "cert/nobody")
	m = c.nextOf(translate.Secret, "cert/a")
	require.Equal(t, []string{"cert/nobody"}, m.GetRemovedResources())
}

// TestNoNameIsBothSentAndTaken: Envoy rejects the whole of a response that says a name
// twice ("duplicate name found in the union of added+removed resources").
func TestNoNameIsBothSentAndTaken(t *testing.T) {
	for _, kind := range []translate.Kind{translate.Secret, translate.Endpoints, translate.Routes} {
		t.Run(kind.String(), func(t *testing.T) {
			r := start(t, Options{Gate: time.Minute}, "dev")
			w := shop("dev", 1).put(edsCluster("x", time.Second), endpoints("x", 1), secret("x", "1"), routes("x"), listener("x", 10443, "x", "x"))
			r.publish(t, w)
			c := openRaw(t, r.addr, "dev")
			for _, k := range []translate.Kind{translate.Cluster, translate.Endpoints, translate.Secret, translate.Listener, translate.Routes} {
				switch k {
				case translate.Cluster, translate.Listener:
					c.ask(k, "*")
				case translate.Endpoints:
					c.ask(k, "x", "svc0000")
				default:
					c.ask(k, "x")
				}
				c.ack(c.next())
			}
			c.ask(kind, "x")
			asked := c.nextOf(kind, "x") // not acknowledged yet

			// It goes, and its removal is due; only this response is in its way.
			r.publish(t, w.drop(translate.Listener, "x").drop(translate.Routes, "x").drop(translate.Secret, "x").
				drop(translate.Cluster, "x").drop(translate.Endpoints, "x"))
			for _, k := range retirement {
				if k == kind {
					break
				}
				if k != translate.Extension {
					c.ack(c.nextGone(k, "x"))
				}
			}
			c.expectNothing()
			// The acknowledgement comes in one message with a subscription, as Envoy does it.
			c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: kind.TypeURL(), ResponseNonce: asked.GetNonce(), ResourceNamesSubscribe: []string{"x"}})
			c.ack(c.nextGone(kind, "x"))
		})
	}
	t.Run("a name that came with the proxy", func(t *testing.T) {
		r := start(t, Options{Gate: time.Minute}, "dev")
		r.publish(t, tlsShop("dev", "cert/a"))
		c := openRaw(t, r.addr, "dev")
		c.resume(translate.Secret, []string{"cert/old"}, map[string]string{"cert/old": "1"})
		c.ask(translate.Secret, "cert/a")
		asked := c.nextOf(translate.Secret, "cert/a")
		c.ask(translate.Cluster)
		c.ack(c.next())
		c.ask(translate.Endpoints, "svc0000")
		c.ack(c.next())
		c.ask(translate.Listener)
		c.ack(c.next())
		c.ask(translate.Routes, "http")
		c.ack(c.next())
		c.send(&discovery.DeltaDiscoveryRequest{
			TypeUrl: translate.Secret.TypeURL(), ResponseNonce: asked.GetNonce(), ResourceNamesSubscribe: []string{"cert/old"},
		})
		m := c.next() // it is due, and it is asked for: once is enough
		require.Equal(t, []string{"cert/old"}, m.GetRemovedResources())
		c.ack(m)
		c.expectNothing()
	})
}

// TestARejectedSecretCostsNoOther: Envoy does not say which of several it rejects, and
// takes some of the others or none.
func TestARejectedSecretCostsNoOther(t *testing.T) {
	const names = 9
	all := make([]string, names)
	for i := range all {
		all[i] = fmt.Sprintf("cert/%d", i)
	}
	for _, when := range []string{"at first", "changed", "on a new stream"} {
		t.Run(when, func(t *testing.T) {
			var log syncBuffer
			r := start(t, Options{Gate: time.Minute, Logger: slog.New(slog.NewTextHandler(&log, nil))}, "dev")
			w := tlsShop("dev", all...)
			bad := "KEY-OF-dev-cert/4"
			r.publish(t, w)
			r.easygoing(t, "dev")
			c := openRaw(t, r.addr, "dev")
			switch when {
			case "at first":
				c.ask(translate.Secret, all...)
			case "changed":
				c.ask(translate.Secret, all...)
				c.ack(c.nextOf(translate.Secret, all...))
				for _, name := range all {
					w.put(secret(name, "RENEWED-"+name))
				}
				bad = "RENEWED-cert/4"
				r.publish(t, w)
			default:
				old := map[string]string{}
				for _, name := range all {
					old[name] = "another version"
				}
				c.resume(translate.Secret, all, old)
			}
			served := r.Snapshot("dev")[translate.Secret]
			good := map[string]string{}
			for responses := 0; len(good) < names-1; responses++ {
				m := c.next()
				if when == "changed" {
					require.Len(t, m.GetResources(), 1, "one changed secret a response")
				}
				if contains(resourceNames(m), "cert/4") {
					c.nack(m, "Failed to load private key from <inline> "+bad)
				} else {
					for _, res := range m.GetResources() {
						good[res.GetName()] = res.GetVersion()
					}
					c.ack(m)
				}
				require.Less(t, responses, 4*names)
			}
			for name, version := range good {
				require.Equal(t, served[name], version)
			}
			require.Eventually(t, func() bool { // what is left are attempts at the bad one
				for len(c.in) > 0 {
					c.nack(c.next(), "Failed to load private key from <inline> "+bad)
				}
				return len(r.Proxies()[0].kind(translate.Secret).Rejected) == 1
			}, patience, time.Millisecond)
			c.expectNothing()
			require.Equal(t, []string{"cert/4"}, r.Proxies()[0].kind(translate.Secret).Rejected)
			r.nothingOf(t, &log, bad, "Failed to load")

			// The next version is tried.
			r.publish(t, w.put(secret("cert/4", "BETTER")))
			c.ack(c.nextOf(translate.Secret, "cert/4"))
			c.expectNothing()
			require.Empty(t, r.Proxies()[0].kind(translate.Secret).Rejected)
		})
	}
}

// nothingOf: no log, status or metric has any of the texts.
func (r *running) nothingOf(t *testing.T, log *syncBuffer, texts ...string) {
	t.Helper()
	metrics, err := gather(r.Server)
	require.NoError(t, err)
	for _, text := range texts {
		require.NotContains(t, log.String(), text)
		require.NotContains(t, fmt.Sprintf("%+v", r.Proxies()), text)
		for _, p := range r.Proxies() {
			for _, k := range p.Kinds {
				require.NotContains(t, fmt.Sprintf("%+v", k.NACK), text)
			}
		}
		require.NotContains(t, metrics, text)
	}
}

// TestAProxyOfDevGetsNoKeyOfProd, however it asks: over a channel that believes it and
// over one that wants to see its certificate.
func TestAProxyOfDevGetsNoKeyOfProd(t *testing.T) {
	dir := authority(t, "dev", "prod")
	guard, err := identity.TLS(identity.Files{
		CA:   filepath.Join(dir, ca.ControlPlane, "ca.crt"),
		Cert: filepath.Join(dir, ca.ControlPlane, "tls.crt"),
		Key:  filepath.Join(dir, ca.ControlPlane, "tls.key"),
	}, identity.Options{})
	require.NoError(t, err)
	for name, channel := range map[string]struct {
		guard *identity.Guard
		dial  []grpc.DialOption
	}{
		"insecure": {identity.Insecure(), nil},
		"mTLS":     {guard, []grpc.DialOption{as(t, dir, "dev")}},
	} {
		t.Run(name, func(t *testing.T) {
			var log syncBuffer
			r := start(t, Options{Gate: 20 * time.Millisecond, Grace: 100 * time.Millisecond, Guard: channel.guard, Logger: slog.New(slog.NewTextHandler(&log, nil))}, "dev", "prod")
			dev, prod := tlsShop("dev", "cert/dev"), tlsShop("prod", "cert/prod", "cert/both")
			dev.put(secret("cert/both", "UNUSED")) // the same name, which dev does not use
			r.publish(t, dev)
			r.publish(t, prod)
			versions := r.Snapshot("prod")[translate.Secret]
			open := func(node string) *raw { return openRaw(t, r.addr, node, channel.dial...) }

			c := open("dev/prod")
			prods := []string{"cert/prod", "cert/both"}
			c.ask(translate.Secret, prods...) // by name
			c.ack(c.nextGone(translate.Secret, prods...))
			c.ask(translate.Secret, "*") // by star
			c.expectNothing()
			c.ask(translate.Secret)
			c.expectNothing()
			c.ask(translate.Secret, "cert/dev", "prod/cert/prod", "../prod/cert/prod", "cert/prod\x00")
			m := c.nextOf(translate.Secret, "cert/dev") // in mid-stream, beside its own
			require.Len(t, m.GetRemovedResources(), 3)
			c.ack(m)
			prod.put(secret("cert/prod", "KEY-OF-prod-renewed")) // and when prod's changes
			r.publish(t, prod)
			c.expectNothing()
			c.leave(translate.Secret, prods...)
			c.ask(translate.Secret, prods...)
			c.ack(c.nextGone(translate.Secret, prods...))
			c.leave(translate.Secret, "*")
			c.expectNothing()

			// As one who says that it had them.
			c = open("dev/prod")
			c.resume(translate.Secret, append(prods, "*"), map[string]string{"cert/prod": versions["cert/prod"], "cert/both": "0"})
			require.Empty(t, c.next().GetResources())

			// With prod's node ID in mid-stream, and from the start.
			for _, node := range []string{"prod", "prod/1"} {
				c = open("dev/1")
				c.ask(translate.Secret, "cert/dev")
				c.ack(c.nextOf(translate.Secret, "cert/dev"))
				c.send(&discovery.DeltaDiscoveryRequest{
					Node: &corev3.Node{Id: node}, TypeUrl: translate.Secret.TypeURL(), ResourceNamesSubscribe: prods,
				})
				require.Empty(t, c.rest(), node)
				require.Contains(t, []string{"InvalidArgument", "PermissionDenied"}, statusCode(c.err), c.err)
			}
			if channel.dial != nil {
				c = open("prod/1")
				c.ask(translate.Secret, prods...)
				require.Empty(t, c.rest())
				requireStatus(t, c.err, "PermissionDenied", "dev")
			}
			r.nothingOf(t, &log, "KEY-OF", "UNUSED")
		})
	}
}

// TestRandomSecretNames is what an anonymous client with random server names could make of
// an Envoy that asks for certificates on demand: names that nobody serves cost the control
// plane an answer each and no memory. With WAGGLE_SOAK set there are a hundred times more.
func TestRandomSecretNames(t *testing.T) {
	const names = 10_000
	random := func(i int) string { return fmt.Sprintf("cert/%x.example.com", uint64(i+1)*0x9e3779b97f4a7c15) }
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	subscriptions := func(r *running) (n int) {
		k := r.collection("dev")
		k.mu.Lock()
		defer k.mu.Unlock()
		for st := range k.streams {
			for kind := range st.subs {
				if s := &st.subs[kind]; s.active && s.open {
					n += len(s.watch.SubscribedResources()) + len(s.want) + len(s.absent)
				}
				n += len(st.strangers.names[kind])
			}
		}
		return n
	}
	t.Run("left after the answer, as Envoy does", func(t *testing.T) {
		r := start(t, Options{}, "dev")
		r.publish(t, tlsShop("dev", "cert/a"))
		c := openRaw(t, r.addr, "dev")
		c.ask(translate.Secret, "cert/a")
		c.ack(c.nextOf(translate.Secret, "cert/a"))
		names := names / 10
		if os.Getenv("WAGGLE_SOAK") != "" {
			names *= 100
		}
		before, began, most := heap(), time.Now(), 0
		for i := range names {
			name := random(i)
			c.ask(translate.Secret, name)
			m := c.next()
			require.Equal(t, []string{name}, m.GetRemovedResources())
			c.ack(m)
			c.leave(translate.Secret, name)
			if i%100 == 0 {
				most = max(most, subscriptions(r))
			}
		}
		took := time.Since(began)
		c.expectNothing()
		grown := int64(heap()) - int64(before)
		t.Logf("%d random names: %s each, heap %+d KiB, at most %d names kept, %d at the end",
			names, took/time.Duration(names), grown/1024, most, subscriptions(r))
		require.LessOrEqual(t, most, 4)
		require.LessOrEqual(t, subscriptions(r), 2)
		require.Less(t, grown, int64(1<<20))
		require.Len(t, r.Proxies(), 1)
	})
	for how, at := range map[string]int{"kept, one by one": 1, "kept, in one message": names} {
		t.Run(how, func(t *testing.T) {
			r := start(t, Options{}, "dev")
			r.publish(t, tlsShop("dev", "cert/a"))
			other := openRaw(t, r.addr, "dev/other")
			other.ask(translate.Secret, "cert/a")
			other.ack(other.nextOf(translate.Secret, "cert/a"))
			before := heap()
			c := openRaw(t, r.addr, "dev/strange")
			asked := 0
			for ended := false; asked < names && !ended; {
				var batch []string
				for range at {
					batch = append(batch, random(asked))
					asked++
				}
				c.ask(translate.Secret, batch...)
				m, ok := <-c.in
				if ended = !ok; !ended {
					c.ack(m)
				}
			}
			requireStatus(t, c.end(), "ResourceExhausted", "names that nobody serves")
			require.Eventually(t, func() bool { return len(r.Proxies()) == 1 }, patience, time.Millisecond)
			t.Logf("ended after %d names, heap %+d KiB", asked, (int64(heap())-int64(before))/1024)
			other.expectNothing() // nobody else is harmed
		})
	}
}

// TestStrangeNamesOfAnyKind: a stream that has everything may leave names at random, and
// types that are not served may have names as well.
func TestStrangeNamesOfAnyKind(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for what, request := range map[string]func(i int) *discovery.DeltaDiscoveryRequest{
		"endpoints": func(i int) *discovery.DeltaDiscoveryRequest {
			return &discovery.DeltaDiscoveryRequest{TypeUrl: translate.Endpoints.TypeURL(), ResourceNamesSubscribe: []string{fmt.Sprint(long, i)}}
		},
		"clusters, beside all": func(i int) *discovery.DeltaDiscoveryRequest {
			return &discovery.DeltaDiscoveryRequest{TypeUrl: translate.Cluster.TypeURL(), ResourceNamesSubscribe: []string{"*", fmt.Sprint(long, i)}}
		},
		"clusters, left": func(i int) *discovery.DeltaDiscoveryRequest {
			return &discovery.DeltaDiscoveryRequest{TypeUrl: translate.Cluster.TypeURL(), ResourceNamesUnsubscribe: []string{fmt.Sprint(long, i)}}
		},
		"a type that is not served": func(i int) *discovery.DeltaDiscoveryRequest {
			return &discovery.DeltaDiscoveryRequest{TypeUrl: "foo.Bar", ResourceNamesSubscribe: []string{fmt.Sprint(long, i)}}
		},
		"a long type": func(int) *discovery.DeltaDiscoveryRequest {
			return &discovery.DeltaDiscoveryRequest{TypeUrl: long}
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := start(t, Options{Gate: time.Minute}, "dev")
			r.publish(t, shop("dev", 1))
			c := openRaw(t, r.addr, "dev")
			c.ask(translate.Cluster, "*")
			for i := range 2000 { // acknowledges nothing
				c.send(request(i))
			}
			err := c.end()
			require.Contains(t, []string{"ResourceExhausted", "InvalidArgument"}, statusCode(err), err)
		})
	}
	t.Run("what a proxy brings along is its own affair", func(t *testing.T) {
		r := start(t, Options{}, "dev")
		r.publish(t, shop("dev", 1))
		had, names := map[string]string{}, []string(nil)
		for i := range 20_000 { // all of it has been removed while it was away
			names = append(names, fmt.Sprintf("stack_service-%d:8080", i))
			had[names[i]] = "1"
		}
		c := openRaw(t, r.addr, "dev")
		c.resume(translate.Endpoints, names, had)
		require.Len(t, c.next().GetRemovedResources(), len(names))
		c.expectNothing()
	})
	t.Run("names that come to be served do not count", func(t *testing.T) {
		r := start(t, Options{}, "dev")
		w := shop("dev", 1)
		r.publish(t, w)
		c := openRaw(t, r.addr, "dev")
		for round := range 10 {
			var names []string
			for i := range 500 {
				name := fmt.Sprint(strings.Repeat("e", 100), round, "-", i)
				names = append(names, name)
				w.put(endpoints(name, 1))
			}
			c.ask(translate.Endpoints, names...)
			c.ack(c.nextGone(translate.Endpoints, names...))
			r.publish(t, w)
			c.ack(c.nextOf(translate.Endpoints, names...))
		}
		c.expectNothing()
	})
}

// TestASecretIsKeptOverAReconnect: a proxy that comes back with a certificate gets it only
// if it is another one by now.
func TestASecretIsKeptOverAReconnect(t *testing.T) {
	r := start(t, Options{}, "dev")
	w := tlsShop("dev", "cert/a", "cert/b")
	r.publish(t, w)
	c := envoylike.New(envoylike.Options{Node: "dev"})
	disconnect := connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	disconnect()
	require.Eventually(t, func() bool { return len(r.Proxies()) == 0 }, patience, time.Millisecond)
	before := c.Counts().Resources[translate.Secret]
	r.publish(t, w.put(secret("cert/b", "RENEWED")))
	connect(t, c, r.addr)
	r.reaches(t, c, "dev")
	r.settles(t, 1)
	require.Equal(t, 1, c.Counts().Resources[translate.Secret]-before)
	require.Empty(t, c.Faults())
}
