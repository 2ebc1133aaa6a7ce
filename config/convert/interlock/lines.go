package interlock

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

func pathKey(path []string) string { return strings.Join(path, "\x00") }

const (
	// maxNesting bounds brackets within brackets and tables within tables: the parser goes into each.
	maxNesting = 100
	// maxSearch bounds how far a key is looked for: they follow each other closely.
	maxSearch = 64 << 10
)

// linesOf finds the line of each key. The parser says in which order the keys
// come, not where: each is looked for after the one before. A key that is written
// in a way that is not found (with escapes) has the line of the one before it.
func linesOf(data []byte, keys []toml.Key) map[string]int {
	text := withoutComments(data)
	lines := map[string]int{}
	at, line := 0, 1
	for _, k := range keys {
		if i := findKey(text, at, k[len(k)-1]); i >= 0 {
			line += bytes.Count(text[at:i], []byte("\n"))
			at = i
		}
		for n := len(k); n > 0; n-- { // a table that [a.b] alone names is there too
			if _, known := lines[pathKey(k[:n])]; known {
				break
			}
			lines[pathKey(k[:n])] = line
		}
	}
	return lines
}

// findKey finds, from a place on, where a name stands as a key: before an equals
// sign, or in a table's header. -1: nowhere near.
func findKey(text []byte, from int, name string) int {
	end := min(len(text), from+maxSearch)
	for name != "" {
		i := bytes.Index(text[from:end], []byte(name))
		if i < 0 {
			return -1
		}
		i += from
		from = i + len(name)
		if keyBefore.Match(text[max(0, i-80):i]) && keyAfter.Match(text[from:min(len(text), from+80)]) {
			return i
		}
	}
	return -1
}

var (
	keyBefore = regexp.MustCompile(`(?:^|[\n{,\[.])[ \t]*["']?$`)
	keyAfter  = regexp.MustCompile(`^["']?[ \t]*[=\].]`)
)

// withoutComments blanks comments, and nothing else: places stay the same.
func withoutComments(data []byte) []byte {
	out := bytes.Clone(data)
	comment := false
	scan(data, func(i int, c byte) {
		if comment = (comment || c == '#') && c != '\n'; comment {
			out[i] = ' '
		}
	})
	return out
}

// tooDeep gives the line where brackets or dotted keys go deeper than any option
// does, 0 where nowhere.
func tooDeep(data []byte) int {
	depth, dots, line, deep, comment := 0, 0, 1, 0, false
	last := 0
	scan(data, func(i int, c byte) {
		if n := bytes.Count(data[last:i], []byte("\n")); n > 0 {
			line, dots, last, comment = line+n, 0, i, false
		}
		switch comment = comment || c == '#'; {
		case comment:
		case c == '.':
			dots++
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth = max(0, depth-1)
		}
		if deep == 0 && (depth > maxNesting || dots > maxNesting) {
			deep = line
		}
	})
	return deep
}

// scan calls visit for what is not within quotes. Within comments quotes are letters.
func scan(data []byte, visit func(i int, c byte)) {
	quote, comment := "", false
	for i := 0; i < len(data); i++ {
		c := data[i]
		switch {
		case quote != "":
			switch {
			case c == '\\' && quote[0] == '"':
				i++
			case c == '\n' && len(quote) == 1: // not closed: the parser says so
				quote = ""
			case bytes.HasPrefix(data[i:], []byte(quote)):
				i += len(quote) - 1
				quote = ""
			}
		case !comment && (c == '"' || c == '\''):
			quote = string(c)
			if triple := strings.Repeat(quote, 3); bytes.HasPrefix(data[i:], []byte(triple)) {
				quote = triple
				i += 2
			}
		default:
			comment = (comment || c == '#') && c != '\n'
			visit(i, c)
		}
	}
}
