package secrets

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/secrets/ca"
)

// testAuthority is a development authority as a control plane makes it.
func testAuthority(t *testing.T) *LocalCA {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, ca.InitLocal(dir, today.AddDate(0, -2, 0)))
	_, both, err := LocalFiles("", dir)
	require.NoError(t, err)
	authority, err := ReadLocalCA(Item{Data: Hide(both)}, Item{})
	require.NoError(t, err)
	return authority
}

// Those who have the same authority issue the same bytes, until the month ends.
func TestLocalIsTheSameEverywhere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, ca.InitLocal(dir, today.AddDate(0, -2, 0)))
	_, both, err := LocalFiles("", dir)
	require.NoError(t, err)
	issue := func(host string, at time.Time) *Pair {
		t.Helper()
		a, err := ReadLocalCA(Item{Data: Hide(both)}, Item{})
		require.NoError(t, err)
		p, err := a.Pair(host, at)
		require.NoError(t, err)
		_, err = tls.X509KeyPair(p.Chain.Reveal(), p.Key.Reveal())
		require.NoError(t, err)
		return p
	}
	first := issue("app.example.com", today)
	for _, at := range []time.Time{today, today.AddDate(0, 0, -14), today.Add(24 * time.Hour).In(time.FixedZone("", 3600))} {
		same := issue("app.example.com", at)
		require.Equal(t, first.Chain.Reveal(), same.Chain.Reveal())
		require.Equal(t, first.Key.Reveal(), same.Key.Reveal())
	}
	next := issue("app.example.com", today.AddDate(0, 1, 0))
	require.NotEqual(t, first.Chain.Reveal(), next.Chain.Reveal())
	require.NotEqual(t, first.Serial, next.Serial)
	other := issue("other.example.com", today)
	require.NotEqual(t, first.Key.Reveal(), other.Key.Reveal())
	require.Equal(t, []string{"app.example.com"}, first.Names)
	require.False(t, today.AddDate(0, 1, 0).After(first.NotAfter), "it outlives the month by far")
}

func TestLocalIsTrustedByItsRoot(t *testing.T) {
	authority := testAuthority(t)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(authority.Root()))
	for _, host := range []string{"app.example.com", "*.app.example.com", "localhost"} {
		p, err := authority.Pair(host, today)
		require.NoError(t, err)
		pair, err := tls.X509KeyPair(p.Chain.Reveal(), p.Key.Reveal())
		require.NoError(t, err)
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: today})
		require.NoError(t, err)
		require.NoError(t, pair.Leaf.VerifyHostname(host))
	}
	for _, host := range []string{"", "*", "a b", "10.0.0.1", "a.example.com:443", "a..b"} {
		_, err := authority.Pair(host, today)
		require.ErrorContains(t, err, "it is not the name of a host", host)
	}
	_, err := authority.Pair("app.example.com", today.AddDate(11, 0, 0))
	require.ErrorContains(t, err, "is valid from")
	_, err = authority.Pair("app.example.com", time.Time{})
	require.NoError(t, err, "dates do not count")
	var none *LocalCA
	_, err = none.Pair("app.example.com", today)
	require.Error(t, err)
	require.True(t, none.Equal(nil))
	require.False(t, authority.Equal(none))
	require.False(t, authority.Equal(testAuthority(t)))
}

// Several control planes may start on one disk.
func TestLocalIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", ca.LocalDirectory)
	_, _, err := LocalFiles("", dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	var made sync.WaitGroup
	failed := make([]error, 8)
	for n := range failed {
		made.Go(func() { failed[n] = ca.InitLocal(dir, today) })
	}
	made.Wait()
	require.NoError(t, errors.Join(failed...))
	root, _, err := LocalFiles("", dir)
	require.NoError(t, err)
	require.NoError(t, ca.InitLocal(dir, today))
	again, _, err := LocalFiles("", dir)
	require.NoError(t, err)
	require.Equal(t, root, again)
	st, err := os.Stat(filepath.Join(dir, ca.LocalKeyFile))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), st.Mode().Perm())

	require.NoError(t, os.Remove(filepath.Join(dir, ca.LocalKeyFile)))
	_, _, err = LocalFiles("", dir)
	require.ErrorContains(t, err, "and not its key")
	require.ErrorContains(t, ca.InitLocal(dir, today), "is there already", "half an authority is not replaced")
}

// A key never shows, whatever is printed.
func TestKeysNeverShow(t *testing.T) {
	authority := testAuthority(t)
	key, ok := authority.key().(*ecdsa.PrivateKey)
	require.True(t, ok)
	raw, err := key.Bytes()
	require.NoError(t, err)
	f := newForge(t)
	pair, err := authority.Pair("app.example.com", today)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	held, refusal := parse(Item{Data: Hide([]byte(keyPEM(t, ed) + keyPEM(t, f.siteKey)))})
	require.Nil(t, refusal)
	site, err := f.siteKey.Bytes()
	require.NoError(t, err)
	x := newExaminer()
	x.begin()
	x.parse(Item{Name: "x", Data: Hide([]byte(keyPEM(t, f.siteKey)))})
	var shown strings.Builder
	for _, v := range []any{authority, *authority, (*Material)(nil).WithFetched(nil).WithLocal(authority), pair, *pair, held, &held, x.next, *x.next, local{both: Hide(raw), ca: authority}, NamedPair{Pair: pair}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&shown, verb+"\n", v)
		}
	}
	for _, secret := range [][]byte{raw, site, authority.seed.Reveal(), ed.Seed(), pair.Key.Reveal()[40:72]} {
		for _, as := range []string{string(secret[:8]), fmt.Sprintf("%x", secret[:8]), fmt.Sprint(secret[:8])[1:20], base64.StdEncoding.EncodeToString(secret[:9]), new(big.Int).SetBytes(secret).String()} {
			require.NotContains(t, shown.String(), as)
		}
	}
}
