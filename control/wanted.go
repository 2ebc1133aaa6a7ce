package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
)

// OnWanted has f told of the names that labels give and of the picture, whenever
// something in it that is not a task may have changed. It must be called before Run; f
// must return at once, and may call Material. What f says there to be on its way, the
// first build waits for.
func (c *Control) OnWanted(f func(*watcher.Picture, []secrets.Want)) { c.wanted = f }

// OnWantedLocalCA has f told that a service asks for a certificate of the development
// authority and there is none. It must be called before Run; f may call Material.
func (c *Control) OnWantedLocalCA(f func()) { c.wantedCA = f }

// OnWantedIssuers has f told which OpenID providers services ask about. It must be
// called before Run; f must return at once, and may call Material. For the answers of
// those that material says are being asked the first build waits too.
func (c *Control) OnWantedIssuers(f func(issuers []string)) { c.issuers = f }

// tellWanted says what the builder wants of those who bring it.
func (l *loop) tellWanted(picture *watcher.Picture) {
	if l.wanted != nil {
		l.wanted(picture, l.builder.Wanted())
	}
	if l.wantedCA != nil && l.builtOn.Local() == nil && l.builder.WantsLocalCA() {
		l.wantedCA()
	}
	if l.issuers != nil {
		l.issuers(l.builder.Issuers())
	}
}

// settle tells what is wanted, and builds once more where material says something of it
// at once: a label that names something new is not to lead nowhere while that is
// fetched. It gives what both builds changed, to be published as one.
func (l *loop) settle(picture *watcher.Picture, deltas []translate.Delta) []translate.Delta {
	l.tellWanted(picture)
	l.catchUp()
	if l.material == l.builtOn {
		return deltas
	}
	l.builtOn, l.structure = l.material, watcher.Changes{}
	return merged(deltas, l.builder.Build(translate.Input{Picture: picture, Config: l.cfg, Material: l.material}, watcher.Changes{Shared: true}))
}

// merged is what changed by first and then by second.
func merged(first, second []translate.Delta) []translate.Delta {
	type key struct {
		kind translate.Kind
		name string
	}
	all := map[string]map[key]translate.Change{}
	for _, d := range slices.Concat(first, second) {
		if all[d.Collection] == nil {
			all[d.Collection] = map[key]translate.Change{}
		}
		for _, c := range d.Changes {
			all[d.Collection][key{c.Kind, c.Name}] = c
		}
	}
	var out []translate.Delta
	for _, name := range slices.Sorted(maps.Keys(all)) {
		changes := slices.SortedFunc(maps.Values(all[name]), func(a, b translate.Change) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
		})
		out = append(out, translate.Delta{Collection: name, Changes: changes})
	}
	return out
}

// hold says how long the first build has to wait for what labels name and is on its
// way. Without that, a control plane that starts would take from proxies what another
// one gave them, until it has that itself.
func (l *loop) hold() time.Duration {
	if l.wanted == nil && l.issuers == nil {
		return 0
	}
	if l.holdUntil.IsZero() {
		l.holdUntil = time.Now().Add(l.pace.Names)
		l.catchUp()
		first := translate.Build(translate.Input{Picture: l.latest, Config: l.cfg, Material: l.material})
		if l.wanted != nil {
			l.wanted(l.latest, first.Wanted())
		}
		if l.issuers != nil {
			l.issuers(first.Issuers())
		}
		l.catchUp()
	}
	if !l.material.Coming() {
		return 0
	}
	return time.Until(l.holdUntil)
}
