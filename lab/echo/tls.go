package echo

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

// TLS is what a task saw of the TLS of a connection.
type TLS struct {
	Version    string `json:"version"`               // "1.3"
	ServerName string `json:"server_name,omitempty"` // that the client asked for
	Client     string `json:"client,omitempty"`      // the subject of its certificate, which nobody checks
}

// versions of TLS, by number.
var versions = map[uint16]string{tls.VersionTLS10: "1.0", tls.VersionTLS11: "1.1", tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"}

// tlsFor is what a server does with connections that begin TLS: HTTP/2 and HTTP/1.1
// are spoken there, as they are in the clear.
func tlsFor(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	cfg.ClientAuth = cmp.Or(cfg.ClientAuth, tls.RequestClientCert)
	return cfg
}

// eitherListener takes connections that begin with TLS as well as those that do not,
// each after the PROXY protocol or without.
type eitherListener struct {
	net.Listener
	tls *tls.Config // nil: nothing is TLS
}

func (l eitherListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{proxyConn: newProxyConn(c), tls: l.tls}, nil
}

// conn decrypts what its client encrypts. For the HTTP server it is a plain connection:
// which version of HTTP is spoken, the server sees by how the client begins, also where
// the two agreed on it in the handshake.
type conn struct {
	*proxyConn
	tls *tls.Config

	once    sync.Once
	failed  error
	secured atomic.Pointer[tls.Conn] // nil: plain
}

// recordHandshake is the first byte of TLS; no request of HTTP begins with it.
const recordHandshake = 0x16

// Read finds out with the first byte what the connection is. Accept must not: a client
// that says nothing would keep others waiting.
func (c *conn) Read(b []byte) (int, error) {
	c.once.Do(func() {
		first, err := c.first()
		if c.failed = err; err == nil && first == recordHandshake && c.tls != nil {
			c.secured.Store(tls.Server(c.proxyConn, c.tls))
		}
	})
	if c.failed != nil {
		return 0, c.failed
	}
	if t := c.secured.Load(); t != nil {
		return t.Read(b)
	}
	return c.proxyConn.Read(b)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if t := c.secured.Load(); t != nil {
		return t.Write(b)
	}
	return c.proxyConn.Write(b)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	if t := c.secured.Load(); t != nil {
		return t.Close()
	}
	return c.proxyConn.Close()
}

type connKey struct{}

// withConn makes what came before HTTP known to requests.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// proxySaid is what the PROXY protocol said of the request's connection; "" without it.
func proxySaid(ctx context.Context) string {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.said
	}
	return ""
}

// tlsOf is what the request's connection is over TLS; nil where it is plain.
func tlsOf(ctx context.Context) *TLS {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return nil
	}
	t := c.secured.Load()
	if t == nil {
		return nil
	}
	state := t.ConnectionState()
	saw := &TLS{Version: versions[state.Version], ServerName: state.ServerName}
	if len(state.PeerCertificates) > 0 {
		saw.Client = state.PeerCertificates[0].Subject.String()
	}
	return saw
}
