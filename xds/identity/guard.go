package identity

import (
	"context"
	"log/slog"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Options are what a Guard may be told; the zero value is right for production.
type Options struct {
	// Logger gets what an operator wants to know; nil: nothing is logged.
	Logger *slog.Logger
	// Poll is how often Run looks at the files. Default 5 s.
	Poll time.Duration
	// Handshake is how long a client may take until it has proved who it is. Default 10 s.
	Handshake time.Duration
	// Now is the clock that certificates are checked by; default time.Now.
	Now func() time.Time
}

// Guard stands at the door of a gRPC server. Make one with TLS or Insecure.
type Guard struct {
	tls       *channel // nil: insecure
	now       func() time.Time
	handshake time.Duration
}

// TLS makes a guard that shows the certificate in files and lets in whom their
// authorities vouch for. It fails if the files do not work now.
func TLS(files Files, o Options) (*Guard, error) {
	o = o.withDefaults()
	c, err := newChannel(files, o)
	if err != nil {
		return nil, err
	}
	return &Guard{tls: c, now: o.Now, handshake: o.Handshake}, nil
}

// Insecure makes a guard that believes everybody what their node ID says, in clear text.
// It is for a laptop, and for a network that only the proxies of one trust are on.
func Insecure() *Guard {
	o := Options{}.withDefaults()
	return &Guard{now: o.Now, handshake: o.Handshake}
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	if o.Handshake <= 0 {
		o.Handshake = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// ServerOptions make a gRPC server one that lets nobody past the guard: whatever is
// registered, and whatever its handler of unknown services does. Its handlers find the
// client's identity with FromContext, and their context ends when its certificate does.
func (g *Guard) ServerOptions() []grpc.ServerOption {
	creds := insecure.NewCredentials()
	if g.tls != nil {
		creds = g.tls.credentials()
	}
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.ConnectionTimeout(g.handshake),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.ChainUnaryInterceptor(g.unary),
	}
}

// Run keeps watch until ctx is done: over the guard's own files, and over connections
// whose certificate or authority has lost its force. Without it files are only looked
// at when somebody connects.
func (g *Guard) Run(ctx context.Context) {
	if g.tls != nil {
		g.tls.run(ctx)
	}
}

// Authorize is the decision that every RPC passes through: who is it?
func (g *Guard) Authorize(ctx context.Context) (Identity, error) {
	if g.tls == nil {
		return Identity{Insecure: true}, nil
	}
	return FromPeer(ctx, g.now())
}

func (g *Guard) stream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	id, err := g.Authorize(s.Context())
	if err != nil {
		return err
	}
	until, cancel := id.Until(NewContext(s.Context(), id))
	defer cancel()
	ctx, refuse := context.WithCancelCause(until)
	defer refuse(nil)
	guarded := &guarded{ServerStream: s, ctx: ctx, id: id, refuse: refuse}
	err = next(srv, guarded)
	if why := guarded.refusal(); why != nil {
		return why // whatever the handler made of it
	}
	return err
}

func (g *Guard) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id, err := g.Authorize(ctx)
	if err != nil {
		return nil, err
	}
	if err := id.checkMessage(req); err != nil {
		return nil, err
	}
	ctx, cancel := id.Until(NewContext(ctx, id))
	defer cancel()
	return next(ctx, req)
}

// guarded is a stream whose every message is checked.
type guarded struct {
	grpc.ServerStream
	ctx    context.Context
	id     Identity
	refuse context.CancelCauseFunc
}

// Context ends with the stream, with the client's certificate, and with a message that
// the client may not send.
func (s *guarded) Context() context.Context { return s.ctx }

func (s *guarded) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.refusal(); err != nil {
		return err
	}
	if err := s.id.checkMessage(m); err != nil {
		s.refuse(err)
		return err
	}
	return nil
}

func (s *guarded) SendMsg(m any) error {
	if err := s.refusal(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// refusal is why the guard ended the stream; nil if it did not.
func (s *guarded) refusal() error {
	if s.ctx.Err() == nil || s.ServerStream.Context().Err() != nil {
		return nil // gRPC itself says what ended the stream
	}
	return context.Cause(s.ctx)
}

// checkMessage checks the node that a message comes with: of any discovery request,
// whatever its RPC. A message without one says nothing new.
func (id Identity) checkMessage(m any) error {
	named, ok := m.(interface{ GetNode() *core.Node })
	if !ok || named.GetNode() == nil {
		return nil
	}
	return id.Check(named.GetNode().GetId())
}
