package labels

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/waggle-lb/waggle/watcher"
)

// Cache remembers what the labels of services say, for as many as fit; the least
// recently asked for are forgotten. It may be used concurrently. What it hands
// out is shared and must not be changed.
type Cache struct {
	sets     *lru.Cache[setKey, *entry[*Set]]
	services *lru.Cache[serviceKey, *entry[*Service]]
}

// NewCache makes a cache for that many services (at least one).
func NewCache(services int) *Cache {
	sets, _ := lru.New[setKey, *entry[*Set]](max(1, services)) // errs on sizes below 1 alone
	parsed, _ := lru.New[serviceKey, *entry[*Service]](max(1, services))
	return &Cache{sets: sets, services: parsed}
}

// spec is what the labels language sees of a service. Its ID and version stand
// for its name and labels: a source raises the version when they change.
type spec struct {
	id      string
	version uint64
}

// digest stands for configuration.
type digest [sha256.Size]byte

// A setKey names every input of Merge: prefixes; name and labels by spec.
type setKey struct {
	spec
	prefixes digest
}

// A serviceKey names every input of Parse: the set; the options by collection and digest.
type serviceKey struct {
	setKey
	collection string
	options    digest
}

// entry is a result with the inputs that the spec of its key stands for. They are
// compared at every hit, so that a source that forgets to raise a version costs a
// second reading and never an outdated route.
type entry[T any] struct {
	name   string
	labels map[string]string
	result T
}

func (e *entry[T]) of(s *watcher.Service) bool {
	return e.name == s.Name && maps.Equal(e.labels, s.Labels)
}

// Set is Merge of the service's labels.
func (c *Cache) Set(prefixes []string, s *watcher.Service) *Set {
	return c.set(setKey{spec{s.ID, s.Version}, digestOf(prefixes)}, prefixes, s)
}

func (c *Cache) set(key setKey, prefixes []string, s *watcher.Service) *Set {
	if e, hit := c.sets.Get(key); hit && e.of(s) {
		return e.result
	}
	set := Merge(prefixes, s.Name, s.Labels)
	c.sets.Add(key, &entry[*Set]{s.Name, s.Labels, set})
	return set
}

// Service is Parse of the service's labels.
func (c *Cache) Service(prefixes []string, s *watcher.Service, opts Options) *Service {
	key := serviceKey{
		setKey:     setKey{spec{s.ID, s.Version}, digestOf(prefixes)},
		collection: opts.Collection,
		options:    digestOf(pairs(opts.Defaults), pairs(opts.Required)),
	}
	if e, hit := c.services.Get(key); hit && e.of(s) {
		return e.result
	}
	service := Parse(c.set(key.setKey, prefixes, s), s.Name, opts)
	c.services.Add(key, &entry[*Service]{s.Name, s.Labels, service})
	return service
}

func pairs(m map[string]string) []string {
	all := make([]string, 0, 2*len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k, m[k])
	}
	return all
}

// digestOf hashes lists of texts; different lists give different digests.
func digestOf(lists ...[]string) digest {
	h := sha256.New()
	for _, l := range lists {
		writeLength(h, len(l))
		for _, text := range l {
			writeLength(h, len(text))
			h.Write([]byte(text))
		}
	}
	return digest(h.Sum(nil))
}

func writeLength(h hash.Hash, n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	h.Write(b[:])
}
