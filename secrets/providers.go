package secrets

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Answer is what is known of an issuer. Neither a provider nor a reason: it has not
// answered yet.
type Answer struct {
	Provider Provider
	Known    bool // Provider is what the issuer said when it was last asked with success
	// Failed says why the issuer was asked last without success; "" where it was not.
	Failed string
}

// Providers asks OpenID providers where their users log in, and again now and then.
// What a provider said holds until it says something else. Run may be called once.
type Providers struct {
	ask    func(ctx context.Context, issuer string) (Provider, error)
	random func() float64 // 0 to 1

	wake chan struct{} // something is due that was not

	mu       sync.Mutex
	issuers  map[string]*asked   // that are wanted
	before   map[string]Provider // what was kept of them, see Keep
	dir      string
	log      *slog.Logger
	loopback bool

	keeping sync.Mutex // one writes at a time; taken before mu
}

// asked is one issuer.
type asked struct {
	Answer
	since    time.Time // when it was wanted first
	failures int       // one after another
	due      time.Time
	asking   bool
}

// How often providers are asked.
const (
	askAgain    = time.Hour       // after an answer
	retryFirst  = time.Second     // after a failure, and twice as long after each further one
	retryMost   = 5 * time.Minute // but no longer
	asksAtOnce  = 4
	askJitter   = 0.2 // part of a time that is left to chance: replicas and issuers do not ask in step
	maxDoubling = 16
)

// NewProviders makes one that knows no issuer. refuse says why an address may not be
// connected to, or ""; loopback is set where everything runs on one machine (the lab).
func NewProviders(refuse func(to netip.AddrPort, loopback bool) string) *Providers {
	p := &Providers{random: rand.Float64, wake: make(chan struct{}, 1), issuers: map[string]*asked{}}
	p.ask = asker(func(to netip.AddrPort) string {
		p.mu.Lock()
		loopback := p.loopback
		p.mu.Unlock()
		return refuse(to, loopback)
	})
	return p
}

// Keep has what providers say kept in a directory, and takes what was kept there: it
// holds until they say something else. It must be called before Want; log takes what
// goes wrong with it.
func (p *Providers) Keep(dir string, log *slog.Logger) {
	before, err := remembered(dir)
	if err != nil {
		log.Warn("what OpenID providers said before is not known", "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before, p.dir, p.log = before, dir, log
}

// keep writes down what is known.
func (p *Providers) keep() {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	p.mu.Lock()
	dir, log, known := p.dir, p.log, map[string]Provider{}
	for issuer, a := range p.issuers {
		if a.Known {
			known[issuer] = a.Provider
		}
	}
	p.mu.Unlock()
	if dir == "" {
		return
	}
	if err := remember(dir, known); err != nil {
		log.Warn("a control plane that starts while a provider is away will not know it", "error", err)
	}
}

// Want says which issuers are wanted, and forgets all others. It does not wait. It
// reports whether that are others than before.
func (p *Providers) Want(issuers []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, fresh := len(p.issuers), false
	maps.DeleteFunc(p.issuers, func(issuer string, _ *asked) bool { return !slices.Contains(issuers, issuer) })
	gone := len(p.issuers) < before
	for _, issuer := range issuers {
		if p.issuers[issuer] == nil {
			a := &asked{since: time.Now()}
			a.Provider, a.Known = p.before[issuer]
			p.issuers[issuer], fresh = a, true
		}
	}
	if fresh {
		p.signal()
	}
	return fresh || gone
}

// OnLoopback says whether everything runs on this machine.
func (p *Providers) OnLoopback(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loopback = is
}

// Answers is what is known of each wanted issuer. Nobody waits for one for longer than
// one answer may take, be it that others are asked before it.
func (p *Providers) Answers() map[string]Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[string]Answer, len(p.issuers))
	for issuer, a := range p.issuers {
		known := a.Answer
		if !known.Known && known.Failed == "" && time.Since(a.since) >= askTimeout {
			known.Failed = "has not answered yet"
		}
		all[issuer] = known
	}
	return all
}

// AskOnce asks those that have not answered yet, and waits for their answers.
func (p *Providers) AskOnce(ctx context.Context) {
	var wg sync.WaitGroup
	for ctx.Err() == nil {
		issuers, _ := p.take(time.Now(), true)
		if len(issuers) == 0 {
			return
		}
		for _, issuer := range issuers {
			wg.Go(func() { p.askOne(ctx, issuer) })
		}
		wg.Wait()
	}
}

// Run asks until ctx ends. changed is called after every answer that is another than
// the one before, from several goroutines.
func (p *Providers) Run(ctx context.Context, changed func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		issuers, wait := p.take(time.Now(), false)
		for _, issuer := range issuers {
			wg.Go(func() {
				if p.askOne(ctx, issuer) {
					changed()
					p.keep()
				}
				p.signal() // there is room for another
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (p *Providers) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take gives the issuers that are to be asked now, which are then being asked, and how
// long there is nothing more to do. Those that have failed less often come first: one
// who names many that never answer holds up nobody else for long. fresh: only those
// that have not answered in any way.
func (p *Providers) take(now time.Time, fresh bool) (issuers []string, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free, wait := asksAtOnce, askAgain
	for issuer, a := range p.issuers {
		switch {
		case a.asking:
			free--
		case fresh && (a.Known || a.Failed != ""):
		case !a.due.After(now):
			issuers = append(issuers, issuer)
		default:
			wait = min(wait, a.due.Sub(now))
		}
	}
	slices.SortFunc(issuers, func(x, y string) int {
		a, b := p.issuers[x], p.issuers[y]
		return cmp.Or(cmp.Compare(a.failures, b.failures), a.due.Compare(b.due), cmp.Compare(x, y))
	})
	issuers = issuers[:max(0, min(len(issuers), free))]
	for _, issuer := range issuers {
		p.issuers[issuer].asking = true
	}
	return issuers, wait
}

// askOne asks one issuer, and reports whether there is something new to tell of it.
func (p *Providers) askOne(ctx context.Context, issuer string) bool {
	said, err := p.ask(ctx, issuer)
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.issuers[issuer]
	if a == nil {
		return false // nobody wants it any more
	}
	before := a.Answer
	a.asking = false
	switch {
	case err == nil:
		a.Answer, a.failures = Answer{Provider: said, Known: true}, 0
		a.due = time.Now().Add(p.jittered(askAgain))
	case ctx.Err() != nil:
		return false
	default:
		a.Failed = err.Error()
		a.due = time.Now().Add(p.jittered(min(retryMost, retryFirst<<min(a.failures, maxDoubling))))
		a.failures++
	}
	return a.Answer != before
}

func (p *Providers) jittered(d time.Duration) time.Duration {
	return d - time.Duration(askJitter*p.random()*float64(d))
}

// Provider gives what is known of an issuer. asked is not set where nobody asks
// providers: commands on files.
func (m *Material) Provider(issuer string) (a Answer, asked bool) {
	if m == nil || m.providers == nil {
		return Answer{}, false
	}
	return m.providers[issuer], true
}

// With is the material with these answers of OpenID providers.
func (m *Material) With(answers map[string]Answer) *Material {
	n := Material{}
	if m != nil {
		n = *m
	}
	n.providers = answers
	return &n
}
