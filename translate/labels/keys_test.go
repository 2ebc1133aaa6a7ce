package labels

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// language is every key of the label language by class, in the order of its
// specification: a key that vanishes from the table breaks someone's stack.
var language = []struct {
	class Class
	names string
}{
	{Match, "hosts default_backend context_root context_root_rewrite path path_regex methods match_header match_query priority"},
	{None, "service_cluster"},
	{Match, "port network backend_mode"},
	{Comfort, "prefer_local"},
	{Match, "protocol"},
	{Guard, "ssl_backend ssl_backend_tls_verify ssl_backend_sni"},
	{Comfort, "lb_policy hash_on sticky_session_cookie sticky_sessions ip_hash weight mirror failover"},
	{Match, "send_proxy_protocol rewrite_path rewrite_regex rewrite_host"},
	{Match, "redirects redirect"},
	{Comfort, "redirect_code"},
	{Guard, "ssl_only"},
	{Match, "respond"},
	{None, "ssl_cert ssl_key"},
	{Guard, "ssl_passthrough"},
	{None, "tls"},
	{Guard, "tls_min_version client_ca"},
	{Comfort, "hsts"},
	{Comfort, "connect_timeout timeout idle_timeout retries retry_on retry_methods per_try_timeout max_fails fail_timeout health_path"},
	{Comfort, "health_interval health_timeout health_rise health_fall max_connections max_pending_requests max_requests slow_start"},
	{Guard, "allow_ips deny_ips basic_auth jwt_issuer jwt_jwks jwt_audiences ext_auth ext_auth_headers"},
	{Guard, "oidc_issuer oidc_client_id oidc_client_secret oidc_scopes api_keys rate_limit rate_limit_by max_body_size"},
	{Guard, "cors_origins cors_methods cors_headers cors_credentials cors_max_age"},
	{Comfort, "set_request_header add_request_header remove_request_headers set_response_header add_response_header remove_response_headers"},
	{Comfort, "compression websocket_endpoints websocket access_log trace_sampling fault_delay fault_abort"},
	{Match, "tcp_port tcp_hosts udp_port"},
}

const (
	interlockKeys = "hosts default_backend context_root context_root_rewrite service_cluster port network backend_mode " +
		"ssl_backend ssl_backend_tls_verify sticky_session_cookie ip_hash redirects ssl_only ssl_cert ssl_key ssl_passthrough " +
		"max_fails fail_timeout websocket_endpoints"
	serviceWideKeys = "service_cluster network backend_mode"
	namedKeys       = "match_header match_query set_request_header add_request_header set_response_header add_response_header"
	// unbuiltKeys are known and checked; what they ask for is not served.
	unbuiltKeys = "tcp_port tcp_hosts udp_port"
)

func TestTableIsTheLanguage(t *testing.T) {
	var want []string
	classes := map[string]Class{}
	for _, l := range language {
		for _, name := range strings.Fields(l.names) {
			want = append(want, name)
			classes[name] = l.class
		}
	}
	require.Equal(t, want, keyNames)

	having := func(has func(row) bool) (names []string) {
		for _, k := range keys {
			if has(k) {
				names = append(names, k.name)
			}
		}
		return names
	}
	require.ElementsMatch(t, strings.Fields(interlockKeys), having(func(k row) bool { return k.interlock }))
	require.ElementsMatch(t, strings.Fields(serviceWideKeys), having(func(k row) bool { return k.serviceWide }))
	require.ElementsMatch(t, strings.Fields(namedKeys), having(func(k row) bool { return k.takes != unnamed }))
	require.ElementsMatch(t, strings.Fields(unbuiltKeys), having(func(k row) bool { return !k.value.built }))
	for _, k := range keys {
		require.Equal(t, string(classes[k.name]), string(k.class), k.name)
		require.NotEmpty(t, k.meaning, k.name)
		require.NotEmpty(t, k.value.doc, k.name)
		require.False(t, k.narrows && k.class != Match, k.name)
		require.False(t, k.serviceWide && k.class == Guard, "%s: a guard of the whole service has no effect yet", k.name)
		if k.standard != "" {
			notes, ok := k.value.read(k.standard, nil)
			require.True(t, ok, k.name)
			require.Empty(t, notes, k.name)
			require.True(t, k.value.same(k.standard, k.standard), k.name)
		}
	}
	require.True(t, slices.IsSortedFunc(keys, func(a, b row) int { return a.place - b.place }))
}

// Every key is refused with a reason and a way out when its value is nonsense,
// and does then what its class says.
func TestEveryKeyHasItsClass(t *testing.T) {
	for _, k := range keys {
		t.Run(k.name, func(t *testing.T) {
			label := "com.docker.lb." + k.name
			if k.takes != unnamed {
				label += ".X-Name"
			}
			s := parse(t, map[string]string{
				"com.docker.lb.hosts": "a.example", "com.docker.lb.port": "80", label: "bad\nvalue",
			}, Options{})
			if k.name == "service_cluster" {
				require.Empty(t, s.Problems, "whoever knows the collections tells")
				return
			}
			require.Len(t, s.Problems, 1)
			require.Equal(t, label, s.Problems[0].Label)
			require.Len(t, s.Routes, 1)
			r := s.Routes[0]
			require.Equal(t, k.class == Match, r.Broken)
			require.Equal(t, k.class == Guard, r.Closed)
			require.Equal(t, k.narrows, r.Vague)
			require.Equal(t, k.serviceWide, s.Broken)
			if k.class == Comfort {
				require.Equal(t, Warning, s.Problems[0].Severity)
			} else {
				require.Equal(t, Error, s.Problems[0].Severity)
			}
		})
	}
}
