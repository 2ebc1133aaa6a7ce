package xds

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/waggle-lb/waggle/translate"
)

// Each benchmark runs twice: with this package and with go-control-plane's stock
// SnapshotCache, same resources, same clients, same machine, same minute.
var subjects = []struct {
	name  string
	start func(testing.TB) subject
}{
	{"waggle", startWaggle},
	{"stock", startStock},
}

// subject is a control plane under measurement: collection "dev".
type subject interface {
	addr() string
	// set publishes the world as it is now.
	set(*world)
	// change publishes one resource of it, which is the only one that is different.
	change(*world, translate.Ref)
}

type waggle struct{ *running }

func startWaggle(b testing.TB) subject { return waggle{start(b, Options{}, "dev")} }
func (s waggle) addr() string          { return s.running.addr }
func (s waggle) set(w *world) {
	if err := s.Publish(w.delta()); err != nil {
		panic(err)
	}
}

func (s waggle) change(w *world, ref translate.Ref) {
	r := w.now[ref]
	w.was[ref] = r
	if err := s.Publish(translate.Delta{Collection: w.collection, Changes: []translate.Change{
		{Kind: ref.Kind, Name: ref.Name, Resource: r},
	}}); err != nil {
		panic(err)
	}
}

type stock struct {
	cache   cache.SnapshotCache
	address string
	serial  int
}

func startStock(b testing.TB) subject {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &stock{cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), address: lis.Addr().String()}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(32<<20), grpc.StaticStreamWindowSize(1<<20), grpc.StaticConnWindowSize(1<<20))
	discovery.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, s.cache, nil))
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(lis) }()
	b.Cleanup(func() { cancel(); g.Stop(); <-done })
	return s
}

func (s *stock) addr() string { return s.address }
func (s *stock) set(w *world) {
	s.serial++
	all := map[resourcev3.Type][]types.Resource{}
	for ref, r := range w.now {
		all[ref.Kind.TypeURL()] = append(all[ref.Kind.TypeURL()], r.Message)
	}
	snapshot, err := cache.NewSnapshot(fmt.Sprint(s.serial), all)
	if err != nil {
		panic(err)
	}
	if err := s.cache.SetSnapshot(context.Background(), "dev", snapshot); err != nil {
		panic(err)
	}
}

// change is set: the stock cache takes whole snapshots.
func (s *stock) change(w *world, _ translate.Ref) { s.set(w) }

// BenchmarkPublishToLast: one endpoint changes; until the last of 100 proxies has it.
// Goals at 1 000 services: p50 ≤ 5 ms, p99 ≤ 15 ms.
func BenchmarkPublishToLast(b *testing.B) {
	const services, proxies = 1000, 100
	for _, subject := range subjects {
		b.Run(fmt.Sprintf("%s/services=%d/proxies=%d", subject.name, services, proxies), func(b *testing.B) {
			s := subject.start(b)
			w := shop("dev", services)
			s.set(w)
			fleet := startFleet(b, s.addr(), proxies, services)
			fleet.waitFull(b)
			var took []time.Duration
			n := uint32(0)
			change := func() time.Duration {
				n++
				ref := translate.Ref{Kind: translate.Endpoints, Name: fmt.Sprintf("svc%04d", n%services)}
				w.put(endpoints(ref.Name, 30000+n%30000))
				target := fleet.endpoints.Load() + proxies
				began := time.Now()
				s.change(w, ref)
				fleet.wait(b, target)
				return time.Since(began)
			}
			for range 5 {
				change()
			}
			b.ReportAllocs()
			for b.Loop() {
				took = append(took, change())
			}
			report(b, took)
		})
	}
}

// BenchmarkPublish: what one changed endpoint costs the publisher, by the size of the
// collection. Goal: ten times the services, at most 1.5 times the cost.
func BenchmarkPublish(b *testing.B) {
	const proxies = 10
	for _, subject := range subjects {
		medians := map[int]time.Duration{}
		for _, services := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("%s/services=%d", subject.name, services), func(b *testing.B) {
				s := subject.start(b)
				w := shop("dev", services)
				s.set(w)
				fleet := startFleet(b, s.addr(), proxies, services)
				fleet.waitFull(b)
				var took []time.Duration
				n := uint32(0)
				change := func() {
					n++
					ref := translate.Ref{Kind: translate.Endpoints, Name: fmt.Sprintf("svc%04d", n%1000)}
					w.put(endpoints(ref.Name, 30000+n%30000))
					target := fleet.endpoints.Load() + proxies
					began := time.Now()
					s.change(w, ref)
					took = append(took, time.Since(began))
					b.StopTimer() // until everybody has it, so that each publish finds the same
					fleet.wait(b, target)
					b.StartTimer()
				}
				for range 5 {
					change()
				}
				took = nil
				for i := 0; i < b.N; i++ {
					change()
				}
				slices.Sort(took)
				medians[services] = took[len(took)/2]
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				if small := medians[1000]; services > 1000 && small > 0 {
					b.ReportMetric(float64(medians[services])/float64(small), "ratio-10000:1000")
				}
			})
		}
	}
}

// BenchmarkCanary: one cluster changes; until the last of 100 proxies has it and its
// endpoints, tried with one of them first and not. Goal: at most 10 ms more.
func BenchmarkCanary(b *testing.B) {
	const services, proxies = 1000, 100
	for _, c := range []struct {
		name   string
		canary time.Duration
	}{{"all-at-once", -1}, {"canary", 0}} {
		b.Run(fmt.Sprintf("%s/services=%d/proxies=%d", c.name, services, proxies), func(b *testing.B) {
			s := waggle{start(b, Options{Canary: c.canary}, "dev")}
			w := shop("dev", services)
			s.set(w)
			fleet := startFleet(b, s.addr(), proxies, services)
			fleet.waitFull(b)
			s.settles(b, proxies)
			var took []time.Duration
			n := 0
			for b.Loop() {
				n++
				ref := translate.Ref{Kind: translate.Cluster, Name: fmt.Sprintf("svc%04d", n%services)}
				w.put(edsCluster(ref.Name, time.Duration(1+n)*time.Second))
				target := fleet.endpoints.Load() + proxies
				began := time.Now()
				s.change(w, ref)
				fleet.wait(b, target)
				took = append(took, time.Since(began))
				b.StopTimer()
				s.settles(b, proxies)
				b.StartTimer()
			}
			report(b, took)
		})
	}
}

// BenchmarkColdStart: 100 proxies connect at once; until all have everything. Goal at
// 1 000 services: ≤ 0.5 s.
func BenchmarkColdStart(b *testing.B) {
	const services, proxies = 1000, 100
	for _, subject := range subjects {
		b.Run(fmt.Sprintf("%s/services=%d/proxies=%d", subject.name, services, proxies), func(b *testing.B) {
			s := subject.start(b)
			s.set(shop("dev", services))
			var took []time.Duration
			for i := 0; i < b.N; i++ {
				began := time.Now()
				fleet := startFleet(b, s.addr(), proxies, services)
				fleet.waitFull(b)
				took = append(took, time.Since(began))
				b.StopTimer()
				fleet.stop()
				b.StartTimer()
			}
			report(b, took)
		})
	}
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	ms := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	b.ReportMetric(ms(.5), "p50-ms")
	b.ReportMetric(ms(.99), "p99-ms")
}

// fleet is proxies that do next to nothing, so that what is measured is the server: they
// subscribe as Envoy does, count resources without decoding them, and acknowledge.
type fleet struct {
	endpoints atomic.Int64 // received by all
	full      atomic.Int64 // proxies that have everything
	wake      chan struct{}
	proxies   int
	stop      func()
}

func startFleet(b testing.TB, addr string, proxies, services int) *fleet {
	ctx, cancel := context.WithCancel(context.Background())
	f := &fleet{wake: make(chan struct{}, 1), proxies: proxies}
	var group sync.WaitGroup
	for range proxies {
		group.Go(func() { f.run(ctx, addr, services) })
	}
	var once sync.Once
	f.stop = func() { once.Do(func() { cancel(); group.Wait() }) }
	b.Cleanup(f.stop)
	return f
}

func (f *fleet) run(ctx context.Context, addr string, services int) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(countingCodec{encoding.GetCodecV2("proto")}), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName)
	if err != nil {
		return
	}
	names := make([]string, services)
	for i := range names {
		names[i] = fmt.Sprintf("svc%04d", i)
	}
	ask := func(kind translate.Kind, node *corev3.Node, names ...string) {
		_ = s.SendMsg(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: kind.TypeURL(), ResourceNamesSubscribe: names})
	}
	ask(translate.Cluster, &corev3.Node{Id: "dev"})
	var have [translate.NumKinds]int
	full := false
	for {
		var m counted
		if err := s.RecvMsg(&m); err != nil {
			return
		}
		kind, _ := translate.KindOf(m.typeURL)
		before := have[kind]
		have[kind] += m.resources
		switch {
		case kind == translate.Cluster && before == 0:
			ask(translate.Endpoints, nil, names...)
			ask(translate.Listener, nil)
		case kind == translate.Listener && before == 0:
			ask(translate.Routes, nil, "http")
		}
		_ = s.SendMsg(&discovery.DeltaDiscoveryRequest{TypeUrl: m.typeURL, ResponseNonce: m.nonce})
		if kind == translate.Endpoints {
			f.endpoints.Add(int64(m.resources))
		}
		if !full && have[translate.Cluster] >= services && have[translate.Endpoints] >= services && have[translate.Listener] > 0 && have[translate.Routes] > 0 {
			full = true
			f.full.Add(1)
		}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

func (f *fleet) waitFull(b testing.TB) {
	f.until(b, func() bool { return f.full.Load() == int64(f.proxies) })
}

func (f *fleet) wait(b testing.TB, endpoints int64) {
	f.until(b, func() bool { return f.endpoints.Load() >= endpoints })
}

func (f *fleet) until(b testing.TB, ok func() bool) {
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-f.wake:
		case <-deadline:
			b.Fatal("the fleet does not get there")
		}
	}
}

// counted is a DeltaDiscoveryResponse of which only the outside was looked at.
type counted struct {
	typeURL, nonce string
	resources      int
}

type countingCodec struct{ encoding.CodecV2 }

func (c countingCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*counted)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	for b := data.Materialize(); len(b) > 0; {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		value := b[n:]
		size := protowire.ConsumeFieldValue(field, kind, value)
		if size < 0 {
			return protowire.ParseError(size)
		}
		switch field {
		case 2:
			m.resources++
		case 4, 5:
			s, _ := protowire.ConsumeString(value)
			if field == 4 {
				m.typeURL = s
			} else {
				m.nonce = s
			}
		}
		b = value[size:]
	}
	return nil
}
