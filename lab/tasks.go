package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/watcher"
)

// task is one echo task: a listener per container port.
type task struct {
	told    *watcher.Task // as the picture shows it; replaced, never changed
	servers []*echo.Server
	raw     []func() // ends of TCP and UDP echoes
}

// converge brings a service's tasks to what it should have. What starts has started
// when it returns; what leaves does so in the background.
func (s *Source) converge(svc *service) error {
	svc.op.Lock()
	defer svc.op.Unlock()
	s.mu.Lock()
	n := int(wanted(svc.spec))
	if svc.gone {
		n = 0
	}
	ports := svc.ports
	used := map[int]bool{}
	var leaving, stale []*task
	for _, t := range svc.tasks {
		switch {
		case t.told.Desired != watcher.Running: // on its way already
		case t.index() > n:
			leaving = append(leaving, t)
		default:
			used[t.index()] = true
			if !t.has(ports) {
				stale = append(stale, t)
			}
		}
	}
	s.mu.Unlock()

	for _, t := range leaving {
		s.leave(svc, t)
	}
	var errs []error
	for slot := 1; slot <= n; slot++ {
		if !used[slot] {
			errs = append(errs, s.start(svc, slot))
		}
	}
	for _, t := range stale { // other ports are another container: start-first, at once
		if err := s.start(svc, t.index()); err != nil {
			errs = append(errs, err)
			continue
		}
		s.leave(svc, t)
	}
	return errors.Join(errs...)
}

// Scale sets a service's replicas and waits until it has them and no more.
func (s *Source) Scale(ctx context.Context, id string, replicas uint64) error {
	if err := s.Edit(id, func(spec *watcher.Service) { spec.Replicas = replicas }); err != nil {
		return err
	}
	return s.Settled(ctx, id)
}

// Settled waits until a service has exactly the tasks it should have.
func (s *Source) Settled(ctx context.Context, id string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p := s.Picture()
		spec := p.Services[id]
		if spec == nil && len(p.Tasks[id]) == 0 || spec != nil && uint64(len(p.Tasks[id])) == wanted(spec) &&
			!slices.ContainsFunc(p.Tasks[id], func(t *watcher.Task) bool { return !t.Ready() }) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the tasks of %s: %w", id, ctx.Err())
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// Update replaces every task of a service, batch by batch, as a rolling update does,
// and waits until the last old one has ended.
func (s *Source) Update(ctx context.Context, id string, r Rollout) error {
	svc, err := s.service(id)
	if err != nil {
		return err
	}
	svc.op.Lock()
	defer svc.op.Unlock()
	s.mu.Lock()
	old := slices.DeleteFunc(slices.Clone(svc.tasks), func(t *task) bool { return t.told.Desired != watcher.Running })
	s.mu.Unlock()
	batch := r.Parallelism
	if batch <= 0 {
		batch = max(1, len(old))
	}
	for i := 0; i < len(old); i += batch {
		if i > 0 {
			if err := s.sleep(ctx, r.Delay); err != nil {
				return err
			}
		}
		if err := s.replace(ctx, svc, old[i:min(i+batch, len(old))], r.StartFirst); err != nil {
			return fmt.Errorf("update service %s: %w", id, err)
		}
	}
	return nil
}

// replace exchanges some tasks and waits until the old ones have ended.
func (s *Source) replace(ctx context.Context, svc *service, old []*task, startFirst bool) error {
	var ends []<-chan struct{}
	for _, t := range old {
		if startFirst {
			if err := s.start(svc, t.index()); err != nil {
				return err
			}
		}
		ends = append(ends, s.leave(svc, t))
	}
	for _, end := range ends {
		select {
		case <-end:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if startFirst {
		return nil
	}
	for _, t := range old {
		if err := s.start(svc, t.index()); err != nil {
			return err
		}
	}
	return nil
}

// Kill ends one task of a service without warning; Swarm notices and starts another
// one, and Kill waits for that. It gives the name of the task that died.
func (s *Source) Kill(ctx context.Context, id string) (name string, err error) {
	svc, err := s.service(id)
	if err != nil {
		return "", err
	}
	svc.op.Lock()
	defer svc.op.Unlock()
	s.mu.Lock()
	i := slices.IndexFunc(svc.tasks, func(t *task) bool { return t.told.Ready() })
	if i < 0 {
		s.mu.Unlock()
		return "", fmt.Errorf("service %s has no task to kill", id)
	}
	victim := svc.tasks[i]
	name = taskName(svc.spec, victim.told)
	s.mu.Unlock()
	victim.kill()
	if err := s.sleep(ctx, s.timing.Notice); err != nil {
		return name, err
	}
	s.ended(svc, victim)
	if err := s.sleep(ctx, s.timing.Restart); err != nil {
		return name, err
	}
	s.mu.Lock()
	again := !svc.gone && uint64(victim.index()) <= wanted(svc.spec)
	s.mu.Unlock()
	if !again {
		return name, nil
	}
	return name, s.start(svc, victim.index())
}

func (s *Source) service(id string) (*service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if svc := s.services[id]; svc != nil {
		return svc, nil
	}
	return nil, fmt.Errorf("the lab runs no service %q", id)
}

// start starts a task in a slot. svc.op is held.
func (s *Source) start(svc *service, slot int) error {
	s.mu.Lock()
	s.serial++
	spec, ports, secure := svc.spec, svc.ports, s.tlsOf(svc)
	told := &watcher.Task{
		ID: fmt.Sprintf("%s.%d.%d", spec.ID, slot, s.serial), ServiceID: spec.ID, NodeID: nodeNames[(slot-1)%len(nodeNames)],
		Slot: slot, State: watcher.Running, Desired: watcher.Running,
	}
	if spec.Mode == watcher.Global {
		told.Slot = 0
	}
	s.mu.Unlock()

	t := &task{told: told}
	for _, p := range ports {
		published, err := t.listen(p, echo.Options{Service: spec.Name, Task: taskName(spec, told), TLS: secure})
		if err != nil {
			t.kill()
			return fmt.Errorf("start task %s: %w", taskName(spec, told), err)
		}
		told.Ports = append(told.Ports, watcher.HostPort{Protocol: p.network, Target: p.target, Published: published})
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		t.kill()
		return s.ctx.Err()
	}
	svc.tasks = append(svc.tasks, t)
	s.showTasks(svc)
	return nil
}

// leave gives a task its early warning and stops it when that has passed; the
// channel closes when it has ended. svc.op is held.
func (s *Source) leave(svc *service, t *task) <-chan struct{} {
	s.mu.Lock()
	told := *t.told
	told.Desired = watcher.Shutdown
	t.told = &told
	s.showTasks(svc)
	s.mu.Unlock()

	ended := make(chan struct{})
	s.work.Go(func() {
		defer close(ended)
		if s.sleep(s.ctx, s.timing.Warning) == nil {
			ctx, cancel := context.WithTimeout(s.ctx, s.timing.Grace)
			defer cancel()
			t.stop(ctx)
		}
		t.kill()
		s.ended(svc, t)
	})
	return ended
}

// ended takes a task out of the picture.
func (s *Source) ended(svc *service, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc.tasks = slices.DeleteFunc(svc.tasks, func(o *task) bool { return o == t })
	s.showTasks(svc)
}

// sleep waits, but not longer than ctx and the source live.
func (s *Source) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// taskName is how Swarm's users know a task: by slot, and those of a global service by node.
func taskName(spec *watcher.Service, t *watcher.Task) string {
	if t.Slot == 0 {
		return spec.Name + "." + t.NodeID
	}
	return fmt.Sprintf("%s.%d", spec.Name, t.Slot)
}

// index is the task's place in its service, from 1, also where it has no slot.
func (t *task) index() int {
	if t.told.Slot > 0 {
		return t.told.Slot
	}
	return slices.Index(nodeNames, t.told.NodeID) + 1
}

// has reports whether the task listens for exactly these container ports.
func (t *task) has(ports []taskPort) bool {
	return slices.EqualFunc(t.told.Ports, ports, func(h watcher.HostPort, p taskPort) bool {
		return h.Protocol == p.network && h.Target == p.target
	})
}

// listen opens a container port on a random loopback port.
func (t *task) listen(p taskPort, o echo.Options) (published uint32, err error) {
	if p.network == "udp" {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		t.run(func(ctx context.Context) { _ = echo.ServeUDP(ctx, pc) })
		return uint32(pc.LocalAddr().(*net.UDPAddr).Port), nil
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	if p.raw {
		t.run(func(ctx context.Context) { _ = echo.ServeTCP(ctx, lis) })
	} else {
		t.servers = append(t.servers, echo.Start(lis, o))
	}
	return uint32(lis.Addr().(*net.TCPAddr).Port), nil
}

// run runs an echo that is not HTTP until kill.
func (t *task) run(serve func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); serve(ctx) }()
	t.raw = append(t.raw, func() { cancel(); <-done })
}

// stop lets open requests finish; when ctx ends first, they are cut.
func (t *task) stop(ctx context.Context) {
	var wg sync.WaitGroup
	for _, srv := range t.servers {
		wg.Go(func() { _ = srv.Shutdown(ctx) })
	}
	wg.Wait()
}

// kill cuts everything. It may be called again.
func (t *task) kill() {
	for _, srv := range t.servers {
		srv.Kill()
	}
	for _, end := range t.raw {
		end()
	}
}
