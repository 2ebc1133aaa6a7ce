package interlock_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/config/convert/interlock"
	"github.com/waggle-lb/waggle/translate/labels"
)

var update = flag.Bool("update", false, "write what the golden cases and the docs want")

// TestGolden reads every testdata/*.toml. A case is a file; -update writes its
// .golden: the waggle.yml, then what is said about it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			doc, cerr := interlock.Convert(data, config.Nearest)
			_, notices, lerr := config.Load(file, nil, labels.CheckOperator)

			var got strings.Builder
			if cerr == nil {
				got.Write(doc.YAML)
				sameAsWritten(t, data, doc.YAML)
			}
			for _, n := range notices {
				fmt.Fprintf(&got, "notice %s\n", n)
			}
			if lerr != nil {
				fmt.Fprintf(&got, "error %s\n", strings.ReplaceAll(lerr.Error(), "\n", "\nerror "))
			}
			require.Equal(t, strings.HasPrefix(filepath.Base(file), "bad-"), lerr != nil)
			golden := strings.TrimSuffix(file, ".toml") + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")), "(-want +got; -update writes it)")
		})
	}
}

// sameAsWritten checks that the waggle.yml of a config.toml says what the config.toml does.
func sameAsWritten(t *testing.T, toml, yaml []byte) {
	t.Helper()
	env := []string{"WAGGLE_XDS_INSECURE=true"}
	fromTOML, _, tomlErr := config.ParseInterlock("config.toml", toml, env, labels.CheckOperator)
	fromYAML, _, yamlErr := config.Parse(yaml, env, labels.CheckOperator)
	require.Equal(t, tomlErr == nil, yamlErr == nil, "%v / %v", tomlErr, yamlErr)
	require.Empty(t, cmp.Diff(fromTOML, fromYAML))
}

// The channel and everything outside the collections are still the environment's.
func TestEnvironmentOverrides(t *testing.T) {
	c, notices, err := config.Load("testdata/three-clusters.toml", []string{
		"WAGGLE_XDS_ADDRESS=127.0.0.1:18999", "WAGGLE_XDS_TLS_CA=/ca", "WAGGLE_XDS_TLS_CERT=/cert", "WAGGLE_XDS_TLS_KEY=/key",
		"WAGGLE_SWARM_HOST=tcp://proxy:2375",
	})
	require.NoError(t, err)
	require.Equal(t, config.XDS{Address: "127.0.0.1:18999", TLS: &config.TLS{CA: "/ca", Cert: "/cert", Key: "/key"}}, c.XDS)
	require.Equal(t, "tcp://proxy:2375", c.Swarm.Host)
	require.NoError(t, c.Servable())
	for _, n := range notices {
		require.NotContains(t, n.Text, "channel")
	}
	_, notices, err = config.Load("testdata/three-clusters.toml", nil)
	require.NoError(t, err)
	require.Contains(t, notices[len(notices)-1].Text+notices[len(notices)-4].Text, "channel", "without TLS the file's reader is told where to say it")
}

// Every option of the table is read under any capitals, and every option has its row in the docs.
func TestEveryOption(t *testing.T) {
	for _, s := range interlock.Sections {
		for _, name := range s.Names() {
			head := map[string]string{
				"the top level":              "",
				"[Extensions.<name>]":        "[Extensions.default]\n",
				"[Extensions.<name>.Config]": "[Extensions.default.Config]\n",
			}[s.Place]
			for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
				doc, err := interlock.Convert([]byte(head+spelling+" = \"12\"\n"), config.Nearest)
				require.NoError(t, err, name)
				for _, n := range doc.Notices {
					require.NotContains(t, n.Text, "unknown", name)
				}
			}
		}
	}
}

func FuzzConvert(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	for _, s := range []string{
		"a = [[[[[[[[[1]]]]]]]]]", "[Extensions.a]\nProxyLabels = {\"<<\" = \"x\", \"\u0000\" = \"y\"}", "Extensions = 1",
		"[Extensions.a]\nConfig = 3\n[Extensions.b]\nServiceCluster = \"b\"\nNetworks = [1, 2.5, true]", "[Extensions.a.Config]\nSendTimeout = 1e400",
		"[Extensions.a]\nProxyReplicas = 1979-05-27T07:32:00Z\nProxyConstraints = [\"a\\tb\"]", "[Extensions.a.Config]\nClientMaxBodySize = \"999999999999g\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := interlock.Convert(data, config.Nearest)
		if err != nil {
			return
		}
		// It loads, unless it names an address or ports that nothing can listen on:
		// the errors are then about the lines of the config.toml.
		_, _, err = config.ParseInterlock("config.toml", data, nil, labels.CheckOperator)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				require.Regexp(t, `config\.toml(:[0-9]+)?: (xds\.address|swarm\.host|collections\..*\.https?_port|collections\..*\.defaults)`, line, "%q\n%s", data, doc.YAML)
			}
		}
		sameAsWritten(t, data, doc.YAML)
	})
}

// TestDocs: docs/migrating-from-interlock.md ends with the table of options.
func TestDocs(t *testing.T) {
	const (
		file = "../../../docs/migrating-from-interlock.md"
		mark = "<!-- Generated from config/convert/interlock: go test ./config/convert/interlock -update -->\n"
	)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	head, tail, found := strings.Cut(string(text), mark)
	require.True(t, found)
	if *update {
		tail = interlock.Reference()
		require.NoError(t, os.WriteFile(file, []byte(head+mark+tail), 0o644))
	}
	require.Equal(t, interlock.Reference(), tail, "-update writes it")
}
