package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience is how long the Swarm may take for one step. Its own gossip sometimes
// stalls for 30 s when nodes join a network at the same moment.
const patience = 2 * time.Minute

// swarm is the lab while it is up.
type swarm struct {
	t     *testing.T
	dir   string // lab.sh's state
	edges map[string]edge
	nodes int // 1 is the manager; those without a proxy come last
	// record is of TestSwarm alone.
	record *record
}

// edge is where a collection's proxy is.
type edge struct {
	node    int
	address string // host:port, reachable from this machine
}

// startSwarm brings the lab up with the stacks in apps (as WGL_APPS of lab.sh: "" is
// the demo), and takes it down at the end of the test. The first three nodes each have
// a collection's proxy.
func startSwarm(t *testing.T, apps string, nodes int) *swarm {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the real Swarm needs root (network namespaces, dockerd): run make test as root; what needs none: make unit")
	}
	s := &swarm{t: t, dir: "/run/wgl", edges: map[string]edge{}, nodes: nodes}
	for i, c := range []string{"dev", "test", "prod"} {
		s.edges[c] = edge{node: i + 1, address: fmt.Sprintf("%s.1%d:80", s.network(), i+1)}
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.script(context.Background(), "diagnose")
			t.Logf("the Swarm as it was when the test failed:\n%s", out)
		}
		if out, err := s.script(context.Background(), "down"); err != nil {
			t.Errorf("take the Swarm down: %v\n%s", err, out)
		}
	})
	s.up(apps)
	return s
}

// up brings the lab up, over whatever there was before.
func (s *swarm) up(apps string) string {
	s.t.Helper()
	numbers := make([]string, s.nodes)
	for i := range numbers {
		numbers[i] = strconv.Itoa(i + 1)
	}
	out, err := s.script(s.t.Context(), "up", "WAGGLE="+binary, "WGL_APPS="+apps, "WGL_NODES="+strings.Join(numbers, " "))
	require.NoError(s.t, err, "bring the Swarm up:\n%s", out)
	s.t.Logf("the Swarm is up:\n%s", out)
	return out
}

func (s *swarm) network() string {
	if net := os.Getenv("WGL_NET"); net != "" {
		return net
	}
	return "10.77.0"
}

// script runs one command of lab.sh, with its arguments.
func (s *swarm) script(ctx context.Context, command string, env ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "swarm-lab/lab.sh", strings.Fields(command)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	// A file, not a pipe: the nodes outlive the command, and must not hold it open.
	log, err := os.CreateTemp("", "swarm-lab-*.log")
	if err != nil {
		return "", err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	out, readErr := os.ReadFile(log.Name())
	if err == nil {
		err = readErr
	}
	return string(out), err
}

// lab does something to a node by lab.sh ("restart", "unplug", "plug").
func (s *swarm) lab(command string, node int) {
	s.t.Helper()
	out, err := s.script(context.WithoutCancel(s.t.Context()), command+" "+strconv.Itoa(node))
	require.NoError(s.t, err, out)
}

func (s *swarm) socket(node int) string {
	return fmt.Sprintf("unix://%s/n%d/run/docker.sock", s.dir, node)
}

// try runs a docker command on a node (1 is the manager) and gives its standard output.
func (s *swarm) try(ctx context.Context, node int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", s.socket(node)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("node %d: docker %s: %w: %s", node, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// docker is try on the manager, where an error ends the test.
func (s *swarm) docker(args ...string) string {
	s.t.Helper()
	out, err := s.try(s.t.Context(), 1, args...)
	require.NoError(s.t, err)
	return out
}

// deploy deploys a stack file of testdata.
func (s *swarm) deploy(stack, file string) {
	s.t.Helper()
	s.docker("stack", "deploy", "--resolve-image", "never", "-c", filepath.Join("testdata", file), stack)
}

// update runs docker service update for the services at once, and waits until Swarm
// says of all that it is done, and none of the containers before is left.
func (s *swarm) update(services []string, args ...string) {
	s.t.Helper()
	before := s.running(services...)
	s.together(services, func(service string) []string {
		return append(append([]string{"service", "update", "--quiet", "--detach"}, args...), service)
	})
	s.until("the update is complete", func() bool {
		states := strings.Fields(s.docker(append([]string{"service", "inspect", "--format", "{{with .UpdateStatus}}{{.State}}{{else}}none{{end}}"}, services...)...))
		for _, state := range states {
			require.NotContains(s.t, []string{"paused", "rollback_started", "rollback_paused", "rollback_completed"}, state, "the update of %v", services)
		}
		return len(states) == len(services) && !slices.ContainsFunc(states, func(state string) bool { return state != "completed" })
	})
	s.until("what ran before has ended", func() bool {
		now := s.running(services...)
		return !slices.ContainsFunc(before, func(c container) bool { return slices.Contains(now, c) })
	})
}

// scale scales the services at once, and waits until exactly their tasks run.
func (s *swarm) scale(services []string, replicas int) {
	s.t.Helper()
	s.together(services, func(service string) []string {
		return []string{"service", "scale", "--detach", service + "=" + strconv.Itoa(replicas)}
	})
	s.until("exactly the tasks that are wanted run", func() bool {
		return s.settled(services...) && len(s.running(services...)) == replicas*len(services)
	})
}

func (s *swarm) together(services []string, args func(service string) []string) {
	s.t.Helper()
	errs := make(chan error, len(services))
	for _, service := range services {
		go func() { errs <- s.insist(args(service)...) }()
	}
	for range services {
		require.NoError(s.t, <-errs)
	}
}

// insist is try on the manager, again while the managers elect a leader or somebody else was faster.
func (s *swarm) insist(args ...string) error {
	passes := func(err error) bool {
		return slices.ContainsFunc([]string{"DeadlineExceeded", "leader", "out of sequence"}, func(text string) bool { return strings.Contains(err.Error(), text) })
	}
	for deadline := time.Now().Add(patience); ; {
		_, err := s.try(s.t.Context(), 1, args...)
		if err == nil || !passes(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// addresses are those of a service's tasks on a network.
func (s *swarm) addresses(service, network string) []string {
	s.t.Helper()
	ids := strings.Fields(s.docker("service", "ps", "-q", "--filter", "desired-state=running", service))
	var tasks []struct {
		NetworksAttachments []struct {
			Network   struct{ Spec struct{ Name string } }
			Addresses []string
		}
	}
	raw := s.docker(append([]string{"inspect", "--type", "task"}, ids...)...)
	require.NoError(s.t, json.Unmarshal([]byte(raw), &tasks))
	var found []string
	for _, task := range tasks {
		for _, a := range task.NetworksAttachments {
			if a.Network.Spec.Name != network {
				continue
			}
			for _, cidr := range a.Addresses {
				address, _, _ := strings.Cut(cidr, "/")
				found = append(found, address)
			}
		}
	}
	return found
}

// inside gives an HTTP client that dials from within the network namespace of a
// service's container on a node: admin addresses are on loopback, there and nowhere else.
func (s *swarm) inside(ctx context.Context, node int, service string) (*http.Client, error) {
	ids, err := s.try(ctx, node, "ps", "-q", "--filter", "label=com.docker.swarm.service.name="+service)
	if err != nil {
		return nil, err
	}
	id, _, _ := strings.Cut(ids, "\n")
	if id == "" {
		return nil, fmt.Errorf("no container of %s runs on node %d", service, node)
	}
	namespace, err := s.namespace(ctx, node, id)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return dialIn(ctx, namespace, network, address)
			},
		},
	}, nil
}

// namespace is the path, on this machine, of the network namespace of a container on a node.
func (s *swarm) namespace(ctx context.Context, node int, container string) (string, error) {
	key, err := s.try(ctx, node, "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", container)
	if err != nil {
		return "", err
	}
	init, err := s.nodeInit(node)
	if err != nil {
		return "", err
	}
	// The node's own mounts, seen through its init; /var/run is a link that would be followed on this side.
	return fmt.Sprintf("/proc/%d/root/run/%s", init, strings.TrimPrefix(key, "/var/run/")), nil
}

// nodeInit is the process ID of a node's init on this machine.
func (s *swarm) nodeInit(node int) (int, error) {
	outer, err := os.ReadFile(fmt.Sprintf("%s/n%d/outer", s.dir, node))
	if err != nil {
		return 0, err
	}
	pid := strings.TrimSpace(string(outer))
	children, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%s/children", pid, pid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(children), " ")
	return strconv.Atoi(first)
}

// dialIn dials a literal address from within a network namespace.
func dialIn(ctx context.Context, namespace, network, address string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	result := make(chan dialled, 1)
	go func() {
		// Never unlocked: the thread, which is in a foreign namespace from here on, ends with the goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(namespace)
		if err != nil {
			result <- dialled{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- dialled{err: fmt.Errorf("enter network namespace %s: %w", namespace, err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		result <- dialled{conn, err}
	}()
	r := <-result
	return r.conn, r.err
}

// envoyAdmin reads a page of the admin interface of a collection's proxy.
func (s *swarm) envoyAdmin(collection, path string) string {
	s.t.Helper()
	client, err := s.inside(s.t.Context(), s.edges[collection].node, "edge_envoy-"+collection)
	require.NoError(s.t, err)
	res, err := client.Get("http://127.0.0.1:9901" + path)
	require.NoError(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, res.StatusCode, "%s: %s", path, body)
	return string(body)
}

// answer is what a collection's proxy answered.
type answer struct {
	status        int
	reason        string // x-waggle-reason: the proxy's own answer, and why
	service, task string // which task answered
}

// get asks a collection's proxy for a host.
func (s *swarm) get(collection, host string) (answer, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.edges[collection].address+"/", nil)
	if err != nil {
		return answer{}, err
	}
	req.Host = host
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return answer{
		status:  res.StatusCode,
		reason:  res.Header.Get("X-Waggle-Reason"),
		service: res.Header.Get("X-Waggle-Service"),
		task:    res.Header.Get("X-Waggle-Task"),
	}, err
}

// eventually waits until a collection's proxy gives the wanted answer for a host.
func (s *swarm) eventually(collection, host string, want answer) {
	s.t.Helper()
	var got answer
	var err error
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		got, err = s.get(collection, host)
		got.task = ""
		if err == nil && got == want {
			return
		}
		select {
		case <-s.t.Context().Done():
		case <-tick.C:
		}
	}
	require.NoError(s.t, err)
	require.Equal(s.t, want, got, "%s asked of %s, after %v", host, collection, patience)
}
