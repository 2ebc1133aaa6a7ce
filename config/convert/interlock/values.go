package interlock

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// value is what the file says for one option, with where it goes.
type value struct {
	c      *converter
	coll   *collection // nil among the core's options
	option option
	key    string
	line   int
	raw    any
}

// notice says that the value has no effect, or not the one that it asks for.
func (v value) notice(text, wayOut string) {
	v.c.notice(Notice{Line: v.line, Key: v.key, Text: text, WayOut: wayOut})
}

// lost is notice for what Interlock served by the value.
func (v value) lost(text, wayOut string) {
	v.c.notice(Notice{Line: v.line, Key: v.key, Text: text, WayOut: wayOut, Lost: true})
}

// unreadable says that the value is none that the option takes.
func (v value) unreadable(wants string) {
	v.notice(quoted(v.raw)+" is not "+wants+", so the default holds", "write "+wants)
}

// number reads a whole number, quoted or not; false, with a notice, where it is none.
func (v value) number(wants string, lo, hi uint64) (uint64, bool) {
	t, ok := scalar(v.raw)
	n, err := strconv.ParseUint(t, 10, 64)
	if !ok || err != nil || n < lo || n > hi {
		v.unreadable(wants)
		return 0, false
	}
	return n, true
}

// port reads a port. A bad one is an error: no default is what was meant.
func (v value) port() (uint32, bool) {
	t, ok := scalar(v.raw)
	n, err := strconv.ParseUint(t, 10, 16)
	if !ok || err != nil || n == 0 {
		v.c.fail(v.line, v.key, quoted(v.raw)+" is not a port", "write a number from 1 to 65535")
		return 0, false
	}
	return uint32(n), true
}

// text reads a text that is not blank.
func (v value) text(wants string) (string, bool) {
	t, ok := scalar(v.raw)
	if !ok {
		v.unreadable(wants)
	}
	return t, ok
}

func (v value) boolean() (on, ok bool) {
	switch t, _ := scalar(v.raw); strings.ToLower(t) {
	case "true", "1", "yes", "on":
		return true, true
	case "false", "0", "no", "off":
		return false, true
	}
	v.unreadable("true or false")
	return false, false
}

// list reads a list of texts; a single text is a list of one.
func (v value) list() ([]string, bool) {
	out, ok := texts(v.raw)
	if !ok {
		v.unreadable("a list of texts")
	}
	return out, ok
}

// table reads names with texts.
func (v value) table() (map[string]string, bool) {
	m, ok := v.raw.(map[string]any)
	out := map[string]string{}
	for name, x := range m {
		t, fits := scalar(x)
		ok = ok && fits
		out[name] = t
	}
	if !ok {
		v.unreadable("a table of names and texts")
	}
	return out, ok
}

// span reads a time as nginx does: "75s", "1m 30s", "500ms", bare seconds.
func (v value) span() (time.Duration, bool) {
	t, ok := scalar(v.raw)
	d, fits := span(t)
	if !ok || !fits {
		v.unreadable("a time such as 60s")
		return 0, false
	}
	return d, true
}

var spanUnits = []struct {
	suffix string
	unit   time.Duration
}{
	{"ms", time.Millisecond}, {"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}, {"", time.Second},
}

// maxSpan is more than any timeout is meant to be.
const maxSpan = 365 * 24 * time.Hour

func span(text string) (time.Duration, bool) {
	var sum time.Duration
	rest := strings.ReplaceAll(strings.ToLower(text), " ", "")
	if rest == "" {
		return 0, false
	}
	for rest != "" {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		rest = rest[len(digits):]
		word := rest[:len(rest)-len(strings.TrimLeftFunc(rest, unicode.IsLetter))]
		rest = rest[len(word):]
		n, err := strconv.ParseUint(digits, 10, 32)
		i := slices.IndexFunc(spanUnits, func(u struct {
			suffix string
			unit   time.Duration
		}) bool {
			return u.suffix == word
		})
		if err != nil || i < 0 || n > uint64(maxSpan/spanUnits[i].unit) {
			return 0, false
		}
		if sum += time.Duration(n) * spanUnits[i].unit; sum > maxSpan {
			return 0, false
		}
	}
	return sum, true
}

// scalar is a single value as text.
func scalar(raw any) (string, bool) {
	switch x := raw.(type) {
	case string:
		return strings.TrimSpace(x), true
	case int64:
		return strconv.FormatInt(x, 10), true
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return strconv.FormatFloat(x, 'f', 1, 64), true
		}
		return strconv.FormatFloat(x, 'g', -1, 64), true
	case bool:
		return strconv.FormatBool(x), true
	}
	return "", false
}

// texts is a list without its blank entries.
func texts(raw any) ([]string, bool) {
	items, ok := raw.([]any)
	if !ok {
		if _, ok = raw.(string); !ok {
			return nil, false
		}
		items = []any{raw}
	}
	var out []string
	for _, x := range items {
		t, ok := scalar(x)
		if !ok {
			return nil, false
		}
		if t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out, true
}

// blank reports whether a value says nothing.
func blank(raw any) bool {
	switch x := raw.(type) {
	case string:
		return strings.TrimSpace(x) == ""
	case map[string]any:
		return len(x) == 0
	case []any:
		list, ok := texts(raw)
		return ok && len(list) == 0
	}
	return false
}

// control reports whether there is a control character in any text of a value. nginx's
// log formats and raw lines may have them: those never become keys.
func control(raw any) bool {
	switch x := raw.(type) {
	case string:
		return strings.ContainsFunc(x, func(r rune) bool { return r < ' ' || r == 0x7f })
	case []any:
		return slices.ContainsFunc(x, control)
	case map[string]any:
		for name, e := range x {
			if control(name) || control(e) {
				return true
			}
		}
	}
	return false
}

// quoted shows a value in a sentence.
func quoted(raw any) string {
	t, ok := scalar(raw)
	switch {
	case !ok:
		return "this"
	case len(t) > 60:
		t = strings.ToValidUTF8(t[:60], "") + "…"
	}
	return strconv.Quote(t)
}
