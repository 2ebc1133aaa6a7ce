package translate

import (
	"crypto/sha256"
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/translate/labels"
)

// httpFilter is one HTTP filter. It stands in the chain of every listener once,
// disabled, and is switched on route by route: the listener never changes when a
// service's labels do (envoy-xds.md §6 says what each filter wants).
type httpFilter struct {
	name string // in the chain and in typed_per_filter_config
	// chain is what the chain holds: the smallest configuration that Envoy takes.
	chain func() proto.Message
	// guard: who may pass. What cannot be built closes the route, and services with
	// different guards never share a match.
	guard bool
	// on gives what the filter does for a route, nil where it stays off. An error
	// names the label at fault (see errorAt); it costs what the key's class says.
	on func(r *route) (validator, error)
}

// httpFilters is the chain in its order: what is cheap and refuses first, what
// costs most and what changes the request last. The router is not in it.
var httpFilters = []*httpFilter{}

// labelError is an error of one key of a route.
type labelError struct {
	key, reason, hint string
}

func (e *labelError) Error() string { return e.key + ": " + e.reason }

// errorAt says what is wrong with a key, and the way out. It never repeats key material.
func errorAt(key, hint, reason string, args ...any) error {
	return &labelError{key: key, reason: fmt.Sprintf(reason, args...), hint: hint}
}

// switchOn asks every filter what it does for the route. A guard that cannot be
// built closes the route; anything else is left out and told.
func (r *route) switchOn() {
	h := sha256.New()
	for _, f := range httpFilters {
		m, err := f.on(r)
		if err == nil && m != nil {
			_, err = checked(m)
		}
		if err != nil {
			r.lacks(err, f.guard)
			continue
		}
		if m == nil {
			continue
		}
		if r.filters == nil {
			r.filters = map[string]*anyMessage{}
		}
		packed := mustAny(m)
		r.filters[f.name] = packed
		if f.guard {
			fmt.Fprintf(h, "%s %d ", f.name, len(packed.Value))
			h.Write(packed.Value)
		}
	}
	if len(r.filters) > 0 {
		r.guards = string(h.Sum(nil))
	}
}

// lacks notes that something a label asks for cannot be built.
func (r *route) lacks(err error, guard bool) {
	key, hint, reason := "hosts", "", err.Error()
	if e, ok := err.(*labelError); ok {
		key, hint, reason = e.key, e.hint, e.reason
	}
	severity := labels.Warning
	if guard {
		severity, r.closed = labels.Error, true
		reason += ": the route answers 503, because a guard never opens"
	}
	p := r.problem(severity, key, reason)
	p.Hint = hint
	r.svc.problems = append(r.svc.problems, p)
}

// guarded puts what the filters do for r on a route of Envoy.
func guarded(e *routev3.Route, r *route) *routev3.Route {
	if len(r.filters) > 0 {
		e.TypedPerFilterConfig = r.filters
	}
	return e
}

// chain gives the HTTP filters of a listener; the router comes after them.
func chain() []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, f := range httpFilters {
		out = append(out, &hcmv3.HttpFilter{
			Name: f.name, Disabled: true,
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(f.chain())},
		})
	}
	return out
}
