package bootstrap

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/xds/identity"
)

const patience = 30 * time.Second

func TestSDSFiles(t *testing.T) {
	for name, tls := range map[string]*TLS{"directory": accepted["tls"].TLS, "swarm": swarmTLS} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			if *update {
				out = filepath.Join("testdata", "sds-"+name)
				require.NoError(t, os.MkdirAll(out, 0o755))
			}
			require.NoError(t, WriteSDS(out, *tls))
			require.NoError(t, WriteSDS(out, *tls), "again")
			entries, err := os.ReadDir(out)
			require.NoError(t, err)
			require.Len(t, entries, 2, "nothing else is left behind")
			for _, file := range []string{ClientSDSFile, CASDSFile} {
				got, err := os.ReadFile(filepath.Join(out, file))
				require.NoError(t, err)
				want, err := os.ReadFile(filepath.Join("testdata", "sds-"+name, file))
				require.NoError(t, err)
				require.Empty(t, cmp.Diff(string(want), string(got)))
			}
		})
	}
	require.ErrorContains(t, WriteSDS(filepath.Join(t.TempDir(), "nowhere"), *swarmTLS), "write the SDS files")
	require.ErrorContains(t, WriteSDS(t.TempDir(), TLS{}), "is not an absolute path")
}

func newAuthority(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "authority")
	require.NoError(t, ca.Init(dir, time.Now()))
	return dir
}

// proxyTLS issues an identity and writes the SDS files to a directory of their own.
func proxyTLS(t *testing.T, authority, name string) *TLS {
	t.Helper()
	issued, err := ca.Issue(authority, name, ca.Options{})
	require.NoError(t, err)
	tls := &TLS{Directory: issued.Directory, SDSDirectory: t.TempDir()}
	require.NoError(t, WriteSDS(tls.SDSDirectory, *tls))
	return tls
}

// visit is a stream that an Envoy opened.
type visit struct {
	node   string
	uris   []string
	dns    string // the name it asked for
	serial string // of its certificate
	can    identity.Identity
	ended  <-chan struct{}
}

// controlPlane answers nothing, tells of every stream that comes, and can cut them off.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	guard  *identity.Guard
	addr   string
	visits chan visit

	mu    sync.Mutex
	conns []net.Conn
}

func (c *controlPlane) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	p, _ := peer.FromContext(s.Context())
	state := p.AuthInfo.(credentials.TLSInfo).State
	ended := make(chan struct{})
	defer close(ended)
	v := visit{node: m.GetNode().GetId(), dns: state.ServerName, serial: state.PeerCertificates[0].SerialNumber.String(), ended: ended}
	for _, uri := range state.PeerCertificates[0].URIs {
		v.uris = append(v.uris, uri.String())
	}
	if v.can, err = identity.FromContext(s.Context()); err != nil {
		return err
	}
	select {
	case c.visits <- v:
	case <-s.Context().Done():
	}
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				return
			}
		}
	}()
	<-s.Context().Done()
	return context.Cause(s.Context())
}

// cut closes every connection, as a restart does.
func (c *controlPlane) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close() // it may be closed already
	}
	c.conns = nil
}

// next is the next stream that comes.
func (c *controlPlane) next(t *testing.T) visit {
	t.Helper()
	select {
	case v := <-c.visits:
		return v
	case <-time.After(patience):
		require.FailNow(t, "no Envoy came", "last refused: %v", c.guard.Status().LastRefusal)
		return visit{}
	}
}

type remembering struct {
	net.Listener
	c *controlPlane
}

func (l remembering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.c.mu.Lock()
		l.c.conns = append(l.c.conns, conn)
		l.c.mu.Unlock()
	}
	return conn, err
}

// serveTLS runs a control plane with the identity name until the test ends.
func serveTLS(t *testing.T, authority, name string, o ca.Options) *controlPlane {
	t.Helper()
	issued, err := ca.Issue(authority, name, o)
	require.NoError(t, err)
	guard, err := identity.TLS(identity.Files{CA: issued.CA, Cert: issued.Cert, Key: issued.Key}, identity.Options{})
	require.NoError(t, err)
	c := &controlPlane{guard: guard, visits: make(chan visit, 100)}
	server := grpc.NewServer(guard.ServerOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, c)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.addr = lis.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(remembering{lis, c}); err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	return c
}

// The real Envoy proves its collection, and takes a new certificate without a restart.
func TestEnvoyProvesItsCollection(t *testing.T) {
	authority := newAuthority(t)
	c := serveTLS(t, authority, "waggle", ca.Options{})
	tls := proxyTLS(t, authority, "dev")
	b, err := New(Options{Collection: "dev", NodeID: "dev/one", XDSAddress: c.addr, AdminAddress: "127.0.0.1:0", TLS: tls})
	require.NoError(t, err)
	admin := start(t, b)
	v := c.next(t)
	require.Equal(t, "dev/one", v.node)
	require.Equal(t, []string{"spiffe://waggle/collection/dev"}, v.uris)
	require.Equal(t, []string{"dev"}, v.can.Collections)
	require.Equal(t, "waggle", v.dns)
	first := v.serial

	issued, err := ca.Issue(authority, "dev", ca.Options{}) // by rename
	require.NoError(t, err)
	require.True(t, issued.Rotated)
	// Envoy reads it when it notices, so the test asks until then.
	deadline := time.Now().Add(patience)
	for rotated := false; !rotated; {
		require.True(t, time.Now().Before(deadline), "the new certificate is never used")
		select {
		case <-v.ended:
			require.Fail(t, "the stream ended by itself when the certificate was replaced")
		default:
		}
		c.cut()
		<-v.ended
		v = c.next(t)
		rotated = v.serial != first
	}
	require.Equal(t, []string{"dev"}, v.can.Collections)
	require.Contains(t, admin.get(t, "/server_info", 200), `"uptime_current_epoch"`, "the same process")

	// A new authority: the bundle first, then what it issued.
	next := newAuthority(t)
	appendFile(t, filepath.Join(next, ca.CAFile), filepath.Join(authority, ca.CAFile))
	rename(t, filepath.Join(next, ca.CAFile), filepath.Join(authority, "waggle", ca.CAFile))
	for _, name := range []string{"waggle", "dev"} {
		issued, err := ca.Issue(next, name, ca.Options{})
		require.NoError(t, err)
		for _, file := range []string{ca.CAFile, ca.KeyFile, ca.CertFile} {
			rename(t, filepath.Join(issued.Directory, file), filepath.Join(authority, name, file))
		}
	}
	second := v.serial
	for v.serial == second {
		require.True(t, time.Now().Before(deadline.Add(patience)), "the new authority is never used")
		c.cut()
		<-v.ended
		v = c.next(t)
	}
	require.Equal(t, []string{"dev"}, v.can.Collections)
}

func appendFile(t *testing.T, to, from string) {
	t.Helper()
	a, err := os.ReadFile(to)
	require.NoError(t, err)
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, append(a, b...), 0o644))
}

// rename puts a copy of a file in the place of another.
func rename(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, replace(to, raw))
}

// An Envoy whose certificate ends is cut off, and comes back by itself with a new one.
func TestEnvoyComesBackWithANewCertificate(t *testing.T) {
	authority := newAuthority(t)
	c := serveTLS(t, authority, "waggle", ca.Options{})
	tls := proxyTLS(t, authority, "dev")
	_, err := ca.Issue(authority, "dev", ca.Options{Lifetime: 6 * time.Second})
	require.NoError(t, err)
	b, err := New(Options{Collection: "dev", XDSAddress: c.addr, AdminAddress: "127.0.0.1:0", TLS: tls})
	require.NoError(t, err)
	start(t, b)
	v := c.next(t)
	select {
	case <-v.ended:
	case <-time.After(patience):
		require.Fail(t, "the stream outlives its certificate")
	}
	require.False(t, time.Now().Before(v.can.NotAfter))
	require.Eventually(t, func() bool {
		last := c.guard.Status().LastRefusal
		return last != nil && strings.Contains(last.Error(), "expired")
	}, patience, 20*time.Millisecond, "it tries again and is refused")
	require.Empty(t, c.visits)

	_, err = ca.Issue(authority, "dev", ca.Options{})
	require.NoError(t, err)
	require.NotEqual(t, v.serial, c.next(t).serial)
}

// A proxy's key is no control plane's: Envoy speaks to nobody but the name it was told.
func TestEnvoyKnowsItsControlPlane(t *testing.T) {
	authority := newAuthority(t)
	c := serveTLS(t, authority, "waggle", ca.Options{DNS: []string{"other.example.com"}})
	tls := proxyTLS(t, authority, "dev")
	tls.ServerName = "third.example.com"
	b, err := New(Options{Collection: "dev", XDSAddress: c.addr, AdminAddress: "127.0.0.1:0", TLS: tls})
	require.NoError(t, err)
	start(t, b)
	require.Eventually(t, func() bool {
		last := c.guard.Status().LastRefusal
		return last != nil && strings.Contains(last.Error(), "remote error: tls:")
	}, patience, 20*time.Millisecond, "Envoy never objected")
	require.Empty(t, c.visits)
	require.Zero(t, c.guard.Status().Connections)

	tls.ServerName = "other.example.com"
	b, err = New(Options{Collection: "dev", XDSAddress: c.addr, AdminAddress: "127.0.0.1:0", TLS: tls})
	require.NoError(t, err)
	start(t, b)
	require.Equal(t, []string{"dev"}, c.next(t).can.Collections)
}

// An Envoy that starts before its key is there waits for it.
func TestEnvoyWaitsForItsKey(t *testing.T) {
	authority := newAuthority(t)
	c := serveTLS(t, authority, "waggle", ca.Options{})
	tls := proxyTLS(t, authority, "dev")
	key := filepath.Join(tls.Directory, ca.KeyFile)
	aside := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.Rename(key, aside))
	b, err := New(Options{Collection: "dev", XDSAddress: c.addr, AdminAddress: "127.0.0.1:0", TLS: tls})
	require.NoError(t, err)
	admin := start(t, b)
	admin.get(t, "/ready", 503)
	require.Empty(t, c.visits)
	require.NoError(t, os.Rename(aside, key))
	require.Equal(t, "dev", c.next(t).node)
}
