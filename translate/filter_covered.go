package translate

import (
	"regexp"
	"slices"
	"strings"

	rbaccfgv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
)

// CoveredFilter is the HTTP filter that sends requests away for hosts that the
// certificate of their connection is not for: who was let in for one host never reaches
// the next by its Host header. It is switched on by each host of HTTPS.
const CoveredFilter = "covered"

// certificateState is where a connection says which names its certificate is for: in
// order, with a blank around each. Not how it is called: a renewed one may have another
// name, and what is open goes on with the one before.
const certificateState = "waggle.certificate"

// state is that of a certificate.
func (c *certificate) state() string {
	return " " + strings.Join(slices.Sorted(slices.Values(c.pair.Names)), " ") + " "
}

// covered is that filter. No route switches it on.
var covered = &httpFilter{
	name:  CoveredFilter,
	chain: func() proto.Message { return &rbacv3.RBAC{} },
	on:    func(*route) (validator, error) { return nil, nil },
}

// coveredBy lets requests for a host pass on connections with a certificate for it,
// whichever that is: one that was replaced is still good for its own connections. Under
// a wildcard host these are the names of certificates, each for itself alone.
func coveredBy(host string, names []string) *anyMessage {
	has := func(name string) *rbaccfgv3.Principal {
		return &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
			Key: certificateState,
			Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Contains{Contains: " " + name + " "},
			}},
		}}}
	}
	set := &rbaccfgv3.Principal_Set{}
	if host[0] == '*' {
		for _, name := range names {
			set.Ids = append(set.Ids, &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_AndIds{AndIds: &rbaccfgv3.Principal_Set{
				Ids: []*rbaccfgv3.Principal{has(name), asksFor(name)},
			}}})
		}
	} else {
		set.Ids = append(set.Ids, has(host))
		if _, rest, found := strings.Cut(host, "."); found {
			set.Ids = append(set.Ids, has("*."+rest))
		}
	}
	others := anyAddress()
	if len(set.Ids) > 0 {
		others = &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_NotId{NotId: &rbaccfgv3.Principal{
			Identifier: &rbaccfgv3.Principal_OrIds{OrIds: set},
		}}}
	}
	return mustAny(&rbacv3.RBACPerRoute{Rbac: &rbacv3.RBAC{Rules: &rbaccfgv3.RBAC{
		Action: rbaccfgv3.RBAC_DENY,
		Policies: map[string]*rbaccfgv3.Policy{misdirected.reason: {
			Permissions: []*rbaccfgv3.Permission{{Rule: &rbaccfgv3.Permission_Any{Any: true}}},
			Principals:  []*rbaccfgv3.Principal{others},
		}},
	}}})
}

// asksFor matches requests for a name of a certificate.
func asksFor(name string) *rbaccfgv3.Principal {
	return &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_Header{Header: &routev3.HeaderMatcher{
		Name: ":authority",
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: authorityOf(name)}},
		}},
	}}}
}

// authorityOf matches the Host header of a certificate's name: any case, the root's
// dot, any port; one label in place of a wildcard.
func authorityOf(name string) string {
	label := ""
	if len(name) > 2 && name[:2] == "*." {
		label, name = `[^.:]+\.`, name[2:]
	}
	return `(?i)` + label + regexp.QuoteMeta(name) + `\.?(:[0-9]+)?`
}
