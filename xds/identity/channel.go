package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// closeAfter is how much longer than a certificate its connection lives: the time
	// that a stream's last word needs to reach the proxy. Nothing is served in it.
	closeAfter = time.Second
	// warnBefore is how long before its end the control plane's certificate is complained about.
	warnBefore = 30 * 24 * time.Hour
	// repeatAfter is how often the same complaint is made.
	repeatAfter = 24 * time.Hour
	// refusalsEvery bounds what strangers can write into the log.
	refusalsEvery = 10 * time.Second
)

// channel is TLS as Waggle speaks it with its proxies, and every open connection.
type channel struct {
	files Files
	log   *slog.Logger
	now   func() time.Time
	poll  time.Duration

	current atomic.Pointer[material]

	reading  sync.Mutex // held while the files are read
	seen     signature  // of the files when they were last read, and good
	broken   error      // why what is in the files is not current
	warnedAt time.Time

	mu      sync.Mutex
	conns   map[*conn]struct{}
	refused refusals
}

// refusals are the handshakes that failed.
type refusals struct {
	count, logged uint64
	last          error
	loggedAt      time.Time
}

func newChannel(files Files, o Options) (*channel, error) {
	c := &channel{
		files: files, log: o.Logger, now: o.Now, poll: o.Poll,
		conns: make(map[*conn]struct{}),
	}
	seen := files.signature()
	m, err := files.load(o.Now())
	if err != nil {
		return nil, err
	}
	if seen.settled(o.Now()) {
		c.seen = seen
	}
	c.current.Store(m)
	return c, nil
}

// config is what a handshake begins with; what it goes on with is read at that moment.
func (c *channel) config() *tls.Config {
	base := tlsConfig(c.current.Load(), c.now)
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c.refresh()
		return tlsConfig(c.current.Load(), c.now), nil
	}
	return base
}

// tlsConfig is for one version of the files.
func tlsConfig(m *material, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{m.certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    m.authorities,
		// A resumed session would bring back trust from before a change of the authorities.
		SessionTicketsDisabled: true,
		Time:                   now,
	}
}

// refresh takes changed files into use. It is called by every handshake: whoever finds
// another one at it goes on with what is there.
func (c *channel) refresh() {
	if !c.reading.TryLock() {
		return
	}
	defer c.reading.Unlock()
	seen := c.files.signature()
	if seen == c.seen {
		return
	}
	m, err := c.files.load(c.now())
	if err == nil && seen.settled(c.now()) {
		c.seen = seen // else they may change again without looking different: read them once more
	}
	old := c.current.Load()
	switch {
	case err != nil:
		if c.broken == nil || c.broken.Error() != err.Error() {
			c.log.Error("the channel's new certificate is not usable; the old one stays in force", "error", err, "until", old.end())
		}
		c.broken = err
		return
	case m.same(old):
		c.broken = nil
		return
	}
	c.broken, c.warnedAt = nil, time.Time{}
	c.current.Store(m)
	c.log.Info("the channel has a new certificate", "valid_until", m.end(), "authorities", m.count)
	c.sweep(func(n *conn) bool { return n.verify(m.authorities, c.now()) != nil })
}

// run is Guard.Run.
func (c *channel) run(ctx context.Context) {
	tick := time.NewTicker(c.poll)
	defer tick.Stop()
	for {
		c.refresh()
		// Each connection has a timer for this, which does not know of a machine that
		// slept or a clock that was set.
		c.sweep(func(n *conn) bool { return c.now().After(n.end.Add(closeAfter)) })
		c.warn()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// warn complains about a certificate of our own that is about to end.
func (c *channel) warn() {
	now, end := c.now(), c.current.Load().end()
	c.reading.Lock()
	defer c.reading.Unlock()
	if now.Add(warnBefore).Before(end) || now.Before(c.warnedAt.Add(repeatAfter)) {
		return
	}
	c.warnedAt = now
	c.log.Warn("the control plane's certificate ends soon, and then no proxy connects any more: issue a new one (waggle ca issue)", "end", end)
}

// conn is the connection of a client that has proved who it is.
type conn struct {
	net.Conn
	channel *channel
	state   tls.ConnectionState
	end     time.Time
	timer   *time.Timer
}

// Close closes the connection and forgets it.
func (n *conn) Close() error {
	n.channel.mu.Lock()
	delete(n.channel.conns, n)
	n.timer.Stop()
	n.channel.mu.Unlock()
	return n.Conn.Close()
}

// admit keeps watch over a connection. The trust it was verified by may have ended a
// moment ago, so it is verified again once it is known to sweep.
func (c *channel) admit(raw net.Conn, state tls.ConnectionState) (net.Conn, error) {
	if len(state.VerifiedChains) == 0 {
		return nil, errors.New("the client has shown no certificate that could be verified")
	}
	n := &conn{Conn: raw, channel: c, state: state}
	for _, chain := range state.VerifiedChains {
		if end := earliestEnd(chain); end.After(n.end) {
			n.end = end
		}
	}
	c.mu.Lock()
	n.timer = time.AfterFunc(n.end.Sub(c.now())+closeAfter, func() { _ = n.Close() })
	c.conns[n] = struct{}{}
	c.mu.Unlock()
	if err := n.verify(c.current.Load().authorities, c.now()); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// verify says whether the client would be let in now.
func (n *conn) verify(authorities *x509.CertPool, now time.Time) error {
	intermediates := x509.NewCertPool()
	for _, cert := range n.state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := n.state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: authorities, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// sweep closes the connections of clients that would not be let in any more.
func (c *channel) sweep(lapsed func(*conn) bool) {
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.conns))
	c.mu.Unlock()
	for _, n := range open {
		if lapsed(n) {
			c.log.Info("a proxy's certificate is not valid any more: its connection is closed", "proxy", n.RemoteAddr())
			_ = n.Close()
		}
	}
}

// credentials are those of a gRPC server on this channel.
func (c *channel) credentials() credentials.TransportCredentials {
	return &transport{TransportCredentials: credentials.NewTLS(c.config()), channel: c}
}

// transport adds to gRPC's TLS what happens at the end of a handshake.
type transport struct {
	credentials.TransportCredentials
	channel *channel
}

// Clone is part of credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{TransportCredentials: t.TransportCredentials.Clone(), channel: t.channel}
}

// ServerHandshake is part of credentials.TransportCredentials.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	remote := raw.RemoteAddr()
	secured, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		t.channel.refuse(remote, err)
		return nil, nil, err
	}
	state := info.(credentials.TLSInfo).State
	admitted, err := t.channel.admit(secured, state)
	if err != nil {
		t.channel.refuse(remote, err)
		return nil, nil, errors.Join(err, secured.Close())
	}
	return admitted, info, nil
}

// refuse counts a client that could not prove who it is, and logs some of them.
func (c *channel) refuse(remote net.Addr, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return // it never began: a port scan, a health check
	}
	now := c.now()
	c.mu.Lock()
	r := &c.refused
	r.count++
	r.last = fmt.Errorf("%s: %w", remote, err)
	tell := now.Sub(r.loggedAt) >= refusalsEvery
	since := r.count - r.logged
	if tell {
		r.logged, r.loggedAt = r.count, now
	}
	c.mu.Unlock()
	if tell {
		c.log.Warn("a client of the channel could not prove who it is", "client", remote, "error", err, "refused_since_last_told", since)
	}
}

// Status is what an operator wants to know of the channel.
type Status struct {
	Insecure    bool      // the node ID is believed
	NotAfter    time.Time // end of the control plane's certificate
	Problem     error     // why the files on disk are not in use; nil: they are
	Connections int       // of clients that proved who they are
	Refused     uint64    // clients that could not, since the start
	LastRefusal error     // the newest of them; nil: none
}

// Status is the state now. It does not look at the files: Run and handshakes do.
func (g *Guard) Status() Status {
	if g.tls == nil {
		return Status{Insecure: true}
	}
	c := g.tls
	c.reading.Lock()
	problem := c.broken
	c.reading.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{
		NotAfter: c.current.Load().end(), Problem: problem,
		Connections: len(c.conns), Refused: c.refused.count, LastRefusal: c.refused.last,
	}
}
