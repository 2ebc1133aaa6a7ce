package lastgood

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
)

func TestRoundTrip(t *testing.T) {
	var all []*translate.Resource
	for _, r := range resources(t, newSwarm(t).whole()) {
		public, err := Public(r)
		require.NoError(t, err)
		if public != nil {
			all = append(all, public)
		}
	}
	require.Greater(t, len(all), 10)
	s := Store{t.TempDir() + "/new/dir"}
	require.NoError(t, s.write("dev", epoch, all))
	got, at, err := s.Read("dev")
	require.NoError(t, err)
	require.Equal(t, epoch, at)
	require.Len(t, got, len(all))
	for i, r := range all {
		require.Equal(t, r.Body, got[i].Body)
		require.Equal(t, r.Refs, got[i].Refs)
		require.Equal(t, r.EDS, got[i].EDS)
		require.Equal(t, translate.Ref{Kind: r.Kind, Name: r.Name}, translate.Ref{Kind: got[i].Kind, Name: got[i].Name})
	}
	is, err := os.Stat(s.file("dev"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, is.Mode().Perm())
	files, err := os.ReadDir(s.Dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "nothing is left over")

	got, at, err = s.Read("prod")
	require.NoError(t, err, "there is none")
	require.Nil(t, got)
	require.True(t, at.IsZero())
}

func TestNothingSecretIsOnDisk(t *testing.T) {
	s := newSwarm(t)
	served := ""
	for _, r := range resources(t, s.whole()) {
		served += string(r.Body)
	}
	for _, part := range []string{hash, apiKey, client, "PRIVATE KEY"} {
		require.Contains(t, served, part, "proxies get it")
	}
	dir, _ := accepted(t, s)
	raw, err := os.ReadFile(Store{dir}.file(collection))
	require.NoError(t, err)
	_, all, err := decode(raw)
	require.NoError(t, err)
	text := string(raw)
	for _, r := range all {
		text += string(r.Body)
	}
	require.Contains(t, text, "open.test")
	for _, part := range s.hidden() {
		require.NotContains(t, text, part)
	}
}

func TestWhatCannotBeReadIsPutAside(t *testing.T) {
	public := resources(t, translate.Delta{Changes: []translate.Change{{Resource: &translate.Resource{Kind: translate.Cluster, Name: "a", Body: []byte{}}}}})
	good, err := encode(content{Collection: "dev", Resources: written(public)})
	require.NoError(t, err)
	with := func(c content) string {
		raw, err := encode(c)
		require.NoError(t, err)
		return string(raw)
	}
	secret := base64.StdEncoding.EncodeToString([]byte("x"))
	for name, c := range map[string]struct{ raw, says string }{
		"empty":           {"", "does not begin like one"},
		"cut":             {string(good[:len(good)-3]), "checksum"},
		"changed":         {strings.Replace(string(good), `"a"`, `"b"`, 1), "checksum"},
		"older":           {strings.Replace(string(good), magic+" 1 ", magic+" 0 ", 1), "its format is 0 and not 1"},
		"newer":           {strings.Replace(string(good), magic+" 1 ", magic+" 2 ", 1), "its format is 2 and not 1"},
		"something else":  {secret + "\n", "does not begin like one"},
		"another's":       {with(content{Collection: "prod", Resources: written(public)}), `of collection "prod"`},
		"a secret":        {with(content{Collection: "dev", Resources: []resource{{Kind: "secrets", Name: "x"}}}), "never written"},
		"twice":           {with(content{Collection: "dev", Resources: append(written(public), written(public)...)}), "twice"},
		"no name":         {with(content{Collection: "dev", Resources: []resource{{Kind: "clusters"}}}), "no name"},
		"no such kind":    {with(content{Collection: "dev", Resources: []resource{{Kind: "pears", Name: "x"}}}), "no kind"},
		"no such ref":     {with(content{Collection: "dev", Resources: []resource{{Kind: "clusters", Name: "x", Refs: []ref{{"pears", "x"}}}}}), "no kind"},
		"not a resource":  {with(content{Collection: "dev", Resources: []resource{{Kind: "clusters", Name: "x", Body: []byte("\xff")}}}), "x"},
		"not a listener":  {with(content{Collection: "dev", Resources: []resource{{Kind: "listeners", Name: "x", Body: []byte("\xff")}}}), "x"},
		"a field unknown": {with(content{Collection: "dev", Resources: []resource{{Kind: "clusters", Name: "x", Body: []byte{0xfa, 0xff, 0x7f, 0}}}}), "never written"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Store{t.TempDir()}
			require.NoError(t, os.WriteFile(s.file("dev"), []byte(c.raw), 0o600))
			all, _, err := s.Read("dev")
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "put aside")
			require.Empty(t, all)
			require.NoFileExists(t, s.file("dev"))
			aside, err := os.ReadFile(s.file("dev") + ".bad")
			require.NoError(t, err)
			require.Equal(t, c.raw, string(aside))
			require.False(t, s.Any())
			_, _, err = s.Read("dev")
			require.NoError(t, err, "the next start does not meet it")
		})
	}
}

func TestAFileThatIsTooLargeIsNotRead(t *testing.T) {
	s := Store{t.TempDir()}
	require.NoError(t, os.WriteFile(s.file("dev"), nil, 0o600))
	require.NoError(t, os.Truncate(s.file("dev"), maxBytes+1)) // sparse
	_, _, err := s.Read("dev")
	require.ErrorContains(t, err, "larger than")
}

func TestACollectionsNameIsNoPath(t *testing.T) {
	s := Store{"/x"}
	for _, name := range []string{"../y", "a/b", "..", "."} {
		require.NotContains(t, strings.TrimPrefix(s.file(name), "/x/"), "/", name)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := encode(content{Collection: "dev", Resources: []resource{{Kind: "clusters", Name: "a", Refs: []ref{{"secrets", "s"}}, EDS: true}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, true)
	_, body, _ := strings.Cut(string(good), "\n")
	f.Add([]byte(body), true)
	f.Add([]byte(fmt.Sprintf("%s %d x\n{}", magic, format)), false)
	f.Fuzz(func(t *testing.T, raw []byte, sealed bool) {
		if sealed { // behind a good checksum
			raw = seal(raw)
		}
		_, all, err := decode(raw)
		if err != nil && !errors.Is(err, errBroken) {
			t.Fatalf("an error that does not put it aside: %v", err)
		}
		for _, r := range all {
			if public, err := Public(r); err != nil || public != r {
				t.Fatalf("%s %q is not public: %v", r.Kind, r.Name, err)
			}
		}
	})
}
