package translate

import (
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// spoken is TLS as a cluster speaks it; nil where it does not.
func spoken(t *testing.T, b *Builder, cluster string) *tlsv3.UpstreamTlsContext {
	t.Helper()
	r := b.Resources("dev")[Cluster][cluster]
	require.NotNil(t, r, cluster)
	s := r.Message.(*clusterv3.Cluster).TransportSocket
	if s == nil {
		return nil
	}
	unpack := func(s *corev3.TransportSocket) any {
		m, err := s.GetTypedConfig().UnmarshalNew()
		require.NoError(t, err)
		return m
	}
	m := unpack(s)
	if p, is := m.(*proxyprotocolv3.ProxyProtocolUpstreamTransport); is {
		m = unpack(p.TransportSocket)
	}
	c, is := m.(*tlsv3.UpstreamTlsContext)
	if !is {
		return nil
	}
	if sds := c.CommonTlsContext.GetCombinedValidationContext(); sds != nil {
		name := sds.ValidationContextSdsSecretConfig.Name
		require.Contains(t, r.Refs, Ref{Secret, name})
		require.NotNil(t, b.Resources("dev")[Secret][name], "what is named is served")
		require.NotEmpty(t, sds.DefaultValidationContext.MatchTypedSubjectAltNames, "any certificate of the authorities would do")
	}
	require.Nil(t, c.CommonTlsContext.GetValidationContext().GetSystemRootCerts(), "checks nothing") //nolint:staticcheck
	return c
}

// checker is the secret with whose authorities certificates are checked, "system", or "".
func checker(c *tlsv3.UpstreamTlsContext) string {
	switch v := c.CommonTlsContext.ValidationContextType.(type) {
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		return v.CombinedValidationContext.ValidationContextSdsSecretConfig.Name
	case *tlsv3.CommonTlsContext_ValidationContext:
		if v.ValidationContext.TrustedCa.GetFilename() == systemRoots {
			return "system"
		}
		return "nothing"
	}
	return ""
}

func TestConnectTimeoutToATaskOverTLS(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 2 * time.Second, "500ms": 500 * time.Millisecond, "0.5s": 500 * time.Millisecond, "1s": time.Second, "soon": 2 * time.Second} {
		w := newWorld()
		w.service("x_web", map[string]string{"hosts": "a.test", "port": "443", "ssl_backend": "true", "connect_timeout": value})
		c := w.build(t, testConfig()).Resources("dev")[Cluster]["x_web:443"].Message.(*clusterv3.Cluster)
		require.Equal(t, want, c.ConnectTimeout.AsDuration(), value)
		require.Equal(t, want, c.HealthChecks[0].Timeout.AsDuration(), "of the first connection: %s", value)
	}
}

// What a service says about TLS to its tasks holds for everybody who sends there.
func TestWhoElseSendsToATaskSpeaksTLS(t *testing.T) {
	ca, _ := pemOf("CA")
	tls := map[string]string{"port": "443", "ssl_backend": "true"}
	with := func(base map[string]string, more ...string) map[string]string {
		out := map[string]string{}
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	routed := with(tls, "hosts", "o.test", "ssl_backend_tls_verify", "ca")
	for _, tt := range []struct {
		name     string
		own      map[string]string // labels of the service that names the other
		other    map[string]string
		cluster  string // that is used; "": none
		checked  string
		told     string
		severity labels.Severity
	}{
		{name: "a mirror", own: map[string]string{"mirror": "other"}, other: routed, cluster: "a_other:443", checked: "ca/config/ca"},
		{name: "a guard", own: map[string]string{"ext_auth": "other:443/ask"}, other: routed, cluster: "a_other:443", checked: "ca/config/ca"},
		{name: "a guard in another protocol", own: map[string]string{"ext_auth": "grpc://other:443"}, other: routed, cluster: "a_other:443+h2c", checked: "ca/config/ca"},
		{name: "nobody says how", own: map[string]string{"mirror": "other"}, other: tls, told: "wants TLS to its tasks (ssl_backend), and has no route to port 443", severity: labels.Warning},
		{name: "nobody says how, and it guards", own: map[string]string{"ext_auth": "other:443"}, other: tls, told: "wants TLS to its tasks", severity: labels.Error},
		{name: "its own route is closed", own: map[string]string{"mirror": "other"}, other: with(routed, "ssl_backend_tls_verify", "gone"), told: "wants TLS to its tasks", severity: labels.Warning},
		{name: "a word that is neither yes nor no", own: map[string]string{"mirror": "other"}, other: with(tls, "ssl_backend", "perhaps"), told: "wants TLS to its tasks", severity: labels.Warning},
		{name: "another port", own: map[string]string{"ext_auth": "other:80"}, other: routed, told: "has no route to port 80", severity: labels.Error},
		{name: "plain", own: map[string]string{"mirror": "other"}, other: map[string]string{"port": "80", "ssl_backend": "false"}, cluster: "a_other:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.gives("ca", ca)
			w.service("a_web", with(tt.own, "hosts", "a.test", "port", "80"), stack("a"))
			w.service("a_other", tt.other, stack("a"))
			b := w.build(t, testConfig())
			if tt.told != "" {
				requireProblem(t, b, "a_web", tt.severity, tt.told)
				require.Equal(t, tt.severity == labels.Error, routeLines(b, "dev", "a.test")[0] == "/* -> 503 guard_unavailable", routeLines(b, "dev", "a.test"))
				for name := range b.Resources("dev")[Cluster] {
					require.True(t, !strings.HasPrefix(name, "a_other") || spoken(t, b, name) != nil, "%s is plain", name)
				}
				return
			}
			require.Empty(t, problemsOf(b, "a_web"))
			c := spoken(t, b, tt.cluster)
			if tt.checked == "" {
				require.Nil(t, c)
				return
			}
			require.Equal(t, tt.checked, checker(c))
			require.Equal(t, "o.test", c.Sni)
		})
	}
}

func TestWhoStandsInIsSpokenToAsItAsks(t *testing.T) {
	ca, _ := pemOf("CA")
	for _, tt := range []struct {
		name        string
		own, spare  map[string]string
		told        string
		used, plain bool
	}{
		{name: "both in the clear", used: true, plain: true},
		{name: "both over TLS", own: map[string]string{"ssl_backend": "true"}, spare: map[string]string{"ssl_backend": "true"}, used: true},
		{name: "checked more than asked", own: map[string]string{"ssl_backend": "true", "ssl_backend_tls_verify": "ca"}, spare: map[string]string{"ssl_backend": "true"}, used: true},
		{name: "in the clear instead", spare: map[string]string{"ssl_backend": "true"}, told: "service a_spare wants TLS to its tasks", plain: true},
		{name: "over TLS instead", own: map[string]string{"ssl_backend": "true"}, told: "service a_spare has no TLS to its tasks"},
		{name: "checked less", own: map[string]string{"ssl_backend": "true"}, spare: map[string]string{"ssl_backend": "true", "ssl_backend_tls_verify": "ca"}, told: "wants the certificates of its tasks to be checked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.gives("ca", ca)
			all := func(host string, more map[string]string) map[string]string {
				out := map[string]string{"hosts": host, "port": "443"}
				for k, v := range more {
					out[k] = v
				}
				return out
			}
			own := all("a.test", tt.own)
			own["failover"] = "spare"
			w.service("a_web", own, stack("a"))
			w.service("a_spare", all("s.test", tt.spare), stack("a"))
			b := w.build(t, testConfig())
			require.Equal(t, tt.plain, spoken(t, b, "a_web:443") == nil)
			percent := b.Resources("dev")[Cluster]["a_web:443"].Message.(*clusterv3.Cluster).OutlierDetection.MaxEjectionPercent.GetValue()
			require.Equal(t, tt.used, percent == 100)
			if tt.told == "" {
				require.Empty(t, problemsOf(b, "a_web"))
			} else {
				requireProblem(t, b, "a_web", labels.Warning, tt.told)
			}
		})
	}
}

// Authorities come, change and go: whoever sends to the service is built again with it,
// and what is built is what would be built from nothing.
func TestAuthoritiesOfTasksComeAndGo(t *testing.T) {
	one, _ := pemOf("CA", "one")
	two, _ := pemOf("CA", "two")
	sh := newShelf(t)
	w := newWorld()
	w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "mirror": "other", "failover": "other"}, stack("a"))
	w.service("a_other", map[string]string{"hosts": "o.test", "port": "443", "ssl_backend": "true", "ssl_backend_tls_verify": "users"}, stack("a"))
	b := NewBuilder()
	b.Build(Input{Picture: w.Picture, Config: sh.cfg, Material: sh.material()}, watcher.Changes{All: true})
	for _, step := range []struct {
		content string
		secrets int
		mirror  string
	}{{one, 1, "a_other:443"}, {two, 1, "a_other:443"}, {"", 0, ""}, {two, 1, "a_other:443"}, {"garbage", 0, ""}} {
		sh.put(sh.dir, "users", step.content)
		in := Input{Picture: w.Picture, Config: sh.cfg, Material: sh.material()}
		b.Build(in, watcher.Changes{Shared: true})
		require.Equal(t, step.mirror, mirrorOf(b, "a.test"))
		require.Len(t, b.Resources("dev")[Secret], step.secrets)
		if step.secrets > 0 {
			held := b.Resources("dev")[Secret]["ca/file/users"].Message.(*tlsv3.Secret).GetValidationContext().TrustedCa.GetInlineBytes()
			require.True(t, secrets.Hide(held).Equal(secrets.Hide([]byte(step.content))), "the authorities that are there now")
			spoken(t, b, "a_other:443")
		} else {
			require.Equal(t, []string{"/* -> 503 guard_unavailable"}, routeLines(b, "dev", "o.test"))
			require.NotContains(t, b.Resources("dev")[Cluster], "a_other:443")
		}
		require.Empty(t, cmp.Diff(everything(Build(in), sh.cfg), everything(b, sh.cfg)))
	}
}
