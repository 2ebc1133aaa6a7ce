package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const goodStack = `
services:
  web:
    image: web
    deploy: {labels: {com.docker.lb.hosts: web.example.com, com.docker.lb.port: "8080", com.docker.lb.service_cluster: dev}}
`

// TestCannotRun: a command that cannot do what it was asked says in one sentence what
// is wrong with what, and ends with exit code 2. None of this needs Docker or root.
func TestCannotRun(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	missing := filepath.Join(dir, "missing.yml")
	good := file("good.yml", goodStack)
	notYAML := file("not-yaml.yml", "services:\n  web: [unclosed\n")
	unknownKey := file("waggle.yml", "collections: {dev: {http_prot: 80}}\n")
	noSocket := filepath.Join(dir, "no.sock")
	deadSocket := filepath.Join(dir, "dead.sock")
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: deadSocket, Net: "unix"})
	require.NoError(t, err)
	lis.SetUnlinkOnClose(false)
	require.NoError(t, lis.Close()) // the file stays, nobody listens
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	insecure := "WAGGLE_XDS_INSECURE=true"

	for _, c := range []struct {
		name string
		env  []string
		args []string
		says []string
	}{
		{"lint: no such file", nil, []string{"lint", missing}, []string{missing}},
		{"lint: a directory", nil, []string{"lint", dir}, []string{dir}},
		{"lint: not YAML", nil, []string{"lint", notYAML}, []string{notYAML}},
		{"render: no such file", nil, []string{"render", "-f", missing, "--collection", "dev"}, []string{missing}},
		{"render: unknown collection", nil, []string{"render", "-f", good, "--collection", "prdo"}, []string{"prdo", "dev"}},
		{"explain: unknown collection", nil, []string{"explain", "-f", good, "--collection", "prdo", "http://web.example.com/"}, []string{"prdo", "dev"}},
		{"unknown key in waggle.yml", []string{insecure}, []string{"serve", "--config", unknownKey}, []string{"http_prot", "http_port"}},
		{"serve: no waggle.yml", []string{insecure}, []string{"serve", "--config", missing}, []string{missing}},
		{"serve: no TLS and not told to go without", nil, []string{"serve"}, []string{"xds.tls", "WAGGLE_XDS_INSECURE"}},
		{"serve: no Docker", []string{insecure, "WAGGLE_SWARM_HOST=unix://" + noSocket}, []string{"serve"}, []string{noSocket}},
		{"serve: a dead socket", []string{insecure, "WAGGLE_SWARM_HOST=unix://" + deadSocket}, []string{"serve"}, []string{deadSocket}},
		{"lab: no such file", nil, []string{"lab", "-f", missing}, []string{missing}},
		{"lab: no Envoy", []string{"ENVOY=" + filepath.Join(dir, "envoy")}, []string{"lab", "--once"}, []string{filepath.Join(dir, "envoy")}},
		{"lab: a port taken", nil, []string{"lab", "-f", good, "--api", taken.Addr().String()}, []string{strconv.Itoa(taken.Addr().(*net.TCPAddr).Port), "--api"}},
		{"bootstrap: a bad address", nil, []string{"bootstrap", "--collection", "dev", "--xds", "nowhere"}, []string{"nowhere"}},
		{"no such command", nil, []string{"srve"}, []string{"srve"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			waggle(t, c.env, c.args...).cannotRun(t, c.says...)
		})
	}
}

// output is what a command left.
type output struct {
	code           int
	stdout, stderr string
}

// waggle runs a command that is expected to end by itself.
func waggle(t *testing.T, env []string, args ...string) output {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(cmd.Environ(), env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "waggle %s did not end by itself:\n%s", strings.Join(args, " "), stderr.String())
	return output{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// cannotRun requires exit code 2, nothing on stdout, and one sentence on stderr that says all of says.
func (o output) cannotRun(t *testing.T, says ...string) {
	t.Helper()
	require.Equal(t, 2, o.code, "exit code; stderr:\n%s", o.stderr)
	require.Empty(t, o.stdout)
	var sentences []string
	for line := range strings.Lines(o.stderr) {
		if strings.HasPrefix(line, "waggle: ") {
			sentences = append(sentences, strings.TrimSpace(line))
		}
	}
	require.Len(t, sentences, 1, "stderr:\n%s", o.stderr)
	for _, word := range says {
		require.Contains(t, sentences[0], word)
	}
	require.NotContains(t, o.stderr, "goroutine ", "a crash")
	require.NotContains(t, o.stderr, "Usage:", "a sentence, not a page")
	t.Log(sentences[0])
}
