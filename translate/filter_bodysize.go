package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	bodysizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bodySize is max_body_size. Envoy's filter looks at Content-Length and counts
// what comes, and buffers nothing; it cannot be configured by route, so that it
// comes with the route, in a chain of its own. See sparingSockets.
var bodySize = &httpFilter{
	name: bodySizeName, guard: true,
	chain: func() proto.Message { return &chainv3.FilterChainConfig{} },
	on: func(r *route) (validator, error) {
		limit := r.label.MaxBodySize
		if limit == nil {
			return nil, nil
		}
		if *limit == 0 {
			return nil, errorAt("max_body_size", "remove the label for no limit, or write at least `1`", "leaves no room for any body")
		}
		return &chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{Filters: []*corev3.TypedExtensionConfig{{
			Name:        "body_size_limit",
			TypedConfig: mustAny(&bodysizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(*limit)}),
		}}}}, nil
	},
}

const (
	bodySizeName = "body_size"

	// SocketSuffix marks the twin of a route for handshakes of websockets.
	SocketSuffix = "#websocket"
)

// sparingSockets puts a twin without a limit for bodies before each route with one:
// what follows the handshake of a websocket would be counted, and has no end. The
// twin is for handshakes as they must be (RFC 6455: GET, and no body); whoever
// sends one with a body has sent a body.
func sparingSockets(routes []*routev3.Route) []*routev3.Route {
	var out []*routev3.Route
	for _, r := range routes {
		if r.TypedPerFilterConfig[bodySizeName] != nil && r.GetRoute() != nil {
			twin := proto.CloneOf(r)
			twin.Name += SocketSuffix
			delete(twin.TypedPerFilterConfig, bodySizeName)
			twin.Match.Headers = append(twin.Match.Headers,
				requestHeaderIs(":method", exactly("GET")),
				requestHeaderIs("upgrade", &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "websocket"}, IgnoreCase: true}),
				requestHeaderAbsent("content-length"), requestHeaderAbsent("transfer-encoding"),
			)
			out = append(out, twin)
		}
		out = append(out, r)
	}
	return out
}

func requestHeaderIs(name string, value *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value}}
}

func requestHeaderAbsent(name string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: false}}
}
