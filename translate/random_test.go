package translate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// Envoy takes what comes of hundreds of random label sets, good and bad, at once:
// each swarm of the property tests is a stack with hosts of its own.
func TestEnvoyTakesRandomLabels(t *testing.T) {
	const stacks = 100
	rnd := rand.New(rand.NewPCG(1, 2))
	all := newWorld().Picture
	cfg := newSwarm(0).cfg
	cfg.Collections["dev"].Networks, cfg.Collections["prod"].Networks, cfg.Collections["dev"].Default = nil, nil, true
	all.Networks["id-back"] = &watcher.Network{ID: "id-back", Name: "back"}
	for seed := range uint64(stacks) {
		own := fmt.Sprintf("s%d", seed)
		services := newSwarm(20_000 + seed).picture.Services
		for _, id := range slices.Sorted(maps.Keys(services)) {
			s := services[id]
			c := *s
			c.ID, c.Name, c.Labels = own+"-"+id, own+"_"+s.Name, map[string]string{}
			// Of so many labels one is always bad: most services keep some of them.
			for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
				if rnd.IntN(6) == 0 || seed%5 == 0 {
					c.Labels[k] = strings.ReplaceAll(s.Labels[k], ".test", "."+own+".test")
				}
			}
			delete(c.Labels, FleetLabel)
			c.Labels[watcher.StackLabel] = own
			if seed%5 > 0 {
				c.Labels["lb.hosts"], c.Labels["lb.port"] = pick(rnd, "a.", "b.", "*.x.")+own+".test", "80"
				c.Labels["lb.context_root"] = "/" + id
			}
			all.Services[c.ID] = &c
			all.Tasks[c.ID] = []*watcher.Task{{
				ID: c.ID + "-t", ServiceID: c.ID, NodeID: "n1", Slot: 1, State: watcher.Running, Desired: watcher.Running,
				Ports: []watcher.HostPort{{Protocol: "tcp", Target: 80, Published: 30000}},
			}}
		}
	}
	require.Greater(t, len(all.Services), 500)
	b := Build(Input{Picture: all, Config: cfg})
	requireClosed(t, b, cfg)
	forwards, most := 0, 0
	for name := range cfg.Collections {
		for _, vh := range b.Resources(name)[Routes][httpTable].Message.(*routev3.RouteConfiguration).VirtualHosts {
			for _, r := range vh.Routes {
				most++
				if r.GetRoute() != nil {
					forwards++
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, envoyBinary(t), "--mode", "validate", "-c", staticBootstrap(t, b, name), "-l", "warning").CombinedOutput()
		cancel()
		require.NoError(t, err, "collection %s: %s", name, out)
	}
	t.Log(forwards, "of", most, "routes send requests on")
	require.Greater(t, forwards, most/5, "hardly a route lives")
}
