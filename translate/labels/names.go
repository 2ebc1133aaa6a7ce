package labels

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// token is an RFC 9110 token: the name of a header or cookie.
var token = kind[string]{doc: "name", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if t == "" {
		return "", refuse("write a name such as `X-Tenant`", "is blank")
	}
	for i := range len(t) {
		if c := t[i]; !(unreserved(c) || strings.IndexByte("!#$%&'*+^`|", c) >= 0) {
			return "", refuse("write a name of letters, digits and hyphens", "the character %q cannot stand in a name", c)
		}
	}
	return t, nil
}}

// shapedHeader is the name of a header that labels may set or remove.
var shapedHeader = kind[string]{doc: "name", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	l := asciiLower(t)
	switch {
	case strings.HasPrefix(l, ":"):
		return "", refuse("name an ordinary header", "pseudo-headers cannot be changed")
	case l == "host":
		return "", refuse("use `rewrite_host`", "the Host header cannot be changed here")
	case strings.HasPrefix(l, "x-envoy-"), strings.HasPrefix(l, "x-waggle-"), l == "x-forwarded-client-cert":
		return "", refuse("name another header", "%s is reserved for the proxy", l)
	case slices.Contains(hopByHop, l):
		return "", refuse("leave it to the proxy and the task", "%s is between two ends of one connection, and not passed on", l)
	case len(t) > maxHeaderName:
		return "", refuse("write a shorter name", "is %d bytes long, and at most %d are taken", len(t), maxHeaderName)
	}
	return token.read(t)
}}

// maxHeaderName is far above what anybody uses, and below what proxies refuse.
const maxHeaderName = 256

// maxParameterName is Envoy's own.
const maxParameterName = 1024

// hopByHop are the headers that say how a message is sent over one connection:
// who changes them makes two ends disagree about where a message ends.
var hopByHop = []string{
	"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}

var method = kind[string]{doc: "method", read: func(text string) (string, error) {
	t, err := token.read(text)
	if err == nil && strings.ToUpper(t) != t {
		hint := "write `" + strings.ToUpper(t) + "`"
		if strings.EqualFold(t, "any") {
			hint = "leave the label out to take every method"
		}
		return "", refuse(hint, "methods are written in capitals")
	}
	return t, err
}}

// methods is a list of methods. In a route they are one expression, which must stay
// below Envoy's limit: the longest method that is registered has 17 letters.
var methods = kind[[]string]{doc: "list", read: func(text string) ([]string, error) {
	const maxMethods, maxLength = 32, 24
	out, err := list("list", method).read(text)
	if err != nil {
		return nil, err
	}
	if out = set(out); len(out) > maxMethods {
		return nil, refuse("leave the label out to take every method, or name fewer", "names %d methods, and at most %d are compared", len(out), maxMethods)
	}
	for _, m := range out {
		if len(m) > maxLength {
			return nil, refuse("write a method such as `GET`", "%q is longer than any method", m)
		}
	}
	return out, nil
}}

// A Matcher says which values of a header or query parameter are meant.
type Matcher struct {
	Negated bool
	Present bool   // "*"
	Regex   string // "~regex"
	Exact   string
}

var match = kind[Matcher]{doc: "`value`, `*` present, `~regex`, leading `!` negates", read: func(text string) (Matcher, error) {
	t := strings.TrimSpace(text)
	rest, negated := strings.CutPrefix(t, "!")
	m := Matcher{Negated: negated}
	switch {
	case rest == "":
		return m, refuse("write a value, `*` or `~regex`", "says nothing to compare with")
	case rest == "*":
		m.Present = true
	case rest[0] == '~':
		var err error
		if m.Regex, err = regex.read(rest[1:]); err != nil {
			return m, err
		}
	default:
		m.Exact = rest
	}
	return m, nil
}}

var objectName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)

// object is the name of a secret, config or file.
var object = kind[string]{doc: "name of a secret or config", secret: true, read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if len(t) > 255 || !objectName.MatchString(t) {
		return "", refuse("put the content into a secret or config and write its name", "is not the name of a secret, config or file")
	}
	return t, nil
}}

// service is the name of another service.
var service = kind[string]{doc: "service", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if len(t) > 255 || !objectName.MatchString(t) {
		return "", refuse("write the name of a service of the same collection", "is not the name of a service")
	}
	return t, nil
}}

// networkName is a network's name. Docker is lax about them; blanks alone are refused.
var networkName = kind[string]{doc: "network name; `bridge`", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if t == "" || strings.ContainsAny(t, " \t,") {
		return "", refuse("write the name of one network, or `bridge`", "is not the name of one network")
	}
	return t, nil
}}

var collectionPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// collectionName is the name of a collection. Whether there is such a collection
// is found out where the collections are known.
var collectionName = kind[string]{doc: "collection name", read: func(text string) (string, error) {
	t := strings.TrimSpace(text)
	if !collectionPattern.MatchString(t) {
		return "", refuse("write a name of lower-case letters, digits, `.`, `_` and `-`", "is not the name of a collection")
	}
	return t, nil
}}

// A Selector says by what requests are told apart: {"ip", ""}, {"header", "X-Tenant"}.
type Selector struct{ What, Name string }

// selector is a word, or "what:name" for each of some whats.
func selector(bare string, named ...string) kind[Selector] {
	forms := "`" + bare + "`"
	for _, n := range named {
		forms += ", `" + n + ":<name>`"
	}
	return kind[Selector]{doc: forms, read: func(text string) (Selector, error) {
		t := strings.TrimSpace(text)
		if t == bare {
			return Selector{What: t}, nil
		}
		what, name, found := strings.Cut(t, ":")
		for _, n := range named {
			if found && what == n {
				name, err := token.read(name)
				if err != nil {
					m := noteOf(err)
					return Selector{}, refuse(m.hint, "%q: %s", name, m.reason)
				}
				return Selector{What: what, Name: name}, nil
			}
		}
		return Selector{}, refuse("write one of "+forms, "is none of %s", forms)
	}}
}

// two is a pair as it was read; both is false where the second was not said.
type two[A, B any] struct {
	first  A
	second B
	both   bool
}

// pair is "first[,second]", or "first,second" where the second is needed.
func pair[A, B any](doc string, needed bool, first kind[A], second kind[B]) kind[two[A, B]] {
	return kind[two[A, B]]{doc: doc, read: func(text string) (two[A, B], error) {
		var out two[A, B]
		a, b, found := strings.Cut(text, ",")
		if !found && needed {
			return out, refuse("write "+doc, "has no second part after a comma")
		}
		v, err := first.read(a)
		if err != nil {
			return out, part(a, err)
		}
		out.first = v
		if found {
			w, err := second.read(b)
			if err != nil {
				return out, part(b, err)
			}
			out.second, out.both = w, true
		}
		return out, nil
	}}
}

func part(text string, err error) error {
	m := noteOf(err)
	return refuse(m.hint, "%q %s", strings.TrimSpace(text), m.reason)
}

// respondStatus is the status of an answer that the proxy makes itself. To those that
// redirect Envoy would add where the request came from: a loop.
var respondStatus = kind[uint32]{doc: "status", read: func(text string) (uint32, error) {
	n, err := whole(200, 599).read(text)
	if err == nil && slices.Contains([]uint32{301, 302, 303, 307, 308}, n) {
		return 0, refuse("write `redirect` and `redirect_code`", "redirects, and does not say where")
	}
	return n, err
}}

// abortStatus is the status of an answer with a text of Envoy's own.
var abortStatus = kind[uint32]{doc: "status", read: func(text string) (uint32, error) {
	n, err := respondStatus.read(text)
	if err == nil && textless(n) {
		return 0, refuse("write another status, such as `503`", "has no text, and the proxy sends one")
	}
	return n, err
}}

// textless reports whether an answer of that status ends before its text: who reads
// it would take the text for the beginning of the next answer.
func textless(status uint32) bool { return status == 204 || status == 205 || status == 304 }

// fixedAnswer is "status[,text]".
var fixedAnswer = kind[Response]{doc: "`status[,text]`", read: func(text string) (Response, error) {
	v, err := pair("`status[,text]`", false, respondStatus, responseText).read(text)
	if err == nil && textless(v.first) && v.second != "" {
		return Response{}, refuse(fmt.Sprintf("write `%d` alone", v.first), "an answer of status %d has no text", v.first)
	}
	return Response{Status: v.first, Text: v.second}, err
}}

// A Redirection sends one host to a URL.
type Redirection struct{ From, To string }

var redirects = kind[[]Redirection]{doc: "`src,dst;src,dst`", read: func(text string) ([]Redirection, error) {
	const hint = "write `http://old.example.com,https://new.example.com`"
	var out []Redirection
	for entry := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(entry) == "" {
			continue
		}
		src, dst, found := strings.Cut(entry, ",")
		if !found {
			return nil, refuse(hint, "%q has no target after a comma", strings.TrimSpace(entry))
		}
		from := strings.TrimSpace(src)
		if _, after, found := strings.Cut(from, "://"); found {
			if !strings.HasPrefix(from, "http://") && !strings.HasPrefix(from, "https://") {
				return nil, refuse(hint, "%q is not an http or https URL", from)
			}
			from = strings.TrimSuffix(after, "/")
		}
		h, _, err := normaliseHost(from, true)
		if err != nil {
			return nil, part(src, err)
		}
		to, err := link.read(dst)
		if err != nil {
			return nil, part(dst, err)
		}
		if strings.ContainsAny(to, "?#") {
			return nil, refuse("write it without `?` and `#`", "%q has a query or fragment, and the path of the request comes after it", to)
		}
		out = append(out, Redirection{From: h, To: to})
	}
	if len(out) == 0 {
		return nil, refuse(hint, "redirects nothing")
	}
	return out, nil
}}

// An AuthService is where ext_auth asks.
type AuthService struct {
	Service string
	Port    uint32 // 0: the service's own
	Path    string // put before the request's path; "" for gRPC
	GRPC    bool
}

// authService is "service[:port][/path]" or "grpc://service:port".
var authService = kind[AuthService]{doc: "`service[:port][/path]`, `grpc://service:port`", read: func(text string) (AuthService, error) {
	const hint = "write `service[:port][/path]` or `grpc://service:port`"
	var a AuthService
	rest, grpc := strings.CutPrefix(strings.TrimSpace(text), "grpc://")
	address, p, hasPath := strings.Cut(rest, "/")
	name, number, hasPort := strings.Cut(address, ":")
	a.GRPC = grpc
	var err error
	if a.Service, err = service.read(name); err != nil {
		return a, refuse(hint, "%q is not the name of a service", name)
	}
	if hasPort {
		if a.Port, err = port.read(number); err != nil {
			return a, refuse(hint, "%q is not a port", number)
		}
	}
	if grpc && (!hasPort || hasPath) {
		return a, refuse(hint, "a gRPC service needs a port and takes no path")
	}
	if hasPath {
		if a.Path, err = path.read("/" + p); err != nil {
			return a, part("/"+p, err)
		}
	}
	return a, nil
}}

// responseText is the body of a fixed answer.
var responseText = kind[string]{doc: "text", read: func(text string) (string, error) {
	if len(text) > maxResponse {
		return "", refuse("write a shorter text, or let a service answer", "is %d bytes long, and at most %d can be answered", len(text), maxResponse)
	}
	return text, nil
}}

// code is one of a few HTTP statuses.
func code(codes ...uint32) kind[uint32] {
	doc := strings.Trim(fmt.Sprint(codes), "[]")
	return kind[uint32]{doc: doc, read: func(text string) (uint32, error) {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil || !slices.Contains(codes, uint32(n)) {
			return 0, refuse("write one of "+doc, "is none of %s", doc)
		}
		return uint32(n), nil
	}}
}
