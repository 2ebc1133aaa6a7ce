package labels

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// labelsOf reads a fuzzer's text as labels: one "key=value" a line. Half of the
// lines stand under a prefix, so that the fuzzer need not find it.
func labelsOf(text string) map[string]string {
	labels := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		if i%2 == 0 {
			key = prefixes[i/2%2] + "." + key
		}
		labels[key] = strings.ReplaceAll(value, `\n`, "\n")
	}
	return labels
}

const seed = "hosts=a.example,*.b\nlb.api.hosts=b.example\ncontext_root=/a\nlb.api.port=80\nmatch_header.X-A=1\ncom.docker.lb.port=x"

func FuzzMerge(f *testing.F) {
	f.Add(seed)
	f.Add("a.b.c.hosts=x\nlb.match_header.=x\n.hosts=y\nlb.match_header.x-A=z\n")
	f.Fuzz(func(t *testing.T, text string) {
		labels := labelsOf(text)
		set := Merge(prefixes, "app", labels)
		require.Empty(t, cmp.Diff(set, Merge(prefixes, "app", labels)), "the same labels give the same set")
		require.LessOrEqual(t, len(set.Routes), maxRoutes)
		for route, keys := range set.Routes {
			for canonical, v := range keys {
				k, name, known := splitKey(canonical)
				require.True(t, known, canonical)
				require.Equal(t, canonical, k.canonical(name))
				require.NotEmpty(t, v.Text)
				require.False(t, route != "" && k.serviceWide)
				got, ok := set.Lookup(route, canonical)
				require.True(t, ok)
				require.Equal(t, v, got)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(seed, "retries=3\nssl_only=true")
	f.Add("hosts=a.example\nlb.weight=x\nfault_delay=2s,10%\nlb.redirects=a,http://b;\nrate_limit=1/s", "set_response_header.X-A=1\nx")
	f.Fuzz(func(t *testing.T, text, operator string) {
		m := map[string]string{}
		for line := range strings.SplitSeq(operator, "\n") {
			key, value, _ := strings.Cut(line, "=")
			m[key] = value
		}
		CheckOperator("defaults", m)
		labels := labelsOf(text)
		for _, opts := range []Options{{}, {Collection: "dev", Defaults: m}, {Collection: "dev", Required: m}} {
			s := parse(t, labels, opts)
			require.Empty(t, cmp.Diff(s, parse(t, labels, opts), cmp.AllowUnexported(Route{})), "the same labels give the same service")
			_, err := json.Marshal(s)
			require.NoError(t, err)
			for _, r := range s.Routes {
				for _, h := range r.Hosts {
					again, portless, err := normaliseHost(h, true)
					require.NoError(t, err)
					require.False(t, portless)
					require.Equal(t, h, again)
				}
				again, err := pathPrefix.read(r.ContextRoot)
				require.NoError(t, err)
				require.Equal(t, r.ContextRoot, again)
			}
		}
	})
}

// Whatever else a service says, a guard that cannot be built closes its route,
// and a match that cannot be built breaks it.
func FuzzBadKeysAreNeverLost(f *testing.F) {
	f.Add(seed, "", "x", 0)
	f.Add(seed, "api", "\x00", 40)
	f.Fuzz(func(t *testing.T, text, route, value string, which int) {
		if value == "" || route != "" && !validRoute(route) {
			return
		}
		k := keys[uint(which)%uint(len(keys))]
		if k.class != Guard && k.class != Match || k.serviceWide || k.takes != unnamed {
			return
		}
		if _, ok := k.value.read(value, nil); ok && (k.value.built || k.value.same(value, k.standard)) {
			return // a good value
		}
		label := prefixes[0] + "." + k.name
		if route != "" {
			label = prefixes[0] + "." + route + "." + k.name
		}
		labels := labelsOf(text)
		labels[label] = value
		s := parse(t, labels, Options{})
		if s.Broken {
			return // answers 503 as a whole
		}
		for _, r := range s.Routes {
			if r.Name == route {
				require.True(t, k.class != Guard || r.Closed, "%s=%q is open", label, value)
				require.True(t, k.class != Match || r.Broken, "%s=%q is served", label, value)
				return
			}
		}
		t.Fatalf("%s=%q is lost", label, value)
	})
}

func FuzzHost(f *testing.F) {
	for _, h := range []string{"a.example", "*.Bücher.example:80", "xn--a", "a..b", "*", "*.*", "[::1]:1", "http://a/b", "a。b", "ａ．ｂ", "‍.x"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, _, err := normaliseHost(text, true)
		if err != nil {
			require.NotEmpty(t, noteOf(err).reason)
			require.NotEmpty(t, noteOf(err).hint)
			return
		}
		require.LessOrEqual(t, len(host), 253)
		require.True(t, ascii(host))
		require.Equal(t, strings.ToLower(host), host)
		require.NotContains(t, strings.TrimPrefix(host, "*"), "*")
		require.False(t, strings.HasSuffix(host, "."))
		again, portless, err := normaliseHost(host, true)
		require.NoError(t, err)
		require.False(t, portless)
		require.Equal(t, host, again)
	})
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/", "/app/", "a//b", "/%2f", "/%2e%2e", "/é", "/a?b", "http://a/b://c", "/%", "/%25"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := pathPrefix.read(text)
		if err != nil {
			require.NotEmpty(t, noteOf(err).reason)
			require.NotEmpty(t, noteOf(err).hint)
			return
		}
		require.True(t, strings.HasPrefix(p, "/"))
		require.True(t, p == "/" || !strings.HasSuffix(p, "/"))
		require.True(t, ascii(p))
		require.False(t, strings.Contains(p, "//") || strings.ContainsAny(p, "?# \\"))
		for segment := range strings.SplitSeq(p, "/") {
			require.NotContains(t, []string{".", ".."}, segment)
		}
		again, err := pathPrefix.read(p)
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

// What a header or query parameter must be: a pattern that is taken is one that
// the proxies' RE2 can read, byte by byte, and no larger than it may be.
func FuzzMatch(f *testing.F) {
	for _, m := range []string{"1", "!1", "*", "!*", "~[0-9]+", "!~x", "~(", `~\p{Letter}`, `~\pL{1,9}`, `~[\xff-Ā]`, `~\Q\x{100}`, "~(?i)é{3}", "!", "!!", "~(a{30}){30}"} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := match.read(text)
		if err != nil {
			require.NotEmpty(t, noteOf(err).reason)
			require.NotEmpty(t, noteOf(err).hint)
			return
		}
		said := 0
		for _, is := range []bool{m.Present, m.Regex != "", m.Exact != ""} {
			if is {
				said++
			}
		}
		require.Equal(t, 1, said, "%+v", m)
		if m.Regex == "" {
			return
		}
		require.LessOrEqual(t, len(m.Regex), 1024)
		_, err = regexp.Compile(BytesAsText(m.Regex))
		require.NoError(t, err)
		again, err := regex.read(m.Regex)
		require.NoError(t, err)
		require.Equal(t, m.Regex, again)
	})
}

// A URL that is taken is written as a Location header has it.
func FuzzLink(f *testing.F) {
	for _, l := range []string{"https://a.example", "http://Bücher.example:81/ü?q=a b#ö", "https://[::1]:81/", "https://a:b@c", "https://a..b", "https://a:0", "//a", "https://a/%zz", "https://a?b=\"", "https://a/x#"} {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := link.read(text)
		if err != nil {
			require.NotEmpty(t, noteOf(err).reason)
			require.NotEmpty(t, noteOf(err).hint)
			return
		}
		u, err := url.Parse(l)
		require.NoError(t, err)
		require.Contains(t, []string{"http", "https"}, u.Scheme)
		require.NotEmpty(t, u.Hostname())
		sent := u.Scheme + "://" + u.Host + u.EscapedPath() + "?" + u.RawQuery + "#" + u.EscapedFragment()
		require.False(t, strings.ContainsFunc(sent, func(r rune) bool { return r <= ' ' || r >= 0x7f }), "%q", sent)
		again, err := link.read(l)
		require.NoError(t, err)
		require.Equal(t, l, again)
	})
}
