package compose

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
)

// inventory is everything that one complete list tells. It is immutable once made.
type inventory struct {
	began      time.Time           // before the first request
	containers []container.Summary // those that count
	fixed      map[string]*fixed   // of containers, by ID
	networks   map[string]network.Summary
	node       watcher.Node
}

// fixed is what a container is made with: it is read once.
type fixed struct {
	created    time.Time
	stopSignal syscall.Signal
	grace      time.Duration // from that signal to SIGKILL
	ports      []watcher.Port
	expose     []uint32
}

// followLists lists everything whenever that is wanted, and now and then.
func (r *run) followLists(ctx context.Context) {
	reader := newReader(r.daemon, r.Options)
	pause := backoff{Timing: r.Timing}
	every := func() time.Duration { // not all replicas of Waggle at once
		return time.Duration(float64(r.Timing.FullList) * (0.8 + 0.4*r.Timing.Jitter()))
	}
	full := time.NewTimer(every())
	defer full.Stop()
	first := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-full.C:
		case <-r.dirty:
			if !first && !sleep(ctx, r.Timing.Settle) { // events come in bunches
				return
			}
			select { // what came meanwhile is in this list
			case <-r.dirty:
			default:
			}
		}
		full.Reset(every())
		inv, err := reader.list(ctx)
		if !r.tell(ctx, report{part: listPart, inventory: inv, err: err}) {
			return
		}
		if err == nil {
			first = false
			pause.reset()
			continue
		}
		if !pause.wait(ctx) {
			return
		}
		r.soil()
	}
}

// reader lists; only one goroutine may use it.
type reader struct {
	Options
	daemon *engine.Daemon

	fixed  map[string]*fixed // of the containers of the last list
	noInfo bool              // a proxy keeps /info to itself; said once
}

func newReader(d *engine.Daemon, o Options) *reader { return &reader{Options: o, daemon: d} }

// list reads everything. It fails as a whole where any part of it does.
func (r *reader) list(ctx context.Context) (*inventory, error) {
	inv := &inventory{began: time.Now(), networks: map[string]network.Summary{}}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { inv.containers, err = r.containers(gctx); return })
	g.Go(func() (err error) { inv.networks, err = r.networks(gctx); return })
	g.Go(func() (err error) { inv.node, err = r.node(gctx); return })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !inv.node.Addr.IsValid() {
		inv.node.Addr = r.address(inv.networks)
	}
	if err := r.inspect(ctx, inv); err != nil {
		return nil, err
	}
	return inv, nil
}

var errNoID = errors.New("an entry without an ID")

// containers lists those that count, stopped ones too: a service that is stopped
// is still one, as one with no replicas is in a Swarm.
func (r *reader) containers(ctx context.Context) (all []container.Summary, err error) {
	err = r.daemon.Do(ctx, "/containers", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.ContainerList(ctx, container.ListOptions{All: true})
		for _, c := range list {
			if c.ID == "" {
				return errNoID
			}
			if r.counts(c) {
				all = append(all, c)
			}
		}
		return err
	})
	return all, err
}

func (r *reader) counts(c container.Summary) bool {
	switch {
	case c.Labels["com.docker.swarm.task.id"] != "": // a Swarm's, which the other sources read
		return false
	case strings.EqualFold(c.Labels[oneoffLabel], "true"): // docker compose run: a visitor, whatever its labels say
		return false
	case len(r.Projects) > 0:
		return slices.Contains(r.Projects, c.Labels[projectLabel])
	}
	return true
}

func (r *reader) networks(ctx context.Context) (map[string]network.Summary, error) {
	m := map[string]network.Summary{}
	err := r.daemon.Do(ctx, "/networks", func(ctx context.Context, cli *client.Client) error {
		list, err := cli.NetworkList(ctx, network.ListOptions{})
		for _, n := range list {
			if n.ID == "" {
				return errNoID
			}
			m[n.ID] = n
		}
		return err
	})
	return m, err
}

// node is the engine. Its name is worth having, not worth failing for.
func (r *reader) node(ctx context.Context) (watcher.Node, error) {
	n := watcher.Node{ID: "engine"}
	if r.noInfo {
		return n, nil
	}
	err := r.daemon.Do(ctx, "/info", func(ctx context.Context, cli *client.Client) error {
		info, err := cli.Info(ctx)
		if errors.Is(err, cerrdefs.ErrPermissionDenied) || errors.Is(err, cerrdefs.ErrNotFound) {
			r.noInfo = true
			return nil
		}
		if err == nil {
			n.Hostname = info.Name
			if info.ID != "" {
				n.ID = info.ID
			}
		}
		return err
	})
	if r.noInfo {
		r.Log.Info("Docker does not let /info be read; its engine has no name here", "host", r.Host)
	}
	return n, err
}

// address is where ports that containers publish are reached from other
// containers: the daemon's own address where swarm.host names one, else that of the
// machine on Docker's default bridge.
func (r *reader) address(networks map[string]network.Summary) netip.Addr {
	if u, err := url.Parse(r.Host); err == nil && u.Scheme == "tcp" {
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !a.IsLoopback() && !a.IsUnspecified() {
			return a.Unmap()
		}
	}
	for _, n := range networks {
		if n.Name != network.NetworkBridge {
			continue
		}
		for _, c := range n.IPAM.Config {
			if a := address(c.Gateway); a.Is4() {
				return a
			}
			if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Addr().Is4() {
				return p.Masked().Addr().Next() // what Docker takes where no gateway is named
			}
		}
	}
	return netip.Addr{}
}

// inspect reads what is fixed of containers that were not there before.
func (r *reader) inspect(ctx context.Context, inv *inventory) error {
	var mu sync.Mutex
	known, gone := make(map[string]*fixed, len(inv.containers)), map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, c := range inv.containers {
		if f := r.fixed[c.ID]; f != nil {
			mu.Lock()
			known[c.ID] = f
			mu.Unlock()
			continue
		}
		g.Go(func() error {
			return r.daemon.Do(gctx, "/containers/"+short(c.ID), func(ctx context.Context, cli *client.Client) error {
				v, err := cli.ContainerInspect(ctx, c.ID)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, cerrdefs.ErrNotFound) {
					gone[c.ID] = true // since the list
					return nil
				}
				if err == nil {
					known[c.ID] = fixedOf(v)
				}
				return err
			})
		})
	}
	err := g.Wait()
	// What was learned is kept even if the list fails: the next one need not ask again.
	r.fixed = known
	if err != nil {
		return err
	}
	inv.containers = slices.DeleteFunc(inv.containers, func(c container.Summary) bool { return gone[c.ID] })
	inv.fixed = maps.Clone(known)
	return nil
}

func short(id string) string { return id[:min(len(id), 12)] }

// defaultGrace is Docker's own, for containers that name none.
const defaultGrace = 10 * time.Second

func fixedOf(v container.InspectResponse) *fixed {
	f := &fixed{stopSignal: syscall.SIGTERM, grace: defaultGrace}
	if c := v.Config; c != nil {
		f.stopSignal = signalOf(c.StopSignal)
		if c.StopTimeout != nil && *c.StopTimeout >= 0 {
			f.grace = time.Duration(*c.StopTimeout) * time.Second
		}
		for port := range c.ExposedPorts {
			if port.Proto() == "tcp" && port.Int() > 0 {
				f.expose = append(f.expose, uint32(port.Int()))
			}
		}
		slices.Sort(f.expose)
	}
	if v.ContainerJSONBase == nil {
		return f
	}
	if t, err := time.Parse(time.RFC3339Nano, v.Created); err == nil {
		f.created = t.UTC()
	}
	if v.HostConfig != nil {
		f.ports = publishedPorts(v.HostConfig)
	}
	return f
}

// publishedPorts are those that a container asks for, one for each of its own: the
// host's port is 0 where Docker chooses it.
func publishedPorts(c *container.HostConfig) (ports []watcher.Port) {
	for port, hosts := range c.PortBindings {
		if len(hosts) == 0 || port.Int() <= 0 {
			continue
		}
		p := watcher.Port{Protocol: port.Proto(), Target: uint32(port.Int()), HostMode: true}
		if n, err := strconv.ParseUint(hosts[0].HostPort, 10, 16); err == nil {
			p.Published = uint32(n)
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b watcher.Port) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

// signalOf reads a STOPSIGNAL: a number, or a name with or without SIG.
func signalOf(s string) syscall.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return syscall.Signal(n)
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(name); n != 0 {
		return n
	}
	return syscall.SIGTERM
}

// address reads "172.17.0.2"; what is none is the zero Addr.
func address(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
