package labels

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestDestinationAndResilienceKeys(t *testing.T) {
	r := parse(t, map[string]string{
		"lb.hosts": "a.example", "lb.port": "80",
		"lb.protocol": "grpc", "lb.lb_policy": "maglev", "lb.hash_on": "header:X-Tenant", "lb.sticky_session_cookie": "app", "lb.ip_hash": "yes",
		"lb.sticky_sessions": "pin,1h", "lb.mirror": "shadow, 12.5%", "lb.failover": "spare", "lb.send_proxy_protocol": "v2",
		"lb.rewrite_path": "new", "lb.rewrite_regex": `^/(\d{1,3})/,/v\1/`, "lb.rewrite_host": "auto", "lb.prefer_local": "true",
		"lb.retry_on": "connect-failure, reset,unavailable", "lb.retry_methods": "PUT", "lb.per_try_timeout": "3s",
		"lb.health_path": "/up", "lb.health_interval": "1s", "lb.health_timeout": "500ms", "lb.health_rise": "2", "lb.health_fall": "5",
		"lb.max_connections": "10", "lb.max_pending_requests": "20", "lb.max_requests": "30", "lb.slow_start": "1m",
	}, Options{}).Routes[0]
	require.Empty(t, cmp.Diff(Destination{
		Port: 80, Protocol: "grpc", LBPolicy: "maglev", HashOn: Selector{"header", "X-Tenant"}, StickySessionCookie: "app", IPHash: true,
		StickySessions: Sticky{"pin", time.Hour}, Mirror: Mirror{"shadow", 12.5}, Failover: "spare", SendProxyProtocol: "v2",
		RewritePath: "/new", RewriteRegex: Rewrite{`^/(\d{1,3})/`, `/v\1/`}, RewriteHost: "auto", PreferLocal: true,
	}, r.Destination))
	require.Empty(t, cmp.Diff(Resilience{
		IdleTimeout: 10 * time.Minute, ConnectTimeout: 500 * time.Millisecond, Retries: 2, FailTimeout: 5 * time.Second,
		RetryOn: []string{"connect-failure", "reset", "unavailable"}, RetryMethods: []string{"PUT"}, PerTryTimeout: 3 * time.Second,
		HealthPath: "/up", HealthInterval: time.Second, HealthTimeout: 500 * time.Millisecond, HealthRise: 2, HealthFall: 5,
		MaxConnections: 10, MaxPendingRequests: 20, MaxRequests: 30, SlowStart: time.Minute,
	}, r.Resilience))

	none := parse(t, map[string]string{"lb.hosts": "a.example", "lb.mirror": "shadow", "lb.sticky_sessions": "pin", "lb.retry_methods": "none"}, Options{}).Routes[0]
	require.Equal(t, Mirror{"shadow", 100}, none.Mirror)
	require.Equal(t, Sticky{"pin", 0}, none.StickySessions)
	require.Empty(t, none.RetryMethods)
	require.NotNil(t, none.RetryMethods, "none is not the default")
}

func TestPortOf(t *testing.T) {
	set := func(port string) *Set {
		return Merge([]string{"lb"}, "x", map[string]string{"lb.port": port})
	}
	for _, tt := range []struct {
		name string
		set  *Set
		o    Options
		want uint32
	}{
		{"the label", set("81"), Options{Defaults: map[string]string{"port": "82"}}, 81},
		{"required", set("81"), Options{Required: map[string]string{"port": "83"}}, 83},
		{"defaults", &Set{}, Options{Defaults: map[string]string{"port": "82"}}, 82},
		{"bad", set("http"), Options{}, 0},
		{"none", &Set{}, Options{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, PortOf(tt.set, tt.o)) })
	}
}
