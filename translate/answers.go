package translate

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
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
	rateLimited = answer{"rate_limited", 429, "Too many requests.\n", false} // the filter says retry-after
	forbidden   = answer{"forbidden", 403, "Access is denied.\n", false}     // or 401
	misdirected = answer{"wrong_connection", 421, "This host is not served on this connection.\n", false}
	noUpgrade   = answer{"forbidden", 403, "Connections cannot be upgraded here.\n", false}
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

// Close makes a route answer that a guard is not available, and say nothing of its filters:
// what becomes of a route whose guard cannot be there.
func Close(r *routev3.Route) {
	r.TypedPerFilterConfig = nil
	closed.respond(r)
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
	// What the flags do not tell. A label may ask for any status (respond,
	// fault_abort): then it means that.
	says := func(expression string) *accesslogv3.AccessLogFilter {
		return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name:       "envoy.access_loggers.extension_filters.cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: mustAny(&celv3.ExpressionFilter{Expression: expression})},
		}}}
	}
	const (
		refused  = "(response.code == 401 || response.code == 403)"
		asked    = "response.code_details == 'ext_authz_denied'"
		labelled = "(response.code_details == 'direct_response' || response.code_details == 'fault_filter_abort')"
	)
	mapper := func(f *accesslogv3.AccessLogFilter, a answer) *hcmv3.ResponseMapper {
		return &hcmv3.ResponseMapper{Filter: f, Body: inline(a.text), HeadersToAdd: a.headers()}
	}
	wrong := mapper(says("response.code_details == 'rbac_access_denied_matched_policy["+misdirected.reason+"]'"), misdirected)
	wrong.StatusCode = wrapperspb.UInt32(misdirected.status) // the filter knows 403 alone
	unlooked := mapper(says("response.code_details == 'rbac_access_denied_matched_policy["+noSession+"]' || response.code_details == 'OAuth2 secrets are not ready'"), closed)
	unlooked.StatusCode = wrapperspb.UInt32(closed.status)
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		mapper(flags("NR"), noRoute),
		mapper(flags("UT", "UMSDR", "SI", "DT"), timedOut),
		mapper(flags("UF", "UC", "UR", "LR", "UO", "UPE", "NC"), unreachable),
		mapper(flags("UH"), noTask),
		mapper(says("response.code_details == 'local_rate_limited'"), rateLimited), // its flag comes too late
		mapper(says("response.code_details == 'ext_authz_error'"), closed),
		// Who was asked may have said why.
		{Filter: says(refused + " && " + asked), HeadersToAdd: forbidden.headers()},
		mapper(says("response.code_details == 'upgrade_failed'"), noUpgrade),
		mapper(says("response.code == 413 && !"+labelled), tooLarge),
		wrong,
		unlooked,
		mapper(says(refused+" && !"+labelled), forbidden),
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
