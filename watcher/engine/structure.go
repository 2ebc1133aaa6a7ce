package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/watcher"
)

// structure is everything but tasks. It is immutable once made.
type structure struct {
	services map[string]*watcher.Service
	global   map[string]struct{} // IDs of services whose replicas are to be counted
	nodes    map[string]*watcher.Node
	networks map[string]*watcher.Network
	configs  map[string]*watcher.Config
	secrets  map[string]*watcher.Secret
}

// followStructure reads what is wanted whenever something is, and everything now and then.
func (r *run) followStructure(ctx context.Context) {
	reader := newStructureReader(r.conn, r.Options)
	pause := r.newBackoff()
	every := func() time.Duration { // not all replicas of Waggle at once
		return time.Duration(float64(r.Timing.FullList) * (0.8 + 0.4*r.Timing.Jitter()))
	}
	full := time.NewTimer(every())
	defer full.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-full.C:
			r.dirt.add(wants{all: true})
			continue
		case <-r.dirt.wake:
		}
		if reader.known != nil && !sleep(ctx, r.Timing.Settle) { // events come in bunches
			return
		}
		w := r.dirt.take()
		if w.empty() {
			continue
		}
		if w.all {
			full.Reset(every())
		}
		if err := reader.refresh(ctx, w); err != nil {
			if !r.tell(ctx, report{part: structurePart, err: err}) || !pause.wait(ctx) {
				return
			}
			r.dirt.add(wants{all: true})
			continue
		}
		pause.reset()
		if !r.tell(ctx, report{part: structurePart, structure: reader.known, full: w.all}) {
			return
		}
	}
}

// structureReader knows the structure as it was last read.
type structureReader struct {
	Options
	conn  *connection
	known *structure // nil before the first full list

	mu        sync.Mutex
	forbidden map[string]bool // lists that a proxy refuses and that are done without; said once
}

func newStructureReader(c *connection, o Options) *structureReader {
	return &structureReader{Options: o, conn: c, forbidden: map[string]bool{}}
}

// refresh reads what is wanted. Either all of it succeeds and known is replaced, or nothing changes.
func (s *structureReader) refresh(ctx context.Context, w wants) error {
	if s.known == nil {
		w.all = true
	}
	next := &structure{}
	if !w.all {
		*next = *s.known
	}
	all := func(part bool) bool { return w.all || part }
	g, gctx := errgroup.WithContext(ctx)
	if all(w.services) {
		g.Go(func() (err error) { next.services, err = s.services(gctx, nil); return })
	} else if len(w.ids) > 0 {
		g.Go(func() error {
			some, err := s.services(gctx, w.ids)
			if err != nil {
				return err
			}
			services := maps.Clone(s.known.services)
			for id := range w.ids {
				delete(services, id) // gone, unless it was listed
			}
			maps.Copy(services, some)
			next.services = services
			return nil
		})
	}
	if all(w.nodes) {
		g.Go(func() (err error) { next.nodes, err = s.nodes(gctx); return })
	}
	if all(w.configs) {
		g.Go(func() (err error) { next.configs, err = s.configs(gctx); return })
	}
	if all(w.secrets) {
		g.Go(func() (err error) { next.secrets, err = s.secrets(gctx); return })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if all(w.networks) {
		var err error
		if next.networks, err = s.networks(ctx); err != nil {
			return err
		}
	}
	if err := s.whole(next); err != nil {
		return err
	}
	next.global = map[string]struct{}{}
	for id, svc := range next.services {
		if svc.Mode == watcher.Global {
			next.global[id] = struct{}{}
		}
	}
	s.known = next
	return nil
}

// whole finds half a list of networks. Docker answers /networks with 200 and the
// networks of its own node when it cannot reach the Swarm's leader (moby,
// getNetworksList); and the Swarm refuses to remove a network that a service is
// on. So where a known network is missing while a service is on it, the list is
// half. (The first list is safe enough: it follows those of services and nodes,
// which fail without a leader.)
func (s *structureReader) whole(next *structure) error {
	if s.known == nil {
		return nil
	}
	for _, svc := range next.services {
		for _, id := range svc.Networks {
			if n := s.known.networks[id]; n != nil && next.networks[id] == nil {
				return s.conn.sentence("/networks", fmt.Errorf("the list lacks %s, which service %s is on", n.Name, svc.Name))
			}
		}
	}
	return nil
}

func (s *structureReader) services(ctx context.Context, ids map[string]struct{}) (map[string]*watcher.Service, error) {
	m := map[string]*watcher.Service{}
	f := filters.NewArgs()
	for id := range ids {
		f.Add("id", id)
	}
	err := s.conn.do(ctx, "/services", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.ServiceList(ctx, swarm.ServiceListOptions{Filters: f})
		for _, v := range list {
			if v.ID == "" {
				return errNoID
			}
			if _, ok := v.Spec.Labels[watcher.CourierLabel]; ok && v.Spec.Mode.ReplicatedJob != nil {
				continue
			}
			if _, ok := ids[v.ID]; ok || ids == nil { // the filter takes prefixes
				m[v.ID] = service(v)
			}
		}
		return err
	})
	return m, err
}

var errNoID = errors.New("an entry without an ID")

func (s *structureReader) nodes(ctx context.Context) (map[string]*watcher.Node, error) {
	m := map[string]*watcher.Node{}
	err := s.conn.do(ctx, "/nodes", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.NodeList(ctx, swarm.NodeListOptions{})
		for _, v := range list {
			if v.ID == "" {
				return errNoID
			}
			m[v.ID] = node(v)
		}
		return err
	})
	return m, err
}

func (s *structureReader) networks(ctx context.Context) (map[string]*watcher.Network, error) {
	m := map[string]*watcher.Network{}
	err := s.conn.do(ctx, "/networks", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("scope", "swarm"))})
		for _, v := range list {
			if v.ID == "" {
				return errNoID
			}
			if v.Scope == "swarm" {
				m[v.ID] = &watcher.Network{ID: v.ID, Name: v.Name, Ingress: v.Ingress, Labels: v.Labels}
			}
		}
		return err
	})
	return m, err
}

func (s *structureReader) configs(ctx context.Context) (map[string]*watcher.Config, error) {
	m := map[string]*watcher.Config{}
	err := s.optional(ctx, "/configs", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.ConfigList(ctx, swarm.ConfigListOptions{})
		for _, v := range list {
			m[v.Spec.Name] = &watcher.Config{ID: v.ID, Name: v.Spec.Name, Labels: v.Spec.Labels, Data: v.Spec.Data}
		}
		return err
	})
	return m, err
}

func (s *structureReader) secrets(ctx context.Context) (map[string]*watcher.Secret, error) {
	m := map[string]*watcher.Secret{}
	err := s.optional(ctx, "/secrets", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.SecretList(ctx, swarm.SecretListOptions{})
		for _, v := range list {
			if _, ok := v.Spec.Labels[watcher.CourierLabel]; ok {
				continue
			}
			m[v.Spec.Name] = &watcher.Secret{ID: v.ID, Name: v.Spec.Name, Labels: v.Spec.Labels}
		}
		return err
	})
	return m, err
}

// optional is conn.do for lists that a socket proxy may forbid: then there are none of these.
func (s *structureReader) optional(ctx context.Context, what string, f func(context.Context, *client.Client) error) error {
	refused := false
	err := s.conn.do(ctx, what, func(ctx context.Context, cli *client.Client) error {
		err := f(ctx, cli)
		if errors.Is(err, cerrdefs.ErrPermissionDenied) || errors.Is(err, cerrdefs.ErrNotFound) {
			refused = true
			return nil
		}
		return err
	})
	if refused {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.forbidden[what] {
			s.forbidden[what] = true
			s.Log.Warn("Docker does not let "+what+" be read; names in labels that mean them are not found", "host", s.Host)
		}
	}
	return err
}
