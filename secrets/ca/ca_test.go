package ca

import (
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// authorityAt makes an authority at the fixed time.
func authorityAt(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	require.NoError(t, Init(dir, now))
	return dir
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	block, rest := pem.Decode(raw)
	require.NotNil(t, block)
	require.Empty(t, rest)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return cert
}

func requireMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, want, info.Mode().Perm(), path)
}

func TestInit(t *testing.T) {
	dir := authorityAt(t)
	requireMode(t, dir, 0o700)
	requireMode(t, filepath.Join(dir, "ca.key"), 0o600)
	requireMode(t, filepath.Join(dir, "ca.crt"), 0o644)
	root := readCert(t, filepath.Join(dir, "ca.crt"))
	require.True(t, root.IsCA)
	require.True(t, root.MaxPathLenZero)
	require.Equal(t, x509.ECDSAWithSHA256, root.SignatureAlgorithm)
	require.Equal(t, []string{"waggle"}, root.PermittedURIDomains)
	require.Equal(t, now.AddDate(0, 0, 3650), root.NotAfter)
	require.Regexp(t, `^Waggle authority [0-9a-f]{8}$`, root.Subject.CommonName)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "nothing else is left behind")

	before, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	require.ErrorContains(t, Init(dir, now), "ca.crt is there already")
	require.NoError(t, os.Remove(filepath.Join(dir, "ca.crt")))
	require.ErrorContains(t, Init(dir, now), "ca.key is there already", "half an authority is not replaced either")
	after, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestIssueControlPlane(t *testing.T) {
	dir := authorityAt(t)
	for _, name := range []string{"waggle", "control-plane"} {
		issued, err := Issue(dir, name, Options{
			Now: now, DNS: []string{"tasks.edge_waggle", "waggle", "tasks.edge_waggle"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")},
		})
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dir, name, "tls.crt"), issued.Cert)
		require.False(t, issued.Rotated)
		cert := readCert(t, issued.Cert)
		require.Equal(t, []string{"waggle", "tasks.edge_waggle"}, cert.DNSNames)
		require.Equal(t, "10.0.0.1 ::1", cert.IPAddresses[0].String()+" "+cert.IPAddresses[1].String())
		require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.ExtKeyUsage)
		require.Empty(t, cert.URIs)
		require.False(t, cert.IsCA)
		require.Equal(t, now.AddDate(1, 0, 0), cert.NotAfter)
		require.NoError(t, cert.VerifyHostname("waggle"))
		i, err := Inspect(issued.Directory, now)
		require.NoError(t, err)
		require.Equal(t, name, i.Name)
		require.Equal(t, cert.DNSNames, i.DNS)
	}
}

func TestIssueCollection(t *testing.T) {
	dir := authorityAt(t)
	for _, name := range []string{"dev", "a.b_c-1", strings.Repeat("x", 128)} {
		issued, err := Issue(dir, name, Options{Now: now, Lifetime: 2 * day})
		require.NoError(t, err)
		requireMode(t, issued.Directory, 0o755)
		requireMode(t, issued.Key, 0o600)
		requireMode(t, issued.Cert, 0o644)
		cert := readCert(t, issued.Cert)
		require.Len(t, cert.URIs, 1)
		require.Equal(t, "spiffe://waggle/collection/"+name, cert.URIs[0].String())
		require.Equal(t, cert.URIs[0].String(), issued.URI)
		require.Empty(t, cert.DNSNames)
		require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, cert.ExtKeyUsage)
		require.Equal(t, now.Add(2*day), cert.NotAfter)
		require.True(t, cert.NotBefore.Before(now))

		roots := x509.NewCertPool()
		roots.AddCert(readCert(t, issued.CA))
		verify := x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		_, err = cert.Verify(verify)
		require.NoError(t, err)
		verify.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		_, err = cert.Verify(verify)
		require.Error(t, err, "a proxy cannot pass for the control plane")
	}
	names, err := Names(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"a.b_c-1", "dev", strings.Repeat("x", 128)}, names)
}

func TestIssueRefuses(t *testing.T) {
	dir := authorityAt(t)
	for name, tt := range map[string]struct {
		name string
		o    Options
		want string
	}{
		"empty":              {"", Options{}, "nor the name of a collection"},
		"upper case":         {"Dev", Options{}, "nor the name of a collection"},
		"path":               {"../dev", Options{}, "nor the name of a collection"},
		"dots":               {"..", Options{}, "nor the name of a collection"},
		"slash":              {"dev/1", Options{}, "nor the name of a collection"},
		"too long":           {strings.Repeat("x", 129), Options{}, "nor the name of a collection"},
		"authority's file":   {"ca.crt", Options{}, "the authority's own file"},
		"authority's key":    {"ca.key", Options{}, "the authority's own file"},
		"names of a proxy":   {"dev", Options{DNS: []string{"dev"}}, "a collection has no DNS names"},
		"address of a proxy": {"dev", Options{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, "a collection has no DNS names and addresses"},
		"wildcard":           {"waggle", Options{DNS: []string{"*.example.com"}}, `"*.example.com" is not a DNS name`},
		"address as name":    {"waggle", Options{DNS: []string{"10.0.0.1"}}, "addresses go to --ip"},
		"any address":        {"waggle", Options{IPs: []netip.Addr{netip.IPv4Unspecified()}}, "not an address that a server has"},
		"no address":         {"waggle", Options{IPs: []netip.Addr{{}}}, "not an address that a server has"},
		"short":              {"dev", Options{Lifetime: time.Millisecond}, "too short"},
		"negative":           {"dev", Options{Lifetime: -day}, "too short"},
		"outlives":           {"dev", Options{Lifetime: 3651 * day}, "outlive its authority, which ends on 2036-02-27: ask for at most 3650 days"},
		"authority ended":    {"dev", Options{Now: now.AddDate(11, 0, 0)}, "ended on 2036-02-27"},
		"authority to come":  {"dev", Options{Now: now.AddDate(-1, 0, 0)}, "is the clock right?"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.o.Now.IsZero() {
				tt.o.Now = now
			}
			_, err := Issue(dir, tt.name, tt.o)
			require.ErrorContains(t, err, tt.want)
		})
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "nothing is left behind")
}

func TestIssueNeedsAWholeAuthority(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nowhere")
	_, err := Issue(missing, "dev", Options{Now: now})
	require.ErrorContains(t, err, "waggle ca init "+missing)
	_, err = Issue(t.TempDir(), "dev", Options{Now: now})
	require.ErrorContains(t, err, "there is no authority in")

	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"no key":       {func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "ca.key"))) }, "not its key ca.key"},
		"other key":    {func(t *testing.T, dir string) { copyFile(t, authorityAt(t), dir, "ca.key") }, "belongs to no certificate"},
		"garbage key":  {func(t *testing.T, dir string) { spoil(t, dir, "ca.key", "SECRET-WORD") }, "no private key in PEM form"},
		"broken key":   {func(t *testing.T, dir string) { spoil(t, dir, "ca.key", pemOf("PRIVATE KEY", "SECRET-WORD")) }, "cannot be read"},
		"garbage cert": {func(t *testing.T, dir string) { spoil(t, dir, "ca.crt", "x") }, "no certificate in PEM form"},
		"key in cert":  {func(t *testing.T, dir string) { spoil(t, dir, "ca.crt", pemOf("PRIVATE KEY", "x")) }, "only certificates belong there"},
		"file in the way": {func(t *testing.T, dir string) {
			spoil(t, dir, "dev", "x")
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := authorityAt(t)
			tt.spoil(t, dir)
			_, err := Issue(dir, "dev", Options{Now: now})
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "SECRET")
		})
	}
}

func pemOf(kind, data string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(data)}))
}

func spoil(t *testing.T, dir, name, data string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
}

func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(from, name))
	require.NoError(t, err)
	spoil(t, to, name, string(raw))
}

func TestIssueAgainRotates(t *testing.T) {
	dir := authorityAt(t)
	first, err := Issue(dir, "dev", Options{Now: now})
	require.NoError(t, err)
	old := readCert(t, first.Cert)
	home, err := os.Stat(first.Directory)
	require.NoError(t, err)
	open, err := os.Open(first.Key)
	require.NoError(t, err)
	defer open.Close()

	second, err := Issue(dir, "dev", Options{Now: now.Add(day)})
	require.NoError(t, err)
	require.True(t, second.Rotated)
	require.NotEqual(t, old.SerialNumber, readCert(t, second.Cert).SerialNumber)
	_, err = Inspect(second.Directory, now.Add(day))
	require.NoError(t, err, "key and certificate fit")
	again, err := os.Stat(second.Directory)
	require.NoError(t, err)
	require.True(t, os.SameFile(home, again), "a mounted or watched directory stays the same")
	was, err := open.Stat()
	require.NoError(t, err)
	is, err := os.Stat(second.Key)
	require.NoError(t, err)
	require.False(t, os.SameFile(was, is), "files are replaced by rename, never written over")
	entries, err := os.ReadDir(second.Directory)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing else is left behind")
}

// While the authority is replaced, identities of both are trusted.
func TestReplaceTheAuthority(t *testing.T) {
	from, to := authorityAt(t), authorityAt(t)
	old, err := os.ReadFile(filepath.Join(from, "ca.crt"))
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(to, "ca.crt"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.Write(old)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	before, err := Issue(from, "dev", Options{Now: now})
	require.NoError(t, err)
	after, err := Issue(to, "dev", Options{Now: now})
	require.NoError(t, err)
	_, err = Inspect(after.Directory, now)
	require.NoError(t, err)
	copyFile(t, after.Directory, before.Directory, "ca.crt")
	_, err = Inspect(before.Directory, now)
	require.NoError(t, err, "the old one is still trusted by those who have the new bundle")
}

func TestTwoAtOnce(t *testing.T) {
	dir := authorityAt(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := Issue(dir, "dev", Options{Now: now})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := Inspect(filepath.Join(dir, "dev"), now)
	require.NoError(t, err, "one's key beside the other's certificate")
}

func TestInspect(t *testing.T) {
	dir := authorityAt(t)
	issued, err := Issue(dir, "dev", Options{Now: now, Lifetime: 40 * day})
	require.NoError(t, err)
	i, err := Inspect(issued.Directory, now)
	require.NoError(t, err)
	require.Equal(t, []string{"spiffe://waggle/collection/dev"}, i.URIs)
	require.False(t, i.Due(now))
	require.True(t, i.Due(now.Add(11*day)))

	i, err = Inspect(issued.Directory, now.Add(41*day))
	require.ErrorContains(t, err, "expired")
	require.Equal(t, now.Add(40*day), i.NotAfter, "what could be read is there")
	copyFile(t, authorityAt(t), issued.Directory, "ca.crt")
	_, err = Inspect(issued.Directory, now)
	require.ErrorContains(t, err, "unknown authority")
	other, err := Issue(dir, "prod", Options{Now: now})
	require.NoError(t, err)
	copyFile(t, other.Directory, issued.Directory, "tls.key")
	_, err = Inspect(issued.Directory, now)
	require.ErrorContains(t, err, "private key does not match")
	_, err = Inspect(filepath.Join(dir, "nobody"), now)
	require.ErrorContains(t, err, "no such file")
}
