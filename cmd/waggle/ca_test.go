package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/ca"
)

func TestCA(t *testing.T) {
	waggle := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		require.Equal(t, code, run(t.Context(), args, strings.NewReader(""), &out, &out), "%s", &out)
		return out.String()
	}
	dir := filepath.Join(t.TempDir(), "authority")
	require.Contains(t, waggle(exitCouldNot, "ca", "issue", dir, "dev"), "waggle ca init "+dir)
	require.Contains(t, waggle(0, "ca", "init", dir), "Next: waggle ca issue "+dir+" waggle")
	require.Contains(t, waggle(exitCouldNot, "ca", "init", dir), "is there already")

	require.Regexp(t, `^Issued .*/waggle for waggle, cp.example.com, 10.0.0.1, valid until `,
		waggle(0, "ca", "issue", dir, "waggle", "--dns", "cp.example.com", "--ip", "10.0.0.1"))
	require.Regexp(t, `^Issued .*/dev for spiffe://waggle/collection/dev, valid until `, waggle(0, "ca", "issue", dir, "dev", "--days", "90"))
	require.Regexp(t, `^Rotated .*/dev for spiffe`, waggle(0, "ca", "issue", dir, "dev"))
	require.Regexp(t, `(?m)^dev +20.* spiffe://waggle/collection/dev +ok$`, waggle(0, "ca", "list", dir))

	waggle(0, "ca", "issue", dir, "dev", "--days", "10")
	require.Contains(t, waggle(exitFound, "ca", "list", dir), "issue it again")
	_, err := ca.Issue(dir, "dev", ca.Options{Now: time.Now().Add(-30 * time.Minute), Lifetime: time.Minute})
	require.NoError(t, err)
	require.Contains(t, waggle(exitFound, "ca", "list", dir), "expired")

	for want, args := range map[string][]string{
		"use 1 to 36500":          {"ca", "issue", dir, "dev", "--days", "0"},
		"is not an IP address":    {"ca", "issue", dir, "waggle", "--ip", "waggle"},
		"nor the name of a colle": {"ca", "issue", dir, "Dev"},
		"accepts 2 arg(s)":        {"ca", "issue", dir},
		"unknown command":         {"ca", "forge"},
		"no such file":            {"ca", "list", filepath.Join(dir, "nowhere")},
	} {
		require.Contains(t, waggle(exitCouldNot, args...), want)
	}
}

func TestCALocal(t *testing.T) {
	waggle := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		require.Equal(t, code, run(t.Context(), append([]string{"ca", "local"}, args...), strings.NewReader(""), &out, &out), "%s", &out)
		return out.String()
	}
	state := t.TempDir()
	require.Contains(t, waggle(exitCouldNot, "--state-dir", state), "there is no development authority in "+filepath.Join(state, "local-ca")+": a control plane makes it")
	root := waggle(0, "--state-dir", state, "--create")
	require.Regexp(t, `^-----BEGIN CERTIFICATE-----\n[^-]*\n-----END CERTIFICATE-----\n$`, root)
	require.Equal(t, root, waggle(0, "--state-dir", state))
	require.Equal(t, root, waggle(0, "--state-dir", state, "--create"), "it is not made anew")
	t.Setenv("WAGGLE_STATE_DIR", state)
	require.Equal(t, root, waggle(0))
	both := waggle(0, "--with-key")
	require.True(t, strings.HasPrefix(both, root+"-----BEGIN PRIVATE KEY-----\n"))
	authority, err := secrets.ReadLocalCA(secrets.Item{Data: secrets.Hide([]byte(both))}, secrets.Item{})
	require.NoError(t, err)
	_, err = authority.Pair("app.example.com", time.Now())
	require.NoError(t, err)
}
