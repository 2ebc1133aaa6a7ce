package lab

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/echo"
	"github.com/waggle-lb/waggle/translate/cases"
	"github.com/waggle-lb/waggle/translate/cases/certs"
)

// TestTLSToTheTask is what an example of the label language cannot say about TLS to
// tasks: clients of other kinds, tasks that come, go and fail, authorities that change.
func TestTLSToTheTask(t *testing.T) {
	made, err := certs.Make(map[string]cases.Cert{"another": {CA: true, By: "itself"}})
	require.NoError(t, err)
	dir := t.TempDir()
	save := func(name string, content []byte) {
		t.Helper()
		next := filepath.Join(dir, "."+name)
		require.NoError(t, os.WriteFile(next, content, 0o600))
		require.NoError(t, os.Rename(next, filepath.Join(dir, name)))
	}
	save("tasks-ca", made.Chain(certs.Local))
	save("wrong-ca", made.Chain("another"))
	cfg := config.ForCollections(nil)
	cfg.Collections["default"].Certificates.Directories = []string{dir}
	d := &destination{bench: benchFor(t, cfg)}
	verified := func(more map[string]string) map[string]string {
		says := map[string]string{"ssl_backend": "true", "ssl_backend_tls_verify": "tasks-ca"}
		maps.Copy(says, more)
		return says
	}
	d.deploy(t, map[string]map[string]string{
		"plain": verified(nil), "calls": verified(map[string]string{"protocol": "grpc", "health_path": "/"}),
		"auto": verified(map[string]string{"protocol": "auto"}), "h2:2": verified(map[string]string{"protocol": "http2"}),
		"updated:2": verified(nil), "checked:2": verified(map[string]string{"health_path": "/", "health_interval": "1s"}), "pinned:2": verified(map[string]string{"sticky_sessions": "pin"}),
		"spare": verified(nil), "copied": {"mirror": "spare"},
		"asks": {"ext_auth": "spare"}, "turns": verified(map[string]string{"ssl_backend_tls_verify": "wrong-ca"}),
		"main:1": verified(map[string]string{"failover": "spare"}),
	})
	t.Run("WebSocket", func(t *testing.T) {
		cfg, err := websocket.NewConfig("ws://plain.test/chat", "http://plain.test")
		require.NoError(t, err)
		conn, err := net.Dial("tcp", d.proxy("default"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
		ws, err := websocket.NewClient(cfg, conn)
		require.NoError(t, err)
		require.NoError(t, websocket.Message.Send(ws, "hello"))
		var back string
		require.NoError(t, websocket.Message.Receive(ws, &back))
		require.Equal(t, "hello", back)
	})
	t.Run("a WebSocket where the task may speak HTTP/2 sets no task aside", func(t *testing.T) {
		upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		for range 8 {
			require.Equal(t, 403, d.ask(t, "GET", "auto", "/", upgrade).StatusCode)
		}
		require.Equal(t, "HTTP/2.0", d.works(t, "GET", "auto", "/", nil).Protocol)
	})
	t.Run("gRPC", func(t *testing.T) {
		conn, err := grpc.NewClient(d.proxy("default"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("calls.test"))
		require.NoError(t, err)
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, health.Status)
	})
	t.Run("who else goes there", func(t *testing.T) {
		before := d.seen(t, "spare")
		require.Nil(t, d.works(t, "GET", "copied", "/", nil).Answer.TLS)
		require.Eventually(t, func() bool { return d.seen(t, "spare") == before+1 }, deadline, 5*time.Millisecond, "the copy")
		a := d.works(t, "GET", "asks", "/", nil)
		require.Equal(t, "asks", a.Service)
	})
	t.Run("authorities that change", func(t *testing.T) {
		a := d.ask(t, "GET", "turns", "/", nil)
		require.Equal(t, 503, a.StatusCode)
		require.Equal(t, "unreachable", a.Header.Get("X-Waggle-Reason"))
		save("wrong-ca", made.Chain(certs.Local))
		require.Eventually(t, func() bool { return d.ask(t, "GET", "turns", "/", nil).StatusCode == 200 }, deadline, 10*time.Millisecond)
		save("wrong-ca", []byte("no certificate"))
		save("tasks-ca", []byte("no certificate"))
		for range 20 { // what was there before stays in force
			d.works(t, "GET", "turns", "/", nil)
		}
		require.NoError(t, os.Remove(filepath.Join(dir, "wrong-ca")))
		require.Eventually(t, func() bool {
			a := d.ask(t, "GET", "turns", "/", nil)
			return a.StatusCode == 503 && a.Header.Get("X-Waggle-Reason") == "guard_unavailable"
		}, deadline, 10*time.Millisecond)
		save("wrong-ca", made.Chain(certs.Local))
		save("tasks-ca", made.Chain(certs.Local))
		require.Eventually(t, func() bool { return d.ask(t, "GET", "turns", "/", nil).StatusCode == 200 }, deadline, 10*time.Millisecond)
	})
	for _, host := range []string{"updated", "checked", "h2", "pinned"} {
		t.Run("an update loses no request: "+host, func(t *testing.T) { d.updates(t, host) })
	}
	var a echo.Answer
	require.NoError(t, json.Unmarshal([]byte(d.works(t, "GET", "h2", "/", nil).body), &a))
	require.Equal(t, &echo.TLS{Version: "1.3", ServerName: "h2.test"}, a.TLS)
}
