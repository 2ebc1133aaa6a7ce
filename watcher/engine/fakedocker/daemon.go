// Package fakedocker is a Docker daemon for tests: a Swarm manager's Engine API on
// a unix socket, with the JSON of the real one, and with its bad days.
package fakedocker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
	"github.com/stretchr/testify/require"
)

// Daemon is one fake daemon. Its methods may be called at any time, from any goroutine.
type Daemon struct {
	t      testing.TB
	socket string

	mu       sync.Mutex
	min, max string // API versions
	worker   bool
	clock    uint64 // Swarm's version index
	services map[string]swarm.Service
	tasks    map[string]swarm.Task
	nodes    map[string]swarm.Node
	networks map[string]network.Summary
	configs  map[string]swarm.Config
	secrets  map[string]swarm.Secret
	writes   *writes // nil: it is only read

	between map[string]Middleware
	asked   map[string][]url.Values
	streams map[chan events.Message]filters.Args
	deliver func(events.Message) []events.Message
	cut     chan struct{} // closed to end all event streams

	server *http.Server
	served chan struct{} // closed when the server has ended
}

// Middleware stands between a request and its answer.
type Middleware func(http.Handler) http.Handler

// Start runs a daemon with one ready manager node, "n1", until the test ends.
func Start(t testing.TB) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker") // short: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &Daemon{
		t: t, socket: filepath.Join(dir, "docker.sock"), min: "1.24", max: "1.51",
		services: map[string]swarm.Service{}, tasks: map[string]swarm.Task{}, nodes: map[string]swarm.Node{},
		networks: map[string]network.Summary{}, configs: map[string]swarm.Config{}, secrets: map[string]swarm.Secret{},
		between: map[string]Middleware{}, asked: map[string][]url.Values{}, streams: map[chan events.Message]filters.Args{},
		cut: make(chan struct{}),
	}
	d.PutNode("n1", nil)
	d.Up()
	t.Cleanup(d.Down)
	return d
}

// Host is the daemon's address.
func (d *Daemon) Host() string { return "unix://" + d.socket }

// Up starts to listen.
func (d *Daemon) Up() {
	os.Remove(d.socket)
	l, err := net.Listen("unix", d.socket)
	require.NoError(d.t, err)
	server, served := &http.Server{Handler: http.HandlerFunc(d.serve)}, make(chan struct{})
	d.mu.Lock()
	d.server, d.served = server, served
	d.mu.Unlock()
	go func() {
		defer close(served)
		server.Serve(l)
	}()
}

// Down cuts every connection and stops listening, as a killed daemon does.
func (d *Daemon) Down() {
	d.mu.Lock()
	server, served := d.server, d.served
	d.server = nil
	d.mu.Unlock()
	if server != nil {
		server.Close()
		<-served
	}
}

// Speak sets the oldest and newest API version.
func (d *Daemon) Speak(oldest, newest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.min, d.max = oldest, newest
}

// Demote makes the node a worker, Promote a manager again.
func (d *Daemon) Demote() { d.setWorker(true) }

// Promote undoes Demote.
func (d *Daemon) Promote() { d.setWorker(false) }

func (d *Daemon) setWorker(w bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.worker = w
}

// Between puts a middleware before a path ("/tasks"); nil takes it away.
func (d *Daemon) Between(path string, m Middleware) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.between[path] = m
}

// Asked lists the filters of all requests for a path, oldest first.
func (d *Daemon) Asked(path string) []url.Values {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked[path])
}

// Refuse answers every request with an error of Docker's shape.
func Refuse(status int, message string) Middleware {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fail(w, status, message) })
	}
}

// Hang answers nothing until the client has had enough.
func Hang(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// Say answers with these bytes.
func Say(body string) Middleware {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write([]byte(body))
		})
	}
}

// Truncate answers with the first half of the real answer, well-formed as HTTP.
func Truncate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		half := &recorder{header: http.Header{}}
		next.ServeHTTP(half, r)
		w.Write(half.body[:len(half.body)/2])
	})
}

type recorder struct {
	header http.Header
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(int)     {}
func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}

var versioned = regexp.MustCompile(`^/v(\d+\.\d+)(/.*)$`)

func (d *Daemon) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	d.mu.Lock()
	w.Header().Set("Api-Version", d.max)
	if m := versioned.FindStringSubmatch(path); m != nil {
		var wrong string
		switch {
		case versions.LessThan(m[1], d.min):
			wrong = fmt.Sprintf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", m[1], d.min)
		case versions.GreaterThan(m[1], d.max):
			wrong = fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", m[1], d.max)
		}
		if wrong != "" {
			d.mu.Unlock()
			fail(w, http.StatusBadRequest, wrong)
			return
		}
		path = m[2]
	}
	d.asked[path] = append(d.asked[path], r.URL.Query())
	between := d.between[path]
	d.mu.Unlock()

	handler := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.answer(w, r, path) }))
	if between != nil {
		handler = between(handler)
	}
	handler.ServeHTTP(w, r)
}

func (d *Daemon) answer(w http.ResponseWriter, r *http.Request, path string) {
	if d.write(w, r, path) {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		fail(w, http.StatusForbidden, "this daemon is only read: "+r.Method+" "+path)
		return
	}
	f, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	switch path {
	case "/_ping":
		w.Write([]byte("OK"))
		return
	case "/events":
		d.stream(w, r, f)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.worker && path != "/networks" {
		fail(w, http.StatusServiceUnavailable, "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.")
		return
	}
	prefix := func(id string) bool {
		return !f.Contains("id") || slices.ContainsFunc(f.Get("id"), func(p string) bool { return strings.HasPrefix(id, p) })
	}
	var list any
	switch path {
	case "/services":
		list = sorted(d.services, func(s swarm.Service) bool { return prefix(s.ID) && f.MatchKVList("label", s.Spec.Labels) })
	case "/tasks":
		list = sorted(d.tasks, func(t swarm.Task) bool {
			return prefix(t.ID) && (!f.Contains("service") || f.ExactMatch("service", t.ServiceID) || f.ExactMatch("service", d.services[t.ServiceID].Spec.Name)) && (!f.Contains("desired-state") || f.ExactMatch("desired-state", string(t.DesiredState)))
		})
	case "/nodes":
		list = sorted(d.nodes, func(n swarm.Node) bool { return prefix(n.ID) })
	case "/networks":
		list = sorted(d.networks, func(n network.Summary) bool {
			return prefix(n.ID) && (!f.Contains("scope") || f.ExactMatch("scope", n.Scope)) && !(d.worker && n.Scope == "swarm")
		})
	case "/configs":
		list = sorted(d.configs, func(c swarm.Config) bool { return prefix(c.ID) })
	case "/secrets":
		list = sorted(d.secrets, func(s swarm.Secret) bool { return prefix(s.ID) && f.MatchKVList("label", s.Spec.Labels) })
	case "/info":
		list = system.Info{Swarm: swarm.Info{NodeID: "n1"}}
	default:
		fail(w, http.StatusNotFound, "page not found")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(list)
}

func sorted[T any](m map[string]T, keep func(T) bool) []T {
	list := []T{}
	for _, id := range slices.SortedFunc(maps.Keys(m), cmp.Compare) {
		if keep(m[id]) {
			list = append(list, m[id])
		}
	}
	return list
}

// stream serves /events.
func (d *Daemon) stream(w http.ResponseWriter, r *http.Request, f filters.Args) {
	ch := make(chan events.Message, 1000)
	d.mu.Lock()
	d.streams[ch] = f
	cut := d.cut
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.streams, ch)
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case m := <-ch:
			json.NewEncoder(w).Encode(m)
			w.(http.Flusher).Flush()
		case <-cut:
			panic(http.ErrAbortHandler) // not a clean end, but a cut
		case <-r.Context().Done():
			return
		}
	}
}

// CutEvents breaks all event streams off, in the middle of a message.
func (d *Daemon) CutEvents() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.cut)
	d.cut = make(chan struct{})
}

// Streams is the number of open event streams.
func (d *Daemon) Streams() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.streams)
}

// Deliver decides what becomes of events: none (lost), several (doubled), or those
// of earlier calls too (late). nil delivers each once.
func (d *Daemon) Deliver(f func(events.Message) []events.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deliver = f
}

// emit sends an event of the Swarm; d.mu is held.
func (d *Daemon) emit(kind events.Type, action events.Action, id, name string) {
	m := events.Message{
		Type: kind, Action: action, Scope: "swarm", Actor: events.Actor{ID: id, Attributes: map[string]string{"name": name}},
		Time: time.Now().Unix(), TimeNano: time.Now().UnixNano(),
	}
	all := []events.Message{m}
	if d.deliver != nil {
		all = d.deliver(m)
	}
	for ch, f := range d.streams {
		for _, m := range all {
			if f.ExactMatch("type", string(m.Type)) && f.ExactMatch("scope", m.Scope) {
				select {
				case ch <- m:
				default: // as the real one: who does not read loses
				}
			}
		}
	}
}

// errGone is for callers that change what is not there.
var errGone = errors.New("no such object")
