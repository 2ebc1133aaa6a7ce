package translate

import (
	"regexp"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// authTimeout is how long a service may take to say whether a request passes.
const authTimeout = 5 * time.Second

// extAuth is ext_auth and ext_auth_headers: another service of the collection says
// whether a request passes, from the head of the request alone. Whatever goes wrong
// on the way is a 503. The filter comes with the route, in a chain of its own: one
// in the listener's chain, asked through a service that only the route names,
// aborts Envoy as soon as somebody forgets its placeholder (envoy-xds.md §6).
//
// A header that the service may set is taken out of the request before: else a
// client could set it wherever the service does not.
var extAuth = &httpFilter{
	name: "ext_auth", guard: true,
	chain: func() proto.Message { return &chainv3.FilterChainConfig{} },
	on: func(r *route) (validator, error) {
		a := r.label.ExtAuth
		if a.Service == "" {
			return nil, r.needs("ext_auth_headers", "ext_auth")
		}
		protocol := ""
		if a.GRPC {
			protocol = h2c
		}
		be, err := r.svc.refer("ext_auth", a.Service, a.Port, protocol)
		if err != nil {
			return nil, err
		}
		r.refs = append(r.refs, be.name)
		authz := &authzv3.ExtAuthz{
			TransportApiVersion: corev3.ApiVersion_V3,
			StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode(closed.status)},
			ValidateMutations:   true,
			DisallowedHeaders:   hopByHop,
		}
		var filters []*corev3.TypedExtensionConfig
		add := func(name string, m validator) error {
			if err := m.ValidateAll(); err != nil {
				return errorAt("ext_auth", "write another value, shorter and of plain letters", "Envoy would refuse it: %v", err)
			}
			filters = append(filters, &corev3.TypedExtensionConfig{Name: name, TypedConfig: mustAny(m)})
			return nil
		}
		strip, mayset := &headersv3.Mutations{}, &matcherv3.ListStringMatcher{}
		var names []string
		for _, h := range r.label.ExtAuthHeaders {
			h = strings.ToLower(h)
			names = append(names, regexp.QuoteMeta(h))
			mayset.Patterns = append(mayset.Patterns, exactly(h))
			if h != "cookie" && h != "authorization" { // these prove something, and say nothing
				strip.RequestMutations = append(strip.RequestMutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: h}})
			}
		}
		if len(strip.RequestMutations) > 0 {
			if err := add("strip", &headersv3.HeaderMutation{Mutations: strip}); err != nil {
				return nil, err
			}
		}
		if a.GRPC {
			authz.DecoderHeaderMutationRules = &mutationv3.HeaderMutationRules{DisallowAll: wrapperspb.Bool(true)}
			if len(names) > 0 {
				authz.DecoderHeaderMutationRules.AllowExpression = &matcherv3.RegexMatcher{Regex: strings.Join(names, "|")}
			}
			authz.Services = &authzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: be.name}},
				Timeout:         durationpb.New(authTimeout),
			}}
		} else {
			authz.AllowedHeaders = &matcherv3.ListStringMatcher{Patterns: []*matcherv3.StringMatcher{{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: ".*"}},
			}}}
			service := &authzv3.HttpService{
				ServerUri: &corev3.HttpUri{
					Uri:              "http://auth", // not looked at: the cluster is what counts
					HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: be.name},
					Timeout:          durationpb.New(authTimeout),
				},
				PathPrefix: strings.TrimSuffix(a.Path, "/"),
			}
			if len(names) > 0 {
				service.AuthorizationResponse = &authzv3.AuthorizationResponse{AllowedUpstreamHeaders: mayset}
			}
			authz.Services = &authzv3.ExtAuthz_HttpService{HttpService: service}
		}
		if err := add("ext_authz", authz); err != nil {
			return nil, err
		}
		return &chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{Filters: filters}}, nil
	},
}

// hopByHop are headers about the client's connection; the request to the service
// has one of its own, and no body.
var hopByHop = &matcherv3.ListStringMatcher{Patterns: []*matcherv3.StringMatcher{
	exactly("connection"), exactly("expect"), exactly("keep-alive"), exactly("te"), exactly("trailer"), exactly("transfer-encoding"), exactly("upgrade"),
}}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}
