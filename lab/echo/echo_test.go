package echo_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waggle-lb/waggle/lab/echo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return lis
}

func start(t *testing.T, o echo.Options) (s *echo.Server, url string) {
	t.Helper()
	s = echo.Start(listen(t), o)
	t.Cleanup(s.Kill)
	return s, "http://" + s.Addr().String()
}

// client is one whose connections end with the test.
func client(t *testing.T, h2c bool) *http.Client {
	var p http.Protocols
	p.SetHTTP1(!h2c)
	p.SetUnencryptedHTTP2(h2c)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(body)
}

func TestAnswerSaysWhatReachedTheTask(t *testing.T) {
	for name, h2c := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			_, url := start(t, echo.Options{Service: "shop_api", Task: "shop_api.2"})
			req, err := http.NewRequest(http.MethodPost, url+"/a%2Fb/c?x=1&y=<2>", strings.NewReader("body"))
			require.NoError(t, err)
			req.Host = "api.example.com:8443"
			req.Header.Set("X-Given", "yes")
			resp, err := client(t, h2c).Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()

			var got echo.Answer
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.Equal(t, "shop_api", resp.Header.Get("X-Waggle-Service"))
			require.Equal(t, "shop_api.2", resp.Header.Get("X-Waggle-Task"))
			require.Equal(t, []string{"yes"}, got.Headers["X-Given"])
			got.Headers = nil
			require.Equal(t, echo.Answer{
				Service: "shop_api", Task: "shop_api.2", Method: "POST", Host: "api.example.com:8443",
				Path: "/a%2Fb/c", Query: "x=1&y=<2>", Protocol: name,
			}, got)
		})
	}
}

func TestQueryAsksForAnswers(t *testing.T) {
	_, url := start(t, echo.Options{})
	c := client(t, false)
	for _, tc := range []struct {
		query  string
		status int
		bytes  int // -1: not looked at
		says   string
	}{
		{"?status=503", 503, -1, `"query":"status=503"`},
		{"?bytes=0", 200, 0, ""},
		{"?bytes=100000", 200, 100000, ""},
		{"?bytes=10&status=404", 404, 10, ""},
		{"?bytes=67108865", 400, -1, "want 0 to 67108864"},
		{"?bytes=-1", 400, -1, "want 0 to"},
		{"?status=100", 400, -1, "want 200 to 599"},
		{"?status=x", 400, -1, "want 200 to 599"},
		{"?delay=soon", 400, -1, "want a duration such as 2s"},
		{"?delay=11m", 400, -1, "at most 10m0s"},
		{"?delay=1ms", 200, -1, `"path":"/"`},
	} {
		t.Run(tc.query, func(t *testing.T) {
			resp, body := get(t, c, url+"/"+tc.query)
			require.Equal(t, tc.status, resp.StatusCode)
			require.Contains(t, body, tc.says)
			if tc.bytes >= 0 {
				require.Len(t, body, tc.bytes)
			}
		})
	}
}

func TestDelayIsKept(t *testing.T) {
	_, url := start(t, echo.Options{Delay: 30 * time.Millisecond})
	began := time.Now()
	get(t, client(t, false), url)
	require.GreaterOrEqual(t, time.Since(began), 30*time.Millisecond, "the option's delay")
	began = time.Now()
	get(t, client(t, false), url+"/?delay=60ms")
	require.GreaterOrEqual(t, time.Since(began), 60*time.Millisecond, "the request's delay")
}

func TestWebSocketEchoes(t *testing.T) {
	s, url := start(t, echo.Options{Service: "chat"})
	ws, err := websocket.Dial("ws"+strings.TrimPrefix(url, "http")+"/ws", "", "http://anywhere.example")
	require.NoError(t, err)
	defer ws.Close()
	require.NoError(t, ws.SetDeadline(time.Now().Add(10*time.Second)))

	for _, m := range []string{"hello", "again"} {
		require.NoError(t, websocket.Message.Send(ws, m))
		var back string
		require.NoError(t, websocket.Message.Receive(ws, &back))
		require.Equal(t, m, back)
	}
	s.Kill() // a killed task cuts its sockets too
	var back string
	require.Error(t, websocket.Message.Receive(ws, &back))
}

func TestGRPCHealth(t *testing.T) {
	s, _ := start(t, echo.Options{})
	conn, err := grpc.NewClient(s.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.Status)
}

// slowGet asks in the background and gives the outcome.
func slowGet(t *testing.T, c *http.Client, url string) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		resp, err := c.Get(url)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		result <- err
	}()
	return result
}

func TestServeFinishesOpenRequests(t *testing.T) {
	lis := listen(t)
	addr := lis.Addr().String()
	require.NoError(t, lis.Close())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- echo.Serve(ctx, echo.Options{Addr: addr, Task: "t.1"}) }()
	require.Eventually(t, func() bool { return echo.Check(t.Context(), addr) == nil }, 10*time.Second, 5*time.Millisecond)

	c := client(t, false)
	get(t, c, "http://"+addr) // a kept-alive connection, which the next request takes
	slow := slowGet(t, c, "http://"+addr+"/?delay=300ms&bytes=100000")
	idle := client(t, false)
	get(t, idle, "http://"+addr+"/?delay=50ms") // by the time it is answered the slow one is open
	cancel()

	require.NoError(t, <-slow, "an open request finishes")
	require.NoError(t, <-ended)
	_, err := idle.Get("http://" + addr)
	require.Error(t, err, "nobody listens any more")
	require.Error(t, echo.Check(t.Context(), addr))
}

func TestServeSaysWhatItCouldNotListenOn(t *testing.T) {
	lis := listen(t)
	defer lis.Close()
	err := echo.Serve(t.Context(), echo.Options{Addr: lis.Addr().String(), Task: "shop_api.1"})
	require.ErrorContains(t, err, "echo task shop_api.1: listen on "+lis.Addr().String())
}

func TestKillCutsOpenRequests(t *testing.T) {
	s, url := start(t, echo.Options{})
	slow := slowGet(t, client(t, false), url+"/?delay=1m")
	get(t, client(t, false), url+"/?delay=50ms")
	s.Kill()
	require.Error(t, <-slow)
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	s, url := start(t, echo.Options{})
	slow := slowGet(t, client(t, false), url+"/?delay=1m")
	get(t, client(t, false), url+"/?delay=50ms")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	require.Error(t, <-slow)
}

func TestCheckSeesMoreThanAnOpenPort(t *testing.T) {
	s, _ := start(t, echo.Options{Delay: time.Minute})
	require.NoError(t, echo.Check(t.Context(), s.Addr().String()), "slow is not dead")
	require.Error(t, echo.Check(t.Context(), "no port"))

	lis := listen(t) // accepts, never answers
	defer lis.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Error(t, echo.Check(ctx, lis.Addr().String()))
}

func TestTCPEchoes(t *testing.T) {
	lis := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- echo.ServeTCP(ctx, lis) }()
	c, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write([]byte("ping"))
	require.NoError(t, err)
	buf := make([]byte, 4)
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf))

	cancel()
	require.NoError(t, <-ended)
	_, err = c.Read(buf)
	require.Error(t, err, "connections end with the task")
}

func TestUDPEchoes(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- echo.ServeUDP(ctx, pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write([]byte("ping"))
	require.NoError(t, err)
	buf := make([]byte, 16)
	n, err := c.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf[:n]))
	cancel()
	require.NoError(t, <-ended)
}
