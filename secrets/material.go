// Package secrets is what stands behind the names that labels give: the content of
// Docker configs, of Docker secrets that were given to the control plane, and of
// files in the directories of a collection. A collection's material is its own.
//
// What is in it never shows: see Bytes.
package secrets

import (
	"maps"
	"time"
)

// Kind says what an Item is.
type Kind string

// The kinds.
const (
	Config Kind = "config" // a Docker config
	Secret Kind = "secret" // a Docker secret
	File   Kind = "file"   // a file of the collection's directories
)

// Item is the content behind a name.
type Item struct {
	Kind Kind
	Name string // its own, with the stack's prefix where it has one
	Data Bytes
	// Kept says why Data is what was read before and not what is there now, which
	// cannot be read; "" where it is what is there.
	Kept string
	// Assumed is set where a stack file says that the object exists elsewhere: its
	// content is not known, and nothing can be said against it.
	Assumed bool
	// former is what was there before, if it was part of a certificate that could be
	// served; formerCA, if it was authorities. Nothing where Data is as good.
	former, formerCA Bytes
	// under is the directory of a file, so that a key is found beside its certificate.
	under string
}

// Equal reports whether two items are the same in everything.
func (i Item) Equal(o Item) bool {
	return i.Kind == o.Kind && i.Name == o.Name && i.Kept == o.Kept && i.Assumed == o.Assumed && i.under == o.under &&
		i.Data.Equal(o.Data) && i.former.Equal(o.former) && i.formerCA.Equal(o.formerCA)
}

// Material is the content that is on disk, by collection. It is immutable; nil has
// nothing.
type Material struct {
	shelves map[string]shelf // by collection
	// declared are secrets by name whose content a stack file gives: there is no Swarm
	// that could keep it from anybody.
	declared map[string]Item
	// refused says why the content that a stack file gives to a secret is not used.
	refused map[string]string
	at      time.Time
	local   *LocalCA
	// providers are the answers of OpenID providers, by issuer; nil: nobody asks them.
	providers map[string]Answer
	// courier says that there is one: see WithFetched.
	courier bool
}

// shelf is what one collection may use.
type shelf struct {
	secrets map[string]Item // Docker secrets, by name
	files   map[string]Item
	// refused says why what is there under a name is not used.
	refused map[string]string
	pairs   []NamedPair // of the files, by name
	// failed says of Docker secrets why the courier could not bring them, and coming
	// which of them it is about to; before is what labels led to before.
	failed map[string]string
	coming map[string]bool
	before map[string]Item
}

// Of is material put together from the items of each collection, for whoever has them
// from elsewhere than a disk.
func Of(items map[string][]Item) *Material {
	m := &Material{shelves: map[string]shelf{}}
	for collection, all := range items {
		s := shelf{secrets: map[string]Item{}, files: map[string]Item{}}
		for _, i := range all {
			if i.Kind == Secret {
				s.secrets[i.Name] = i
			} else {
				s.files[i.Name] = i
			}
		}
		x := newExaminer()
		x.begin()
		s.pairs = x.directories(s.files, m.at)
		m.shelves[collection] = s
	}
	return m
}

// Equal reports whether two materials hold the same.
func (m *Material) Equal(o *Material) bool {
	if m == nil || o == nil {
		return m == o
	}
	if (m.providers == nil) != (o.providers == nil) || !maps.Equal(m.providers, o.providers) {
		return false
	}
	return m.courier == o.courier && m.at.Equal(o.at) && m.local.Equal(o.local) && maps.EqualFunc(m.declared, o.declared, Item.Equal) && maps.Equal(m.refused, o.refused) && maps.EqualFunc(m.shelves, o.shelves, shelf.equal)
}

func (s shelf) equal(o shelf) bool {
	return maps.EqualFunc(s.secrets, o.secrets, Item.Equal) && maps.EqualFunc(s.files, o.files, Item.Equal) && maps.Equal(s.refused, o.refused) &&
		maps.Equal(s.failed, o.failed) && maps.Equal(s.coming, o.coming) && maps.EqualFunc(s.before, o.before, Item.Equal)
}
