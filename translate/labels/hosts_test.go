package labels

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHosts(t *testing.T) {
	const example = "write a host such as `app.example.com`"
	for _, c := range []struct {
		text  string
		want  []string
		notes []note
	}{
		{text: "app.example.com", want: []string{"app.example.com"}},
		{text: " b.example ,, a.example,", want: []string{"b.example", "a.example"}},
		{text: "App.Example.COM.", want: []string{"app.example.com"}},
		{text: "a.example,A.example.,a.example", want: []string{"a.example"}},
		{text: "*", want: []string{"*"}},
		{text: "*.Example.com", want: []string{"*.example.com"}},
		{text: "Bücher.example", want: []string{"xn--bcher-kva.example"}},
		{text: "*.BÜCHER.example", want: []string{"*.xn--bcher-kva.example"}},
		{text: "XN--bcher-KVA.example", want: []string{"xn--bcher-kva.example"}},
		{text: "straße.example", want: []string{"xn--strae-oqa.example"}},
		{text: "localhost", want: []string{"localhost"}},
		{text: "my_app.example", want: []string{"my_app.example"}},
		{text: "10.0.0.1", want: []string{"10.0.0.1"}},
		{text: "r3---sn.example", want: []string{"r3---sn.example"}},
		{text: "a.example:8080", want: []string{"a.example"}, notes: []note{{Warning, "a.example:8080",
			"a host takes requests whatever the port in their Host header is; the port is dropped", "write `a.example`"}}},
		{text: "good.example,*bad", want: []string{"good.example"}, notes: []note{{Error, "*bad", "has a wildcard that is not its whole first part", "write `*` or `*.example.com`"}}},
		{text: "a.*.b.example", notes: []note{{Error, "a.*.b.example", "has a wildcard that is not its whole first part", "write `*.b.example`"}}},
		{text: "*foo.example", notes: []note{{Error, "*foo.example", "has a wildcard that is not its whole first part", "write `*.example`"}}},
		{text: "*.*", notes: []note{{Error, "*.*", "has a wildcard that is not its whole first part", "write `*` or `*.example.com`"}}},
		{text: "*.", notes: []note{{Error, "*.", "has no name", example}}},
		{text: "https://a.example/x", notes: []note{{Error, "https://a.example/x", "is a URL, not a host", "write `a.example`"}}},
		{text: "a.example/x", notes: []note{{Error, "a.example/x", "has a path", "write `a.example`; the path belongs in `context_root`"}}},
		{text: "a.example:http", notes: []note{{Error, "a.example:http", `"http" is not a port`, "write `a.example`"}}},
		{text: "[::1]:80", notes: []note{{Error, "[::1]:80", "is an IPv6 address", "write a host name or an IPv4 address"}}},
		{text: "a..example", notes: []note{{Error, "a..example", "has an empty part between two dots", example}}},
		{text: "-a.example", notes: []note{{Error, "-a.example", `"-a" begins or ends with a hyphen`, example}}},
		{text: "a b.example", notes: []note{{Error, "a b.example", `the character ' ' cannot stand in a host`, example}}},
		{text: "xn--a.example", notes: []note{{Error, "xn--a.example", "is not a valid internationalised name", example}}},
		{text: strings.Repeat("a", 64) + ".example", notes: []note{{Error, strings.Repeat("a", 64) + ".example",
			`"` + strings.Repeat("a", 64) + `" is longer than 63 characters`, "write a shorter name"}}},
		{text: ",", notes: []note{{Error, "", "names no host", example}}},
	} {
		t.Run(c.text, func(t *testing.T) {
			got := readHosts(c.text)
			require.Equal(t, c.want, got.hosts)
			require.Equal(t, c.notes, got.notes)
		})
	}
	long := strings.Repeat("a.", 130) + "example"
	require.Equal(t, "is longer than 253 characters", readHosts(long).notes[0].reason)
}

func TestOneHost(t *testing.T) {
	read(t, host, []reading{
		{text: "A.example.", want: "a.example"},
		{text: "a.example:80", reason: "has a port", hint: "write `a.example`"},
		{text: "*.example", reason: "has a wildcard", hint: "write one exact host"},
	})
}

func TestAddressRange(t *testing.T) {
	read(t, addressRange, []reading{
		{text: "10.1.2.3/8", want: netip.MustParsePrefix("10.0.0.0/8")},
		{text: "192.0.2.1", want: netip.MustParsePrefix("192.0.2.1/32")},
		{text: "2001:db8::/32", want: netip.MustParsePrefix("2001:db8::/32")},
		{text: "10.0.0.0/33", reason: "is not an address range", hint: "write a prefix length from 0 to 32 (IPv6: 128) after the slash"},
		{text: "ten", reason: "is not an address range", hint: "write an address range such as `10.0.0.0/8`"},
	})
}
