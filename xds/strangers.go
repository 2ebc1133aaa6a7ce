package xds

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waggle-lb/waggle/translate"
)

// maxStrangers bounds, in bytes, the names that a stream makes us remember although nobody
// serves them: some thousand. An Envoy asks for what its listeners, clusters and routes
// name, which is there, or was when it connected. Whoever lets strangers choose the names
// (certificates on demand, by server name) leaves each again when it is told that there is
// nothing.
const maxStrangers = 512 << 10

// strangeCost is what a name costs beside its own bytes: places in two or three maps.
const strangeCost = 160

// strangers are the names that a stream asked for and nobody serves, by kind. They are
// counted when they are asked for; those that have come to be served meanwhile are
// forgotten when the bound is reached.
type strangers struct {
	names [translate.NumKinds]map[string]struct{}
	bytes int
}

func (s *strangers) add(kind translate.Kind, name string) {
	if _, ok := s.names[kind][name]; ok {
		return
	}
	if s.names[kind] == nil {
		s.names[kind] = make(map[string]struct{})
	}
	s.names[kind][name] = struct{}{}
	s.bytes += len(name) + strangeCost
}

func (s *strangers) drop(kind translate.Kind, name string) {
	if _, ok := s.names[kind][name]; ok {
		delete(s.names[kind], name)
		s.bytes -= len(name) + strangeCost
	}
}

// meet counts the strangers in a request. What the proxy says that it has is none, nor
// what it leaves, unless it has everything and so must be answered; the error ends the
// stream. It is called when the request has been noted, and before it is answered.
func (st *stream) meet(kind translate.Kind, subscribe, unsubscribe []string) error {
	s := &st.subs[kind]
	strange := func(name string) bool {
		_, ok := st.lookup(kind, name)
		return !ok && name != "*"
	}
	for _, name := range subscribe {
		if _, has := s.known[name]; !has && strange(name) {
			st.strangers.add(kind, name)
		}
	}
	for _, name := range unsubscribe {
		switch {
		case !s.wide:
			st.strangers.drop(kind, name)
		case strange(name):
			st.strangers.add(kind, name)
		}
	}
	if st.strangers.bytes <= maxStrangers {
		return nil
	}
	for kind := range st.strangers.names {
		kind := translate.Kind(kind)
		s := &st.subs[kind]
		for name := range st.strangers.names[kind] {
			_, asked := s.watch.SubscribedResources()[name]
			_, want := s.want[name]
			if _, served := st.lookup(kind, name); served || !asked && !want {
				st.strangers.drop(kind, name)
			}
		}
	}
	if st.strangers.bytes > maxStrangers {
		return status.Errorf(codes.ResourceExhausted,
			"the stream asks for more than %d kB of names that nobody serves here; leave those that were answered with removed_resources", maxStrangers>>10)
	}
	return nil
}

// maxStrange and maxStrangeNames bound the same for types that are not served: how many
// there may be, and the bytes of the names of each.
const (
	maxStrange      = 64
	maxStrangeNames = 16 << 10
	maxTypeURL      = 256
)

// meetType is meet for a type that is not served, with all the names that were asked for.
func (st *stream) meetType(url string, names map[string]struct{}) error {
	if len(url) > maxTypeURL {
		return status.Errorf(codes.InvalidArgument, "no type is called %s", clip(url))
	}
	if st.strange == nil {
		st.strange = make(map[string]struct{})
	}
	st.strange[url] = struct{}{}
	if len(st.strange) > maxStrange { // the delta server keeps a watch for each
		return status.Errorf(codes.InvalidArgument, "the stream asks for more than %d types that are not served", maxStrange)
	}
	bytes := 0
	for name := range names {
		if bytes += len(name) + strangeCost; bytes > maxStrangeNames {
			return status.Errorf(codes.ResourceExhausted, "the stream asks for more than %d kB of names of type %s, which is not served", maxStrangeNames>>10, url)
		}
	}
	return nil
}
