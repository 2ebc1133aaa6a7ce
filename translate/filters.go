package translate

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
)

// httpFilter is one HTTP filter. It stands in the chain of every listener once,
// disabled, and is switched on route by route: the listener never changes when a
// service's labels do (envoy-xds.md §6 says what each filter wants).
type httpFilter struct {
	name string // in the chain and in typed_per_filter_config
	// chain is what the chain holds: the smallest configuration that Envoy takes.
	chain func() proto.Message
	// shared, instead of chain, makes one discovered resource of the collection from
	// what its routes bring (route.share), by routeKey. It keeps its state when route
	// tables change, and the listener does not change with it.
	shared func(entries map[string]proto.Message) proto.Message
	// guard: who may pass. What cannot be built closes the route, and services with
	// different guards never share a match.
	guard bool
	// in says in which collections it stands in the chain; nil: in every one.
	in func(*config.Collection) bool
	// on gives what the filter does for a route, nil where it stays off. An error
	// names the label at fault (see errorAt); it costs what the key's class says.
	on func(r *route) (validator, error)
	// identity tells routes with different guards apart where the message does not,
	// because it names the route.
	identity func(r *route) string
}

// httpFilters is the chain in its order: what is cheap and refuses first, what
// costs most and what changes the request last. The router is not in it.
var httpFilters = []*httpFilter{
	logOn, logOff, // what is refused is logged too
	covered,
	traceParent, // whoever is asked below shall know
	addresses,   // the cheapest, and what it refuses costs nobody else anything
	cors,        // preflight requests carry no credentials, and refusals below must be readable by scripts
	rateLimit,   // whoever guesses passwords is counted
	bodySize,
	basicAuth,
	apiKeys,
	oidc, // before those who look at the token that it brings
	jwt,
	extAuth, // the dearest: another service is asked
	fault,
	gzip, brotli, zstd,
	sticky, // who answers is known only when nobody refuses any more
}

// GuardFilters names the HTTP filters that decide who may pass, as routes switch
// them on: a route that loses one is open to more than before.
func GuardFilters() []string {
	var names []string
	for _, f := range httpFilters {
		if f.guard {
			names = append(names, f.name)
		}
	}
	return names
}

// labelError is an error of one key of a route.
type labelError struct {
	key, reason, hint string
	// assumed is set where nothing is wrong, and what is needed is elsewhere: there
	// is no Swarm here to ask.
	assumed bool
	// severe is set where more is lost than the key's own effect.
	severe bool
}

func (e *labelError) Error() string { return e.key + ": " + e.reason }

// errorAt says what is wrong with a key, and the way out. It never repeats key material.
func errorAt(key, hint, reason string, args ...any) error {
	return &labelError{key: key, reason: fmt.Sprintf(reason, args...), hint: hint}
}

// switchOn asks every filter what it does for the route. A guard that cannot be
// built closes the route; anything else is left out and told.
func (r *route) switchOn() {
	h, guards := sha256.New(), false
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
			guards = true
			identity := packed.Value
			if f.identity != nil {
				identity = []byte(f.identity(r))
			}
			fmt.Fprintf(h, "%s %d ", f.name, len(identity))
			h.Write(identity)
		}
	}
	if guards {
		r.guards = string(h.Sum(nil))
	}
	if r.closed { // it answers 503, and nothing before that
		r.filters, r.metadata, r.shares, r.refs, r.secrets = nil, nil, nil, nil, nil
		return
	}
	r.svc.coll.extend(r)
}

// lacks notes that something a label asks for cannot be built.
func (r *route) lacks(err error, guard bool) {
	key, hint, reason, assumed := "hosts", "", err.Error(), false
	if e, ok := err.(*labelError); ok {
		key, hint, reason, assumed = e.key, e.hint, e.reason, e.assumed
	}
	severity := labels.Warning
	if e, ok := err.(*labelError); ok && e.severe {
		severity = labels.Error
	}
	if guard {
		severity, r.closed = labels.Error, true
	}
	switch {
	case assumed:
		severity = labels.Info
		if guard {
			reason += ": the route answers 503 here, and not where it is known"
		}
	case guard:
		reason += ": the route answers 503, because a guard never opens"
	}
	p := r.problem(severity, key, reason)
	p.Hint = hint
	r.svc.problems = append(r.svc.problems, p)
}

// needs is an error where the service says something with key that is nothing without other.
// What the operator says for all services is no mistake of this one.
func (r *route) needs(key, other string) error {
	label, said := r.label.Labels[key]
	if !said || strings.HasPrefix(label, "defaults: ") || strings.HasPrefix(label, "required: ") {
		return nil
	}
	return errorAt(key, "add "+r.key(other)+", or remove this", "says how, but %s does not say that", r.key(other))
}

// seesClients is an error where the addresses of clients do not reach the proxies.
func (r *route) seesClients(key string) error {
	if via := r.svc.coll.hidden; via != "" {
		return errorAt(key, "publish the ports of "+via+" with mode: host",
			"the proxies do not see where requests come from: their service %s is published through the ingress mesh", via)
	}
	return nil
}

// share adds what the route brings to the resource of a filter that is shared.
func (r *route) share(filter string, m proto.Message) {
	if r.shares == nil {
		r.shares = map[string]proto.Message{}
	}
	r.shares[filter] = m
}

// says puts a word into the metadata of the route, for filters.
func (r *route) says(key, value string) {
	if r.metadata == nil {
		r.metadata = map[string]*structpb.Value{}
	}
	r.metadata[key] = structpb.NewStringValue(value)
}

// metadataKey is where routes say what filters need to know of them.
const metadataKey = "waggle"

// guarded puts what the filters do for r on a route of Envoy.
func guarded(e *routev3.Route, r *route) *routev3.Route {
	if len(r.filters) > 0 {
		e.TypedPerFilterConfig = r.filters
	}
	if len(r.metadata) > 0 {
		e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataKey: {Fields: r.metadata}}}
	}
	shaped(e, r)
	traced(e, r)
	return e
}

// chain gives the HTTP filters of a listener; the router comes after them.
func chain(c *config.Collection) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, f := range httpFilters {
		if f.in != nil && !f.in(c) {
			continue
		}
		e := &hcmv3.HttpFilter{Name: f.name, Disabled: true}
		if f.shared == nil {
			e.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(f.chain())}
		} else {
			none := mustAny(f.shared(nil))
			e.ConfigType = &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
				ConfigSource: adsSource(durationpb.New(fetchTimeout)),
				// Whoever asks for what is not there yet is refused, or counted with all others.
				DefaultConfig: none,
				TypeUrls:      []string{none.TypeUrl},
			}}
		}
		out = append(out, e)
	}
	return out
}

// fetchTimeout is how long a new listener waits for a shared filter at most.
const fetchTimeout = time.Second

// extend adds what a route brings to the shared filters of its collection.
func (c *collection) extend(r *route) {
	for name, m := range r.shares {
		if c.extensions[name] == nil {
			c.extensions[name] = map[string]proto.Message{}
		}
		c.extensions[name][routeKey(r)] = m
		c.extended[name] = true
	}
}

// retract takes it out again.
func (c *collection) retract(r *route) {
	for name, m := range r.shares {
		if key := routeKey(r); c.extensions[name][key] == m {
			delete(c.extensions[name], key)
		}
		c.extended[name] = true
	}
}

// extension is the resource of a shared filter.
func (c *collection) extension(f *httpFilter) *Resource {
	m := &corev3.TypedExtensionConfig{Name: f.name, TypedConfig: mustAny(f.shared(c.extensions[f.name]))}
	return &Resource{Kind: Extension, Name: f.name, Message: m, Body: mustEncode(m)}
}

// sharedFilters are those of httpFilters that are discovered.
func sharedFilters() []*httpFilter {
	return slices.DeleteFunc(slices.Clone(httpFilters), func(f *httpFilter) bool { return f.shared == nil })
}
