package xds

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/identity"
)

// Options are what a Server may be told; but for Guard the zero value is right for production.
type Options struct {
	// Guard decides who may ask for what: identity.TLS, or identity.Insecure. Without one
	// nobody is served.
	Guard *identity.Guard
	// Logger gets what an operator wants to know; nil: nothing is logged.
	Logger *slog.Logger
	// Gate is how long listeners and routes wait for a proxy to acknowledge the clusters
	// they need, and how long a kind waits for its own previous response. Default 2 s.
	Gate time.Duration
	// Grace is how long a removed resource is kept for a proxy that has not acknowledged
	// the listeners and routes that no longer use it. Default 15 s, at least twice Gate.
	Grace time.Duration
	// Canary is how long a change of more than endpoints is tried with one proxy at most
	// before the others get it. Default 3 s; negative: it goes to all at once.
	Canary time.Duration
	// Identifier tells replicas apart in what Envoy shows of its control plane.
	Identifier string
}

// Server keeps the resources of all collections and serves them. Its methods may be
// called from any goroutine.
type Server struct {
	guard        *identity.Guard
	log          *slog.Logger
	gate, grace  time.Duration
	canary       time.Duration
	now          func() time.Time
	controlPlane *core.ControlPlane
	metrics      *metrics

	mu          sync.RWMutex
	collections map[string]*collection
	retired     map[string]*collection // removed, with proxies still connected
}

// New makes a server that knows no collection yet and refuses everybody.
func New(o Options) *Server {
	s := &Server{
		guard: o.Guard, log: o.Logger, gate: o.Gate, grace: o.Grace, canary: o.Canary, now: time.Now,
		metrics:     newMetrics(),
		collections: make(map[string]*collection),
		retired:     make(map[string]*collection),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.gate <= 0 {
		s.gate = 2 * time.Second
	}
	if s.grace <= 0 {
		s.grace = 15 * time.Second
	}
	s.grace = max(s.grace, 2*s.gate)
	if s.canary == 0 {
		s.canary = 3 * time.Second
	}
	if o.Identifier != "" {
		s.controlPlane = &core.ControlPlane{Identifier: o.Identifier}
	}
	return s
}

// SetCollections says which collections there are. A new one is silent until its first
// Publish. A removed one refuses new streams; the proxies that are connected stay as they
// are, with what they have. One that comes back begins anew: its first Publish must hold
// everything, and proxies that are still connected are then asked to connect again.
func (s *Server) SetCollections(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, k := range s.collections {
		if slices.Contains(names, name) {
			continue
		}
		delete(s.collections, name)
		k.mu.Lock()
		k.removed = true
		if len(k.streams) > 0 || k.before != nil {
			s.retired[name] = k
		}
		k.mu.Unlock()
		s.metrics.forget(name)
	}
	for _, name := range names {
		if s.collections[name] == nil {
			k := newCollection(name, s)
			k.before = s.retired[name]
			delete(s.retired, name)
			s.collections[name] = k
		}
	}
}

// Publish applies what changed in a collection. Changed endpoints are on their way to every
// connected proxy when Publish returns, and everything else to its canary (canary.go), or
// to every proxy if there is none. It costs the changes plus a little for each
// stream, whatever the size of the collection. Resources that are the same as before are
// no change. On an error nothing was applied.
//
// The first Publish of a collection opens it to its proxies; an empty one says that the
// collection really is empty, and takes everything from proxies that have something.
func (s *Server) Publish(d translate.Delta) error {
	k := s.collection(d.Collection)
	if k == nil {
		return fmt.Errorf("publishing to collection %q: there is no such collection", d.Collection)
	}
	k.publishing.Lock()
	defer k.publishing.Unlock()
	edits, err := encodeAll(d.Changes)
	if err != nil {
		return fmt.Errorf("publishing to collection %q: %w", d.Collection, err)
	}
	if idle := k.publish(k.pass(k.complete(edits)), s.now()); len(idle) > 0 {
		s.log.Warn("secrets that nothing refers to are not served", "collection", k.name, "secrets", summarize(idle))
	}
	return nil
}

// Snapshot is what a collection is served now, or as soon as a canary has taken it, by kind
// and name: the versions. It is nil
// if there is no such collection or nothing has been published to it.
func (s *Server) Snapshot(name string) map[translate.Kind]map[string]string {
	k := s.collection(name)
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.open {
		return nil
	}
	out := make(map[translate.Kind]map[string]string, translate.NumKinds)
	views := k.views()
	v := views[len(views)-1]
	for kind := range v.tables {
		versions := make(map[string]string, len(v.tables[kind].live))
		for name, it := range v.tables[kind].live {
			versions[name] = it.version
		}
		out[translate.Kind(kind)] = versions
	}
	return out
}

func (s *Server) collection(name string) *collection {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.collections[name]
}

// all is every collection that has something to tell, the configured ones first.
func (s *Server) all() []*collection {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*collection, 0, len(s.collections)+len(s.retired))
	for _, k := range s.collections {
		out = append(out, k)
	}
	for _, k := range s.retired {
		out = append(out, k)
	}
	return out
}

// left drops a removed collection when its last proxy has gone.
func (s *Server) left(k *collection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired[k.name] != k {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.streams) == 0 {
		delete(s.retired, k.name)
	}
}

// panicked reports a panic that was caught at the edge of a stream.
func (s *Server) panicked(p any, stack []byte) error {
	s.log.Error("a stream failed; this is a bug in Waggle", "panic", fmt.Sprint(p), "stack", string(stack))
	return status.Error(codes.Internal, "the control plane failed on this stream; connect again")
}
