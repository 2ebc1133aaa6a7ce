package translate

import endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

// Hosts counts the hosts that somebody in a collection has.
func (b *Builder) Hosts(collection string) int {
	if c := b.collections[collection]; c != nil {
		return len(c.published.values())
	}
	return 0
}

// Addresses counts the endpoints in a resource; there are none in other kinds.
func (r *Resource) Addresses() (n int) {
	if r == nil {
		return 0
	}
	if cla, ok := r.Message.(*endpointv3.ClusterLoadAssignment); ok {
		for _, group := range cla.GetEndpoints() {
			n += len(group.GetLbEndpoints())
		}
	}
	return n
}
