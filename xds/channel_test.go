package xds

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
	"github.com/waggle-lb/waggle/xds/identity"
)

// authority makes an authority with the control plane's identity and those of collections.
func authority(t *testing.T, collections ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, ca.Init(dir, time.Now()))
	for _, name := range append(collections, ca.ControlPlane) {
		_, err := ca.Issue(dir, name, ca.Options{})
		require.NoError(t, err)
	}
	return dir
}

// as dials with the identity of a collection; with none if it is "".
func as(t *testing.T, dir, collection string) grpc.DialOption {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	c := &tls.Config{RootCAs: roots, ServerName: ca.ControlPlane, MinVersion: tls.VersionTLS13}
	if collection != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, collection, "tls.crt"), filepath.Join(dir, collection, "tls.key"))
		require.NoError(t, err)
		c.Certificates = []tls.Certificate{pair}
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(c))
}

// A collection is what the certificate and the node ID both say.
func TestOverTLSACollectionIsProved(t *testing.T) {
	dir := authority(t, "dev", "prod")
	guard, err := identity.TLS(identity.Files{
		CA:   filepath.Join(dir, ca.ControlPlane, "ca.crt"),
		Cert: filepath.Join(dir, ca.ControlPlane, "tls.crt"),
		Key:  filepath.Join(dir, ca.ControlPlane, "tls.key"),
	}, identity.Options{})
	require.NoError(t, err)
	r := start(t, Options{Guard: guard}, "dev", "prod")
	r.publish(t, shop("dev", 2))
	r.publish(t, shop("prod", 2))

	dev := envoylike.New(envoylike.Options{Node: "dev/1", Dial: []grpc.DialOption{as(t, dir, "dev")}})
	connect(t, dev, r.addr)
	r.reaches(t, dev, "dev")

	foreign := authority(t, "dev")
	for name, c := range map[string]*envoylike.Client{
		"no TLS":                       envoylike.New(envoylike.Options{Node: "dev/2"}),
		"no certificate":               envoylike.New(envoylike.Options{Node: "dev/2", Dial: []grpc.DialOption{as(t, dir, "")}}),
		"a foreign certificate":        envoylike.New(envoylike.Options{Node: "dev/2", Dial: []grpc.DialOption{as(t, foreign, "dev")}}),
		"the control plane's own":      envoylike.New(envoylike.Options{Node: "dev/2", Dial: []grpc.DialOption{as(t, dir, ca.ControlPlane)}}),
		"another collection's node ID": envoylike.New(envoylike.Options{Node: "prod/2", Dial: []grpc.DialOption{as(t, dir, "dev")}}),
	} {
		require.Error(t, c.Run(t.Context(), r.addr), name)
		for kind := range translate.NumKinds {
			require.Empty(t, c.State()[kind], "%s: %s", name, kind)
		}
	}
	require.Len(t, r.Proxies(), 1, "nothing is remembered of who was refused")
}

// A stream is worth as much as the certificate that opened it: it ends with it, and
// the server forgets the proxy.
func TestAStreamEndsWithItsCertificate(t *testing.T) {
	dir := authority(t, "dev")
	guard, err := identity.TLS(identity.Files{
		CA:   filepath.Join(dir, ca.ControlPlane, "ca.crt"),
		Cert: filepath.Join(dir, ca.ControlPlane, "tls.crt"),
		Key:  filepath.Join(dir, ca.ControlPlane, "tls.key"),
	}, identity.Options{})
	require.NoError(t, err)
	r := start(t, Options{Guard: guard}, "dev")
	r.publish(t, shop("dev", 2))
	_, err = ca.Issue(dir, "dev", ca.Options{Lifetime: 3 * time.Second})
	require.NoError(t, err)

	c := envoylike.New(envoylike.Options{Node: "dev/1", Dial: []grpc.DialOption{as(t, dir, "dev")}})
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context(), r.addr) }()
	r.reaches(t, c, "dev")
	require.Equal(t, codes.Unauthenticated, status.Code(<-ended), "the stream ends by itself")
	require.Eventually(t, func() bool { return len(r.Proxies()) == 0 }, patience, 10*time.Millisecond)
	require.Error(t, c.Run(t.Context(), r.addr), "and cannot be opened again")
}
