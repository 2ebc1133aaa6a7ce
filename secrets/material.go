// Package secrets is what stands behind the names that labels give: the content of
// Docker configs, of Docker secrets that were given to the control plane, and of
// files in the directories of a collection. A collection's material is its own.
//
// What is in it never shows: see Bytes.
package secrets

import (
	"fmt"
	"strings"

	"github.com/waggle-lb/waggle/watcher"
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
	// Assumed is set where a stack file says that the object exists elsewhere: its
	// content is not known, and nothing can be said against it.
	Assumed bool
}

// Material is the content that is on disk, by collection. It is immutable; nil has
// nothing.
type Material struct {
	shelves map[string]shelf // by collection
	// declared are secrets by name whose content a stack file gives: there is no Swarm
	// that could keep it from anybody.
	declared map[string]Item
}

// shelf is what one collection may use.
type shelf struct {
	secrets map[string]Item // Docker secrets, by name
	files   map[string]Item
}

// NotFound says that there is nothing behind a name.
type NotFound struct {
	Name string
	// Kept is the Docker secret that is meant and whose content the control plane was
	// not given; "" where there is none.
	Kept string
}

// Error is what is missing.
func (e *NotFound) Error() string {
	if e.Kept != "" {
		return fmt.Sprintf("the secret %s exists, and its content was not given to the control plane", e.Kept)
	}
	return fmt.Sprintf("there is no secret, config or file called %s", e.Name)
}

// Hint is the way out: for a secret, the two lines that grant it.
func (e *NotFound) Hint(collection string) string {
	if e.Kept == "" {
		return "create it with `docker secret create` or `docker config create`, or put the file into a directory of collections." + collection + ".certificates.directories"
	}
	return fmt.Sprintf("run `docker service update --secret-add %s <the control plane's service>`, and add it to collections.%s.certificates.secrets", e.Kept, collection)
}

// Find gives what a service of a stack means by a name: the object of its own stack
// first, then that of the name as written, then a file of the collection. Names
// that lead somewhere else (with / or ..) are never found.
func Find(p *watcher.Picture, m *Material, collection, stack, name string) (Item, error) {
	missing := &NotFound{Name: name}
	if name == "" || strings.ContainsAny(name, "/\\\x00") || name == "." || name == ".." {
		return Item{}, missing
	}
	names := []string{name}
	if stack != "" {
		names = []string{stack + "_" + name, name}
	}
	var own shelf
	var declared map[string]Item
	if m != nil {
		own, declared = m.shelves[collection], m.declared
	}
	for _, n := range names {
		if i, ok := own.secrets[n]; ok {
			return i, nil
		}
		if i, ok := declared[n]; ok {
			return i, nil
		}
		if s := p.Secrets[n]; s != nil {
			if p.Static || p.Loopback {
				return Item{Kind: Secret, Name: n, Assumed: true}, nil
			}
			if missing.Kept == "" {
				missing.Kept = n
			}
			continue // a config or file of that name may be meant
		}
		if c := p.Configs[n]; c != nil {
			return Item{Kind: Config, Name: n, Data: Hide(c.Data), Assumed: (p.Static || p.Loopback) && c.Data == nil}, nil
		}
	}
	if i, ok := own.files[name]; ok {
		return i, nil
	}
	return Item{}, missing
}

// Equal reports whether two materials hold the same.
func (m *Material) Equal(o *Material) bool {
	if m == nil || o == nil {
		return m == o
	}
	same := func(a, b map[string]Item) bool {
		if len(a) != len(b) {
			return false
		}
		for n, i := range a {
			if j, ok := b[n]; !ok || i.Kind != j.Kind || i.Data.Sum() != j.Data.Sum() {
				return false
			}
		}
		return true
	}
	if len(m.shelves) != len(o.shelves) || !same(m.declared, o.declared) {
		return false
	}
	for c, s := range m.shelves {
		t, ok := o.shelves[c]
		if !ok || !same(s.secrets, t.secrets) || !same(s.files, t.files) {
			return false
		}
	}
	return true
}
