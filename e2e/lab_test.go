package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSwarmLab is make swarm-lab and make swarm-lab-down, as a visitor meets them:
// the demo runs, also where an earlier lab was left half dead, and afterwards the
// machine is as it was.
func TestSwarmLab(t *testing.T) {
	s := startSwarm(t, "none", 3)

	// A power cut on one node, a cable pulled from another, and nobody cleans up.
	pid, err := s.nodeInit(2)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	run(t, "ip", "link", "set", "wgl-v3", "down")

	out := s.up("") // up itself waits until every service of the demo answers
	for _, c := range []string{"dev", "test", "prod"} {
		for _, service := range []string{"shop-" + c + "_web", "shop-" + c + "_api", "blog-" + c + "_blog"} {
			require.Contains(t, out, service, "what to try")
		}
	}

	out, err = s.script(t.Context(), "down")
	require.NoError(t, err, out)
	require.NoDirExists(t, s.dir)
	require.NotContains(t, run(t, "ip", "netns", "list"), "wgl")
	require.NotContains(t, run(t, "ip", "-o", "link", "show"), "wgl")
	require.NotContains(t, run(t, "iptables", "-S"), "wgl")
	groups, err := filepath.Glob("/sys/fs/cgroup/*/wgl")
	require.NoError(t, err)
	require.Empty(t, groups)
	require.Empty(t, processes(t, "/run/wgl"))
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s: %s", name, strings.Join(args, " "), out)
	return string(out)
}

// processes are the command lines of running processes that mention word.
func processes(t *testing.T, word string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	var found []string
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && strings.Contains(string(line), word) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
