package translate

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/secrets"
)

// named is what a service asked for by name, and what was there.
type named struct {
	name, found string
}

// material gives the content of the secret, config or file that key names. What was
// asked for is remembered: the service is built again when it changes, comes or goes.
func (s *service) material(key, name string) (secrets.Item, error) {
	i, err := s.find(name)
	s.named = append(s.named, named{name, identityOf(i, err)})
	var missing *secrets.NotFound
	if errors.As(err, &missing) {
		return i, errorAt(key, missing.Hint(s.coll.name), "%s", missing.Error())
	}
	return i, err
}

func (s *service) find(name string) (secrets.Item, error) {
	return secrets.Find(s.b.picture, s.b.material, s.coll.name, s.spec.Stack(), name)
}

// identityOf tells apart what may be found under a name.
func identityOf(i secrets.Item, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %v %x", i.Kind, i.Name, i.Assumed, i.Data.Sum())
}

// stale reports whether something that the service asked for is another now.
func (s *service) stale() bool {
	for _, n := range s.named {
		if identityOf(s.find(n.name)) != n.found {
			return true
		}
	}
	return false
}

// Want is a name that labels give.
type Want struct{ Collection, Stack, Name string }

// Wanted lists the names of secrets, configs and files that published services ask
// for, found or not, without order.
func (b *Builder) Wanted() []Want {
	var all []Want
	for _, s := range b.services {
		for _, n := range s.named {
			all = append(all, Want{s.coll.name, s.spec.Stack(), n.name})
		}
	}
	return all
}
