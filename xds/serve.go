package xds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/translate"
)

// stopWithin bounds the graceful end of Serve.
const stopWithin = 3 * time.Second

// Serve answers Envoys on lis until ctx is done, then ends their streams, which makes them
// connect elsewhere, and returns nil within a few seconds. It may be called more than once.
// Further options are added to Waggle's own; credentials are the guard's.
func (s *Server) Serve(ctx context.Context, lis net.Listener, opts ...grpc.ServerOption) error {
	if s.guard == nil {
		return errors.Join(errors.New("serving xDS: no guard says who may ask for which collection"), lis.Close())
	}
	g := grpc.NewServer(slices.Concat(s.grpcOptions(), s.guard.ServerOptions(), opts)...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, &ads{server: s, ctx: ctx})
	stopped := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(stopped)
		hard := time.AfterFunc(stopWithin, g.Stop)
		defer hard.Stop()
		g.GracefulStop()
	})
	err := g.Serve(lis)
	if !unhook() {
		<-stopped
		return nil
	}
	g.Stop()
	return fmt.Errorf("serving xDS on %s: %w", lis.Addr(), err)
}

func (s *Server) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		// A reconnecting proxy lists the versions of everything it has in one message.
		grpc.MaxRecvMsgSize(32 << 20),
		// A proxy has one stream, for a moment two: each may hold a message like that.
		grpc.MaxConcurrentStreams(16),
		// Static windows: no bandwidth probes, which are a good part of small updates.
		grpc.StaticStreamWindowSize(1 << 20),
		grpc.StaticConnWindowSize(1 << 20),
		grpc.ReadBufferSize(8 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainStreamInterceptor(s.survive),
		grpc.UnknownServiceHandler(refuse),
	}
}

// survive keeps a panic on one stream from ending the process.
func (s *Server) survive(srv any, g grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(p, debug.Stack())
		}
	}()
	return next(srv, g)
}

// ads is the one service there is.
type ads struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
	ctx    context.Context // of Serve
}

// DeltaAggregatedResources serves one Envoy.
func (a *ads) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &stream{server: a.server}
	st.ctx, st.cancel = context.WithCancelCause(g.Context())
	defer st.cancel(nil)
	if p, ok := peer.FromContext(g.Context()); ok {
		st.peer = p.Addr.String()
	}
	defer st.close()
	unhook := context.AfterFunc(a.ctx, func() { st.end(errStopping) })
	defer unhook()

	// The loop has its own goroutine: when this side ends the stream it may be stuck in
	// a write, and only returning from here frees it.
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- a.server.panicked(p, debug.Stack())
			}
		}()
		done <- delta.NewServer(st.ctx, st, nil, byName).DeltaStreamHandler(transport{g, st}, resource.AnyType)
	}()
	var err error
	select {
	case err = <-done:
	case <-st.ctx.Done():
	}
	if why := st.reason(); why != nil {
		return why
	}
	return err
}

// byName: an empty subscription means everything only for clusters and listeners.
var byName = delta.DeactivateLegacyWildcardForTypes([]string{
	translate.Endpoints.TypeURL(), translate.Secret.TypeURL(), translate.Extension.TypeURL(), translate.Routes.TypeURL(),
})

// StreamAggregatedResources refuses the state-of-the-world protocol.
func (a *ads) StreamAggregatedResources(discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return errDeltaOnly
}

const wayOut = "Waggle serves incremental ADS alone: in Envoy's bootstrap set `api_type: DELTA_GRPC` in dynamic_resources.ads_config, " +
	"and `ads: {}` as the config source of everything else"

var errDeltaOnly = status.Error(codes.Unimplemented, "state-of-the-world xDS is not served; "+wayOut)

// refuse answers every call that is not delta ADS: streams per type, state-of-the-world,
// fetches. Not registering those services, rather than guarding each, leaves no side door.
func refuse(_ any, g grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(g)
	if !strings.HasPrefix(method, "/envoy.service.") {
		return status.Errorf(codes.Unimplemented, "%s is not served here; this is Waggle's xDS port for Envoy proxies", clip(method))
	}
	return status.Errorf(codes.Unimplemented, "%s is not served; %s", clip(method), wayOut)
}

// reason is why this side ended the stream; nil if it did not.
func (st *stream) reason() error {
	cause := context.Cause(st.ctx)
	if cause == nil || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return nil
	}
	return cause
}
