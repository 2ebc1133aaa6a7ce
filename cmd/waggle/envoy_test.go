package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/lab/envoy"
)

// What the entry point of a proxy image does: settings by variables, health checks
// that see the same variables, the end by a signal, and a crash.
func TestEnvoy(t *testing.T) {
	binary, err := envoy.Find()
	require.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	t.Setenv("ENVOY", binary)
	t.Setenv("WAGGLE_COLLECTION", "dev")
	t.Setenv("WAGGLE_XDS", free.Addr().String())
	t.Setenv("WAGGLE_ADMIN", filepath.Join(t.TempDir(), "admin.sock"))
	t.Setenv("WAGGLE_DRAIN_DELAY", "0s")
	t.Setenv("WAGGLE_CONCURRENCY", "1")
	t.Setenv("WAGGLE_INSECURE", "true")
	waggle := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), args, strings.NewReader(""), &out, &out)
		return code, out.String()
	}
	code, said := waggle("envoy", "--health")
	require.Equal(t, exitFound, code)
	require.Contains(t, said, "ask Envoy's admin page at "+os.Getenv("WAGGLE_ADMIN"))

	for _, tt := range []struct {
		name string
		end  func(pid int) error
		code int
		said string
	}{
		{"told to", func(int) error { return syscall.Kill(os.Getpid(), syscall.SIGQUIT) }, 0, "Envoy has ended"},
		{"crash", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, 137, "waggle: Envoy ended by itself (killed by SIGKILL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log lockedBuffer
			ended := make(chan int, 1)
			go func() {
				ended <- run(t.Context(), []string{"envoy", "--node-id", "dev/x"}, strings.NewReader(""), &log, &log)
			}()
			require.Eventually(t, func() bool { code, said = waggle("envoy", "--health"); return code == 0 }, 30*time.Second, 10*time.Millisecond)
			require.Equal(t, "alive\n", said)
			code, said = waggle("envoy", "--health", "--ready")
			require.Equal(t, exitFound, code)
			require.Contains(t, said, "PRE_INITIALIZING", "alive, not ready: it has no control plane")

			started := regexp.MustCompile(`collection=dev node=dev/x pid=(\d+)`).FindStringSubmatch(log.String())
			require.NotNil(t, started, log.String())
			pid, err := strconv.Atoi(started[1])
			require.NoError(t, err)
			require.NoError(t, tt.end(pid))
			select {
			case code := <-ended:
				require.Equal(t, tt.code, code, log.String())
			case <-time.After(30 * time.Second):
				require.Fail(t, "it does not end", log.String())
			}
			require.Contains(t, log.String(), tt.said)
		})
	}
}

func TestEnvoyUsage(t *testing.T) {
	binary, err := envoy.Find()
	require.NoError(t, err)
	t.Setenv("ENVOY", binary)
	var out bytes.Buffer
	for want, args := range map[string][]string{
		"give --tls DIR":          {"--collection", "dev"},
		"contradict each other":   {"--collection", "dev", "--tls", "/x", "--insecure"},
		"is not an absolute path": {"--collection", "dev", "--tls", "x"},
	} {
		out.Reset()
		require.Equal(t, exitCouldNot, run(t.Context(), append([]string{"envoy"}, args...), strings.NewReader(""), &out, &out))
		require.Contains(t, out.String(), want)
	}
	t.Setenv("WAGGLE_INSECURE", "true")
	t.Setenv("ENVOY", "/nowhere/envoy")
	for want, args := range map[string][]string{
		"give --collection or WAGGLE_COLLECTION":                             {},
		`"dev" is no flag: flags of Envoy's own stand behind --`:             {"dev"},
		`flags of Envoy's own stand behind --`:                               {"dev", "--", "-l"},
		"--ready is a question: use it with --health":                        {"--collection", "dev", "--ready"},
		"the variable ENVOY names /nowhere/envoy, which is no program":       {"--collection", "dev"},
		"--envoy names /nowhere/other":                                       {"--collection", "dev", "--envoy", "/nowhere/other"},
		"the delay is part of the drain and must be shorter":                 {"--collection", "dev", "--drain", "1s"},
		`invalid argument "soon" for "--drain" flag: time: invalid duration`: {"--collection", "dev", "--drain", "soon"},
	} {
		out.Reset()
		require.Equal(t, exitCouldNot, run(t.Context(), append([]string{"envoy"}, args...), strings.NewReader(""), &out, &out))
		require.Contains(t, out.String(), want)
	}
	t.Setenv("WAGGLE_DRAIN", "soon")
	out.Reset()
	require.Equal(t, exitCouldNot, run(t.Context(), []string{"envoy", "--collection", "dev"}, strings.NewReader(""), &out, &out))
	require.Contains(t, out.String(), `WAGGLE_DRAIN="soon"`)
	out.Reset()
	require.Equal(t, exitCouldNot, run(t.Context(), []string{"envoy", "--collection", "dev", "--drain", "9s"}, strings.NewReader(""), &out, &out))
	require.Contains(t, out.String(), "the variable ENVOY names", "the flag wins over its variable")
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
