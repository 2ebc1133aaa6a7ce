package lastgood

import (
	"fmt"
	"slices"

	"github.com/cncf/xds/go/udpa/annotations"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	basicauthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/basic_auth/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

// Public is what of a resource may be written down and served without any secret: itself
// if nothing in it is sensitive, nil if nothing remains.
//
//   - Routes with anything sensitive, or that need a secret, answer 503 guard_unavailable: a
//     guard that is not there is closed.
//   - Listeners lose the filter chains that need a secret: HTTPS waits.
//   - Clusters that need a secret stay; without it the proxy makes no connection to them.
//   - Any other resource with something sensitive is left out, and so is one that cannot be
//     looked into. The proxy answers 500 where a filter's configuration is missing.
func Public(r *translate.Resource) (*translate.Resource, error) {
	var m proto.Message
	switch r.Kind {
	case translate.Secret:
		return nil, nil
	case translate.Routes:
		m = &routev3.RouteConfiguration{}
	case translate.Listener:
		m = &listenerv3.Listener{}
	default:
		var err error
		if m, err = (&anypb.Any{TypeUrl: r.Kind.TypeURL(), Value: r.Body}).UnmarshalNew(); err != nil {
			return nil, fmt.Errorf("%s %q: %w", r.Kind, r.Name, err)
		}
		if look := (looker{bySDS: r.Kind != translate.Cluster}); look.sensitive(m.ProtoReflect()) {
			return nil, nil
		}
		return r, nil
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		return nil, fmt.Errorf("%s %q: %w", r.Kind, r.Name, err)
	}
	changed := false
	switch m := m.(type) {
	case *routev3.RouteConfiguration:
		changed = closeRoutes(m)
	case *listenerv3.Listener:
		if changed = cutChains(m); changed && len(m.GetFilterChains()) == 0 && m.GetDefaultFilterChain() == nil {
			return nil, nil
		}
	}
	switch {
	case (looker{bySDS: true}).sensitive(m.ProtoReflect()):
		return nil, nil // elsewhere in it
	case !changed:
		return r, nil
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", r.Kind, r.Name, err)
	}
	return &translate.Resource{
		Kind: r.Kind, Name: r.Name, Body: body,
		Refs: slices.DeleteFunc(slices.Clone(r.Refs), func(ref translate.Ref) bool { return ref.Kind == translate.Secret }),
	}, nil
}

// closeRoutes closes what cannot be served without a secret, and says whether it did.
func closeRoutes(table *routev3.RouteConfiguration) (changed bool) {
	look := looker{bySDS: true}
	whole := look.filters(table.GetTypedPerFilterConfig())
	if whole {
		table.TypedPerFilterConfig, changed = nil, true
	}
	for _, vh := range table.GetVirtualHosts() {
		all := whole
		if look.filters(vh.GetTypedPerFilterConfig()) {
			vh.TypedPerFilterConfig, all, changed = nil, true, true
		}
		for _, r := range vh.GetRoutes() {
			if all || look.sensitive(r.ProtoReflect()) {
				translate.Close(r)
				changed = true
			}
		}
		if all && vh.GetMatcher() != nil || look.sensitive(vh.ProtoReflect()) {
			r := &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}}
			translate.Close(r)
			name, domains, tls := vh.GetName(), vh.GetDomains(), vh.GetRequireTls()
			proto.Reset(vh)
			vh.Name, vh.Domains, vh.RequireTls, vh.Routes = name, domains, tls, []*routev3.Route{r}
			changed = true
		}
	}
	return changed
}

// cutChains takes out the filter chains that cannot be there without a secret, and says
// whether there were any. What a listener makes its choice by names chains: without one of
// them none is left.
func cutChains(l *listenerv3.Listener) (changed bool) {
	look := looker{bySDS: true}
	n := len(l.GetFilterChains())
	l.FilterChains = slices.DeleteFunc(l.GetFilterChains(), func(c *listenerv3.FilterChain) bool { return look.sensitive(c.ProtoReflect()) })
	changed = len(l.FilterChains) != n
	if d := l.GetDefaultFilterChain(); d != nil && look.sensitive(d.ProtoReflect()) {
		l.DefaultFilterChain, changed = nil, true
	}
	if changed && l.GetFilterChainMatcher() != nil {
		l.FilterChains, l.FilterChainMatcher, l.DefaultFilterChain = nil, nil, nil
	}
	return changed
}

// looker finds what must not be written: content in fields that Envoy marks sensitive, and
// with bySDS also references to secrets. What it cannot look into counts as sensitive.
type looker struct{ bySDS bool }

func (l looker) filters(configs map[string]*anypb.Any) bool {
	for _, c := range configs {
		if l.sensitive(c.ProtoReflect()) {
			return true
		}
	}
	return false
}

func (l looker) sensitive(m protoreflect.Message) (found bool) {
	switch is := m.Interface().(type) {
	case *anypb.Any:
		if is.GetTypeUrl() == "" && len(is.GetValue()) == 0 {
			return false
		}
		inner, err := is.UnmarshalNew()
		return err != nil || l.sensitive(inner.ProtoReflect())
	case *tlsv3.SdsSecretConfig:
		if l.bySDS {
			return true
		}
	case *basicauthv3.BasicAuth:
		if is.GetUsers().GetInlineString() == translate.Nobody {
			return len(m.GetUnknown()) > 0
		}
	}
	if len(m.GetUnknown()) > 0 {
		return true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case proto.GetExtension(f.Options(), annotations.E_Sensitive).(bool):
			found = true
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					found = l.sensitive(e.Message())
					return !found
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				if found = l.sensitive(v.List().Get(i).Message()); found {
					break
				}
			}
		default:
			found = l.sensitive(v.Message())
		}
		return !found
	})
	return found
}
