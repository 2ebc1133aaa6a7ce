package translate

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cors answers preflight requests by itself, so they need no credentials: it
// stands before whoever asks for them. Those of other origins get an answer
// without permission; the task never sees a preflight request.
var cors = &httpFilter{
	name: "cors", guard: true,
	chain: func() proto.Message { return &corsv3.Cors{} },
	on: func(r *route) (validator, error) {
		l := r.label
		if len(l.CORSOrigins) == 0 {
			for _, key := range []string{"cors_methods", "cors_headers", "cors_credentials", "cors_max_age"} {
				if err := r.needs(key, "cors_origins"); err != nil {
					if key == "cors_credentials" && !l.CORSCredentials {
						continue
					}
					return nil, err
				}
			}
			return nil, nil
		}
		if l.CORSCredentials {
			for _, any := range []struct {
				key    string
				values []string
			}{{"cors_origins", l.CORSOrigins}, {"cors_methods", l.CORSMethods}, {"cors_headers", l.CORSHeaders}} {
				if slices.Contains(any.values, "*") {
					return nil, errorAt(any.key, "name those that are meant, or leave out "+r.key("cors_credentials"),
						"`*` together with %s would let every site act as the user who is logged in", r.key("cors_credentials"))
				}
			}
		}
		p := &corsv3.CorsPolicy{
			FilterEnabled:                always(),
			AllowMethods:                 strings.Join(l.CORSMethods, ", "),
			AllowHeaders:                 strings.Join(l.CORSHeaders, ", "),
			ForwardNotMatchingPreflights: wrapperspb.Bool(false),
		}
		if l.CORSCredentials {
			p.AllowCredentials = wrapperspb.Bool(true)
		}
		if l.CORSMaxAge != nil {
			p.MaxAge = strconv.FormatInt(int64(*l.CORSMaxAge/time.Second), 10)
		}
		for _, o := range l.CORSOrigins {
			p.AllowOriginStringMatch = append(p.AllowOriginStringMatch, originMatcher(o))
		}
		return p, nil
	},
}

// originMatcher matches an origin; "*." stands for one or more labels.
func originMatcher(origin string) *matcherv3.StringMatcher {
	scheme, host, wild := strings.Cut(origin, "://*.")
	if !wild {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: origin}}
	}
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
		Regex: regexp.QuoteMeta(scheme+"://") + `([a-z0-9_-]+\.)+` + regexp.QuoteMeta(host),
	}}}
}

// always is what Envoy calls a fraction of requests, here all of them.
func always() *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
}
