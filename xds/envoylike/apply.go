package envoylike

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/waggle-lb/waggle/translate"
)

type message = proto.Message

// refs are the names that a listener or cluster uses.
type refs struct {
	tables, secrets, extensions, clusters []string
}

func (c *Client) takeClusters(added []*discovery.Resource, removed []string, ask *asks) {
	k := &c.kinds[translate.Cluster]
	for _, r := range added {
		old := k.have[r.GetName()]
		if old != nil && slices.Equal(old.GetResource().GetValue(), r.GetResource().GetValue()) {
			k.have[r.GetName()] = r
			continue // Envoy compares and does nothing
		}
		m, err := unpack(r.GetResource())
		msg, ok := m.(*clusterv3.Cluster)
		if err != nil || !ok {
			c.fault("cluster %q cannot be decoded: %v", r.GetName(), err)
			continue
		}
		cl := c.clusters[r.GetName()]
		if cl == nil {
			cl = &cluster{}
			c.clusters[r.GetName()] = cl
		}
		cl.eds, cl.warm = "", true
		if msg.GetType() == clusterv3.Cluster_EDS {
			cl.eds, cl.warm = msg.GetName(), false
			if s := msg.GetEdsClusterConfig().GetServiceName(); s != "" {
				cl.eds = s
			}
			ask.add[translate.Endpoints][cl.eds] = struct{}{}
		}
		cl.active = cl.active || cl.warm
		var used refs
		walk(msg, &used)
		for _, name := range used.secrets {
			ask.add[translate.Secret][name] = struct{}{}
		}
		k.have[r.GetName()] = r
	}
	for _, name := range removed {
		if n := c.users[name]; n > 0 {
			c.fault("cluster %q was removed while %d route tables or listeners name it", name, n)
		}
		if cl := c.clusters[name]; cl != nil && cl.eds != "" {
			ask.drop[translate.Endpoints][cl.eds] = struct{}{}
		}
		delete(c.clusters, name)
		delete(k.have, name)
	}
}

func (c *Client) takeEndpoints(added []*discovery.Resource, removed []string) {
	k := &c.kinds[translate.Endpoints]
	for _, r := range added {
		if _, asked := k.asked[r.GetName()]; !asked {
			continue // a stranger: ignored
		}
		k.have[r.GetName()] = r
		if cl := c.clusters[r.GetName()]; cl != nil {
			cl.warm, cl.active = true, true
		}
	}
	// Removals of endpoints are ignored; a cluster that waits for endpoints that are not
	// there is warm after its initial_fetch_timeout, here at once, with those that it had.
	for _, name := range removed {
		if cl := c.clusters[name]; cl != nil {
			cl.warm = true
			cl.active = cl.active || k.have[name] != nil
		}
	}
}

func (c *Client) takeListeners(added []*discovery.Resource, removed []string, ask *asks) {
	k := &c.kinds[translate.Listener]
	before := c.used()
	for _, name := range removed {
		c.setListener(name, refs{})
		delete(c.listeners, name)
		delete(k.have, name)
	}
	for _, r := range added {
		m, err := unpack(r.GetResource())
		msg, ok := m.(*listenerv3.Listener)
		if err != nil || !ok {
			c.fault("listener %q cannot be decoded: %v", r.GetName(), err)
			continue
		}
		var used refs
		walk(msg, &used)
		c.setListener(r.GetName(), used)
		k.have[r.GetName()] = r
	}
	after := c.used()
	for _, kind := range []translate.Kind{translate.Routes, translate.Secret, translate.Extension} {
		for name := range after[kind] {
			ask.add[kind][name] = struct{}{}
		}
		for name := range before[kind] {
			if _, still := after[kind][name]; !still {
				ask.drop[kind][name] = struct{}{}
			}
		}
	}
}

// used are the names that listeners and clusters need to be there.
func (c *Client) used() (out [translate.NumKinds]map[string]struct{}) {
	for i := range out {
		out[i] = map[string]struct{}{}
	}
	for _, l := range c.listeners {
		for _, n := range l.tables {
			out[translate.Routes][n] = struct{}{}
		}
		for _, n := range l.secrets {
			out[translate.Secret][n] = struct{}{}
		}
		for _, n := range l.extensions {
			out[translate.Extension][n] = struct{}{}
		}
	}
	return out
}

func (c *Client) setListener(name string, l refs) {
	for _, cl := range c.listeners[name].clusters {
		c.users[cl]--
	}
	for _, cl := range l.clusters {
		c.users[cl]++
		c.checkCluster("listener", name, cl)
	}
	c.listeners[name] = l
}

func (c *Client) takeRoutes(added []*discovery.Resource, removed []string) {
	k := &c.kinds[translate.Routes]
	for _, r := range added {
		if _, asked := k.asked[r.GetName()]; !asked {
			continue // left while it was on its way: ignored
		}
		m, err := unpack(r.GetResource())
		msg, ok := m.(*routev3.RouteConfiguration)
		if err != nil || !ok {
			c.fault("route table %q cannot be decoded: %v", r.GetName(), err)
			continue
		}
		var used refs
		walk(msg, &used)
		c.setTable(r.GetName(), used.clusters)
		k.have[r.GetName()] = r
	}
	c.checkRemoved(translate.Routes, removed)
}

func (c *Client) setTable(name string, clusters []string) {
	for _, cl := range c.tables[name] {
		if c.users[cl]--; c.users[cl] == 0 {
			delete(c.users, cl)
		}
	}
	delete(c.tables, name)
	if len(clusters) == 0 {
		return
	}
	slices.Sort(clusters)
	clusters = slices.Compact(clusters)
	for _, cl := range clusters {
		c.users[cl]++
		c.checkCluster("route table", name, cl)
	}
	c.tables[name] = clusters
}

func (c *Client) checkCluster(what, name, cl string) {
	switch has := c.clusters[cl]; {
	case has == nil:
		c.fault("%s %q names cluster %q, which the proxy was not given", what, name, cl)
	case !has.active && !c.opts.AnyEndpoints:
		c.fault("%s %q names cluster %q, whose endpoints have not come", what, name, cl)
	}
}

func (c *Client) takeNamed(kind translate.Kind, added []*discovery.Resource, removed []string) {
	k := &c.kinds[kind]
	for _, r := range added {
		if _, asked := k.asked[r.GetName()]; !asked {
			continue
		}
		k.have[r.GetName()] = r
	}
	c.checkRemoved(kind, removed)
}

// checkRemoved: nothing may be taken that a listener uses. (To be told that what it waits
// for is not there is no fault: the listener goes on waiting, or is replaced.)
func (c *Client) checkRemoved(kind translate.Kind, removed []string) {
	used := c.used()[kind]
	for _, name := range removed {
		if _, uses := used[name]; uses && c.kinds[kind].have[name] != nil {
			c.fault("%s %q was removed while a listener names it", kind, name)
		}
		delete(c.kinds[kind].have, name)
		if kind == translate.Routes {
			c.setTable(name, nil)
		}
	}
}

// walk collects the names that a resource uses, also out of the messages packed in it.
func walk(m message, out *refs) {
	switch m := m.(type) {
	case *anypb.Any:
		if inner, err := m.UnmarshalNew(); err == nil {
			walk(inner, out)
		}
		return
	case *hcmv3.Rds:
		if ads(m.GetConfigSource()) {
			out.tables = append(out.tables, m.GetRouteConfigName())
		}
	case *tlsv3.SdsSecretConfig:
		if ads(m.GetSdsConfig()) {
			out.secrets = append(out.secrets, m.GetName())
		}
	case *hcmv3.HttpFilter:
		if ads(m.GetConfigDiscovery().GetConfigSource()) {
			out.extensions = append(out.extensions, m.GetName())
		}
	case *routev3.RouteAction:
		if name := m.GetCluster(); name != "" {
			out.clusters = append(out.clusters, name)
		}
	case *routev3.WeightedCluster_ClusterWeight:
		out.clusters = append(out.clusters, m.GetName())
	case *routev3.RouteAction_RequestMirrorPolicy:
		out.clusters = append(out.clusters, m.GetCluster())
	case *tcpv3.TcpProxy:
		if name := m.GetCluster(); name != "" {
			out.clusters = append(out.clusters, name)
		}
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		out.clusters = append(out.clusters, m.GetName())
	}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					walk(v.Message().Interface(), out)
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message().Interface(), out)
			}
		default:
			walk(v.Message().Interface(), out)
		}
		return true
	})
}

func ads(s *corev3.ConfigSource) bool { return s.GetAds() != nil }
