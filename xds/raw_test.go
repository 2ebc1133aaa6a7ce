package xds

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate"
)

// raw is a delta ADS stream by hand, for what a well-behaved client never does.
type raw struct {
	t      testing.TB
	node   string
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	in     chan *discovery.DeltaDiscoveryResponse
	err    error // valid once in is closed
	probes int
	last   *discovery.DeltaDiscoveryResponse
}

// dial connects in plaintext, or as the options say.
func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(addr, append(slices.Clone(opts), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func openRaw(t testing.TB, addr, node string, opts ...grpc.DialOption) *raw {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(dial(t, addr, opts...)).DeltaAggregatedResources(ctx)
	require.NoError(t, err)
	c := &raw{t: t, node: node, stream: stream, in: make(chan *discovery.DeltaDiscoveryResponse, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.in)
		for {
			m, err := stream.Recv()
			if err != nil {
				c.err = err
				return
			}
			c.in <- m
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func (c *raw) send(r *discovery.DeltaDiscoveryRequest) {
	if c.node != "" {
		r.Node = &corev3.Node{Id: c.node}
		c.node = ""
	}
	_ = c.stream.Send(r) // an error is seen by whoever receives
}

func (c *raw) ask(kind translate.Kind, names ...string) {
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: kind.TypeURL(), ResourceNamesSubscribe: names})
}

func (c *raw) leave(kind translate.Kind, names ...string) {
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: kind.TypeURL(), ResourceNamesUnsubscribe: names})
}

// resume is the first request of a kind on a reconnect.
func (c *raw) resume(kind translate.Kind, names []string, versions map[string]string) {
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: kind.TypeURL(), ResourceNamesSubscribe: names, InitialResourceVersions: versions})
}

func (c *raw) ack(m *discovery.DeltaDiscoveryResponse) {
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()})
}

func (c *raw) nack(m *discovery.DeltaDiscoveryResponse, why string) {
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.Internal), Message: why},
	})
}

func (c *raw) next() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case m, ok := <-c.in:
		require.True(c.t, ok, "the stream ended: %v", c.err)
		return m
	case <-time.After(patience):
		require.FailNow(c.t, "no message")
		return nil
	}
}

// nextOf is the next message, which must be of the kind and bring exactly these names.
func (c *raw) nextOf(kind translate.Kind, names ...string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	m := c.next()
	require.Equal(c.t, kind.TypeURL(), m.GetTypeUrl(), "resources %v, removed %v", resourceNames(m), m.GetRemovedResources())
	require.ElementsMatch(c.t, names, resourceNames(m))
	return m
}

// nextGone is the next message, which must take exactly these names.
func (c *raw) nextGone(kind translate.Kind, names ...string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	m := c.next()
	require.Equal(c.t, kind.TypeURL(), m.GetTypeUrl(), "resources %v, removed %v", resourceNames(m), m.GetRemovedResources())
	require.Empty(c.t, m.GetResources())
	require.ElementsMatch(c.t, names, m.GetRemovedResources())
	return m
}

// expectNothing shows that nothing is on its way: a question that is answered at once,
// behind everything else, is the next thing that comes back.
func (c *raw) expectNothing() {
	c.t.Helper()
	const probe = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
	c.probes++
	name := "probe" + strings.Repeat("!", c.probes)
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: probe, ResourceNamesSubscribe: []string{name}})
	m := c.next()
	require.Equal(c.t, probe, m.GetTypeUrl(), "unexpected: resources %v, removed %v", resourceNames(m), m.GetRemovedResources())
	require.Equal(c.t, []string{name}, m.GetRemovedResources())
}

// end waits for the end of the stream and says why.
func (c *raw) end() error {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-c.in:
			if !ok {
				return c.err
			}
		case <-deadline:
			require.FailNow(c.t, "the stream does not end")
		}
	}
}

// rest is what else comes before the stream ends.
func (c *raw) rest() (all []*discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case m, ok := <-c.in:
			if !ok {
				return all
			}
			all = append(all, m)
		case <-deadline:
			require.FailNow(c.t, "the stream does not end")
		}
	}
}

func resourceNames(m *discovery.DeltaDiscoveryResponse) []string {
	names := []string{}
	for _, r := range m.GetResources() {
		names = append(names, r.GetName())
	}
	return names
}

func statusCode(err error) string { return status.Code(err).String() }

func requireStatus(t testing.TB, err error, code, sentence string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, code, status.Code(err).String(), err)
	require.Contains(t, status.Convert(err).Message(), sentence)
}

func encodeForTest(r *translate.Resource) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
}

func newListener(t testing.TB) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return lis
}

// listenAgain takes the address of a server that has just stopped.
func listenAgain(addr string) (lis net.Listener, err error) {
	for range 200 {
		if lis, err = net.Listen("tcp", addr); err == nil {
			return lis, nil
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil, err
}
