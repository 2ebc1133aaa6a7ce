package translate

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// overprovisioning makes priority 1 mean "when no other is left": as long as one
// endpoint of priority 0 is healthy (of up to a thousand), it takes everything.
// Envoy's own 140 would send a share away as soon as a third is ejected.
const overprovisioning = 100_000

var (
	onlyWhenEmpty        = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(overprovisioning)}
	onlyWhenEmptyEncoded = mustEncode(&endpointv3.ClusterLoadAssignment{Policy: onlyWhenEmpty})
)

// assignment is endpoints in Envoy's words: by priority, then node. Where another
// service may stand in, one healthy endpoint is enough even while that has none:
// else those that were ejected would get requests again.
//
// Nothing is as many, and changes as often, as endpoints. They are encoded here,
// not by the protobuf library, which takes longer for the three words of metadata
// of an endpoint than for all the rest. room is where that is done.
func assignment(name string, list []endpoint, standIn bool, room *[]byte) *Resource {
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if standIn {
		cla.Policy = onlyWhenEmpty
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y endpoint) int {
		return cmp.Or(
			cmp.Compare(x.priority, y.priority), cmp.Compare(x.node, y.node),
			cmp.Compare(x.slot, y.slot), cmp.Compare(x.task, y.task), x.addr.Compare(y.addr),
		)
	})
	body := appendText((*room)[:0], 1, name)
	for len(list) > 0 {
		first := list[0]
		end := slices.IndexFunc(list, func(e endpoint) bool { return e.priority != first.priority || e.node != first.node })
		if end < 0 {
			end = len(list)
		}
		group := &endpointv3.LocalityLbEndpoints{Priority: first.priority, LbEndpoints: make([]*endpointv3.LbEndpoint, 0, end)}
		if first.node != "" {
			group.Locality = &corev3.Locality{Zone: valid(first.node)}
		}
		if first.priority > 0 {
			cla.Policy = onlyWhenEmpty
		}
		body = appendNested(body, 2, func(b []byte) []byte {
			if first.node != "" {
				b = appendNested(b, 1, func(b []byte) []byte { return appendText(b, 2, group.Locality.Zone) })
			}
			for _, e := range list[:end] {
				e.task, e.nodeName = valid(e.task), valid(e.nodeName)
				group.LbEndpoints = append(group.LbEndpoints, e.envoy())
				b = e.encoded(b)
			}
			if first.priority > 0 {
				b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), uint64(first.priority))
			}
			return b
		})
		cla.Endpoints = append(cla.Endpoints, group)
		list = list[end:]
	}
	if cla.Policy != nil {
		body = append(body, onlyWhenEmptyEncoded...)
	}
	*room = body
	return &Resource{Kind: Endpoints, Name: name, Message: cla, Body: bytes.Clone(body)}
}

// envoyEndpoint is the messages of one endpoint together: a Swarm of many tasks
// does not become twenty times as many small objects.
type envoyEndpoint struct {
	lb       endpointv3.LbEndpoint
	host     endpointv3.LbEndpoint_Endpoint
	endpoint endpointv3.Endpoint
	address  corev3.Address
	socket   corev3.Address_SocketAddress
	ip       corev3.SocketAddress
	port     corev3.SocketAddress_PortValue
	metadata corev3.Metadata
	ours     structpb.Struct

	task, slot, node   structpb.Value
	taskText, nodeText structpb.Value_StringValue
	slotNumber         structpb.Value_NumberValue
}

// envoy is the endpoint in Envoy's words; encoded says the same in bytes.
func (e endpoint) envoy() *endpointv3.LbEndpoint {
	m := new(envoyEndpoint)
	m.lb.HostIdentifier = &m.host
	m.host.Endpoint = &m.endpoint
	m.endpoint.Address = &m.address
	m.address.Address = &m.socket
	m.socket.SocketAddress = &m.ip
	m.ip.Address = e.addr.Addr().String()
	m.ip.PortSpecifier = &m.port
	m.port.PortValue = uint32(e.addr.Port())

	m.lb.Metadata = &m.metadata
	m.metadata.FilterMetadata = map[string]*structpb.Struct{MetadataKey: &m.ours}
	m.ours.Fields = map[string]*structpb.Value{"task": &m.task}
	m.task.Kind, m.taskText.StringValue = &m.taskText, e.task
	if e.slot > 0 {
		m.ours.Fields["slot"] = &m.slot
		m.slot.Kind, m.slotNumber.NumberValue = &m.slotNumber, float64(e.slot)
	}
	if e.nodeName != "" {
		m.ours.Fields["node"] = &m.node
		m.node.Kind, m.nodeText.StringValue = &m.nodeText, e.nodeName
	}
	return &m.lb
}

// encoded appends the endpoint as a field of its locality. The library encodes what
// stands in a oneof last, whatever its number; that both agree is tested.
func (e endpoint) encoded(b []byte) []byte {
	entry := func(b []byte, key string, value func([]byte) []byte) []byte {
		return appendNested(b, 1, func(b []byte) []byte { return appendNested(appendText(b, 1, key), 2, value) })
	}
	return appendNested(b, 2, func(b []byte) []byte {
		b = appendNested(b, 3, func(b []byte) []byte { // metadata
			return entry(b, MetadataKey, func(b []byte) []byte { // sorted, as all maps are
				if e.nodeName != "" {
					b = entry(b, "node", func(b []byte) []byte { return appendText(b, 3, e.nodeName) })
				}
				if e.slot > 0 {
					b = entry(b, "slot", func(b []byte) []byte {
						return protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), math.Float64bits(float64(e.slot)))
					})
				}
				return entry(b, "task", func(b []byte) []byte { return appendText(b, 3, e.task) })
			})
		})
		return appendNested(b, 1, func(b []byte) []byte { // endpoint
			return appendNested(b, 1, func(b []byte) []byte { // address
				return appendNested(b, 1, func(b []byte) []byte { // socket_address
					b = appendNested(b, 2, e.addr.Addr().AppendTo)
					return protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), uint64(e.addr.Port()))
				})
			})
		})
	})
}
