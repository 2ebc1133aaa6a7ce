package secrets

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"slices"
	"time"
)

// examiner looks for certificates in what was read. It knows what it looked at before:
// of a thousand certificates one that changes costs as much as one.
type examiner struct {
	parsed map[content]*examined
	pairs  map[pairing]*outcome
	// good are what was last part of a certificate that can be served, and what were
	// authorities, while it was there without a gap.
	good, goodCA map[place]Bytes

	next *examiner // what the round under way has looked at
}

// content is what a name stands for. Data that did not change is the same memory.
type content struct {
	kind Kind
	name string
	data *byte
}

type pairing struct {
	cert, key, formerCert, formerKey content
	kept                             string
	at                               time.Time
}

// place is where content changes.
type place struct {
	collection string // "": of a stack file
	kind       Kind
	name       string
}

// examined is what parse says.
type examined struct {
	parts   parts
	refusal *Refusal
	public  []string // of its certificates, then of its keys
}

// outcome is what ReadPair says.
type outcome struct {
	pair     *Pair
	findings []Finding
	err      error
}

func newExaminer() *examiner {
	return &examiner{parsed: map[content]*examined{}, pairs: map[pairing]*outcome{}, good: map[place]Bytes{}, goodCA: map[place]Bytes{}}
}

func (x *examiner) begin() { x.next = newExaminer() }

func (x *examiner) end() { *x = *x.next }

func contentOf(i Item, data Bytes) content {
	c := content{kind: i.Kind, name: i.Name}
	if b := data.Reveal(); len(b) > 0 {
		c.data = &b[0]
	}
	return c
}

// parse is parse, done once for each content.
func (x *examiner) parse(i Item) *examined {
	c := contentOf(i, i.Data)
	e := x.next.parsed[c]
	if e == nil {
		if e = x.parsed[c]; e == nil || c.data == nil {
			e = &examined{}
			e.parts, e.refusal = parse(i)
			for _, cert := range e.parts.certs {
				e.public = append(e.public, publicOf(cert.PublicKey))
			}
			for _, key := range e.parts.keys {
				e.public = append(e.public, publicOf(key().Public()))
			}
		}
		x.next.parsed[c] = e
	}
	return e
}

// publicOf tells public keys apart.
func publicOf(k crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return string(sum[:])
}

// pair is ReadPair, done once for each pair of contents and instant that matters.
func (x *examiner) pair(cert, key Item, at time.Time) *outcome {
	p := pairing{contentOf(cert, cert.Data), contentOf(key, key.Data), contentOf(cert, cert.former), contentOf(key, key.former), cert.Kept + key.Kept, at}
	o := x.next.pairs[p]
	if o == nil {
		if o = x.pairs[p]; o == nil {
			o = &outcome{}
			o.pair, o.findings, o.err = readPairBy(cert, key, at, func(i Item) (parts, *Refusal) {
				e := x.parse(i)
				return e.parts, e.refusal
			})
		}
		x.next.pairs[p] = o
	}
	return o
}

// look parses items and what was good in their places.
func (x *examiner) look(collection string, shelves ...map[string]Item) {
	for _, in := range shelves {
		for name, i := range in {
			x.parse(i)
			for _, good := range []map[place]Bytes{x.good, x.goodCA} {
				if i.Data = good[place{collection, i.Kind, name}]; i.Data.any() {
					x.parse(i)
				}
			}
		}
	}
}

// had reports whether a place had something good.
func (x *examiner) had(at place) bool { return x.good[at].any() || x.goodCA[at].any() }

// remember notes which items can be served as they are, and gives those that cannot
// what was there before. All items may belong together.
func (x *examiner) remember(collection string, at time.Time, shelves ...map[string]Item) {
	type entry struct {
		in    map[string]Item
		item  Item
		works bool
	}
	var all []*entry
	keys := map[string][]*entry{} // by public key
	for _, in := range shelves {
		for _, name := range slices.Sorted(maps.Keys(in)) {
			i := in[name]
			i.former, i.formerCA = Bytes{}, Bytes{}
			e := &entry{in: in, item: i}
			all = append(all, e)
			held := x.parse(i)
			for _, public := range held.public[len(held.parts.certs):] {
				keys[public] = append(keys[public], e)
			}
		}
	}
	for _, e := range all {
		held := x.parse(e.item)
		for n := range held.parts.certs {
			for _, k := range keys[held.public[n]] {
				if !(e.works && k.works) && x.pair(e.item, k.item, at).err == nil {
					e.works, k.works = true, true
				}
			}
		}
	}
	for _, e := range all {
		at := place{collection, e.item.Kind, e.item.Name}
		held := x.parse(e.item)
		e.item.former = keep(x.good, x.next.good, at, e.item.Data, e.works)
		e.item.formerCA = keep(x.goodCA, x.next.goodCA, at, e.item.Data, len(held.parts.certs) > 0)
		e.in[e.item.Name] = e.item
	}
}

// keep notes what is good in a place now, and gives what was where it is not.
func keep(was, is map[place]Bytes, at place, data Bytes, good bool) Bytes {
	before, known := was[at]
	switch {
	case good:
		is[at] = data
		return Bytes{}
	case !known:
		return Bytes{}
	}
	is[at] = before
	if before.Equal(data) {
		return Bytes{} // it is no longer good by itself
	}
	return before
}

// moments gives the latest instant until now that makes a difference to a certificate
// of the material, or to others, and the next one. There is one each UTC day, for what the material
// does not have: certificates in configs, and those of the development authority.
func (x *examiner) moments(now time.Time, others ...*x509.Certificate) (at, next time.Time) {
	at = now.UTC().Truncate(24 * time.Hour)
	next = at.Add(24 * time.Hour)
	look := func(c *x509.Certificate) {
		// A certificate is valid until the end of the second that it names.
		for _, t := range []time.Time{c.NotBefore, c.NotAfter.Add(-Soon), c.NotAfter.Add(time.Second)} {
			if t = t.UTC(); t.After(now) {
				next = earlier(next, t)
			} else {
				at = later(at, t)
			}
		}
	}
	for _, e := range x.next.parsed {
		for _, c := range e.parts.certs {
			look(c)
		}
	}
	for _, c := range others {
		look(c)
	}
	return at, next
}
