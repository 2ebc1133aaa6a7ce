package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/waggle-lb/waggle/lab/load"
	"github.com/waggle-lb/waggle/secrets"
)

// loadTimeout is when the demo's load gives a request up. It is long: on a machine
// with other things to do a request may be slow, and slow is not lost.
const loadTimeout = 20 * time.Second

// traffic is the live load on every collection.
type traffic struct {
	runs map[string][]*load.Run // by collection
}

func startTraffic(ctx context.Context, all []addresses, ca *secrets.LocalCA, rate float64) (*traffic, error) {
	t := &traffic{runs: map[string][]*load.Run{}}
	for _, a := range all {
		for _, target := range demoLoad(a.collection, a, ca, rate) {
			r, err := load.Start(ctx, target)
			if err != nil {
				t.stop()
				return nil, err
			}
			t.runs[a.collection] = append(t.runs[a.collection], r)
		}
	}
	return t, nil
}

// moment is a mark in every run.
type moment map[*load.Run]load.Mark

func (t *traffic) mark() moment {
	m := moment{}
	for _, runs := range t.runs {
		for _, r := range runs {
			m[r] = r.Mark()
		}
	}
	return m
}

// since is what happened in each collection after m.
func (t *traffic) since(m moment) map[string]load.Report {
	all := map[string]load.Report{}
	for name, runs := range t.runs {
		var reports []load.Report
		for _, r := range runs {
			reports = append(reports, r.Since(m[r]))
		}
		all[name] = load.Merge(reports...)
	}
	return all
}

func (t *traffic) stop() {
	for _, runs := range t.runs {
		for _, r := range runs {
			r.Stop()
		}
	}
}

// reply is what one request got.
type reply struct {
	status                          int
	service, task, reason, location string
}

func (r reply) String() string {
	switch {
	case r.service != "":
		return fmt.Sprintf("%d from %s", r.status, r.service)
	case r.reason != "":
		return fmt.Sprintf("%d %s", r.status, r.reason)
	default:
		return fmt.Sprint(r.status)
	}
}

// ask sends one GET to a proxy, on a connection of its own.
func ask(ctx context.Context, addr, host, path string) (reply, error) {
	return askURL(ctx, &http.Transport{DisableKeepAlives: true}, "http://"+addr+path, host)
}

// ask sends one GET to what a row of the table shows.
func (l *lab) ask(ctx context.Context, r row, host string) (reply, error) {
	if !r.tls {
		return ask(ctx, r.addr, host, r.path)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(l.authority.Root())
	tr := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}}
	return askURL(ctx, tr, "https://"+r.addr+r.path, host)
}

func askURL(ctx context.Context, tr *http.Transport, url, host string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return reply{}, fmt.Errorf("ask %s for %s: %w", url, host, err)
	}
	req.Host = host
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return reply{}, fmt.Errorf("ask %s for %s: %w", url, host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	h := resp.Header
	return reply{resp.StatusCode, h.Get("X-Waggle-Service"), h.Get("X-Waggle-Task"), h.Get("X-Waggle-Reason"), h.Get("Location")}, nil
}

// until asks until the answer is right, and gives the time that took.
func until(ctx context.Context, addr, host, path string, right func(reply) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var last reply
	for {
		got, err := ask(ctx, addr, host, path)
		if err == nil && right(got) {
			return time.Since(began), nil
		}
		if err == nil {
			last = got
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%s%s at %s never gave the right answer; the last was %v", host, path, addr, last)
		}
	}
}

func from(service string) func(reply) bool {
	return func(r reply) bool { return r.status == http.StatusOK && r.service == service }
}

func because(status int, reason string) func(reply) bool {
	return func(r reply) bool { return r.status == status && r.reason == reason }
}
