package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeProvider is an OpenID provider at which whoever comes is logged in as alice. It
// stands in for the real ones: it checks what RFC 6749, RFC 7636 and OpenID Connect
// have it check, and no password.
type fakeProvider struct {
	issuer string
	key    *ecdsa.PrivateKey

	mu             sync.Mutex
	client, secret string
	codes          map[string]url.Values // by code: what was asked for
	grants         int
	lifetime       time.Duration        // of tokens
	document       func(map[string]any) // changes what it says of itself; nil: nothing
	down           bool
}

func newFakeProvider(t *testing.T) *fakeProvider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i := &fakeProvider{key: key, client: "urn:shop@example.com/a_b~c-d.e", secret: "s3cr3t &=%2B+/#;", codes: map[string]url.Values{}, lifetime: time.Hour}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.describe)
	mux.HandleFunc("GET /login", i.login)
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(i.keys())) })
	mux.HandleFunc("GET /logout", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("bye")) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		down := i.down
		i.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	i.issuer = s.URL
	return i
}

// with changes it, as its operator would.
func (i *fakeProvider) with(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *fakeProvider) describe(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := map[string]any{
		"issuer": i.issuer, "authorization_endpoint": i.issuer + "/login", "token_endpoint": i.issuer + "/token",
		"end_session_endpoint": i.issuer + "/logout", "jwks_uri": i.issuer + "/keys",
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
	}
	if i.document != nil {
		i.document(d)
	}
	_ = json.NewEncoder(w).Encode(d)
}

func (i *fakeProvider) login(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for name, want := range map[string]string{"client_id": i.client, "response_type": "code", "code_challenge_method": "S256"} {
		if q.Get(name) != want {
			http.Error(w, fmt.Sprintf("%s is %q", name, q.Get(name)), http.StatusBadRequest)
			return
		}
	}
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.RawQuery != "" || q.Get("state") == "" || q.Get("code_challenge") == "" {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	i.with(func() { i.codes[code] = q })
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (i *fakeProvider) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	refuse := func(why string) {
		http.Error(w, `{"error":"invalid_grant","error_description":"`+why+`"}`, http.StatusBadRequest)
	}
	id, secret := r.FormValue("client_id"), r.FormValue("client_secret")
	if user, password, basic := r.BasicAuth(); basic {
		id, _ = url.QueryUnescape(user) // RFC 6749, section 2.3.1
		secret, _ = url.QueryUnescape(password)
	}
	asked := i.codes[r.FormValue("code")]
	delete(i.codes, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	switch {
	case id != i.client || secret != i.secret:
		refuse("client")
	case r.FormValue("grant_type") != "authorization_code":
		refuse("grant")
	case asked == nil || asked.Get("redirect_uri") != r.FormValue("redirect_uri"):
		refuse("code")
	case asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]):
		refuse("verifier")
	default:
		i.grants++
		token := i.sign(map[string]any{"iss": i.issuer, "sub": "alice", "aud": "shop", "scope": asked.Get("scope"), "exp": time.Now().Add(i.lifetime).Unix()})
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": int(i.lifetime.Seconds()),
		})
	}
}

// granted is how often it gave tokens.
func (i *fakeProvider) granted() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.grants
}

func (i *fakeProvider) sign(claims map[string]any) string {
	body, _ := json.Marshal(claims)
	signed := b64([]byte(`{"alg":"ES256","typ":"JWT","kid":"k1"}`)) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		return ""
	}
	return signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// keys is its JSON Web Key Set.
func (i *fakeProvider) keys() string {
	point, err := i.key.PublicKey.Bytes()
	if err != nil {
		return ""
	}
	return `{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":"` + b64(point[1:33]) + `","y":"` + b64(point[33:]) + `"}]}`
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unb64(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	require.NoError(t, err)
	return string(b)
}
