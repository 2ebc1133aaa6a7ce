package labels

import (
	"slices"
	"strings"
	"time"
)

// Shaping is what section "Shaping and watching" says of a route.
type Shaping struct {
	RequestHeaders, ResponseHeaders HeaderChanges

	Compression []string // of Compressions, each once; empty: none
	WebSocket   *bool    // nil: as the protocol allows, see NoWebSocket
	AccessLog   *bool    // nil: as the collection says
	// TraceSampling is a percentage; 0: nothing is traced.
	TraceSampling float64
	FaultDelay    *Delay // nil: none
	FaultAbort    *Abort // nil: none
}

// NoWebSocket reports whether upgrades are refused.
func (r *Route) NoWebSocket() bool {
	if r.WebSocket != nil {
		return !*r.WebSocket
	}
	return r.Protocol == "h2c" || r.Protocol == "http2" || r.Protocol == "grpc" || r.Protocol == "auto" && r.SSLBackend
}

// HeaderChanges are made in this order: what is removed, what is set, what is added.
// Names are in lower case, values literal.
type HeaderChanges struct {
	Remove   []string
	Set, Add []Header
}

// Header is a header of a request or a response.
type Header struct{ Name, Value string }

// Delay is how long which share of the requests waits.
type Delay struct {
	For     time.Duration
	Percent float64
}

// Abort is what which share of the requests is answered.
type Abort struct {
	Status  uint32
	Percent float64
}

// Compressions are the algorithms that responses can be compressed with.
var Compressions = []string{"gzip", "br", "zstd"}

// shapingKeys: what is changed on the way, and what is seen of it.
var shapingKeys = section{title: "Shaping and watching", intro: "Values are literal: a `%` is a `%`. Header names are those of RFC 9110, but not `:…`, `host`, `x-envoy-*`, `x-waggle-*`, `x-forwarded-client-cert`, " +
	"nor those that belong to one connection (`connection`, `content-length`, `transfer-encoding` …). Headers are first removed, then set, then added.", keys: []key{
	{name: "set_request_header", takes: shapedName, class: Comfort,
		value: useNamed(headerValue, func(t *target, name string, v string) {
			t.route.RequestHeaders.Set = append(t.route.RequestHeaders.Set, Header{asciiLower(name), v})
		}),
		meaning: "Sets a header of the request, in place of what the client sent."},
	{name: "add_request_header", takes: shapedName, class: Comfort,
		value: useNamed(headerValue, func(t *target, name string, v string) {
			t.route.RequestHeaders.Add = append(t.route.RequestHeaders.Add, Header{asciiLower(name), v})
		}),
		meaning: "Adds a header to the request, beside what the client sent."},
	{name: "remove_request_headers", class: Comfort,
		value:   use(list("list of header names", shapedHeader), func(t *target, v []string) { t.route.RequestHeaders.Remove = lowered(v) }),
		meaning: "Removes headers of the request."},
	{name: "set_response_header", takes: shapedName, class: Comfort,
		value: useNamed(headerValue, func(t *target, name string, v string) {
			t.route.ResponseHeaders.Set = append(t.route.ResponseHeaders.Set, Header{asciiLower(name), v})
		}),
		meaning: "Sets a header of the response, also of the route's redirects and fixed answers."},
	{name: "add_response_header", takes: shapedName, class: Comfort,
		value: useNamed(headerValue, func(t *target, name string, v string) {
			t.route.ResponseHeaders.Add = append(t.route.ResponseHeaders.Add, Header{asciiLower(name), v})
		}),
		meaning: "Adds a header to the response, beside what the task sent."},
	{name: "remove_response_headers", class: Comfort,
		value:   use(list("list of header names", shapedHeader), func(t *target, v []string) { t.route.ResponseHeaders.Remove = lowered(v) }),
		meaning: "Removes headers of the response."},
	{name: "compression", class: Comfort,
		value:   use(list("list of `gzip`, `br`, `zstd`", word(Compressions...)), func(t *target, v []string) { t.route.Compression = set(v) }),
		meaning: "Compresses responses that are text, from 1 KiB on, for clients that ask for it; where they take several equally, zstd before br before gzip. Never event streams, gRPC, ranges, or what the task has compressed."},
	{name: "websocket_endpoints", class: Comfort, interlock: true, value: accept(list("list", text)),
		meaning: "Accepted; upgrades work anyway, unless `websocket` says otherwise."},
	{name: "websocket", class: Comfort, standardText: "`true`; `false` with `protocol` `h2c`, `http2`, `grpc`, over TLS (`ssl_backend`) also `auto`",
		value: use(boolean, func(t *target, v bool) { t.route.WebSocket = &v }),
		meaning: "`false` forbids upgrades: they are answered with 403. In HTTP/2 a WebSocket is an extended CONNECT (RFC 8441), for which many servers end the stream as if it were broken, and would be set aside: there it needs `true`. " +
			"With `protocol: auto` tasks get it in HTTP/1.1, unless TLS is spoken to them: then it is HTTP/2 where they have that, too."},
	{name: "access_log", class: Comfort, standardText: "the collection's",
		value:   use(boolean, func(t *target, v bool) { t.route.AccessLog = &v }),
		meaning: "Whether a line is written for every request of the route (JSON, on the proxies' standard output)."},
	{name: "trace_sampling", class: Comfort, standard: "0",
		value: use(percent, func(t *target, v float64) { t.route.TraceSampling = v }),
		meaning: "The share of requests that are traced. Spans go to the collector that `tracing.otlp` of the collection in `waggle.yml` names (OTLP over gRPC); without one nothing is traced. " +
			"The task gets the proxy's span, and whether the request was sampled, in `traceparent`. A request that brings a `traceparent` keeps its flag, and is traced only if that says so, too. Without this key `traceparent` is left alone."},
	{name: "fault_delay", class: Comfort,
		value: use(pair("`2s,10%`", true, positive, percent), func(t *target, v two[time.Duration, float64]) {
			t.route.FaultDelay = &Delay{For: v.first, Percent: v.second}
		}),
		meaning: "Delays a share of the requests."},
	{name: "fault_abort", class: Comfort,
		value: use(pair("`503,5%`", true, abortStatus, percent), func(t *target, v two[uint32, float64]) {
			t.route.FaultAbort = &Abort{Status: v.first, Percent: v.second}
		}),
		meaning: "Answers a share of the requests with this status; they do not reach the task."},
}}

// maxHeaderValue leaves room for the escapes of Envoy's formats, below its limit of 16 KiB.
const maxHeaderValue = 8 << 10

// headerValue is what can stand in a header.
var headerValue = kind[string]{doc: "text", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	switch i := strings.IndexFunc(t, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); {
	case t == "":
		return "", refuse("give it a value, or remove the header by `remove_request_headers` or `remove_response_headers`", "is blank")
	case len(t) > maxHeaderValue:
		return "", refuse("write a shorter value", "is %d bytes long, and at most %d can stand in a header", len(t), maxHeaderValue)
	case i >= 0:
		return "", refuse("write it without control characters", "the character %q cannot stand in a header", t[i])
	}
	return t, nil
}}

// lowered gives names of headers in lower case, in their order, each once.
func lowered(names []string) []string {
	var out []string
	for _, n := range names {
		if n = asciiLower(n); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
