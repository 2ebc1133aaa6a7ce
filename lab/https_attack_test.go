package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/translate/cases"
)

// Whoever connects chooses the server name, or says nothing that makes sense. None of
// it may stay: not in Envoy, not at the control plane, and nobody else is to notice.
// With WAGGLE_SOAK set there are 10 000 names.
func TestServerNamesAreForgotten(t *testing.T) {
	names := 300
	if os.Getenv("WAGGLE_SOAK") != "" {
		names = 10_000
	}
	s := secure(t, map[string]cases.Cert{
		"app": {Names: []string{"app.test"}}, "other": {Names: []string{"other.test"}}, "wild": {Names: []string{"*.wild.test"}},
	}, []string{"app", "other", "wild"}, `
services:
  app: {image: a, deploy: {labels: {lb.hosts: "app.test", lb.port: "80"}}}
  other: {image: a, deploy: {labels: {lb.hosts: "other.test", lb.port: "80"}}}
  wild: {image: a, deploy: {labels: {lb.hosts: "*.wild.test", lb.port: "80"}}}
`, func(c *config.Collection) { c.HTTP3 = true })
	a := &attack{secured: s, random: rand.NewChaCha8([32]byte{6})}
	t.Cleanup(a.hangUp)
	end := s.steady("app.test")
	// Each kind once: what Envoy counts from then on has its place.
	a.wave(t, 2*len(a.kinds()))
	a.settle(t)
	type sample struct {
		stats   map[string]int64
		secrets []string
		memory  int64
	}
	take := func() sample { return sample{s.stats(), s.secrets(), s.allocated()} }
	before, most, began := take(), int64(0), time.Now()
	for i := range 10 {
		a.wave(t, names*(i+1)/10-names*i/10)
		most = max(most, s.allocated())
	}
	took := time.Since(began)
	a.settle(t)
	after := take()
	end()

	more := func(name string) int64 {
		require.Contains(t, after.stats, name)
		return after.stats[name] - before.stats[name]
	}
	t.Logf("%d random server names, %s each, beside %d bytes to the control plane: Envoy holds %d KiB before, at most %d KiB meanwhile, %d KiB after; "+
		"%d secrets before, %d after; %d stats before, %d after; %d connections of HTTPS, %d of them open",
		names, (took / time.Duration(names)).Round(time.Microsecond), more(toPlane), before.memory/1024, most/1024, after.memory/1024,
		len(before.secrets), len(after.secrets), len(before.stats), len(after.stats), more("http.https.downstream_cx_total"), after.stats[openTCP])

	// That every one met what it was to meet, wave has seen.
	require.GreaterOrEqual(t, more("http.https.downstream_cx_total"), int64(names/2))
	require.Equal(t, []string{"cert/file/app.pem", "cert/file/other.pem", "cert/file/wild.pem"}, before.secrets)
	require.Equal(t, before.secrets, after.secrets)
	require.Equal(t, slices.Sorted(maps.Keys(before.stats)), slices.Sorted(maps.Keys(after.stats)), "stats come with names")
	for _, name := range []string{"listener_manager.lds.update_attempt", "listener_manager.listener_in_place_updated", "listener_manager.listener_modified"} {
		require.Zero(t, more(name), name)
	}
	// What a proxy says anyway is some words a minute; a name that it asked for were
	// more than its own length, twice.
	require.Less(t, more(toPlane), int64(8*names))
	// A megabyte is 100 bytes of each of the 10 000; what a name costs where it is kept is
	// almost a hundred times as much.
	require.Less(t, after.memory-before.memory, int64(4<<20))
	require.Less(t, most-before.memory, int64(16<<20))
	require.Equal(t, s.serial("other"), s.shows("other.test"))
}

const (
	// toPlane counts what Envoy sends to the control plane.
	toPlane = "cluster." + bootstrap.XDSCluster + ".upstream_cx_tx_bytes_total"
	// openTCP counts connections over TCP that got through their handshake.
	openTCP = "http.https.downstream_cx_active"
)

// secrets are the names of those that Envoy has or waits for: what it has subscribed to.
func (s *secured) secrets() []string {
	s.t.Helper()
	var names []string
	for _, which := range []string{"dynamic_active_secrets", "dynamic_warming_secrets"} {
		var dump struct {
			Configs []struct{ Name string }
		}
		require.NoError(s.t, json.Unmarshal(s.page("/config_dump?resource="+which), &dump))
		for _, c := range dump.Configs {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

// stats are Envoy's counters and gauges.
func (s *secured) stats() map[string]int64 {
	s.t.Helper()
	all := map[string]int64{}
	for line := range strings.Lines(string(s.page("/stats"))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			all[name] = n
		}
	}
	require.NotEmpty(s.t, all)
	return all
}

// attack is somebody who connects and means no good.
type attack struct {
	*secured
	mu     sync.Mutex
	random *rand.ChaCha8
	n      int
	held   []net.Conn // with half a ClientHello
}

// wave connects so many times with random server names, and each other way now and
// then. It fails where the answer is not the one that such a connection gets.
func (a *attack) wave(t *testing.T, names int) {
	t.Helper()
	kinds, work := a.kinds(), make(chan func() error)
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range 4 {
		wg.Go(func() {
			for f := range work {
				if err := f(); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	for range names {
		a.n++
		if kind := 2 + a.n%20; kind < len(kinds) {
			work <- kinds[kind]
		}
		work <- kinds[a.n%2]
	}
	close(work)
	wg.Wait()
	if err := failed.Load(); err != nil {
		require.NoError(t, *err)
	}
}

// kinds are the ways to connect: with names without a chain, with names under that of a
// wildcard, and the others.
func (a *attack) kinds() []func() error {
	return []func() error{
		func() error { return a.refused(a.name() + ".example.com") },
		func() error { return a.wildcard(a.name() + ".wild.test") },
		func() error { return a.refused("") },
		func() error { return a.refused(strings.ToUpper(a.name()) + "..*.test") },
		func() error { return a.garbage([]byte("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")) },
		func() error { return a.garbage(a.bytes(300)) },
		func() error { return a.garbage([]byte{22, 3, 1, 0xff, 0xff, 1, 0, 0, 0}) },
		a.half,
	}
}

func (a *attack) bytes(n int) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := make([]byte, n)
	_, _ = a.random.Read(b)
	return b
}

func (a *attack) name() string { return fmt.Sprintf("%x", a.bytes(12)) }

func (a *attack) dial() (net.Conn, error) {
	c, err := net.DialTimeout("tcp", a.at, deadline)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(deadline))
	}
	return c, err
}

// refused is a connection for whose name there is no chain: it ends in the handshake.
func (a *attack) refused(name string) error {
	raw, err := a.dial()
	if err != nil {
		return err
	}
	defer raw.Close()
	err = tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	if err == nil {
		return fmt.Errorf("%q: got a certificate", name)
	}
	if os.IsTimeout(err) {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// wildcard is one that is served, as any name below a wildcard is.
func (a *attack) wildcard(name string) error {
	raw, err := a.dial()
	if err != nil {
		return err
	}
	defer raw.Close()
	got, err := get(tls.Client(raw, &tls.Config{ServerName: name, RootCAs: a.roots}), name, nil)
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("%s: %d", name, got.status)
	}
	return err
}

// garbage is no ClientHello, and its sender is sent away.
func (a *attack) garbage(what []byte) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(what); err != nil {
		return nil // sent away already
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil
	}
	answer, err := io.ReadAll(c)
	if os.IsTimeout(err) {
		return fmt.Errorf("%d bytes that are no ClientHello are not sent away: %w", len(what), err)
	}
	if bytes.Contains(answer, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("an answer in the clear: %q", answer)
	}
	return nil
}

// half holds a connection open in the middle of its ClientHello.
func (a *attack) half() error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	hello := make([]byte, 60)
	copy(hello, []byte{22, 3, 1, 0, 250, 1, 0, 0, 246, 3, 3})
	a.mu.Lock()
	a.held = append(a.held, c)
	a.mu.Unlock()
	_, err = c.Write(hello)
	return err
}

// settle waits until Envoy has sent those away who never said who they want to reach,
// and holds nothing of anybody else.
func (a *attack) settle(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	held := a.held
	a.held = nil
	a.mu.Unlock()
	require.NotEmpty(t, held)
	for _, c := range held {
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		_, err := io.Copy(io.Discard, c)
		require.False(t, os.IsTimeout(err), "half a ClientHello is held for ever")
		_ = c.Close()
	}
	require.Eventually(t, func() bool {
		now, is := a.stats()[openTCP]
		return is && now <= 2 // those of steady
	}, deadline, 20*time.Millisecond, "connections stay open")
}

func (a *attack) hangUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.held {
		_ = c.Close()
	}
}

// got is one answer, and what the connection agreed on.
type got struct {
	status int
	header http.Header
	seen   echo.Answer
	tls    tls.ConnectionState
}

// get asks for a host over a connection that is used once, by HTTP/1.1.
func get(c *tls.Conn, host string, header http.Header) (got, error) {
	var g got
	if err := c.Handshake(); err != nil {
		return g, err
	}
	req, err := http.NewRequest("GET", "https://"+host+"/", nil)
	if err != nil {
		return g, err
	}
	if req.Close = true; header != nil {
		req.Header = header
	}
	if err := req.Write(c); err != nil {
		return g, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return g, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	g.status, g.header, g.tls = resp.StatusCode, resp.Header, c.ConnectionState()
	if err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		err = json.Unmarshal(body, &g.seen)
	}
	return g, err
}

// oneTicket keeps one ticket, whomever it is from.
type oneTicket struct{ session *tls.ClientSessionState }

func (o *oneTicket) Get(string) (*tls.ClientSessionState, bool)    { return o.session, o.session != nil }
func (o *oneTicket) Put(_ string, session *tls.ClientSessionState) { o.session = session }

// A client that comes back is recognised; with a ticket from before a renewal it gets
// the new certificate; and no ticket leads past the question for the client's own.
func TestSessionsAreResumed(t *testing.T) {
	s := secure(t, map[string]cases.Cert{
		"app": {Names: []string{"app.test"}}, "next": {Names: []string{"app.test"}}, "after": {Names: []string{"app.test"}},
		"wild":  {Names: []string{"*.wild.test"}},
		"staff": {CA: true}, "alice": {By: "staff", Subject: "alice"},
	}, []string{"app", "wild"}, `
services:
  app: {image: a, deploy: {labels: {lb.hosts: "app.test", lb.port: "80"}}}
  open: {image: a, deploy: {labels: {lb.hosts: "open.wild.test", lb.port: "80"}}}
  closed: {image: a, deploy: {labels: {lb.hosts: "closed.wild.test", lb.port: "80", lb.client_ca: staff}}}
configs:
  staff: {file: "${CERTS}/staff.pem"}
`, func(*config.Collection) {})
	alice, err := s.set.Certificate("alice")
	require.NoError(t, err)
	ask := func(host string, cfg *tls.Config) (got, error) {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: deadline}, "tcp", s.at, cfg)
		if err != nil {
			return got{}, err
		}
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		return get(c, host, nil)
	}
	newest := "app"
	for version, renewed := range map[uint16]string{tls.VersionTLS12: "next", tls.VersionTLS13: "after"} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			own := func(host string) *tls.Config {
				return &tls.Config{ServerName: host, RootCAs: s.roots, MinVersion: version, MaxVersion: version, ClientSessionCache: &oneTicket{}}
			}
			good := func(cfg *tls.Config, resumed bool) {
				t.Helper()
				g, err := ask(cfg.ServerName, cfg)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, g.status)
				require.Equal(t, version, g.tls.Version)
				require.Equal(t, resumed, g.tls.DidResume)
				if cfg.ServerName == "app.test" {
					require.Equal(t, s.serial(newest), fmt.Sprintf("%x", g.tls.PeerCertificates[0].SerialNumber))
				}
			}
			app := own("app.test")
			good(app, false)
			good(app, true)
			good(app, true)

			newest = renewed
			s.put("app.pem", newest)
			require.Eventually(t, func() bool { return s.shows("app.test") == s.serial(newest) }, deadline, time.Millisecond)
			good(app, false)
			good(app, true)

			// Both are below the one certificate, and this client does not mind whose
			// ticket it shows.
			open, closed := own("open.wild.test"), own("closed.wild.test")
			good(open, false)
			good(open, true)
			closed.ClientSessionCache, closed.InsecureSkipVerify = open.ClientSessionCache, true
			_, err := ask("closed.wild.test", closed)
			require.Error(t, err, "a ticket of an open host stands in for the client's certificate")
			require.False(t, os.IsTimeout(err), "%v", err)
			_, err = ask("closed.wild.test", own("closed.wild.test"))
			require.Error(t, err)

			closed.Certificates = []tls.Certificate{alice}
			good(closed, false) // the open host's ticket is worth nothing
			good(closed, true)
			// Nor does what was opened as alice open what another host's chain holds.
			open.ClientSessionCache, open.InsecureSkipVerify = closed.ClientSessionCache, true
			good(open, false)
		})
	}
}

// One connection serves all hosts that its certificate is for, as browsers expect who
// use it so (coalescing), and sends those away who ask it for others.
func TestOneConnectionForAllHostsOfACertificate(t *testing.T) {
	s := secure(t, map[string]cases.Cert{
		"both": {Names: []string{"one.test", "two.test"}}, "third": {Names: []string{"three.test"}}, "wild": {Names: []string{"*.wild.test"}},
		"staff": {CA: true},
	}, []string{"both", "third", "wild"}, `
services:
  one: {image: a, deploy: {labels: {lb.hosts: "one.test", lb.port: "80"}}}
  two: {image: a, deploy: {labels: {lb.hosts: "two.test", lb.port: "80"}}}
  three: {image: a, deploy: {labels: {lb.hosts: "three.test", lb.port: "80"}}}
  left: {image: a, deploy: {labels: {lb.hosts: "left.wild.test", lb.port: "80"}}}
  right: {image: a, deploy: {labels: {lb.hosts: "right.wild.test", lb.port: "80"}}}
  closed: {image: a, deploy: {labels: {lb.hosts: "closed.wild.test", lb.port: "80", lb.client_ca: staff}}}
configs:
  staff: {file: "${CERTS}/staff.pem"}
`, func(c *config.Collection) { c.HTTP3 = true })
	// opened is a browser's connection for a host, and how it asks for another on it.
	opened := func(t *testing.T, protocol, first string) (ask func(host string) *http.Response, connections *atomic.Int32) {
		connections = new(atomic.Int32)
		client := s.client(first, protocol, connections)
		return func(host string) *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+first+"/", nil)
			require.NoError(t, err)
			req.Host = host
			resp, err := client.Do(req)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			return resp
		}, connections
	}
	serves := func(t *testing.T, resp *http.Response, service string) {
		t.Helper()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, "stack_"+service, resp.Header.Get(echo.ServiceHeader))
	}
	misdirected := func(t *testing.T, resp *http.Response) {
		t.Helper()
		require.Equal(t, http.StatusMisdirectedRequest, resp.StatusCode)
		require.Equal(t, "wrong_connection", resp.Header.Get("X-Waggle-Reason"))
		require.Empty(t, resp.Header.Get(echo.ServiceHeader))
	}
	for _, protocol := range []string{"http1", "h2", "h3"} {
		t.Run(protocol, func(t *testing.T) {
			ask, connections := opened(t, protocol, "one.test")
			serves(t, ask("one.test"), "one")
			serves(t, ask("two.test"), "two")
			misdirected(t, ask("three.test"))
			misdirected(t, ask("left.wild.test"))
			misdirected(t, ask("nobody.test"))
			serves(t, ask("two.test"), "two") // and the connection is as good as before
			require.EqualValues(t, 1, connections.Load())

			ask, connections = opened(t, protocol, "three.test") // what a browser does then
			serves(t, ask("three.test"), "three")
			require.EqualValues(t, 1, connections.Load())

			ask, connections = opened(t, protocol, "left.wild.test")
			serves(t, ask("left.wild.test"), "left")
			serves(t, ask("right.wild.test"), "right")
			misdirected(t, ask("closed.wild.test"))
			misdirected(t, ask("one.test"))
			require.EqualValues(t, 1, connections.Load())
		})
	}
	t.Run("the protocol that both speak", func(t *testing.T) {
		for offer, want := range map[string]string{
			"h2 http/1.1": "h2", "http/1.1 h2": "h2", "http/1.1": "http/1.1", "h2": "h2", "spdy/3 http/1.1": "http/1.1", "": "", "spdy/3": "",
		} {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: deadline}, "tcp", s.at, &tls.Config{ServerName: "one.test", RootCAs: s.roots, NextProtos: strings.Fields(offer)})
			require.NoError(t, err, "offers %q", offer)
			require.Equal(t, want, c.ConnectionState().NegotiatedProtocol, "offers %q", offer)
			if want != "h2" {
				require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
				g, err := get(c, "one.test", nil)
				require.NoError(t, err, "offers %q", offer)
				require.Equal(t, http.StatusOK, g.status)
			}
			_ = c.Close()
		}
	})
}

// Under proxy_protocol HTTPS, too, takes trusted proxies' word for who the client is,
// and lets nobody else in.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	s := secure(t, map[string]cases.Cert{"site": {Names: []string{"office.test", "any.test"}}}, []string{"site"}, `
services:
  office: {image: a, deploy: {labels: {lb.hosts: "office.test", lb.port: "80", lb.allow_ips: "192.0.2.7, 2001:db8::7"}}}
  any: {image: a, deploy: {labels: {lb.hosts: "any.test", lb.port: "80"}}}
`, func(c *config.Collection) { c.TrustedProxies, c.ProxyProtocol = []string{"127.0.0.2/32"}, true })
	ask := func(from, hello, host, forwarded string) (got, error) {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", s.at)
		require.NoError(t, err)
		defer raw.Close()
		require.NoError(t, raw.SetDeadline(time.Now().Add(deadline)))
		if _, err := io.WriteString(raw, hello); err != nil {
			return got{}, err
		}
		header := http.Header{}
		if forwarded != "" {
			header.Set("X-Forwarded-For", forwarded)
		}
		return get(tls.Client(raw, &tls.Config{ServerName: host, RootCAs: s.roots}), host, header)
	}
	v1 := func(client string) string {
		if netip.MustParseAddr(client).Is4() {
			return "PROXY TCP4 " + client + " 192.0.2.1 4711 443\r\n"
		}
		return "PROXY TCP6 " + client + " 2001:db8::1 4711 443\r\n"
	}
	v2 := func(client string) string {
		ip := netip.MustParseAddr(client).As4()
		b := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), ip[:]...)
		b = append(b, 192, 0, 2, 1)
		return string(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, 4711), 443))
	}
	const front, stranger = "127.0.0.2", "127.0.0.3"
	for _, tc := range []struct {
		name, from, hello, forwarded string
		status                       int
	}{
		{"version 1", front, v1("192.0.2.7"), "", 200},
		{"version 2", front, v2("192.0.2.7"), "", 200},
		{"IPv6", front, v1("2001:db8::7"), "", 200},
		{"another client", front, v1("192.0.2.8"), "", 403},
		{"another client, version 2", front, v2("192.0.2.8"), "", 403},
		{"a client that says who it is", front, v1("192.0.2.8"), "192.0.2.7", 403},
		{"a trusted proxy behind a trusted proxy", front, v1(front), "192.0.2.7", 200},
		{"a stranger's word about that", front, v1(stranger), "192.0.2.7", 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, err := ask(tc.from, tc.hello, "office.test", tc.forwarded)
			require.NoError(t, err)
			require.Equal(t, tc.status, g.status, "%v", g.header)
			require.Empty(t, g.header.Get("Alt-Svc"), "there is no place for the PROXY protocol in QUIC")
		})
	}
	for name, tc := range map[string][2]string{
		"no PROXY header": {front, ""}, "a stranger with one": {stranger, v1("192.0.2.7")}, "a stranger": {stranger, ""},
		"half a PROXY header": {front, "PROXY TCP4 192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(tc[0], tc[1], "office.test", "192.0.2.7")
			require.Error(t, err)
			require.False(t, os.IsTimeout(err), "%v", err)
		})
	}
	g, err := ask(front, v1("192.0.2.7"), "any.test", "203.0.113.9")
	require.NoError(t, err)
	require.Equal(t, "192.0.2.7", g.seen.Headers.Get("X-Real-Ip"))
	require.Equal(t, "https", g.seen.Headers.Get("X-Forwarded-Proto"))
	_, err = ask(front, v1("192.0.2.7"), "nobody.test", "")
	require.Error(t, err, "no certificate is for it")
}
