package labels

import (
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
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

// regex is an RE2 pattern, read as Envoy reads it: RE2 is not all of Go's syntax, and
// every byte is a character of its own. One pattern that Envoy refuses would cost the
// whole route table. Its size is bounded, and so is its program, which runs on every request.
var regex = kind[string]{doc: "RE2, anchored, ≤ 1 KiB", read: func(text string) (string, error) {
	const (
		maxLength = 1 << 10
		// Envoy's own limit for its program is 1000 (the bootstrap says so); programSize
		// is right to a sixth.
		maxProgram = 800
		example    = "write an RE2 pattern such as `/v[0-9]+/.*`"
		bytewise   = "write the character itself, or its bytes as a URL has them (`%C3%BC`)"
	)
	if strings.TrimSpace(text) == "" {
		return "", refuse("write a pattern such as `/v[0-9]+/.*`", "is blank")
	}
	if len(text) > maxLength {
		return "", refuse("write a pattern of at most 1024 characters", "is %d characters long", len(text))
	}
	if _, err := syntax.Parse(text, syntax.Perl); err != nil {
		return "", refuse(example, "is not an RE2 pattern: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	switch escape, class := foreignEscape(text); {
	case class:
		return "", refuse("write a class such as `[A-Za-z]` or `\\pL`", "the proxy does not know `%s`", escape)
	case escape != "":
		return "", refuse(bytewise, "`%s` is no byte, and the proxy compares byte by byte", escape)
	}
	parsed, err := syntax.Parse(BytesAsText(text), syntax.Perl)
	if err != nil {
		return "", refuse(bytewise, "has a range of characters that is none of bytes, and the proxy compares byte by byte")
	}
	tooMuch := refuse("write a simpler pattern, with smaller repetitions", "is too expensive to run on every request")
	if atLeast(parsed, maxProgram) > maxProgram {
		return "", tooMuch // nor to compile, here and now
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || programSize(program) > maxProgram {
		return "", tooMuch
	}
	return text, nil
}}

// atLeast is how many instructions a pattern needs at least. It need not be right
// above the limit.
func atLeast(re *syntax.Regexp, limit int) int {
	n := 0
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpStar, syntax.OpQuest:
		n = 1
	}
	for _, sub := range re.Sub {
		if n += atLeast(sub, limit); n > limit {
			return n
		}
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max)
	}
	return n
}

// BytesAsText makes a character of each byte: what Go's expressions make of the result
// is what Envoy's RE2 makes of the bytes.
func BytesAsText(s string) string {
	if ascii(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// programSize is about how many instructions RE2 makes of a program: one for each
// range of bytes in a class.
func programSize(p *syntax.Prog) int {
	n := 0
	for _, i := range p.Inst {
		switch i.Op {
		case syntax.InstRune, syntax.InstRune1:
			ranges := 0
			for r := 0; r < len(i.Rune); r += 2 {
				if i.Rune[r] <= 0xff {
					ranges++
				}
			}
			if len(i.Rune) == 1 && syntax.Flags(i.Arg)&syntax.FoldCase != 0 {
				ranges = 2
			}
			n += max(ranges, 1)
		case syntax.InstRuneAnyNotNL:
			n += 2
		default:
			n++
		}
	}
	return n
}

// foreignEscape finds the first escape that Go reads and Envoy's RE2 refuses: a
// character above \xFF, or a class by a name that only Go knows.
func foreignEscape(pattern string) (escape string, class bool) {
	for i := 0; i+1 < len(pattern); i++ {
		if pattern[i] != '\\' {
			continue
		}
		rest := pattern[i:]
		if rest[1] == 'Q' { // literal text
			end := strings.Index(rest, `\E`)
			if end < 0 {
				return "", false
			}
			i += end + 1
			continue
		}
		if e := wideEscape.FindString(rest); e != "" {
			return e, false
		}
		if e := classEscape.FindStringSubmatch(rest); e != nil && !knownClass(e[1]+e[2]) {
			return e[0], true
		}
		i++
	}
	return "", false
}

var (
	wideEscape  = regexp.MustCompile(`^\\(?:x\{0*[1-9A-Fa-f][0-9A-Fa-f]{2,}\}|[4-7][0-7]{2})`)
	classEscape = regexp.MustCompile(`^\\[pP](?:\{\^?([^}]*)\}|(.))`)
)

// knownClass reports whether RE2 has a class of that name: scripts and the short names
// of general categories, as Unicode writes them.
func knownClass(name string) bool {
	_, script := unicode.Scripts[name]
	_, category := unicode.Categories[name]
	return script || category && name != "Cn" && name != "LC" || name == "Any"
}

// link is an absolute http or https URL. What no URL can hold as it is written (a host
// beyond ASCII, blanks in a query) is written as a URL has it.
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
		name, err := asciiHost(h)
		if err != nil {
			return "", refuse(hint, "its host %s", noteOf(err).reason)
		}
		if !ascii(h) {
			u.Host = name + u.Host[len(h):]
			t = u.String()
		}
	}
	if number := u.Port(); number != "" {
		if _, err := port.read(number); err != nil {
			return "", refuse(hint, "its port %s", noteOf(err).reason)
		}
	}
	if query := escapeText(u.RawQuery); query != u.RawQuery {
		u.RawQuery = query
		t = u.String()
	}
	return t, nil
}}

// escapeText escapes what cannot stand in a query, and leaves the rest as it is.
func escapeText(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			escape(&b, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
