package translate

import (
	"regexp"

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

// certificateState is where a connection says which certificate it has.
const certificateState = "waggle.certificate"

// covered is that filter. No route switches it on.
var covered = &httpFilter{
	name:  CoveredFilter,
	chain: func() proto.Message { return &rbacv3.RBAC{} },
	on:    func(*route) (validator, error) { return nil, nil },
}

// coveredBy lets requests for a host pass on connections with one of these certificates.
// Under a wildcard each is good for its own names alone.
func coveredBy(host string, certs []*certificate) *anyMessage {
	set := &rbaccfgv3.Principal_Set{}
	for _, c := range certs {
		has := &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
			Key:     certificateState,
			Matcher: &matcherv3.FilterStateMatcher_StringMatch{StringMatch: exactly(c.secret)},
		}}}
		if host[0] == '*' {
			names := &rbaccfgv3.Principal_Set{}
			for _, name := range c.pair.Names {
				if within(name, host) {
					names.Ids = append(names.Ids, asksFor(name))
				}
			}
			if len(names.Ids) == 0 {
				continue
			}
			has = &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_AndIds{AndIds: &rbaccfgv3.Principal_Set{Ids: []*rbaccfgv3.Principal{
				has, {Identifier: &rbaccfgv3.Principal_OrIds{OrIds: names}},
			}}}}
		}
		set.Ids = append(set.Ids, has)
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
