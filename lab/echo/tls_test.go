package echo_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waggle-lb/waggle/lab/echo"
)

// selfSigned is a certificate for a name, and who trusts it.
func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}

func TestTLSBesideThePlain(t *testing.T) {
	cert, pool := selfSigned(t, "shop_api")
	s, url := start(t, echo.Options{Service: "shop_api", Task: "shop_api.2", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
	overTLS := func(cfg *tls.Config, h2 bool) *http.Client {
		var p http.Protocols
		p.SetHTTP1(!h2)
		p.SetHTTP2(h2)
		cfg.RootCAs = pool
		tr := &http.Transport{Protocols: &p, TLSClientConfig: cfg, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Addr().String())
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	client509, _ := selfSigned(t, "alice")
	for _, tt := range []struct {
		name     string
		client   *http.Client
		url      string
		tls      *echo.TLS
		protocol string
	}{
		{"plain", client(t, false), url, nil, "HTTP/1.1"},
		{"plain HTTP/2", client(t, true), url, nil, "HTTP/2.0"},
		{"TLS", overTLS(&tls.Config{}, false), "https://shop_api", &echo.TLS{Version: "1.3", ServerName: "shop_api"}, "HTTP/1.1"},
		{"HTTP/2", overTLS(&tls.Config{}, true), "https://shop_api", &echo.TLS{Version: "1.3", ServerName: "shop_api"}, "HTTP/2.0"},
		{
			"an older version, with a client's certificate", overTLS(&tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{client509}}, true), "https://shop_api",
			&echo.TLS{Version: "1.2", ServerName: "shop_api", Client: "CN=alice"}, "HTTP/2.0",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second on the same connection
				resp, body := get(t, tt.client, tt.url+"/?bytes=70000")
				require.Equal(t, 200, resp.StatusCode)
				require.Len(t, body, 70000)
			}
			_, body := get(t, tt.client, tt.url)
			var a echo.Answer
			require.NoError(t, json.Unmarshal([]byte(body), &a))
			require.Equal(t, tt.tls, a.TLS)
			require.Equal(t, tt.protocol, a.Protocol)
		})
	}
	t.Run("behind the PROXY protocol", func(t *testing.T) {
		c, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		_, err = io.WriteString(c, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n")
		require.NoError(t, err)
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
		t.Cleanup(tr.CloseIdleConnections)
		_, body := get(t, &http.Client{Transport: tr, Timeout: 10 * time.Second}, "https://shop_api")
		var a echo.Answer
		require.NoError(t, json.Unmarshal([]byte(body), &a))
		require.Equal(t, "v1 192.0.2.1:4711", a.Proxy)
		require.NotNil(t, a.TLS)
	})
	t.Run("WebSocket", func(t *testing.T) {
		cfg, err := websocket.NewConfig("wss://shop_api/", "https://anywhere.example")
		require.NoError(t, err)
		c, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "shop_api"})
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		ws, err := websocket.NewClient(cfg, c)
		require.NoError(t, err)
		defer ws.Close()
		require.NoError(t, websocket.Message.Send(ws, "hello"))
		var back string
		require.NoError(t, websocket.Message.Receive(ws, &back))
		require.Equal(t, "hello", back)
	})
	t.Run("gRPC health", func(t *testing.T) {
		conn, err := grpc.NewClient(s.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "shop_api"})))
		require.NoError(t, err)
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
	})
	t.Run("a client that does not trust it", func(t *testing.T) {
		seen := s.Seen()
		_, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: "shop_api"})
		require.Error(t, err)
		require.Equal(t, seen, s.Seen())
	})
	t.Run("an idle connection ends with the task", func(t *testing.T) {
		c, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "shop_api"})
		require.NoError(t, err)
		defer c.Close()
		s.Kill()
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Read(make([]byte, 1))
		require.Error(t, err)
	})
}

func TestWithoutTLSNothingIsDecrypted(t *testing.T) {
	s, _ := start(t, echo.Options{})
	c, err := net.Dial("tcp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	require.Error(t, tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()))
}
