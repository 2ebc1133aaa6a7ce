package launch

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two proxies behind a balancer that checks them are replaced one after the other,
// under load on kept connections: no request fails.
func TestReplacingProxiesLosesNothing(t *testing.T) {
	a, b := newCollection(t, "a"), newCollection(t, "b")
	plane := controlPlane(t, backend(t), a, b)
	proxies := [2]*proxy{}
	lb := &balancer{client: client(t)}
	for i, c := range []collection{a, b} {
		o := options(t, c, plane)
		o.Drain, o.DrainDelay = 4*time.Second, 500*time.Millisecond
		proxies[i] = launch(t, c, o)
		lb.targets[i].url, lb.targets[i].ready = "http://"+c.http, proxies[i].ready
	}
	for _, p := range proxies {
		p.isReady(t)
	}
	stop := lb.load(t)
	for i, p := range proxies {
		lb.serves(t, i)
		p.signals <- syscall.SIGTERM
		require.NoError(t, p.end(t))
		require.Contains(t, p.log.String(), "msg=drained", "its open requests had the time they need")
		require.False(t, lb.targets[i].up.Load())
		proxies[i] = launch(t, p.collection, p.options).isReady(t)
		lb.serves(t, i)
	}
	stop()
	require.Empty(t, lb.failures)
	require.Greater(t, lb.targets[0].served.Load()+lb.targets[1].served.Load(), int64(500))
	require.Positive(t, lb.slow.Load())
}

// balancer asks each of two proxies every 50 ms whether it is ready, and sends
// requests to those that are, in turn. It never tries twice.
type balancer struct {
	client  *http.Client
	targets [2]struct {
		url, ready string
		up         atomic.Bool
		served     atomic.Int64
	}
	next, slow atomic.Int64

	mu       sync.Mutex
	failures []string
}

// load runs until the end is called, from ten clients.
func (b *balancer) load(t *testing.T) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range b.targets {
		work.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				b.targets[i].up.Store(status(b.client, b.targets[i].ready) == http.StatusOK)
				<-tick.C
			}
		})
	}
	end = sync.OnceFunc(func() {
		cancel()
		work.Wait()
	})
	t.Cleanup(end)
	require.Eventually(t, func() bool { return b.targets[0].up.Load() && b.targets[1].up.Load() }, patience, 5*time.Millisecond)
	for i := range 10 {
		work.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				b.one(n)
			}
		})
	}
	return end
}

// one sends one request.
func (b *balancer) one(n int) {
	i := int(b.next.Add(1) % 2)
	if !b.targets[i].up.Load() {
		i = 1 - i
	}
	target := &b.targets[i]
	url, method, body := target.url+"/?delay=20ms", http.MethodGet, io.Reader(nil)
	if n%40 == 0 {
		url = target.url + "/?delay=1s"
		b.slow.Add(1)
	}
	if n%2 == 0 {
		// Without GetBody: Go's client must not send it again by itself.
		method, body = http.MethodPost, io.MultiReader(strings.NewReader("body"))
	}
	req, err := http.NewRequest(method, url, body)
	if err == nil {
		var res *http.Response
		if res, err = b.client.Do(req); err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if err == nil && res.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", res.StatusCode)
			}
		}
	}
	target.served.Add(1)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.failures = append(b.failures, fmt.Sprintf("%s %s: %v", method, url, err))
	}
}

// serves waits until a proxy serves requests.
func (b *balancer) serves(t *testing.T, i int) {
	t.Helper()
	before := b.targets[i].served.Load()
	require.Eventually(t, func() bool { return b.targets[i].served.Load() > before+50 }, patience, 5*time.Millisecond)
}

// Requests that are open when the signal comes finish; those that come later are
// served too, on connections that are closed then; and the end does not wait longer.
func TestOpenRequestsFinish(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = 20 * time.Second
	p := launch(t, c, o).isReady(t)
	web := client(t)
	answers := make(chan int, 5)
	for range cap(answers) {
		go func() { answers <- status(web, "http://"+c.http+"/?delay=2s") }()
	}
	requests(t, p, int64(cap(answers)))
	began := time.Now()
	p.signals <- syscall.SIGQUIT
	require.Eventually(t, func() bool { return status(web, p.ready) == http.StatusServiceUnavailable }, patience, time.Millisecond)
	require.Eventually(t, func() bool {
		res, err := web.Get("http://" + c.http)
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusOK && res.Close
	}, patience, 10*time.Millisecond, "who comes in the drain is served, and sent away")
	p.runs(t, 5*pollEvery)
	require.Equal(t, http.StatusOK, status(client(t), "http://"+c.http), "still")
	for range cap(answers) {
		require.Equal(t, http.StatusOK, <-answers)
	}
	require.NoError(t, p.end(t))
	require.Less(t, time.Since(began), 10*time.Second)
	_, err := net.Dial("tcp", c.http)
	require.True(t, refused(err), "%v", err)
}

// An HTTP/2 connection is given up by its client after the next answer.
func TestHTTP2ConnectionsAreSentAway(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = 20 * time.Second
	p := launch(t, c, o).isReady(t)
	web := client(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	web.Transport.(*http.Transport).Protocols = protocols
	require.Equal(t, http.StatusOK, status(web, "http://"+c.http))
	began := time.Now()
	p.signals <- syscall.SIGTERM
	p.runs(t, 5*pollEvery)
	require.Equal(t, http.StatusOK, status(web, "http://"+c.http))
	require.NoError(t, p.end(t))
	require.Contains(t, p.log.String(), "msg=drained idle=0")
	require.Less(t, time.Since(began), 10*time.Second)
}

// requests waits until the proxy has n requests open.
func requests(t *testing.T, p *proxy, n int64) {
	t.Helper()
	a := page(t, p)
	require.Eventually(t, func() bool {
		o, err := a.open(t.Context())
		return err == nil && o.requests == n
	}, patience, 10*time.Millisecond)
}

// page is the admin page of a proxy of the tests.
func page(t *testing.T, p *proxy) *admin {
	t.Helper()
	a, err := adminAt(p.options.Bootstrap.AdminAddress)
	require.NoError(t, err)
	t.Cleanup(a.close)
	return a
}

// A request that does not end is cut when the time is over; before that, nobody new
// is let in. Idle connections hold nothing up once that is so.
func TestTheDrainHasAnEnd(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = 3 * time.Second
	p := launch(t, c, o).isReady(t)
	web := client(t)
	require.Equal(t, http.StatusOK, status(web, "http://"+c.http), "leaves an idle connection")
	answer := make(chan int, 1)
	go func() { answer <- status(web, "http://"+c.http+"/?delay=1h") }()
	requests(t, p, 1)
	began := time.Now()
	p.signals <- syscall.SIGTERM
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", c.http)
		if err == nil {
			_ = conn.Close()
		}
		return refused(err)
	}, patience, 10*time.Millisecond)
	select {
	case <-answer:
		require.Fail(t, "the doors are closed before the open requests are cut")
	default:
	}
	require.NoError(t, p.end(t))
	require.Less(t, time.Since(began), o.Drain+time.Second)
	require.Zero(t, <-answer)
	require.Contains(t, p.log.String(), `msg="the time for the drain is over: what is still under way is cut" requests=1`)
}

func TestIdleConnectionsAreLeftAtTheEnd(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = 2 * time.Second
	p := launch(t, c, o).isReady(t)
	require.Equal(t, http.StatusOK, status(client(t), "http://"+c.http))
	p.signals <- syscall.SIGTERM
	require.NoError(t, p.end(t))
	require.Contains(t, p.log.String(), "msg=drained idle=1")
}

// Connections that are not HTTP are waited for too.
func TestRawConnectionsAreWaitedFor(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain = 20 * time.Second
	p := launch(t, c, o).isReady(t)
	conn, err := net.Dial("tcp", c.tcp)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	answers := bufio.NewReader(conn)
	ask := func() {
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nhost: backend\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	ask()
	p.signals <- syscall.SIGTERM
	p.runs(t, 5*pollEvery)
	ask()
	require.NoError(t, conn.Close())
	began := time.Now()
	require.NoError(t, p.end(t))
	require.Less(t, time.Since(began), 5*time.Second)
}

// Until the delay is over the proxy serves all who come, and says that it is not ready.
// The second signal ends the waiting.
func TestTheSecondSignalHastens(t *testing.T) {
	c := newCollection(t, "dev")
	o := options(t, c, controlPlane(t, backend(t), c))
	o.Drain, o.DrainDelay = 10*time.Minute, 5*time.Minute
	p := launch(t, c, o).isReady(t)
	p.signals <- syscall.SIGTERM
	require.Eventually(t, func() bool {
		_, err := Health(t.Context(), o.Bootstrap.AdminAddress, true)
		return err != nil && strings.Contains(err.Error(), "DRAINING")
	}, patience, 5*time.Millisecond)
	p.runs(t, 2*pollEvery)
	require.Equal(t, http.StatusOK, status(client(t), "http://"+c.http))
	p.signals <- syscall.SIGINT
	require.NoError(t, p.end(t))
	require.Contains(t, p.log.String(), "stopping without further waiting")
}

func TestCount(t *testing.T) {
	got, err := count("http.http.downstream_cx_active: 3\nhttp.https.downstream_cx_active: 2\nhttp.http.downstream_rq_active: 1\nhttp.https.downstream_rq_active: 1\n" +
		"http.admin.downstream_cx_active: 1\nhttp.admin.downstream_rq_active: 1\nlistener.admin.downstream_cx_active: 1\n" +
		"listener.http.downstream_cx_active: 3\nlistener.0.0.0.0_443.downstream_cx_active: 3\nlistener.tcp.downstream_cx_active: 4\n\n")
	require.NoError(t, err)
	require.Equal(t, open{requests: 2, connections: 10, raw: 5}, got)
	got, err = count("http.http.downstream_cx_active: 3\n")
	require.NoError(t, err)
	require.Equal(t, open{connections: 3}, got)
	_, err = count("http.http.downstream_cx_active: many\n")
	require.ErrorContains(t, err, `"many" is not a number`)
}
