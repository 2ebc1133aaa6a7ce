package labels

import (
	"strings"
	"time"
)

//go:generate go test -run TestReference . -update

// key is one key of the label language: a row of the table below. Parsing,
// diagnostics, suggestions and the reference all come from it: adding a key is
// adding a row, and a field of Route for its value.
type key struct {
	name  string
	takes naming // what stands after the key ("match_header.X-Tenant")

	class       Class
	interlock   bool // Interlock's own key
	serviceWide bool // holds for every route of the service; an error in a named route
	narrows     bool // says which part of its hosts a route takes: see Route.Vague

	value binding
	// standard is the value that says the same as no label at all, "" where there is none.
	standard string
	// standardText is what the reference shows instead of standard.
	standardText string
	meaning      string
}

// naming says what kind of name a key takes.
type naming byte

const (
	unnamed       naming = iota
	headerName           // any header, compared without case
	shapedName           // a header that labels may change
	parameterName        // a query parameter
)

// section is a chapter of the reference.
type section struct {
	title string
	intro string
	keys  []key
}

const (
	connectTimeout = 500 * time.Millisecond
	idleTimeout    = 10 * time.Minute
	retryCount     = 2
	failTimeout    = 5 * time.Second
)

// sections is the whole language.
var sections = []section{
	{title: "Which traffic", keys: []key{
		{name: "hosts", class: Match, interlock: true, standardText: "required, or `default_backend`",
			value:   useHosts(func(t *target, v []string) { t.route.Hosts = v }),
			meaning: "The hosts of the route: exact before wildcard (longest suffix first) before `*`. Case is folded, IDN becomes punycode, a trailing dot and (with a warning) a port are dropped; a bad entry drops that entry."},
		{name: "default_backend", class: Match, interlock: true, standard: "false",
			value:   use(boolean, func(t *target, v bool) { t.route.DefaultBackend = v }),
			meaning: "Takes every host that nobody claimed; once per collection, never shared."},
		{name: "context_root", class: Match, interlock: true, narrows: true, standard: "/",
			value:   use(pathPrefix, func(t *target, v string) { t.route.ContextRoot = v }),
			meaning: "Takes a path prefix, segment by segment: `/app` takes `/app` and `/app/x`, not `/apple`. Services may share a host with different roots; the longest wins."},
		{name: "context_root_rewrite", class: Match, interlock: true, standard: "false",
			value:   use(boolean, func(t *target, v bool) { t.route.ContextRootRewrite = v }),
			meaning: "Strips the context root before the task sees the path; `/app` answers 301 to `/app/`."},
		{name: "path", class: Match, narrows: true, value: later(list("list of exact paths", path)),
			meaning: "Takes these paths only."},
		{name: "path_regex", class: Match, narrows: true, value: later(regex),
			meaning: "Takes paths that the whole pattern matches."},
		{name: "methods", class: Match, narrows: true, standardText: "any", value: later(list("list", method)),
			meaning: "Takes these methods only."},
		{name: "match_header", takes: headerName, class: Match, narrows: true, value: later(match),
			meaning: "Takes requests with this header; all such labels of a route must match."},
		{name: "match_query", takes: parameterName, class: Match, narrows: true, value: later(match),
			meaning: "Takes requests with this query parameter; all such labels of a route must match."},
		{name: "priority", class: Match, standard: "0", value: later(integer),
			meaning: "Higher comes first; among equals exact before regex before longer prefix, then more matchers, then age."},
		{name: "service_cluster", class: None, interlock: true, serviceWide: true, standardText: "access label, placement constraint, then the default collection",
			value:   accept(collectionName),
			meaning: "The collection that publishes the service."},
	}},
	{title: "Where it goes", keys: []key{
		{name: "port", class: Match, interlock: true, standardText: "the only distinct TCP target port under `ports`",
			value:   use(port, func(t *target, v uint32) { t.route.Port = v }),
			meaning: "The container port."},
		{name: "network", class: Match, interlock: true, serviceWide: true, standardText: "the collection's networks, in their order, that the task is on",
			value:   use(networkName, func(t *target, v string) { t.service.Network = v }),
			meaning: "The network over which tasks are reached; `bridge` is the host-published port."},
		{name: "backend_mode", class: Match, interlock: true, serviceWide: true, standard: "task",
			value:   use(word("task", "vip", "host"), func(t *target, v string) { t.service.BackendMode = BackendMode(v) }),
			meaning: "Sends requests to the tasks' addresses, to the service's VIP, or to the node's address and the host-published port."},
		{name: "prefer_local", class: Comfort, standard: "false", value: later(boolean),
			meaning: "Prefers tasks on the proxy's own Swarm node."},
		{name: "protocol", class: Match, standard: "http1", value: later(word("http1", "h2c", "http2", "grpc", "auto")),
			meaning: "The protocol that the task speaks."},
		{name: "ssl_backend", class: Guard, interlock: true, standard: "false", value: later(boolean),
			meaning: "Speaks TLS to the task."},
		{name: "ssl_backend_tls_verify", class: Guard, interlock: true, standard: "none", value: later(called("`none`, `system`, name of a config or secret with CA certificates", object)),
			meaning: "How the task's certificate is checked."},
		{name: "ssl_backend_sni", class: Guard, standardText: "first exact host", value: later(host),
			meaning: "The server name in the TLS handshake with the task."},
		{name: "lb_policy", class: Comfort, standard: "least_request", value: later(word("round_robin", "least_request", "random", "ring_hash", "maglev")),
			meaning: "How a task is chosen."},
		{name: "hash_on", class: Comfort, value: later(selector("ip", "header", "cookie", "query")),
			meaning: "What is hashed to choose a task; needs `ring_hash` or `maglev`, which it selects."},
		{name: "sticky_session_cookie", class: Comfort, interlock: true, value: later(called("cookie name", token)),
			meaning: "Hashes a cookie of the application."},
		{name: "sticky_sessions", class: Comfort, value: later(pair("cookie name[,ttl]", false, token, positive)),
			meaning: "Pins to a task by a cookie of the proxy's own; survives scaling."},
		{name: "ip_hash", class: Comfort, interlock: true, standard: "false", value: later(boolean),
			meaning: "The same as `hash_on: ip`."},
		{name: "weight", class: Comfort, standardText: "by replicas",
			value:   use(whole(0, 1000000), func(t *target, v uint32) { t.route.Weight = &v }),
			meaning: "The share of this service among those with the same match; 0 takes none."},
		{name: "mirror", class: Comfort, value: later(pair("`service[,percent]`", false, service, percent)),
			meaning: "Sends a copy of the requests to another service."},
		{name: "failover", class: Comfort, value: later(service),
			meaning: "The service that is used while this one has no healthy task."},
		{name: "send_proxy_protocol", class: Match, value: later(word("v1", "v2")),
			meaning: "Sends the PROXY protocol to the task."},
		{name: "rewrite_path", class: Match, value: later(path),
			meaning: "Replaces the matched prefix or path."},
		{name: "rewrite_regex", class: Match, value: later(rewriteRegex),
			meaning: "Replaces what the pattern matches in the path."},
		{name: "rewrite_host", class: Match, value: later(called("host, or `auto`", host)),
			meaning: "Replaces the Host header."},
	}},
	{title: "Answers from the proxy", keys: []key{
		{name: "redirects", class: Match, interlock: true, value: later(redirects),
			meaning: "Answers 302 to dst with the request's path and query; `src` need not be in `hosts`."},
		{name: "redirect", class: Match, value: later(link),
			meaning: "This route redirects there."},
		{name: "redirect_code", class: Comfort, standard: "302", value: later(code(301, 302, 303, 307, 308)),
			meaning: "The status of `redirect` and `redirects`."},
		{name: "ssl_only", class: Guard, interlock: true, standard: "false", value: later(boolean),
			meaning: "Plain HTTP answers 308 to https."},
		{name: "respond", class: Match, value: later(pair("`status[,text]`", false, respondStatus, anything)),
			meaning: "A fixed answer, for maintenance."},
	}},
	{title: "TLS", keys: []key{
		{name: "ssl_cert", class: None, interlock: true, value: later(called("name of a secret or file", object)),
			meaning: "The certificate of `hosts`; plain HTTP stays open unless `ssl_only`. One PEM with certificate and key is accepted."},
		{name: "ssl_key", class: None, interlock: true, value: later(called("name of a secret or file", object)),
			meaning: "The key of `ssl_cert`."},
		{name: "ssl_passthrough", class: Guard, interlock: true, standard: "false", value: later(boolean),
			meaning: "Sends TLS by its server name straight to `port`."},
		{name: "tls", class: None, value: later(word("auto", "local")),
			meaning: "A certificate by ACME (`auto`) or from the built-in development CA (`local`)."},
		{name: "tls_min_version", class: Guard, standard: "1.2", value: later(word("1.2", "1.3")),
			meaning: "The lowest TLS version of the hosts."},
		{name: "client_ca", class: Guard, value: later(called("CA certificates: name of a config, secret or file", object)),
			meaning: "Client certificates of these authorities are required."},
		{name: "hsts", class: Comfort, value: later(duration),
			meaning: "Sends Strict-Transport-Security for this long."},
	}},
	{title: "Resilience", keys: []key{
		{name: "connect_timeout", class: Comfort, standard: "500ms", standardText: "500ms, 2s with `ssl_backend`",
			value:   use(patience, func(t *target, v time.Duration) { t.route.ConnectTimeout = v }),
			meaning: "How long a connection to a task may take; short, because a dead task's address swallows packets instead of refusing."},
		{name: "timeout", class: Comfort, standard: "0",
			value:   use(duration, func(t *target, v time.Duration) { t.route.Timeout = v }),
			meaning: "How long the whole request may take; 0 is without end."},
		{name: "idle_timeout", class: Comfort, standard: "10m",
			value:   use(duration, func(t *target, v time.Duration) { t.route.IdleTimeout = v }),
			meaning: "How long there may be no byte in either direction; 0 is without end."},
		{name: "retries", class: Comfort, standard: "2",
			value:   use(count, func(t *target, v uint32) { t.route.Retries = v }),
			meaning: "How often a request is sent again."},
		{name: "retry_on", class: Comfort, standard: "connect-failure,refused-stream,reset-before-request",
			standardText: "`connect-failure,refused-stream,reset-before-request` for every method, and `reset` for `retry_methods`",
			value: later(list("list of Envoy's words", word("connect-failure", "refused-stream", "reset-before-request", "reset",
				"5xx", "gateway-error", "retriable-4xx", "retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
				"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"))),
			meaning: "What makes the proxy send a request again; one that a task may have seen only where HTTP says that this is safe."},
		{name: "retry_methods", class: Comfort, standard: "GET,HEAD,OPTIONS", value: later(either("list, or `none`", list("", word("none")), list("", method))),
			meaning: "The methods that may be sent twice."},
		{name: "per_try_timeout", class: Comfort, standard: "0", standardText: "none", value: later(duration),
			meaning: "How long one attempt may take."},
		{name: "max_fails", class: Comfort, interlock: true, standardText: "1 connection failure or 5 answers of 502–504",
			value:   use(count, func(t *target, v uint32) { t.route.MaxFails = &v }),
			meaning: "Failures after which a task is left alone for `fail_timeout`; sets both counts, 0 switches it off. Never more than half of the tasks."},
		{name: "fail_timeout", class: Comfort, interlock: true, standard: "5s",
			value:   use(positive, func(t *target, v time.Duration) { t.route.FailTimeout = v }),
			meaning: "How long a failing task is left alone."},
		{name: "health_path", class: Comfort, value: later(path),
			meaning: "Asks every task for this path now and then."},
		{name: "health_interval", class: Comfort, standard: "5s", value: later(positive),
			meaning: "Time between two checks of a task."},
		{name: "health_timeout", class: Comfort, standard: "2s", value: later(positive),
			meaning: "How long a check may take."},
		{name: "health_rise", class: Comfort, standard: "1", value: later(some),
			meaning: "Good checks that make a task healthy."},
		{name: "health_fall", class: Comfort, standard: "3", value: later(some),
			meaning: "Bad checks that make a task unhealthy."},
		{name: "max_connections", class: Comfort, standardText: "unlimited", value: later(some),
			meaning: "Connections to the service, per proxy."},
		{name: "max_pending_requests", class: Comfort, standardText: "unlimited", value: later(some),
			meaning: "Requests that wait for a connection, per proxy."},
		{name: "max_requests", class: Comfort, standardText: "unlimited", value: later(some),
			meaning: "Requests at once, per proxy."},
		{name: "slow_start", class: Comfort, standard: "0", standardText: "none", value: later(duration),
			meaning: "How long a new task's share grows."},
	}},
	{title: "Guards", keys: []key{
		{name: "allow_ips", class: Guard, value: later(list("list of CIDRs", addressRange)),
			meaning: "Only these client addresses pass (the address behind `trusted_proxies`)."},
		{name: "deny_ips", class: Guard, value: later(list("list of CIDRs", addressRange)),
			meaning: "These client addresses do not pass."},
		{name: "basic_auth", class: Guard, value: later(called("secret or config in htpasswd form", object)),
			meaning: "Asks for a user and password."},
		{name: "jwt_issuer", class: Guard, value: later(text),
			meaning: "The issuer whose tokens pass."},
		{name: "jwt_jwks", class: Guard, value: later(either("URL, config or secret", link, object)),
			meaning: "The keys that tokens are checked with."},
		{name: "jwt_audiences", class: Guard, value: later(list("list", text)),
			meaning: "The audiences whose tokens pass."},
		{name: "ext_auth", class: Guard, value: later(authService),
			meaning: "Asks another service whether a request passes; fails closed."},
		{name: "ext_auth_headers", class: Guard, value: later(list("list of header names", token)),
			meaning: "The headers that it is shown and may set."},
		{name: "oidc_issuer", class: Guard, value: later(link),
			meaning: "Logs users in at this OpenID provider."},
		{name: "oidc_client_id", class: Guard, value: later(text),
			meaning: "The client's name at the provider."},
		{name: "oidc_client_secret", class: Guard, value: later(called("name of a secret", object)),
			meaning: "The client's secret at the provider."},
		{name: "oidc_scopes", class: Guard, value: later(list("list", text)),
			meaning: "The scopes that are asked for."},
		{name: "api_keys", class: Guard, value: later(called("secret or config", object)),
			meaning: "Asks for one of these keys."},
		{name: "rate_limit", class: Guard, value: later(rate),
			meaning: "Requests per second or minute, per proxy."},
		{name: "rate_limit_by", class: Guard, value: later(selector("ip", "header")),
			meaning: "What the rate is counted by."},
		{name: "max_body_size", class: Guard, value: later(size),
			meaning: "Larger requests are answered with 413."},
		{name: "cors_origins", class: Guard, value: later(list("list", text)),
			meaning: "The origins whose scripts may call."},
		{name: "cors_methods", class: Guard, value: later(list("list", either("", word("*"), method))),
			meaning: "The methods that they may use."},
		{name: "cors_headers", class: Guard, value: later(list("list", token)),
			meaning: "The headers that they may send."},
		{name: "cors_credentials", class: Guard, standard: "false", value: later(boolean),
			meaning: "Whether they may send credentials."},
		{name: "cors_max_age", class: Guard, value: later(duration),
			meaning: "How long browsers keep the answer."},
	}},
	{title: "Shaping and watching", intro: "Values are literal: a `%` is a `%`. Header names are those of RFC 9110, but not `:…`, `host`, `x-envoy-*`, `x-waggle-*`, `x-forwarded-client-cert`.", keys: []key{
		{name: "set_request_header", takes: shapedName, class: Comfort, value: later(anything),
			meaning: "Sets a header of the request."},
		{name: "add_request_header", takes: shapedName, class: Comfort, value: later(anything),
			meaning: "Adds a header to the request."},
		{name: "remove_request_headers", class: Comfort, value: later(list("list of header names", shapedHeader)),
			meaning: "Removes headers of the request."},
		{name: "set_response_header", takes: shapedName, class: Comfort, value: later(anything),
			meaning: "Sets a header of the response."},
		{name: "add_response_header", takes: shapedName, class: Comfort, value: later(anything),
			meaning: "Adds a header to the response."},
		{name: "remove_response_headers", class: Comfort, value: later(list("list of header names", shapedHeader)),
			meaning: "Removes headers of the response."},
		{name: "compression", class: Comfort, value: later(list("list of `gzip`, `br`, `zstd`", word("gzip", "br", "zstd"))),
			meaning: "Compresses responses."},
		{name: "websocket_endpoints", class: Comfort, interlock: true, value: accept(list("list", text)),
			meaning: "Accepted; upgrades work on every route anyway."},
		{name: "websocket", class: Comfort, standard: "true", value: later(boolean),
			meaning: "`false` forbids upgrades."},
		{name: "access_log", class: Comfort, standard: "false", standardText: "the collection's", value: later(boolean),
			meaning: "Writes a line for every request."},
		{name: "trace_sampling", class: Comfort, value: later(percent),
			meaning: "The share of requests that are traced."},
		{name: "fault_delay", class: Comfort, value: later(pair("`2s,10%`", true, positive, percent)),
			meaning: "Delays a share of the requests."},
		{name: "fault_abort", class: Comfort, value: later(pair("`503,5%`", true, respondStatus, percent)),
			meaning: "Answers a share of the requests with this status."},
	}},
	{title: "Below HTTP", keys: []key{
		{name: "tcp_port", class: Match, value: later(called("port of the collection", port)),
			meaning: "A plain TCP route to `port`."},
		{name: "tcp_hosts", class: Match, value: laterHosts(),
			meaning: "With `tcp_port`: by TLS server name."},
		{name: "udp_port", class: Match, value: later(port),
			meaning: "A UDP route to `port`."},
	}},
}

// keys is every key with its place in the table; keysByName finds them.
var (
	keys       = flatten(sections)
	keysByName = index(keys)
	keyNames   = names(keys)
)

// row is a key and its place.
type row struct {
	*key
	place int
}

func flatten(sections []section) []row {
	var all []row
	for i := range sections {
		for j := range sections[i].keys {
			all = append(all, row{&sections[i].keys[j], len(all)})
		}
	}
	return all
}

func index(rows []row) map[string]row {
	m := make(map[string]row, len(rows))
	for _, r := range rows {
		m[r.name] = r
	}
	return m
}

func names(rows []row) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r.name)
	}
	return all
}

// canonical is the name under which a Set holds the key: "port",
// "match_header.x-tenant" (header names are compared without case).
func (k *key) canonical(name string) string {
	switch k.takes {
	case unnamed:
		return k.name
	case parameterName:
		return k.name + "." + name
	default:
		return k.name + "." + asciiLower(name)
	}
}

// checkName refuses a name that cannot stand after the key.
func (k *key) checkName(name string) error {
	switch k.takes {
	case headerName:
		_, err := token.read(name)
		return err
	case shapedName:
		_, err := shapedHeader.read(name)
		return err
	case parameterName:
		if strings.TrimSpace(name) == "" {
			return refuse("write `"+k.name+".<name>`", "is blank")
		}
	}
	return nil
}
