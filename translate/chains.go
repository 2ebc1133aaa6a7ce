package translate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/waggle-lb/waggle/watcher"
)

// filterChain is what becomes of connections with some server names: they end here
// with a certificate, or are passed through. A chain depends on certificates, profiles
// and passthrough hosts, never on what services are behind a certificate: a changed
// chain cuts its long connections in the end.
type filterChain struct {
	profile
	authority *tlsv3.Secret
	cert      *certificate // nil: passed through
	tunnel    []weighted
	host      string   // of a tunnel
	names     []string // server names, sorted; empty: all that no other chain has
}

// name is unique in a listener, and stays with what the chain is.
func (f *filterChain) name() string {
	if f.cert == nil {
		return "passthrough/" + f.host
	}
	name := f.profile.table() + "/" + strings.TrimPrefix(f.cert.secret, "cert/")
	if len(f.names) == 0 {
		name += "/default"
	}
	return name
}

// chainKey tells chains apart.
type chainKey struct {
	profile
	secret, tunnel string
}

// filterChains says which there are, and which server names each has. Every name has
// one chain. A host that says what it wants has that; else a name belongs to the
// certificates of directories before those of labels, and among these to the oldest.
func (c *collection) filterChains() []*filterChain {
	if c.cfg.HTTPSPort == 0 {
		return nil
	}
	chains := map[chainKey]*filterChain{}
	since := map[chainKey]*watcher.Service{} // the oldest that brought it
	wants := map[string]chainKey{}           // by host
	var order []chainKey                     // in which chains may take the names of their certificates
	for _, cert := range c.listed {
		key := chainKey{secret: cert.secret}
		if chains[key] == nil {
			chains[key] = &filterChain{cert: cert}
			order = append(order, key)
		}
	}
	var labelled []chainKey
	for _, h := range c.published.values() {
		t := &h.tls
		switch {
		case t.tunnel != nil:
			key := chainKey{tunnel: h.name}
			chains[key] = &filterChain{tunnel: t.tunnel, host: h.name}
			wants[h.name] = key
		case t.served():
			key := chainKey{profile: t.profile, secret: t.cert.secret}
			if chains[key] == nil {
				chains[key] = &filterChain{profile: t.profile, authority: t.authority, cert: t.cert}
				if since[key] = t.since; !t.strict() {
					labelled = append(labelled, key)
				}
			} else if since[key] != nil && t.since.Older(since[key]) {
				since[key] = t.since
			}
			if t.cert.covers(h.name) { // else it is a wildcard, and its certificate is for some below it
				wants[h.name] = key
			} else if t.strict() {
				for _, n := range t.cert.pair.Names {
					if within(n, h.name) {
						wants[n] = key
					}
				}
			}
		}
	}
	slices.SortFunc(labelled, func(a, b chainKey) int {
		switch x, y := since[a], since[b]; {
		case x.Older(y):
			return -1
		case y.Older(x):
			return 1
		}
		return cmp.Compare(a.secret, b.secret)
	})
	c.brought = map[string]bool{}
	order = append(order, labelled...)

	own := map[string]chainKey{}
	for name, key := range wants {
		if key.tunnel != "" || key.strict() {
			own[name] = key
		}
	}
	for _, key := range order {
		for _, name := range chains[key].cert.pair.Names {
			if _, taken := own[name]; taken {
				continue
			}
			if wanted, asked := wants[name]; asked && wanted != key {
				continue
			}
			if !chains[key].cert.listed {
				c.brought[name] = true
				if h := c.hosts[name]; h != nil && h.plain.bytes != nil && !h.tls.served() {
					continue // somebody else's, and not to be had over TLS
				}
			}
			own[name] = key
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		if key := wants[name]; chainOf(own, name) != key {
			own[name] = key
		}
	}
	for name, key := range own {
		chains[key].names = append(chains[key].names, name)
	}

	var out []*filterChain
	for _, ch := range chains {
		if slices.Sort(ch.names); len(ch.names) > 0 {
			out = append(out, ch)
		}
	}
	if c.standard != nil {
		out = append(out, &filterChain{cert: c.standard})
	}
	slices.SortFunc(out, func(a, b *filterChain) int { return cmp.Compare(a.name(), b.name()) })
	return out
}

// chainOf is the chain that a server name leads to: by itself, else by the longest
// wildcard above it.
func chainOf(own map[string]chainKey, name string) chainKey {
	if key, ok := own[name]; ok {
		return key
	}
	for rest := strings.TrimPrefix(name, "*."); ; {
		_, parent, found := strings.Cut(rest, ".")
		if !found {
			return chainKey{}
		}
		if key, ok := own["*."+parent]; ok {
			return key
		}
		rest = parent
	}
}
