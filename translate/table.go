package translate

import (
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// table puts the route table together. Its hosts are in the order of their names,
// the one that takes every other host last. Each host was encoded when it was
// built: what one changed host costs here is the copy of the others' bytes.
func (c *collection) table() *Resource {
	m := table(httpTable)
	published := c.published.values()
	hosts := make([]*host, 0, len(published)+1)
	var everything *host
	for _, h := range published {
		if h.name == "*" {
			everything = h
			continue
		}
		hosts = append(hosts, h)
	}
	if everything == nil {
		last := catchAll()
		everything = &host{name: "*", message: last, bytes: field(mustEncode(last))}
	}
	hosts = append(hosts, everything)
	m.VirtualHosts = make([]*routev3.VirtualHost, len(hosts))
	for i, h := range hosts {
		m.VirtualHosts[i] = h.message
	}
	return &Resource{Kind: Routes, Name: httpTable, Message: m, Body: tableBytes(httpTable, hosts), Refs: c.tableRefs(published)}
}

// fieldVirtualHosts is the number of RouteConfiguration.virtual_hosts.
const fieldVirtualHosts = 2

// field gives an encoded virtual host as a field of the table.
func field(vh []byte) []byte {
	b := make([]byte, 0, len(vh)+6)
	b = protowire.AppendTag(b, fieldVirtualHosts, protowire.BytesType)
	return protowire.AppendBytes(b, vh)
}

// tableBytes puts a table together from encoded virtual hosts. Deterministic
// encoding is in the order of field numbers: the name (1), the virtual hosts (2),
// everything else.
func tableBytes(name string, hosts []*host) []byte {
	rest := table(name)
	rest.Name = ""
	tail := mustEncode(rest)
	size := len(name) + 8 + len(tail)
	for _, h := range hosts {
		size += len(h.bytes)
	}
	b := make([]byte, 0, size)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, name)
	for _, h := range hosts {
		b = append(b, h.bytes...)
	}
	return append(b, tail...)
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
