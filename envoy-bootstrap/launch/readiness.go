package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// freshFor is how long an answer of Envoy's stands, so that no number of questions
// from outside keeps its main thread busy.
const freshFor = 100 * time.Millisecond

// readiness tells balancers in front whether to send requests here. Envoy's own
// /ready says the same, but stands on the admin page, which nobody else may reach.
type readiness struct {
	admin *admin

	draining atomic.Bool

	mu    sync.Mutex
	asked time.Time
	err   error
}

// drain makes every further answer a no, at once.
func (r *readiness) drain() { r.draining.Store(true) }

// check is nil if the proxy is ready.
func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.asked) >= freshFor {
		_, r.err = r.admin.ready(ctx)
		r.asked = time.Now()
	}
	return r.err
}

// ServeHTTP answers 200 or 503.
func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	// The answer is everybody's: whoever goes away must not turn it into an error.
	if r.draining.Load() || r.check(context.WithoutCancel(req.Context())) != nil || r.draining.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("not ready\n"))
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

// serve answers at address until stop is called; an empty one is no server.
func (r *readiness) serve(address string, logger *slog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	lis, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("readiness address %s is taken by another program: stop it, or give another with --ready-address", address)
	}
	if err != nil {
		return nil, fmt.Errorf("readiness address %q: %w: give HOST:PORT with --ready-address", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ready", r)
	mux.Handle("GET /{$}", r)
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // what strangers send is no news
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("the readiness address is not served any more", "because", err)
		}
	})
	return func() {
		_ = s.Close()
		serving.Wait()
	}, nil
}
