package translate

import (
	"cmp"
	"errors"
	"slices"

	"github.com/waggle-lb/waggle/secrets"
)

// named is what a service asked for by name, and what was there.
type named struct {
	name  string
	item  secrets.Item
	error string
}

// material gives the content of the secret, config or file that key names. What was
// asked for is remembered: the service is built again when it changes, comes or goes.
func (s *service) material(key, name string) (secrets.Item, error) {
	n, err := s.find(name)
	s.named = append(s.named, n)
	var missing *secrets.NotFound
	if errors.As(err, &missing) {
		return n.item, errorAt(key, missing.Hint(s.coll.name), "%s", missing.Error())
	}
	return n.item, err
}

func (s *service) find(name string) (named, error) {
	i, err := secrets.Find(s.b.picture, s.b.material, s.coll.name, s.spec.Stack(), name)
	n := named{name: name, item: i}
	if err != nil {
		n.error = err.Error()
	}
	return n, err
}

// stale reports whether something that the service asked for is another now.
func (s *service) stale(before *secrets.Material) bool {
	now := s.b.material
	return s.dated && (!now.At().Equal(before.At()) || !now.Local().Equal(before.Local())) || slices.ContainsFunc(s.named, func(was named) bool {
		is, _ := s.find(was.name)
		return is.error != was.error || !is.item.Equal(was.item)
	})
}

// Wanted lists the names of secrets, configs and files that published services ask
// for, found or not, each once and sorted.
func (b *Builder) Wanted() []secrets.Want {
	var all []secrets.Want
	for _, s := range b.services {
		for _, n := range s.named {
			all = append(all, secrets.Want{Collection: s.coll.name, Stack: s.spec.Stack(), Name: n.name})
		}
	}
	slices.SortFunc(all, func(x, y secrets.Want) int {
		return cmp.Or(cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.Stack, y.Stack), cmp.Compare(x.Name, y.Name))
	})
	return slices.Compact(all)
}
