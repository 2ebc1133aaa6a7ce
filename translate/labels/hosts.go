package labels

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// hostList is what `hosts` says: bad entries are dropped one by one.
type hostList struct {
	hosts []string // normalised, in the order written, without duplicates
	notes []note
}

func readHosts(text string) hostList {
	var l hostList
	seen := map[string]bool{}
	for _, entry := range items(text) {
		host, portless, err := normaliseHost(entry, true)
		if err != nil {
			n := noteOf(err)
			n.severity, n.value = Error, entry
			l.notes = append(l.notes, n)
			continue
		}
		if portless {
			l.notes = append(l.notes, note{
				severity: Warning, value: entry,
				reason: "a host takes requests whatever the port in their Host header is; the port is dropped",
				hint:   "write `" + host + "`",
			})
		}
		if !seen[host] {
			seen[host] = true
			l.hosts = append(l.hosts, host)
		}
	}
	if len(l.hosts) == 0 && len(l.notes) == 0 {
		l.notes = append(l.notes, note{severity: Error, reason: "names no host", hint: "write a host such as `app.example.com`"})
	}
	return l
}

// useHosts binds a list of hosts.
func useHosts(set func(*target, []string)) binding {
	return binding{
		doc: "list: `a.example.com`, `*.example.com`, `*`", built: true,
		same: func(a, b string) bool { return a == b },
		read: func(text string, into *target) ([]note, bool) {
			l := readHosts(text)
			if len(l.hosts) > 0 && into != nil {
				set(into, l.hosts)
			}
			return l.notes, len(l.hosts) > 0
		},
	}
}

// laterHosts is useHosts for a key that is not built yet.
func laterHosts() binding {
	b := useHosts(func(*target, []string) {})
	b.built = false
	return b
}

// host is one host without a wildcard.
var host = kind[string]{doc: "host", read: func(text string) (string, error) {
	h, portless, err := normaliseHost(strings.TrimSpace(text), false)
	if err == nil && portless {
		err = refuse("write `"+h+"`", "has a port")
	}
	return h, err
}}

// normaliseHost gives a host as routes compare it: lower case, IDN in punycode,
// no trailing dot, no port. Underscores are let through: Swarm service names
// have them, and clients send them.
func normaliseHost(entry string, wildcards bool) (host string, portless bool, err error) {
	h := entry
	if _, after, found := strings.Cut(h, "://"); found {
		return "", false, refuse(hostHint(after), "is a URL, not a host")
	}
	if strings.ContainsAny(h, "/?#") {
		return "", false, refuse(hostHint(h)+"; the path belongs in `context_root`", "has a path")
	}
	if strings.HasPrefix(h, "[") || strings.Count(h, ":") > 1 {
		return "", false, refuse("write a host name or an IPv4 address", "is an IPv6 address")
	}
	if name, port, found := strings.Cut(h, ":"); found {
		if strings.Trim(port, "0123456789") != "" {
			return "", false, refuse(hostHint(name), "%q is not a port", port)
		}
		h, portless = name, true
	}
	star := ""
	switch {
	case h == "*" && wildcards:
		return "*", portless, nil
	case strings.HasPrefix(h, "*.") && wildcards:
		star, h = "*.", h[2:]
	}
	if strings.Contains(h, "*") {
		if !wildcards {
			return "", false, refuse("write one exact host", "has a wildcard")
		}
		hint := "write `*` or `*.example.com`"
		if _, rest, found := strings.Cut(h[strings.LastIndex(h, "*"):], "."); found {
			if rest, err := asciiHost(rest); err == nil {
				hint = "write `*." + rest + "`"
			}
		}
		return "", false, refuse(hint, "has a wildcard that is not its whole first part")
	}
	if h, err = asciiHost(h); err != nil {
		return "", false, err
	}
	if len(star)+len(h) > 253 {
		return "", false, refuse("write a shorter host", "is longer than 253 characters")
	}
	return star + h, portless, nil
}

// hostHint names the host at the beginning of a text, if there is one.
func hostHint(text string) string {
	if i := strings.IndexAny(text, ":/?#"); i >= 0 {
		text = text[:i]
	}
	if h, err := asciiHost(text); err == nil {
		return "write `" + h + "`"
	}
	return "write a host such as `app.example.com`"
}

// international maps IDN as browsers do (UTS 46, nontransitional). What is left
// is checked by asciiHost, which is laxer than DNS where browsers are.
var international = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

func asciiHost(name string) (string, error) {
	const hint = "write a host such as `app.example.com`"
	h := strings.TrimSuffix(asciiLower(name), ".")
	if len(h) > 1024 {
		return "", refuse("write a shorter host", "is longer than 253 characters")
	}
	if !ascii(h) || strings.HasPrefix(h, "xn--") || strings.Contains(h, ".xn--") {
		mapped, err := international.ToASCII(h)
		mapped = strings.TrimSuffix(mapped, ".")
		// What comes out must be its own normal form: not every text that idna lets
		// through once is a name that it would read again (U+FFFD).
		if again, err2 := international.ToASCII(mapped); err != nil || err2 != nil || again != mapped {
			return "", refuse(hint, "is not a valid internationalised name")
		}
		h = mapped
	}
	if len(h) > 253 {
		return "", refuse("write a shorter host", "is longer than 253 characters")
	}
	if h == "" {
		return "", refuse(hint, "has no name")
	}
	for part := range strings.SplitSeq(h, ".") {
		switch {
		case part == "":
			return "", refuse(hint, "has an empty part between two dots")
		case len(part) > 63:
			return "", refuse("write a shorter name", "%q is longer than 63 characters", part)
		case part[0] == '-' || part[len(part)-1] == '-':
			return "", refuse(hint, "%q begins or ends with a hyphen", part)
		}
		for i := range len(part) {
			if c := part[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "", refuse(hint, "the character %q cannot stand in a host", c)
			}
		}
	}
	return h, nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// asciiLower folds A–Z alone: it never changes a string's length.
func asciiLower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// addressRange is an address range; a bare address is a range of one.
var addressRange = kind[netip.Prefix]{doc: "CIDR", read: func(text string) (netip.Prefix, error) {
	t := strings.TrimSpace(text)
	if a, err := netip.ParseAddr(t); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(t)
	if err != nil {
		hint := "write an address range such as `10.0.0.0/8`"
		if addr, _, found := strings.Cut(t, "/"); found && net.ParseIP(addr) != nil {
			hint = "write a prefix length from 0 to 32 (IPv6: 128) after the slash"
		}
		return netip.Prefix{}, refuse(hint, "is not an address range")
	}
	return p.Masked(), nil
}}
