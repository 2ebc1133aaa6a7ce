package swarmkit

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// maxMessage is what managers themselves take (swarmkit manager/controlapi and
// transport): a list of all tasks is far larger than gRPC's default of 4 MiB.
const maxMessage = 128 << 20

// dial connects to the control socket and does TLS by itself.
//
// gRPC's own TLS refuses a server that does not choose h2 by ALPN, and an engine of
// 20.10 does not on managers that were promoted and after each renewal of the node's
// certificate. h2 is offered all the same, because newer engines refuse who does not.
// The certificate is the node's, for a name that nobody could know here; what proves
// the server is that it listens on a socket in root's directory.
func (t *Tasks) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", t.Socket)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &handshakeError{err}
	}
	return conn, nil
}

// handshakeError is a TLS handshake that failed.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// stream is one watch, on a connection of its own.
type stream struct {
	*Tasks
	ctx    context.Context // of the watch
	cancel context.CancelFunc
	raw    net.Conn
	conn   *grpc.ClientConn
	watch  api.Watch_WatchClient

	messages chan *api.WatchMessage
	ended    chan error // capacity 1: why no more messages come
	work     sync.WaitGroup
}

// request is all that is ever watched: tasks, never anything else.
func request(from *api.Version) *api.WatchRequest {
	return &api.WatchRequest{
		Entries: []*api.WatchRequest_WatchEntry{{
			Kind:   "task",
			Action: api.WatchActionKindCreate | api.WatchActionKindUpdate | api.WatchActionKindRemove,
		}},
		ResumeFrom: from,
	}
}

// open begins to watch, from a version on if one is given, and returns when the
// watch is established: nothing that happens from then on is missed. budget limits
// how long that may take, not the stream.
func (t *Tasks) open(ctx context.Context, from *api.Version, budget time.Duration) (*stream, error) {
	s := &stream{Tasks: t, messages: make(chan *api.WatchMessage), ended: make(chan error, 1)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	limit := time.AfterFunc(budget, s.cancel)
	first, err := s.establish(from)
	if !limit.Stop() {
		err = slowError(budget)
	}
	if err != nil {
		s.close()
		return nil, t.sentence(err)
	}
	s.work.Go(func() { s.receive(first) })
	return s, nil
}

// establish returns the first message, which is empty and says that the watch is established.
func (s *stream) establish(from *api.Version) (first *api.WatchMessage, err error) {
	if s.raw, err = s.dial(s.ctx); err != nil {
		return nil, err
	}
	// One connection for one stream: when it breaks, gRPC must not make another behind our back.
	once := make(chan net.Conn, 1)
	once <- s.raw
	s.conn, err = grpc.NewClient("passthrough:///swarm",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errBroken
			}
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	if s.watch, err = api.NewWatchClient(s.conn).Watch(s.ctx, request(from)); err != nil {
		return nil, err
	}
	return s.watch.Recv()
}

// slowError is the lack of an answer for so long.
type slowError time.Duration

func (e slowError) Error() string { return "no answer within " + time.Duration(e).String() }

var errBroken = errors.New("the connection is broken")

// receive hands over what comes.
func (s *stream) receive(m *api.WatchMessage) {
	for {
		if len(m.Events) > 0 {
			select {
			case s.messages <- m:
			case <-s.ctx.Done():
				return
			}
		}
		var err error
		if m, err = s.watch.Recv(); err != nil {
			s.ended <- err
			return
		}
	}
}

// close ends the stream and waits for what it has started.
func (s *stream) close() {
	s.cancel()
	if s.conn != nil {
		s.conn.Close()
	}
	if s.raw != nil {
		s.raw.Close() // gRPC may never have taken it
	}
	s.work.Wait()
}

// whole is what a first list asks for: what is wanted, and what is not but may still
// run. checked is what every later one does: without the history that comes with
// tasks that are to be shut down (five dead ones for every slot).
var (
	whole   = []api.TaskState{api.TaskStateRunning, api.TaskStateRemove, api.TaskStateShutdown}
	checked = []api.TaskState{api.TaskStateRunning, api.TaskStateRemove}
)

// list asks for all tasks that are to be in one of these states. The Swarm's leader
// answers, whichever manager is asked; without a leader there is no answer.
func (s *stream) list(ctx context.Context, desired []api.TaskState, budget time.Duration) ([]*api.Task, error) {
	limited, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	r, err := api.NewControlClient(s.conn).ListTasks(limited, &api.ListTasksRequest{Filters: &api.ListTasksRequest_Filters{DesiredStates: desired}})
	switch {
	case err == nil:
		return r.Tasks, nil
	case ctx.Err() == nil && (limited.Err() != nil || status.Code(err) == codes.Canceled):
		// The server knows the deadline, too, and may be a moment earlier.
		err = slowError(budget)
	}
	return nil, s.sentence(err)
}
