package labels

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
)

// reading is one row of a table test: a text and either its value or the refusal.
type reading struct {
	text   string
	want   any
	reason string // of a refusal, with its hint
	hint   string
}

// read runs the rows against a kind of value.
func read[T any](t *testing.T, k kind[T], rows []reading) {
	t.Helper()
	for _, r := range rows {
		t.Run(fmt.Sprintf("%s/%q", k.doc, r.text), func(t *testing.T) {
			got, err := k.read(r.text)
			if r.reason == "" {
				require.NoError(t, err)
				require.Equal(t, r.want, any(got))
				return
			}
			require.Error(t, err)
			n := noteOf(err)
			require.Equal(t, r.reason, n.reason)
			require.Equal(t, r.hint, n.hint)
		})
	}
}

func TestBool(t *testing.T) {
	const reason = "is neither true nor false"
	read(t, boolean, []reading{
		{text: "true", want: true},
		{text: "1", want: true},
		{text: "yes", want: true},
		{text: "false", want: false},
		{text: "0", want: false},
		{text: "no", want: false},
		{text: " true ", want: true},
		{text: "True", reason: reason, hint: "write `true`"},
		{text: "NO", reason: reason, hint: "write `no`"},
		{text: "on", reason: reason, hint: "write `true`"},
		{text: "off", reason: reason, hint: "write `false`"},
		{text: "ture", reason: reason, hint: "write `true`"},
		{text: "2", reason: reason, hint: "write `true` or `false`"},
		{text: " ", reason: reason, hint: "write `true` or `false`"},
	})
}

func TestDuration(t *testing.T) {
	read(t, duration, []reading{
		{text: "5s", want: 5 * time.Second},
		{text: "1h30m", want: 90 * time.Minute},
		{text: "1.5s", want: 1500 * time.Millisecond},
		{text: "30", want: 30 * time.Second},
		{text: "0.25", want: 250 * time.Millisecond},
		{text: "0", want: time.Duration(0)},
		{text: "0s", want: time.Duration(0)},
		{text: "-5s", reason: "is negative", hint: "write `5s`"},
		{text: "-5", reason: "is negative", hint: "write `5`"},
		{text: "--5", reason: "is not a duration", hint: durationHint},
		{text: "1us", reason: "is shorter than a millisecond", hint: "write at least `1ms`"},
		{text: "0.0001", reason: "is shorter than a millisecond", hint: "write at least `1ms`"},
		{text: "9000h", reason: "is too long", hint: "write at most `8760h`"},
		{text: "99999999999999999999", reason: "is too long", hint: "write at most `8760h`"},
		{text: "99999999999999h", reason: "is not a duration", hint: durationHint},
		{text: "5 seconds", reason: "is not a duration", hint: "write `5s`"},
		{text: "10 min", reason: "is not a duration", hint: "write `10m`"},
		{text: "2d", reason: "is not a duration", hint: "write `48h`"},
		{text: "soon", reason: "is not a duration", hint: durationHint},
		{text: "1e3", reason: "is not a duration", hint: durationHint},
		{text: "NaN", reason: "is not a duration", hint: durationHint},
		{text: "", reason: "is blank", hint: durationHint},
	})
	read(t, positive, []reading{
		{text: "1ms", want: time.Millisecond},
		{text: "0", reason: "may not be 0", hint: "write at least `1ms`"},
	})
	read(t, patience, []reading{
		{text: "500ms", want: 500 * time.Millisecond},
		{text: "25h", reason: "is too long", hint: "write at most `24h`"},
	})
}

func TestNumbers(t *testing.T) {
	const form = "write a whole number from 1 to 65535"
	read(t, port, []reading{
		{text: "1", want: uint32(1)},
		{text: " 8080 ", want: uint32(8080)},
		{text: "65535", want: uint32(65535)},
		{text: "0", reason: "is out of range", hint: form},
		{text: "65536", reason: "is out of range", hint: form},
		{text: "99999999999999999999999", reason: "is out of range", hint: form},
		{text: "8080/tcp", reason: "is not a whole number", hint: "write `8080`"},
		{text: "80.5", reason: "is not a whole number", hint: "write `80`"},
		{text: "-80", reason: "is not a whole number", hint: form},
		{text: "http", reason: "is not a whole number", hint: form},
		{text: " ", reason: "is blank", hint: form},
	})
	read(t, count, []reading{
		{text: "0", want: uint32(0)},
		{text: "4294967296", reason: "is out of range", hint: "write a whole number, 0 or more"},
	})
	read(t, integer, []reading{
		{text: "-5", want: int32(-5)},
		{text: "high", reason: "is not a whole number between -2147483648 and 2147483647", hint: "write a whole number such as `10` or `-5`"},
	})
}

func TestSize(t *testing.T) {
	const hint = "write a size such as `512KiB`, `32m` or `1GB`"
	read(t, size, []reading{
		{text: "512KiB", want: uint64(512 << 10)},
		{text: "32m", want: uint64(32 << 20)},
		{text: "1GB", want: uint64(1e9)},
		{text: "1000", want: uint64(1000)},
		{text: "7b", want: uint64(7)},
		{text: "m", reason: "is not a size", hint: hint},
		{text: "1.5GB", reason: "is not a size", hint: hint},
		{text: "-1", reason: "is not a size", hint: hint},
		{text: "9999999999GiB", reason: "is too large", hint: hint},
		{text: "99999999999999999999", reason: "is too large", hint: hint},
	})
}

func TestRate(t *testing.T) {
	const hint = "write a rate such as `100/s`, `600/m` or `100/s,burst=20`"
	read(t, rate, []reading{
		{text: "100/s", want: Rate{Requests: 100, Per: time.Second}},
		{text: "600/m", want: Rate{Requests: 600, Per: time.Minute}},
		{text: "100/s, burst=20", want: Rate{Requests: 100, Per: time.Second, Burst: 20}},
		{text: "100", reason: "is not a rate per second (`/s`) or minute (`/m`)", hint: hint},
		{text: "100/h", reason: "is not a rate per second (`/s`) or minute (`/m`)", hint: hint},
		{text: "x/s", reason: `"x" is not a number of requests`, hint: hint},
		{text: "0/s", reason: `"0" is not a number of requests`, hint: hint},
		{text: "100/s,20", reason: `"20" is not a burst`, hint: hint},
		{text: "100/s,burst=", reason: `"burst=" is not a burst`, hint: hint},
	})
}

func TestPercent(t *testing.T) {
	const hint = "write a percentage such as `10` or `10%`"
	read(t, percent, []reading{
		{text: "10", want: 10.0},
		{text: "10%", want: 10.0},
		{text: "0.5%", want: 0.5},
		{text: "100", want: 100.0},
		{text: "101%", reason: "is more than 100 %", hint: "write at most `100%`"},
		{text: "-1", reason: "is not a percentage", hint: hint},
		{text: "%", reason: "is not a percentage", hint: hint},
		{text: "Inf", reason: "is not a percentage", hint: hint},
	})
}

func TestListsAndWords(t *testing.T) {
	read(t, list("list", method), []reading{
		{text: "GET", want: []string{"GET"}},
		{text: " GET , ,POST,", want: []string{"GET", "POST"}},
		{text: "GET,post", reason: `"post" methods are written in capitals`, hint: "write `POST`"},
		{text: "any", reason: `"any" methods are written in capitals`, hint: "leave the label out to take every method"},
		{text: " , ", reason: "is a list without entries", hint: "remove the label, or name something"},
	})
	read(t, word("task", "vip", "host"), []reading{
		{text: "vip", want: "vip"},
		{text: "VIP", reason: "is none of `task`, `vip`, `host`", hint: "did you mean `vip`?"},
		{text: "tasks", reason: "is none of `task`, `vip`, `host`", hint: "did you mean `task`?"},
		{text: "dnsrr", reason: "is none of `task`, `vip`, `host`", hint: "write one of `task`, `vip`, `host`"},
	})
}

func TestNames(t *testing.T) {
	read(t, match, []reading{
		{text: "a b", want: Matcher{Exact: "a b"}},
		{text: "*", want: Matcher{Present: true}},
		{text: "!*", want: Matcher{Negated: true, Present: true}},
		{text: "!~v[12]", want: Matcher{Negated: true, Regex: "v[12]"}},
		{text: "!", reason: "says nothing to compare with", hint: "write a value, `*` or `~regex`"},
		{text: "~(", reason: "is not an RE2 pattern: missing closing ): `(`", hint: "write an RE2 pattern such as `/v[0-9]+/.*`"},
	})
	read(t, selector("ip", "header"), []reading{
		{text: "ip", want: Selector{What: "ip"}},
		{text: "header:X-Tenant", want: Selector{"header", "X-Tenant"}},
		{text: "header:", reason: `"": is blank`, hint: "write a name such as `X-Tenant`"},
		{text: "cookie:a", reason: "is none of `ip`, `header:<name>`", hint: "write one of `ip`, `header:<name>`"},
	})
	read(t, shapedHeader, []reading{
		{text: "X-Frame-Options", want: "X-Frame-Options"},
		{text: ":path", reason: "pseudo-headers cannot be changed", hint: "name an ordinary header"},
		{text: "Host", reason: "the Host header cannot be changed here", hint: "use `rewrite_host`"},
		{text: "X-Envoy-Foo", reason: "x-envoy-foo is reserved for the proxy", hint: "name another header"},
		{text: "x-waggle-reason", reason: "x-waggle-reason is reserved for the proxy", hint: "name another header"},
		{text: "X-Forwarded-Client-Cert", reason: "x-forwarded-client-cert is reserved for the proxy", hint: "name another header"},
		{text: "Transfer-Encoding", reason: "transfer-encoding is between two ends of one connection, and not passed on", hint: "leave it to the proxy and the task"},
		{text: strings.Repeat("x", 257), reason: "is 257 bytes long, and at most 256 are taken", hint: "write a shorter name"},
		{text: "a b", reason: "the character ' ' cannot stand in a name", hint: "write a name of letters, digits and hyphens"},
	})
	read(t, headerValue, []reading{
		{text: " 100% ü\t\"x\" ", want: "100% ü\t\"x\""},
		{text: "  ", reason: "is blank", hint: "give it a value, or remove the header by `remove_request_headers` or `remove_response_headers`"},
		{text: "a\x1bb", reason: "the character '\\x1b' cannot stand in a header", hint: "write it without control characters"},
		{text: strings.Repeat("x", 8193), reason: "is 8193 bytes long, and at most 8192 can stand in a header", hint: "write a shorter value"},
	})
	read(t, collectionName, []reading{
		{text: "dev", want: "dev"},
		{text: "eu-1.prod_a", want: "eu-1.prod_a"},
		{text: "Dev", reason: "is not the name of a collection", hint: "write a name of lower-case letters, digits, `.`, `_` and `-`"},
		{text: "-dev", reason: "is not the name of a collection", hint: "write a name of lower-case letters, digits, `.`, `_` and `-`"},
	})
	read(t, authService, []reading{
		{text: "auth", want: AuthService{Service: "auth"}},
		{text: "auth:9000/check", want: AuthService{Service: "auth", Port: 9000, Path: "/check"}},
		{text: "grpc://auth:9000", want: AuthService{Service: "auth", Port: 9000, GRPC: true}},
		{text: "grpc://auth", reason: "a gRPC service needs a port and takes no path", hint: "write `service[:port][/path]` or `grpc://service:port`"},
		{text: "auth:no", reason: `"no" is not a port`, hint: "write `service[:port][/path]` or `grpc://service:port`"},
		{text: "https://auth/", reason: `"" is not a port`, hint: "write `service[:port][/path]` or `grpc://service:port`"},
	})
	read(t, redirects, []reading{
		{text: "http://a.example.com,https://a.example.com;", want: []Redirection{{"a.example.com", "https://a.example.com"}}},
		{text: "Old.example.com,https://new.example.com/x ; b.example,http://c.example", want: []Redirection{
			{"old.example.com", "https://new.example.com/x"}, {"b.example", "http://c.example"}}},
		{text: "a.example.com", reason: `"a.example.com" has no target after a comma`, hint: "write `http://old.example.com,https://new.example.com`"},
		{text: "ftp://a.example.com,http://b.example", reason: `"ftp://a.example.com" is not an http or https URL`, hint: "write `http://old.example.com,https://new.example.com`"},
		{text: "a.example.com,b.example", reason: `"b.example" is not an http or https URL`, hint: "write a URL such as `https://www.example.com`"},
		{text: ";", reason: "redirects nothing", hint: "write `http://old.example.com,https://new.example.com`"},
	})
	read(t, pair("`2s,10%`", true, positive, percent), []reading{
		{text: "2s, 10%", want: two[time.Duration, float64]{2 * time.Second, 10, true}},
		{text: "2s", reason: "has no second part after a comma", hint: "write `2s,10%`"},
		{text: "2s,x", reason: `"x" is not a percentage`, hint: "write a percentage such as `10` or `10%`"},
	})
	read(t, rewriteRegex, []reading{
		{text: `^/a{1,2}/(.*),/\1`, want: Rewrite{"^/a{1,2}/(.*)", `/\1`}},
		{text: `/\\,\0`, want: Rewrite{`/\\`, `\0`}},
		{text: `/(a),\2`, reason: "its replacement names group 2, and the pattern has 1", hint: "put the group into parentheses"},
		{text: `/a,\n`, reason: "has a backslash before something else than the number of a group", hint: "write `\\1` for the first group, `\\\\` for a backslash"},
		{text: "^/a", reason: "has no comma before a replacement", hint: "write `pattern,replacement`"},
	})
}

func TestNearest(t *testing.T) {
	for misspelt, want := range map[string]string{
		"contextroot":     "context_root",
		"context-root":    "context_root",
		"Hosts":           "hosts",
		"host":            "hosts",
		"prot":            "port",
		"basic-auth":      "basic_auth",
		"idel_timeout":    "idle_timeout",
		"service-cluster": "service_cluster",
		"completely":      "",
	} {
		require.Equal(t, want, config.Nearest(misspelt, keyNames), misspelt)
	}
}
