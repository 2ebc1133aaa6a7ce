package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/lab/envoy"
	"github.com/waggle-lb/waggle/secrets/ca"
)

// What ca and bootstrap print and write is all that a real Envoy needs to start.
func TestBootstrapWithTLSIsWhole(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, ca.Init(dir, time.Now()))
	_, err := ca.Issue(dir, "dev", ca.Options{})
	require.NoError(t, err)
	own := filepath.Join(dir, "dev")

	var out, errs strings.Builder
	require.Zero(t, run(t.Context(), []string{"bootstrap", "--collection", "dev", "--tls", own, "--write-sds", own}, nil, &out, &errs), errs.String())
	require.FileExists(t, filepath.Join(own, bootstrap.ClientSDSFile))
	file := filepath.Join(dir, "envoy.json")
	require.NoError(t, os.WriteFile(file, []byte(out.String()), 0o600))

	binary, err := envoy.Find()
	require.NoError(t, err)
	said, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file).CombinedOutput()
	require.NoError(t, err, string(said))
	require.NotContains(t, string(said), "rejected", "the certificates are read too")
}
