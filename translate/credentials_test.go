package translate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

const sha = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="

func TestHtpasswd(t *testing.T) {
	got, err := htpasswd([]byte("\uFEFF# users\r\nalice:" + sha + "\r\n\n  bob:" + sha + "  \n"))
	require.NoError(t, err)
	require.Equal(t, "alice:"+sha+"\nbob:"+sha+"\n", got)

	for _, c := range []struct{ file, reason string }{
		{"", "has no entries"},
		{"# nobody\n\n", "has no entries"},
		{"alice\n", "line 1 is not user:password"},
		{":" + sha, "line 1 is not user:password"},
		{"alice:" + sha + "\nalice:" + sha, "line 2: the user is already in line 1"},
		{"a:" + sha + "\nb:$2y$05$hidden", "line 2: the password is in bcrypt"},
		{"hidden-key:partner", "line 1: the password is in no known form"},
		{"hidden-key:" + sha + "\nhidden-key:" + sha, "line 2: the user is already in line 1"},
		{"b:$apr1$hidden", "Apache's MD5"},
		{"b:$6$hidden", "SHA-512 crypt"},
		{"b:hidden", "in no known form"},
		{"b:{SHA}aGlkZGVu", "not a whole {SHA}"},
		{"b:{SHA}hidden!", "not a whole {SHA}"},
		{"b:" + sha + "\x00hidden", "control character"},
		{"b:\xffhidden", "UTF-8"},
		{strings.Repeat("a:"+sha+"\n", 3) + strings.Repeat("x:hidden\n", maxCredentials), "more than 10000 entries"},
	} {
		_, err := htpasswd([]byte(c.file))
		require.ErrorContains(t, err, c.reason)
		require.NotContains(t, err.Error(), "hidden")
	}
}

func TestAPIKeyList(t *testing.T) {
	got, err := apiKeyList([]byte("# partners\npartner-a: k1\nk2\r\n"))
	require.NoError(t, err)
	require.Equal(t, []apiKey{{"partner-a", "k1"}, {"line-3", "k2"}}, got)
	for _, c := range []struct{ file, reason string }{
		{"", "has no entries"},
		{"a:hidden\nb:hidden", "line 2: the key is already in line 1"},
		{"a:", "line 1 is not a key"},
		{":hidden", "line 1 is not a key"},
		{"hidden hidden", "no blank"},
	} {
		_, err := apiKeyList([]byte(c.file))
		require.ErrorContains(t, err, c.reason)
		require.NotContains(t, err.Error(), "hidden")
	}
}

func TestWebKeys(t *testing.T) {
	idp := newProvider(t)
	got, err := webKeys([]byte(idp.keys()))
	require.NoError(t, err)
	var set struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal([]byte(got), &set))
	require.Len(t, set.Keys, 1)
	require.Equal(t, "k1", set.Keys[0]["kid"])

	ed := `{"kty":"OKP","crv":"Ed25519","x":"` + b64(make([]byte, 32)) + `"}`
	got, err = webKeys([]byte(`{"keys":[{"kty":"RSA","use":"enc","n":"x"},` + ed + `]}`))
	require.NoError(t, err, "keys for something else are left out")
	require.NotContains(t, got, "RSA")

	n := b64(idp.key.N.Bytes())
	for _, c := range []struct{ key, reason string }{
		{`{"kty":"RSA","n":"` + n + `","e":"AQAB","d":"hidden"}`, "private"},
		{`{"kty":"RSA","use":"enc","n":"` + n + `","e":"AQAB","d":"hidden"}`, "private"},
		{`{"kty":"oct","k":"hidden"}`, "symmetric"},
		{`{"kty":"RSA","n":"` + n[:80] + `","e":"AQAB"}`, "2048 bits"},
		{`{"kty":"RSA","n":"hidden!","e":"AQAB"}`, "2048 bits"},
		{`{"kty":"RSA","n":7,"e":"AQAB"}`, "2048 bits"},
		{`{"kty":"RSA","n":"` + n + `","e":"Ag"}`, "2048 bits"},
		{`{"kty":"EC","crv":"secp256k1","x":"hidden","y":"hidden"}`, "another curve"},
		{`{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 32)) + `","y":"` + b64(make([]byte, 32)) + `"}`, "no point"},
		{`{"kty":"EC","crv":"P-256","x":"hidden","y":"hidden"}`, "no point"},
		{`{"kty":"OKP","crv":"X25519","x":"hidden"}`, "no Ed25519"},
		{`{"kty":"hidden"}`, "not known"},
		{`{}`, "not known"},
	} {
		_, err := webKeys([]byte(`{"keys":[` + c.key + `]}`))
		require.ErrorContains(t, err, c.reason, c.key)
		require.NotContains(t, err.Error(), "hidden")
	}
	for _, file := range []string{"", "hidden", `[]`, `{"keys":"hidden"}`, `{"keys":[]}`, `{}`, fmt.Sprintf(`{"keys":[%s]}`, strings.Repeat(ed+",", 100)+ed)} {
		_, err := webKeys([]byte(file))
		require.Error(t, err, file)
		require.NotContains(t, err.Error(), "hidden")
	}
}

// What stands in a key set, whatever it is, is read without a panic, and what comes
// out is read again as it is.
func FuzzWebKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`))
	f.Add([]byte("alice:" + sha + "\n"))
	f.Add([]byte("a:b\nc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if keys, err := webKeys(data); err == nil {
			again, err := webKeys([]byte(keys))
			require.NoError(t, err)
			require.Equal(t, keys, again)
		}
		if users, err := htpasswd(data); err == nil {
			again, err := htpasswd([]byte(users))
			require.NoError(t, err)
			require.Equal(t, users, again)
		}
		if keys, err := apiKeyList(data); err == nil {
			require.NotEmpty(t, keys)
		}
	})
}

// In front of a stack file there is no secret to read: nothing is wrong, and nothing open.
func TestContentThatIsNotKnownHere(t *testing.T) {
	w := newWorld()
	w.Static = true
	w.Secrets = map[string]*watcher.Secret{"users": {ID: "users", Name: "users"}}
	w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "basic_auth": "users"}, stack("a"))
	b := w.build(t, testConfig())
	require.Equal(t, []string{shut}, routeLines(b, "dev", "a.test"))
	requireProblem(t, b, "a_web", labels.Info, "the content of the secret users is not known here")
	require.Len(t, b.Problems(), 1)
}
