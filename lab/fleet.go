package lab

import (
	"context"
	"fmt"
	"sync"
	"time"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/lab/envoy"
)

// readyTimeout is how long the Envoys may take to have everything, on a busy machine.
const readyTimeout = 60 * time.Second

// fleet is the lab's Envoys, one per collection, in the order of the addresses.
type fleet []*envoy.Process

// startFleet starts an Envoy for each collection and waits until all are ready.
func startFleet(ctx context.Context, binary, dir, xds string, all []addresses) (fleet, error) {
	var f fleet
	for _, a := range all {
		p, err := startEnvoy(binary, dir, xds, a)
		if err != nil {
			f.stop()
			return nil, err
		}
		f = append(f, p)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, p := range f {
		if err := p.Ready(ctx); err != nil {
			f.stop()
			return nil, err
		}
	}
	return f, nil
}

func startEnvoy(binary, dir, xds string, a addresses) (*envoy.Process, error) {
	b, err := bootstrap.New(bootstrap.Options{
		Collection: a.collection, NodeID: a.collection + "/lab", Zone: nodeNames[0], XDSAddress: xds, AdminAddress: a.admin.String(),
	})
	if err != nil {
		return nil, err
	}
	data, err := bootstrap.Marshal(b)
	if err != nil {
		return nil, err
	}
	p, err := envoy.Start(envoy.Options{Name: a.collection, Binary: binary, Bootstrap: data, Admin: a.admin.String(), Dir: dir})
	if err != nil {
		return nil, fmt.Errorf("collection %s: %w", a.collection, err)
	}
	return p, nil
}

// stop ends all of them, side by side.
func (f fleet) stop() {
	var wg sync.WaitGroup
	for _, p := range f {
		wg.Go(p.Stop)
	}
	wg.Wait()
}
