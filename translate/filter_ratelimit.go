package translate

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate/labels"
)

const (
	rateLimitName = "rate_limit"

	// maxBuckets bounds how many clients (or values of a header) are counted apart
	// in one limit; whoever was away longest is forgotten, and begins anew.
	maxBuckets = 10_000

	// strayRate is what a route passes while its limit is gone from the filter and
	// the route still names it: never without limit, and no outage either.
	strayRate = 100 // per second
)

// rateLimit is rate_limit and rate_limit_by. The limits of all routes of a
// collection are one discovered resource: a limit that stood in a route would be
// full again whenever any host of the table changes (envoy-xds.md §6). All of them
// are full again when one of them changes: Envoy keeps buckets with the filter's
// configuration, and makes them with it. A route
// names its limit in its metadata, which redirects have too; rate limits of
// Envoy's own routes would only hold for what is forwarded.
var rateLimit = &httpFilter{
	name: rateLimitName, guard: true,
	shared: func(entries map[string]proto.Message) proto.Message {
		all := &localv3.LocalRateLimit{
			StatPrefix:                      rateLimitName,
			TokenBucket:                     bucket(labels.Rate{Requests: strayRate, Per: time.Second}),
			AlwaysConsumeDefaultTokenBucket: wrapperspb.Bool(false),
			FilterEnabled:                   always(),
			FilterEnforced:                  always(),
			MaxDynamicDescriptors:           wrapperspb.UInt32(maxBuckets),
			EnableRetryAfterHeader:          true,
		}
		kinds := map[string]*routev3.RateLimit{}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			one := entries[name].(*localv3.LocalRateLimit)
			all.Descriptors = append(all.Descriptors, one.Descriptors...)
			for _, l := range one.RateLimits {
				kinds[kindOfLimit(l)] = l
			}
		}
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			all.RateLimits = append(all.RateLimits, kinds[kind])
		}
		return all
	},
	on: func(r *route) (validator, error) {
		l := r.label
		by := l.RateLimitBy
		if l.RateLimit == nil {
			return nil, r.needs("rate_limit_by", "rate_limit")
		}
		if by.What == "ip" {
			if err := r.seesClients("rate_limit_by"); err != nil {
				return nil, err
			}
		}
		name, kind := routeKey(r), "limit"
		one := &localv3.LocalRateLimit{StatPrefix: rateLimitName, TokenBucket: bucket(*l.RateLimit)}
		descriptor := func(more ...*commonv3.RateLimitDescriptor_Entry) {
			one.Descriptors = append(one.Descriptors, &commonv3.LocalRateLimitDescriptor{
				Entries:     append([]*commonv3.RateLimitDescriptor_Entry{{Key: "route", Value: name}}, more...),
				TokenBucket: bucket(*l.RateLimit),
			})
		}
		actions := []*routev3.RateLimit_Action{nil}
		switch by.What {
		case "ip":
			kind += "_ip"
			descriptor(&commonv3.RateLimitDescriptor_Entry{Key: "masked_remote_address"}) // no value: any, each with a bucket of its own
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_MaskedRemoteAddress_{
				MaskedRemoteAddress: &routev3.RateLimit_Action_MaskedRemoteAddress{
					V4PrefixMaskLen: wrapperspb.UInt32(32), V6PrefixMaskLen: wrapperspb.UInt32(64),
				},
			}})
		case "header":
			header := strings.ToLower(by.Name)
			kind += "_header_" + header
			descriptor(&commonv3.RateLimitDescriptor_Entry{Key: "header"})
			descriptor() // all requests that have none
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
				RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: header, DescriptorKey: "header", SkipIfAbsent: true},
			}})
		default:
			descriptor()
		}
		actions[0] = &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
			DescriptorKey: "route",
			MetadataKey: &metadatav3.MetadataKey{Key: metadataKey, Path: []*metadatav3.MetadataKey_PathSegment{{
				Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: kind},
			}}},
			Source: routev3.RateLimit_Action_MetaData_ROUTE_ENTRY,
		}}}
		one.RateLimits = []*routev3.RateLimit{{Actions: actions}}
		if err := one.ValidateAll(); err != nil {
			return nil, errorAt("rate_limit", "write a rate such as `100/s`", "Envoy would refuse it: %v", err)
		}
		r.share(rateLimitName, one)
		r.says(kind, name)
		return &routev3.FilterConfig{Config: new(anyMessage)}, nil
	},
	// The name of the limit is the route's own.
	identity: func(r *route) string {
		limit := *r.label.RateLimit
		return fmt.Sprint(limit.Requests, limit.Per, limit.Burst, r.label.RateLimitBy.What, strings.ToLower(r.label.RateLimitBy.Name))
	},
}

func kindOfLimit(l *routev3.RateLimit) string {
	return l.Actions[0].GetMetadata().GetMetadataKey().GetPath()[0].GetKey()
}

// bucket fills at the rate, evenly, and holds the burst.
func bucket(r labels.Rate) *typev3.TokenBucket {
	burst := r.Burst
	if burst == 0 {
		burst = r.Requests
	}
	return &typev3.TokenBucket{MaxTokens: burst, TokensPerFill: wrapperspb.UInt32(r.Requests), FillInterval: durationpb.New(r.Per)}
}

// routeKey names a route in resources that all routes of the collection share. No
// two routes have the same: a service's name may hold a "/" in a file.
func routeKey(r *route) string {
	if r.label.Name == "" {
		return url.PathEscape(r.svc.name)
	}
	return url.PathEscape(r.svc.name) + "/" + url.PathEscape(r.label.Name)
}
