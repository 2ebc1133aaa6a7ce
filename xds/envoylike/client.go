package envoylike

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// Options are how a client behaves.
type Options struct {
	// Node is the node ID.
	Node string
	// Delay is waited before each message is taken; nil: none.
	Delay func() time.Duration
	// Reject makes the client reject a resource; the text is its reason, "" accepts it.
	Reject func(kind translate.Kind, name, version string) string
	// Examine is Reject for whoever wants to see the resource; both may be set.
	Examine func(kind translate.Kind, r *discovery.Resource) string
	// Mute makes the client apply messages of a kind without ever acknowledging them.
	Mute func(kind translate.Kind) bool
	// AnyEndpoints does not count it as a fault when routes name a cluster before its
	// endpoints have come.
	AnyEndpoints bool
	// Dial are further gRPC options; without any the connection is plaintext.
	Dial []grpc.DialOption
}

// Client is one Envoy. It keeps what it has between connections.
type Client struct {
	opts Options

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever something below changes

	kinds     [translate.NumKinds]kindState
	clusters  map[string]*cluster
	listeners map[string]refs
	tables    map[string][]string // route table → clusters
	users     map[string]int      // cluster → how many tables and listeners name it
	heldACKs  []*discovery.DeltaDiscoveryRequest
	live      bool // all clusters of the first response were warm once: listeners are asked for
	faults    []string
	received  [translate.NumKinds]int
	removals  [translate.NumKinds]int
	messages  int
	nacks     int
	connected bool
	streams   int
}

type kindState struct {
	asked map[string]struct{} // by-name subscription
	have  map[string]*discovery.Resource
	acked map[string]string // versions of the last acknowledged responses
	begun bool              // asked for on this stream
	heard bool              // and answered
}

type cluster struct {
	eds    string // the name its endpoints come under; "" if not by EDS
	warm   bool   // the newest version has its endpoints
	active bool   // some version had them
}

// New makes a client that has nothing.
func New(o Options) *Client {
	c := &Client{
		opts: o, changed: make(chan struct{}),
		clusters: map[string]*cluster{}, listeners: map[string]refs{},
		tables: map[string][]string{}, users: map[string]int{},
	}
	for i := range c.kinds {
		k := &c.kinds[i]
		k.asked, k.have, k.acked = map[string]struct{}{}, map[string]*discovery.Resource{}, map[string]string{}
	}
	return c
}

// Run connects once and follows the stream until it ends or ctx is done; it returns why.
// A later Run is a reconnect: it lists what the client has.
func (c *Client) Run(ctx context.Context, target string) error {
	opts := c.opts.Dial
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(target, append(opts, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))...)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", target, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return fmt.Errorf("opening a stream to %s: %w", target, err)
	}
	if err := c.begin(s); err != nil {
		return err
	}
	defer c.update(func() { c.connected = false })
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if c.opts.Delay != nil {
			if d := c.opts.Delay(); d > 0 {
				t := time.NewTimer(d)
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					return ctx.Err()
				}
			}
		}
		var out []*discovery.DeltaDiscoveryRequest
		c.update(func() { out = c.take(m) })
		for _, r := range out {
			if err := s.Send(r); err != nil {
				break // Recv says why
			}
		}
	}
}

// order is the order in which Envoy asks for kinds when it connects again.
var order = []translate.Kind{translate.Cluster, translate.Endpoints, translate.Listener, translate.Routes, translate.Secret, translate.Extension}

// begin sends the first requests of a stream.
func (c *Client) begin(s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) error {
	var out []*discovery.DeltaDiscoveryRequest
	c.update(func() {
		c.connected = true
		c.streams++
		c.heldACKs = nil
		for i := range c.kinds {
			c.kinds[i].begun, c.kinds[i].heard = false, false
		}
		for _, cl := range c.clusters {
			// What was warming when the stream broke takes the endpoints that it had
			// before, after its initial_fetch_timeout; here at once.
			if c.kinds[translate.Endpoints].have[cl.eds] != nil {
				cl.warm, cl.active = true, true
			}
		}
		out = append(out, c.first(translate.Cluster))
		for _, kind := range order[1:] {
			if c.kinds[kind].wants(kind, c.live) {
				out = append(out, c.first(kind))
			}
		}
	})
	out[0].Node = &core.Node{
		Id: c.opts.Node, UserAgentName: "envoy",
		UserAgentVersionType: &core.Node_UserAgentBuildVersion{UserAgentBuildVersion: &core.BuildVersion{
			Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
		}},
	}
	for _, r := range out {
		if err := s.Send(r); err != nil {
			_, err = s.Recv()
			return err
		}
	}
	return nil
}

func (k *kindState) wants(kind translate.Kind, live bool) bool {
	switch kind {
	case translate.Cluster:
		return true
	case translate.Listener:
		return live
	}
	return len(k.asked) > 0
}

func (c *Client) first(kind translate.Kind) *discovery.DeltaDiscoveryRequest {
	k := &c.kinds[kind]
	k.begun = true
	return &discovery.DeltaDiscoveryRequest{
		TypeUrl:                 kind.TypeURL(),
		ResourceNamesSubscribe:  slices.Sorted(maps.Keys(k.asked)),
		InitialResourceVersions: maps.Clone(k.acked),
	}
}

// take applies one message and returns what is to be sent back.
func (c *Client) take(m *discovery.DeltaDiscoveryResponse) []*discovery.DeltaDiscoveryRequest {
	kind, ok := translate.KindOf(m.GetTypeUrl())
	if !ok {
		return nil // Envoy ignores types it did not ask for
	}
	c.messages++
	c.kinds[kind].heard = true
	c.received[kind] += len(m.GetResources())
	c.removals[kind] += len(m.GetRemovedResources())
	ack := &discovery.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()}
	good, removed := m.GetResources(), m.GetRemovedResources()
	if i, why := c.rejected(kind, good); why != "" {
		c.nacks++
		ack.ErrorDetail = &status.Status{Code: int32(codes.Internal), Message: why}
		switch kind {
		case translate.Cluster, translate.Listener:
			good = slices.DeleteFunc(slices.Clone(good), func(r *discovery.Resource) bool {
				return c.rejects(kind, r) != ""
			})
		default:
			good, removed = good[:i], nil
		}
	}
	ask := newAsks()
	switch kind {
	case translate.Cluster:
		c.takeClusters(good, removed, ask)
	case translate.Endpoints:
		c.takeEndpoints(good, removed)
	case translate.Listener:
		c.takeListeners(good, removed, ask)
	case translate.Routes:
		c.takeRoutes(good, removed)
	default:
		c.takeNamed(kind, good, removed)
	}
	k := &c.kinds[kind]
	if ack.ErrorDetail == nil {
		for _, r := range good {
			if k.have[r.GetName()] == r { // and not a stranger, of which Envoy remembers nothing
				k.acked[r.GetName()] = r.GetVersion()
			}
		}
		for _, name := range removed {
			delete(k.acked, name)
		}
	}
	return c.answer(kind, ack, ask)
}

func (c *Client) rejected(kind translate.Kind, resources []*discovery.Resource) (int, string) {
	for i, r := range resources {
		if why := c.rejects(kind, r); why != "" {
			return i, why
		}
	}
	return 0, ""
}

func (c *Client) rejects(kind translate.Kind, r *discovery.Resource) (why string) {
	if c.opts.Reject != nil {
		why = c.opts.Reject(kind, r.GetName(), r.GetVersion())
	}
	if why == "" && c.opts.Examine != nil {
		why = c.opts.Examine(kind, r)
	}
	return why
}

// answer puts what is sent after a message into Envoy's order: subscriptions that follow
// from it, then its acknowledgement; that of clusters only when they are warm.
func (c *Client) answer(kind translate.Kind, ack *discovery.DeltaDiscoveryRequest, ask *asks) []*discovery.DeltaDiscoveryRequest {
	var out []*discovery.DeltaDiscoveryRequest
	for _, kind := range order {
		if r := c.subscribe(kind, ask); r != nil {
			out = append(out, r)
		}
	}
	warm := true
	for _, cl := range c.clusters {
		warm = warm && cl.warm
	}
	mute := c.opts.Mute != nil && c.opts.Mute(kind)
	switch {
	case mute:
	case kind == translate.Cluster && c.live && !warm:
		c.heldACKs = append(c.heldACKs, ack)
	default:
		out = append(out, ack)
	}
	if warm {
		out = append(out, c.heldACKs...)
		c.heldACKs = nil
		if !c.live {
			c.live = true
			out = append(out, c.first(translate.Listener))
		}
	}
	return out
}

// subscribe turns what a message brought and took into a change of subscription.
func (c *Client) subscribe(kind translate.Kind, ask *asks) *discovery.DeltaDiscoveryRequest {
	k := &c.kinds[kind]
	var add, drop []string
	for _, name := range slices.Sorted(maps.Keys(ask.add[kind])) {
		if _, has := k.asked[name]; !has {
			k.asked[name] = struct{}{}
			add = append(add, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ask.drop[kind])) {
		if _, again := ask.add[kind][name]; again {
			continue
		}
		if _, has := k.asked[name]; has {
			delete(k.asked, name)
			delete(k.have, name)
			delete(k.acked, name)
			if kind == translate.Routes {
				c.setTable(name, nil)
			}
			drop = append(drop, name)
		}
	}
	switch {
	case len(add)+len(drop) == 0:
		return nil
	case !k.begun:
		return c.first(kind)
	}
	return &discovery.DeltaDiscoveryRequest{
		TypeUrl: kind.TypeURL(), ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop,
	}
}

// asks are names to subscribe to and to leave, by kind.
type asks struct {
	add, drop [translate.NumKinds]map[string]struct{}
}

func newAsks() *asks {
	a := &asks{}
	for i := range a.add {
		a.add[i], a.drop[i] = map[string]struct{}{}, map[string]struct{}{}
	}
	return a
}

// update changes the state and wakes whoever waits for it.
func (c *Client) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) fault(format string, args ...any) {
	if len(c.faults) < 100 {
		c.faults = append(c.faults, fmt.Sprintf(format, args...))
	}
}

func unpack(a *anypb.Any) (message, error) { return a.UnmarshalNew() }
