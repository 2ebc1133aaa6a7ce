package secrets

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Certificate is what may be shown of a certificate that collections have.
type Certificate struct {
	Collection string // "": of every collection
	Source     string // directory, secret (mounted, brought or of a stack file) or local
	Name       string // of the file or secret; that of the authority, where it is local
	Hosts      []string
	Issuer     string
	Serial     string
	NotBefore  time.Time // zero where nothing can be served
	NotAfter   time.Time
	// Rotated is when another one took the place of the one before; zero: not since the start.
	Rotated time.Time
	// Kept says why the one before is served; Error why nothing is.
	Kept, Error string
}

// Inventory is what may be shown of all certificates of a control plane, for status and
// metrics. Its methods may be called at any time.
type Inventory struct {
	now func() time.Time

	mu       sync.Mutex
	examiner *examiner
	all      []Certificate
	seen     map[place]sighting
}

// sighting is what was seen in a place last.
type sighting struct {
	sum     [sha256.Size]byte
	rotated time.Time
}

// NewInventory makes an inventory with nothing in it.
func NewInventory(now func() time.Time) *Inventory {
	return &Inventory{now: now, examiner: newExaminer(), seen: map[place]sighting{}}
}

// Take takes note of what there is now.
func (v *Inventory) Take(m *Material) {
	v.mu.Lock()
	defer v.mu.Unlock()
	x, seen, before := v.examiner, map[place]sighting{}, v.seen
	x.begin()
	v.all = nil
	add := func(collection, source string, n NamedPair) {
		c := Certificate{Collection: collection, Source: source, Name: n.Name, Kept: n.Kept}
		at := place{collection, Kind(source), n.Name}
		if n.Pair == nil {
			c.Error = n.Err.Error()
			if s, known := before[at]; known {
				seen[at] = s
			}
		} else {
			c.Hosts, c.Issuer, c.Serial, c.NotBefore, c.NotAfter = n.Pair.Names, n.Pair.Issuer, n.Pair.Serial, n.Pair.NotBefore, n.Pair.NotAfter
			s, known := before[at]
			if sum := n.Pair.Chain.Sum(); s.sum != sum {
				s.sum = sum
				if known {
					s.rotated = v.now()
				}
			}
			seen[at], c.Rotated = s, s.rotated
		}
		v.all = append(v.all, c)
	}
	secrets := func(collection string, items map[string]Item) {
		for _, n := range x.directory(slices.Collect(maps.Values(items)), m.At()) {
			if n.Pair != nil { // what else there is need not be a certificate
				add(collection, "secret", n)
			}
		}
	}
	if m != nil {
		secrets("", m.declared)
		for collection, s := range m.shelves {
			for _, n := range s.pairs {
				add(collection, "directory", n)
			}
			secrets(collection, s.secrets)
		}
		if ca := m.local; ca != nil {
			add("", "local", NamedPair{Name: shown(ca.cert.Subject.CommonName), Pair: &Pair{
				Chain: Hide(ca.Root()), Issuer: shown(ca.cert.Issuer.CommonName), Serial: ca.cert.SerialNumber.Text(16), NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
			}})
		}
	}
	x.end()
	v.seen = seen
	slices.SortFunc(v.all, func(a, b Certificate) int {
		return cmp.Or(cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name))
	})
}

// Certificates gives them by collection, source and name. The slice is the caller's own.
func (v *Inventory) Certificates() []Certificate {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.all)
}

// mostSeries bounds what metrics tell one by one: those that end first.
const mostSeries = 2000

var (
	expiry  = prometheus.NewDesc("waggle_certificate_expiry_seconds", "When a certificate ends, as Unix time: subtract time() for what is left.", []string{"collection", "source", "certificate"}, nil)
	rotated = prometheus.NewDesc("waggle_certificate_rotated_seconds", "When a certificate took the place of the one before, as Unix time; absent if not since the start.", []string{"collection", "source", "certificate"}, nil)
	broken  = prometheus.NewDesc("waggle_certificates_broken", "Certificates whose newest version cannot be served: the one before is (kept), or nothing (refused).", []string{"collection", "served"}, nil)
)

// Describe implements prometheus.Collector.
func (v *Inventory) Describe(ch chan<- *prometheus.Desc) {
	ch <- expiry
	ch <- rotated
	ch <- broken
}

// Collect implements prometheus.Collector.
func (v *Inventory) Collect(ch chan<- prometheus.Metric) {
	all := v.Certificates()
	slices.SortStableFunc(all, func(a, b Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	bad := map[[2]string]int{}
	told := 0
	for _, c := range all {
		bad[[2]string{c.Collection, "kept"}] += 0
		bad[[2]string{c.Collection, "refused"}] += 0
		switch {
		case c.Error != "":
			bad[[2]string{c.Collection, "refused"}]++
			continue
		case c.Kept != "":
			bad[[2]string{c.Collection, "kept"}]++
		}
		if told++; told > mostSeries {
			continue
		}
		gauge := func(d *prometheus.Desc, t time.Time) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(t.Unix()), c.Collection, c.Source, c.Name)
		}
		gauge(expiry, c.NotAfter)
		if !c.Rotated.IsZero() {
			gauge(rotated, c.Rotated)
		}
	}
	for of, n := range bad {
		ch <- prometheus.MustNewConstMetric(broken, prometheus.GaugeValue, float64(n), of[0], of[1])
	}
}
