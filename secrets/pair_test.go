package secrets

import (
	"crypto/tls"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/diagnoses.txt")

// What is said about each certificate of the corpus, and what is made of it.
func TestDiagnoses(t *testing.T) {
	var b strings.Builder
	bad, seen := 0, map[string]bool{}
	for _, s := range makeCorpus() {
		require.False(t, seen[s.name], "%s is there twice", s.name)
		seen[s.name] = true
		fmt.Fprintf(&b, "%s\n", s.name)
		pair, findings, err := s.read(today)
		if err != nil {
			bad++
			require.Nil(t, pair)
			require.Empty(t, findings)
			refusal, ok := err.(*Refusal)
			require.True(t, ok)
			require.NotEmpty(t, refusal.Hint(), s.name)
			fmt.Fprintf(&b, "  refused: %s\n  hint: %s\n", err, refusal.Hint())
			continue
		}
		for _, f := range findings {
			require.NotEmpty(t, f.Hint, s.name)
			fmt.Fprintf(&b, "  warning: %s\n  hint: %s\n", f.Text, f.Hint)
		}
		both, err := tls.X509KeyPair(pair.Chain.Reveal(), pair.Key.Reveal())
		require.NoError(t, err, s.name)
		require.Equal(t, pair.NotAfter, both.Leaf.NotAfter)
		require.Equal(t, pair.Serial, fmt.Sprintf("%x", both.Leaf.SerialNumber))
		names := pair.Names
		if len(names) > 3 {
			names = append(names[:3:3], fmt.Sprintf("(%d)", len(pair.Names)))
		}
		fmt.Fprintf(&b, "  serves: %s, chain of %d, issued by %s\n", strings.Join(names, " "), len(both.Certificate), pair.Issuer)
	}
	require.GreaterOrEqual(t, bad, 50)
	golden(t, "testdata/diagnoses.txt", b.String())
}

func golden(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), text, "run the test with -update if this is right")
}

// What cannot be read any more is served as it was, and said; what is elsewhere cannot be.
func TestReadPairOfWhatIsNotThere(t *testing.T) {
	f := newForge(t)
	cert := Item{Kind: File, Name: "site.crt", Data: Hide([]byte(f.leaf(f.siteKey.Public(), nil)))}
	key := Item{Kind: File, Name: "site.key", Data: Hide([]byte(keyPEM(t, f.siteKey))), Kept: "permission denied"}
	pair, findings, err := ReadPair(cert, key, today)
	require.NoError(t, err)
	require.Equal(t, "the file site.key cannot be read now: permission denied", pair.Kept)
	require.Equal(t, []Finding{{"the file site.key cannot be read now: permission denied; what was there before stays in service", "make it readable for the control plane"}}, findings)

	key.Kind, key.Kept = Config, ""
	_, findings, err = ReadPair(cert, key, today)
	require.NoError(t, err)
	require.Contains(t, findings[0].Text, "the config site.key holds a private key, and configs can be read by everybody")

	_, _, err = ReadPair(cert, Item{Kind: Secret, Name: "site.key", Assumed: true}, today)
	require.EqualError(t, err, "the secret site.key is not known here")
	_, _, _, err = ReadAuthorities(Item{Kind: Secret, Name: "clients", Assumed: true}, today)
	require.EqualError(t, err, "the secret clients is not known here")
	pair, _, err = ReadPair(cert, key, time.Time{})
	require.NoError(t, err)
	require.Equal(t, "7", pair.Serial)
}
