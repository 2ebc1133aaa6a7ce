package translate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// provider is a fake identity provider: it has a key, and signs what it is asked to.
type provider struct {
	key *rsa.PrivateKey
}

func newProvider(t *testing.T) provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return provider{key}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// keys is its JSON Web Key Set.
func (p provider) keys() string {
	return `{"keys":[{"kty":"RSA","alg":"RS256","use":"sig","kid":"k1","n":"` + b64(p.key.N.Bytes()) + `","e":"` + b64(big.NewInt(int64(p.key.E)).Bytes()) + `"}]}`
}

func (p provider) sign(t *testing.T, claims map[string]any) http.Header {
	t.Helper()
	body, err := json.Marshal(claims)
	require.NoError(t, err)
	signed := b64([]byte(`{"alg":"RS256","typ":"JWT","kid":"k1"}`)) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, p.key, crypto.SHA256, sum[:])
	require.NoError(t, err)
	return http.Header{"Authorization": {"Bearer " + signed + "." + b64(sig)}}
}

// everyKind is a set of keys with one of each kind that is taken, and one that is not.
func everyKind(t *testing.T, p provider) string {
	t.Helper()
	keys := []string{`{"kty":"RSA","alg":"RSA-OAEP","n":"AQAB","e":"AQAB"}`}
	for crv, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		point, err := k.PublicKey.Bytes()
		require.NoError(t, err)
		half := len(point) / 2
		keys = append(keys, `{"kty":"EC","kid":"`+crv+`","crv":"`+crv+`","x":"`+b64(point[1:1+half])+`","y":"`+b64(point[1+half:])+`"}`)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	keys = append(keys, `{"kty":"OKP","alg":"EdDSA","crv":"Ed25519","x":"`+b64(ed)+`"}`)
	return strings.Replace(p.keys(), `{"keys":[`, `{"keys":[`+strings.Join(keys, ",")+",", 1)
}

func TestJSONWebTokens(t *testing.T) {
	idp, stranger := newProvider(t), newProvider(t)
	var fetched atomic.Int32
	keys := func(w http.ResponseWriter, r *http.Request) {
		fetched.Add(1)
		_, _ = w.Write([]byte(idp.keys()))
	}
	plain := httptest.NewServer(http.HandlerFunc(keys))
	t.Cleanup(plain.Close)
	unknown := httptest.NewTLSServer(http.HandlerFunc(keys)) // nobody trusts its authority
	t.Cleanup(unknown.Close)

	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	add := func(name string, l map[string]string) {
		l["hosts"], l["port"] = name+".test", "80"
		s := w.service("a_"+name, l, stack("a"), scaled(0))
		w.backend(t, s, 1, echo(name))
	}
	const issuer = "https://id.test"
	add("app", map[string]string{"jwt_issuer": issuer, "jwt_jwks": plain.URL + "/keys", "jwt_audiences": "app, other"})
	add("any", map[string]string{"jwt_issuer": issuer, "jwt_jwks": plain.URL + "/keys"})
	add("tls", map[string]string{"jwt_issuer": issuer, "jwt_jwks": unknown.URL + "/keys"})
	w.Configs = map[string]*watcher.Config{"keys": {ID: "keys", Name: "keys", Data: []byte(everyKind(t, idp))}}
	add("local", map[string]string{"jwt_issuer": issuer, "jwt_jwks": "keys"})
	add("neighbour", map[string]string{})
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	p := runEnvoy(t, staticBootstrap(t, b, "dev"))

	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	good := map[string]any{"iss": issuer, "sub": "alice", "aud": "app", "exp": in(time.Hour)}
	with := func(k string, v any) map[string]any {
		c := map[string]any{}
		for k, v := range good {
			c[k] = v
		}
		c[k] = v
		return c
	}
	passes := func(host string, h http.Header) {
		t.Helper()
		r := p.do(t, "GET", "http://"+host+"/", h, "")
		require.Equal(t, 200, r.StatusCode, r.body)
		require.Contains(t, r.body, `"Authorization":["Bearer `, "it reaches the task")
	}
	fails := func(status int, host string, h http.Header) {
		t.Helper()
		r := p.do(t, "GET", "http://"+host+"/", h, "")
		require.Equal(t, status, r.StatusCode, r.body)
		require.Equal(t, "forbidden", r.Header.Get(ReasonHeader))
	}
	passes("app.test", idp.sign(t, good))
	passes("app.test", idp.sign(t, with("aud", []string{"x", "other"})))
	passes("any.test", idp.sign(t, with("aud", "whatever")))
	passes("local.test", idp.sign(t, good))
	fails(401, "local.test", stranger.sign(t, good))
	fails(401, "app.test", nil)
	fails(401, "app.test", http.Header{"Authorization": {"Bearer nonsense"}})
	fails(401, "app.test", stranger.sign(t, good))
	fails(401, "app.test", idp.sign(t, with("iss", "https://other.test")))
	fails(401, "app.test", idp.sign(t, with("exp", in(-time.Hour))))
	fails(403, "app.test", idp.sign(t, with("aud", "nobody")))
	none := http.Header{"Authorization": {"Bearer " + b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"iss":"`+issuer+`","aud":"app"}`)) + "."}}
	fails(401, "app.test", none)
	before := fetched.Load()
	fails(401, "tls.test", idp.sign(t, good))
	require.Equal(t, before, fetched.Load(), "the server's certificate is checked")
	require.Equal(t, 200, p.do(t, "GET", "http://neighbour.test/", nil, "").StatusCode)

	r := p.do(t, "GET", "http://app.test/?access_token="+strings.TrimPrefix(idp.sign(t, good).Get("Authorization"), "Bearer "), nil, "")
	require.Equal(t, 401, r.StatusCode, "a token in the URL ends up in logs")
}

// Keys are fetched over TLS from a server that an authority of the system vouches for,
// and from no other. The proxy of this test has a list of authorities of its own in
// place of the machine's.
func TestKeysOverTLS(t *testing.T) {
	idp := newProvider(t)
	var fetched [3]atomic.Int32
	server := func(i int) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fetched[i].Add(1)
			_, _ = w.Write([]byte(idp.keys()))
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes
		t.Cleanup(s.Close)
		return s
	}
	good, misnamed, stranger := server(0), server(1), server(2)
	good.StartTLS()
	misnamed.StartTLS() // its certificate is for 127.0.0.1, not for localhost
	stranger.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	stranger.StartTLS()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: good.Certificate().Raw}), 0o600))

	w := newWorld()
	w.Loopback = true
	w.Nodes["n1"].Addr = netip.MustParseAddr("127.0.0.1")
	for name, url := range map[string]string{
		"good": good.URL, "stranger": stranger.URL,
		"misnamed": strings.Replace(misnamed.URL, "127.0.0.1", "localhost", 1),
	} {
		s := w.service("a_"+name, map[string]string{"hosts": name + ".test", "port": "80", "jwt_issuer": "https://id.test", "jwt_jwks": url + "/keys"}, stack("a"), scaled(0))
		w.backend(t, s, 1, echo(name))
	}
	b := w.build(t, testConfig())
	require.Empty(t, b.Problems())
	file := staticBootstrap(t, b, "dev")
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(written), systemRoots))
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(written), systemRoots, roots)), 0o600))
	p := runEnvoy(t, file)

	token := idp.sign(t, map[string]any{"iss": "https://id.test", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()})
	status := func(host string) int { return p.do(t, "GET", "http://"+host+"/", token, "").StatusCode }
	require.Equal(t, 200, status("good.test"))
	require.Equal(t, 401, status("misnamed.test"))
	require.Equal(t, 401, status("stranger.test"))
	require.EqualValues(t, 1, fetched[0].Load())
	require.Zero(t, fetched[1].Load()+fetched[2].Load())
}

// selfSigned is a certificate for 127.0.0.1 that nobody vouches for.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Proxies are sent nowhere by a label where they would find themselves.
func TestServersThatAreRefused(t *testing.T) {
	for _, c := range []struct{ url, reason string }{
		{"http://127.0.0.1/k", "loopback"},
		{"http://127.1/k", "neither a name nor a complete address"},
		{"http://0x7f000001/k", "neither a name nor a complete address"},
		{"http://[::1]/k", "loopback"},
		{"http://[::ffff:127.0.0.1]/k", "loopback"},
		{"https://localhost/k", "the proxy itself"},
		{"https://a.LOCALHOST./k", "the proxy itself"},
		{"http://169.254.169.254/latest", "link-local"},
		{"http://100.100.100.200/", "metadata"},
		{"http://metadata.google.internal/k", "metadata"},
		{"http://10.0.0.1:18000/k", "Waggle's own"},
		{"https://id.example.com/k", ""},
		{"http://keycloak:8080/k", ""},
		{"https://[2001:db8::1]:8443/k", ""},
	} {
		w := newWorld()
		w.service("a_web", map[string]string{"hosts": "a.test", "port": "80", "jwt_issuer": "i", "jwt_jwks": c.url}, stack("a"))
		cfg := testConfig()
		cfg.XDS.Address = "0.0.0.0:18000"
		b := w.build(t, cfg)
		if c.reason == "" {
			require.Empty(t, b.Problems(), c.url)
			require.Equal(t, []string{"/* -> a_web:80"}, routeLines(b, "dev", "a.test"), c.url)
			continue
		}
		require.Equal(t, []string{shut}, routeLines(b, "dev", "a.test"), c.url)
		requireProblem(t, b, "a_web", labels.Error, c.reason)
	}
}
