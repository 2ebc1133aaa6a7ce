package translate

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
)

// One expression that Envoy refuses costs the whole route table: whatever labels take,
// in a path, a header or a query parameter, Envoy takes.
func TestEnvoyTakesEveryExpression(t *testing.T) {
	var patterns []string
	for _, names := range [][]string{
		slices.Sorted(maps.Keys(unicode.Scripts)), slices.Sorted(maps.Keys(unicode.Categories)), slices.Sorted(maps.Keys(unicode.CategoryAliases)),
		{"Any", "ASCII", "Assigned", "^Lu", "^Any", "greek", "lu"},
	} {
		for _, n := range names {
			patterns = append(patterns, `\p{`+n+`}`, `[\P{`+n+`}x]`)
		}
	}
	patterns = append(patterns, `\pl`, `\pL{1,20}`, `[^a]{390}`, `[^a]{900}`, `(\w+-){50}`, `.{700}`, `[\xff-Ā]`, `\x{ff}`, `\x{100}`, `\377`, `\400`, `(?<a>x)`, `(?P<a>x)`, `(?i)é|K|ſ`,
		`a**`, `x{1000}`, `\z`, `\07`, `\Qa.b`, `(|)*`, `[]a]`, `[a-]`, `[[:word:]]`, `{`, `a{,3}`, "a\tb", `\C`, `(?U)a+?`, `(?m)^$`, "\x7f")
	tokens := []string{`\p{Greek}`, `\pL`, `\PL`, `[a-z]`, `.`, `a`, `b`, `/`, `é`, `ž`, `(?i)`, `(`, `)`, `(`, `)`, `|`, `|`, `*`, `+`, `?`, `{2}`, `{2,9}`, `{40}`, `{0,5}`, `{1,100}`,
		`[^x]`, `\d`, `\W`, `^`, `$`, `\b`, `[\x00-\xff]`, `\xe9`, `[é-ü]`, `(?:`, `(?P<a>`, `*?`, `\Q`, `\E`, `(?s)`, `[[:alpha:]]`, `(a*|b?)*`, `(x|[0-9]+)?`, `[aeiou]`, `𝒳`, `[𝒳-𝒵]`}
	r := rand.New(rand.NewPCG(3, 1))
	for range 1200 {
		var b strings.Builder
		for range 1 + r.IntN(12) {
			b.WriteString(pick(r, tokens...))
		}
		patterns = append(patterns, b.String())
	}
	w := newWorld()
	for i, p := range patterns {
		w.service(fmt.Sprintf("s%d", i), map[string]string{
			"hosts": fmt.Sprintf("h%d.test", i), "port": "80",
			"path.hosts": fmt.Sprintf("h%d.test", i), "path.port": "80", "path.path_regex": p,
			"head.hosts": fmt.Sprintf("h%d.test", i), "head.port": "80", "head.match_header.X-A": "~" + p, "head.match_query.q": "!~" + p,
		})
	}
	many := func(n int) string { // methods are an expression, too
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("%c%022dX", 'A'+i%26, i*i))
		}
		return strings.Join(all, ",")
	}
	for _, n := range []int{1, 24, 32, 33, 400} {
		w.service(fmt.Sprintf("methods%d", n), map[string]string{"hosts": fmt.Sprintf("m%d.test", n), "port": "80", "methods": many(n), "retry_methods": many(n)})
	}
	b := w.build(t, testConfig())
	taken := 0
	for _, vh := range tableOf(b.Resources("dev")) {
		for _, route := range vh.Routes {
			if route.GetRoute() != nil && route.Match.GetSafeRegex() != nil {
				taken++
			}
		}
	}
	require.Greater(t, taken, 600, "too few expressions are taken")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoyBinary(t), "--mode", "validate", "-c", staticBootstrap(t, b, "dev"), "-l", "warning").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Whatever character a label holds, and however long it is, Envoy takes what becomes of it.
func TestEnvoyTakesEveryCharacter(t *testing.T) {
	w := newWorld()
	n := 0
	add := func(says map[string]string) {
		n++
		l := map[string]string{"hosts": fmt.Sprintf("h%d.test", n), "port": "80"}
		maps.Copy(l, says)
		w.service(fmt.Sprintf("s%d", n), l)
	}
	for _, c := range "!#$%&'*+-.^_`|~x" { // of header names
		add(map[string]string{"match_header.A" + string(c) + "b": "x"})
	}
	for c := range 0x80 {
		text := "a" + string(rune(c)) + "b"
		add(map[string]string{"match_query." + text: text, "match_header.X": text})
		add(map[string]string{"match_header.X": "~" + text})
		add(map[string]string{"path": "/" + text})
		add(map[string]string{"context_root": "/" + text, "context_root_rewrite": "true"})
		add(map[string]string{"redirect": "https://a.test/" + text + "?" + text + "#" + text})
		add(map[string]string{"redirects": fmt.Sprintf("r%d.test,https://a.test/%s", c, text)})
		add(map[string]string{"respond": "200," + text})
	}
	long := strings.Repeat("x", 60_000)
	for _, says := range []map[string]string{
		{"match_header." + long[:256]: long}, {"match_header." + long[:257]: "1"}, {"match_query." + long[:1024]: long}, {"match_query." + long[:1025]: "1"},
		{"path": "/" + long}, {"context_root": "/" + long}, {"redirect": "https://a.test/" + long}, {"redirect": "https://a.test/?" + long},
		{"respond": "200," + strings.Repeat("ü", 2048)}, {"redirect": "https://a_b.test/"}, {"redirect": "https://[fe80::1]/"}, {"redirect": "https://[fe80::1%25eth0]/"},
	} {
		add(says)
	}
	b := w.build(t, testConfig())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, envoyBinary(t), "--mode", "validate", "-c", staticBootstrap(t, b, "dev"), "-l", "warning").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
