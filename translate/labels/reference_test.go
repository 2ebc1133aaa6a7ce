package labels

import (
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/cases"
)

var update = flag.Bool("update", false, "write docs/labels.md")

const referenceFile = "../../docs/labels.md"

func TestReferenceIsOnDisk(t *testing.T) {
	all, err := cases.Load("../cases")
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.MkdirAll("../../docs", 0o755))
		require.NoError(t, os.WriteFile(referenceFile, []byte(Reference(all)), 0o644))
	}
	onDisk, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	require.True(t, Reference(all) == string(onDisk), "docs/labels.md is not what the keys and cases say: run go generate ./translate/labels")
}

func TestEveryKeyHasACase(t *testing.T) {
	all, err := cases.Load("../cases")
	require.NoError(t, err)
	explained := map[string]bool{}
	for _, c := range all {
		for _, name := range c.Keys {
			require.Contains(t, keyNames, name, "keys of case %s", c.Name)
			require.True(t, keysByName[name].value.built, "case %s explains %s, which is not built", c.Name, name)
			explained[name] = true
		}
	}
	missing := slices.DeleteFunc(slices.Clone(keyNames), func(name string) bool {
		return explained[name] || !keysByName[name].value.built
	})
	require.Empty(t, missing, "keys that no file of translate/cases explains")
}
