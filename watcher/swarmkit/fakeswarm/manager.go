// Package fakeswarm is a Swarm manager's control socket for tests: the Watch and
// Control services of SwarmKit over TLS on a unix socket, with their bad days.
package fakeswarm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// Manager is one fake manager. Its methods may be called at any time, from any goroutine.
type Manager struct {
	t    testing.TB
	dir  string
	cert tls.Certificate

	mu        sync.Mutex
	alpn      bool
	clock     uint64
	tasks     map[string]*api.Task
	log       []*api.WatchMessage // for resuming, oldest first
	compacted uint64              // the log begins after this version
	follower  bool
	silent    bool
	deliver   func(*api.WatchMessage) []*api.WatchMessage
	between   func(context.Context, *api.WatchRequest) error
	list      func(context.Context) error

	watched []*api.WatchRequest
	listed  []*api.ListTasksRequest
	refused []string
	streams map[chan *api.WatchMessage]chan error

	server *grpc.Server
	served chan struct{}
}

// Start runs a manager until the test ends.
func Start(t testing.TB) *Manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "swarm") // short: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &Manager{t: t, dir: dir, cert: certificate(t), clock: 10, tasks: map[string]*api.Task{}, streams: map[chan *api.WatchMessage]chan error{}}
	m.Up()
	t.Cleanup(m.Down)
	return m
}

// Socket is the path of the control socket.
func (m *Manager) Socket() string { return filepath.Join(m.dir, "control.sock") }

// ALPN makes the next Up demand h2 by ALPN, as newer engines do; without it, the
// server chooses no protocol, as a promoted manager of 20.10 does.
func (m *Manager) ALPN(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alpn = on
}

// Up makes the socket anew and listens.
func (m *Manager) Up() {
	os.RemoveAll(m.Socket())
	lis, err := net.Listen("unix", m.Socket())
	require.NoError(m.t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	options := []grpc.ServerOption{grpc.UnaryInterceptor(m.onlyLists), grpc.StreamInterceptor(m.onlyWatches)}
	if m.alpn {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{m.cert}})))
	} else {
		lis = tls.NewListener(lis, &tls.Config{Certificates: []tls.Certificate{m.cert}})
	}
	server, served := grpc.NewServer(options...), make(chan struct{})
	api.RegisterWatchServer(server, m)
	api.RegisterControlServer(server, control{m: m})
	m.server, m.served = server, served
	go func() {
		defer close(served)
		server.Serve(lis)
	}()
}

// Down cuts every connection and takes the socket away, as a dockerd does that ends.
func (m *Manager) Down() {
	m.mu.Lock()
	server, served := m.server, m.served
	m.server = nil
	m.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// Cut ends all streams with an error; the connections stay.
func (m *Manager) Cut(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, end := range m.streams {
		select {
		case end <- err:
		default:
		}
	}
}

// Compact forgets the log, so that nothing can be resumed.
func (m *Manager) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log, m.compacted = nil, m.clock
}

// Follow makes messages come without a version, as those of a manager do that is not the leader.
func (m *Manager) Follow(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follower = on
}

// Silence makes streams tell nothing more; what happens meanwhile is lost to them.
func (m *Manager) Silence(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = on
}

// Deliver decides what becomes of messages: none (lost), several (doubled), or those
// of earlier calls too (late). nil delivers each once.
func (m *Manager) Deliver(f func(*api.WatchMessage) []*api.WatchMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deliver = f
}

// OnWatch is called for each request before its first message; an error refuses it.
func (m *Manager) OnWatch(f func(context.Context, *api.WatchRequest) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.between = f
}

// OnList is called before each list; an error refuses it.
func (m *Manager) OnList(f func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = f
}

// ErrNoLeader is what a manager answers that has lost the others.
var ErrNoLeader = status.Error(codes.Unknown, "raft: no elected cluster leader")

// NoLeader refuses lists and silences streams: the majority of the managers is lost.
func (m *Manager) NoLeader() {
	m.Silence(true)
	m.OnList(func(context.Context) error { return ErrNoLeader })
}

// Leader undoes NoLeader.
func (m *Manager) Leader() {
	m.OnList(nil)
	m.Silence(false)
}

// Hang answers nothing until the client has had enough.
func Hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Watched lists all requests to watch, Listed all lists, oldest first; Refused names
// the methods that were called and are none of these two.
func (m *Manager) Watched() []*api.WatchRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.watched)
}

// Listed is described at Watched.
func (m *Manager) Listed() []*api.ListTasksRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.listed)
}

// Refused is described at Watched.
func (m *Manager) Refused() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.refused)
}

// Streams is the number of established streams.
func (m *Manager) Streams() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// Put creates a task or changes it. It runs, is wanted, in slot 1 on node n1, unless
// change says otherwise.
func (m *Manager) Put(service, id string, change func(*api.Task)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, action := m.tasks[id], api.WatchActionKindUpdate
	var t *api.Task
	if old != nil {
		t = old.Copy()
	} else {
		action = api.WatchActionKindCreate
		t = &api.Task{
			ID: id, ServiceID: service, NodeID: "n1", Slot: 1, DesiredState: api.TaskStateRunning,
			Status: api.TaskStatus{State: api.TaskStateRunning},
			Spec:   api.TaskSpec{Runtime: &api.TaskSpec_Container{Container: &api.ContainerSpec{Image: "example/app:1", Env: []string{"PASSWORD=hunter2"}}}},
		}
	}
	if change != nil {
		change(t)
	}
	t.Meta.Version.Index = m.clock // from before the transaction, as in a real store
	m.tasks[id] = t
	m.commit(action, t)
}

// Want changes what Swarm wants of a task.
func (m *Manager) Want(id string, s api.TaskState) {
	m.Put("", id, func(t *api.Task) { t.DesiredState = s })
}

// Observe changes the state that a task is in.
func (m *Manager) Observe(id string, s api.TaskState) {
	m.Put("", id, func(t *api.Task) { t.Status.State = s })
}

// Remove deletes a task.
func (m *Manager) Remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tasks[id]; t != nil {
		delete(m.tasks, id)
		m.commit(api.WatchActionKindRemove, t)
	}
}

// Event is an event of a task, for messages of a test's own.
func Event(action api.WatchActionKind, t *api.Task) *api.WatchMessage_Event {
	return &api.WatchMessage_Event{Action: action, Object: &api.Object{Object: &api.Object_Task{Task: t}}}
}

// commit is one transaction; m.mu is held.
func (m *Manager) commit(action api.WatchActionKind, t *api.Task) {
	m.clock++
	message := &api.WatchMessage{Events: []*api.WatchMessage_Event{Event(action, t.Copy())}, Version: &api.Version{Index: m.clock}}
	m.log = append(m.log, message)
	if m.silent {
		return
	}
	if m.follower {
		message = &api.WatchMessage{Events: message.Events}
	}
	all := []*api.WatchMessage{message}
	if m.deliver != nil {
		all = m.deliver(message)
	}
	for ch := range m.streams {
		for _, message := range all {
			ch <- message
		}
	}
}

// Watch implements api.WatchServer.
func (m *Manager) Watch(r *api.WatchRequest, stream api.Watch_WatchServer) error {
	m.mu.Lock()
	m.watched = append(m.watched, r)
	between := m.between
	m.mu.Unlock()
	if between != nil {
		if err := between(stream.Context(), r); err != nil {
			return err
		}
	}
	ch, end := make(chan *api.WatchMessage, 100_000), make(chan error, 1)
	m.mu.Lock()
	if from := r.ResumeFrom; from != nil {
		switch {
		case from.Index > m.clock:
			m.mu.Unlock()
			return errors.New("versions are out of order")
		case from.Index < m.compacted:
			m.mu.Unlock()
			return errors.New("requested index is unavailable due to compaction")
		}
		for _, message := range m.log {
			if message.Version.Index > from.Index {
				ch <- message
			}
		}
	}
	m.streams[ch] = end
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.streams, ch)
	}()
	if err := stream.Send(&api.WatchMessage{}); err != nil {
		return err
	}
	for {
		select {
		case message := <-ch:
			if err := stream.Send(message); err != nil {
				return err
			}
		case err := <-end:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// control is the part of the Control service that may be called.
type control struct {
	api.ControlServer
	m *Manager
}

// ListTasks implements api.ControlServer.
func (c control) ListTasks(ctx context.Context, r *api.ListTasksRequest) (*api.ListTasksResponse, error) {
	m := c.m
	m.mu.Lock()
	m.listed = append(m.listed, r)
	list := m.list
	m.mu.Unlock()
	if list != nil {
		if err := list(ctx); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	answer := &api.ListTasksResponse{}
	for _, t := range m.tasks {
		if f := r.Filters; f == nil || len(f.DesiredStates) == 0 || slices.Contains(f.DesiredStates, t.DesiredState) {
			answer.Tasks = append(answer.Tasks, t.Copy())
		}
	}
	return answer, nil
}

func (m *Manager) allow(method, only string) error {
	if method == only {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = append(m.refused, method)
	return status.Error(codes.PermissionDenied, method)
}

func (m *Manager) onlyLists(ctx context.Context, r any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := m.allow(info.FullMethod, "/docker.swarmkit.v1.Control/ListTasks"); err != nil {
		return nil, err
	}
	return next(ctx, r)
}

func (m *Manager) onlyWatches(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := m.allow(info.FullMethod, "/docker.swarmkit.v1.Watch/Watch"); err != nil {
		return err
	}
	return next(srv, s)
}

// certificate is one like a node's: for a name that no client can know.
func certificate(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "0n0d3", OrganizationalUnit: []string{"swarm-manager"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
