package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/swarmkit"
)

// latency measures how long after Swarm has told of a task its proxy serves it, or
// does so no more, without and with load; 200 changes and more each. What Swarm tells
// is followed here as the control planes do, by push.
func latency(t *testing.T, s *swarm, traffic *traffic, whole *swarm) {
	const changes = 200
	measure := func(what string) {
		m := follow(t, s)
		for round := 0; m.count() < changes && round < changes/10; round++ {
			s.scale(webs, 8)
			s.scale(webs, 4)
			m.settle(s)
		}
		m.stop()
		load, _ := os.ReadFile("/proc/loadavg")
		t.Logf("%s; load of the machine, which also starts the tasks: %s", what, firstWord(load))
		m.mu.Lock()
		defer m.mu.Unlock()
		t.Logf("  task change to Envoy has it          %s", quantiles(m.took))
		t.Logf("  new task to Envoy has connected to it %s", quantiles(m.usable))
		require.GreaterOrEqual(t, len(m.took), changes, "changes that were seen on both sides")
	}
	traffic.without(t, whole, collections, func() { measure("idle") })
	traffic.lossless(t, func() { measure("loaded") })
}

func quantiles(of []time.Duration) string {
	all := slices.Sorted(slices.Values(of))
	if len(all) == 0 {
		return "nothing"
	}
	at := func(q float64) time.Duration {
		return all[min(len(all)-1, int(q*float64(len(all))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("%d times: p50 %v  p90 %v  p99 %v  max %v", len(all), at(0.5), at(0.9), at(0.99), at(1))
}

func firstWord(b []byte) string {
	for i, c := range b {
		if c == ' ' {
			return string(b[:i])
		}
	}
	return string(b)
}

// meter compares what Swarm tells with what proxies have.
type meter struct {
	stop func()

	mu      sync.Mutex
	told    map[string]map[string]time.Time // by collection: endpoints that Swarm tells, and since when
	gone    map[string]map[string]time.Time // those that it no longer tells
	has     map[string]map[string]bool      // what the proxy has, and whether it sends requests there
	started map[string]bool                 // the proxy was asked once
	took    []time.Duration                 // from one to the other
	usable  []time.Duration                 // until the proxy sent requests to a new one
}

func follow(t *testing.T, s *swarm) *meter {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &meter{told: map[string]map[string]time.Time{}, gone: map[string]map[string]time.Time{}, has: map[string]map[string]bool{}, started: map[string]bool{}}
	var wg sync.WaitGroup
	m.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(m.stop)
	source := engine.New(engine.Options{
		Host: s.socket(1), PushOnly: true,
		Push: swarmkit.New(swarmkit.Options{Socket: s.dir + "/n1/run/docker/swarm/control.sock"}),
	})
	wg.Go(func() {
		_ = source.Run(ctx, func(u watcher.Update) {
			if u.Picture != nil {
				m.swarm(u.Picture, time.Now())
			}
		})
	})
	for i, c := range collections {
		client, err := s.inside(ctx, s.edges[c].node, "edge_envoy-"+c)
		require.NoError(t, err)
		client.Transport.(*http.Transport).DisableKeepAlives = false
		wg.Go(func() {
			defer client.CloseIdleConnections()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				if now, err := endpoints(ctx, client, webs[i]+":8080"); err == nil {
					m.proxy(c, now, time.Now())
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	s.until("both sides are known", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.told) == len(collections) && len(m.started) == len(collections)
	})
	m.mu.Lock()
	m.took, m.usable = nil, nil // those that were there already
	m.mu.Unlock()
	return m
}

// swarm takes what Swarm tells.
func (m *meter) swarm(p *watcher.Picture, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range collections {
		now := map[string]bool{}
		for id, service := range p.Services {
			if service.Name != webs[i] {
				continue
			}
			for _, task := range p.Tasks[id] {
				for _, a := range task.Addresses {
					if n := p.Networks[a.Network]; task.Ready() && n != nil && n.Name == c+"-edge" {
						now[a.Addr.String()] = true
					}
				}
			}
		}
		if m.told[c] == nil {
			m.told[c], m.gone[c] = map[string]time.Time{}, map[string]time.Time{}
		}
		for a := range now {
			if _, known := m.told[c][a]; !known {
				m.told[c][a] = at
				delete(m.gone[c], a)
				if usable, has := m.has[c][a]; has {
					m.took = append(m.took, 0) // the proxy was first
					if usable {
						m.usable = append(m.usable, 0)
					}
				}
			}
		}
		for a := range m.told[c] {
			if !now[a] {
				delete(m.told[c], a)
				if _, has := m.has[c][a]; has {
					m.gone[c][a] = at
				} else {
					m.took = append(m.took, 0)
				}
			}
		}
	}
}

// proxy takes what a proxy has.
func (m *meter) proxy(c string, now map[string]bool, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[c] = true
	was := m.has[c]
	m.has[c] = now
	for a, usable := range now {
		since, told := m.told[c][a]
		if _, had := was[a]; told && !had {
			m.took = append(m.took, at.Sub(since))
		}
		if told && usable && !was[a] {
			m.usable = append(m.usable, at.Sub(since))
		}
	}
	for a, since := range m.gone[c] {
		if _, has := now[a]; !has {
			m.took = append(m.took, at.Sub(since))
			delete(m.gone[c], a)
		}
	}
}

func (m *meter) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.took)
}

// settle waits until the proxies have what Swarm tells.
func (m *meter) settle(s *swarm) {
	s.t.Helper()
	s.until("the proxies have what Swarm tells", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, c := range collections {
			if len(m.told[c]) != 4 || len(m.has[c]) != 4 || len(m.gone[c]) > 0 {
				return false
			}
		}
		return true
	})
}

// endpoints are the addresses of a cluster that a proxy has, and whether it sends
// requests there: to a new one only once it could connect.
func endpoints(ctx context.Context, client *http.Client, cluster string) (map[string]bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9901/clusters?format=json", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	var page struct {
		Statuses []struct {
			Name  string
			Hosts []struct {
				Address struct {
					Socket struct{ Address string } `json:"socket_address"`
				}
				Health struct {
					Failed bool `json:"failed_active_health_check"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, c := range page.Statuses {
		if c.Name != cluster {
			continue
		}
		for _, h := range c.Hosts {
			found[h.Address.Socket.Address] = !h.Health.Failed
		}
	}
	return found, nil
}
