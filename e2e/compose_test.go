package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The process's own thread stays with the main goroutine: dialIn leaves the thread
// that it uses in a foreign namespace, and taking the lab down kills every process
// that it finds in one.
func init() { runtime.LockOSThread() }

// TestComposeBootstrap: the file that docker-compose.yml gives its proxies is what
// `waggle bootstrap` prints. Needs neither Docker nor root.
func TestComposeBootstrap(t *testing.T) {
	const command = "bootstrap --collection dev --node-id dev/compose"
	want, err := exec.CommandContext(t.Context(), binary, strings.Fields(command)...).Output()
	require.NoError(t, err)
	got, err := os.ReadFile("../deploy/compose/envoy.json")
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "make it anew: waggle %s > deploy/compose/envoy.json", command)
}

// TestCompose brings up docker-compose.yml as it is, on one plain Docker without a
// Swarm. Nothing is promised here about requests while containers stop: a plain
// Docker says nothing beforehand.
func TestCompose(t *testing.T) {
	c := startCompose(t)

	t.Run("every collection answers", func(t *testing.T) {
		c := c.at(t)
		for _, name := range collections {
			a := c.eventually(name, "whoami."+name+".localhost", func(a answer) bool { return a.status == http.StatusOK })
			require.Equal(t, c.containers("whoami-"+name), []string{a.task})
		}
	})

	t.Run("collections know nothing of each other", func(t *testing.T) {
		c := c.at(t)
		for _, own := range collections {
			a, err := c.get(own, "whoami.localhost")
			require.NoError(t, err)
			require.Equal(t, c.containers("whoami-"+own), []string{a.task}, "who has the host that all of them have, in %s", own)
			for _, other := range collections {
				if other == own {
					continue
				}
				a, err := c.get(own, "whoami."+other+".localhost")
				require.NoError(t, err)
				require.Equal(t, unknownHost, a, "%s's host asked of %s", other, own)
			}
		}
	})

	t.Run("scaling is followed", func(t *testing.T) {
		c := c.at(t)
		for _, n := range []int{3, 1} {
			c.compose("up", "-d", "--no-build", "--scale", fmt.Sprintf("whoami-dev=%d", n))
			up := time.Now()
			want := c.containers("whoami-dev")
			require.Len(t, want, n)
			c.until("the tasks that answer are those that run", func() bool { return c.answering("dev", "whoami.dev.localhost", want) })
			took := time.Since(up)
			t.Logf("%d containers answer, and no other, %v after compose was done", n, took.Round(time.Millisecond))
			require.Less(t, took, 10*time.Second)
		}
	})

	t.Run("a stopped service keeps its host, and says why it does not answer", func(t *testing.T) {
		c := c.at(t)
		c.compose("stop", "-t", "1", "whoami-test")
		c.eventually("test", "whoami.test.localhost", func(a answer) bool {
			return a == answer{status: http.StatusServiceUnavailable, reason: "no_task"}
		})
		c.compose("start", "whoami-test")
		c.eventually("test", "whoami.test.localhost", func(a answer) bool { return a.status == http.StatusOK })
	})

	t.Run("proxies go on without the control plane", func(t *testing.T) {
		c := c.at(t)
		c.compose("stop", "-t", "5", "waggle")
		a, err := c.get("prod", "whoami.prod.localhost")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, a.status)
		c.compose("start", "waggle")
		c.compose("up", "-d", "--no-build", "--scale", "whoami-prod=2")
		want := c.containers("whoami-prod")
		c.until("the control plane that is back has seen the new container", func() bool { return c.answering("prod", "whoami.prod.localhost", want) })
	})

	t.Run("down leaves nothing", func(t *testing.T) {
		c := c.at(t)
		c.compose("down", "-t", "1")
		require.Empty(t, c.docker("ps", "-aq"))
	})
}

// composed is a private plain Docker on which docker-compose.yml runs.
type composed struct {
	t       *testing.T
	engine  *swarm   // its one node
	command []string // of Compose
}

// published are the ports of docker-compose.yml.
var published = map[string]string{"dev": "127.0.0.1:8081", "test": "127.0.0.1:8082", "prod": "127.0.0.1:8083"}

func startCompose(t *testing.T) *composed {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("a private Docker Engine needs root (network namespaces, dockerd): run make test as root; what needs none: make unit")
	}
	c := &composed{t: t, engine: &swarm{t: t, dir: "/run/wge"}, command: []string{"docker", "compose"}}
	if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() != nil {
		c.command = []string{"docker-compose"}
		if _, err := exec.LookPath("docker-compose"); err != nil {
			t.Fatal("neither `docker compose` nor docker-compose is on this machine: run e2e/setup.sh first")
		}
	}
	began := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the engine as it was when the test failed:\n%s\n%s", c.tell("ps"), c.tell("logs", "--tail", "50"))
		}
		if out, err := c.engineScript("down"); err != nil {
			t.Errorf("take the engine down: %v\n%s", err, out)
		}
	})
	out, err := c.engineScript("up")
	require.NoError(t, err, "bring the engine up:\n%s", out)
	engineUp := time.Now()
	c.compose("up", "-d", "--no-build")
	up := time.Now()
	for _, name := range collections {
		c.eventually(name, "whoami."+name+".localhost", func(a answer) bool { return a.status == http.StatusOK })
	}
	version, _, _ := strings.Cut(c.compose("version"), "\n")
	t.Logf("%s: engine with images %v, up %v, all answer %v later", version, engineUp.Sub(began).Round(100*time.Millisecond),
		up.Sub(engineUp).Round(100*time.Millisecond), time.Since(up).Round(time.Millisecond))
	return c
}

// at is c for a subtest, so that what fails there fails there.
func (c *composed) at(t *testing.T) *composed {
	return &composed{t: t, engine: c.engine.at(t), command: c.command}
}

func (c *composed) engineScript(command string) (string, error) {
	log, err := os.CreateTemp("", "engine-*.log")
	if err != nil {
		return "", err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "swarm-lab/engine.sh", command)
	cmd.Env = append(os.Environ(), "WAGGLE="+binary)
	cmd.Stdout, cmd.Stderr = log, log // a file, not a pipe: the engine outlives the command, and must not hold it open
	err = cmd.Run()
	out, readErr := os.ReadFile(log.Name())
	if err == nil {
		err = readErr
	}
	return string(out), err
}

// compose runs Compose on docker-compose.yml, with the images of this tree instead of public ones.
func (c *composed) compose(args ...string) string {
	c.t.Helper()
	out, err := c.try(c.t.Context(), args...)
	require.NoError(c.t, err)
	return out
}

func (c *composed) try(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	file, err := filepath.Abs("../docker-compose.yml")
	if err != nil {
		return "", err
	}
	args = append(append(append([]string{}, c.command[1:]...), "-p", "waggle", "-f", file), args...)
	cmd := exec.CommandContext(ctx, c.command[0], args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+c.engine.socket(1),
		"WAGGLE_IMAGE=wgl/waggle:lab", "ENVOY_IMAGE=wgl/envoy:lab", "APP_IMAGE=wgl/echo:lab", "APP_PORT=8080")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", c.command[0], strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// tell is try for the words of a failure.
func (c *composed) tell(args ...string) string {
	out, err := c.try(context.Background(), args...)
	if err != nil {
		return err.Error()
	}
	return out
}

// docker runs a docker command on the engine.
func (c *composed) docker(args ...string) string {
	c.t.Helper()
	return c.engine.docker(args...)
}

// containers are the names by which the running containers of a service answer.
func (c *composed) containers(service string) []string {
	c.t.Helper()
	return strings.Fields(c.docker("ps", "-q", "--filter", "label=com.docker.compose.service="+service, "--filter", "status=running"))
}

// get asks a collection's proxy where it is published: on loopback, within the engine's network namespace.
func (c *composed) get(collection, host string) (answer, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+published[collection]+"/", nil)
	if err != nil {
		return answer{}, err
	}
	req.Host = host + ":8081" // as a browser says it; the port does not matter
	res, err := (&http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialIn(ctx, "/var/run/netns/wge1", network, address)
		},
	}).RoundTrip(req)
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

// answering reports whether a host is answered by these containers and by no other.
func (c *composed) answering(collection, host string, want []string) bool {
	got := map[string]bool{}
	for range 10 * len(want) {
		a, err := c.get(collection, host)
		if err != nil || a.status != http.StatusOK {
			return false
		}
		got[a.task] = true
	}
	for _, id := range want {
		if !got[id] {
			return false
		}
	}
	return len(got) == len(want)
}

func (c *composed) eventually(collection, host string, ok func(answer) bool) answer {
	c.t.Helper()
	var got answer
	var err error
	c.until(host+" asked of "+collection, func() bool {
		got, err = c.get(collection, host)
		return err == nil && ok(got)
	})
	return got
}

func (c *composed) until(what string, ok func() bool) {
	c.t.Helper()
	require.Eventually(c.t, ok, 30*time.Second, 50*time.Millisecond, "%s", what)
}
