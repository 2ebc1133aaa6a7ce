package e2e

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// replaced gives dev a second proxy, on the node that had none, and replaces both one
// after the other behind a balancer that asks them whether they are ready.
func replaced(t *testing.T, s *swarm, traffic *traffic, whole *swarm) {
	node, name := s.spare(), s.hostname(s.spare())
	s.docker("node", "update", "--label-add", "collection=dev", name)
	t.Cleanup(func() {
		_, _ = s.try(context.WithoutCancel(t.Context()), 1, "node", "update", "--label-rm", "collection", name)
	})
	s.until("dev has two proxies", func() bool { return len(s.on(node, "edge_envoy-dev")) == 1 })
	first, _, err := net.SplitHostPort(s.edges["dev"].address)
	require.NoError(t, err)
	b := startBalancer(t, first, s.network()+".14")
	s.until("both are ready", func() bool { return b.ready() == 2 })

	traffic.without(t, whole, []string{"dev"}, func() {
		traffic.of["dev"] = startMix(t, s, "dev", b.address)
		traffic.lossless(t, func() {
			before := s.running("edge_envoy-dev")
			s.update([]string{"edge_envoy-dev"}, "--force", "--update-delay", "1s", "--update-monitor", "2s")
			for _, c := range s.running("edge_envoy-dev") {
				require.NotContains(t, before, c, "every proxy is a new one")
			}
			s.until("both are ready", func() bool { return b.ready() == 2 })
		})
		for _, run := range traffic.of["dev"] {
			require.Zero(t, run.Stop().Failed)
		}
		delete(traffic.of, "dev")
	})
	s.docker("node", "update", "--label-rm", "collection", name)
}

// balancer sends requests in turns to the proxies that are ready. It asks each every
// 500 ms, as balancers do, and sends nothing twice.
type balancer struct {
	address string
	proxies []*backend
	turn    atomic.Uint64
}

type backend struct {
	url   *url.URL
	check string
	up    atomic.Bool
}

func startBalancer(t *testing.T, hosts ...string) *balancer {
	t.Helper()
	b := &balancer{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	checks := &http.Client{Timeout: 400 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, h := range hosts {
		p := &backend{url: &url.URL{Scheme: "http", Host: net.JoinHostPort(h, "80")}, check: "http://" + net.JoinHostPort(h, "8002") + "/ready"}
		b.proxies = append(b.proxies, p)
		wg.Go(func() {
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			for {
				res, err := checks.Get(p.check)
				if err == nil {
					res.Body.Close()
				}
				p.up.Store(err == nil && res.StatusCode == http.StatusOK)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(b.next())
			r.Out.Host = r.In.Host
		},
	}}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.address = lis.Addr().String()
	wg.Go(func() { _ = server.Serve(lis) })
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		transport.CloseIdleConnections()
		wg.Wait()
	})
	return b
}

// next is the proxy whose turn it is; one that is not ready where none is.
func (b *balancer) next() *url.URL {
	turn := b.turn.Add(1)
	for i := range b.proxies {
		if p := b.proxies[(turn+uint64(i))%uint64(len(b.proxies))]; p.up.Load() {
			return p.url
		}
	}
	return b.proxies[0].url
}

func (b *balancer) ready() (n int) {
	for _, p := range b.proxies {
		if p.up.Load() {
			n++
		}
	}
	return n
}
