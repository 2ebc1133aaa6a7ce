package labels

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/config"
)

// kind is a kind of value: how the reference calls it, and how its text is read.
// read refuses with a *malformed.
type kind[T any] struct {
	doc  string
	read func(text string) (T, error)
	// secret marks names of key material: what is no name may be the material
	// itself in the wrong place, and is not repeated.
	secret bool
}

// malformed says what is wrong with a value and which valid one is nearest.
type malformed struct{ reason, hint string }

func (m *malformed) Error() string { return m.reason + "; " + m.hint }

func refuse(hint, reason string, args ...any) error {
	return &malformed{reason: fmt.Sprintf(reason, args...), hint: hint}
}

// binding ties a kind to a key of the table: read checks a text and, where into
// is given, sets the field it belongs to.
type binding struct {
	doc    string
	built  bool
	secret bool
	// read returns what is wrong; !ok means that there is no usable value.
	read func(text string, into *target) (notes []note, ok bool)
	// same reports whether two texts mean the same value.
	same func(a, b string) bool
}

// target is where built keys put their values.
type target struct {
	service *Service
	route   *Route
	name    string // what stands after keys that take a name
}

// set sorts a list and drops what is twice.
func set[T cmp.Ordered](list []T) []T {
	list = slices.Sorted(slices.Values(list))
	return slices.Compact(list)
}

// note is one remark on a value. Its severity is the one that the key's class
// gives, unless it is set.
type note struct {
	severity Severity
	value    string // the part of the value that is meant; "" = all of it
	reason   string
	hint     string
}

// use binds a key that is built to its field.
func use[T any](k kind[T], set func(*target, T)) binding {
	return binding{
		doc: k.doc, built: true, secret: k.secret, same: k.same,
		read: func(text string, into *target) ([]note, bool) {
			v, err := k.read(text)
			if err != nil {
				return []note{noteOf(err)}, false
			}
			if into != nil {
				set(into, v)
			}
			return nil, true
		},
	}
}

// useNamed is use for a key that takes a name.
func useNamed[T any](k kind[T], set func(t *target, name string, v T)) binding {
	return use(k, func(t *target, v T) { set(t, t.name, v) })
}

// warned adds a warning to a key that takes a name, where name or value deserve one.
func warned(b binding, of func(name, text string) (reason, hint string)) binding {
	read := b.read
	b.read = func(text string, into *target) ([]note, bool) {
		notes, ok := read(text, into)
		if into != nil && ok {
			if reason, hint := of(into.name, text); reason != "" {
				notes = append(notes, note{severity: Warning, reason: reason, hint: hint})
			}
		}
		return notes, ok
	}
	return b
}

// later binds a key that is known and checked, but not built yet.
func later[T any](k kind[T]) binding {
	b := use(k, func(*target, T) {})
	b.built = false
	return b
}

// accept binds a key that needs nothing built: what it asks for is always so, or
// it is read elsewhere.
func accept[T any](k kind[T]) binding { return use(k, func(*target, T) {}) }

func (k kind[T]) same(a, b string) bool {
	v, err := k.read(a)
	if err != nil {
		return false
	}
	w, err := k.read(b)
	return err == nil && reflect.DeepEqual(v, w)
}

func noteOf(err error) note {
	if m, ok := err.(*malformed); ok {
		return note{reason: m.reason, hint: m.hint}
	}
	return note{reason: err.Error()}
}

var boolean = kind[bool]{doc: "bool", read: func(text string) (bool, error) {
	switch t := strings.TrimSpace(text); t {
	case "true", "1", "yes":
		return true, nil
	case "false", "0", "no":
		return false, nil
	default:
		hint := "write `true` or `false`"
		switch l := strings.ToLower(t); l {
		case "true", "false", "yes", "no":
			hint = "write `" + l + "`"
		case "on", "t", "y", "enabled", "enable":
			hint = "write `true`"
		case "off", "f", "n", "disabled", "disable":
			hint = "write `false`"
		default:
			if s := config.Nearest(l, []string{"true", "false"}); s != "" {
				hint = "write `" + s + "`"
			}
		}
		return false, refuse(hint, "is neither true nor false")
	}
}}

// whole is a whole number from lo to hi.
func whole(lo, hi uint32) kind[uint32] {
	doc := fmt.Sprintf("%d–%d", lo, hi)
	form := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	if hi == math.MaxUint32 {
		doc, form = "int", fmt.Sprintf("a whole number, %d or more", lo)
	}
	return kind[uint32]{doc: doc, read: func(text string) (uint32, error) {
		t := strings.TrimSpace(text)
		digits := t[:len(t)-len(strings.TrimLeft(t, "0123456789"))]
		n, err := strconv.ParseUint(digits, 10, 64)
		inside := err == nil && n >= uint64(lo) && n <= uint64(hi)
		switch {
		case t == "":
			return 0, refuse("write "+form, "is blank")
		case digits != t && inside && strings.ContainsRune("/:, .", rune(t[len(digits)])): // 8080/tcp, 8080:80; not 808O
			return 0, refuse(fmt.Sprintf("write `%d`", n), "is not a whole number")
		case digits != t:
			return 0, refuse("write "+form, "is not a whole number")
		case !inside:
			return 0, refuse("write "+form, "is out of range")
		}
		return uint32(n), nil
	}}
}

var (
	port  = whole(1, 65535)
	count = whole(0, math.MaxUint32)
	some  = whole(1, math.MaxUint32)
)

// integer is a whole number with a sign.
var integer = kind[int32]{doc: "int", read: func(text string) (int32, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return 0, refuse("write a whole number such as `10` or `-5`", "is not a whole number between %d and %d", math.MinInt32, math.MaxInt32)
	}
	return int32(n), nil
}}

const year = 365 * 24 * time.Hour

// span is a duration from lo to hi. Envoy counts in milliseconds: shorter ones
// would silently become 0, which often means "for ever".
func span(lo, hi time.Duration) kind[time.Duration] {
	return kind[time.Duration]{doc: "duration", read: func(text string) (time.Duration, error) {
		d, err := parseDuration(strings.TrimSpace(text))
		switch {
		case err != nil:
			return 0, err
		case d == 0 && lo > 0:
			return 0, refuse(fmt.Sprintf("write at least `%s`", short(lo)), "may not be 0")
		case d > 0 && d < time.Millisecond:
			return 0, refuse("write at least `1ms`", "is shorter than a millisecond")
		case d < lo:
			return 0, refuse(fmt.Sprintf("write at least `%s`", short(lo)), "is too short")
		case d > hi:
			return 0, refuse(fmt.Sprintf("write at most `%s`", short(hi)), "is too long")
		}
		return d, nil
	}}
}

var (
	duration = span(0, year)
	positive = span(time.Millisecond, year)
	// patience bounds how long a connection attempt may take.
	patience = span(time.Millisecond, 24*time.Hour)
)

const durationHint = "write a duration such as `5s` or `500ms`; a bare number is seconds"

func parseDuration(text string) (time.Duration, error) {
	if text == "" {
		return 0, refuse(durationHint, "is blank")
	}
	if plain(text) { // a bare number is seconds
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f > float64(math.MaxInt64/time.Second) {
			return 0, refuse("write at most `8760h`", "is too long")
		}
		return time.Duration(math.Round(f * float64(time.Second))), nil
	}
	if rest, negative := strings.CutPrefix(text, "-"); negative {
		if _, err := time.ParseDuration(rest); err == nil || plain(rest) {
			return 0, refuse("write `"+rest+"`", "is negative")
		}
		return 0, refuse(durationHint, "is not a duration")
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, refuse(nearestDuration(text), "is not a duration")
	}
	return d, nil
}

// plain reports whether the text is an unsigned decimal number.
func plain(text string) bool {
	whole, fraction, dotted := strings.Cut(text, ".")
	return whole != "" && strings.Trim(whole, "0123456789") == "" &&
		strings.Trim(fraction, "0123456789") == "" && (!dotted || fraction != "")
}

var durationUnits = map[string]string{
	"sec": "s", "secs": "s", "second": "s", "seconds": "s",
	"min": "m", "mins": "m", "minute": "m", "minutes": "m",
	"hr": "h", "hrs": "h", "hour": "h", "hours": "h",
	"msec": "ms", "msecs": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms",
}

// nearestDuration guesses what a text that is no duration was meant to be.
func nearestDuration(text string) string {
	digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	unit := strings.ToLower(strings.TrimSpace(text[len(digits):]))
	if u, ok := durationUnits[unit]; ok {
		unit = u
	}
	if n, err := strconv.ParseUint(digits, 10, 16); err == nil && (unit == "d" || unit == "day" || unit == "days") {
		digits, unit = strconv.FormatUint(n*24, 10), "h"
	}
	if _, err := time.ParseDuration(digits + unit); digits != "" && err == nil {
		return "write `" + digits + unit + "`"
	}
	return durationHint
}

// short writes a duration without trailing zero units ("10m", not "10m0s").
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeUnits = map[string]uint64{
	"": 1, "b": 1,
	"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, // as in nginx
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
	"kb": 1e3, "mb": 1e6, "gb": 1e9,
}

// size is a number of bytes.
var size = kind[uint64]{doc: "size", read: func(text string) (uint64, error) {
	const hint = "write a size such as `512KiB`, `32m` or `1GB`"
	t := strings.TrimSpace(text)
	digits := t[:len(t)-len(strings.TrimLeft(t, "0123456789"))]
	unit, known := sizeUnits[strings.ToLower(t[len(digits):])]
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case digits == "" || !known:
		return 0, refuse(hint, "is not a size")
	case err != nil || n > math.MaxInt64/unit:
		return 0, refuse(hint, "is too large")
	}
	return n * unit, nil
}}

// Rate is a number of requests in a span of time; Burst is 0 where it is not said.
type Rate struct {
	Requests uint32
	Per      time.Duration
	Burst    uint32
}

var rate = kind[Rate]{doc: "rate", read: func(text string) (Rate, error) {
	const hint = "write a rate such as `100/s`, `600/m` or `100/s,burst=20`"
	main, burst, bursting := strings.Cut(text, ",")
	number, per, _ := strings.Cut(strings.TrimSpace(main), "/")
	r := Rate{}
	switch strings.TrimSpace(per) {
	case "s":
		r.Per = time.Second
	case "m":
		r.Per = time.Minute
	default:
		return Rate{}, refuse(hint, "is not a rate per second (`/s`) or minute (`/m`)")
	}
	var err error
	if r.Requests, err = some.read(number); err != nil {
		return Rate{}, refuse(hint, "%q is not a number of requests", strings.TrimSpace(number))
	}
	if bursting {
		name, value, _ := strings.Cut(strings.TrimSpace(burst), "=")
		if r.Burst, err = some.read(value); err != nil || strings.TrimSpace(name) != "burst" {
			return Rate{}, refuse(hint, "%q is not a burst", strings.TrimSpace(burst))
		}
	}
	return r, nil
}}

var percent = kind[float64]{doc: "percent", read: func(text string) (float64, error) {
	const hint = "write a percentage such as `10` or `10%`"
	t := strings.TrimSuffix(strings.TrimSpace(text), "%")
	f, err := strconv.ParseFloat(t, 64)
	switch {
	case !plain(t) || err != nil:
		return 0, refuse(hint, "is not a percentage")
	case f > 100:
		return 0, refuse("write at most `100%`", "is more than 100 %%")
	}
	return f, nil
}}

// word is one of a few.
func word(words ...string) kind[string] {
	choice := "`" + strings.Join(words, "`, `") + "`"
	return kind[string]{doc: choice, read: func(text string) (string, error) {
		t := strings.TrimSpace(text)
		for _, w := range words {
			if t == w {
				return w, nil
			}
		}
		hint := "write one of " + choice
		if s := config.Nearest(t, words); s != "" {
			hint = "did you mean `" + s + "`?"
		}
		return "", refuse(hint, "is none of %s", choice)
	}}
}

// items splits a list: comma separated, blanks trimmed, empties dropped.
func items(text string) []string {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// list is a list of at least one of a kind.
func list[T any](doc string, of kind[T]) kind[[]T] {
	return kind[[]T]{doc: doc, read: func(text string) ([]T, error) {
		var out []T
		for _, item := range items(text) {
			v, err := of.read(item)
			if err != nil {
				m := noteOf(err)
				return nil, refuse(m.hint, "%q %s", item, m.reason)
			}
			out = append(out, v)
		}
		if len(out) == 0 {
			return nil, refuse("remove the label, or name something", "is a list without entries")
		}
		return out, nil
	}}
}

// either reads the first kind that fits; refusals are those of the last.
func either[T any](doc string, first kind[T], more ...kind[T]) kind[T] {
	secret := first.secret
	for _, k := range more {
		secret = secret || k.secret
	}
	return kind[T]{doc: doc, secret: secret, read: func(text string) (T, error) {
		v, err := first.read(text)
		for _, k := range more {
			if err == nil {
				break
			}
			v, err = k.read(text)
		}
		return v, err
	}}
}

// called gives a kind another name in the reference.
func called[T any](doc string, k kind[T]) kind[T] {
	k.doc = doc
	return k
}

// text is anything but blanks.
var text = kind[string]{doc: "text", read: func(text string) (string, error) {
	if t := strings.TrimSpace(text); t != "" {
		return t, nil
	}
	return "", refuse("remove the label, or give it a value", "is blank")
}}
