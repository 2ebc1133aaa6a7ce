package translate

import (
	"google.golang.org/protobuf/proto"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// Problem is one thing wrong with one service.
type Problem = labels.Problem

// Input is everything that a translation depends on. Nothing in it is changed.
type Input struct {
	Picture *watcher.Picture
	Config  *config.Config
	// Material is what collections have on disk beside the configs of the picture; nil: nothing.
	Material *secrets.Material
}

// Kind is a type of Envoy resource, in the order in which additions are sent.
type Kind uint8

// The kinds that Waggle serves.
const (
	Cluster Kind = iota
	Endpoints
	Secret
	Extension // ECDS: typed extension configurations
	Listener
	Routes // route configurations
	NumKinds
)

// typeURLs by Kind.
var typeURLs = [NumKinds]string{
	Cluster:   "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	Endpoints: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	Secret:    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	Extension: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
	Listener:  "type.googleapis.com/envoy.config.listener.v3.Listener",
	Routes:    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}

var kindNames = [NumKinds]string{"clusters", "endpoints", "secrets", "extensions", "listeners", "routes"}

// TypeURL is the kind's xDS type.
func (k Kind) TypeURL() string { return typeURLs[k] }

// String is the kind's name in commands and the API ("clusters", "routes" …).
func (k Kind) String() string { return kindNames[k] }

// KindOf gives the kind of an xDS type URL; false for types that Waggle does not serve.
func KindOf(typeURL string) (Kind, bool) {
	for k, u := range typeURLs {
		if u == typeURL {
			return Kind(k), true
		}
	}
	return 0, false
}

// Resource is one Envoy resource. It is immutable once handed on.
type Resource struct {
	Kind Kind
	Name string
	// Message is the resource itself; for reading, rendering and explaining.
	Message proto.Message
	// Body is Message in deterministic wire form, where it was put together from
	// encoded parts (route tables); nil: whoever needs the bytes marshals Message.
	Body []byte
	// EDS is set on clusters whose endpoints come by EDS: such a cluster needs its
	// ClusterLoadAssignment (of the same name) sent again whenever it changes.
	EDS bool
	// Refs names the resources that this one needs to exist first: route
	// configurations name clusters, listeners route configurations, secrets and
	// extensions. Sorted, without duplicates.
	Refs []Ref
}

// Ref names a resource of the same collection.
type Ref struct {
	Kind Kind
	Name string
}

// Change is one resource that is new or different, or (Resource nil) gone.
type Change struct {
	Kind     Kind
	Name     string
	Resource *Resource
}

// Delta is what one Build changed in one collection, sorted by kind, then name.
type Delta struct {
	Collection string
	Changes    []Change
}

// Resources is everything one collection is served, by kind and name. It is for
// reading: whoever gets one must not change it.
type Resources [NumKinds]map[string]*Resource
