package translate

import (
	"cmp"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbaccfgv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/waggle-lb/waggle/translate/labels"
)

// addresses is allow_ips and deny_ips: the client's address as the listener found
// it out (see clients in listeners.go), never what a client says of itself.
var addresses = &httpFilter{
	name: "addresses", guard: true,
	chain: func() proto.Message { return &rbacv3.RBAC{} },
	on: func(r *route) (validator, error) {
		if len(r.label.AllowIPs)+len(r.label.DenyIPs) == 0 {
			return nil, nil
		}
		key := "allow_ips"
		if len(r.label.AllowIPs) == 0 {
			key = "deny_ips"
		}
		if err := r.seesClients(key); err != nil {
			return nil, err
		}
		return &rbacv3.RBACPerRoute{Rbac: &rbacv3.RBAC{Rules: addressRules(r.label)}}, nil
	},
}

// addressRules is allow_ips and deny_ips; nil where neither is said.
func addressRules(l *labels.Route) *rbaccfgv3.RBAC {
	if len(l.AllowIPs)+len(l.DenyIPs) == 0 {
		return nil
	}
	who := anyAddress()
	if len(l.AllowIPs) > 0 {
		who = oneOf(l.AllowIPs)
	}
	if len(l.DenyIPs) > 0 {
		who = &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_AndIds{AndIds: &rbaccfgv3.Principal_Set{Ids: []*rbaccfgv3.Principal{
			{Identifier: &rbaccfgv3.Principal_NotId{NotId: oneOf(l.DenyIPs)}}, who,
		}}}}
	}
	return &rbaccfgv3.RBAC{
		Action: rbaccfgv3.RBAC_ALLOW,
		Policies: map[string]*rbaccfgv3.Policy{"addresses": {
			Permissions: []*rbaccfgv3.Permission{{Rule: &rbaccfgv3.Permission_Any{Any: true}}},
			Principals:  []*rbaccfgv3.Principal{who},
		}},
	}
}

func anyAddress() *rbaccfgv3.Principal {
	return &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_Any{Any: true}}
}

func oneOf(ranges []netip.Prefix) *rbaccfgv3.Principal {
	set := &rbaccfgv3.Principal_Set{}
	for _, c := range cidrs(ranges) {
		set.Ids = append(set.Ids, &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_RemoteIp{RemoteIp: c}})
	}
	return &rbaccfgv3.Principal{Identifier: &rbaccfgv3.Principal_OrIds{OrIds: set}}
}

// cidrs gives ranges in Envoy's form, sorted, each once. A range of IPv4 is also
// given as IPv6 has it: a trusted proxy may write ::ffff:192.0.2.1, which Envoy
// takes for another address.
func cidrs(ranges []netip.Prefix) []*corev3.CidrRange {
	var all []netip.Prefix
	for _, p := range ranges {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		p = p.Masked()
		all = append(all, p)
		if a := p.Addr(); a.Is4() {
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(a.As16()), p.Bits()+96))
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []*corev3.CidrRange
	for _, p := range slices.Compact(all) {
		// 4In6 is written as such: netip would say 192.0.2.0 in neither form.
		out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return out
}
