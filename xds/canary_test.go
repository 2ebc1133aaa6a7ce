package xds

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// inTurn opens streams one after the other, each with everything of a shop of one
// service: the first is the canary.
func (r *running) inTurn(t *testing.T, nodes ...string) (all []*raw) {
	for i, node := range nodes {
		all = append(all, subscribeAll(t, r, node, []string{"svc0000"}, nil))
		r.settles(t, i+1)
	}
	return all
}

func (r *running) canaries() []string {
	if trials := r.Trials(); len(trials) == 1 {
		return trials[0].Canaries
	}
	return nil
}

func TestAChangeIsTriedWithOneProxyFirst(t *testing.T) {
	r := start(t, Options{Canary: time.Minute, Gate: time.Minute}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := r.inTurn(t, "dev/b", "dev/a", "dev/c") // the one that is connected longest
	canary, others := c[0], c[1:]
	old := r.Snapshot("dev")

	r.publish(t, w.put(edsCluster("new", time.Second), endpoints("new", 7), routes("http", "svc0000", "new")))
	cds := canary.nextOf(translate.Cluster, "new")
	for _, o := range others {
		o.expectNothing()
	}
	require.Equal(t, []string{"dev/b"}, r.canaries())
	require.Equal(t, 2, r.Trials()[0].Changes)
	require.NotEqual(t, old[translate.Routes], r.Snapshot("dev")[translate.Routes], "what is tried is what was published")
	for _, p := range r.Proxies() {
		require.False(t, p.Current, p.NodeID)
		require.Equal(t, p.NodeID == "dev/b", p.Canary)
	}

	// Endpoints do not wait, nor do those who ask.
	r.publish(t, w.put(endpoints("svc0000", 99)))
	for _, o := range c {
		o.ack(o.nextOf(translate.Endpoints, "svc0000"))
	}
	late := openRaw(t, r.addr, "dev/late")
	late.ask(translate.Cluster)
	late.ack(late.nextOf(translate.Cluster, "svc0000"))

	// The order at each proxy is as ever; a change that comes meanwhile is tried as well.
	canary.ask(translate.Endpoints, "new")
	canary.ack(canary.nextOf(translate.Endpoints, "new"))
	canary.expectNothing()
	canary.ack(cds)
	rds := canary.nextOf(translate.Routes, "http")
	r.publish(t, w.put(routes("http", "svc0000", "new", "new")))
	canary.ack(rds)
	rds = canary.nextOf(translate.Routes, "http")
	for _, o := range others {
		o.expectNothing()
	}
	canary.ack(rds)
	for _, o := range others {
		cds := o.nextOf(translate.Cluster, "new")
		o.ask(translate.Endpoints, "new")
		o.ack(o.nextOf(translate.Endpoints, "new"))
		o.ack(cds)
		o.ack(o.nextOf(translate.Routes, "http"))
		o.expectNothing()
	}
	late.ack(late.nextOf(translate.Cluster, "new"))
	require.Empty(t, r.Trials())
	canary.expectNothing() // it is sent nothing twice
	text, err := gather(r.Server)
	require.NoError(t, err)
	require.Contains(t, text, "waggle_xds_trials_total")

	// What goes, goes from the canary first, in its order.
	r.publish(t, w.put(routes("http", "svc0000")).drop(translate.Cluster, "new").drop(translate.Endpoints, "new"))
	canary.ack(canary.nextOf(translate.Routes, "http"))
	gone := canary.nextGone(translate.Cluster, "new")
	for _, o := range others {
		o.expectNothing()
	}
	canary.ack(gone)
	canary.ack(canary.nextGone(translate.Endpoints, "new"))
	for _, o := range others {
		o.ack(o.nextOf(translate.Routes, "http"))
		o.ack(o.nextGone(translate.Cluster, "new"))
		o.ack(o.nextGone(translate.Endpoints, "new"))
	}
	late.ack(late.nextGone(translate.Cluster, "new"))
	r.settles(t, 4)
	r.checkBounds(t, "dev")
}

func TestACanaryThatVanishesHandsOn(t *testing.T) {
	r := start(t, Options{Canary: time.Minute, Gate: time.Minute}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := r.inTurn(t, "dev/1", "dev/2", "dev/3")
	r.publish(t, w.put(edsCluster("svc0000", 5*time.Second)))
	for i := range 2 {
		c[i].nextOf(translate.Cluster, "svc0000")
		c[i].nextOf(translate.Endpoints, "svc0000")
		for _, o := range c[i+1:] {
			o.expectNothing()
		}
		require.Equal(t, []string{fmt.Sprintf("dev/%d", i+1)}, r.canaries())
		require.NoError(t, c[i].stream.CloseSend())
		c[i].rest()
	}
	c[2].ack(c[2].nextOf(translate.Cluster, "svc0000"))
	c[2].ack(c[2].nextOf(translate.Endpoints, "svc0000"))
	r.settles(t, 1)
	require.Empty(t, r.Trials())
}

func TestAHungCanaryStopsNobody(t *testing.T) {
	const wait = 100 * time.Millisecond
	r := start(t, Options{Canary: wait, Gate: time.Minute}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := r.inTurn(t, "dev/1", "dev/2")
	began := time.Now()
	r.publish(t, w.put(edsCluster("svc0000", 5*time.Second), edsCluster("passing", time.Second)))
	first := c[0].nextOf(translate.Cluster, "svc0000", "passing") // and says nothing
	r.publish(t, w.drop(translate.Cluster, "passing"))
	c[1].ack(c[1].nextOf(translate.Cluster, "svc0000"))
	require.GreaterOrEqual(t, time.Since(began), wait)
	c[1].ack(c[1].nextOf(translate.Endpoints, "svc0000"))
	c[1].expectNothing()

	// The hung one goes on where it was, with everything in its order, when it comes round.
	lost := c[0].nextOf(translate.Endpoints, "svc0000")
	r.publish(t, w.put(routes("http", "svc0000", "svc0000"))) // goes to the other one alone: it is the only one up to date
	c[1].ack(c[1].nextOf(translate.Routes, "http"))
	require.Eventually(t, func() bool { return len(r.Trials()) == 0 }, patience, time.Millisecond)
	c[0].expectNothing()
	c[0].ack(lost)
	c[0].ask(translate.Endpoints, "passing") // as Envoy does; there are none
	c[0].ack(c[0].nextGone(translate.Endpoints, "passing"))
	c[0].ack(first)
	c[0].ack(c[0].nextOf(translate.Routes, "http"))
	c[0].ack(c[0].nextGone(translate.Cluster, "passing"))
	c[0].expectNothing()
	r.settles(t, 2)
	k := r.collection("dev")
	k.mu.Lock()
	defer k.mu.Unlock()
	require.Empty(t, k.strays)
}

// seeing is picky, and notes whether it was ever sent what it does not take.
func seeing(node, text string, rejects bool) (*envoylike.Client, *atomic.Int32) {
	var seen atomic.Int32
	return envoylike.New(envoylike.Options{Node: node, AnyEndpoints: true, Examine: func(_ translate.Kind, r *discovery.Resource) string {
		if !bytes.Contains(r.GetResource().GetValue(), []byte(text)) {
			return ""
		}
		seen.Add(1)
		if !rejects {
			return ""
		}
		return "no"
	}}), &seen
}

func TestARejectionStopsAtTheCanaries(t *testing.T) {
	for name, canary := range map[string]time.Duration{"two agree": time.Minute, "nobody else can be asked": 200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			r := start(t, Options{Canary: canary, Gate: shortGate}, "dev")
			w := shop("dev", 8).put(hostTable("http", host("a", "svc0000", "1", ""), host("b", "svc0001", "1", "")))
			r.publish(t, w)
			var clients []*envoylike.Client
			var seen []*atomic.Int32
			for i := range 4 {
				c, s := seeing(fmt.Sprintf("dev/%d", i), "BAD", true)
				clients, seen = append(clients, c), append(seen, s)
				if i > 0 && canary < time.Minute { // the others are behind, so that none can be chosen
					c = envoylike.New(envoylike.Options{Node: c.Node(), AnyEndpoints: true,
						Mute: func(kind translate.Kind) bool { return kind == translate.Listener },
						Examine: func(_ translate.Kind, r *discovery.Resource) string {
							if bytes.Contains(r.GetResource().GetValue(), []byte("BAD")) {
								s.Add(1)
							}
							return ""
						}})
					clients[i] = c
				}
				connect(t, c, r.addr)
				r.reaches(t, c, "dev")
				if i == 0 {
					r.settles(t, 1)
				}
			}
			if canary == time.Minute {
				r.settles(t, 4)
			}
			for i := range 8 {
				w.put(edsCluster(fmt.Sprintf("svc%04d", i), 6*time.Second))
			}
			w.put(badCluster("svc0003", ""), hostTable("http", host("a", "svc0000", "1", ""), host("b", "svc0001", "BAD", ""), host("c", "svc0002", "1", "")))
			r.publish(t, w)
			held := r.quarantines(t, "clusters svc0003", "routes http")
			for _, c := range clients {
				r.reaches(t, c, "dev")
			}
			require.Empty(t, r.Trials())
			require.NotEmpty(t, held[0].Serving)
			asked := 0
			for _, s := range seen {
				if s.Load() > 0 {
					asked++
				}
			}
			if canary == time.Minute {
				require.Equal(t, 2, asked)
				require.Equal(t, 2, held[0].Proxies)
			} else {
				require.Equal(t, 1, asked)
				require.Equal(t, 1, held[0].Proxies)
			}
			require.Equal(t, []string{"a svc0000 1", "b svc0001 1"}, hostsAt(t, clients[3])[:2])
		})
	}
}

func TestAnOddCanaryIsOverruled(t *testing.T) {
	r := start(t, Options{Canary: time.Minute, Gate: shortGate}, "dev")
	w := shop("dev", 3)
	r.publish(t, w)
	odd, _ := seeing("dev/odd", "BAD", true)
	connect(t, odd, r.addr)
	r.reaches(t, odd, "dev")
	r.settles(t, 1)
	var others []*envoylike.Client
	for i := range 3 {
		c, _ := seeing(fmt.Sprintf("dev/%d", i), "BAD", false)
		connect(t, c, r.addr)
		r.reaches(t, c, "dev")
		others = append(others, c)
	}
	r.settles(t, 4)
	r.publish(t, w.put(badCluster("svc0001", ""), edsCluster("svc0002", 7*time.Second)))
	for _, c := range others {
		r.reaches(t, c, "dev")
	}
	require.Eventually(t, func() bool { return len(r.Trials()) == 0 }, patience, time.Millisecond)
	require.Empty(t, r.Quarantine())
	i := slices.IndexFunc(r.Proxies(), func(p Proxy) bool { return p.NodeID == "dev/odd" })
	require.Equal(t, []string{"svc0001"}, r.Proxies()[i].kind(translate.Cluster).Rejected)
	require.Equal(t, r.Snapshot("dev")[translate.Cluster]["svc0002"], odd.State()[translate.Cluster]["svc0002"])

	// And goes on from there with everybody.
	r.publish(t, w.put(edsCluster("svc0001", 8*time.Second)))
	for _, c := range append(others, odd) {
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults())
	}
	r.settles(t, 4)
}

func TestWithoutCanaryEverybodyGetsItAtOnce(t *testing.T) {
	r := start(t, Options{Canary: -1}, "dev")
	w := shop("dev", 1)
	r.publish(t, w)
	c := r.inTurn(t, "dev/1", "dev/2")
	r.publish(t, w.put(edsCluster("svc0000", 5*time.Second)))
	for _, o := range c {
		o.nextOf(translate.Cluster, "svc0000")
	}
	require.Empty(t, r.Trials())
}
