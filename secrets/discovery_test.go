package secrets

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func document(issuer string, more ...string) string {
	return fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":"https://id.test/login?x=1","token_endpoint":"https://tokens.test/token"%s}`, issuer, strings.Join(more, ""))
}

func TestReadProvider(t *testing.T) {
	const issuer = "https://id.test"
	long := strings.Repeat("a", maxEndpoint)
	for _, c := range []struct {
		name, document, wrong string
		want                  Provider
	}{
		{name: "what is not said is basic", document: document(issuer),
			want: Provider{Authorization: "https://id.test/login?x=1", Token: "https://tokens.test/token", HeaderOnly: true}},
		{name: "in the body, where both are taken", document: document(issuer, `,"token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],"end_session_endpoint":"https://id.test/out"`),
			want: Provider{Authorization: "https://id.test/login?x=1", Token: "https://tokens.test/token", EndSession: "https://id.test/out"}},
		{name: "no way for a secret", document: document(issuer, `,"token_endpoint_auth_methods_supported":["private_key_jwt"]`), wrong: "takes no client's secret"},
		{name: "another issuer", document: document(issuer + "/"), wrong: `says that it is the issuer "https://id.test/", which must be the same in every letter`},
		{name: "an issuer of many lines", document: document("a\nb" + long), wrong: `says that it is the issuer "a\nb`},
		{name: "no issuer", document: `{}`, wrong: `says that it is the issuer ""`},
		{name: "no token endpoint", document: `{"issuer":"https://id.test","authorization_endpoint":"https://id.test/login"}`, wrong: "does not say its token_endpoint"},
		{name: "a script", document: document(issuer, `,"end_session_endpoint":"javascript:alert(1)"`), wrong: "end_session_endpoint, which is not a URL"},
		{name: "a line break", document: document(issuer, `,"end_session_endpoint":"https://id.test/\r\nX: y"`), wrong: "which is not a URL"},
		{name: "a password", document: document(issuer, `,"end_session_endpoint":"https://a:b@id.test/"`), wrong: "which is not a URL"},
		{name: "a fragment", document: document(issuer, `,"end_session_endpoint":"https://id.test/#"`), wrong: "which is not a URL"},
		{name: "no port", document: document(issuer, `,"end_session_endpoint":"https://id.test:/"`), wrong: "which is not a URL"},
		{name: "a port too large", document: document(issuer, `,"end_session_endpoint":"https://id.test:65536/"`), wrong: "which is not a URL"},
		{name: "letters that are no URL's", document: document(issuer, `,"end_session_endpoint":"https://id.test/{x}"`), wrong: "which is not a URL"},
		{name: "too long", document: document(issuer, `,"end_session_endpoint":"https://id.test/`+long+`"`), wrong: "which is not a URL"},
		{name: "a page", document: "<html>", wrong: "is not an OpenID document"},
		{name: "a list", document: "[]", wrong: "is not an OpenID document"},
		{name: "nothing", document: "", wrong: "is not an OpenID document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readProvider(issuer, []byte(c.document))
			if c.wrong != "" {
				require.ErrorContains(t, err, c.wrong)
				require.Less(t, len(err.Error()), 500)
				require.NotContains(t, err.Error(), "\n")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// What a provider does, and what is said of it: the same words each time, so that they are news once.
func TestAskingAProvider(t *testing.T) {
	var handler atomic.Pointer[http.HandlerFunc]
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*handler.Load())(w, r) })
	does := func(f http.HandlerFunc) { handler.Store(&f) }
	s := httptest.NewServer(serve)
	defer s.Close()
	unknown := httptest.NewUnstartedServer(serve) // nobody trusts its authority
	unknown.Config.ErrorLog = log.New(io.Discard, "", 0)
	unknown.StartTLS()
	defer unknown.Close()
	ask := asker(func(netip.AddrPort) string { return "" })
	issuer := s.URL + "/realms/a/"
	says := func(want string) {
		t.Helper()
		for range 2 {
			_, err := ask(t.Context(), issuer)
			require.EqualError(t, err, want)
		}
	}

	does(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/realms/a"+documentPath {
			http.Redirect(w, r, "/moved", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, document(issuer))
	})
	p, err := ask(t.Context(), issuer)
	require.NoError(t, err, "redirects within the server are followed")
	require.Equal(t, "https://tokens.test/token", p.Token)

	does(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, unknown.URL+"/x", http.StatusFound) })
	says("is refused: it leads to another server")
	does(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) })
	says("is refused: it leads in circles")
	does(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	says("answers 404 for /.well-known/openid-configuration")
	does(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat(" ", maxDocument+1))
	})
	says("answers with more than 256 KiB")
	does(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.Close()
		}
	})
	says("ends the connection without a whole answer")
	does(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n")
			_ = c.Close()
		}
	})
	says("does not answer as an HTTP server does")

	was := issuer
	issuer = unknown.URL
	says("has a certificate that cannot be trusted: x509: certificate signed by unknown authority")
	issuer = strings.Replace(was, "http:", "https:", 1)
	says("does not answer as an HTTP server does")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	issuer = "http://" + lis.Addr().String()
	require.NoError(t, lis.Close())
	says("cannot be reached: connection refused")
	issuer = "http://nobody.invalid"
	says("has a name that cannot be resolved here")
}

// Whatever a name resolves to: it is the address that is refused.
func TestAddressesThatAreNotAsked(t *testing.T) {
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = true }))
	defer s.Close()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	var refused []netip.AddrPort
	ask := asker(func(to netip.AddrPort) string {
		refused = append(refused, to)
		return "it is a loopback address"
	})
	_, err = ask(t.Context(), "http://localhost:"+port)
	require.EqualError(t, err, "is refused: it is a loopback address")
	require.NotEmpty(t, refused)
	require.False(t, asked)
}

// A provider that says nothing holds nobody up for longer than its time.
func TestAskingEndsWithItsContext(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = asker(func(netip.AddrPort) string { return "" })(ctx, "http://"+lis.Addr().String())
	require.EqualError(t, err, "does not answer within 5s")
}

// Whatever a server answers: it is read or refused in one line, and what is taken can be
// handed on.
func FuzzOpenIDDocument(f *testing.F) {
	const issuer = "https://id.test"
	for _, d := range []string{
		document(issuer), document("other"), document(issuer, `,"token_endpoint_auth_methods_supported":["client_secret_post"],"end_session_endpoint":"https://id.test:1/?a=%00"`),
		"{}", "[]", "null", `{"issuer": 1}`, document(issuer, `,"end_session_endpoint":"https://[::1]/"`),
	} {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		p, err := readProvider(issuer, document)
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			require.Less(t, len(err.Error()), 3000)
			return
		}
		for _, e := range []string{p.Authorization, p.Token, p.EndSession} {
			if e == "" && e == p.EndSession {
				continue
			}
			u, err := url.Parse(e)
			require.NoError(t, err)
			require.Equal(t, e, u.String())
			require.Empty(t, u.Fragment)
			require.Nil(t, u.User)
		}
	})
}
