package labels

import (
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestContextRoot(t *testing.T) {
	const hint = "write a path such as `/app`"
	read(t, pathPrefix, []reading{
		{text: "/", want: "/"},
		{text: "/app", want: "/app"},
		{text: "app", want: "/app"},
		{text: "/app/", want: "/app"},
		{text: "/" + strings.Repeat("x", 8192), want: "/" + strings.Repeat("x", 8192)},
		{text: " /app/v1 ", want: "/app/v1"},
		{text: "/App", want: "/App"},
		{text: "/a..b/.well-known", want: "/a..b/.well-known"},
		{text: "/café", want: "/caf%C3%A9"},
		{text: "/caf%c3%a9", want: "/caf%C3%A9"},
		{text: "/%61pp", want: "/app"},
		{text: "/a%20b", want: "/a%20b"},
		{text: "/a:b@c;d=1,2", want: "/a:b@c;d=1,2"},
		{text: "", reason: "is blank", hint: hint},
		{text: "//", reason: "has `//`, which no request has after normalisation", hint: "write `/`"},
		{text: "/a//b", reason: "has `//`, which no request has after normalisation", hint: "write `/a/b`"},
		{text: "/a/../b", reason: "has the segment `..`, which no request has after normalisation", hint: "write the path without `..`"},
		{text: "/a/%2e%2e/b", reason: "has the segment `..`, which no request has after normalisation", hint: "write the path without `..`"},
		{text: "/.", reason: "has the segment `.`, which no request has after normalisation", hint: "write the path without `.`"},
		{text: "/a%2Fb", reason: "has `%2F`, which no request has after normalisation", hint: hint},
		{text: "/a%2fb", reason: "has `%2f`, which no request has after normalisation", hint: hint},
		{text: "/a%5cb", reason: "has `%5c`, which no request has after normalisation", hint: hint},
		{text: "/a%00", reason: "has `%00`, which no request has after normalisation", hint: hint},
		{text: "/a%", reason: "has a `%` that is not followed by two hexadecimal digits", hint: "write `%25` for a percent sign"},
		{text: "/a?b=c", reason: "has a '?': a path ends before it", hint: "write `/a`"},
		{text: "/a#b", reason: "has a '#': a path ends before it", hint: "write `/a`"},
		{text: "/a b", reason: "has a blank", hint: "write `%20` for a blank"},
		{text: "/<a>", reason: "the character '<' cannot stand in a path", hint: "write `%3C` for it"},
		{text: `/a\b`, reason: `the character '\\' cannot stand in a path`, hint: hint},
		{text: "http://a.example/app/", reason: "is a URL, not a path", hint: "write `/app/`"},
		{text: "http://a.example/b://c", reason: "is a URL, not a path", hint: hint},
	})
	read(t, path, []reading{{text: "/a/", want: "/a/"}})
}

func TestRegex(t *testing.T) {
	const simpler = "write a simpler pattern, with smaller repetitions"
	read(t, regex, []reading{
		{text: "/v[0-9]+/.*", want: "/v[0-9]+/.*"},
		{text: `/\x{ff}\x{00fc}\377\\x{100}ü`, want: `/\x{ff}\x{00fc}\377\\x{100}ü`},
		{text: `/a\x{10FFFF}`, reason: "`\\x{10FFFF}` is no byte, and the proxy compares byte by byte", hint: "write the character itself, or its bytes as a URL has them (`%C3%BC`)"},
		{text: `\\\x{0100}`, reason: "`\\x{0100}` is no byte, and the proxy compares byte by byte", hint: "write the character itself, or its bytes as a URL has them (`%C3%BC`)"},
		{text: `[\400]`, reason: "`\\400` is no byte, and the proxy compares byte by byte", hint: "write the character itself, or its bytes as a URL has them (`%C3%BC`)"},
		{text: `/\p{Greek}\pL\PN\p{^Lu}\p{Any}\\p{Letter}\Q\p{Letter}\x{100}\E`, want: `/\p{Greek}\pL\PN\p{^Lu}\p{Any}\\p{Letter}\Q\p{Letter}\x{100}\E`},
		{text: `/\pL\p{Letter}`, reason: "the proxy does not know `\\p{Letter}`", hint: "write a class such as `[A-Za-z]` or `\\pL`"},
		{text: `\P{^greek}`, reason: "the proxy does not know `\\P{^greek}`", hint: "write a class such as `[A-Za-z]` or `\\pL`"},
		{text: `[é-ü]`, want: `[é-ü]`},
		{text: `[\xff-Ā]`, reason: "has a range of characters that is none of bytes, and the proxy compares byte by byte", hint: "write the character itself, or its bytes as a URL has them (`%C3%BC`)"},
		{text: `[^a]{900}`, reason: "is too expensive to run on every request", hint: simpler},
		{text: " ", reason: "is blank", hint: "write a pattern such as `/v[0-9]+/.*`"},
		{text: "(?=a)", reason: "is not an RE2 pattern: invalid or unsupported Perl syntax: `(?=`", hint: "write an RE2 pattern such as `/v[0-9]+/.*`"},
		{text: "(a{30}b{30}){30}", reason: "is too expensive to run on every request", hint: simpler},
		{text: strings.Repeat("a", 1025), reason: "is 1025 characters long", hint: "write a pattern of at most 1024 characters"},
	})
}

// What is too large is known before it is compiled, which can take a second and more.
func TestLargePatternsAreNotCompiled(t *testing.T) {
	for _, pattern := range []string{strings.Repeat(`(a?){1000}`, 100), strings.Repeat(`x{1000}`, 140), strings.Repeat(`(a*){500}`, 110), strings.Repeat(`\pL{500}`, 120), "[^a]{900}"} {
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		require.NoError(t, err)
		require.Greater(t, atLeast(parsed, 800), 800, pattern)
	}
	for _, pattern := range []string{`/v[0-9]+/.*`, `(a?){200}`, `x{800}`, `(a{0,9}|b){20}`, `a{3,}x{0}()`} {
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		require.NoError(t, err)
		program, err := syntax.Compile(parsed.Simplify())
		require.NoError(t, err)
		require.LessOrEqual(t, atLeast(parsed, 800), programSize(program), pattern)
	}
}

func TestLink(t *testing.T) {
	const hint = "write a URL such as `https://www.example.com`"
	read(t, link, []reading{
		{text: "https://www.example.com/x?y=z", want: "https://www.example.com/x?y=z"},
		{text: "http://[2001:db8::1]:8080/", want: "http://[2001:db8::1]:8080/"},
		{text: "https://Bücher.example:81/ü?q=ä b#ö", want: "https://xn--bcher-kva.example:81/%C3%BC?q=%C3%A4%20b#%C3%B6"},
		{text: "https://a.example/x?q=a b", want: "https://a.example/x?q=a%20b"},
		{text: "https://a.example:70000", reason: "its port is out of range", hint: hint},
		{text: "/x", reason: "is not an http or https URL", hint: hint},
		{text: "javascript:alert(1)", reason: "is not an http or https URL", hint: hint},
		{text: "https://user:pw@example.com", reason: "has credentials in it", hint: hint},
		{text: "https://a..b/", reason: "its host has an empty part between two dots", hint: hint},
	})
}
