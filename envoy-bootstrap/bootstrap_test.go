package bootstrap

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"
)

var update = flag.Bool("update", false, "write the golden files")

// accepted are sets of options that New takes, by the name of their golden file.
var accepted = map[string]Options{
	"plain":    {Collection: "dev"},
	"template": {Collection: "prod", NodeID: "prod/{{.Task.ID}}", Zone: "{{.Node.ID}}", XDSAddress: "tasks.edge_waggle:18000"},
	"laptop":   {Collection: "a.b_c-1", NodeID: "a.b_c-1/laptop", XDSAddress: "127.0.0.1:18000", AdminAddress: "localhost:0", MaxConnections: 7},
	"socket":   {Collection: "test", XDSAddress: "[::1]:18000", AdminAddress: "/run/envoy/admin.sock"},
	"tls":      {Collection: "dev", TLS: &TLS{Directory: "/etc/envoy/tls"}},
	"secrets":  {Collection: "dev", XDSAddress: "10.0.0.1:18000", TLS: swarmTLS},
}

// swarmTLS is how Swarm mounts it: secrets under names of their own, configs elsewhere.
var swarmTLS = &TLS{
	Directory: "/run/secrets", Cert: "waggle-dev.crt", Key: "waggle-dev.key", CA: "/etc/waggle/authority.crt",
	SDSDirectory: "/etc/envoy/", ServerName: "control.example.com",
}

func TestGolden(t *testing.T) {
	for name, o := range accepted {
		t.Run(name, func(t *testing.T) {
			b, err := New(o)
			require.NoError(t, err)
			require.NoError(t, b.ValidateAll())
			got, err := Marshal(b)
			require.NoError(t, err)
			again, err := Marshal(b)
			require.NoError(t, err)
			require.Equal(t, got, again)

			file := filepath.Join("testdata", name+".json")
			if *update {
				require.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(string(want), string(got)+"\n"))

			read := &bootstrapv3.Bootstrap{}
			require.NoError(t, protojson.Unmarshal(got, read))
			require.Empty(t, cmp.Diff(b, read, protocmp.Transform()), "the file says what the message says")
		})
	}
	files, err := filepath.Glob("testdata/*.json")
	require.NoError(t, err)
	require.Len(t, files, len(accepted), "a golden file without a case is left over")
}

// Swarm fills the file in as a Go template (template_driver: golang).
func TestTemplate(t *testing.T) {
	b, err := New(accepted["template"])
	require.NoError(t, err)
	raw, err := Marshal(b)
	require.NoError(t, err)
	tmpl, err := template.New("").Parse(string(raw))
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, tmpl.Execute(&out, map[string]any{"Task": map[string]string{"ID": "abc123"}, "Node": map[string]string{"ID": "n0de"}}))
	var file struct {
		Node struct {
			ID       string
			Locality struct{ Zone string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out.String()), &file))
	require.Equal(t, "prod/abc123", file.Node.ID)
	require.Equal(t, "n0de", file.Node.Locality.Zone)
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want string
	}{
		{"no collection", Options{}, "is not a collection name"},
		{"collection with slash", Options{Collection: "a/b"}, "is not a collection name"},
		{"collection in capitals", Options{Collection: "Dev"}, "is not a collection name"},
		{"TLS of nowhere", Options{Collection: "dev", TLS: &TLS{}}, `certificate "tls.crt" is not an absolute path`},
		{"TLS relative", Options{Collection: "dev", TLS: &TLS{Directory: "tls"}}, `certificate "tls/tls.crt" is not an absolute path`},
		{"TLS authority relative", Options{Collection: "dev", TLS: &TLS{Cert: "/a/x", Key: "/a/y"}}, `authority "ca.crt" is not an absolute path`},
		{"TLS in two directories", Options{Collection: "dev", TLS: &TLS{Directory: "/a", Key: "/b/tls.key"}}, "in different directories"},
		{"SDS files relative", Options{Collection: "dev", TLS: &TLS{Directory: "/a", SDSDirectory: "b"}}, `directory of the SDS files "b" is not an absolute path`},
		{"TLS with line break", Options{Collection: "dev", TLS: &TLS{Directory: "/a\nb"}}, "printable characters"},
		{"TLS to a wildcard", Options{Collection: "dev", TLS: &TLS{Directory: "/a", ServerName: "*.example.com"}}, "not a DNS name"},
		{"TLS to a rooted name", Options{Collection: "dev", TLS: &TLS{Directory: "/a", ServerName: "waggle."}}, "not a DNS name"},
		{"node of another collection", Options{Collection: "dev", NodeID: "prod/1"}, "does not name collection dev: write dev/<instance>"},
		{"node that begins alike", Options{Collection: "dev", NodeID: "dev2/1"}, "does not name collection dev"},
		{"node without instance", Options{Collection: "dev", NodeID: "dev/"}, "does not name collection dev"},
		{"node with quotes", Options{Collection: "dev", NodeID: `dev/{{env "X"}}`}, "without blanks, quotes and backslashes"},
		{"node with a line break", Options{Collection: "dev", NodeID: "dev/a\nb"}, "without blanks, quotes and backslashes"},
		{"node too long", Options{Collection: "dev", NodeID: "dev/" + strings.Repeat("x", 300)}, "at most 256"},
		{"zone with quotes", Options{Collection: "dev", Zone: `{{env "X"}}`}, "without blanks, quotes and backslashes"},
		{"control plane without port", Options{Collection: "dev", XDSAddress: "waggle"}, "write HOST:PORT"},
		{"control plane without host", Options{Collection: "dev", XDSAddress: ":18000"}, "write HOST:PORT"},
		{"control plane at port 0", Options{Collection: "dev", XDSAddress: "waggle:0"}, "0 is not the port"},
		{"control plane at a wild port", Options{Collection: "dev", XDSAddress: "waggle:70000"}, `"70000" is not a port`},
		{"control plane as URL", Options{Collection: "dev", XDSAddress: "http://waggle:18000"}, "write HOST:PORT"},
		{"control plane with blanks", Options{Collection: "dev", XDSAddress: "wag gle:18000"}, "neither a name nor an IP address"},
		{"admin socket of no text", Options{Collection: "dev", AdminAddress: "/\xff"}, "all of them printable"},
		{"admin for all", Options{Collection: "dev", AdminAddress: "0.0.0.0:9901"}, "is not loopback"},
		{"admin by name", Options{Collection: "dev", AdminAddress: "envoy:9901"}, "is not loopback"},
		{"admin without host", Options{Collection: "dev", AdminAddress: ":9901"}, "write HOST:PORT"},
		{"admin socket relative", Options{Collection: "dev", AdminAddress: "run/admin.sock"}, "write HOST:PORT"},
		{"admin socket too long", Options{Collection: "dev", AdminAddress: "/" + strings.Repeat("x", 108)}, "at most 107 bytes"},
		{"connections", Options{Collection: "dev", MaxConnections: 1 << 40}, "more than any machine has"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := New(tt.o)
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, b)
		})
	}
}

func FuzzNew(f *testing.F) {
	for _, o := range accepted {
		tls := TLS{}
		if o.TLS != nil {
			tls = *o.TLS
		}
		f.Add(o.Collection, o.NodeID, o.XDSAddress, o.AdminAddress, tls.Directory, tls.Cert, tls.ServerName)
	}
	f.Fuzz(func(t *testing.T, collection, node, xds, admin, directory, cert, server string) {
		o := Options{Collection: collection, NodeID: node, XDSAddress: xds, AdminAddress: admin}
		if directory != "" {
			o.TLS = &TLS{Directory: directory, Cert: cert, ServerName: server}
		}
		b, err := New(o)
		if err != nil {
			return
		}
		if o.TLS != nil {
			_, err := SDSFiles(*o.TLS)
			require.NoError(t, err)
		}
		raw, err := Marshal(b)
		require.NoError(t, err)
		require.NoError(t, protojson.Unmarshal(raw, &bootstrapv3.Bootstrap{}))
	})
}
