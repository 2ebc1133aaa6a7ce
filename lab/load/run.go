package load

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Target.
const (
	DefaultTimeout     = 10 * time.Second
	DefaultMaxInFlight = 1000
)

// maxBody is how much of an answer is read; longer ones count as they are.
const maxBody = 64 << 20

// Target is what is asked, and how often.
type Target struct {
	Name   string  // for reports
	URL    string  // http or https; its host is dialled unless Addr says otherwise
	Addr   string  // host:port to dial instead of the URL's host (as curl --connect-to)
	Host   string  // Host header; "": the URL's
	Method string  // "": GET
	Rate   float64 // requests per second, more than 0
	// TLS is how https is spoken; nil: as everywhere, with the authorities of this machine.
	// The name that is asked for is Host's, where that is given. HTTP/2 where the two agree.
	TLS *tls.Config

	Timeout     time.Duration // of one request, body included; 0: DefaultTimeout
	MaxInFlight int           // beyond it a request counts as failed without being sent; 0: DefaultMaxInFlight

	// Expect says whether an answer is the right one; nil: Status(200).
	// Its error is the failure's text. Called concurrently.
	Expect func(status int, header http.Header) error
}

// Status expects a status code.
func Status(code int) func(int, http.Header) error {
	return func(status int, h http.Header) error {
		if status == code {
			return nil
		}
		if reason := h.Get("X-Waggle-Reason"); reason != "" {
			return fmt.Errorf("status %d (%s), want %d", status, reason, code)
		}
		return fmt.Errorf("status %d, want %d", status, code)
	}
}

// Service expects 200 from a task of one of the named services (header X-Waggle-Service).
func Service(names ...string) func(int, http.Header) error {
	ok := Status(http.StatusOK)
	return func(status int, h http.Header) error {
		if err := ok(status, h); err != nil {
			return err
		}
		got := h.Get("X-Waggle-Service")
		for _, n := range names {
			if n == got {
				return nil
			}
		}
		return fmt.Errorf("answered by service %q, want %q", got, names)
	}
}

// Run is a load that runs.
type Run struct {
	target    Target
	client    *http.Client
	transport *http.Transport
	url       string

	inFlight atomic.Int64
	requests sync.WaitGroup
	cancel   context.CancelFunc
	done     chan struct{}

	counts
}

// Start asks t until ctx ends or Stop is called. It fails at once on a target that
// cannot be asked at all (a malformed URL, no rate).
func Start(ctx context.Context, t Target) (*Run, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, fmt.Errorf("load target %s: %w", t.Name, err)
	}
	if u.Host == "" || t.Rate <= 0 {
		return nil, fmt.Errorf("load target %s: want a URL with a host and a rate above 0, got %q and %v", t.Name, t.URL, t.Rate)
	}
	t.Method = cmp.Or(t.Method, http.MethodGet)
	t.Timeout = cmp.Or(t.Timeout, DefaultTimeout)
	t.MaxInFlight = cmp.Or(t.MaxInFlight, DefaultMaxInFlight)
	if t.Expect == nil {
		t.Expect = Status(http.StatusOK)
	}
	dialer := &net.Dialer{Timeout: t.Timeout}
	transport := &http.Transport{
		Proxy: nil, // what is measured is the target, whatever the environment says
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, cmp.Or(t.Addr, addr))
		},
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		ForceAttemptHTTP2:   true,
		TLSClientConfig:     t.tls(),
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Run{
		target:    t,
		transport: transport,
		client: &http.Client{
			Transport:     transport,
			Timeout:       t.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url:    u.String(),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	r.counts.began = time.Now()
	go r.loop(ctx)
	return r, nil
}

// tls is the target's own, for the host that it means.
func (t Target) tls() *tls.Config {
	if t.TLS == nil && t.Host == "" {
		return nil
	}
	cfg := t.TLS.Clone()
	if cfg == nil {
		cfg = &tls.Config{}
	}
	if cfg.ServerName == "" && t.Host != "" {
		cfg.ServerName = t.Host
		if host, _, err := net.SplitHostPort(t.Host); err == nil {
			cfg.ServerName = host
		}
	}
	return cfg
}

// Target is what is asked.
func (r *Run) Target() Target { return r.target }

// Stop begins no further request, waits for those that are open (at most the
// target's timeout) and gives the report of the whole run. It may be called again.
func (r *Run) Stop() Report {
	r.cancel()
	<-r.done
	return r.Since(Mark{})
}

// loop begins requests on the clock: how many are due follows from the time that
// passed, so that a late tick is made up for and the rate holds.
func (r *Run) loop(ctx context.Context) {
	defer close(r.done)
	defer r.transport.CloseIdleConnections()
	defer r.requests.Wait()
	interval := time.Duration(float64(time.Second) / r.target.Rate)
	tick := time.NewTicker(min(max(interval, time.Millisecond), time.Second))
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		due := int(time.Since(began).Seconds()*r.target.Rate) + 1
		for ; sent < due; sent++ {
			r.begin()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Run) begin() {
	if r.inFlight.Load() >= int64(r.target.MaxInFlight) {
		r.fail(time.Now(), 0, "", fmt.Errorf("%w: %d requests are open already", errNotSent, r.target.MaxInFlight))
		return
	}
	r.inFlight.Add(1)
	r.requests.Go(func() {
		defer r.inFlight.Add(-1)
		r.ask()
	})
}

// ask sends one request and counts its outcome. It does not end with the run's
// context: a request that was begun is a request that counts.
func (r *Run) ask() {
	began := time.Now()
	var reused atomic.Bool
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused.Store(i.Reused) },
	})
	req, err := http.NewRequestWithContext(ctx, r.target.Method, r.url, nil)
	if err != nil {
		r.fail(began, 0, "", err)
		return
	}
	req.Host = r.target.Host
	resp, err := r.client.Do(req)
	if err != nil {
		r.fail(began, 0, "", connectionError(err, reused.Load()))
		return
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
	_ = resp.Body.Close()
	task := resp.Header.Get("X-Waggle-Task")
	if err != nil {
		r.fail(began, resp.StatusCode, task, fmt.Errorf("body: %w", connectionError(err, reused.Load())))
		return
	}
	if err := r.target.Expect(resp.StatusCode, resp.Header); err != nil {
		r.fail(began, resp.StatusCode, task, err)
		return
	}
	r.succeed(began, resp.StatusCode, resp.Header.Get("X-Waggle-Service"), task)
}
