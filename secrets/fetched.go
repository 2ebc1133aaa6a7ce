package secrets

import (
	"maps"
	"time"

	"github.com/waggle-lb/waggle/watcher"
)

// CollectionLabel on a Docker secret names the collection that may have its content
// without its being mounted: whoever makes the secret gives the courier leave by it.
const CollectionLabel = "com.docker.lb.collection"

// Want is a name that the labels of a collection's service give.
type Want struct {
	Collection string
	Stack      string // of the service
	Name       string
	Use        string // the label that gives it: of which service, route and key
}

// Lacks gives the Docker secret that Find would look for in vain although its
// collection may have it: m has not its content, and its CollectionLabel is the
// collection's. nil where nothing has to be fetched, or nothing may be.
func Lacks(p *watcher.Picture, m *Material, w Want) *watcher.Secret {
	var own shelf
	if m != nil {
		own = m.shelves[w.Collection]
	}
	for _, n := range candidates(w.Stack, w.Name) {
		if _, mounted := own.secrets[n]; mounted {
			return nil
		}
		if s := p.Secrets[n]; s != nil {
			if _, isFile := own.files[n]; isFile {
				return nil
			}
			if s.Labels[CollectionLabel] == w.Collection {
				return s
			}
			continue // as Find does
		}
		if p.Configs[n] != nil {
			return nil
		}
	}
	return nil
}

// Fetched is what a courier has for one collection: Docker secrets, by name.
type Fetched struct {
	Content map[string]Bytes
	Failed  map[string]string // why it could not bring them
	Coming  map[string]bool   // it is about to bring them
	// Before is what labels led to before that now name something of the last two, by Use.
	Before map[string]Item
	// At is when the newest of Content came: what is valid since a moment ago, when
	// the rest of the material was read, is valid then.
	At time.Time
}

// WithFetched is m with what a courier has for each collection. What is mounted holds.
func (m *Material) WithFetched(fetched map[string]Fetched) *Material {
	all := &Material{}
	if m != nil {
		*all = *m
	}
	all.courier = true
	all.shelves = maps.Clone(all.shelves)
	if all.shelves == nil {
		all.shelves = map[string]shelf{}
	}
	for collection, f := range fetched {
		s := all.shelves[collection]
		items := make(map[string]Item, len(s.secrets)+len(f.Content))
		for name, data := range f.Content {
			items[name] = Item{Kind: Secret, Name: name, Data: data}
		}
		maps.Copy(items, s.secrets)
		s.secrets, s.failed, s.coming, s.before = items, f.Failed, f.Coming, f.Before
		all.shelves[collection] = s
		if !all.at.IsZero() && f.At.After(all.at) {
			all.at = f.At
		}
	}
	return all
}

// Before gives what a label of a collection led to before, as long as the courier has
// not fetched what it names now: a name takes effect when there is something behind it.
func (m *Material) Before(collection, use string) (Item, bool) {
	if m == nil {
		return Item{}, false
	}
	i, ok := m.shelves[collection].before[use]
	return i, ok
}

// Coming reports whether something is on its way that is not there yet: with a courier,
// or from an OpenID provider that is being asked for the first time.
func (m *Material) Coming() bool {
	if m == nil {
		return false
	}
	for _, s := range m.shelves {
		if len(s.coming) > 0 {
			return true
		}
	}
	for _, a := range m.providers {
		if !a.Known && a.Failed == "" {
			return true
		}
	}
	return false
}
