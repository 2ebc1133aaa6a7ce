package echo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// proxyListener takes connections that begin with the PROXY protocol (version 1
// or 2, haproxy's doc/proxy-protocol.txt) as well as those that do not.
type proxyListener struct{ net.Listener }

func (l proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxyConn{Conn: c, in: bufio.NewReader(c)}, nil
}

// proxyConn reads what the PROXY protocol says before anything else. Accept must
// not: a client that says nothing would keep others waiting.
type proxyConn struct {
	net.Conn
	in   *bufio.Reader
	once sync.Once
	said string
	err  error
}

func (c *proxyConn) Read(b []byte) (int, error) {
	c.once.Do(func() { c.said, c.err = readProxy(c.in) })
	if c.err != nil {
		return 0, c.err
	}
	return c.in.Read(b)
}

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// readProxy gives version and client address ("v1 192.0.2.1:4711"); "" where the
// connection begins with something else. No HTTP request is shorter than what is
// looked at.
func readProxy(in *bufio.Reader) (string, error) {
	if head, err := in.Peek(len(proxySignature)); err == nil && bytes.Equal(head, proxySignature) {
		return readProxyV2(in)
	}
	if head, err := in.Peek(6); err != nil || string(head) != "PROXY " {
		return "", nil // what is wrong with it, HTTP says
	}
	line, err := in.ReadSlice('\n')
	fields := strings.Fields(string(line))
	switch {
	case err != nil || len(line) > 107:
		return "", errors.New("the PROXY protocol's line does not end")
	case len(fields) >= 2 && fields[1] == "UNKNOWN":
		return "v1 unknown", nil
	case len(fields) != 6:
		return "", fmt.Errorf("%q is not a line of the PROXY protocol", line)
	}
	return "v1 " + net.JoinHostPort(fields[2], fields[4]), nil
}

func readProxyV2(in *bufio.Reader) (string, error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(in, head); err != nil {
		return "", err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(in, body); err != nil {
		return "", err
	}
	size := map[byte]int{1: 4, 2: 16}[head[13]>>4] // of an address
	if head[12]&15 == 0 || size == 0 || len(body) < 2*size+4 {
		return "v2 unknown", nil
	}
	addr, _ := netip.AddrFromSlice(body[:size])
	return "v2 " + netip.AddrPortFrom(addr, binary.BigEndian.Uint16(body[2*size:])).String(), nil
}

type proxyKey struct{}

// withProxy makes what the PROXY protocol said known to requests.
func withProxy(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, proxyKey{}, c)
}

// proxySaid is what the PROXY protocol said of the connection; "" without it.
func proxySaid(ctx context.Context) string {
	if c, ok := ctx.Value(proxyKey{}).(*proxyConn); ok {
		return c.said
	}
	return ""
}
