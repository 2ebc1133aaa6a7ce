package xds

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

// city is a collection that changes at random but is always closed: routes name clusters
// that are there, listeners route tables and secrets that are there.
type city struct {
	*world
	rng      *rand.Rand
	services map[string]string // service → its cluster
	tls      map[string]string // listener → its secret; "" for plaintext
	serial   int
}

func newCity(collection string, rng *rand.Rand) *city {
	c := &city{newWorld(collection), rng, map[string]string{}, map[string]string{"http": ""}, 0}
	for range 8 {
		c.addService()
	}
	c.route()
	return c
}

func (c *city) name(prefix string) string {
	c.serial++
	return fmt.Sprintf("%s%d", prefix, c.serial)
}

func (c *city) pick(m map[string]string) string {
	keys := slices.Sorted(maps.Keys(m))
	if len(keys) == 0 {
		return ""
	}
	return keys[c.rng.IntN(len(keys))]
}

func (c *city) ports() []uint32 {
	ports := make([]uint32, c.rng.IntN(4))
	for i := range ports {
		ports[i] = 1024 + c.rng.Uint32N(60000)
	}
	return ports
}

func (c *city) addService() {
	// Names come back: a service that was removed may be added again.
	name := fmt.Sprintf("svc%d", c.rng.IntN(20))
	if c.services[name] != "" {
		return
	}
	c.cluster(name, name)
}

func (c *city) cluster(service, cluster string) {
	if old := c.services[service]; old != "" && old != cluster {
		c.drop(translate.Cluster, old).drop(translate.Endpoints, old)
	}
	c.services[service] = cluster
	c.put(edsCluster(cluster, time.Duration(1+c.rng.IntN(3))*time.Second), endpoints(cluster, c.ports()...))
}

// route writes tables and listeners anew for what is there now.
func (c *city) route() {
	clusters := slices.Sorted(maps.Values(c.services))
	for name, secretName := range c.tls {
		c.put(routes(name, clusters...))
		if secretName == "" {
			c.put(listener(name, 10080, name))
			continue
		}
		c.put(listener(name, 10443, name, secretName))
	}
}

// change makes between one and a few changes, as one publish.
func (c *city) change() translate.Delta {
	for range 1 + c.rng.IntN(3) {
		switch c.rng.IntN(12) {
		case 0, 1, 2, 3: // tasks come and go
			if s := c.pick(c.services); s != "" {
				c.put(endpoints(c.services[s], c.ports()...))
			}
		case 4: // a setting of the cluster
			if s := c.pick(c.services); s != "" {
				c.put(edsCluster(c.services[s], time.Duration(1+c.rng.IntN(3))*time.Second))
			}
		case 5, 6: // a service appears
			c.addService()
		case 7: // one goes
			if s := c.pick(c.services); s != "" {
				c.drop(translate.Cluster, c.services[s]).drop(translate.Endpoints, c.services[s])
				delete(c.services, s)
			}
		case 8, 9: // one moves to another cluster, or back
			if s := c.pick(c.services); s != "" {
				c.cluster(s, fmt.Sprintf("%s-v%d", s, c.rng.IntN(3)))
			}
		case 10: // TLS listeners come, go and change certificate
			name := fmt.Sprintf("https-%d", c.rng.IntN(3))
			if old, there := c.tls[name]; there {
				c.drop(translate.Secret, old)
				if c.rng.IntN(2) == 0 {
					c.drop(translate.Listener, name).drop(translate.Routes, name)
					delete(c.tls, name)
					break
				}
			}
			s := c.name("cert")
			c.put(secret(s, s))
			c.tls[name] = s
		case 11: // a certificate is renewed
			if l := c.pick(c.tls); c.tls[l] != "" {
				c.put(secret(c.tls[l], c.name("renewed")))
			}
		}
	}
	c.route()
	return c.delta()
}

// TestRandomSchedules is invariant 5, as seen from any proxy at any message, and that
// every proxy gets to what is served: many changes in a row, clients that are slow,
// clients that lose their stream, and a control plane that is replaced. The gate is so
// long that the test fails if anything depends on its end.
func TestRandomSchedules(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runSchedule(t, seed, 250, Options{Gate: time.Minute})
		})
	}
}

// TestRandomSchedulesWithAShortGate lets listeners and routes almost never wait for an
// acknowledgement: order on the stream alone must do.
func TestRandomSchedulesWithAShortGate(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runSchedule(t, 1000+seed, 250, Options{Gate: time.Millisecond, Grace: 2 * time.Second})
		})
	}
}

func runSchedule(t *testing.T, seed uint64, changes int, o Options) {
	rng := rand.New(rand.NewPCG(seed, 7))
	world := newCity("dev", rng)
	lis := newListener(t)
	r := startOn(t, lis, o, "dev", "prod")
	require.NoError(t, r.Publish(world.delta()))
	require.NoError(t, r.Publish(shop("prod", 3).delta()))
	addr := r.addr

	// The clients' own randomness must not depend on how they interleave.
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var clients []*envoylike.Client
	for i := range 6 {
		slow, rng := i%3, rand.New(rand.NewPCG(seed, uint64(100+i)))
		c := envoylike.New(envoylike.Options{
			Node: fmt.Sprintf("dev/%d", i),
			Delay: func() time.Duration {
				return time.Duration(slow) * time.Duration(rng.IntN(1500)) * time.Microsecond
			},
			AnyEndpoints: o.Gate < time.Second,
		})
		clients = append(clients, c)
		cuts := rand.New(rand.NewPCG(seed, uint64(200+i)))
		group.Go(func() {
			for ctx.Err() == nil {
				run, end := context.WithCancel(ctx)
				if i%2 == 1 && cuts.IntN(6) != 0 { // half of them lose their stream now and then
					after := 5 + cuts.IntN(60)
					group.Go(func() {
						from := c.Counts().Messages
						_ = c.Wait(run, func() bool { return c.Counts().Messages > from+after })
						end()
					})
				}
				_ = c.Run(run, addr)
				end()
			}
		})
	}
	defer func() { cancel(); group.Wait() }()

	pause := time.NewTicker(time.Millisecond)
	defer pause.Stop()
	for n := range changes {
		require.NoError(t, r.Publish(world.change()))
		if rng.IntN(3) != 0 {
			<-pause.C
		}
		if n == changes/2 { // the control plane is replaced
			r.stop()
			lis, err := listenAgain(addr)
			require.NoError(t, err)
			r = startOn(t, lis, o, "dev", "prod")
			require.NoError(t, r.Publish(world.whole()))
		}
	}
	for i, c := range clients {
		r.reaches(t, c, "dev")
		require.Empty(t, c.Faults(), "client %d", i)
	}
	r.checkBounds(t, "dev")
}

// checkBounds: whatever is kept follows the size of the collection.
func (r *running) checkBounds(t *testing.T, collection string) {
	t.Helper()
	k := r.collection(collection)
	k.mu.Lock()
	defer k.mu.Unlock()
	for kind := range k.tables {
		tb := &k.tables[kind]
		require.LessOrEqual(t, len(tb.log), 2*len(tb.live)+64, "log of %s", translate.Kind(kind))
		require.LessOrEqual(t, len(tb.goneLog), 2*len(tb.gone)+64, "removals of %s", translate.Kind(kind))
		require.LessOrEqual(t, len(tb.frames), 64)
	}
	for st := range k.streams {
		for kind := range st.subs {
			s := &st.subs[kind]
			require.LessOrEqual(t, len(s.inflight), maxInflight)
			require.LessOrEqual(t, len(s.want)+len(s.retry)+len(s.absent)+len(s.doubts), 100)
		}
	}
}
