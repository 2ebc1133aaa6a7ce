package echo_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/lab/echo"
)

func TestPROXYProtocol(t *testing.T) {
	s, _ := start(t, echo.Options{Task: "t.1"})
	const request = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for _, tt := range []struct{ name, head, said string }{
		{"none", "", ""},
		{"v1", "PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n", "v1 192.0.2.1:4711"},
		{"v1 over IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n", "v1 [2001:db8::1]:4711"},
		{"v1 of a check", "PROXY UNKNOWN\r\n", "v1 unknown"},
		{"v2", v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x67\x00\x50", "v2 192.0.2.1:4711"},
		{"v2 of a check", v2 + "\x20\x00\x00\x00", "v2 unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := net.Dial("tcp", s.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
			_, err = io.WriteString(c, tt.head+request)
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			defer resp.Body.Close()
			var a echo.Answer
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&a))
			require.Equal(t, tt.said, a.Proxy)
			require.Equal(t, "/x", a.Path)
		})
	}
	for _, bad := range []string{"PROXY nonsense\r\n" + request, v2 + "\x21\x11\x00\xff"} {
		c, err := net.Dial("tcp", s.Addr().String())
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(c, bad)
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		raw, err := io.ReadAll(c)
		if err == nil {
			require.NotContains(t, string(raw), "200 OK")
		}
		c.Close()
	}
}

func TestATaskThatIsNotWell(t *testing.T) {
	s, url := start(t, echo.Options{})
	c := client(t, false)
	_, err := c.Get(url + "/?reset")
	require.ErrorIs(t, err, io.EOF)
	s.Answer("/up", 503)
	for path, want := range map[string]int{"/up?status=200": 503, "/": 200} {
		resp, err := c.Get(url + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, want, resp.StatusCode, path)
	}
	s.Answer("/up", 0)
	resp, err := c.Get(url + "/up")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	require.EqualValues(t, 4, s.Seen())
}
