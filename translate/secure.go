package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// hostTLS is what a host is over TLS. It belongs to the host: its owner's oldest
// service decides what a connection must be, and the oldest that names a certificate
// which one it is.
type hostTLS struct {
	cert *certificate // nil: its HTTPS is refused
	profile
	authority *tlsv3.Secret // of the profile
	tunnel    []weighted    // passthrough: who shares its connections; nil where it is terminated
	closed    bool          // the profile cannot be had
	// since is the owner's oldest service: of two certificates for a name the older counts.
	since *watcher.Service
}

// served reports whether the host is in a table of HTTPS.
func (t *hostTLS) served() bool { return t.cert != nil && !t.closed && t.tunnel == nil }

// same reports whether two are the same for listeners.
func (t *hostTLS) same(o *hostTLS) bool {
	if t.served() && o.served() && (t.since.ID != o.since.ID || !t.since.CreatedAt.Equal(o.since.CreatedAt)) {
		return false
	}
	if t.served() != o.served() || t.served() && (t.profile != o.profile || t.cert.secret != o.cert.secret || !slices.Equal(t.cert.pair.Names, o.cert.pair.Names)) {
		return false
	}
	return slices.EqualFunc(t.tunnel, o.tunnel, func(x, y weighted) bool {
		return x.weight == y.weight && x.claim.route.backend.name == y.claim.route.backend.name &&
			x.claim.route.guards == y.claim.route.guards && x.claim.route.label.IdleTimeout == y.claim.route.label.IdleTimeout
	})
}

// decide says what a connection to a host must be, by the claims of its owner, oldest
// first. Whoever asks for more than that is shut: it is reached by nobody.
func (t *hostTLS) decide(host string, mine, all []*claim) (problems []Problem) {
	if len(mine) == 0 {
		return nil
	}
	oldest := mine[0].route.svc
	t.since = oldest.spec
	for _, cl := range mine {
		ask := &cl.route.tls
		if cl.route.svc != oldest || cl.redirect != nil {
			continue
		}
		t.tls13 = t.tls13 || ask.tls13
		if ask.ca != "" && t.ca == "" {
			t.ca, t.authority = ask.ca, ask.authority
		}
		if cl.route.label.ClientCA != "" && ask.ca == "" {
			t.closed = true
		}
	}
	told := map[*route]bool{}
	for _, cl := range all {
		cl.shut = t.closed || !t.meets(cl.route.tls.profile)
		if r := cl.route; cl.shut && !t.closed && !r.closed && !told[r] {
			told[r] = true
			key := "tls_min_version"
			if t.tls13 || !r.tls.tls13 {
				key = "client_ca"
			}
			p := r.problem(labels.Error, key, fmt.Sprintf("the oldest service of %s decides how it is reached, and asks for less: the route answers 503 there", host))
			p.Winner, p.Hint = oldest.spec.Name, "give "+oldest.spec.Name+" the same label, or this route a host of its own"
			problems = append(problems, p)
		}
	}
	return problems
}

// uncertified tells the service that a host can be reached by nobody for want of a
// certificate, unless it knows what is wrong with the one that it named.
func uncertified(mine []*claim) []Problem {
	for _, cl := range mine {
		if cl.route.tls.named {
			return nil
		}
	}
	r := mine[0].route
	key := "client_ca"
	if r.label.ClientCA == "" {
		key = "tls_min_version"
	}
	p := r.problem(labels.Error, key, "the host has no certificate, so that there is no TLS to ask that of: it answers 503")
	p.Hint = "name one with " + r.key("ssl_cert") + " and " + r.key("ssl_key")
	return []Problem{p}
}

// certify finds the certificate of a host.
func (c *collection) certify(host string, mine []*claim) (*certificate, error) {
	for _, cl := range mine {
		switch t := &cl.route.tls; {
		case !t.named:
		case t.local:
			return c.issued(host)
		case t.cert != nil && t.cert.covers(host):
			return t.cert, nil
		default:
			return nil, nil // its author was told
		}
	}
	return c.listedFor(host), nil
}

// issued is a certificate of the development authority.
func (c *collection) issued(host string) (*certificate, error) {
	if host == "*" {
		return nil, nil
	}
	cert := &certificate{secret: "cert/local/" + host}
	ca := c.material.Local()
	if ca == nil {
		if !c.reading {
			return nil, nil // its author was told
		}
		cert.pair = &secrets.Pair{Names: []string{host}, Chain: secrets.Hide([]byte(secrets.Redacted)), Key: secrets.Hide([]byte(secrets.Redacted))}
		return cert, nil
	}
	pair, err := ca.Pair(host, c.material.At())
	if err != nil {
		return nil, err
	}
	cert.pair = pair
	return cert, nil
}

// list takes what is in the collection's directories. Everything is looked at again
// where a certificate is for other names than before; another content of the same is
// sent, and nothing else.
func (c *collection) list(m *secrets.Material) {
	c.material = m
	before := c.listed
	c.listed, c.listedBy, c.listedProblems = nil, map[string]*certificate{}, nil
	for _, n := range m.Certificates(c.name) {
		file := func(severity labels.Severity, reason, hint string) {
			c.listedProblems = append(c.listedProblems, Problem{Severity: severity, Collection: c.name, Label: "certificates.directories", Value: n.Name, Reason: reason, Hint: hint})
		}
		for _, f := range n.Findings {
			file(labels.Warning, f.Text, f.Hint)
		}
		if n.Pair == nil {
			if e, ok := n.Err.(*secrets.Refusal); ok {
				file(labels.Error, e.Error()+": it is not served", e.Hint())
			}
			continue
		}
		cert := &certificate{secret: "cert/" + string(secrets.File) + "/" + valid(n.Name), pair: n.Pair, listed: true}
		c.listed = append(c.listed, cert)
		for _, name := range n.Pair.Names {
			if c.listedBy[name] == nil {
				c.listedBy[name] = cert
			}
		}
	}
	same := slices.EqualFunc(before, c.listed, func(a, b *certificate) bool {
		return a.secret == b.secret && slices.Equal(a.pair.Names, b.pair.Names)
	})
	changed := !slices.EqualFunc(before, c.listed, func(a, b *certificate) bool {
		return a.pair == b.pair || a.pair.Chain.Equal(b.pair.Chain) && a.pair.Key.Equal(b.pair.Key)
	})
	if same && !changed {
		return
	}
	c.secret, c.rechain = true, true
	for name := range c.hosts {
		c.dirty[name] = struct{}{}
	}
}

// listedFor is the certificate of the collection's directories for a host: by its very
// name before a wildcard. A wildcard host is served with those for any host below it.
func (c *collection) listedFor(host string) *certificate {
	if cert := c.listedBy[host]; cert != nil {
		return cert
	}
	if !strings.HasPrefix(host, "*") {
		_, parent, _ := strings.Cut(host, ".")
		return c.listedBy["*."+parent]
	}
	for _, cert := range c.listed {
		if cert.under(host) {
			return cert
		}
	}
	return nil
}

// covering are the names below a wildcard host that certificates are for whose
// connections reach it: its own, and those of directories. Nil for other hosts.
func (c *collection) covering(h *host) []string {
	if h.name[0] != '*' {
		return nil
	}
	certs := []*certificate{h.tls.cert}
	if h.tls.cert.listed {
		certs = c.listed
	}
	var names []string
	for _, cert := range certs {
		for _, name := range cert.pair.Names {
			if within(name, h.name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// hstsOf is what browsers are told for a host over TLS, "" where nothing.
func hstsOf(mine []*claim) string {
	for _, cl := range mine {
		if d := cl.route.label.HSTS; d > 0 {
			return fmt.Sprintf("max-age=%d", int64(d.Seconds()))
		}
	}
	return ""
}

// leadsHome reports whether a redirect leads to the very host over TLS: there it would
// lead in a circle.
func (c *claim) leadsHome() bool {
	a, u := redirection(c.redirect.To, 0)
	return u.Scheme == "https" && strings.EqualFold(cmp.Or(a.HostRedirect, c.host), c.host)
}
