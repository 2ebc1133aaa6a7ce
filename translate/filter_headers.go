package translate

import (
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/waggle-lb/waggle/translate/labels"
)

// maxHeaders is how many headers a route may set and add, and how many it may
// remove, each way: Envoy refuses a route with more than a thousand.
const maxHeaders = 200

// headerChanges is what Envoy's route, or its entry of a service that shares a
// match, does with the headers of one direction.
type headerChanges struct {
	add    []*corev3.HeaderValueOption
	remove []string
}

// before gives the headers that are added, and then others. Routes have them in
// common: neither list is changed.
func (c headerChanges) before(others []*corev3.HeaderValueOption) []*corev3.HeaderValueOption {
	switch {
	case len(c.add) == 0:
		return others
	case len(others) == 0:
		return c.add
	}
	return slices.Concat(c.add, others)
}

// shapeHeaders reads what the labels say about headers. The router itself does that
// (no filter is needed), for answers of the proxy's own too.
func (r *route) shapeHeaders() {
	r.request = r.changes(r.label.RequestHeaders, "set_request_header", "remove_request_headers")
	r.response = r.changes(r.label.ResponseHeaders, "set_response_header", "remove_response_headers")
}

func (r *route) changes(c labels.HeaderChanges, set, remove string) headerChanges {
	out := headerChanges{remove: c.Remove}
	for _, h := range c.Set {
		out.add = append(out.add, setHeader(h.Name, formatLiteral(h.Value)))
	}
	for _, h := range c.Add {
		o := setHeader(h.Name, formatLiteral(h.Value))
		o.AppendAction = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		out.add = append(out.add, o)
	}
	tell := func(key string, n int) {
		p := r.problem(labels.Warning, key, fmt.Sprintf("the route changes %d headers so, and %d are taken: none of these changes is made", n, maxHeaders))
		p.Hint = "change fewer, or let the task do it"
		r.svc.problems = append(r.svc.problems, p)
	}
	if n := len(out.add); n > maxHeaders {
		tell(set, n)
		out.add = nil
	}
	if n := len(out.remove); n > maxHeaders {
		tell(remove, n)
		out.remove = nil
	}
	return out
}

// shaped puts the changes of headers on a route of Envoy. What the route's own
// answer says of itself comes after them, and holds.
func shaped(e *routev3.Route, r *route) {
	if e.GetRoute().GetWeightedClusters() != nil {
		return // each service has its own, with its share
	}
	e.ResponseHeadersToAdd = r.response.before(e.ResponseHeadersToAdd)
	e.ResponseHeadersToRemove = r.response.remove
	if e.GetRoute() != nil { // nobody sees the headers of other requests
		e.RequestHeadersToAdd = r.request.before(e.RequestHeadersToAdd)
		e.RequestHeadersToRemove = r.request.remove
	}
}

// shapedShare is shaped for a service that shares a match.
func shapedShare(c *routev3.WeightedCluster_ClusterWeight, r *route) {
	c.RequestHeadersToAdd, c.RequestHeadersToRemove = r.request.add, r.request.remove
	c.ResponseHeadersToAdd, c.ResponseHeadersToRemove = r.response.add, r.response.remove
}
