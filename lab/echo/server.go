package echo

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// DefaultGrace is how long a stopping task waits for its open requests.
const DefaultGrace = 10 * time.Second

// Options say who the task is and where it listens.
type Options struct {
	Addr    string        // host:port; ":80" in a container
	Service string        // full name, "<stack>_<service>": header X-Waggle-Service
	Task    string        // "<service>.<slot>": header X-Waggle-Task
	Delay   time.Duration // before each answer, unless the request says ?delay=
	Grace   time.Duration // for open requests at the end; 0: DefaultGrace
	// TLS is how the task speaks TLS with those who begin so, on the same port; nil: it
	// does not.
	TLS *tls.Config
}

// Serve answers on o.Addr until ctx ends. Then it takes no new connection, closes
// idle ones, lets open requests finish within o.Grace, and returns nil: what an
// application should do on SIGTERM.
func Serve(ctx context.Context, o Options) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return fmt.Errorf("echo task %s: listen on %s: %w", o.Task, o.Addr, err)
	}
	s := Start(lis, o)
	select {
	case <-s.Done():
		return s.err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(o.Grace, DefaultGrace))
	defer cancel()
	return s.Shutdown(grace)
}

// Server is a running echo task.
type Server struct {
	addr net.Addr
	http *http.Server
	grpc *grpc.Server
	done chan struct{}
	err  error // why it ended; valid after done is closed

	seen atomic.Int64

	mu      sync.Mutex
	answers map[string]int        // status by path, where it is not the request that says it
	sockets map[net.Conn]struct{} // WebSockets: http.Server no longer knows these connections
}

// Start answers on lis, which the server owns from now on, until Shutdown or Kill.
func Start(lis net.Listener, o Options) *Server {
	s := &Server{
		addr:    lis.Addr(),
		grpc:    grpc.NewServer(),
		done:    make(chan struct{}),
		sockets: map[net.Conn]struct{}{},
	}
	healthpb.RegisterHealthServer(s.grpc, health.NewServer())

	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s.handler(o),
		Protocols:         &protocols,
		ReadHeaderTimeout: 30 * time.Second,
		ConnContext:       withConn,
	}
	either := eitherListener{Listener: lis}
	if o.TLS != nil {
		either.tls = tlsFor(o.TLS)
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(either); !errors.Is(err, http.ErrServerClosed) {
			s.err = fmt.Errorf("echo task %s on %s: %w", o.Task, s.addr, err)
		}
	}()
	return s
}

// Addr is where the task listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Seen is how many requests reached the task so far.
func (s *Server) Seen() int64 { return s.seen.Load() }

// Answer makes the task answer a path with a status from now on, whatever the
// request asks for: an application that is not well. 0 ends that.
func (s *Server) Answer(path string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = map[string]int{}
	}
	s.answers[path] = status
}

// Done is closed when the task takes no more connections.
func (s *Server) Done() <-chan struct{} { return s.done }

// Shutdown stops the task as a well-behaved application stops: idle connections
// close, open requests finish, WebSockets are cut last. When ctx ends first, the
// rest is cut and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.Kill()
	return err
}

// Kill stops the task as kill -9 would: every connection is cut where it stands.
func (s *Server) Kill() {
	_ = s.http.Close() // its error is the listener's, which is gone either way
	s.mu.Lock()
	for c := range s.sockets {
		_ = c.Close()
	}
	s.mu.Unlock()
	<-s.done
}

// track keeps a WebSocket's connection for Kill until the returned function is called.
func (s *Server) track(c net.Conn) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets[c] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sockets, c)
	}
}
