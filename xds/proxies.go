package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/waggle-lb/waggle/translate"
)

// Proxy is a connected Envoy as the control plane sees it.
type Proxy struct {
	NodeID     string
	Collection string
	Instance   string // what follows the collection in the node ID; may be empty
	Version    string // Envoy's own
	Address    string
	Connected  time.Time
	// Current: the proxy has acknowledged all there is for it.
	Current bool
	// Canary: the newest changes are tried with this proxy before the others get them.
	Canary bool
	// Kinds is what it asked for, in the order in which kinds are sent.
	Kinds []ProxyKind
}

// ProxyKind is how far a proxy is with one kind of resource.
type ProxyKind struct {
	Kind translate.Kind
	// Sent and ACKed are versions of the collection's table of this kind.
	Sent, ACKed string
	// Resources is how many resources this stream was sent; a proxy that comes back to
	// what it has gets none.
	Resources int
	Current   bool
	// Rejected are the resources whose newest version the proxy does not take; it keeps
	// the one before, if it has one.
	Rejected []string
	// NACK is the newest rejection, also if it has been overcome since; nil: none.
	NACK *NACK
}

// NACK is a rejected response.
type NACK struct {
	At time.Time
	// Version is the rejected table version, Resources what was in the response; if more
	// than one, the proxy did not say which it was and they are tried one by one.
	Version   string
	Resources []string
	// Message is the proxy's own, without anything that could be secret.
	Message string
}

// Proxies lists the connected proxies, sorted by node ID, then by address.
func (s *Server) Proxies() []Proxy {
	var out []Proxy
	for _, k := range s.all() {
		k.mu.Lock()
		for st := range k.streams {
			out = append(out, st.describe())
		}
		k.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Proxy) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.Address, b.Address))
	})
	return out
}

func (st *stream) describe() Proxy {
	p := Proxy{
		NodeID: st.proxy.nodeID, Collection: st.proxy.collection, Instance: st.proxy.instance,
		Version: st.proxy.version, Address: st.peer, Connected: st.since, Current: st.k.open,
	}
	for i := range st.subs {
		kind := translate.Kind(i)
		s := &st.subs[kind]
		if !s.active {
			continue
		}
		d := ProxyKind{Kind: kind, Sent: s.sent, ACKed: s.acked, Resources: s.count, NACK: s.nack, Current: st.level(kind)}
		for name, doubt := range s.doubts {
			if doubt.alone {
				d.Rejected = append(d.Rejected, name)
			}
		}
		slices.Sort(d.Rejected)
		p.Current = p.Current && d.Current
		p.Kinds = append(p.Kinds, d)
	}
	p.Current = p.Current && len(p.Kinds) > 0
	if tr := st.k.trial; tr != nil {
		p.Canary = tr.canaries[st] != nil
		p.Current = p.Current && p.Canary // what is tried there is to come
	}
	return p
}

// level says that the proxy has acknowledged all that there is of a kind.
func (st *stream) level(kind translate.Kind) bool {
	s := &st.subs[kind]
	return s.clean() && !st.due(kind) && s.rem >= st.view.tables[kind].lastGone && len(s.late) == 0
}

// current says that the proxy has acknowledged all that there is of what it asked for.
func (st *stream) current() bool {
	asks := false
	for i := range st.subs {
		if kind := translate.Kind(i); st.subs[kind].active {
			if asks = true; !st.level(kind) {
				return false
			}
		}
	}
	return asks
}

// redact is what may be shown of a proxy's reason for a rejection. Envoy puts whole
// resources into it, keys and all: of those texts only the rule that was broken is kept,
// and of secrets nothing at all.
func redact(kind translate.Kind, message string) string {
	const (
		withheld = "the proxy's reason is withheld: it may contain key material; Envoy's own log has it"
		rule     = "Proto constraint validation failed ("
		limit    = 1000
	)
	if kind == translate.Secret || strings.Contains(message, "does not match the message-wide type URL") {
		return withheld
	}
	if i := strings.LastIndex(message, rule); i >= 0 {
		return printable(message[i:], limit)
	}
	if i := strings.Index(message, "goo.gle/debug"); i >= 0 { // a dump follows
		return printable(strings.TrimRight(message[:i], " :")+" (the rest is withheld: it may contain key material)", limit)
	}
	for _, sign := range []string{"PRIVATE KEY", "inline_string", "inline_bytes", "private_key {", "credential key"} {
		if strings.Contains(message, sign) {
			return withheld
		}
	}
	return printable(message, limit)
}

// printable is text from a proxy, cut and without control characters.
func printable(s string, limit int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}

// summarize names resources in a log line without filling it.
func summarize(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s … (%d)", strings.Join(names[:5], ", "), len(names))
	}
	return strings.Join(names, ", ")
}
