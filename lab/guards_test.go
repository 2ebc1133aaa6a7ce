package lab

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// TestGuards is what an example of the label language cannot say: what is kept when
// other things change, and how bodies flow.
func TestGuards(t *testing.T) {
	b := benchFor(t, config.ForCollections(nil))
	services := map[string]map[string]string{
		"limited": {"hosts": "limited.example.com", "port": "80", "rate_limit": "1/m"},
		"small":   {"hosts": "small.example.com", "port": "80", "max_body_size": "100000"},
		"other":   {"hosts": "other.example.com", "port": "80"},
	}
	deploy := func(t *testing.T) {
		t.Helper()
		p := &watcher.Picture{Services: map[string]*watcher.Service{}}
		for name, labels := range services {
			s := &watcher.Service{ID: name, Name: name, Mode: watcher.Replicated, Replicas: 1, Labels: map[string]string{}}
			for k, v := range labels {
				s.Labels["com.docker.lb."+k] = v
			}
			p.Services[name] = s
		}
		b.apply(t, p)
	}
	status := func(t *testing.T, host string) int {
		t.Helper()
		resp, _ := b.send(t, at(host))
		return resp.StatusCode
	}
	deploy(t)

	t.Run("a limit survives changes of other routes", func(t *testing.T) {
		require.Equal(t, 200, status(t, "limited.example.com"))
		require.Equal(t, 429, status(t, "limited.example.com"))
		for _, root := range []string{"/a", "/b"} {
			services["other"]["context_root"] = root
			deploy(t)
			require.Equal(t, 429, status(t, "limited.example.com"))
		}
		delete(services["other"], "context_root")
		// As the label reference says: Envoy makes all buckets with the filter's configuration.
		services["other"]["rate_limit"] = "100/s"
		deploy(t)
		require.Equal(t, 200, status(t, "limited.example.com"))
		require.Equal(t, 429, status(t, "limited.example.com"))
		delete(services["other"], "rate_limit")
		deploy(t)
	})

	t.Run("a stream is counted, not buffered", func(t *testing.T) {
		read, write := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+b.proxy("default")+"/", read)
		require.NoError(t, err)
		req.Host = "small.example.com"
		go func() {
			chunk := strings.Repeat("x", 10_000)
			for range 11 { // without Content-Length
				if _, err := io.WriteString(write, chunk); err != nil {
					break
				}
			}
			_ = write.Close()
		}()
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr, Timeout: deadline}).Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, 413, resp.StatusCode)
		require.Equal(t, "too_large", resp.Header.Get("X-Waggle-Reason"))
	})

	t.Run("whoever says websocket and sends a body has sent a body", func(t *testing.T) {
		for _, length := range []string{"Content-Length: 110000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1adb0\r\n"} {
			for _, method := range []string{"GET", "POST"} {
				conn, err := net.Dial("tcp", b.proxy("default"))
				require.NoError(t, err)
				defer conn.Close()
				require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
				_, err = io.WriteString(conn, method+" / HTTP/1.1\r\nHost: small.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+length)
				require.NoError(t, err)
				_, _ = io.WriteString(conn, strings.Repeat("x", 110_000)) // the answer may come before its end
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err, "%s %q", method, length)
				require.NoError(t, resp.Body.Close())
				// 413, unless Envoy or the task refuses such a handshake for what it is.
				require.Contains(t, []int{400, 405, 413}, resp.StatusCode, "%s %q", method, length)
			}
		}
	})

	t.Run("a websocket is no body", func(t *testing.T) {
		config, err := websocket.NewConfig("ws://small.example.com/", "http://small.example.com/")
		require.NoError(t, err)
		conn, err := net.Dial("tcp", b.proxy("default"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
		ws, err := websocket.NewClient(config, conn)
		require.NoError(t, err)
		said := strings.Repeat("x", 30_000)
		for range 5 {
			require.NoError(t, websocket.Message.Send(ws, said))
			var heard string
			require.NoError(t, websocket.Message.Receive(ws, &heard))
			require.Equal(t, said, heard)
		}
	})

	t.Run("guards come and go without the listener", func(t *testing.T) {
		for _, guards := range []map[string]string{
			{"allow_ips": "127.0.0.0/8"}, {"deny_ips": "127.0.0.1", "rate_limit": "10/s"}, {"cors_origins": "*", "max_body_size": "10"}, {"rate_limit": "nonsense"}, {},
		} {
			other := map[string]string{"hosts": "other.example.com", "port": "80"}
			want := 200
			for k, v := range guards {
				other[k] = v
				switch {
				case k == "deny_ips":
					want = 403
				case v == "nonsense":
					want = 503
				}
			}
			services["other"] = other
			deploy(t)
			require.Equal(t, want, status(t, "other.example.com"), "%v", guards)
		}
		stats, err := b.fleet[0].Get(t.Context(), "/stats?filter=^listener_manager.listener_(modified|in_place_updated|added)$")
		require.NoError(t, err)
		require.Equal(t, "listener_manager.listener_added: 1\nlistener_manager.listener_in_place_updated: 0\nlistener_manager.listener_modified: 0\n", stats)
		rejected, err := b.fleet[0].Get(t.Context(), "/stats?filter=update_rejected")
		require.NoError(t, err)
		for line := range strings.Lines(rejected) {
			require.True(t, strings.HasSuffix(line, ": 0\n"), line)
		}
	})
}
