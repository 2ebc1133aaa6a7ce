package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds"
)

// event is one server-sent event as a reader sees it.
type event struct{ name, data string }

func (e event) read(t *testing.T, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(e.data), into), e.data)
}

// listen reads events until the test or the stream ends; the channel is then closed.
func listen(t *testing.T, base string) <-chan event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/events", nil)
	require.NoError(t, err)
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	events := make(chan event, 1000)
	go func() {
		defer close(events)
		defer res.Body.Close()
		var e event
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "":
				if e.name != "" {
					events <- e
				}
				e = event{}
			}
		}
	}()
	return events
}

// next waits for one event.
func next(t *testing.T, events <-chan event, name string) event {
	t.Helper()
	select {
	case e, ok := <-events:
		require.True(t, ok, "the stream ended before %s", name)
		require.Equal(t, name, e.name, e.data)
		return e
	case <-time.After(20 * time.Second):
		require.FailNow(t, "no event", name)
		return event{}
	}
}

// until waits for one event, whatever comes before it.
func until(t *testing.T, events <-chan event, name string) event {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-events:
			require.True(t, ok, "the stream ended before %s", name)
			if e.name == name {
				return e
			}
		case <-deadline:
			require.FailNow(t, "no event", name)
		}
	}
}

func TestEvents(t *testing.T) {
	l, s := built(twoCollections(), shop()), &server{proxies: fleet[:1]}
	h := httptest.NewServer(handler(newTestAPI(l, s), ""))
	t.Cleanup(h.Close) // after the reader's own end
	events := listen(t, h.URL)

	var status api.Status
	next(t, events, api.EventStatus).read(t, &status)
	require.Equal(t, "r1", status.Replica)

	l.tell(control.Step{At: epoch, Kind: control.BuildStep, Structure: true, Changed: map[string]int{"prod": 3}})
	l.tell(control.Step{At: epoch, Kind: control.BuildStep})
	l.tell(control.Step{At: epoch, Kind: control.SourceStep, Err: errDaemon})
	l.tell(control.Step{At: epoch, Kind: control.SourceStep})
	l.tell(control.Step{At: epoch, Kind: control.ConfigStep})
	require.JSONEq(t, `{"at":"2026-01-01T00:00:00Z","kind":"structure","collections":{"prod":3}}`, next(t, events, api.EventBuild).data)
	require.JSONEq(t, `{"at":"2026-01-01T00:00:00Z","kind":"endpoints","collections":{}}`, next(t, events, api.EventBuild).data)
	var fault api.FaultEvent
	next(t, events, api.EventSource).read(t, &fault)
	require.Equal(t, errDaemon.Error(), fault.Error)
	next(t, events, api.EventSource).read(t, &fault)
	require.Empty(t, fault.Error)
	next(t, events, api.EventConfig)

	second := fleet[1]
	second.Kinds = nil
	s.set(fleet[0], second)
	var p api.ProxyEvent
	next(t, events, api.EventProxyConnected).read(t, &p)
	require.Equal(t, api.ProxyEvent{At: epoch, NodeID: "prod/2", Collection: "prod", Instance: "2", Version: "1.40.0", Address: "10.9.0.2:4000"}, p)

	s.set(fleet[0], fleet[1]) // with its rejection
	next(t, events, api.EventProxyRejected).read(t, &p)
	require.Equal(t, "prod/2", p.NodeID)
	require.Equal(t, &api.NACK{At: epoch.Add(time.Hour), Kind: "routes", Version: "bb", Resources: []string{"http"}, Message: "no such cluster"}, p.NACK)

	again := fleet[1]
	again.Kinds = []xds.ProxyKind{{Kind: translate.Routes, NACK: &xds.NACK{At: epoch.Add(2 * time.Hour), Message: "still not"}}}
	s.set(fleet[0], again) // a newer one of the same kind
	next(t, events, api.EventProxyRejected).read(t, &p)
	require.Equal(t, "still not", p.NACK.Message)

	s.set(again)
	next(t, events, api.EventProxyDisconnected).read(t, &p)
	require.Equal(t, "prod/1", p.NodeID)
}

// Who does not read is dropped, and told so, and holds up nobody.
func TestSlowReaderIsDropped(t *testing.T) {
	h := &hub{readers: map[*reader]struct{}{}}
	slow, quick := h.join(), h.join()
	for range backlog {
		h.tell(control.Step{})
		<-quick.steps
	}
	require.Len(t, h.readers, 2)
	h.tell(control.Step{Kind: control.BuildStep})
	require.Equal(t, control.BuildStep, (<-quick.steps).Kind)
	require.Len(t, h.readers, 1)
	n := 0
	for range slow.steps { // what it had, and then the end
		n++
	}
	require.Equal(t, backlog, n)
	h.leave(slow)
	h.leave(quick)
	require.Empty(t, h.readers)
}

func TestDroppedReaderIsTold(t *testing.T) {
	l := built(twoCollections(), shop())
	a := newTestAPI(l, &server{})
	h := httptest.NewServer(handler(a, ""))
	t.Cleanup(h.Close) // after the reader's own end
	events := listen(t, h.URL)
	next(t, events, api.EventStatus)
	a.steps.mu.Lock()
	for r := range a.steps.readers {
		delete(a.steps.readers, r)
		close(r.steps)
	}
	a.steps.mu.Unlock()
	next(t, events, api.EventDropped)
	_, open := <-events
	require.False(t, open)
}

func TestReadersAreBounded(t *testing.T) {
	a := newTestAPI(built(twoCollections(), shop()), &server{})
	for range maxReaders {
		require.NotNil(t, a.steps.join())
	}
	require.Contains(t, refused(t, handler(a, ""), 503, "/api/v1/events"), "enough")
}

// Streams of events do not hold up the end of a control plane.
func TestEventsEndWithTheServer(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	a := newTestAPI(built(twoCollections(), shop()), &server{})
	go func() {
		ended <- Serve(ctx, lis, Handler(Options{
			Address: lis.Addr().String(), API: a, Ready: func() error { return nil }, Metrics: prometheus.NewRegistry(),
		}))
	}()
	events := listen(t, "http://"+lis.Addr().String())
	next(t, events, api.EventStatus)
	start := time.Now()
	cancel()
	require.NoError(t, <-ended)
	require.Less(t, time.Since(start), 2*time.Second, "it waited for the stream")
	_, open := <-events
	require.False(t, open)
	require.Empty(t, a.steps.readers)
}
