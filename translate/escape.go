package translate

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// One function per kind of field through which a value from outside reaches
// Envoy. A value that cannot be said in that kind of field is an error, never
// a different value.

// formatLiteral makes s a literal in the fields that Envoy reads as format
// strings (headers to add, format bodies): there a '%' begins a command.
func formatLiteral(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// pathLiteral checks s for the fields that hold a path to match or to put in
// place of one: no query, fragment or control character, and not empty.
func pathLiteral(s string) error {
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("the path %q does not begin with /", s)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '?' || r == '#' }); i >= 0 {
		return fmt.Errorf("the path %q holds %q, which no path can", s, s[i])
	}
	return nameLiteral(s)
}

// nameLiteral checks s for the fields that hold names: protobuf carries UTF-8
// only, and a control character would cut log lines and admin pages in two.
func nameLiteral(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%q is not valid UTF-8", s)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("%q holds a control character", s)
	}
	return nil
}

// domainLiteral checks s for the domains of a virtual host.
func domainLiteral(s string) error {
	if s == "*" {
		return nil
	}
	rest := strings.TrimPrefix(s, "*.")
	if rest == "" || len(s) > 253 {
		return fmt.Errorf("%q is not a host", s)
	}
	for _, r := range rest {
		ok := r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' || r == '[' || r == ']' || r == ':'
		if !ok {
			return fmt.Errorf("%q holds %q, which no host can", s, r)
		}
	}
	return nil
}
