package labels

import (
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strings"
)

// path is a path as requests are compared with it after Envoy has normalised
// theirs: segments without "." and "..", no "//", unreserved characters plain,
// others percent-encoded in upper case. A missing first slash is added.
var path = kind[string]{doc: "path", read: func(text string) (string, error) {
	return normalisePath(strings.TrimSpace(text))
}}

// pathPrefix is a path without trailing slash; "/" takes everything.
var pathPrefix = kind[string]{doc: "path prefix", read: func(text string) (string, error) {
	p, err := path.read(text)
	if err != nil || p == "/" {
		return p, err
	}
	return strings.TrimSuffix(p, "/"), nil
}}

func normalisePath(p string) (string, error) {
	const hint = "write a path such as `/app`"
	if p == "" {
		return "", refuse(hint, "is blank")
	}
	if strings.Contains(p, "://") {
		if u, err := url.Parse(p); err == nil && u.Path != "" && !strings.Contains(u.Path, "://") {
			if clean, err := normalisePath(u.Path); err == nil {
				return "", refuse("write `"+clean+"`", "is a URL, not a path")
			}
		}
		return "", refuse(hint, "is a URL, not a path")
	}
	if p[0] != '/' {
		p = "/" + p
	}
	if i := strings.IndexAny(p, "?#"); i >= 0 {
		return "", refuse("write `"+nearestPath(p[:i])+"`", "has a %q: a path ends before it", p[i])
	}
	if strings.Contains(p, "//") {
		return "", refuse("write `"+nearestPath(p)+"`", "has `//`, which no request has after normalisation")
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '%':
			d, ok := unhex(p[i+1:])
			switch {
			case !ok:
				return "", refuse("write `%25` for a percent sign", "has a `%%` that is not followed by two hexadecimal digits")
			case d == '/' || d == '\\' || d < 0x20 || d == 0x7f:
				return "", refuse(hint, "has `%s`, which no request has after normalisation", p[i:i+3])
			case unreserved(d):
				b.WriteByte(d)
			default:
				escape(&b, d)
			}
			i += 2
		case c >= 0x80:
			escape(&b, c)
		case unreserved(c) || strings.IndexByte("/!$&'()*+,;=:@", c) >= 0:
			b.WriteByte(c)
		case c == ' ':
			return "", refuse("write `%20` for a blank", "has a blank")
		default:
			h := fmt.Sprintf("write `%%%02X` for it", c)
			if c == '\\' || c < 0x20 || c == 0x7f {
				h = hint
			}
			return "", refuse(h, "the character %q cannot stand in a path", c)
		}
	}
	clean := b.String()
	for segment := range strings.SplitSeq(clean, "/") {
		if segment == "." || segment == ".." {
			return "", refuse("write the path without `"+segment+"`", "has the segment `%s`, which no request has after normalisation", segment)
		}
	}
	return clean, nil
}

// nearestPath drops what makes a path unusable.
func nearestPath(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	if clean, err := normalisePath(p); err == nil && p != "" {
		return clean
	}
	return "/app"
}

func unhex(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	hi, lo := strings.IndexByte(hex, upper(s[0])), strings.IndexByte(hex, upper(s[1]))
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

const hex = "0123456789ABCDEF"

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

func escape(b *strings.Builder, c byte) {
	b.WriteByte('%')
	b.WriteByte(hex[c>>4])
	b.WriteByte(hex[c&15])
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// regex is an RE2 pattern. Its size is bounded, and so is its program: Envoy
// runs it on every request.
var regex = kind[string]{doc: "RE2, anchored, ≤ 1 KiB", read: func(text string) (string, error) {
	const maxLength, maxInstructions = 1 << 10, 1000
	if strings.TrimSpace(text) == "" {
		return "", refuse("write a pattern such as `/v[0-9]+/.*`", "is blank")
	}
	if len(text) > maxLength {
		return "", refuse("write a pattern of at most 1024 characters", "is %d characters long", len(text))
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return "", refuse("write an RE2 pattern such as `/v[0-9]+/.*`", "is not an RE2 pattern: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if e := wideEscape.FindStringSubmatch(text); e != nil {
		return "", refuse("write the character itself, or its bytes as a URL has them (`%C3%BC`)", "`%s` is no byte, and the proxy compares byte by byte", e[1])
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxInstructions {
		return "", refuse("write a simpler pattern, with smaller repetitions", "is too expensive to run on every request")
	}
	return text, nil
}}

// wideEscape finds characters above \xFF that are written as escapes. Envoy's RE2 works
// on bytes and would refuse the whole route table.
var wideEscape = regexp.MustCompile(`(?:^|[^\\])(?:\\\\)*(\\x\{0*[1-9A-Fa-f][0-9A-Fa-f]{2,}\}|\\[4-7][0-7]{2})`)

// link is an absolute http or https URL.
var link = kind[string]{doc: "URL", read: func(text string) (string, error) {
	const hint = "write a URL such as `https://www.example.com`"
	t := strings.TrimSpace(text)
	u, err := url.Parse(t)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" {
		return "", refuse(hint, "is not an http or https URL")
	}
	if u.User != nil {
		return "", refuse(hint, "has credentials in it")
	}
	if h := u.Hostname(); !strings.Contains(h, ":") {
		if _, err := asciiHost(h); err != nil {
			return "", refuse(hint, "its host %s", noteOf(err).reason)
		}
	}
	return t, nil
}}
