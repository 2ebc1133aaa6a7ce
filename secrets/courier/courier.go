// Package courier brings Docker secrets that are not mounted into the control plane.
// The Engine API never gives the content of a secret; it is seen in containers alone.
// So for secrets that labels name, and that carry the label of the collection
// (secrets.CollectionLabel), a job is made: `waggle courier` in Waggle's own image,
// which mounts them, hands them to this control plane over an overlay network, and
// ends within a second or so. What was brought is kept in memory alone.
//
// Every replica of the control plane makes jobs for itself: then nobody has to be
// trusted with the secrets of others, and no replica has to know of another.
//
// The other end of the way is Deliver, in the job.
package courier

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// Bounds of what is made.
const (
	perJob = 32 // secrets that one job brings
	atOnce = 4  // jobs at the same time
)

// Swarm makes jobs, and takes them away. It never touches what it did not make.
type Swarm interface {
	// Start makes a job. After an error there may be parts of it, for Remove.
	Start(ctx context.Context, j Job) error
	// Look reports whether the job is over, and what Swarm says of it; "" where that is
	// nothing worth telling.
	Look(ctx context.Context, name string) (over bool, said string)
	// Remove takes away whatever there is of a job.
	Remove(ctx context.Context, name string) error
	// Leftovers names the jobs, whoever made them, that are at least this old.
	Leftovers(ctx context.Context, age time.Duration) ([]string, error)
}

// Job is what Swarm has to run once: `waggle courier`.
type Job struct {
	Name  string        // NamePrefix and what nobody can guess
	Order secrets.Bytes // for Deliver; mounted under the name OrderFile
	// Mounts are the secrets to deliver, each mounted under its ID.
	Mounts []Mount
}

// Mount is a Docker secret.
type Mount struct{ ID, Name string }

// NamePrefix begins the name of each job.
const NamePrefix = "waggle-courier-"

// Options of a Courier.
type Options struct {
	Swarm Swarm
	// Addresses are those of this machine; nil: asks the system.
	Addresses func() ([]net.Addr, error)
	Log       *slog.Logger // nil: nobody
	Timing    Timing
}

// Timing is for tests. Zero values mean the defaults.
type Timing struct {
	Lifetime time.Duration // of a job, and of what it may use: 45 s; joining a network may take 30 s
	Look     time.Duration // from one look at a job to the next: 500 ms
	RetryMin time.Duration // first pause after a failure: 2 s; doubled each time
	RetryMax time.Duration // longest pause: 5 min
	Reap     time.Duration // between two looks for leftovers: 1 min
}

func (t *Timing) fill() {
	for d, def := range map[*time.Duration]time.Duration{
		&t.Lifetime: 45 * time.Second, &t.Look: 500 * time.Millisecond, &t.RetryMin: 2 * time.Second, &t.RetryMax: 5 * time.Minute, &t.Reap: time.Minute,
	} {
		if *d <= 0 {
			*d = def
		}
	}
}

// leftoverAge is twice as old as any job gets: those of other replicas are left alone,
// also where clocks differ a little.
func (t Timing) leftoverAge() time.Duration { return 2 * t.Lifetime }

// Courier knows which secrets are wanted, and has those that were brought.
type Courier struct {
	o        Options
	emit     func(*secrets.Material)
	receiver *receiver
	metrics  *metrics
	wake     chan struct{} // something may have to be fetched

	mu      sync.Mutex
	disk    *secrets.Material // nil before Material
	picture *watcher.Picture
	wants   []secrets.Want
	parcels map[string]*parcel // by the ID of the secret: content never changes under one
	inForce map[use]secrets.Item
	told    *secrets.Material
	jobs    int // under way
}

// use is a label that names something.
type use struct{ collection, label string }

// parcel is one secret that is wanted and may be had.
type parcel struct {
	id, name, collection string

	content  secrets.Bytes
	here     bool      // content is there
	at       time.Time // since when
	underway bool      // a job is to bring it
	failed   string
	failures int
	next     time.Time // not to be tried again before
}

// New makes a courier. emit gets every change of the material: what Material was
// called with last, and what was brought. It is never called concurrently, and must
// return at once.
func New(o Options, emit func(*secrets.Material)) (*Courier, error) {
	o.Timing.fill()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Addresses == nil {
		o.Addresses = net.InterfaceAddrs
	}
	r, err := newReceiver(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make the courier's authority: %w", err)
	}
	return &Courier{o: o, emit: emit, receiver: r, metrics: newMetrics(), wake: make(chan struct{}, 1), parcels: map[string]*parcel{}}, nil
}

// Material takes what there is without the courier, and tells what there is with it.
func (c *Courier) Material(m *secrets.Material) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disk = m
	c.review()
}

// Wanted takes the names that labels give and what runs. Before it returns, material
// was told that says which of them are on their way.
func (c *Courier) Wanted(p *watcher.Picture, wants []secrets.Want) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.picture, c.wants = p, wants
	c.review()
}

// review finds out what has to be there, forgets what has not, and tells; c.mu is held.
func (c *Courier) review() {
	if c.picture != nil {
		aims := map[string]*parcel{}
		for _, w := range c.wants {
			if s := secrets.Lacks(c.picture, c.disk, w); s != nil && s.ID != "" {
				aims[s.ID] = &parcel{id: s.ID, name: s.Name, collection: w.Collection}
			}
		}
		for id, aim := range aims {
			if p := c.parcels[id]; p != nil && p.name == aim.name && p.collection == aim.collection {
				aims[id] = p
			}
		}
		c.parcels = aims
	}
	c.tell()
	c.remember()
	c.poke()
}

// remember notes what labels lead to, for the time when they lead to what has to be
// fetched first; c.mu is held.
func (c *Courier) remember() {
	if c.picture == nil {
		return
	}
	now := map[use]secrets.Item{}
	for _, w := range c.wants {
		u := use{w.Collection, w.Use}
		i, err := secrets.Find(c.picture, c.told, w.Collection, w.Stack, w.Name)
		var missing *secrets.NotFound
		switch {
		case w.Use == "":
		case err == nil:
			now[u] = i
		case errors.As(err, &missing) && missing.Underway():
			if before, ok := c.inForce[u]; ok {
				now[u] = before
			}
		}
	}
	c.inForce = now
}

// before is what labels of a collection led to that now name what is not there yet; c.mu is held.
func (c *Courier) before(collection string, f secrets.Fetched) map[string]secrets.Item {
	items := map[string]secrets.Item{}
	if len(f.Coming)+len(f.Failed) == 0 {
		return items
	}
	for _, w := range c.wants {
		if w.Collection != collection {
			continue
		}
		s := secrets.Lacks(c.picture, c.disk, w)
		if s == nil || !f.Coming[s.Name] && f.Failed[s.Name] == "" {
			continue
		}
		if i, ok := c.inForce[use{collection, w.Use}]; ok {
			items[w.Use] = i
		}
	}
	return items
}

// tell tells the material if it is another than before; c.mu is held.
func (c *Courier) tell() {
	fetched := map[string]secrets.Fetched{}
	for _, p := range c.parcels {
		f, ok := fetched[p.collection]
		if !ok {
			f = secrets.Fetched{Content: map[string]secrets.Bytes{}, Failed: map[string]string{}, Coming: map[string]bool{}}
			fetched[p.collection] = f
		}
		switch {
		case p.here:
			f.Content[p.name] = p.content
			if p.at.After(f.At) {
				f.At = p.at
				fetched[p.collection] = f
			}
		case p.failed != "":
			f.Failed[p.name] = "the courier could not fetch it: " + p.failed
		default:
			f.Coming[p.name] = true
		}
	}
	for collection, f := range fetched {
		f.Before = c.before(collection, f)
		fetched[collection] = f
	}
	if m := c.disk.WithFetched(fetched); c.told == nil || !m.Equal(c.told) {
		c.told = m
		c.emit(m)
	}
}

func (c *Courier) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run receives at lis, makes jobs and takes leftovers away until ctx ends. It closes lis.
func (c *Courier) Run(ctx context.Context, lis net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	served := make(chan error, 1)
	all.Go(func() { served <- c.receiver.serve(ctx, lis) })
	all.Go(func() { c.reap(ctx) })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		batches, wait := c.due(time.Now())
		for _, batch := range batches {
			all.Go(func() { c.fetch(ctx, batch, lis.Addr()) })
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("receive what couriers bring at %s: %w", lis.Addr(), err)
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// due gives what jobs are to be made for now, and how long it is until there may be
// more. What failed before goes alone, so that it holds up nobody else; the rest goes
// together, by collection: a certificate and its key arrive at the same moment.
func (c *Courier) due(now time.Time) (batches [][]*parcel, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = time.Hour
	var fresh []*parcel
	again := func(p *parcel) bool { return p.failures > 0 }
	for _, p := range c.parcels {
		switch left := p.next.Sub(now); {
		case p.here || p.underway:
		case left > 0:
			wait = min(wait, left)
		default:
			fresh = append(fresh, p)
		}
	}
	slices.SortFunc(fresh, func(a, b *parcel) int {
		return cmp.Or(cmp.Compare(a.failures, b.failures), cmp.Compare(a.collection, b.collection), cmp.Compare(a.name, b.name))
	})
	for len(fresh) > 0 && c.jobs < atOnce {
		n := 1
		for n < min(len(fresh), perJob) && !again(fresh[n]) && fresh[n].collection == fresh[0].collection {
			n++
		}
		batch := slices.Clone(fresh[:n])
		for _, p := range batch {
			p.underway = true
		}
		batches, fresh = append(batches, batch), fresh[n:]
		c.jobs++
	}
	return batches, wait // one that ends wakes us for those that had no room
}

// fetch makes a job for a batch, waits for what it brings, and takes it away again.
func (c *Courier) fetch(ctx context.Context, batch []*parcel, at net.Addr) {
	began := time.Now()
	j := Job{Name: newName()}
	got, err := c.job(ctx, &j, batch, at)
	c.metrics.job(err == nil, time.Since(began))
	c.settle(ctx, batch, got, err, began)

	// Also when ctx has ended: nothing is to be left.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := c.o.Swarm.Remove(end, j.Name); err != nil {
		c.o.Log.Warn("a courier's job could not be removed; it is tried again", "job", j.Name, "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs--
	c.poke()
}

// settle notes what became of a batch, and tells.
func (c *Courier) settle(ctx context.Context, batch []*parcel, got map[string]secrets.Bytes, err error, began time.Time) {
	names := make([]string, len(batch))
	for i, p := range batch {
		names[i] = p.name
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.o.Log.Warn("the courier could not fetch everything; it tries again", "collection", batch[0].collection, "secrets", names, "error", err)
	default:
		c.o.Log.Info("the courier has fetched secrets", "collection", batch[0].collection, "secrets", names, "took", time.Since(began).Round(time.Millisecond))
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range batch {
		p.underway = false
		if content, ok := got[p.id]; ok {
			p.content, p.here, p.at, p.failed = content, true, time.Now(), ""
			continue
		}
		p.failed = "it was not delivered"
		if err != nil {
			p.failed = err.Error()
		}
		p.next = time.Now().Add(min(c.o.Timing.RetryMax, c.o.Timing.RetryMin<<min(p.failures, 20)))
		p.failures++
	}
	if ctx.Err() == nil { // else nobody listens any more
		c.tell()
		c.remember()
	}
}

// job has a job bring a batch. An error says why not everything came.
func (c *Courier) job(ctx context.Context, j *Job, batch []*parcel, at net.Addr) (map[string]secrets.Bytes, error) {
	addresses, err := c.reachable(at)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, p := range batch {
		j.Mounts = append(j.Mounts, Mount{p.id, p.name})
		ids = append(ids, p.id)
	}
	expected, order, err := c.receiver.expect(j.Name, ids, time.Now(), c.o.Timing.Lifetime)
	if err != nil {
		return nil, err
	}
	order.Addresses = addresses
	if j.Order, err = order.encode(); err != nil {
		c.receiver.close(j.Name)
		return nil, err
	}
	wrong := c.await(ctx, *j, expected)
	got := c.receiver.close(j.Name)
	if len(got) == len(batch) {
		return got, nil
	}
	return got, wrong
}

// await starts a job and waits until everything has come, or nothing comes any more.
func (c *Courier) await(ctx context.Context, j Job, e *expected) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timing.Lifetime)
	defer cancel()
	if err := c.o.Swarm.Start(ctx, j); err != nil {
		return err
	}
	look := time.NewTicker(c.o.Timing.Look)
	defer look.Stop()
	last := "are the control plane and the job on one network (swarm.courier.network)?"
	for {
		select {
		case <-e.complete:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("its job did not deliver within %v: %s", c.o.Timing.Lifetime, last)
		case <-look.C:
		}
		over, said := c.o.Swarm.Look(ctx, j.Name)
		switch last = cmp.Or(said, last); {
		case over && said == "":
			return errors.New("its job ended without delivering it")
		case over:
			return fmt.Errorf("its job failed: %s", said)
		}
	}
}

// reachable are the addresses at which a job may find this control plane. Only on the
// job's own network does one answer; and only this control plane can prove to be it.
func (c *Courier) reachable(at net.Addr) ([]string, error) {
	listening, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return nil, fmt.Errorf("the courier listens at %s, which is no address: %w", at, err)
	}
	if !listening.Addr().IsUnspecified() {
		return []string{listening.String()}, nil
	}
	own, err := c.o.Addresses()
	if err != nil {
		return nil, fmt.Errorf("list the control plane's own addresses: %w", err)
	}
	var all []string
	for _, a := range own {
		prefix, err := netip.ParsePrefix(a.String())
		if ip := prefix.Addr().Unmap(); err == nil && ip.IsGlobalUnicast() {
			all = append(all, netip.AddrPortFrom(ip, listening.Port()).String())
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the control plane has no address that a job could reach; is it on swarm.courier.network?")
	}
	slices.Sort(all)
	return all, nil
}

// reap takes away what control planes left that had no time to.
func (c *Courier) reap(ctx context.Context) {
	tick := time.NewTicker(c.o.Timing.Reap)
	defer tick.Stop()
	for {
		names, err := c.o.Swarm.Leftovers(ctx, c.o.Timing.leftoverAge())
		for _, name := range names {
			if e := c.o.Swarm.Remove(ctx, name); e != nil {
				err = errors.Join(err, e)
				continue
			}
			c.o.Log.Info("a courier's job that was left over is removed", "job", name)
		}
		if err != nil && ctx.Err() == nil {
			c.o.Log.Warn("jobs of couriers that are left over cannot be removed; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// newName is the name of a job, which nobody can guess.
func newName() string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	return NamePrefix + hex.EncodeToString(raw)
}

// counts says how many secrets are here, on their way, and failed.
func (c *Courier) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[string]int{"here": 0, "coming": 0, "failed": 0}
	for p := range maps.Values(c.parcels) {
		switch {
		case p.here:
			n["here"]++
		case p.failed != "":
			n["failed"]++
		default:
			n["coming"]++
		}
	}
	return n
}
