package lab

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
)

// Passwords of a stack file's secret and config, and of a file of the collection, each
// believed by a real Envoy, and changed while it runs.
func TestPasswordsAreLiveOnSave(t *testing.T) {
	const password = ":{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n" // secret
	dir, certs := t.TempDir(), t.TempDir()
	save := func(dir, name, content string) {
		t.Helper()
		next := filepath.Join(dir, "."+name)
		require.NoError(t, os.WriteFile(next, []byte(content), 0o600))
		require.NoError(t, os.Rename(next, filepath.Join(dir, name)))
	}
	save(dir, "secret.txt", "alice"+password)
	save(dir, "config.txt", "alice"+password)
	save(certs, "shared", "alice"+password)
	save(dir, "stack.yml", `
services:
  secret: {image: a, deploy: {labels: {lb.hosts: secret.test, lb.port: "80", lb.basic_auth: people}}}
  config: {image: a, deploy: {labels: {lb.hosts: config.test, lb.port: "80", lb.basic_auth: users}}}
  shared: {image: a, deploy: {labels: {lb.hosts: shared.test, lb.port: "80", lb.basic_auth: shared}}}
  nobody: {image: a, deploy: {labels: {lb.hosts: nobody.test, lb.port: "80", lb.basic_auth: nobody}}}
secrets: {people: {file: secret.txt}}
configs: {users: {file: config.txt}}
`)
	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Certificates.Directories = []string{certs}
	var out, progress syncBuffer
	o := freeOptions(&out, &progress)
	o.Config, o.Files = cfg, []string{filepath.Join(dir, "stack.yml")}
	proxy := running(t, o).Collections["default"].HTTP
	status := func(host, user string) int {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+proxy+"/", nil)
		require.NoError(t, err)
		req.Host = host
		req.SetBasicAuth(user, "secret")
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: deadline}).Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	becomes := func(host, user string, want int) {
		t.Helper()
		require.Eventually(t, func() bool { return status(host, user) == want }, deadline, 5*time.Millisecond, "%s for %s at %s", user, host, progress.String())
	}
	for _, host := range []string{"secret.test", "config.test", "shared.test"} {
		becomes(host, "alice", 200)
		require.Equal(t, 401, status(host, "bob"))
	}
	require.Equal(t, 503, status("nobody.test", "alice"), "a guard that cannot be built closes")
	require.Eventually(t, func() bool {
		return strings.Contains(progress.String(), "there is no secret, config or file called nobody")
	}, deadline, 5*time.Millisecond)
	require.Equal(t, 1, strings.Count(progress.String(), "error: "), progress.String())

	save(dir, "secret.txt", "bob"+password)
	save(dir, "config.txt", "bob"+password)
	save(certs, "shared", "bob"+password)
	save(certs, "nobody", "bob"+password)
	for _, host := range []string{"secret.test", "config.test", "shared.test", "nobody.test"} {
		becomes(host, "bob", 200)
		require.Equal(t, 401, status(host, "alice"))
	}
	save(certs, "shared", "bob:secret\n")
	becomes("shared.test", "bob", 503)
	require.Eventually(t, func() bool { // although no stack file has changed
		return strings.Contains(progress.String(), "error: stack_shared lb.basic_auth=: shared: line 1: ")
	}, deadline, 5*time.Millisecond)
	require.Equal(t, 200, status("secret.test", "bob"))
	require.NotContains(t, progress.String()+out.String(), "5en6G6MezRroT3XKqkdPOmY")
}
