package xds

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// substitution is what stands in a route table in place of a virtual host that proxies
// reject, for as long as that very virtual host is published.
type substitution struct {
	rejected string               // digest of the virtual host that is published
	instead  *routev3.VirtualHost // nil: the host is left out
	closed   bool                 // instead answers 503
}

// substitute makes a table out of a rejected one: its virtual hosts that are different in
// the accepted table are as they were there, and those that are not there are left out.
// Which of them is at fault the proxy does not say. Where a guard is different, the old
// virtual host would let others pass: it answers 503. before are the substitutions that
// were made in the table already.
func substitute(good, bad *entry, before map[string]substitution) (*entry, map[string]substitution, error) {
	was, err := good.table()
	if err != nil {
		return nil, nil, err
	}
	is, err := bad.table()
	if err != nil {
		return nil, nil, err
	}
	old := make(map[string]*routev3.VirtualHost, len(was.GetVirtualHosts()))
	for _, vh := range was.GetVirtualHosts() {
		old[vh.GetName()] = vh
	}
	hosts := maps.Clone(before)
	if hosts == nil {
		hosts = map[string]substitution{}
	}
	found := false
	for _, vh := range is.GetVirtualHosts() {
		o := old[vh.GetName()]
		if s, held := hosts[vh.GetName()]; held && s.rejected == digest(vh) || o != nil && proto.Equal(o, vh) {
			continue
		}
		found = true
		s := substitution{rejected: digest(vh), instead: o}
		if o != nil && guards(o) != guards(vh) {
			s.instead, s.closed = shut(o), true
		}
		hosts[vh.GetName()] = s
	}
	if !found {
		return nil, nil, errors.New("none of its virtual hosts is different from those that were accepted")
	}
	return replaceHosts(bad, is, hosts, mentioned(good.refs, hosts))
}

// patch puts the substitutions of a quarantine into a table that is published, and says
// which of them still hold; none if there is an error.
func patch(published *entry, h *hold) (*entry, map[string]substitution, error) {
	table, err := published.table()
	if err != nil {
		return nil, nil, err
	}
	return replaceHosts(published, table, h.hosts, h.needs)
}

func replaceHosts(e *entry, table *routev3.RouteConfiguration, hosts map[string]substitution, needs []translate.Ref) (*entry, map[string]substitution, error) {
	held := map[string]substitution{}
	var vhs []*routev3.VirtualHost
	for _, vh := range table.GetVirtualHosts() {
		s, ok := hosts[vh.GetName()]
		switch {
		case !ok, s.rejected != digest(vh):
			vhs = append(vhs, vh)
			continue
		case s.instead != nil:
			vhs = append(vhs, s.instead)
		}
		held[vh.GetName()] = s
	}
	if len(held) == 0 {
		return nil, nil, nil
	}
	table.VirtualHosts = vhs
	refs := slices.Concat(e.refs, needs)
	slices.SortFunc(refs, func(a, b translate.Ref) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	patched, err := encode(translate.Routes, e.name, &translate.Resource{
		Kind: translate.Routes, Name: e.name, Message: table, Refs: slices.Compact(refs),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("route table %q: %w", e.name, err)
	}
	return patched, held, nil
}

// mentioned are those of some resources that the substitutes name. Any text that is the name
// of one counts: what is kept in vain costs a little, what is missing a 503.
func mentioned(refs []translate.Ref, hosts map[string]substitution) []translate.Ref {
	texts := map[string]bool{}
	for _, s := range hosts {
		if s.instead != nil {
			collectTexts(s.instead.ProtoReflect(), texts)
		}
	}
	return slices.DeleteFunc(slices.Clone(refs), func(r translate.Ref) bool { return !texts[r.Name] })
}

func collectTexts(m protoreflect.Message, into map[string]bool) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		if inner, err := packed.UnmarshalNew(); err == nil {
			collectTexts(inner.ProtoReflect(), into)
		}
		return
	}
	value := func(f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.StringKind:
			into[v.String()] = true
		case protoreflect.MessageKind:
			collectTexts(v.Message(), into)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { value(f.MapValue(), v); return true })
		case f.IsList():
			for i := range v.List().Len() {
				value(f, v.List().Get(i))
			}
		default:
			value(f, v)
		}
		return true
	})
}

func digest(m proto.Message) string {
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m) // has been unmarshalled just before
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

var guardFilters = translate.GuardFilters()

// guards tells apart virtual hosts that let different people pass: which guards are on
// which match, and what they say.
func guards(vh *routev3.VirtualHost) string {
	h := sha256.New()
	for _, name := range guardFilters {
		if c, ok := vh.GetTypedPerFilterConfig()[name]; ok {
			fmt.Fprintf(h, "%s %s\n", name, digest(c))
		}
	}
	for _, r := range vh.GetRoutes() {
		for _, name := range guardFilters {
			if c, ok := r.GetTypedPerFilterConfig()[name]; ok {
				fmt.Fprintf(h, "%s %s %s\n", digest(r.GetMatch()), name, digest(c))
			}
		}
	}
	return string(h.Sum(nil))
}

// shut is a virtual host that answers 503.
func shut(vh *routev3.VirtualHost) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: vh.GetName(), Domains: vh.GetDomains(), RequireTls: vh.GetRequireTls(),
		Routes: []*routev3.Route{{
			Name:   "quarantine",
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 503}},
		}},
	}
}

// table is the route table that an entry holds.
func (e *entry) table() (*routev3.RouteConfiguration, error) {
	var m discovery.DeltaDiscoveryResponse
	if err := proto.Unmarshal(e.wire, &m); err != nil {
		return nil, fmt.Errorf("route table %q: %w", e.name, err)
	}
	var table routev3.RouteConfiguration
	if err := m.GetResources()[0].GetResource().UnmarshalTo(&table); err != nil {
		return nil, fmt.Errorf("route table %q: %w", e.name, err)
	}
	return &table, nil
}
