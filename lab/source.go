package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// Timing is how the lab's Swarm behaves in time.
type Timing struct {
	Warning time.Duration // between Swarm wanting a task gone and the task stopping
	Grace   time.Duration // a stopping task's open requests may take so long
	Notice  time.Duration // until Swarm notices that a task died
	Restart time.Duration // until it starts another one in its place
}

// DefaultTiming is close to a real Swarm's, so that its story is told at its pace.
var DefaultTiming = Timing{Warning: 2 * time.Second, Grace: 10 * time.Second, Notice: 200 * time.Millisecond, Restart: 500 * time.Millisecond}

// Rollout is a service's update_config.
type Rollout struct {
	StartFirst  bool
	Parallelism int           // tasks at a time; 0: all
	Delay       time.Duration // between batches
}

// maxTasks bounds what a stack file can ask of this machine.
const maxTasks = 2000

// nodeNames are the members of the lab's Swarm. All of them are this machine.
var nodeNames = []string{"lab-1", "lab-2", "lab-3"}

// Source runs services as echo tasks in this process, and is the watcher.Source that
// tells of them. What should run is set by Apply and the other methods; Run may be
// called again after it returned (a control plane that was started again).
type Source struct {
	timing   Timing
	prefixes []string
	ports    []uint32 // that the operator's defaults name
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup // goroutines that change tasks

	mu       sync.Mutex
	services map[string]*service // by ID
	picture  *watcher.Picture
	changes  watcher.Changes // since the last Update
	wake     chan struct{}
	serial   int // of tasks
	// authority issues the certificates of tasks; nil: they speak no TLS.
	authority *secrets.LocalCA
}

// service is what the lab runs for one service.
type service struct {
	op    sync.Mutex // held by whoever starts and stops tasks: one change at a time
	spec  *watcher.Service
	ports []taskPort
	tasks []*task // guarded by Source.mu, as spec and ports are
	gone  bool
}

// NewSource makes a source of nothing. prefixes are the label prefixes, ports the
// container ports that tasks have without their labels saying so.
func NewSource(timing Timing, prefixes []string, ports ...uint32) *Source {
	ctx, cancel := context.WithCancel(context.Background())
	nodes := map[string]*watcher.Node{}
	for _, n := range nodeNames {
		nodes[n] = &watcher.Node{ID: n, Hostname: n, Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return &Source{
		timing: timing, prefixes: prefixes, ports: ports, ctx: ctx, cancel: cancel,
		services: map[string]*service{},
		wake:     make(chan struct{}, 1),
		picture: &watcher.Picture{
			Services: map[string]*watcher.Service{}, Tasks: map[string][]*watcher.Task{}, Nodes: nodes, Loopback: true,
		},
	}
}

// Name implements watcher.Source.
func (s *Source) Name() string { return "lab" }

// Picture is what runs now.
func (s *Source) Picture() *watcher.Picture {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.picture
}

// Run implements watcher.Source: each change is told at once.
func (s *Source) Run(ctx context.Context, emit func(watcher.Update)) error {
	first := true
	for {
		s.mu.Lock()
		p, changes := s.picture, s.changes
		s.changes = watcher.Changes{}
		s.mu.Unlock()
		if first {
			changes = watcher.Changes{All: true}
		}
		if !changes.Empty() {
			emit(watcher.Update{Picture: p, Changes: changes, Full: true, At: time.Now()})
		}
		first = false
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// Close stops every task at once and waits for everything the source started. No
// other method may be under way or called any more.
func (s *Source) Close() {
	s.cancel()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, svc := range s.services {
		for _, t := range svc.tasks {
			t.kill()
		}
		svc.tasks = nil
	}
}

// Apply makes the services of p those that run: new ones start, missing ones leave,
// replicas are scaled, labels hold at once. Problems with starting tasks are
// returned; what can run runs. It returns when everything that starts has started;
// what leaves takes its time in the background.
func (s *Source) Apply(p *watcher.Picture) error {
	var desired int
	for _, spec := range p.Services {
		desired += int(min(wanted(spec), maxTasks+1))
	}
	if desired > maxTasks {
		return fmt.Errorf("the stack files ask for more than %d tasks: this is one machine; use fewer replicas", maxTasks)
	}

	s.mu.Lock()
	next := *s.picture
	next.Networks, next.Configs, next.Secrets = p.Networks, p.Configs, p.Secrets
	if !reflect.DeepEqual(&next, s.picture) {
		s.picture = &next
		s.changes.Shared = true
		s.signal()
	}
	var touched []*service
	for _, id := range slices.Sorted(maps.Keys(s.services)) {
		if p.Services[id] == nil {
			touched = append(touched, s.services[id])
			s.forget(id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Services)) {
		if svc := s.adopt(p.Services[id]); svc != nil {
			touched = append(touched, svc)
		}
	}
	s.mu.Unlock()

	var errs []error
	for _, svc := range touched {
		errs = append(errs, s.converge(svc))
	}
	return errors.Join(errs...)
}

// Deploy starts one service (or changes it), as a stack deploy of it alone would.
func (s *Source) Deploy(spec *watcher.Service) error {
	s.mu.Lock()
	svc := s.adopt(spec)
	s.mu.Unlock()
	if svc == nil {
		return nil
	}
	return s.converge(svc)
}

// Remove ends one service; its tasks leave in the background.
func (s *Source) Remove(id string) {
	s.mu.Lock()
	svc := s.services[id]
	if svc != nil {
		s.forget(id)
	}
	s.mu.Unlock()
	if svc != nil {
		_ = s.converge(svc) // starts nothing, so nothing can fail
	}
}

// Edit changes one service: edit gets a copy of what it is.
func (s *Source) Edit(id string, edit func(*watcher.Service)) error {
	s.mu.Lock()
	svc := s.services[id]
	if svc == nil {
		s.mu.Unlock()
		return fmt.Errorf("the lab runs no service %q", id)
	}
	spec := *svc.spec
	spec.Labels = maps.Clone(spec.Labels)
	edit(&spec)
	svc = s.adopt(&spec)
	s.mu.Unlock()
	if svc == nil {
		return nil
	}
	return s.converge(svc)
}

// adopt takes spec for what its service should be; nil if it is that already.
func (s *Source) adopt(spec *watcher.Service) *service {
	svc := s.services[spec.ID]
	if svc == nil {
		svc = &service{}
		s.services[spec.ID] = svc
	}
	own := *spec
	if svc.spec != nil {
		own.Version = svc.spec.Version
		if reflect.DeepEqual(&own, svc.spec) {
			return nil
		}
		own.Version = max(spec.Version, svc.spec.Version+1)
	}
	svc.spec, svc.ports = &own, portsOf(&own, s.prefixes, s.ports)
	services := maps.Clone(s.picture.Services)
	services[own.ID] = &own
	s.show(services, own.ID)
	return svc
}

// forget takes a service out of the picture. Its tasks are listed as long as they run,
// but nothing routes to them.
func (s *Source) forget(id string) {
	s.services[id].gone = true
	delete(s.services, id)
	services := maps.Clone(s.picture.Services)
	delete(services, id)
	s.show(services, id)
}

// show puts services into the picture. s.mu is held.
func (s *Source) show(services map[string]*watcher.Service, changed string) {
	next := *s.picture
	next.Services = services
	s.picture = &next
	s.changes.Merge(watcher.Changes{Services: map[string]struct{}{changed: {}}})
	s.signal()
}

// showTasks puts a service's tasks into the picture as they are now. s.mu is held.
func (s *Source) showTasks(svc *service) {
	tasks := make([]*watcher.Task, 0, len(svc.tasks))
	for _, t := range svc.tasks {
		tasks = append(tasks, t.told)
	}
	slices.SortFunc(tasks, func(a, b *watcher.Task) int {
		return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.ID, b.ID))
	})
	next := *s.picture
	next.Tasks = maps.Clone(next.Tasks)
	if len(tasks) == 0 || svc.gone {
		delete(next.Tasks, svc.spec.ID)
	} else {
		next.Tasks[svc.spec.ID] = tasks
	}
	s.picture = &next
	s.changes.Merge(watcher.Changes{Tasks: map[string]struct{}{svc.spec.ID: {}}})
	s.signal()
}

func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // Run is about to look anyway
	}
}

// wanted is how many tasks a service should have.
func wanted(spec *watcher.Service) uint64 {
	switch {
	case spec.Mode.Job():
		return 0
	case spec.Mode == watcher.Global:
		return uint64(len(nodeNames))
	}
	return spec.Replicas
}
