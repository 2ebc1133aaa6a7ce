package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	bodysizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bodySize is max_body_size. Envoy's filter looks at Content-Length and counts
// what comes, and buffers nothing; it cannot be configured by route, so that it
// comes with the route, in a chain of its own.
var bodySize = &httpFilter{
	name: "body_size", guard: true,
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
