package translate

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/waggle-lb/waggle/watcher"
)

// WebSockets of clients that speak HTTP/1.1 reach a task over HTTP/2 as an extended
// CONNECT, if the task says that it takes them. Envoy does not look whether it does.
// Where nobody says that it shall be so, the proxy refuses: a task that ends such a
// stream would count as broken, and anybody could have tasks set aside.
func TestWebSocketsOverHTTP2(t *testing.T) {
	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	takes := w.service("a_takes", map[string]string{"hosts": "takes.test", "port": "80", "protocol": "h2c", "websocket": "true"}, stack("a"), scaled(0))
	w.at(takes, 1, extendedConnect(t))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	ordinary := func(s *watcher.Service) {
		for slot := range 2 {
			srv := &http.Server{Handler: echo(s.Name), Protocols: protocols}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var serving sync.WaitGroup
			serving.Go(func() { _ = srv.Serve(l) })
			t.Cleanup(func() {
				_ = srv.Close()
				serving.Wait()
			})
			w.at(s, slot+1, netip.MustParseAddrPort(l.Addr().String()))
		}
	}
	ordinary(w.service("a_other", map[string]string{"hosts": "other.test", "port": "80", "protocol": "h2c"}, stack("a"), scaled(0)))
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	p := runEnvoy(t, staticBootstrap(t, b, "dev"))

	upgrade := func(host string) (*http.Response, *bufio.Reader, net.Conn) {
		t.Helper()
		conn, err := net.Dial("tcp", p.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		require.NoError(t, err)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		return resp, r, conn
	}
	resp, r, conn := upgrade("takes.test")
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, "websocket", resp.Header.Get("Upgrade"))
	_, err := io.WriteString(conn, "hello")
	require.NoError(t, err)
	back := make([]byte, 5)
	_, err = io.ReadFull(r, back)
	require.NoError(t, err)
	require.Equal(t, "hello", string(back))

	for range 3 {
		resp, _, _ = upgrade("other.test")
		require.Equal(t, http.StatusForbidden, resp.StatusCode)
	}
	require.Equal(t, 200, p.do(t, "GET", "http://other.test/", nil, "").StatusCode)
	clusters, err := get(p.admin, "/clusters")
	require.NoError(t, err)
	require.Contains(t, clusters, "a_other:80::")
	require.NotContains(t, clusters, "failed_outlier_check")
}

// extendedConnect is a task that takes WebSockets over HTTP/2 and sends back what it gets.
func extendedConnect(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				takeExtendedConnect(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func takeExtendedConnect(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // whatever happens, it ends
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return // a check whether it can be reached
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if f.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}) != nil {
		return
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = f.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			status, protocol := "400", ""
			for _, h := range frame.Fields {
				if h.Name == ":protocol" {
					protocol = h.Value
				}
			}
			if frame.PseudoValue("method") == "CONNECT" && protocol == "websocket" && frame.PseudoValue("path") == "/chat" {
				status = "200"
			}
			var head bytes.Buffer
			_ = hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: ":status", Value: status})
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: head.Bytes(), EndHeaders: true})
		case *http2.DataFrame:
			err = f.WriteData(frame.StreamID, frame.StreamEnded(), frame.Data())
		}
		if err != nil {
			return
		}
	}
}
