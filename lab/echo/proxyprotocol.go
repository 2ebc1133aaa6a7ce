package echo

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// proxyConn reads what the PROXY protocol (version 1 or 2, haproxy's
// doc/proxy-protocol.txt) says before anything else, where a connection begins so.
type proxyConn struct {
	net.Conn
	in   *bufio.Reader
	once sync.Once
	said string
	err  error
}

func newProxyConn(c net.Conn) *proxyConn { return &proxyConn{Conn: c, in: bufio.NewReader(c)} }

func (c *proxyConn) begin() error {
	c.once.Do(func() { c.said, c.err = readProxy(c.in) })
	return c.err
}

// first is the first byte after what the PROXY protocol says; Read gives it again.
func (c *proxyConn) first() (byte, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	b, err := c.in.Peek(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (c *proxyConn) Read(b []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
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
