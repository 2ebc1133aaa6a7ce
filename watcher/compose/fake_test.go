package compose

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

// fake is a plain Docker daemon on a unix socket, with the JSON of the real one.
// What bad days it has is for fakedocker's middleware.
type fake struct {
	t      *testing.T
	socket string

	mu         sync.Mutex
	containers []*fakeContainer
	networks   map[string]network.Summary
	between    map[string]fakedocker.Middleware
	asked      map[string]int
	streams    map[chan events.Message]filters.Args
	cut        chan struct{} // closed to end all event streams
	made       int
}

// fakeContainer is a container; the zero values of most fields are what a simple one has.
type fakeContainer struct {
	id, name string
	labels   map[string]string
	state    string            // "running" if empty
	health   string            // "healthy", "unhealthy", "health: starting"; "" has no check
	mode     string            // network mode, "" for the first of networks
	networks map[string]string // name → address
	ports    []map[string]any  // as the list tells them
	bindings map[string]any    // as they were asked for
	exposed  []string
	stop     string // STOPSIGNAL
	grace    *int
	created  time.Time
}

func startFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker") // short: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{
		t: t, socket: filepath.Join(dir, "docker.sock"), networks: map[string]network.Summary{},
		between: map[string]fakedocker.Middleware{}, asked: map[string]int{},
		streams: map[chan events.Message]filters.Args{}, cut: make(chan struct{}),
	}
	f.network("bridge", "172.17.0.1")
	f.network("host", "")
	l, err := net.Listen("unix", f.socket)
	require.NoError(t, err)
	server, served := &http.Server{Handler: http.HandlerFunc(f.serve)}, make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return f
}

func (f *fake) network(name, gateway string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := network.Summary{Name: name, ID: "net-" + name, Scope: "local"}
	if gateway != "" {
		n.IPAM.Config = []network.IPAMConfig{{Gateway: gateway}}
	}
	f.networks[n.ID] = n
	f.emit(events.NetworkEventType, events.ActionCreate, n.ID, nil)
}

// run makes a container and starts it.
func (f *fake) run(c fakeContainer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.name == "" {
		c.name = c.id
	}
	if c.state == "" {
		c.state = "running"
	}
	f.made++
	if c.created.IsZero() {
		c.created = time.Date(2026, 1, 2, 3, 4, 5, f.made*1000, time.UTC) // all within one second
	}
	f.containers = append(f.containers, &c)
	f.emit(events.ContainerEventType, events.ActionCreate, c.id, nil)
	if c.state == "running" {
		f.emit(events.ContainerEventType, events.ActionStart, c.id, nil)
	}
}

// composed is a container of a Compose project.
func composed(project, service string, number int, labels ...string) fakeContainer {
	c := fakeContainer{
		id: fmt.Sprintf("%s-%s-%d", project, service, number),
		labels: map[string]string{
			projectLabel: project, serviceLabel: service, numberLabel: strconv.Itoa(number), oneoffLabel: "False",
		},
		networks: map[string]string{"bridge": fmt.Sprintf("172.17.0.%d", number+1)},
	}
	for i := 0; i+1 < len(labels); i += 2 {
		c.labels[labels[i]] = labels[i+1]
	}
	return c
}

// change does something to a container, quietly: an event is another thing.
func (f *fake) change(id string, how func(*fakeContainer)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.id == id {
			how(c)
			return
		}
	}
	f.t.Errorf("no container %s", id)
}

// kill sends a signal to a container, which goes on.
func (f *fake) kill(id string, signal syscall.Signal) {
	f.event(events.ActionKill, id, map[string]string{"signal": strconv.Itoa(int(signal))})
}

// end is what becomes of a container whose program has ended.
func (f *fake) end(id string) {
	f.change(id, func(c *fakeContainer) { c.state = "exited" })
	f.event(events.ActionDie, id, nil)
}

func (f *fake) start(id string) {
	f.change(id, func(c *fakeContainer) { c.state = "running" })
	f.event(events.ActionStart, id, nil)
}

func (f *fake) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.containers {
		if c.id == id {
			f.containers = append(f.containers[:i:i], f.containers[i+1:]...)
			f.emit(events.ContainerEventType, events.ActionDestroy, id, nil)
			return
		}
	}
	f.t.Errorf("no container %s", id)
}

func (f *fake) event(action events.Action, id string, attributes map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emit(events.ContainerEventType, action, id, attributes)
}

// emit sends an event to the streams whose filters let it pass; f.mu is held.
func (f *fake) emit(kind events.Type, action events.Action, id string, attributes map[string]string) {
	m := events.Message{Type: kind, Action: action, Scope: "local", Actor: events.Actor{ID: id, Attributes: attributes}}
	for ch, args := range f.streams {
		if args.ExactMatch("type", string(kind)) && args.FuzzyMatch("event", string(action)) {
			ch <- m // the buffer is larger than any test's events
		}
	}
}

func (f *fake) cutEvents() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.cut)
	f.cut = make(chan struct{})
}

func (f *fake) put(path string, m fakedocker.Middleware) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.between[path] = m
}

func (f *fake) times(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[path]
}

var versioned = regexp.MustCompile(`^/v1\.\d+(/.*)$`)

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if m := versioned.FindStringSubmatch(path); m != nil {
		path = m[1]
	}
	w.Header().Set("Api-Version", "1.41")
	f.mu.Lock()
	f.asked[path]++
	between := f.between[path]
	f.mu.Unlock()
	handler := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, path) }))
	if between != nil {
		handler = between(handler)
	}
	handler.ServeHTTP(w, r)
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, `{"message":"this daemon is only read"}`, http.StatusForbidden)
		return
	}
	if path == "/events" {
		f.stream(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id, one := strings.CutSuffix(strings.TrimPrefix(path, "/containers/"), "/json")
	var answer any
	switch {
	case path == "/_ping":
		answer = "OK"
	case path == "/info":
		answer = map[string]any{"ID": "engine-1", "Name": "laptop"}
	case path == "/networks":
		list := []network.Summary{}
		for _, n := range f.networks {
			list = append(list, n)
		}
		answer = list
	case path == "/containers/json":
		list := []any{}
		for _, c := range f.containers {
			if c.state == "running" || r.URL.Query().Get("all") == "1" {
				list = append(list, c.summary())
			}
		}
		answer = list
	case one:
		for _, c := range f.containers {
			if c.id == id {
				answer = c.inspected()
			}
		}
	}
	if answer == nil {
		w.WriteHeader(http.StatusNotFound)
		answer = map[string]string{"message": "No such container"}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func (c *fakeContainer) summary() any {
	networks := map[string]any{}
	for name, address := range c.networks {
		networks[name] = map[string]any{"NetworkID": "net-" + name, "IPAddress": address}
	}
	status := "Exited (0) 5 seconds ago"
	if c.state == "running" {
		if status = "Up 5 seconds"; c.health != "" {
			status += " (" + c.health + ")"
		}
	}
	return map[string]any{
		"Id": c.id, "Names": []string{"/other/" + c.name, "/" + c.name}, "Labels": c.labels, "State": c.state, "Status": status,
		"Created": c.created.Unix(), "Ports": c.ports,
		"HostConfig": map[string]any{"NetworkMode": c.mode}, "NetworkSettings": map[string]any{"Networks": networks},
	}
}

func (c *fakeContainer) inspected() any {
	exposed := map[string]any{}
	for _, p := range c.exposed {
		exposed[p] = struct{}{}
	}
	return map[string]any{
		"Id": c.id, "Created": c.created.Format(time.RFC3339Nano), "HostConfig": map[string]any{"PortBindings": c.bindings},
		"Config": map[string]any{"StopSignal": c.stop, "StopTimeout": c.grace, "ExposedPorts": exposed, "Env": []string{"PASSWORD=secret"}},
	}
}

func (f *fake) stream(w http.ResponseWriter, r *http.Request) {
	args, err := filters.FromJSON(r.URL.Query().Get("filters"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ch := make(chan events.Message, 10_000)
	f.mu.Lock()
	f.streams[ch] = args
	cut := f.cut
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.streams, ch)
	}()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case m := <-ch:
			json.NewEncoder(w).Encode(m)
			w.(http.Flusher).Flush()
		case <-cut:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
}
