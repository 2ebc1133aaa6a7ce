// Package admin is the HTTP side of a control plane: health, readiness, metrics and
// the API of what it knows. It reads; it never steers.
package admin

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options of a Handler.
type Options struct {
	// Address is what the server listens on ("127.0.0.1:19000"). Requests whose Host
	// header names neither it nor this machine are refused on a loopback address:
	// a web page that resolves its own name to 127.0.0.1 must not read the API.
	Address string
	// Token, if set, must be sent as "Authorization: Bearer …", except to /healthz and /readyz.
	Token string
	// Ready says why the control plane is not ready; nil when it is.
	Ready func() error
	// Metrics is what /metrics shows.
	Metrics prometheus.Gatherer
	// API is what /api/v1 answers from; nil: there is none.
	API *API
}

// Handler serves /healthz, /readyz, /metrics and /api/v1.
func Handler(o Options) http.Handler {
	open := http.NewServeMux() // for health checks: no token
	open.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	open.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	closed := http.NewServeMux()
	closed.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	if o.API != nil {
		o.API.register(closed)
	}
	open.Handle("/", authorized(o.Token, closed))
	return guarded(o.Address, open)
}

// authorized lets requests with the token pass; everything, where there is none.
func authorized(token string, next http.Handler) http.Handler {
	if token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(got), []byte(token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="waggle"`)
			http.Error(w, "the token of admin.token_file is required: send it as «Authorization: Bearer …»", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guarded checks the Host header on loopback addresses and sets the headers that
// every answer carries.
func guarded(address string, next http.Handler) http.Handler {
	bound, _, err := net.SplitHostPort(address)
	loopback := err == nil && isLoopback(bound)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if loopback {
			host := r.Host
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			if !isLoopback(strings.Trim(host, "[]")) {
				http.Error(w, "this address answers only to localhost and its own IP address", http.StatusMisdirectedRequest)
				return
			}
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Serve answers on lis until ctx ends; then open requests get a moment to finish.
// Their contexts end with ctx, and with them streams of events.
func Serve(ctx context.Context, lis net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(lis) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the admin address %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.Shutdown(last); err != nil {
		s.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin address %s: %w", lis.Addr(), err)
	}
	return nil
}
