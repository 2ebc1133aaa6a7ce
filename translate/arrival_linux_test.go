package translate

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTasksOutOfReachTakeNoRequests: of five tasks that run, three swallow what is
// sent to them, as one does whose address has not got about yet. No request goes
// there, so none needs a second attempt.
func TestTasksOutOfReachTakeNoRequests(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	web := w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "retries": "0"}, stack("a"), scaled(0))
	for slot := range 3 {
		w.at(web, slot+1, silentPort(t))
	}
	w.backend(t, web, 4, echo("web"))
	w.backend(t, web, 5, echo("web"))
	p := runEnvoy(t, staticBootstrap(t, w.build(t, testConfig()), "dev"))
	for range 50 {
		r := p.do(t, http.MethodPost, "http://a.test/", nil, "")
		require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	}
}

// silentPort is one on which connections neither succeed nor fail: its queue is full.
func silentPort(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(fd, 0))
	name, err := unix.Getsockname(fd)
	require.NoError(t, err)
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	// The kernel completes one connection beyond the queue's length.
	conn, err := net.Dial("tcp", addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return addr
}
