package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusters "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const patience = 20 * time.Second

// service is a server that answers everything it is asked, and counts that.
type service struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	clusters.UnimplementedClusterDiscoveryServiceServer
	addr   string
	served atomic.Int64 // messages that a handler saw
	deaf   bool         // it makes nothing of errors
}

func (s *service) StreamAggregatedResources(g discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return echo(s, g.Context(), g.Recv, g.Send, &discovery.DiscoveryResponse{})
}

func (s *service) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return echo(s, g.Context(), g.Recv, g.Send, &discovery.DeltaDiscoveryResponse{})
}

func (s *service) StreamClusters(g clusters.ClusterDiscoveryService_StreamClustersServer) error {
	return echo(s, g.Context(), g.Recv, g.Send, &discovery.DiscoveryResponse{})
}

func (s *service) FetchClusters(ctx context.Context, _ *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	s.served.Add(1)
	_, err := FromContext(ctx)
	return &discovery.DiscoveryResponse{}, err
}

// echo answers every message. Like Waggle's own handler it ends with its context,
// wherever its receiver is stuck.
func echo[Q, R any](s *service, ctx context.Context, recv func() (Q, error), send func(R) error, answer R) error {
	if _, err := FromContext(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := recv(); err != nil {
				done <- err
				return
			}
			s.served.Add(1)
			if err := send(answer); err != nil {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if s.deaf || errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-ctx.Done():
		if s.deaf {
			return nil
		}
		return context.Cause(ctx)
	}
}

// serve runs a service behind a guard until the test ends.
func serve(t *testing.T, g *Guard) *service {
	t.Helper()
	s := &service{}
	opts := append(g.ServerOptions(), grpc.UnknownServiceHandler(func(_ any, g grpc.ServerStream) error {
		s.served.Add(1)
		return g.SendMsg(&discovery.DiscoveryResponse{})
	}))
	server := grpc.NewServer(opts...)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, s)
	clusters.RegisterClusterDiscoveryServiceServer(server, s)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(lis); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { g.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		server.Stop()
		wg.Wait()
	})
	return s
}

// guard is one that a test turns faster than production.
func guard(t *testing.T, f Files) *Guard {
	t.Helper()
	g, err := TLS(f, Options{Poll: 20 * time.Millisecond, Handshake: time.Second})
	require.NoError(t, err)
	return g
}

// client connects with what it has to show; nil: nothing, in TLS.
func client(t *testing.T, addr string, trusts *authority, shows *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "waggle"}
	cfg.RootCAs.AddCert(trusts.cert)
	// Go would keep a certificate of another authority to itself.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if shows == nil {
			return &tls.Certificate{}, nil
		}
		return shows, nil
	}
	return dial(t, addr, credentials.NewTLS(cfg))
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it
	return conn
}

// within bounds what a test waits for.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// rpcs are every kind of RPC: each sends a node ID and waits for an answer.
var rpcs = map[string]func(ctx context.Context, c *grpc.ClientConn, node string) error{
	"delta": func(ctx context.Context, c *grpc.ClientConn, node string) error {
		s, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
		if err != nil {
			return err
		}
		return ask(s.Send, s.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: node}})
	},
	"state of the world": func(ctx context.Context, c *grpc.ClientConn, node string) error {
		s, err := discovery.NewAggregatedDiscoveryServiceClient(c).StreamAggregatedResources(ctx)
		if err != nil {
			return err
		}
		return ask(s.Send, s.Recv, &discovery.DiscoveryRequest{Node: &core.Node{Id: node}})
	},
	"stream of one type": func(ctx context.Context, c *grpc.ClientConn, node string) error {
		s, err := clusters.NewClusterDiscoveryServiceClient(c).StreamClusters(ctx)
		if err != nil {
			return err
		}
		return ask(s.Send, s.Recv, &discovery.DiscoveryRequest{Node: &core.Node{Id: node}})
	},
	"unary": func(ctx context.Context, c *grpc.ClientConn, node string) error {
		_, err := clusters.NewClusterDiscoveryServiceClient(c).FetchClusters(ctx, &discovery.DiscoveryRequest{Node: &core.Node{Id: node}})
		return err
	},
}

func ask[Q, R any](send func(Q) error, recv func() (R, error), q Q) error {
	if err := send(q); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err := recv()
	return err
}

// unknown calls a service that nobody registered.
func unknown(ctx context.Context, c *grpc.ClientConn, _ string) error {
	return c.Invoke(ctx, "/no.such.Service/Call", &discovery.DiscoveryRequest{}, &discovery.DiscoveryResponse{})
}

func TestEveryRPCPassesTheGuard(t *testing.T) {
	a, foreign := newAuthority(t, "ours"), newAuthority(t, "theirs")
	f := a.files(server())
	ended, early := a.client(dev), a.client(dev)
	ended.NotAfter = time.Now().Add(-time.Second)
	early.NotBefore = time.Now().Add(time.Hour)
	strange, strangeKey := foreign.sign(a.client(dev))
	disguised := &tls.Certificate{Certificate: [][]byte{strange.Raw, a.cert.Raw}, PrivateKey: strangeKey}
	selfMade := (&authority{t: t}).pair(a.client(dev))

	all := maps.Clone(rpcs)
	all["unknown"] = unknown
	for name, tt := range map[string]struct {
		shows *tls.Certificate
		says  string // the server: what a client hears of a handshake depends on who writes first
	}{
		"no certificate":      {nil, "didn't provide a certificate"},
		"foreign":             {foreign.pair(a.client(dev)), "unknown authority"},
		"foreign in disguise": {disguised, "unknown authority"},
		"signed by itself":    {selfMade, "unknown authority"},
		"ended":               {a.pair(ended), "expired or is not yet valid"},
		"not yet valid":       {a.pair(early), "expired or is not yet valid"},
		"a server's":          {a.pair(server()), "incompatible key usage"},
	} {
		t.Run(name, func(t *testing.T) {
			g := guard(t, f)
			s := serve(t, g)
			for rpc, call := range all {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := call(ctx, client(t, s.addr, a, tt.shows), "dev")
				cancel()
				require.Equal(t, codes.Unavailable, status.Code(err), "%s: %v", rpc, err)
			}
			require.Eventually(t, func() bool { return g.Status().Refused >= uint64(len(all)) }, patience, 5*time.Millisecond)
			require.ErrorContains(t, g.Status().LastRefusal, tt.says)
			require.Zero(t, g.Status().Connections)
			require.Zero(t, s.served.Load(), "a handler was reached")
		})
	}
	g := guard(t, f)
	s := serve(t, g)
	clear := dial(t, s.addr, insecure.NewCredentials())
	lost := client(t, s.addr, a, a.pair(a.client("spiffe://waggle/node/1")))
	good := client(t, s.addr, a, a.pair(a.client(dev)))
	for rpc, call := range all {
		require.Equal(t, codes.Unavailable, status.Code(call(within(t), clear, "dev")), rpc)
		err := call(within(t), lost, "dev")
		require.Equal(t, codes.PermissionDenied, status.Code(err), rpc)
		require.ErrorContains(t, err, "speaks for no collection", rpc)
	}
	require.Zero(t, s.served.Load(), "a handler was reached")
	for rpc, call := range all {
		before := s.served.Load()
		require.NoError(t, call(within(t), good, "dev/1"), rpc)
		require.Equal(t, before+1, s.served.Load(), rpc)
	}
	served := s.served.Load()
	for rpc, call := range rpcs {
		for _, node := range []string{"prod", "prod/1", "", "dev2", "/dev"} {
			err := call(within(t), good, node)
			require.Equal(t, codes.PermissionDenied, status.Code(err), "%s %q", rpc, node)
			require.ErrorContains(t, err, "names another collection")
		}
	}
	require.Equal(t, served, s.served.Load(), "a handler saw the message of another collection")
}

func TestNodeIsCheckedInMidStream(t *testing.T) {
	a := newAuthority(t, "ours")
	s := serve(t, guard(t, a.files(server())))
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(client(t, s.addr, a, a.pair(a.client(dev)))).DeltaAggregatedResources(within(t))
	require.NoError(t, err)
	require.NoError(t, ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "dev/1"}}))
	require.NoError(t, ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{}), "later messages have no node")
	err = ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "prod/1"}})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.EqualValues(t, 2, s.served.Load())
}

// go-control-plane ends a stream without an error when it cannot receive: the client must
// hear why all the same.
func TestRefusalOutlivesItsHandler(t *testing.T) {
	a := newAuthority(t, "ours")
	s := serve(t, guard(t, a.files(server())))
	s.deaf = true
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(client(t, s.addr, a, a.pair(a.client(dev)))).DeltaAggregatedResources(within(t))
	require.NoError(t, err)
	err = ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "prod/1"}})
	require.Equal(t, codes.PermissionDenied, status.Code(err), err)
}

func TestInsecureBelieves(t *testing.T) {
	g := Insecure()
	s := serve(t, g)
	conn := dial(t, s.addr, insecure.NewCredentials())
	for rpc, call := range rpcs {
		require.NoError(t, call(within(t), conn, "prod/1"), rpc)
	}
	require.Equal(t, Status{Insecure: true}, g.Status())
}

func TestStreamsEndWithTheirCertificate(t *testing.T) {
	a := newAuthority(t, "ours")
	g, err := TLS(a.files(server()), Options{Poll: time.Hour}) // each connection's own timer does it
	require.NoError(t, err)
	s := serve(t, g)
	template := a.client(dev)
	template.NotAfter = time.Now().Add(3 * time.Second) // whole seconds: 2 to 3
	conn := client(t, s.addr, a, a.pair(template))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	require.NoError(t, err)
	require.NoError(t, ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "dev"}}))
	_, err = stream.Recv()
	require.Equal(t, codes.Unauthenticated, status.Code(err), err)
	require.ErrorContains(t, err, "the client certificate for dev ended at ")
	require.False(t, time.Now().Before(template.NotAfter.Truncate(time.Second)), "not before its time")

	served := s.served.Load()
	require.Equal(t, codes.Unauthenticated, status.Code(rpcs["unary"](ctx, conn, "dev")), "the same connection is worth nothing")
	require.Eventually(t, func() bool { return g.Status().Connections == 0 }, patience, 10*time.Millisecond,
		"the connection goes too, for a proxy that already has a new certificate")
	require.Equal(t, codes.Unavailable, status.Code(rpcs["unary"](ctx, conn, "dev")))
	require.Eventually(t, func() bool { return g.Status().Refused > 0 }, patience, 10*time.Millisecond)
	require.ErrorContains(t, g.Status().LastRefusal, "expired")
	require.Equal(t, served, s.served.Load())
}

// A machine that slept, or whose clock was set, does not keep what has ended meanwhile.
func TestConnectionsEndWhenTheClockJumps(t *testing.T) {
	a := newAuthority(t, "ours")
	var ahead atomic.Int64
	g, err := TLS(a.files(server()), Options{
		Poll: 10 * time.Millisecond, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	require.NoError(t, err)
	s := serve(t, g)
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(client(t, s.addr, a, a.pair(a.client(dev)))).DeltaAggregatedResources(within(t))
	require.NoError(t, err)
	require.NoError(t, ask(stream.Send, stream.Recv, &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "dev"}}))
	ahead.Store(int64(2 * 365 * 24 * time.Hour))
	_, err = stream.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), err)
	require.Zero(t, g.Status().Connections)
}

// serial is the serial number of the certificate that the server shows now.
func serial(t *testing.T, addr string, trusts *authority, shows *tls.Certificate) string {
	t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "waggle", Certificates: []tls.Certificate{*shows}, NextProtos: []string{"h2"}}
	cfg.RootCAs.AddCert(trusts.cert)
	conn, err := tls.Dial("tcp", addr, cfg)
	require.NoError(t, err)
	defer conn.Close()
	state := conn.ConnectionState()
	require.Equal(t, uint16(tls.VersionTLS13), state.Version)
	require.Equal(t, "h2", state.NegotiatedProtocol)
	return state.PeerCertificates[0].SerialNumber.String()
}

func TestServerCertificateRotates(t *testing.T) {
	a := newAuthority(t, "ours")
	f := a.files(server())
	g := guard(t, f)
	s := serve(t, g)
	me := a.pair(a.client(dev))
	open := client(t, s.addr, a, me)
	require.NoError(t, rpcs["unary"](within(t), open, "dev"))
	first := serial(t, s.addr, a, me)

	second := a.renew(f, server())
	require.Equal(t, second.SerialNumber.String(), serial(t, s.addr, a, me), "the very next handshake has the new one")
	require.NotEqual(t, first, second.SerialNumber.String())
	require.NoError(t, g.Status().Problem)

	for name, tt := range map[string]struct {
		path string
		data []byte
		says string
	}{
		"other key":     {f.Key, keyPEM(t, a.key), "does not match"},
		"garbage":       {f.Cert, []byte("x"), "failed to find any PEM data"},
		"client's":      {f.Cert, certPEM(me.Leaf), "does not match"},
		"no authority":  {f.CA, certPEM(me.Leaf), "not an authority's"},
		"half a bundle": {f.CA, certPEM(a.cert, a.cert)[:len(certPEM(a.cert))+60], "in the middle of a certificate"},
		"a leak":        {f.CA, append(certPEM(a.cert), keyPEM(t, a.key)...), "only certificates of authorities belong there"},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, tt.path, tt.data)
			require.Eventually(t, func() bool { return g.Status().Problem != nil }, patience, 5*time.Millisecond)
			require.ErrorContains(t, g.Status().Problem, tt.says)
			require.ErrorContains(t, g.Status().Problem, tt.path)
			require.Equal(t, second.SerialNumber.String(), serial(t, s.addr, a, me), "the old one stays in force")

			put(t, f.CA, certPEM(a.cert))
			second = a.renew(f, server())
			require.Eventually(t, func() bool { return g.Status().Problem == nil }, patience, 5*time.Millisecond, "a good one heals")
			require.Equal(t, second.SerialNumber.String(), serial(t, s.addr, a, me))
		})
	}
	require.NoError(t, rpcs["unary"](within(t), open, "dev"))
	require.Equal(t, 1, g.Status().Connections, "whoever is connected never noticed")
}

// A session that is resumed is not verified anew: there is none to resume.
func TestNoSessionIsResumed(t *testing.T) {
	a := newAuthority(t, "ours")
	s := serve(t, guard(t, a.files(server())))
	cache := tls.NewLRUClientSessionCache(10)
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "waggle", NextProtos: []string{"h2"}, ClientSessionCache: cache, Certificates: []tls.Certificate{*a.pair(a.client(dev))}}
	cfg.RootCAs.AddCert(a.cert)
	for range 3 {
		conn, err := tls.Dial("tcp", s.addr, cfg)
		require.NoError(t, err)
		_, err = conn.Read(make([]byte, 9)) // the server's first frame, behind any ticket
		require.NoError(t, err)
		require.False(t, conn.ConnectionState().DidResume)
		require.NoError(t, conn.Close())
	}
	_, ticket := cache.Get("waggle")
	require.False(t, ticket)
}

func TestAuthorityIsReplaced(t *testing.T) {
	old, next := newAuthority(t, "old"), newAuthority(t, "next")
	f := old.files(server())
	g := guard(t, f)
	s := serve(t, g)
	before := client(t, s.addr, old, old.pair(old.client(dev)))
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(before).DeltaAggregatedResources(within(t))
	require.NoError(t, err)
	request := &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "dev"}}
	require.NoError(t, ask(stream.Send, stream.Recv, request))

	put(t, f.CA, certPEM(old.cert, next.cert))
	after := client(t, s.addr, old, next.pair(next.client(dev)))
	require.NoError(t, rpcs["unary"](within(t), after, "dev"), "both are trusted")
	require.NoError(t, ask(stream.Send, stream.Recv, request), "who was connected still is")

	put(t, f.CA, certPEM(next.cert))
	_, err = stream.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "an authority that is not trusted any more takes its streams with it")
	require.Equal(t, codes.Unavailable, status.Code(rpcs["unary"](within(t), before, "dev")))
	require.Eventually(t, func() bool { return g.Status().Refused > 0 }, patience, 10*time.Millisecond)
	require.ErrorContains(t, g.Status().LastRefusal, "unknown authority")
	require.NoError(t, rpcs["unary"](within(t), after, "dev"))
	require.Equal(t, 1, g.Status().Connections)
}

func TestFilesThatDoNotWork(t *testing.T) {
	a := newAuthority(t, "ours")
	good := a.files(server())
	ended, early := server(), server()
	ended.NotAfter = time.Now().Add(-time.Minute)
	early.NotBefore = time.Now().Add(time.Hour)
	for says, f := range map[string]Files{
		"xds.tls needs ca, cert and key":             {CA: good.CA, Cert: good.Cert},
		"no such file":                               {CA: good.CA, Cert: good.Cert, Key: good.Key + "x"},
		"ended at":                                   a.files(ended),
		"is the clock right?":                        a.files(early),
		"is not the certificate of a server":         a.files(a.client(dev)),
		"holds a PRIVATE KEY":                        {CA: good.Key, Cert: good.Cert, Key: good.Key},
		"holds a certificate that is not an authori": {CA: good.Cert, Cert: good.Cert, Key: good.Key},
	} {
		g, err := TLS(f, Options{})
		require.ErrorContains(t, err, says)
		require.Nil(t, g)
	}
}

// Five hundred strangers at once, of every kind, leave nothing behind, and who is
// connected goes on meanwhile.
func TestFiveHundredRogues(t *testing.T) {
	a, foreign := newAuthority(t, "ours"), newAuthority(t, "theirs")
	g, err := TLS(a.files(server()), Options{Handshake: 3 * time.Second})
	require.NoError(t, err)
	s := serve(t, g)
	ended := a.client(dev)
	ended.NotAfter = time.Now().Add(-time.Second)
	shows := []*tls.Certificate{nil, foreign.pair(a.client(dev)), a.pair(ended), a.pair(a.client("spiffe://waggle/collection/Dev"))}
	good := client(t, s.addr, a, a.pair(a.client(dev)))
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(good).DeltaAggregatedResources(within(t))
	require.NoError(t, err)
	request := &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "dev"}}
	require.NoError(t, ask(stream.Send, stream.Recv, request))

	attack := func() {
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() { rogue(t, s.addr, a, i, shows) })
		}
		for range 20 {
			require.NoError(t, ask(stream.Send, stream.Recv, request), "who is connected goes on")
		}
		wg.Wait()
		require.Eventually(t, func() bool { return g.Status().Connections == 1 }, patience, 10*time.Millisecond)
	}
	goroutines, memory := settled(1 << 30)
	attack()
	require.EqualValues(t, 21, s.served.Load(), "no handler saw any of them")
	const slack = 20
	now, _ := settled(goroutines + slack)
	require.LessOrEqual(t, now, goroutines+slack, "goroutines stay behind")
	attack()
	now, used := settled(goroutines + slack)
	require.LessOrEqual(t, now, goroutines+slack, "goroutines stay behind")
	// A goroutine with its connection's buffers is 40 kB and more: 1000 would be 40 MB.
	require.Less(t, used, memory+4<<20, "memory grows with the number of strangers")
}

// rogue is one stranger; each kind waits until it has been turned away.
func rogue(t *testing.T, addr string, a *authority, i int, shows []*tls.Certificate) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Error(err)
		return
	}
	switch kind := i % (len(shows) + 3); {
	case kind < len(shows):
		cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "waggle", NextProtos: []string{"h2"}}
		cfg.RootCAs.AddCert(a.cert)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if shows[kind] == nil {
				return &tls.Certificate{}, nil
			}
			return shows[kind], nil
		}
		if kind == len(shows)-1 { // gets through the handshake
			_ = conn.Close()
			c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			switch err := rpcs["delta"](ctx, c, "dev"); status.Code(err) {
			case codes.PermissionDenied, codes.Unavailable: // the latter when its handshake took too long in the crowd
			default:
				t.Errorf("let in, or lost: %v", err)
			}
			return
		}
		_, err = tls.Client(conn, cfg).Read(make([]byte, 1))
	case kind == len(shows): // says nothing
		_, err = conn.Read(make([]byte, 1))
	case kind == len(shows)+1: // says nonsense
		if _, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		if err == nil {
			err = io.EOF
		}
	default: // goes away in the middle
		_, err = conn.Write([]byte{22, 3, 1, 2, 0})
		if err == nil {
			err = conn.Close()
		}
		if err == nil {
			err = io.EOF
		}
	}
	var late net.Error
	if err == nil || errors.As(err, &late) && late.Timeout() {
		t.Errorf("kind %d was not turned away: %v", i%(len(shows)+3), err)
	}
}

// settled waits until there are at most so many goroutines, and gives their number and
// the memory in use.
func settled(most int) (goroutines int, memory uint64) {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		goroutines = runtime.NumGoroutine()
		if goroutines <= most || time.Now().After(deadline) {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return goroutines, m.HeapAlloc
}

// What is told to the operator, and how often.
func TestLog(t *testing.T) {
	a := newAuthority(t, "ours")
	soon := server()
	soon.NotAfter = time.Now().Add(29 * 24 * time.Hour)
	f := a.files(soon)
	var log lines
	g, err := TLS(f, Options{Poll: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	s := serve(t, g)
	for range 3 {
		require.Error(t, rpcs["unary"](within(t), client(t, s.addr, a, nil), "dev"))
	}
	require.Eventually(t, func() bool { return g.Status().Refused >= 3 }, patience, 5*time.Millisecond)
	put(t, f.Cert, []byte("nonsense"))
	require.Eventually(t, func() bool { return log.count("not usable") > 0 }, patience, 5*time.Millisecond)
	put(t, f.Cert, []byte("other nonsense"))
	a.renew(f, server())
	require.Eventually(t, func() bool { return log.count("the channel has a new certificate") > 0 }, patience, 5*time.Millisecond)
	require.Equal(t, 1, log.count("could not prove who it is"), "strangers do not fill the log")
	require.Equal(t, 1, log.count("certificate ends soon"), "once a day, not with every look")
	require.Equal(t, 1, log.count("the channel has a new certificate"))
	require.NotContains(t, log.String(), "PRIVATE")
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }
