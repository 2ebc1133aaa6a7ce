package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHandler(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waggle_test"}, func() float64 { return 7 }))
	notReady := errors.New("no complete picture yet")
	for _, c := range []struct {
		name, address, token string
		ready                error
		path, host, auth     string
		status               int
		body                 string
	}{
		{name: "alive", path: "/healthz", status: 200, body: "alive"},
		{name: "alive while not ready", ready: notReady, path: "/healthz", status: 200, body: "alive"},
		{name: "ready", path: "/readyz", status: 200, body: "ready"},
		{name: "not ready says why", ready: notReady, path: "/readyz", status: 503, body: "not ready: no complete picture yet"},
		{name: "metrics", path: "/metrics", status: 200, body: "waggle_test 7"},
		{name: "unknown path", path: "/quitquitquit", status: 404},
		{name: "a page that resolves to us", path: "/metrics", host: "evil.example.com", status: 421},
		{name: "localhost by name", path: "/metrics", host: "LocalHost:19000", status: 200},
		{name: "IPv6 loopback", path: "/metrics", host: "[::1]:19000", status: 200},
		{name: "any host on a public address", address: "0.0.0.0:19000", token: "s3cret", path: "/healthz", host: "waggle", status: 200},
		{name: "no token", address: "0.0.0.0:19000", token: "s3cret", path: "/metrics", host: "waggle", status: 401, body: "admin.token_file"},
		{name: "wrong token", address: "0.0.0.0:19000", token: "s3cret", path: "/metrics", host: "waggle", auth: "Bearer s3creT", status: 401},
		{name: "right token", address: "0.0.0.0:19000", token: "s3cret", path: "/metrics", host: "waggle", auth: "Bearer s3cret", status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.address == "" {
				c.address = "127.0.0.1:19000"
			}
			r := httptest.NewRequest(http.MethodGet, c.path, nil)
			r.Host = "127.0.0.1:19000"
			if c.host != "" {
				r.Host = c.host
			}
			if c.auth != "" {
				r.Header.Set("Authorization", c.auth)
			}
			w := httptest.NewRecorder()
			Handler(Options{Address: c.address, Token: c.token, Ready: func() error { return c.ready }, Metrics: reg}).ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), c.body)
		})
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, lis, Handler(Options{Address: lis.Addr().String(), Ready: func() error { return nil }, Metrics: prometheus.NewRegistry()}))
	}()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get("http://" + lis.Addr().String() + "/readyz")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "ready\n", string(body))
	cancel()
	require.NoError(t, <-ended)
}
