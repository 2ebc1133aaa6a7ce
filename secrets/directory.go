package secrets

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"
)

// NamedPair is a certificate of a collection's directories.
type NamedPair struct {
	Name string // of the certificate's file
	Pair *Pair  // nil where it cannot be served
	// Err says why it cannot be served; a *Refusal.
	Err      error
	Findings []Finding
	Kept     string // see Pair.Kept
}

// Certificates gives the certificates that are in a collection's directories, found by
// what the files hold, by name. It must not be changed.
func (m *Material) Certificates(collection string) []NamedPair {
	if m == nil {
		return nil
	}
	return m.shelves[collection].pairs
}

// At is the instant as of which certificates of the material are checked. It moves
// when that makes a difference, and each UTC day. It is zero, and dates do not count,
// where nobody said when the material was read.
func (m *Material) At() time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.at
}

// Local is the development authority; nil where there is none.
func (m *Material) Local() *LocalCA {
	if m == nil {
		return nil
	}
	return m.local
}

// AsOf is the material with its certificates checked as of another instant.
func (m *Material) AsOf(at time.Time) *Material {
	n := *m
	n.shelves = maps.Clone(m.shelves)
	n.at = at
	x := newExaminer()
	x.begin()
	for name, s := range n.shelves {
		s.pairs = x.directories(s.files, at)
		n.shelves[name] = s
	}
	return &n
}

// WithLocal is the material with another development authority.
func (m *Material) WithLocal(ca *LocalCA) *Material {
	n := *m
	n.local = ca
	return &n
}

// directories finds the certificates among files, each with the key that lies beside it.
func (x *examiner) directories(files map[string]Item, at time.Time) []NamedPair {
	by := map[string][]Item{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		by[files[name].under] = append(by[files[name].under], files[name])
	}
	var all []NamedPair
	for _, beside := range by {
		all = append(all, x.directory(beside, at)...)
	}
	slices.SortFunc(all, func(a, b NamedPair) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// directory finds the certificates of one directory.
func (x *examiner) directory(files []Item, at time.Time) []NamedPair {
	// What is there and what was there before may belong together.
	versions := func(i Item) []*examined {
		all := []*examined{x.parse(i)}
		if i.former.any() {
			was := i
			was.Data = i.former
			all = append(all, x.parse(was))
		}
		return all
	}
	keys := map[string]Item{} // by public key
	broken := ""              // a key that cannot be read
	for back := range 2 {     // what is there comes first
		for _, i := range files {
			v := versions(i)
			if back >= len(v) {
				continue
			}
			for _, public := range v[back].public[len(v[back].parts.certs):] {
				if _, found := keys[public]; !found {
					keys[public] = i
				}
			}
			if r := v[back].refusal; r != nil && broken == "" && bytes.Contains(i.Data.Reveal(), []byte("PRIVATE KEY")) {
				broken = r.reason
			}
		}
	}
	var found []NamedPair
	best := map[string]int{}   // place in found by leaf
	loose := map[string]Item{} // certificates without a key, by leaf
	for _, i := range files {
		key, paired := Item{}, false
		var lone string
		for _, v := range versions(i) {
			for n, c := range v.parts.certs {
				if k, ok := keys[v.public[n]]; ok && !paired {
					key, paired = k, true
				}
				if !c.IsCA && lone == "" {
					lone = string(c.Raw)
				}
			}
		}
		now := x.parse(i)
		switch {
		case paired:
			o := x.pair(i, key, at)
			p := NamedPair{Name: i.Name, Pair: o.pair, Err: o.err, Findings: o.findings}
			if o.pair == nil {
				found = append(found, p)
				continue
			}
			p.Kept = o.pair.Kept
			leaf := leafOf(o.pair)
			if n, twice := best[leaf]; twice { // cert.pem beside fullchain.pem
				if len(o.pair.Chain.Reveal()) > len(found[n].Pair.Chain.Reveal()) {
					found[n] = p
				}
				continue
			}
			best[leaf] = len(found)
			found = append(found, p)
		case now.refusal != nil && bytes.Contains(i.Data.Reveal(), []byte(begin+"CERTIFICATE"+dashes)):
			found = append(found, NamedPair{Name: i.Name, Err: now.refusal})
		case lone != "":
			if _, twice := loose[lone]; !twice {
				loose[lone] = i
			}
		}
	}
	for leaf, i := range loose {
		if _, served := best[leaf]; served {
			continue
		}
		why := "is a certificate, and no file beside it holds its key"
		if broken != "" {
			why += " (" + broken + ")"
		}
		found = append(found, NamedPair{Name: i.Name, Err: refuse(i, why, "put the private key that belongs to it into the same directory, as PEM")})
	}
	return found
}

// leafOf tells certificates apart.
func leafOf(p *Pair) string {
	leaf, _, _ := bytes.Cut(p.Chain.Reveal(), []byte(end))
	return string(leaf)
}
