package labels

import (
	"regexp"
	"strings"
	"time"
)

// Destination is what section "Where it goes" says of a route.
type Destination struct {
	Port   uint32  // 0: not said, the only published target port holds (translate finds it)
	Weight *uint32 // nil: by replicas

	PreferLocal bool
	Protocol    string // of Protocols; "": http1
	LBPolicy    string // "": least_request, or what HashOn, StickySessionCookie and IPHash select

	HashOn              Selector
	StickySessionCookie string
	IPHash              bool
	StickySessions      Sticky

	Mirror            Mirror
	Failover          string // service; "" none
	SendProxyProtocol string // "v1", "v2"; "" none

	SSLBackend       bool
	SSLBackendVerify string // "" and "none": not at all; "system"; else the name of material
	SSLBackendSNI    string // "": the first exact host

	RewritePath  string
	RewriteRegex Rewrite
	RewriteHost  string // host or "auto"; "" as the client sent it
}

// Sticky is the cookie that pins a client to a task; TTL 0 is until the browser ends.
type Sticky struct {
	Cookie string
	TTL    time.Duration
}

// Mirror is where copies of requests go.
type Mirror struct {
	Service string // "" nowhere
	Percent float64
}

// Rewrite replaces what a pattern matches in the path.
type Rewrite struct{ Pattern, Replacement string }

// destinationKeys: where requests are sent on, and how.
var destinationKeys = section{title: "Where it goes", keys: []key{
	{name: "port", class: Match, interlock: true, standardText: "the only distinct TCP target port under `ports`",
		value:   use(port, func(t *target, v uint32) { t.route.Port = v }),
		meaning: "The container port."},
	{name: "network", class: Match, interlock: true, serviceWide: true, standardText: "the collection's networks, in their order, that the task is on",
		value:   use(networkName, func(t *target, v string) { t.service.Network = v }),
		meaning: "The network over which tasks are reached; `bridge` is the host-published port."},
	{name: "backend_mode", class: Match, interlock: true, serviceWide: true, standard: "task",
		value:   use(word("task", "vip", "host"), func(t *target, v string) { t.service.BackendMode = BackendMode(v) }),
		meaning: "Sends requests to the tasks' addresses, to the service's VIP, or to the node's address and the host-published port."},
	{name: "prefer_local", class: Comfort, standard: "false",
		value:   use(boolean, func(t *target, v bool) { t.route.PreferLocal = v }),
		meaning: "Takes tasks on the proxy's own Swarm node while one of them is healthy. The proxy must know its node: `waggle envoy --zone '{{.Node.ID}}'`, or `WAGGLE_ZONE`; others choose among all tasks."},
	{name: "protocol", class: Match, standard: "http1",
		value:   use(word("http1", "h2c", "http2", "grpc", "auto"), func(t *target, v string) { t.route.Protocol = v }),
		meaning: "The protocol that the task speaks. Without TLS `http2` is `h2c`, HTTP/2 with prior knowledge; `grpc` is that, and keeps the deadline that a client sends in `grpc-timeout`; `auto` is the protocol of the client's own connection, as there is nothing to negotiate with over plain TCP. Over TLS (`ssl_backend`) it is what the handshake agrees on: one of them, or with `auto` the better one that the task has."},
	{name: "ssl_backend", class: Guard, interlock: true, standard: "false", value: use(boolean, func(t *target, v bool) { t.route.SSLBackend = v }),
		meaning: "Speaks TLS to the task. Its certificate is not looked at unless `ssl_backend_tls_verify` says so."},
	{name: "ssl_backend_tls_verify", class: Guard, interlock: true, standard: "none", value: use(called("`none`, `system`, name of a config or secret with CA certificates", object), func(t *target, v string) { t.route.SSLBackendVerify = v }),
		meaning: "Who must have issued the task's certificate: `system` is the authorities that everybody trusts, a name is those of a config or secret. It must be valid, and for the name that `ssl_backend_sni` says. While it cannot be checked the route answers 503."},
	{name: "ssl_backend_sni", class: Guard, standardText: "first exact host", value: use(host, func(t *target, v string) { t.route.SSLBackendSNI = v }),
		meaning: "The server name in the TLS handshake with the task, for which its certificate is checked."},
	{name: "lb_policy", class: Comfort, standard: "least_request",
		value:   use(word("round_robin", "least_request", "random", "ring_hash", "maglev"), func(t *target, v string) { t.route.LBPolicy = v }),
		meaning: "How a task is chosen."},
	{name: "hash_on", class: Comfort,
		value:   use(selector("ip", "header", "cookie", "query"), func(t *target, v Selector) { t.route.HashOn = v }),
		meaning: "What is hashed to choose a task; needs `ring_hash` or `maglev`, and selects `ring_hash` where `lb_policy` says neither. With `sticky_session_cookie` and `ip_hash`: the first of them, in this order, that the request has."},
	{name: "sticky_session_cookie", class: Comfort, interlock: true,
		value:   use(called("cookie name", token), func(t *target, v string) { t.route.StickySessionCookie = v }),
		meaning: "Hashes a cookie of the application."},
	{name: "sticky_sessions", class: Comfort,
		value:   use(sticky, func(t *target, v Sticky) { t.route.StickySessions = v }),
		meaning: "Pins to a task by a cookie of the proxy's own; survives scaling."},
	{name: "ip_hash", class: Comfort, interlock: true, standard: "false",
		value:   use(boolean, func(t *target, v bool) { t.route.IPHash = v }),
		meaning: "The same as `hash_on: ip`."},
	{name: "weight", class: Comfort, standardText: "by replicas",
		value:   use(whole(0, 1000000), func(t *target, v uint32) { t.route.Weight = &v }),
		meaning: "The share of this service among those with the same match; 0 takes none."},
	{name: "mirror", class: Comfort,
		value:   use(mirror, func(t *target, v Mirror) { t.route.Mirror = v }),
		meaning: "Sends a copy of the requests to another service."},
	{name: "failover", class: Comfort,
		value:   use(service, func(t *target, v string) { t.route.Failover = v }),
		meaning: "The service that is used while this one has no healthy task. It is spoken to as this one is (`protocol`, timeouts, checks), at the port that its own labels say."},
	{name: "send_proxy_protocol", class: Match,
		value:   use(word("v1", "v2"), func(t *target, v string) { t.route.SendProxyProtocol = v }),
		meaning: "Sends the PROXY protocol to the task."},
	{name: "rewrite_path", class: Match,
		value:   use(path, func(t *target, v string) { t.route.RewritePath = v }),
		meaning: "Replaces the matched prefix or path."},
	{name: "rewrite_regex", class: Match,
		value:   use(rewriteRegex, func(t *target, v Rewrite) { t.route.RewriteRegex = v }),
		meaning: "Replaces what the pattern matches in the path, everywhere; `\\1` is its first group."},
	{name: "rewrite_host", class: Match,
		value:   use(called("host, or `auto`", host), func(t *target, v string) { t.route.RewriteHost = v }),
		meaning: "Replaces the Host header; `auto` writes the name under which Swarm knows the service."},
}}

// PortOf is what the unnamed route's key port says, 0 without one. It serves where
// another service refers to one that has no route.
func PortOf(set *Set, opts Options) uint32 {
	v, ok := operatorValues("required", opts.Required)["port"]
	if !ok {
		v, ok = set.Routes[""]["port"]
	}
	if !ok {
		v = operatorValues("defaults", opts.Defaults)["port"]
	}
	n, err := port.read(v.Text)
	if err != nil {
		return 0
	}
	return n
}

// AsksForTLS reports whether any route of a service, served or not, wants TLS to its
// tasks, be it with a value that cannot be read.
func AsksForTLS(set *Set, opts Options) bool {
	const key = "ssl_backend"
	asks := func(v Value, said bool) bool {
		on, err := boolean.read(v.Text)
		return said && v.Text != "" && (on || err != nil)
	}
	if v, said := operatorValues("required", opts.Required)[key]; said {
		return asks(v, said)
	}
	silent := len(set.Routes) == 0
	for _, keys := range set.Routes {
		v, said := keys[key]
		if asks(v, said) {
			return true
		}
		silent = silent || !said
	}
	v, said := operatorValues("defaults", opts.Defaults)[key]
	return silent && asks(v, said)
}

var sticky = kind[Sticky]{doc: "cookie name[,ttl]", read: func(text string) (Sticky, error) {
	v, err := pair("cookie name[,ttl]", false, token, positive).read(text)
	return Sticky{Cookie: v.first, TTL: v.second}, err
}}

var mirror = kind[Mirror]{doc: "`service[,percent]`", read: func(text string) (Mirror, error) {
	v, err := pair("`service[,percent]`", false, service, percent).read(text)
	if !v.both {
		v.second = 100
	}
	return Mirror{Service: v.first, Percent: v.second}, err
}}

var rewriteRegex = kind[Rewrite]{doc: "`pattern,replacement` (split at the last comma)", read: func(text string) (Rewrite, error) {
	i := strings.LastIndexByte(text, ',')
	if i < 0 {
		return Rewrite{}, refuse("write `pattern,replacement`", "has no comma before a replacement")
	}
	p, err := regex.read(text[:i])
	if err != nil {
		return Rewrite{}, err
	}
	re, err := regexp.Compile(p)
	if err != nil {
		return Rewrite{}, refuse("write a simpler pattern", "is not an RE2 pattern")
	}
	to := text[i+1:]
	for j := 0; j < len(to); j++ { // as RE2 reads it: \0 to \9, and \\ for a backslash
		if to[j] != '\\' {
			continue
		}
		j++
		switch {
		case j == len(to) || to[j] != '\\' && (to[j] < '0' || to[j] > '9'):
			return Rewrite{}, refuse("write `\\1` for the first group, `\\\\` for a backslash", "has a backslash before something else than the number of a group")
		case to[j] != '\\' && int(to[j]-'0') > re.NumSubexp():
			return Rewrite{}, refuse("put the group into parentheses", "its replacement names group %c, and the pattern has %d", to[j], re.NumSubexp())
		}
	}
	return Rewrite{Pattern: p, Replacement: to}, nil
}}
