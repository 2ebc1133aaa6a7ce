package secrets

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Provider is what an OpenID provider says of itself (OpenID Connect Discovery 1.0).
// It is public: nothing of it is secret.
type Provider struct {
	Authorization string // the URL to which users are sent to log in
	Token         string // the URL at which proxies exchange a code for tokens
	EndSession    string // the URL to which users are sent to log out; "" where there is none
	// HeaderOnly is set where the provider takes a client's secret in Authorization
	// alone, and not in the body of a request.
	HeaderOnly bool
}

// Limits of one question to a provider.
const (
	askTimeout   = 5 * time.Second
	maxDocument  = 256 << 10
	maxRedirects = 3
	maxEndpoint  = 2048 // bytes of a URL
)

// documentPath is where a provider's document is, below its issuer.
const documentPath = "/.well-known/openid-configuration"

// asker asks providers over HTTP. It goes to no address that refuse has something
// against: an issuer is whatever a label says.
func asker(refuse func(netip.AddrPort) string) func(ctx context.Context, issuer string) (Provider, error) {
	dialer := &net.Dialer{Timeout: askTimeout / 2, Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return refusedError("it is not an address")
		}
		if why := refuse(to); why != "" {
			return refusedError(why)
		}
		return nil
	}}
	client := &http.Client{
		Timeout: askTimeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: askTimeout / 2, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch first := via[0].URL; {
			case next.URL.Scheme != first.Scheme || next.URL.Host != first.Host:
				return refusedError("it leads to another server")
			case len(via) > maxRedirects:
				return refusedError("it leads in circles")
			}
			return nil
		},
	}
	return func(ctx context.Context, issuer string) (Provider, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(issuer, "/")+documentPath, nil)
		if err != nil {
			return Provider{}, errors.New("is not a URL")
		}
		req.Header.Set("Accept", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return Provider{}, whyNoAnswer(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return Provider{}, fmt.Errorf("answers %d for %s", resp.StatusCode, documentPath)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		switch {
		case err != nil:
			return Provider{}, whyNoAnswer(err)
		case len(body) > maxDocument:
			return Provider{}, fmt.Errorf("answers with more than %d KiB", maxDocument>>10)
		}
		return readProvider(issuer, body)
	}
}

// readProvider reads the document of an issuer, and takes what it says of endpoints
// for what it is: text of a stranger.
func readProvider(issuer string, document []byte) (Provider, error) {
	var d struct {
		Issuer        string   `json:"issuer"`
		Authorization string   `json:"authorization_endpoint"`
		Token         string   `json:"token_endpoint"`
		EndSession    string   `json:"end_session_endpoint"`
		Methods       []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return Provider{}, errors.New("answers with something that is not an OpenID document")
	}
	if d.Issuer != issuer {
		// Section 4.3: they must be the same, or somebody speaks for somebody else.
		return Provider{}, fmt.Errorf("says that it is the issuer %s, which must be the same in every letter", quoted(d.Issuer))
	}
	for _, e := range []struct {
		name, url string
		optional  bool
	}{{"authorization_endpoint", d.Authorization, false}, {"token_endpoint", d.Token, false}, {"end_session_endpoint", d.EndSession, true}} {
		switch {
		case e.url == "" && e.optional:
		case e.url == "":
			return Provider{}, fmt.Errorf("does not say its %s", e.name)
		case !endpoint(e.url):
			return Provider{}, fmt.Errorf("says %s as its %s, which is not a URL", quoted(e.url), e.name)
		}
	}
	p := Provider{Authorization: d.Authorization, Token: d.Token, EndSession: d.EndSession}
	header, body := slices.Contains(d.Methods, "client_secret_basic"), slices.Contains(d.Methods, "client_secret_post")
	switch {
	case body:
	case header || len(d.Methods) == 0: // what is not said is basic
		p.HeaderOnly = true
	default:
		return Provider{}, errors.New("takes no client's secret (neither client_secret_basic nor client_secret_post)")
	}
	return p, nil
}

// endpointForm is what Go's and Envoy's parsers both take for a URL and mean the same by:
// one that Envoy refuses would cost a whole route table.
var endpointForm = regexp.MustCompile(`^https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?][A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?$`)

// endpoint reports whether text is an absolute http or https URL that can be handed on as it is.
func endpoint(text string) bool {
	if len(text) > maxEndpoint || !endpointForm.MatchString(text) {
		return false
	}
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	return err == nil && port > 0
}

// quoted shows text of a stranger on one line, and not too much of it.
func quoted(s string) string {
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// refusedError says why somebody is not asked.
type refusedError string

func (e refusedError) Error() string { return string(e) }

// whyNoAnswer says why there is none, in words that are the same each time for the same
// reason: addresses and times, which Go's errors hold, would make it news again and again.
func whyNoAnswer(err error) error {
	if why, ok := errors.AsType[refusedError](err); ok {
		return fmt.Errorf("is refused: %s", why)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsTimeout {
		return errors.New("has a name that cannot be resolved here")
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		return errors.New("has a certificate that has expired or does not hold yet")
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("has a certificate that cannot be trusted: %w", bad.Err)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return fmt.Errorf("does not answer within %v", askTimeout)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("cannot be reached: %s", errno.Error())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("ends the connection without a whole answer")
	}
	return errors.New("does not answer as an HTTP server does")
}
