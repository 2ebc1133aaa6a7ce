package xds

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate"
)

// stream is one Envoy's delta ADS stream. It is the watcher behind go-control-plane's
// delta server for this stream alone, so it needs no table of nodes, and it is all that
// Waggle remembers about a proxy: when the stream ends it is gone.
//
// Two goroutines are the stream's own: the receiver (Recv, identity) and the server's
// loop (CreateDeltaWatch, Send). The others come from Publish and from the timer.
// Everything below k is guarded by the collection's lock.
type stream struct {
	server *Server
	ctx    context.Context // ends with the stream; its cause is the answer to the proxy
	cancel context.CancelCauseFunc
	peer   string

	// Set by the first message, before anything else sees the stream; mu keeps it from
	// happening after the stream has ended.
	mu    sync.Mutex
	ended bool
	k     *collection
	proxy proxyID
	since time.Time

	// Of the server's loop alone: the response that Send is about to write, and the types
	// that were asked for and are not served.
	outgoing *response
	strange  map[string]struct{}

	closed    bool
	out       chan cache.DeltaResponse
	view      *view // the collection's, or a canary's own
	subs      [translate.NumKinds]sub
	timer     *time.Timer
	strangers strangers

	// resuming: the proxy came with resources from an earlier stream, so one of its
	// listeners or routes may use anything until it has told us which it has.
	resuming bool
	reports  bool // the same, for good
	// awaited are the clusters sent whose endpoints have not followed yet; awaitAll
	// stands for all of them while a fresh proxy has not asked for any endpoints.
	awaited  map[string]struct{}
	awaitAll bool
	// heldSince is when listeners or routes that are due began to wait for clusters.
	heldSince time.Time
	noCDS     bool // they waited long enough for a proxy that asks for no clusters
}

// sub is what a stream has of one kind.
type sub struct {
	active bool // the proxy asked for this kind
	open   bool // watch may be read; false while the server changes it
	watch  cache.Subscription
	wide   bool // wildcard, as of the newest request

	first bool              // not answered yet
	known map[string]string // until then: what the proxy says it has, name → version

	add, rem uint64              // cursors: additions and removals up to these are sent
	want     map[string]struct{} // to be sent whatever their version
	absent   []string            // asked for and not there: answered as removed at once
	late     map[string]struct{} // the proxy has them from before and the collection has not
	lateSeq  uint64              // of the collection when late was found
	lateAt   time.Time
	inflight []*response      // sent, not acknowledged
	sentAt   time.Time        // of the newest of them
	settled  uint64           // while not clean: everything up to this seq is acknowledged
	doubts   map[string]doubt // what was in rejected responses and not acknowledged since
	retry    [][]string       // parts of a rejected response, to be tried by themselves
	retried  bool             // the newest response was such a part: new changes go first now
	dueSince time.Time        // when the oldest unsent change became due

	sent, acked string // versions of the table, for status
	count       int    // resources sent, the same
	nack        *NACK
}

// doubt is a version of a resource that a proxy may or may not have applied.
type doubt struct {
	version string
	alone   bool // rejected when it was sent by itself: not sent again in this version
}

// response is one DeltaDiscoveryResponse on its way.
type response struct {
	st      *stream
	kind    translate.Kind
	version string
	frame   *frame // nil: no resources
	removed []string
	due     time.Time
	waived  bool // listeners and routes no longer wait for its acknowledgement
	// message is the stream's own object: the server writes the nonce into it.
	message *discovery.DeltaDiscoveryResponse
}

// watchRequests are what the delta server wants to know of the request that a response
// answers: its type.
var watchRequests = func() (r [translate.NumKinds]*cache.DeltaRequest) {
	for kind := range r {
		r[kind] = &cache.DeltaRequest{TypeUrl: translate.Kind(kind).TypeURL()}
	}
	return r
}()

// Reasons why a stream is ended from this side. Envoy comes again in each case.
var (
	errStopping = status.Error(codes.Unavailable, "the control plane is stopping")
	errMoved    = status.Error(codes.Unavailable, "the collection has been configured anew; connect again")
	errStuck    = status.Error(codes.Unavailable, "the proxy takes no updates; connect again")
)

// end ends the stream with a status. It never blocks.
func (st *stream) end(why error) { st.cancel(why) }

// CreateDeltaWatch is the delta server's way to hand on a request: it is called for
// every request of the proxy, in order, after everything sent before has been written.
// The subscription may be read until the cancel function has been called.
func (st *stream) CreateDeltaWatch(req *cache.DeltaRequest, watch cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	kind, ok := translate.KindOf(req.GetTypeUrl())
	if !ok {
		return nil, st.answerUnknown(req, watch, out)
	}
	now := st.server.now()
	k := st.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if st.closed {
		return nil, status.Error(codes.Unavailable, "the stream has ended")
	}
	s := &st.subs[kind]
	st.out = out
	st.acknowledge(kind, req, now)
	wide := watch.IsWildcard() && (kind == translate.Cluster || kind == translate.Listener)
	s.watch = watch
	if !s.active {
		s.known = req.GetInitialResourceVersions()
	}
	switch {
	case !s.active:
		s.active, s.first = true, true
		if len(s.known) > 0 {
			st.resuming, st.reports = true, true
		}
	case wide && !s.wide:
		s.first = true // everything is asked for now
	default:
		st.ask(kind, req.GetResourceNamesSubscribe(), s.wide && wide, req.GetResourceNamesUnsubscribe())
	}
	if err := st.meet(kind, req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe()); err != nil {
		return nil, err
	}
	s.wide, s.open = wide, true
	st.pump(now)
	k.conclude(now)
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		s.open = false
	}, nil
}

// CreateWatch is the state-of-the-world half of the watcher's interface.
func (st *stream) CreateWatch(*cache.Request, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, errDeltaOnly
}

// ask notes names that a request on a running stream subscribes to or leaves. A name
// that is asked for is always answered, whatever the proxy had: it may have dropped it.
func (st *stream) ask(kind translate.Kind, subscribe []string, wildcard bool, unsubscribe []string) {
	s := &st.subs[kind]
	for _, name := range subscribe {
		if name != "*" {
			s.wants(name)
		}
	}
	for _, name := range unsubscribe {
		if name == "*" {
			continue
		}
		if wildcard {
			// A name left by a stream that has everything is answered like one asked for.
			s.wants(name)
			continue
		}
		delete(s.want, name)
		delete(s.doubts, name)
		delete(s.late, name)
		if kind == translate.Endpoints {
			delete(st.awaited, name)
		}
	}
}

func (s *sub) wants(name string) {
	if s.want == nil {
		s.want = make(map[string]struct{})
	}
	s.want[name] = struct{}{}
}

// acknowledge takes the ACK or NACK in a request, if there is one. A NACK may name
// nothing and may have applied a part, so what was in the response counts as unknown.
func (st *stream) acknowledge(kind translate.Kind, req *cache.DeltaRequest, now time.Time) {
	s := &st.subs[kind]
	nonce := req.GetResponseNonce()
	i := slices.IndexFunc(s.inflight, func(r *response) bool { return r.message.GetNonce() == nonce })
	if nonce == "" || i < 0 {
		return
	}
	r := s.inflight[i]
	s.inflight = slices.Delete(s.inflight, i, i+1)
	if detail := req.GetErrorDetail(); detail != nil {
		st.reject(kind, r, detail.GetMessage(), now)
	} else {
		if r.frame != nil {
			for _, e := range r.frame.entries {
				e.acked = true
				delete(s.doubts, e.name)
			}
		}
		s.acked = r.version
		if !r.due.IsZero() {
			st.server.metrics.ackLatency.WithLabelValues(kind.String()).Observe(now.Sub(r.due).Seconds())
		}
	}
}

// reject deals with a NACK. Which resource is at fault is found by the names in it, else by
// halves: each part is sent once more by itself, so the good ones arrive, and the bad ones,
// when they stand alone, are not sent again in this version. That ends after 2·log₂(n)
// responses for each bad one.
func (st *stream) reject(kind translate.Kind, r *response, message string, now time.Time) {
	s := &st.subs[kind]
	t := &st.view.tables[kind]
	nack := &NACK{At: now, Message: redact(kind, message), Version: r.version}
	if r.frame != nil {
		if s.doubts == nil {
			s.doubts = make(map[string]doubt)
		}
		var again []string
		for _, e := range r.frame.entries {
			nack.Resources = append(nack.Resources, e.name)
			s.doubts[e.name] = doubt{e.version, len(r.frame.entries) == 1}
			if kind == translate.Cluster {
				delete(st.awaited, e.name)
			}
			if it, ok := t.live[e.name]; ok && it.version == e.version {
				again = append(again, e.name)
			}
		}
		named, rest := accused(kind, message, again)
		switch n := len(again); {
		case n > 1 && len(named) > 0:
			s.retry = append(s.retry, rest)
			for _, name := range named {
				s.retry = append(s.retry, []string{name})
			}
		case n > 1:
			s.retry = append(s.retry, again[:n/2:n/2], again[n/2:])
		case n == 1 && len(r.frame.entries) > 1:
			s.retry = append(s.retry, again)
		}
	}
	if (kind == translate.Listener || kind == translate.Cluster) && len(r.removed) > 0 && r.frame != nil {
		// Whether they went depends on what was wrong; dropping one twice is fine.
		s.missed(r.removed, 0, now)
	}
	s.nack = nack
	st.server.metrics.nacks.WithLabelValues(st.k.name, kind.String()).Inc()
	st.server.log.Warn("proxy rejected resources", "collection", st.k.name, "node", st.proxy.nodeID,
		"kind", kind.String(), "resources", summarize(nack.Resources), "reason", nack.Message)
	if r.frame != nil && len(r.frame.entries) == 1 {
		st.k.judge(kind, r.frame.entries[0], nack.Message)
	}
}

// accused splits names into those that a rejection names and the rest. Envoy names what it
// rejects among clusters and listeners alone.
func accused(kind translate.Kind, message string, names []string) (named, rest []string) {
	prefix := map[translate.Kind]string{
		translate.Cluster:  "Error adding/updating cluster(s) ",
		translate.Listener: "Error adding/updating listener(s) ",
	}[kind]
	list, ok := strings.CutPrefix(message, prefix)
	if !ok || prefix == "" {
		return nil, names
	}
	for _, name := range names {
		if start := name + ": "; strings.HasPrefix(list, start) || strings.Contains(list, ", "+start) || strings.Contains(list, "\n"+start) {
			named = append(named, name)
		} else {
			rest = append(rest, name)
		}
	}
	return named, rest
}

// missed notes names that the proxy has and the collection has not.
func (s *sub) missed(names []string, seq uint64, now time.Time) {
	if s.late == nil {
		s.late = make(map[string]struct{})
	}
	for _, name := range names {
		s.late[name] = struct{}{}
	}
	s.lateSeq, s.lateAt = max(s.lateSeq, seq, 1), now
}

// clean says that the proxy acknowledged everything it was sent of this kind.
func (s *sub) clean() bool {
	return len(s.inflight) == 0 && len(s.doubts) == 0
}

// mark is called before anything of the kind is sent: it keeps what was settled by then.
func (s *sub) mark() {
	if s.clean() {
		s.settled = min(s.add, s.rem)
	}
}

// bad says that the proxy rejected exactly this when it came by itself.
func (s *sub) bad(e *entry) bool {
	d := s.doubts[e.name]
	return d.alone && d.version == e.version
}

// subscribed says whether the proxy asked for a name; only while the watch is open.
func (s *sub) subscribed(name string) bool {
	if s.wide {
		return true
	}
	_, ok := s.watch.SubscribedResources()[name]
	return ok
}

// send hands a response to the server's loop. The caller saw that there is room.
func (st *stream) send(kind translate.Kind, f *frame, removed []string, now time.Time) {
	s := &st.subs[kind]
	if f != nil && len(f.entries) == 0 {
		f = nil
	}
	for _, name := range removed {
		delete(s.doubts, name)
	}
	slices.Sort(removed)
	removed = slices.Compact(removed)
	r := &response{st: st, kind: kind, version: st.view.tables[kind].version(), frame: f, removed: removed, due: s.dueSince}
	if f != nil {
		s.count += len(f.entries)
		if len(s.late) > 0 {
			for _, e := range f.entries { // it is back; should it go again, it goes in its own time
				delete(s.late, e.name)
			}
		}
	}
	s.inflight = append(s.inflight, r)
	s.sentAt, s.sent, s.dueSince = now, r.version, time.Time{}
	st.out <- r
}

// answerUnknown answers a type that Waggle does not serve (RTDS, VHDS …): nothing of
// it is there. An error would end the stream and everything else on it.
func (st *stream) answerUnknown(req *cache.DeltaRequest, watch cache.Subscription, out chan cache.DeltaResponse) error {
	if err := st.meetType(req.GetTypeUrl(), watch.SubscribedResources()); err != nil {
		return err
	}
	if req.GetResponseNonce() != "" && len(req.GetResourceNamesSubscribe()) == 0 {
		return nil
	}
	if len(out) == cap(out) {
		return nil
	}
	out <- &cache.DeltaPassthroughResponse{
		DeltaRequest:   &cache.DeltaRequest{TypeUrl: req.GetTypeUrl()},
		NextVersionMap: map[string]string{},
		DeltaDiscoveryResponse: &discovery.DeltaDiscoveryResponse{
			TypeUrl:          req.GetTypeUrl(),
			RemovedResources: slices.DeleteFunc(slices.Clone(req.GetResourceNamesSubscribe()), func(n string) bool { return n == "*" }),
		},
	}
	return nil
}

// GetDeltaDiscoveryResponse gives the server the head of the response, to put a nonce in
// and hand to Send, which adds the resources.
func (r *response) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	r.message = &discovery.DeltaDiscoveryResponse{
		TypeUrl:           r.kind.TypeURL(),
		SystemVersionInfo: r.version,
		RemovedResources:  r.removed,
		ControlPlane:      r.st.server.controlPlane,
	}
	r.st.outgoing = r
	return r.message, nil
}

// GetDeltaRequest is part of cache.DeltaResponse.
func (r *response) GetDeltaRequest() *cache.DeltaRequest { return watchRequests[r.kind] }

// GetSystemVersion is part of cache.DeltaResponse.
func (r *response) GetSystemVersion() (string, error) { return r.version, nil }

// GetResponseVersion is part of cache.DeltaResponse.
func (r *response) GetResponseVersion() string { return r.version }

// GetNextVersionMap is part of cache.DeltaResponse.
func (r *response) GetNextVersionMap() map[string]string { return r.GetReturnedResources() }

// GetReturnedResources is part of cache.DeltaResponse. What a proxy has is in the
// cursors; the server writes into this map, so it is the stream's own.
func (r *response) GetReturnedResources() map[string]string { return map[string]string{} }

// GetContext is part of cache.DeltaResponse.
func (r *response) GetContext() context.Context { return r.st.ctx }

// transport is the gRPC stream as the delta server sees it: identity is checked on
// every message that comes in, and what goes out is put together from shared bytes.
type transport struct {
	discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	st *stream
}

// Recv gives the next request of a proxy whose identity has been established.
func (t transport) Recv() (req *discovery.DeltaDiscoveryRequest, err error) {
	defer func() { // the delta server receives in a goroutine of its own
		if p := recover(); p != nil {
			req, err = nil, t.st.server.panicked(p, debug.Stack())
			t.st.end(err)
		}
	}()
	if req, err = t.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Recv(); err != nil {
		return nil, err
	}
	if err = t.st.identify(req.GetNode()); err != nil {
		t.st.end(err)
		return nil, err
	}
	req.Node = nil // 60 kB of extension names, not needed again
	if kind, ok := translate.KindOf(req.GetTypeUrl()); ok {
		t.st.k.intern(kind, req.GetResourceNamesSubscribe())
	}
	return req, nil
}

// identify takes the proxy's identity from the first message, freezes it and lets later
// messages only repeat it. Nothing is remembered of a proxy that is refused.
func (st *stream) identify(node *core.Node) error {
	if st.k != nil { // only this goroutine sets it
		if id := node.GetId(); node != nil && id != st.proxy.nodeID {
			return status.Errorf(codes.InvalidArgument,
				"the node ID changed from %q to %q on one stream; a proxy that changes its collection must connect again", st.proxy.nodeID, clip(id))
		}
		return nil
	}
	id, err := identify(st.ctx, node)
	if err != nil {
		return err
	}
	k := st.server.collection(id.collection)
	if k == nil {
		return unknownCollection(id)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return errStopping
	}
	st.proxy, st.since, st.k = id, st.server.now(), k
	if !k.attach(st) { // from here on a Publish may see the stream
		st.k = nil
		return unknownCollection(id)
	}
	return nil
}

// close forgets the stream.
func (st *stream) close() {
	st.mu.Lock()
	st.ended = true
	k := st.k
	st.mu.Unlock()
	if k != nil {
		k.detach(st)
		st.server.left(k)
	}
}

// Send writes a response: its head, then the shared bytes of the resources.
func (t transport) Send(m *discovery.DeltaDiscoveryResponse) error {
	r := t.st.outgoing
	if r == nil || r.message != m {
		return t.SendMsg(m) // an answer for a type that is not served
	}
	t.st.outgoing = nil
	head, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("marshalling a response: %w", err)
	}
	out := &encodedResponse{head: head}
	if r.frame != nil {
		out.pieces = r.frame.pieces
	}
	return t.SendMsg(out)
}

func sortedKeys(m map[string]struct{}) []string { return slices.Sorted(maps.Keys(m)) }
