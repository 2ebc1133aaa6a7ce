package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
)

// secured is a running lab with HTTPS of app.test and other.test from a directory.
type secured struct {
	t        testing.TB
	set      certs.Set
	dir      string
	roots    *x509.CertPool
	at       string // address of HTTPS
	admin    string // of Envoy
	progress *syncBuffer
}

func newSecured(t testing.TB, more map[string]cases.Cert) *secured {
	want := map[string]cases.Cert{"app": {Names: []string{"app.test"}}, "other": {Names: []string{"other.test"}}}
	serve := []string{"app", "other"}
	for name, c := range more {
		want[name] = c
		if strings.HasPrefix(name, "crowd-") {
			serve = append(serve, name)
		}
	}
	return secure(t, want, serve, `
services:
  app: {image: a, deploy: {labels: {lb.hosts: "app.test", lb.port: "80"}}}
  other: {image: a, deploy: {labels: {lb.hosts: "other.test,new.test", lb.port: "80"}}}
`, func(c *config.Collection) { c.HTTP3 = len(more) < 100 })
}

// secure runs a stack with HTTPS. Of the certificates wanted, those to serve are in the
// collection's directory; all are in files for the stack, too, which names them as a case
// does.
func secure(t testing.TB, want map[string]cases.Cert, serve []string, stack string, change func(*config.Collection)) *secured {
	t.Helper()
	set, err := certs.Make(want)
	require.NoError(t, err)
	s := &secured{t: t, set: set, dir: t.TempDir(), progress: new(syncBuffer)}
	s.roots, err = set.Pool(certs.Local)
	require.NoError(t, err)
	for _, name := range serve {
		s.put(name+".pem", name)
	}
	o := freeOptions(new(syncBuffer), s.progress)
	o.Env = map[string]string{certs.Variable: t.TempDir()}
	require.NoError(t, set.Write(o.Env[certs.Variable]))
	o.Files = []string{filepath.Join(t.TempDir(), "stack.yml")}
	require.NoError(t, os.WriteFile(o.Files[0], []byte(stack), 0o600))
	o.Config = config.ForCollections(nil)
	c := o.Config.Collections["default"]
	c.Certificates.Directories = []string{s.dir}
	change(c)
	r := running(t, o)
	s.at, s.admin = r.Collections["default"].HTTPS, r.Collections["default"].Admin
	return s
}

// put makes a file of the directory hold a certificate and its key, as a tool that
// renews certificates does.
func (s *secured) put(file, name string) {
	s.t.Helper()
	s.write(file, append(slices.Clone(s.set.Chain(name)), s.set.Key(name)...))
}

func (s *secured) write(file string, content []byte) {
	s.t.Helper()
	next := filepath.Join(s.dir, "."+file)
	require.NoError(s.t, os.WriteFile(next, content, 0o600))
	require.NoError(s.t, os.Rename(next, filepath.Join(s.dir, file)))
}

// shows is the serial of the certificate that a new connection for a host gets; ""
// where it is refused.
func (s *secured) shows(host string) string {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: deadline}, "tcp", s.at, &tls.Config{ServerName: host, RootCAs: s.roots})
	if err != nil {
		return ""
	}
	defer c.Close()
	return fmt.Sprintf("%x", c.ConnectionState().PeerCertificates[0].SerialNumber)
}

// allocated is how many bytes Envoy holds.
func (s *secured) allocated() int64 {
	s.t.Helper()
	var memory struct {
		Allocated int64 `json:"allocated,string"`
	}
	require.NoError(s.t, json.Unmarshal(s.page("/memory"), &memory))
	return memory.Allocated
}

// page is one of Envoy's admin pages.
func (s *secured) page(path string) []byte {
	s.t.Helper()
	resp, err := http.Get("http://" + s.admin + path)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return body
}

func (s *secured) serial(name string) string {
	c, err := s.set.Certificate(name)
	require.NoError(s.t, err)
	return fmt.Sprintf("%x", c.Leaf.SerialNumber)
}

// client speaks one protocol over one connection, and counts those that it made.
func (s *secured) client(host, protocol string, connections *atomic.Int32) *http.Client {
	trust := &tls.Config{ServerName: host, RootCAs: s.roots}
	if protocol == "h3" {
		tr := &http3.Transport{TLSClientConfig: trust, Dial: func(ctx context.Context, _ string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			connections.Add(1)
			return quic.DialAddr(ctx, s.at, c, q)
		}}
		s.t.Cleanup(func() { _ = tr.Close() })
		return &http.Client{Transport: tr, Timeout: deadline}
	}
	tr := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: protocol == "h2", MaxIdleConnsPerHost: 1, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		connections.Add(1)
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.at)
	}}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: deadline}
}

// steady asks for a host over one connection of each protocol until it is ended, and
// then says what went wrong.
func (s *secured) steady(host string) (end func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	var asked, failed atomic.Int32
	connections := map[string]*atomic.Int32{"http1": {}, "h2": {}, "h3": {}}
	var first atomic.Value
	for protocol, n := range connections {
		client := s.client(host, protocol, n)
		wg.Go(func() {
			for ctx.Err() == nil {
				// Not ctx: what is under way is to end well.
				req, err := http.NewRequestWithContext(s.t.Context(), "GET", "https://"+host+"/", nil)
				if err == nil {
					var resp *http.Response
					if resp, err = client.Do(req); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if resp.StatusCode != 200 {
							err = fmt.Errorf("%s %s", resp.Proto, resp.Status)
						}
					}
				}
				if asked.Add(1); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%s: %v", protocol, err))
				}
			}
		})
	}
	return func() {
		s.t.Helper()
		cancel()
		wg.Wait()
		s.t.Logf("%d requests for %s, %d failed", asked.Load(), host, failed.Load())
		require.Zero(s.t, failed.Load(), "%v", first.Load())
		for protocol, n := range connections {
			require.EqualValues(s.t, 1, n.Load(), "connections over %s", protocol)
		}
	}
}

// A renewed certificate is there for the next handshake, and no connection is touched
// by it: neither those of its own host nor, where a certificate comes or goes, others'.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	more := map[string]cases.Cert{"new": {Names: []string{"new.test"}}}
	const rotations = 8
	for i := range rotations {
		more[fmt.Sprintf("app-%d", i)] = cases.Cert{Names: []string{"app.test"}}
	}
	s := newSecured(t, more)
	require.Equal(t, s.serial("app"), s.shows("app.test"))
	require.Empty(t, s.shows("new.test"), "no certificate is for it")
	endApp, endOther := s.steady("app.test"), s.steady("other.test")
	var took []time.Duration
	for i := range rotations {
		name := fmt.Sprintf("app-%d", i)
		want, start := s.serial(name), time.Now()
		s.put("app.pem", name)
		require.Eventually(t, func() bool { return s.shows("app.test") == want }, deadline, time.Millisecond, "%s", s.progress)
		took = append(took, time.Since(start))
		if i%2 == 0 { // a chain comes, and goes
			s.put("new.pem", "new")
			require.Eventually(t, func() bool { return s.shows("new.test") == s.serial("new") }, deadline, time.Millisecond, "%s", s.progress)
		} else {
			require.NoError(t, os.Remove(filepath.Join(s.dir, "new.pem")))
			require.Eventually(t, func() bool { return s.shows("new.test") == "" }, deadline, time.Millisecond, "%s", s.progress)
		}
	}
	endApp()
	endOther()
	slices.Sort(took)
	t.Logf("from the file to the first new handshake: median %v, most %v", took[len(took)/2], took[len(took)-1])
}

// What cannot be served leaves what was there in service, and says so.
func TestBrokenCertificateKeepsTheOldOne(t *testing.T) {
	s := newSecured(t, map[string]cases.Cert{"next": {Names: []string{"app.test"}}})
	s.write("app.pem", append(slices.Clone(s.set.Chain("next")), s.set.Key("app")...))
	require.Eventually(t, func() bool {
		return strings.Contains(s.progress.String(), "what was there before stays in service")
	}, deadline, 5*time.Millisecond, "%s", s.progress)
	require.Equal(t, s.serial("app"), s.shows("app.test"))
	s.put("app.pem", "next")
	require.Eventually(t, func() bool { return s.shows("app.test") == s.serial("next") }, deadline, 5*time.Millisecond)
	require.NotContains(t, s.progress.String(), "PRIVATE KEY")
	require.Contains(t, s.progress.String(), ": collection default certificates.directories=app.pem: ")
}

// Over TCP a client learns of HTTP/3, and over QUIC it gets the same.
func TestHTTP3(t *testing.T) {
	s := newSecured(t, nil)
	var n atomic.Int32
	get := func(protocol, host, authority string) (*http.Response, error) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{})
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/", nil)
		require.NoError(t, err)
		req.Host = authority
		resp, err := s.client(host, protocol, &n).Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return resp, err
	}
	_, port, err := net.SplitHostPort(s.at)
	require.NoError(t, err)
	resp, err := get("h2", "app.test", "app.test")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf(`h3=":%s"; ma=86400`, port), resp.Header.Get("Alt-Svc"))
	resp, err = get("h3", "app.test", "app.test")
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "HTTP/3.0", resp.Proto)
	require.Equal(t, "stack_app", resp.Header.Get("X-Waggle-Service"))
	resp, err = get("h3", "app.test", "other.test")
	require.NoError(t, err)
	require.Equal(t, 421, resp.StatusCode)
	require.Equal(t, "wrong_connection", resp.Header.Get("X-Waggle-Reason"))
}

// One more certificate beside a thousand: from its file to the first handshake with it.
// Reported too: what Envoy holds for each.
func BenchmarkOneMoreCertificate(b *testing.B) {
	const crowd = 1000
	more := map[string]cases.Cert{}
	for i := range crowd {
		more[fmt.Sprintf("crowd-%04d", i)] = cases.Cert{Names: []string{fmt.Sprintf("host-%04d.crowd.test", i)}}
	}
	for i := range 200 {
		more[fmt.Sprintf("late-%d", i)] = cases.Cert{Names: []string{fmt.Sprintf("late-%d.test", i)}}
	}
	s := newSecured(b, more)
	last := fmt.Sprintf("host-%04d.crowd.test", crowd-1)
	require.Eventually(b, func() bool { return s.shows(last) != "" }, deadline, 10*time.Millisecond)
	var took []time.Duration
	for n := 0; b.Loop() && n < 200; n++ {
		name := fmt.Sprintf("late-%d", n)
		want, start := s.serial(name), time.Now()
		s.put(name+".pem", name)
		require.Eventually(b, func() bool { return s.shows(name+".test") == want }, deadline, 10*time.Millisecond)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/certificate(median)")
	bytes := s.allocated()
	b.ReportMetric(float64(bytes)/1024/(crowd+float64(len(took))), "KiB-of-Envoy/certificate")
}
