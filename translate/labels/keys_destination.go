package labels

// Destination is what section "Where it goes" says of a route.
type Destination struct {
	Port   uint32  // 0: not said, the only published target port holds (translate finds it)
	Weight *uint32 // nil: by replicas
}

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
}}
