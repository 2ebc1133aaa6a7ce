package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// envoyBinary is the real thing.
func envoyBinary(t *testing.T) string {
	path := os.Getenv("ENVOY")
	if path == "" {
		path = filepath.Join("..", ".cache", "envoy-1.40.0", "envoy")
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "this test needs Envoy 1.40: run `make test`, which fetches it, or set ENVOY to its path")
	return path
}

type object = map[string]any

// tlsListener serves a pair on any free port of loopback.
func tlsListener(name string, p *Pair, authorities Bytes) object {
	common := object{"tls_certificates": []any{object{
		"certificate_chain": object{"inline_string": string(p.Chain.Reveal())}, "private_key": object{"inline_string": string(p.Key.Reveal())},
	}}}
	if authorities.any() {
		common["validation_context"] = object{"trusted_ca": object{"inline_string": string(authorities.Reveal())}}
	}
	return object{
		"name": name, "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": []any{object{
			"transport_socket": object{"name": "envoy.transport_sockets.tls", "typed_config": object{
				"@type":              "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
				"common_tls_context": common, "require_client_certificate": authorities.any(),
			}},
			"filters": []any{object{"name": "echo", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}},
		}},
	}
}

// runEnvoy starts an Envoy with listeners and gives their addresses by name; it is
// ended with the test.
func runEnvoy(t *testing.T, listeners []any) map[string]string {
	dir := t.TempDir()
	text, err := json.Marshal(object{
		"admin":            object{"address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}}},
		"static_resources": object{"listeners": listeners},
	})
	require.NoError(t, err)
	boot, admin := filepath.Join(dir, "bootstrap.json"), filepath.Join(dir, "admin")
	require.NoError(t, os.WriteFile(boot, text, 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, envoyBinary(t), "-c", boot, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "--admin-address-path", admin)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended; _ = log.Close() })
	said := func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	addresses := map[string]string{}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(30 * time.Second); len(addresses) < len(listeners); {
		select {
		case <-ended:
			require.FailNow(t, "Envoy refuses it", said())
		case <-limit:
			require.FailNow(t, "Envoy does not listen", said())
		case <-poll.C:
		}
		at, err := os.ReadFile(admin)
		if err != nil || len(at) == 0 {
			continue
		}
		resp, err := client.Get("http://" + strings.TrimSpace(string(at)) + "/listeners?format=json")
		if err != nil {
			continue
		}
		raw, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		var is struct {
			Listeners []struct {
				Name  string `json:"name"`
				Local struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		require.NoError(t, json.Unmarshal(raw, &is), "%s", raw)
		for _, l := range is.Listeners {
			if l.Local.Socket.Port > 0 {
				addresses[l.Name] = fmt.Sprintf("%s:%d", l.Local.Socket.Address, l.Local.Socket.Port)
			}
		}
	}
	require.NotContains(t, said(), "rejected")
	return addresses
}

// shakeHands connects to a server as a client that takes any certificate, and gives
// what it was shown.
func shakeHands(t *testing.T, address string, config *tls.Config) ([]*x509.Certificate, error) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	c := tls.Client(conn, config)
	if _, err = c.Write([]byte("hello")); err == nil {
		_, err = io.ReadFull(c, make([]byte, 5)) // with TLS 1.3 a refusal of the client comes now
	}
	return c.ConnectionState().PeerCertificates, err
}

// Whatever passes the checks the real Envoy takes and serves, as it is.
func TestEnvoyTakesWhatPasses(t *testing.T) {
	pairs := map[string]*Pair{}
	var listeners []any
	add := func(name string, p *Pair) {
		pairs[name] = p
		listeners = append(listeners, tlsListener(name, p, Bytes{}))
	}
	for _, s := range makeCorpus() {
		if p, _, err := s.read(today); err == nil {
			add(s.name, p)
		}
	}
	local, err := testAuthority(t).Pair("*.app.example.com", today)
	require.NoError(t, err)
	add("local", local)
	addresses := runEnvoy(t, listeners)
	for name, p := range pairs {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			shown, err := shakeHands(t, addresses[name], &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ServerName: strings.Replace(p.Names[0], "*", "x", 1)})
			require.NoError(t, err, "%s, TLS %x", name, version)
			require.Equal(t, string(p.Chain.Reveal()), string(encode(shown)), name)
		}
	}
}

// Authorities that pass are those that the real Envoy trusts.
func TestEnvoyTakesAuthorities(t *testing.T) {
	f := newForge(t)
	p, _, err := specimen{"", f.leaf(f.siteKey.Public(), nil) + certPEM(f.intermediate), keyPEM(t, f.siteKey)}.read(today)
	require.NoError(t, err)
	now := time.Now() // the real Envoy's
	root := f.authority("Clients")
	root.NotBefore, root.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	rootCert := f.sign(root, root, f.rootKey.Public(), f.rootKey)
	foreign := f.authority("Others")
	foreign.NotBefore, foreign.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	foreignKey := ec(f.rootKey.Curve, "others")
	foreignCert := f.sign(foreign, foreign, foreignKey.Public(), foreignKey)
	ended := f.authority("Ended")
	ended.NotBefore, ended.NotAfter = now.Add(-2*time.Hour), now.Add(-time.Hour)
	endedCert := f.sign(ended, ended, f.interKey.Public(), f.interKey)
	client := func(by *x509.Certificate, key any) *tls.Config {
		c := f.template()
		c.NotBefore, c.NotAfter, c.ExtKeyUsage = now.Add(-time.Hour), now.Add(time.Hour), []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		der, err := x509.CreateCertificate(nil, c, by, f.siteKey.Public(), key)
		require.NoError(t, err)
		return &tls.Config{InsecureSkipVerify: true, ServerName: "site.example.com", Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: f.siteKey}}}
	}
	var listeners []any
	for name, text := range map[string]string{
		"one":          certPEM(rootCert),
		"one of three": "\ufeffsome text\r\n" + strings.ReplaceAll(certPEM(foreignCert)+certPEM(endedCert)+certPEM(rootCert), "\n", "\r\n"),
		"with a key":   certPEM(rootCert) + keyPEM(t, f.rootKey),
	} {
		pem, _, _, err := ReadAuthorities(Item{Kind: Config, Name: "clients", Data: Hide([]byte(text))}, now)
		require.NoError(t, err)
		require.NotContains(t, string(pem.Reveal()), "KEY")
		listeners = append(listeners, tlsListener(name, p, pem))
	}
	for name, address := range runEnvoy(t, listeners) {
		_, err := shakeHands(t, address, client(rootCert, f.rootKey))
		require.NoError(t, err, name)
		if name != "one of three" {
			_, err = shakeHands(t, address, client(foreignCert, foreignKey))
			require.Error(t, err, name)
		}
		_, err = shakeHands(t, address, &tls.Config{InsecureSkipVerify: true, ServerName: "site.example.com"})
		require.Error(t, err, name)
	}
}

// Certificates that are damaged in a way that Go does not mind are no surprise to the
// real Envoy: it would refuse them, and name nothing.
func TestEnvoyTakesWhatDamageLeaves(t *testing.T) {
	f := newForge(t)
	leaf := derOf(f.leaf(f.siteKey.Public(), func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "Söhne", Country: []string{"DE"}, OrganizationalUnit: []string{"a", "b"}}
		c.IPAddresses, c.EmailAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}, []string{"a@example.com"}
		c.IssuingCertificateURL = []string{"http://ca.example.com"}
	}))
	key := keyPEM(t, f.siteKey)
	random := rand.New(rand.NewPCG(1, 2))
	var listeners []any
	for tries := 0; len(listeners) < 500; tries++ {
		require.Less(t, tries, 10000)
		given := [][]byte{slices.Clone(leaf), slices.Clone(f.intermediate.Raw)}
		damaged := given[tries%len(given)]
		damaged[random.IntN(len(damaged))] = byte(random.IntN(256))
		s := specimen{cert: block("CERTIFICATE", given[0]) + block("CERTIFICATE", given[1]), key: key}
		if p, _, err := s.read(today); err == nil {
			listeners = append(listeners, tlsListener(fmt.Sprint(tries), p, Bytes{}))
		}
	}
	text, err := json.Marshal(object{"static_resources": object{"listeners": listeners}})
	require.NoError(t, err)
	boot := filepath.Join(t.TempDir(), "bootstrap.json")
	require.NoError(t, os.WriteFile(boot, text, 0o600))
	said, err := exec.CommandContext(t.Context(), envoyBinary(t), "-c", boot, "--mode", "validate", "--log-level", "error").CombinedOutput()
	require.NoError(t, err, "%s", said)
}
