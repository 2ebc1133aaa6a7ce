package explain

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// translated is what labels become: shared hosts, wildcards, rewriting, a bad
// label, a service without tasks.
func translated(t *testing.T) translate.Resources {
	t.Helper()
	p := &watcher.Picture{
		Services: map[string]*watcher.Service{},
		Tasks:    map[string][]*watcher.Task{},
		Nodes:    map[string]*watcher.Node{"n1": {ID: "n1", Hostname: "alpha"}},
		Networks: map[string]*watcher.Network{"edge": {ID: "edge", Name: "edge"}},
	}
	add := func(name string, tasks int, labels map[string]string) {
		id := fmt.Sprintf("s%02d", len(p.Services))
		s := &watcher.Service{
			ID: id, Name: name, Version: 1, CreatedAt: time.Unix(int64(len(p.Services)), 0), Mode: watcher.Replicated,
			Replicas: uint64(tasks), Networks: []string{"edge"}, Labels: map[string]string{watcher.StackLabel: "shop"},
		}
		for k, v := range labels {
			s.Labels["com.docker.lb."+k] = v
		}
		p.Services[id] = s
		for slot := 1; slot <= tasks; slot++ {
			p.Tasks[id] = append(p.Tasks[id], &watcher.Task{
				ID: fmt.Sprintf("%s-%d", id, slot), ServiceID: id, NodeID: "n1", Slot: slot, State: watcher.Running, Desired: watcher.Running,
				Addresses: []watcher.Address{{Network: "edge", Addr: netip.AddrFrom4([4]byte{10, 0, byte(len(p.Services)), byte(slot)})}},
			})
		}
	}
	add("shop_web", 2, map[string]string{"hosts": "shop.example.com", "port": "80"})
	add("shop_web-canary", 1, map[string]string{"hosts": "shop.example.com", "port": "80"})
	add("shop_api", 3, map[string]string{"hosts": "shop.example.com,api.example.com", "port": "8080", "context_root": "/api"})
	add("shop_api-v1", 1, map[string]string{"hosts": "shop.example.com", "port": "8080", "context_root": "/api/v1", "retries": "0"})
	add("shop_app", 1, map[string]string{"hosts": "shop.example.com", "port": "80", "context_root": "/app", "context_root_rewrite": "true"})
	add("shop_wild", 1, map[string]string{"hosts": "*.apps.example.com", "port": "80"})
	add("shop_wilder", 1, map[string]string{"hosts": "*.b.apps.example.com", "port": "80"})
	add("shop_bad", 1, map[string]string{"hosts": "bad.example.com", "port": "eighty"})
	add("shop_idle", 0, map[string]string{"hosts": "idle.example.com", "port": "80"})
	b := translate.Build(translate.Input{Picture: p, Config: config.ForCollections(nil)})
	res := b.Resources("default")
	require.NotEmpty(t, res[translate.Routes])
	return res
}
