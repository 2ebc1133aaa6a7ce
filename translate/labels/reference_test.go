package labels

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/labels.md")

const referenceFile = "../../docs/labels.md"

func TestReferenceIsOnDisk(t *testing.T) {
	if *update {
		require.NoError(t, os.MkdirAll("../../docs", 0o755))
		require.NoError(t, os.WriteFile(referenceFile, []byte(Reference()), 0o644))
	}
	onDisk, err := os.ReadFile(referenceFile)
	require.NoError(t, err)
	require.Equal(t, Reference(), string(onDisk), "run go generate ./translate/labels")
}
