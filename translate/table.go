package translate

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
)

// table puts the route table of plain HTTP together. Its hosts are in the order of
// their names, the one that takes every other host last. Each host was encoded when it
// was built: what one changed host costs here is the copy of the others' bytes.
func (c *collection) table() *Resource {
	published := c.published.values()
	hosts := newHostList(len(published) + 1)
	last := encodeHost(only("*", []string{"*"}, unknownHost))
	for _, h := range published {
		if h.name == "*" {
			last = h.plain
			continue
		}
		hosts.add(h.plain)
	}
	hosts.add(last)
	return putTogether(table(httpTable), hosts, c.needsOf(httpTable).refs.values())
}

// onConnectionsOf is a host that is reached on connections with a certificate for it; see
// coveredBy.
func onConnectionsOf(vh *routev3.VirtualHost, names []string) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: vh.Name, Domains: vh.Domains, Routes: vh.Routes, RetryPolicy: vh.RetryPolicy, ResponseHeadersToAdd: vh.ResponseHeadersToAdd,
		TypedPerFilterConfig: map[string]*anyMessage{CoveredFilter: coveredBy(vh.Name, names)},
	}
}

// buildSecureTables brings the tables of HTTPS to what there is. Each has the hosts of
// its profile; all others that one of its wildcards would take are sent to connections
// of their own.
func (c *collection) buildSecureTables(set func(*Resource), drop func(Kind, string)) {
	in := map[string]bool{}
	published := c.published.values()
	for _, ch := range c.chains {
		name := ch.profile.table()
		if ch.tunnel != nil || in[name] {
			continue
		}
		in[name] = true
		hosts := newHostList(len(published) + 2)
		var last encoded
		var away []string // sent to their own connections
		for _, h := range published {
			here := h.tls.served() && h.tls.profile == ch.profile && h.secure.bytes != nil
			switch {
			case here && h.name == "*":
				last = h.secure
			case here:
				hosts.add(h.secure)
			case h.name == "*":
			default:
				away = append(away, domains(h.name)...)
			}
		}
		if last.bytes == nil {
			away = append(away, "*")
		}
		if len(away) > 0 {
			hosts.add(encodeHost(only("waggle:"+misdirected.reason, away, misdirected)))
		}
		if last.bytes != nil {
			hosts.add(last)
		}
		set(putTogether(secureTable(c.cfg, name), hosts, c.needsOf(name).refs.values()))
	}
	for name := range c.resources[Routes] {
		if name != httpTable && !in[name] {
			drop(Routes, name)
		}
	}
}

// secureTable is a table of HTTPS without its hosts.
func secureTable(c *config.Collection, name string) *routev3.RouteConfiguration {
	t := table(name)
	if servesHTTP3(c) {
		t.ResponseHeadersToAdd = []*corev3.HeaderValueOption{setHeader("alt-svc", fmt.Sprintf(`h3=":%d"; ma=86400`, c.HTTPSPublicPort))}
	}
	return t
}

// putTogether puts a table together from what is around its hosts, and them.
func putTogether(around *routev3.RouteConfiguration, hosts *hostList, refs []Ref) *Resource {
	body := tableBytes(around, hosts)
	m := &routev3.RouteConfiguration{
		Name: around.Name, IgnorePortInHostMatching: around.IgnorePortInHostMatching, MostSpecificHeaderMutationsWins: around.MostSpecificHeaderMutationsWins,
		RequestHeadersToAdd: around.RequestHeadersToAdd, ResponseHeadersToAdd: around.ResponseHeadersToAdd,
		VirtualHosts: hosts.messages,
	}
	return &Resource{Kind: Routes, Name: m.Name, Message: m, Body: body, Refs: refs}
}

// fieldVirtualHosts is the number of RouteConfiguration.virtual_hosts.
const fieldVirtualHosts = 2

// field gives an encoded virtual host, in parts, as a field of the table.
func field(parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := make([]byte, 0, protowire.SizeTag(fieldVirtualHosts)+protowire.SizeBytes(size))
	b = protowire.AppendTag(b, fieldVirtualHosts, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// hostList is the virtual hosts of a table, in its order.
type hostList struct {
	messages []*routev3.VirtualHost
	fields   [][]byte // the same encoded; the first is kept free for what comes before them
}

func newHostList(room int) *hostList {
	return &hostList{messages: make([]*routev3.VirtualHost, 0, room), fields: make([][]byte, 1, room+2)}
}

func (l *hostList) add(h encoded) {
	l.messages, l.fields = append(l.messages, h.message), append(l.fields, h.bytes)
}

// tableBytes puts a table together from encoded virtual hosts. Deterministic
// encoding is in the order of field numbers: the name (1), the virtual hosts (2),
// everything else.
func tableBytes(around *routev3.RouteConfiguration, hosts *hostList) []byte {
	rest := proto.CloneOf(around)
	rest.Name = ""
	fields := append(hosts.fields, mustEncode(rest))
	fields[0] = appendText(nil, 1, around.Name)
	return bytes.Join(fields, nil) // does not fill megabytes with zeros first
}

// ordered is a map that is asked for its values, in the order of their names, far
// more often than many of them change.
type ordered[T any] struct {
	names   []string // sorted, as of the last time it was asked for
	all     []T      // beside names; never changed once handed out
	added   map[string]T
	dropped map[string]struct{}
}

// put adds a value, or replaces that of the name.
func (o *ordered[T]) put(name string, v T) {
	if o.added == nil {
		o.added, o.dropped = map[string]T{}, map[string]struct{}{}
	}
	o.added[name] = v
	delete(o.dropped, name)
}

func (o *ordered[T]) drop(name string) {
	if o.added == nil {
		o.added, o.dropped = map[string]T{}, map[string]struct{}{}
	}
	delete(o.added, name)
	o.dropped[name] = struct{}{}
}

// values gives them all; the slice is for reading.
func (o *ordered[T]) values() []T {
	if len(o.added) == 0 && len(o.dropped) == 0 {
		return o.all
	}
	in := slices.Sorted(maps.Keys(o.added))
	names := make([]string, 0, len(o.names)+len(in))
	all := make([]T, 0, len(o.names)+len(in))
	take := func(name string) {
		names, all = append(names, name), append(all, o.added[name])
	}
	for i, name := range o.names {
		for len(in) > 0 && in[0] < name {
			take(in[0])
			in = in[1:]
		}
		if _, gone := o.dropped[name]; gone {
			continue
		}
		if _, again := o.added[name]; again {
			continue // it comes with the others
		}
		names, all = append(names, name), append(all, o.all[i])
	}
	for _, name := range in {
		take(name)
	}
	o.names, o.all = names, all
	clear(o.added)
	clear(o.dropped)
	return all
}

// needs counts what the hosts of a route table name.
type needs struct {
	count map[Ref]int
	refs  ordered[Ref] // sorted as Refs are
}

func (c *collection) needsOf(table string) *needs {
	if c.needs[table] == nil {
		c.needs[table] = &needs{count: map[Ref]int{}}
	}
	return c.needs[table]
}

// place is where a Ref stands among others.
func (r Ref) place() string { return string(rune('0'+r.Kind)) + r.Name }

func (n *needs) add(e *encoded) {
	for r := range e.needs {
		if n.count[r]++; n.count[r] == 1 {
			n.refs.put(r.place(), r)
		}
	}
}

func (n *needs) drop(e *encoded) {
	for r := range e.needs {
		if n.count[r]--; n.count[r] == 0 {
			delete(n.count, r)
			n.refs.drop(r.place())
		}
	}
}

// needs ranges over what a host names.
func (e *encoded) needs(yield func(Ref) bool) {
	for _, name := range e.clusters {
		if !yield(Ref{Cluster, name}) {
			return
		}
	}
	for _, s := range e.secrets {
		if !yield(Ref{Secret, s.Name}) {
			return
		}
	}
}
