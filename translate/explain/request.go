package explain

import (
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/idna"
)

// request is the question on its way through the proxy.
type request struct {
	method string
	url    string // as asked
	scheme string
	server string // what the handshake of TLS names
	host   string // as the client sends it, port included
	path   string // with the query; normalised once the listener has seen it
	header http.Header
	notes  []string // what a client would do to the URL before it sends it
}

// parse takes a URL apart without correcting its path: what looks like a mistake
// may be what the question is about.
func parse(r Request) (*request, error) {
	q := &request{method: r.Method, url: r.URL, scheme: "http", header: http.Header{}}
	if q.method == "" {
		q.method = http.MethodGet
	}
	if strings.ContainsFunc(q.method, func(c rune) bool { return !tokenChar(c) }) {
		return nil, fmt.Errorf("%q is not an HTTP method: write GET, POST …", r.Method)
	}
	rest := r.URL
	if scheme, after, ok := strings.Cut(rest, "://"); ok && !strings.ContainsAny(scheme, "/?#") {
		q.scheme, rest = strings.ToLower(scheme), after
	}
	if q.scheme != "http" && q.scheme != "https" {
		return nil, fmt.Errorf("%q: %s is not served here: write http://HOST/PATH", r.URL, q.scheme)
	}
	if before, _, ok := strings.Cut(rest, "#"); ok {
		rest = before
		q.notes = append(q.notes, "what follows # stays with the client")
	}
	authority, path := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, path = rest[:i], rest[i:]
		if path[0] == '?' {
			path = "/" + path
		}
	}
	if strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return nil, fmt.Errorf("%q: blanks and control characters cannot stand in a URL: write %%20 for a blank", r.URL)
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[i+1:]
		q.notes = append(q.notes, "the name before @ does not choose the route")
	}
	q.path = path
	if sent, err := ascii(authority); err == nil {
		q.server = serverName(sent)
	}
	for name, values := range r.Header {
		if strings.ContainsFunc(name, func(c rune) bool { return !tokenChar(c) }) || name == "" {
			return nil, fmt.Errorf("%q is not the name of a header: write 'Name: value'", name)
		}
		if strings.EqualFold(name, "host") {
			if len(values) > 0 {
				authority = values[0]
				q.notes = append(q.notes, "the Host header says "+authority)
			}
			continue
		}
		for _, v := range values {
			q.header.Add(name, v)
		}
	}
	if authority == "" {
		return nil, fmt.Errorf("%q names no host: write http://HOST/PATH", r.URL)
	}
	host, err := ascii(authority)
	if err != nil {
		return nil, fmt.Errorf("%q: %q is not a host", r.URL, authority)
	}
	if host != authority {
		q.notes = append(q.notes, fmt.Sprintf("%s is asked for as %s", authority, host))
	}
	q.host = host
	return q, nil
}

// ascii is a host as clients send it: names in other scripts in punycode.
func ascii(host string) (string, error) {
	if strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(`"<>\^{|}`+"`", c) }) {
		return "", fmt.Errorf("not a host")
	}
	if !strings.ContainsFunc(host, func(c rune) bool { return c > 0x7f }) {
		return host, nil
	}
	name, port := host, ""
	if i := portStart(host); i >= 0 {
		name, port = host[:i], host[i:]
	}
	name, err := idna.Lookup.ToASCII(name)
	return name + port, err
}

// portStart is where the port of an authority begins (at its colon), or -1. A
// colon inside the brackets of an IPv6 address begins none (Envoy's HeaderUtility::getPortStart).
func portStart(host string) int {
	colon := strings.LastIndexByte(host, ':')
	if colon < 0 || strings.LastIndexByte(host, ']') > colon {
		return -1
	}
	if strings.ContainsFunc(host[colon+1:], func(c rune) bool { return c < '0' || c > '9' }) {
		return -1
	}
	return colon
}

// bare is a path without its query.
func bare(path string) string {
	if i := strings.IndexByte(path, '?'); i >= 0 {
		return path[:i]
	}
	return path
}

// value is what Envoy's header matchers see: the values of a header joined by commas.
func (q *request) value(name string) (string, bool) {
	switch strings.ToLower(name) {
	case ":method":
		return q.method, true
	case ":path":
		return q.path, true
	case ":authority", "host":
		return q.host, true
	case ":scheme", "x-forwarded-proto":
		return q.scheme, true
	}
	values := q.header.Values(name)
	return strings.Join(values, ","), len(values) > 0
}

// query is the first value of a query parameter, not decoded, as Envoy compares it.
func (q *request) query(name string) (string, bool) {
	_, query, _ := strings.Cut(q.path, "?")
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, _ := strings.Cut(pair, "="); pair != "" && key == name {
			return value, true
		}
	}
	return "", false
}

func tokenChar(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}
