package xds

import (
	"maps"
	"slices"

	"github.com/waggle-lb/waggle/translate"
)

// vault stands before the table of secrets and lets in only those that another resource
// of the collection refers to (translate.Resource.Refs), for as long as one does: to know
// the name of a secret is not enough to be served it.
type vault struct {
	published map[string]*entry          // all that were published, served or not
	uses      map[translate.Ref][]string // resource → the secrets that it refers to
	users     map[string]int             // secret → how many resources refer to it
}

func newVault() vault {
	return vault{map[string]*entry{}, map[translate.Ref][]string{}, map[string]int{}}
}

func (v *vault) clone() vault {
	return vault{maps.Clone(v.published), maps.Clone(v.uses), maps.Clone(v.users)}
}

// admit turns edits of what is published into edits of what is served. idle are the
// secrets among them that are not served because nothing refers to them.
func (v *vault) admit(edits []edit) (admitted []edit, idle []string) {
	if !v.concerned(edits) {
		return edits, nil
	}
	changed := map[string]struct{}{} // secrets that are new, different or of more or less use
	for _, e := range edits {
		if e.kind == translate.Secret {
			if v.published[e.name] = e.entry; e.entry == nil {
				delete(v.published, e.name)
			}
			changed[e.name] = struct{}{}
			continue
		}
		admitted = append(admitted, e)
		ref := translate.Ref{Kind: e.kind, Name: e.name}
		for _, name := range v.uses[ref] {
			if v.users[name]--; v.users[name] == 0 {
				delete(v.users, name)
			}
			changed[name] = struct{}{}
		}
		delete(v.uses, ref)
		if e.entry == nil || len(e.entry.secrets) == 0 {
			continue
		}
		v.uses[ref] = e.entry.secrets
		for _, name := range e.entry.secrets {
			v.users[name]++
			changed[name] = struct{}{}
		}
	}
	for _, name := range sortedKeys(changed) {
		e := edit{kind: translate.Secret, name: name}
		if v.users[name] > 0 {
			e.entry = v.published[name]
		} else if v.published[name] != nil {
			idle = append(idle, name)
		}
		admitted = append(admitted, e)
	}
	return admitted, idle
}

// concerned says whether the edits have to do with secrets at all: most do not.
func (v *vault) concerned(edits []edit) bool {
	return slices.ContainsFunc(edits, func(e edit) bool {
		return e.kind == translate.Secret || e.entry != nil && len(e.entry.secrets) > 0 ||
			len(v.uses) > 0 && len(v.uses[translate.Ref{Kind: e.kind, Name: e.name}]) > 0
	})
}

// secretsOf names the secrets that a resource refers to, each once.
func secretsOf(r *translate.Resource) (names []string) {
	for _, ref := range r.Refs {
		if ref.Kind == translate.Secret {
			names = append(names, ref.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
