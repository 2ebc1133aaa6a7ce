package certs_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
)

var want = map[string]cases.Cert{
	"site":     {Names: []string{"a.example.com", "*.b.example.com"}},
	"dir/old":  {Names: []string{"a.example.com"}, Until: time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)},
	"root":     {CA: true, By: "itself"},
	"middle":   {CA: true, By: "root"},
	"alice":    {Subject: "alice", By: "middle"},
	"itself":   {Names: []string{"a.example.com"}, By: "itself"},
	"dir/more": {Names: []string{"c.example.com"}},
}

func TestTheSameEachTime(t *testing.T) {
	one, err := certs.Make(want)
	require.NoError(t, err)
	two, err := certs.Make(want)
	require.NoError(t, err)
	require.Len(t, one, len(want)+1)
	for name := range one {
		require.Equal(t, one.Chain(name), two.Chain(name))
		require.Equal(t, one.Key(name), two.Key(name))
	}
}

func TestWhatIsMadeIsGood(t *testing.T) {
	s, err := certs.Make(want)
	require.NoError(t, err)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, root := range map[string]string{"site": certs.Local, "alice": "root", "itself": "itself"} {
		c, err := s.Certificate(name)
		require.NoError(t, err)
		pool, err := s.Pool(root)
		require.NoError(t, err)
		between := x509.NewCertPool()
		for _, der := range c.Certificate[1:] {
			cert, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			between.AddCert(cert)
		}
		_, err = c.Leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		require.NoError(t, err, name)
	}
	dir := t.TempDir()
	require.NoError(t, s.Write(dir))
	read := func(name string) secrets.Item {
		raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		require.NoError(t, err)
		return secrets.Item{Kind: secrets.File, Name: name, Data: secrets.Hide(raw)}
	}
	pair, _, err := secrets.ReadPair(read("site.pem"), read("site.key"), at)
	require.NoError(t, err)
	require.Equal(t, want["site"].Names, pair.Names)
	_, _, err = secrets.ReadPair(read("dir/old.pem"), read("dir/old.key"), at)
	require.ErrorContains(t, err, "ended on 2021-01-01")
	_, n, _, err := secrets.ReadAuthorities(read("local-ca.pem"), at)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoFileExists(t, filepath.Join(dir, "local-ca.key"))

	ca, err := s.Authority()
	require.NoError(t, err)
	require.Equal(t, string(s.Chain(certs.Local)), string(ca.Root()))
	issued, err := ca.Pair("x.example.com", at)
	require.NoError(t, err)
	block, _ := pem.Decode(issued.Chain.Reveal())
	leaf, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	pool, err := s.Pool(certs.Local)
	require.NoError(t, err)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, DNSName: "x.example.com"})
	require.NoError(t, err)
}

func TestWhatCannotBeMadeIsTold(t *testing.T) {
	_, err := certs.Make(map[string]cases.Cert{"a": {By: "nobody"}})
	require.ErrorContains(t, err, "nobody")
	_, err = certs.Make(map[string]cases.Cert{"a": {By: "b", CA: true}, "b": {By: "a", CA: true}})
	require.ErrorContains(t, err, "itself")
}
