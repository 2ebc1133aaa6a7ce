package labels

// Shaping is what section "Shaping and watching" says of a route.
type Shaping struct{}

// shapingKeys: what is changed on the way, and what is seen of it.
var shapingKeys = section{title: "Shaping and watching", intro: "Values are literal: a `%` is a `%`. Header names are those of RFC 9110, but not `:…`, `host`, `x-envoy-*`, `x-waggle-*`, `x-forwarded-client-cert`.", keys: []key{
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
}}
