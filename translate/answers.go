package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// ReasonHeader is on every answer that the proxy makes itself, and says why.
const ReasonHeader = "x-waggle-reason"

// answer is one of the proxy's own answers: text/plain, one static sentence
// without request data (Envoy's default content type for local replies).
type answer struct {
	reason string
	status uint32
	text   string
	retry  bool // the next second may bring a task
}

// The proxy's own answers (LABELS.md, Answers from the proxy).
var (
	unknownHost = answer{"unknown_host", 503, "No service is published under this host.\n", false}
	noRoute     = answer{"no_route", 404, "No service of this host takes this path.\n", false}
	noTask      = answer{"no_task", 503, "The service has no running task.\n", true}
	unreachable = answer{"unreachable", 503, "The service could not be reached.\n", false}
	closed      = answer{"guard_unavailable", 503, "A guard of this service is not available.\n", false}
	notBuilt    = answer{"not_built", 503, "The labels of this service cannot be served.\n", false}
	timedOut    = answer{"timeout", 504, "The service did not answer in time.\n", false}
	tooLarge    = answer{"too_large", 413, "The request is too large.\n", false}
)

// headers are what an answer carries beside Envoy's own.
func (a answer) headers() []*corev3.HeaderValueOption {
	h := []*corev3.HeaderValueOption{setHeader(ReasonHeader, formatLiteral(a.reason))}
	if a.retry {
		h = append(h, setHeader("retry-after", formatLiteral("1")))
	}
	return h
}

// respond makes a route give the answer.
func (a answer) respond(r *routev3.Route) {
	r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
		Status: a.status,
		Body:   inline(a.text),
	}}
	r.ResponseHeadersToAdd = a.headers()
}

// localReplies names the answers that Envoy makes by itself. The filters look at
// Envoy's response flags: a direct response or a task's own 503 has none of them
// and passes as it is. The order matters, flags add up over retries: a request
// that ran out of time after a connection failure is a timeout, one that found no
// other task after a failure is an unreachable service.
func localReplies() *hcmv3.LocalReplyConfig {
	flags := func(f ...string) *accesslogv3.AccessLogFilter {
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: f},
		}}
	}
	status := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op:    accesslogv3.ComparisonFilter_EQ,
			Value: &corev3.RuntimeUInt32{DefaultValue: tooLarge.status, RuntimeKey: "waggle.none"},
		}},
	}}
	mapper := func(f *accesslogv3.AccessLogFilter, a answer) *hcmv3.ResponseMapper {
		return &hcmv3.ResponseMapper{Filter: f, Body: inline(a.text), HeadersToAdd: a.headers()}
	}
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		mapper(flags("NR"), noRoute),
		mapper(flags("UT", "UMSDR", "SI", "DT"), timedOut),
		mapper(flags("UF", "UC", "UR", "LR", "UO", "UPE", "NC"), unreachable),
		mapper(flags("UH"), noTask),
		mapper(status, tooLarge),
	}}
}

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// setHeader sets a header; value is in Envoy's format language (see formatLiteral).
func setHeader(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
