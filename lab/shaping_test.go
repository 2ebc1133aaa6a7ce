package lab

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/websocket"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// TestShaping is what an example of the label language cannot say: connections that
// are upgraded, the access log, how long a delayed request takes, and that none of it
// touches the listener.
func TestShaping(t *testing.T) {
	cfg := config.ForCollections([]string{"default", "logging"})
	cfg.Collections["logging"].AccessLog = true
	b := benchFor(t, cfg)
	services := map[string]map[string]string{
		"chat":    {"hosts": "chat.example.com", "compression": "gzip,br,zstd"},
		"shut":    {"hosts": "shut.example.com", "websocket": "false"},
		"slow":    {"hosts": "slow.example.com", "fault_delay": "300ms,100%"},
		"half":    {"hosts": "half.example.com", "fault_abort": "500,50%"},
		"seen":    {"hosts": "seen.example.com", "access_log": "true"},
		"moved":   {"hosts": "moved.example.com", "redirect": "https://new.example.com", "access_log": "true"},
		"denied":  {"hosts": "denied.example.com", "deny_ips": "127.0.0.0/8", "access_log": "true"},
		"unseen":  {"hosts": "unseen.example.com"},
		"public":  {"hosts": "public.example.com", "service_cluster": "logging"},
		"private": {"hosts": "private.example.com", "service_cluster": "logging", "access_log": "false"},
	}
	deploy := func(t *testing.T) {
		t.Helper()
		p := &watcher.Picture{Services: map[string]*watcher.Service{}}
		for name, labels := range services {
			s := &watcher.Service{ID: name, Name: name, Mode: watcher.Replicated, Replicas: 1, Labels: map[string]string{"com.docker.lb.port": "80"}}
			if labels["service_cluster"] == "" {
				s.Labels["com.docker.lb.service_cluster"] = "default"
			}
			for k, v := range labels {
				s.Labels["com.docker.lb."+k] = v
			}
			p.Services[name] = s
		}
		b.apply(t, p)
	}
	status := func(t *testing.T, r request) int {
		t.Helper()
		resp, _ := b.send(t, r)
		return resp.StatusCode
	}
	deploy(t)

	t.Run("messages of a WebSocket come back as they are, also where responses are compressed", func(t *testing.T) {
		ws, err := b.chat("chat.example.com")
		require.NoError(t, err)
		defer ws.Close()
		require.NoError(t, ws.SetDeadline(time.Now().Add(deadline)))
		said := strings.Repeat("hello ", 1000)
		require.NoError(t, websocket.Message.Send(ws, said))
		var back string
		require.NoError(t, websocket.Message.Receive(ws, &back))
		require.Equal(t, said, back)

		_, err = b.chat("shut.example.com")
		require.Error(t, err)
		require.Equal(t, 200, status(t, at("shut.example.com")))
	})

	t.Run("what is delayed takes that long", func(t *testing.T) {
		began := time.Now()
		require.Equal(t, 200, status(t, at("slow.example.com")))
		require.GreaterOrEqual(t, time.Since(began), 290*time.Millisecond) // Envoy's clock is a coarse one
	})

	t.Run("half of the requests fail", func(t *testing.T) {
		got := map[int]int{}
		for range 100 {
			got[status(t, at("half.example.com"))]++
		}
		require.Equal(t, 100, got[200]+got[500])
		require.InDelta(t, 50, got[500], 30, "%v", got)
	})

	t.Run("the access log has the requests of routes that say so, else as the collection does", func(t *testing.T) {
		for _, host := range []string{"unseen", "nobody", "seen", "moved", "denied"} {
			status(t, at(host+".example.com", "/logged"))
		}
		for _, host := range []string{"private", "nobody", "public"} {
			status(t, request{in: "logging", host: host + ".example.com", path: "/logged"})
		}
		require.Equal(t, []string{"seen 200", "moved 302", "denied 403"}, b.accessLog(t, request{host: "seen.example.com"}, 3))
		require.Equal(t, []string{"nobody 503", "public 200"}, b.accessLog(t, request{in: "logging", host: "public.example.com"}, 2))
	})

	t.Run("they come and go without the listener", func(t *testing.T) {
		for _, shaping := range []map[string]string{
			{"compression": "gzip,br,zstd"}, {"websocket": "false"}, {"access_log": "true"}, {"fault_delay": "1ms,1%", "fault_abort": "503,0"},
			{"set_response_header.X-A": "b"}, {},
		} {
			shaping["hosts"] = "unseen.example.com"
			services["unseen"] = shaping
			deploy(t)
			require.Equal(t, 200, status(t, at("unseen.example.com")), "%v", shaping)
		}
		for _, p := range b.fleet {
			stats, err := p.Get(t.Context(), "/stats?filter=^listener_manager.listener_(modified|in_place_updated|added)$")
			require.NoError(t, err)
			require.Equal(t, "listener_manager.listener_added: 1\nlistener_manager.listener_in_place_updated: 0\nlistener_manager.listener_modified: 0\n", stats)
			rejected, err := p.Get(t.Context(), "/stats?filter=update_rejected")
			require.NoError(t, err)
			for line := range strings.Lines(rejected) {
				require.True(t, strings.HasSuffix(line, ": 0\n"), line)
			}
		}
	})
}

// chat opens a WebSocket as browsers do, which take compressed responses.
func (b *bench) chat(host string) (*websocket.Conn, error) {
	c, err := websocket.NewConfig("ws://"+host+"/", "http://"+host)
	if err != nil {
		return nil, err
	}
	c.Header = http.Header{"Accept-Encoding": {"gzip, deflate, br, zstd"}}
	conn, err := net.DialTimeout("tcp", b.proxy("default"), deadline)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	ws, err := websocket.NewClient(c, conn)
	if err != nil {
		_ = conn.Close()
	}
	return ws, err
}

// accessLog waits until n requests for /logged stand in the log of a proxy and gives
// them, "host status". Envoy writes when 64 KiB have come together, or after ten
// seconds: more gives it something to write.
func (b *bench) accessLog(t *testing.T, more request, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	// Lines are written in their order: what had to be left out before the last would be there.
	for {
		lines := b.logged(t, cmp.Or(more.in, "default"))
		if len(lines) >= n {
			return lines
		}
		require.NoError(t, ctx.Err(), "%d lines wanted, there are %v", n, lines)
		for range 50 {
			b.send(t, more)
		}
	}
}

func (b *bench) logged(t *testing.T, collection string) []string {
	t.Helper()
	var out []string
	for _, p := range b.fleet {
		if p.Name() != collection {
			continue
		}
		f, err := os.Open(p.Log())
		require.NoError(t, err)
		defer f.Close()
		r := bufio.NewReader(f)
		for {
			line, err := r.ReadString('\n')
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			var l struct {
				Authority, Path string
				Status          int
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Path == "/logged" {
				out = append(out, fmt.Sprintf("%s %d", strings.TrimSuffix(l.Authority, ".example.com"), l.Status))
			}
		}
	}
	return out
}
