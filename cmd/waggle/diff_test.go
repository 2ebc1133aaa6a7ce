package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// diffOf runs waggle diff against a control plane that serves shopStack.
func diffOf(t *testing.T, api, file, stack string, args ...string) (code int, out string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), file)
	require.NoError(t, os.WriteFile(path, []byte(stack), 0o600))
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"diff", "--api", api, "-f", path}, args...), nil, &stdout, &stderr)
	return code, stdout.String() + stderr.String()
}

func TestDiffRunning(t *testing.T) {
	api, _ := serveStack(t, shopStack, "", nil)
	require.Eventually(t, func() bool {
		code, out := diffOf(t, api, "shop.yml", shopStack)
		return code == 0 && out == "Nothing changes.\n"
	}, 10*time.Second, 20*time.Millisecond, "the file that runs")

	code, out := diffOf(t, api, "shop.yml", `
services:
  web:
    deploy:
      replicas: 3
      labels: {com.docker.lb.hosts: "shop.example.com,new.example.com", com.docker.lb.port: "8080", com.docker.lb.service_cluster: prod, com.docker.lb.timeout: 5s}
`)
	require.Equal(t, 0, code, out)
	require.Equal(t, `Collection prod
  hosts
    + new.example.com (shop_web)
  routes
    ~ shop.example.com shop_web
        timeout: 0s → 5s
  endpoints: 2 → 3
    ~ shop_web:8080: 2 → 3
`, out)

	code, out = diffOf(t, api, "shop.yml", "services: {other: {deploy: {labels: {lb.hosts: o.example.com, lb.port: '80'}}}}")
	require.Equal(t, exitFound, code, out)
	require.Contains(t, out, "✗ prod shop.example.com: nobody claims this host any more: 503 unknown_host")

	// Of another stack nothing is lost, but what it claims may be taken.
	code, out = diffOf(t, api, "blog.yml", "services: {web: {deploy: {labels: {lb.hosts: 'blog.example.com,shop.example.com', lb.port: '80', lb.service_cluster: prod}}}}")
	require.Equal(t, exitFound, code, out)
	require.NotContains(t, out, "shop_web:8080")
	require.Contains(t, out, "+ blog.example.com (blog_web)")
	require.Contains(t, out, "✗ prod shop.example.com: already served by shop_web: a conflict, unless both are of one owner or the collection shares hosts")

	code, out = diffOf(t, "127.0.0.1:1", "shop.yml", shopStack)
	require.Equal(t, exitCouldNot, code)
	require.Contains(t, out, "ask the control plane at 127.0.0.1:1")
}
