package echo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/websocket"
)

// What a request may ask for at most: an echo task is no way to fill a machine.
const (
	maxDelay   = 10 * time.Minute
	maxBytes   = 64 << 20
	maxMessage = 1 << 20 // of a WebSocket
)

// Headers that every answer carries.
const (
	ServiceHeader = "X-Waggle-Service"
	TaskHeader    = "X-Waggle-Task"
)

// Answer is the JSON body of every answer: what reached the task.
type Answer struct {
	Service  string      `json:"service"`
	Task     string      `json:"task"`
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"`
	Query    string      `json:"query"`
	Headers  http.Header `json:"headers"`
	TLS      *TLS        `json:"tls"` // null where the connection is plain
	Protocol string      `json:"protocol"`
	Proxy    string      `json:"proxy,omitempty"` // what the PROXY protocol said: "v1 192.0.2.1:4711"
}

func (s *Server) handler(o Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.seen.Add(1)
		w.Header().Set(ServiceHeader, o.Service)
		w.Header().Set(TaskHeader, o.Task)
		s.mu.Lock()
		status := s.answers[r.URL.Path]
		s.mu.Unlock()
		switch {
		case status != 0:
			w.WriteHeader(status)
		case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			s.grpc.ServeHTTP(w, r)
		case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
			s.socket(w, r, o)
		default:
			answer(w, r, o)
		}
	})
}

// answer does what the query asks and says what reached the task.
func answer(w http.ResponseWriter, r *http.Request, o Options) {
	want, err := parse(r.URL.Query(), o.Delay)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// A body that is left unread would cost the client its connection.
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBytes)); err != nil {
		return // the client is gone, or its body broken: nobody is left to answer
	}
	if want.delay > 0 {
		t := time.NewTimer(want.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return
		}
	}
	if want.reset {
		panic(http.ErrAbortHandler) // cuts the connection, as a task that crashes does
	}
	if want.bytes >= 0 {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(want.bytes))
		w.WriteHeader(want.status)
		writeBytes(w, want.bytes)
		return
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(Answer{
		Service: o.Service, Task: o.Task,
		Method: r.Method, Host: r.Host, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
		Headers: r.Header, TLS: tlsOf(r.Context()), Protocol: r.Proto, Proxy: proxySaid(r.Context()),
	}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(want.status)
	_, _ = w.Write(body.Bytes()) // fails only when the client is gone
}

type wanted struct {
	delay  time.Duration
	status int
	bytes  int // -1: the JSON body
	reset  bool
}

// parse reads ?delay=, ?status=, ?bytes= and ?reset; the errors are for the one who typed them.
func parse(q url.Values, delay time.Duration) (wanted, error) {
	w := wanted{delay: delay, status: http.StatusOK, bytes: -1, reset: q.Has("reset")}
	if v := q.Get("delay"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > maxDelay {
			return w, fmt.Errorf("delay=%s: want a duration such as 2s, at most %v", v, maxDelay)
		}
		w.delay = d
	}
	if v := q.Get("status"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 200 || n > 599 {
			return w, fmt.Errorf("status=%s: want 200 to 599", v)
		}
		w.status = n
	}
	if v := q.Get("bytes"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > maxBytes {
			return w, fmt.Errorf("bytes=%s: want 0 to %d", v, maxBytes)
		}
		w.bytes = n
	}
	return w, nil
}

func writeBytes(w io.Writer, n int) {
	chunk := bytes.Repeat([]byte("waggle. "), 4096)
	for n > 0 {
		m := min(n, len(chunk))
		if _, err := w.Write(chunk[:m]); err != nil {
			return
		}
		n -= m
	}
}

// message is one WebSocket message with its type, so that text comes back as text.
type message struct {
	payload []byte
	kind    byte
}

var messages = websocket.Codec{
	Marshal: func(v any) ([]byte, byte, error) {
		m := v.(*message)
		return m.payload, m.kind, nil
	},
	Unmarshal: func(payload []byte, kind byte, v any) error {
		m := v.(*message)
		m.payload, m.kind = payload, kind
		return nil
	},
}

func (s *Server) socket(w http.ResponseWriter, r *http.Request, o Options) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error { // any origin: nothing here is worth protecting
			c.Header = http.Header{ServiceHeader: {o.Service}, TaskHeader: {o.Task}}
			return nil
		},
		Handler: func(c *websocket.Conn) {
			defer s.track(c)()
			c.MaxPayloadBytes = maxMessage
			for {
				var m message
				if messages.Receive(c, &m) != nil || messages.Send(c, &m) != nil {
					return // either side hung up, or the message was too long
				}
			}
		},
	}.ServeHTTP(w, r)
}
