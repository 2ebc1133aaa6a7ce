package echo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Check asks the task at addr (host:port; a missing host is this machine) for an
// answer: a container's health check. nil means that it answers 200.
func Check(ctx context.Context, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("health check of echo task at %q: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// delay=0: alive is alive, however slow the task was told to be.
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+net.JoinHostPort(host, port)+"/?delay=0s", nil)
	if err != nil {
		return fmt.Errorf("health check of echo task at %q: %w", addr, err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("health check of echo task: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health check of echo task at %s: %s", addr, resp.Status)
	}
	return nil
}
