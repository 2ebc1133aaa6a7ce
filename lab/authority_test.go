package lab

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// A task shows the certificate that its client asks for, if that is one of its service's
// names as they are now, and never one of somebody else's.
func TestTasksHaveCertificatesOfTheirNames(t *testing.T) {
	ca, err := newAuthority(time.Now())
	require.NoError(t, err)
	src := NewSource(quick, []string{"lb"})
	t.Cleanup(src.Close)
	src.Secure(ca)
	spec := &watcher.Service{
		ID: "web", Name: "shop_Web", Mode: watcher.Replicated, Replicas: 1,
		Labels: map[string]string{watcher.StackLabel: "shop", "lb.hosts": "A.example, *.wild.example, *", "lb.port": "80", "lb.api.hosts": "b.example.", "lb.api.port": "80"},
	}
	require.NoError(t, src.Deploy(spec))
	addr := func() string { return src.services["web"].tasks[0].servers[0].Addr().String() }
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.Root()))
	shown := func(name string) string {
		t.Helper()
		c, err := tls.Dial("tcp", addr(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		require.NoError(t, err)
		defer c.Close()
		leaf := c.ConnectionState().PeerCertificates[0]
		_, err = leaf.Verify(x509.VerifyOptions{Roots: roots})
		require.NoError(t, err)
		require.Len(t, leaf.DNSNames, 1)
		return leaf.DNSNames[0]
	}
	for asked, want := range map[string]string{
		"a.example": "a.example", "A.Example": "a.example", "b.example": "b.example", "x.wild.example": "*.wild.example", "x.y.wild.example": "shop_web",
		"web": "web", "shop_web": "shop_web", "elsewhere.example": "shop_web", "127.0.0.1": "shop_web",
	} {
		require.Equal(t, want, shown(asked), asked)
	}
	before := addr()
	require.NoError(t, src.Edit("web", func(s *watcher.Service) { s.Labels["lb.hosts"] = "new.example" }))
	require.Equal(t, before, addr(), "the same task")
	require.Equal(t, "new.example", shown("new.example"))
	require.Equal(t, "shop_web", shown("a.example"))
}
