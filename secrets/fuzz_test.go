package secrets

import (
	"crypto/tls"
	"encoding/pem"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

// Whatever somebody stores as a certificate: what passes can be served as it is, and
// what is said about it has nothing of the key.
func FuzzPair(f *testing.F) {
	for _, s := range makeCorpus() {
		f.Add([]byte(s.cert), []byte(s.key))
	}
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		s := specimen{cert: string(cert), key: string(key)}
		pair, findings, err := s.read(today)
		said := make([]string, 0, 2*len(findings)+2)
		for _, f := range findings {
			said = append(said, f.Text, f.Hint)
		}
		if err != nil {
			said = append(said, err.Error(), err.(*Refusal).Hint())
		}
		for _, text := range said {
			require.NotEmpty(t, text)
			require.Less(t, len(text), 1000)
			require.NotContains(t, text, "\n")
			require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", text)
			require.NotContains(t, text, "-----END")
			for line := range strings.Lines(s.key) {
				if line = strings.TrimSpace(line); len(line) > 30 && !strings.HasPrefix(line, "-----") {
					require.NotContains(t, text, line)
				}
			}
		}
		if err != nil {
			require.Nil(t, pair)
			return
		}
		both, err := tls.X509KeyPair(pair.Chain.Reveal(), pair.Key.Reveal())
		require.NoError(t, err)
		require.LessOrEqual(t, len(both.Certificate), mostChain)
		require.False(t, today.After(both.Leaf.NotAfter) || today.Before(both.Leaf.NotBefore))
		require.NotEmpty(t, pair.Names)
		for _, name := range pair.Names {
			require.True(t, servable(name))
			require.Equal(t, strings.ToLower(name), name)
		}
		for rest := pair.Chain.Reveal(); len(rest) > 0; {
			var b *pem.Block
			b, rest = pem.Decode(rest)
			require.Equal(t, "CERTIFICATE", b.Type)
		}
		again, _, err := specimen{cert: string(pair.Chain.Reveal()), key: string(pair.Key.Reveal())}.read(today)
		require.NoError(t, err)
		require.True(t, again.Chain.Equal(pair.Chain) && again.Key.Equal(pair.Key))
		require.Equal(t, pair.Names, again.Names)
	})
}

// Authorities are certificates and nothing else, whatever is given.
func FuzzAuthorities(f *testing.F) {
	for _, s := range makeCorpus() {
		f.Add([]byte(s.cert))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, n, _, err := ReadAuthorities(Item{Kind: Config, Name: "clients", Data: Hide(text)}, today)
		if err != nil {
			require.Zero(t, n)
			require.Less(t, len(err.Error()), 1000)
			return
		}
		for rest := all.Reveal(); len(rest) > 0; n-- {
			var b *pem.Block
			b, rest = pem.Decode(rest)
			require.Equal(t, "CERTIFICATE", b.Type)
		}
		require.Zero(t, n)
	})
}
