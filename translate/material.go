package translate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
)

// named is what a service asked for by name, and what was there.
type named struct {
	use    string // where the name stands, see secrets.Want
	name   string
	item   secrets.Item
	error  string
	before bool // item is what was there before, error says why
}

// material gives the content of the secret, config or file that key names. What was
// asked for is remembered: the service is built again when it changes, comes or goes.
// As long as the courier has not fetched it, it is what key led to before: a new name
// takes effect when there is something behind it.
func (r *route) material(key, name string) (secrets.Item, error) {
	s := r.svc
	n, err := s.find(s.spec.ID+"/"+r.label.Name+"/"+key, name)
	s.named = append(s.named, n)
	missing, _ := errors.AsType[*secrets.NotFound](err)
	switch {
	case missing == nil:
		return n.item, err
	case n.before:
		severity := labels.Warning
		if missing.Coming {
			severity = labels.Info
		}
		r.tell(severity, key, fmt.Sprintf("%s: the %s %s, which was named before, is used until it is there", missing.Error(), n.item.Kind, n.item.Name), missing.Hint(s.coll.name))
		return n.item, nil
	}
	return n.item, errorAt(key, missing.Hint(s.coll.name), "%s", missing.Error())
}

// find is secrets.Find for a use of a name, or what was there before.
func (s *service) find(use, name string) (named, error) {
	i, err := secrets.Find(s.b.picture, s.b.material, s.coll.name, s.spec.Stack(), name)
	n := named{use: use, name: name, item: i}
	if err != nil {
		n.error = err.Error()
	}
	if missing, ok := errors.AsType[*secrets.NotFound](err); ok && missing.Underway() {
		if was, ok := s.b.material.Before(s.coll.name, use); ok {
			n.item, n.before = was, true
		}
	}
	return n, err
}

// stale reports whether something that the service asked for is another now.
func (s *service) stale(before *secrets.Material) bool {
	now := s.b.material
	return s.dated && (!now.At().Equal(before.At()) || !now.Local().Equal(before.Local())) || slices.ContainsFunc(s.named, func(was named) bool {
		is, _ := s.find(was.use, was.name)
		return is.error != was.error || is.before != was.before || !is.item.Equal(was.item)
	}) || slices.ContainsFunc(s.issuers, func(was askedIssuer) bool {
		return s.answerOf(was.issuer) != was
	})
}

// askedIssuer is an OpenID provider that a service asked about, and what was known of it.
type askedIssuer struct {
	issuer string
	answer secrets.Answer
	asked  bool
}

// askProvider gives what is known of an OpenID provider; asked as of secrets.Material.
// It is remembered as material is.
func (s *service) askProvider(issuer string) (answer secrets.Answer, asked bool) {
	a := s.answerOf(issuer)
	s.issuers = append(s.issuers, a)
	return a.answer, a.asked
}

func (s *service) answerOf(issuer string) askedIssuer {
	a := askedIssuer{issuer: issuer}
	a.answer, a.asked = s.b.material.Provider(issuer)
	return a
}

// Issuers lists the OpenID providers that published services ask about, each once and
// sorted.
func (b *Builder) Issuers() []string {
	var all []string
	for _, s := range b.services {
		for _, a := range s.issuers {
			all = append(all, a.issuer)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Wanted lists the names of secrets, configs and files that published services ask
// for, found or not, for each place where they stand once, and sorted.
func (b *Builder) Wanted() []secrets.Want {
	var all []secrets.Want
	for _, s := range b.services {
		for _, n := range s.named {
			all = append(all, secrets.Want{Collection: s.coll.name, Stack: s.spec.Stack(), Name: n.name, Use: n.use})
		}
	}
	slices.SortFunc(all, func(x, y secrets.Want) int {
		return cmp.Or(cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.Stack, y.Stack), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Use, y.Use))
	})
	return slices.Compact(all)
}
