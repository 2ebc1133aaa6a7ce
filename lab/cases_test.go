package lab

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// TestCases sends the requests of every example of the label language through a real
// Envoy. All of them run at once, in one table: what is wrong with one service must
// not be seen in another. An example that needs a configuration has a proxy of its own.
func TestCases(t *testing.T) {
	all, err := cases.Load("../translate/cases")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	t.Run("all at once", func(t *testing.T) {
		b := benchFor(t, config.ForCollections(nil))
		var plain []cases.Case
		for _, c := range all {
			if len(c.Config) == 0 {
				plain = append(plain, c)
			}
		}
		b.apply(t, deployed(t, certificates(t, plain...), plain...))
		for _, c := range plain {
			t.Run(c.Name, func(t *testing.T) { b.holds(t, c) })
		}
	})
	for _, c := range all {
		if len(c.Config) > 0 {
			t.Run(c.Name, func(t *testing.T) {
				at := certificates(t, c)
				b := benchFor(t, configOf(t, c, at[c.Name].dir))
				b.apply(t, deployed(t, at, c))
				b.holds(t, c)
			})
		}
	}
}

// shelf is where the certificates of a case are.
type shelf struct {
	dir string
	env map[string]string
}

// certificates makes those of each case, by its name.
func certificates(t *testing.T, all ...cases.Case) map[string]shelf {
	t.Helper()
	at := map[string]shelf{}
	for _, c := range all {
		dir := t.TempDir()
		_, env, err := certs.For(c, dir)
		require.NoError(t, err)
		at[c.Name] = shelf{dir, env}
	}
	return at
}

// deployed is what runs when all cases are deployed.
func deployed(t *testing.T, at map[string]shelf, all ...cases.Case) *watcher.Picture {
	t.Helper()
	var whole *watcher.Picture
	for _, c := range all {
		p, findings, err := stackfile.Load(t.Context(), stackfile.Options{Files: []string{c.File}, Stack: c.Stack, Env: at[c.Name].env})
		require.NoError(t, err, c.Name)
		for _, f := range findings {
			require.NotEqual(t, stackfile.Error, f.Severity, "%s: %s", c.Name, f)
		}
		if whole == nil {
			whole = p
			continue
		}
		maps.Copy(whole.Services, p.Services)
		maps.Copy(whole.Networks, p.Networks)
		maps.Copy(whole.Configs, p.Configs)
		maps.Copy(whole.Secrets, p.Secrets)
	}
	standIn(t, whole)
	return whole
}

// standIn has a provider on this machine stand in for the one of the cases.
func standIn(t *testing.T, p *watcher.Picture) {
	t.Helper()
	issuer := ""
	for _, s := range p.Services {
		for label, value := range s.Labels {
			if value == cases.Issuer && strings.HasSuffix(label, ".oidc_issuer") {
				if issuer == "" {
					issuer = newFakeProvider(t).issuer
				}
				s.Labels[label] = issuer
			}
		}
	}
}

// configOf is the configuration that a case asks for, with its certificates in a directory.
func configOf(t *testing.T, c cases.Case, dir string) *config.Config {
	t.Helper()
	collection := c.ConfigIn(dir)
	collection["default"] = true
	raw, err := yaml.Marshal(map[string]any{"collections": map[string]any{"default": collection}})
	require.NoError(t, err)
	cfg, _, err := config.Parse(raw, nil)
	require.NoError(t, err, c.Name)
	return cfg
}

// holds requires that a case gives what it says.
func (b *bench) holds(t *testing.T, c cases.Case) {
	if b.built().Resources("default")[translate.Listener]["https"] != nil { // it warms while plain HTTP is served
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", b.secure("default"), deadline)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, deadline, 5*time.Millisecond)
	}
	for _, r := range c.Requests {
		t.Run(r.Ask, func(t *testing.T) {
			ask := func(t require.TestingT) {
				for range max(1, r.Times) {
					b.gives(t, c, r)
				}
			}
			if r.Soon {
				require.EventuallyWithT(t, func(t *assert.CollectT) { ask(t) }, deadline, 10*time.Millisecond)
				return
			}
			ask(t)
		})
	}
	var told []cases.Problem
	for _, p := range b.built().Problems() {
		if strings.HasPrefix(p.Service, c.Stack+"_") {
			told = append(told, cases.Problem{
				Severity: string(p.Severity), Service: p.Service, Label: p.Label, Value: p.Value, Reason: p.Reason, Hint: p.Hint, Winner: p.Winner,
			})
		}
	}
	require.Empty(t, c.Compare(told))
}

// gives sends one request of a case and compares what comes back.
func (b *bench) gives(t require.TestingT, c cases.Case, r cases.Request) {
	u, err := url.Parse(r.URL())
	require.NoError(t, err)
	var body io.Reader
	if r.Body != "" {
		body = strings.NewReader(r.Body)
	}
	addr := b.proxy("default")
	if u.Scheme == "https" {
		addr = b.secure("default")
	}
	req, err := http.NewRequest(r.Method(), u.Scheme+"://"+addr+"/", body)
	require.NoError(t, err)
	req.Host = u.Host
	// The path as it is written, unnormalised.
	req.URL.Path, req.URL.RawPath, req.URL.RawQuery = u.Path, u.EscapedPath(), u.RawQuery
	if u.Path == "" {
		req.URL.Path = "/"
	}
	for name, value := range r.Headers {
		if req.Header.Set(name, value); strings.EqualFold(name, "Host") {
			req.Host = value // of another host than the connection is for
		}
	}
	tr := transportFor(t, c, r, u.Hostname())
	defer tr.CloseIdleConnections()
	client := http.Client{
		Transport:     tr,
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if r.Gives.Refused {
		require.Error(t, err, "%s: is refused, and was answered %+v", r.Ask, res)
		require.False(t, os.IsTimeout(err), "%s: is refused at once, not: %v", r.Ask, err)
		return
	}
	require.NoError(t, err, r.Ask)
	defer res.Body.Close()
	var raw []byte
	if res.StatusCode != http.StatusSwitchingProtocols { // what follows then ends when somebody hangs up
		raw, err = io.ReadAll(res.Body)
		require.NoError(t, err)
	}
	say := fmt.Sprintf("%s: %s %v\n%s", r.Ask, res.Status, res.Header, raw)

	want := r.Gives
	require.Equal(t, want.Status, res.StatusCode, say)
	require.Equal(t, want.Reason, res.Header.Get("X-Waggle-Reason"), say)
	if want.Service != "" {
		require.Equal(t, c.Stack+"_"+want.Service, res.Header.Get(echo.ServiceHeader), say)
	}
	if want.Location != "" {
		require.Equal(t, want.Location, res.Header.Get("Location"), say)
	}
	if want.Body != "" {
		require.Equal(t, strings.TrimSpace(want.Body), strings.TrimSpace(string(raw)), say)
	}
	compareHeaders(t, want.Headers, res.Header, say)
	if want.Protocol != "" {
		require.Equal(t, want.Protocol, res.Proto, say)
	}
	if u.Scheme == "https" {
		require.NotNil(t, res.TLS)
		if want.TLS != "" {
			require.Equal(t, want.TLS, strings.TrimPrefix(tls.VersionName(res.TLS.Version), "TLS "), say)
		}
		if want.Certificate != nil {
			require.Equal(t, want.Certificate, res.TLS.PeerCertificates[0].DNSNames, say)
		}
	}

	seen := want.Seen
	if !seen.Any() {
		return
	}
	var at echo.Answer
	require.NoError(t, json.Unmarshal(raw, &at), say)
	version, name := "none", "none"
	if at.TLS != nil {
		version, name = at.TLS.Version, cmp.Or(at.TLS.ServerName, name)
	}
	for _, f := range []struct{ what, want, got string }{
		{"method", seen.Method, at.Method}, {"host", seen.Host, at.Host}, {"path", seen.Path, at.Path}, {"query", seen.Query, at.Query},
		{"version of TLS", seen.TLS, version}, {"server name", seen.ServerName, name}, {"protocol", seen.Protocol, at.Protocol},
	} {
		if f.want != "" {
			require.Equal(t, f.want, f.got, "the %s that reached the task: %s", f.what, say)
		}
	}
	compareHeaders(t, seen.Headers, at.Headers, say)
}

// transportFor is how the client of a request speaks.
func transportFor(t require.TestingT, c cases.Case, r cases.Request, host string) *http.Transport {
	made, err := certs.Make(c.Certs)
	require.NoError(t, err)
	own := &tls.Config{ServerName: cmp.Or(r.SNI, host)}
	if r.Trust == "none" || r.SNI == "none" {
		own.InsecureSkipVerify = true
	}
	if r.SNI == "none" { // and Go takes no other word for it than an address
		own.ServerName = loopback
	}
	if r.Trust != "none" {
		pool, err := made.Pool(cmp.Or(r.Trust, certs.Local))
		require.NoError(t, err)
		own.RootCAs = pool
		if r.SNI != "" { // the certificate is for whom the client wants to reach
			own.InsecureSkipVerify = true
			own.VerifyConnection = func(s tls.ConnectionState) error {
				between := x509.NewCertPool()
				for _, c := range s.PeerCertificates[1:] {
					between.AddCert(c)
				}
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between})
				return err
			}
		}
	}
	if r.ClientCert != "" {
		cert, err := made.Certificate(r.ClientCert)
		require.NoError(t, err)
		own.Certificates = []tls.Certificate{cert}
	}
	switch r.TLS {
	case "":
	case "1.2":
		own.MaxVersion = tls.VersionTLS12
	case "1.3":
		own.MinVersion = tls.VersionTLS13
	default:
		require.Fail(t, "there is no version "+r.TLS)
	}
	var speaks http.Protocols
	speaks.SetHTTP1(r.Protocol != "h2")
	speaks.SetHTTP2(r.Protocol != "http1")
	return &http.Transport{DisableKeepAlives: true, DisableCompression: true, TLSClientConfig: own, Protocols: &speaks}
}

func compareHeaders(t require.TestingT, want map[string]string, got http.Header, say string) {
	for name, value := range want {
		require.Equal(t, value, strings.Join(got.Values(name), ", "), "%s: %s", name, say)
	}
}
