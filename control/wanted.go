package control

import (
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
