package envoy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long an Envoy may take to end after SIGTERM.
const stopGrace = 5 * time.Second

// Options say what is started.
type Options struct {
	Name        string // in messages and of its files: the collection
	Binary      string // "": Find
	Bootstrap   []byte // the bootstrap file, JSON or YAML
	Admin       string // host:port of the admin page that Bootstrap sets
	Dir         string // where its files go: <name>.yaml and <name>.log
	Concurrency int    // worker threads; 0: 1
}

// Process is a running Envoy.
type Process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // why it ended; valid after ended is closed

	admin     string
	transport *http.Transport
}

// Start starts an Envoy. It runs until Stop, and ends with the process that started
// it however that ends. Wait with Ready before using it.
func Start(o Options) (*Process, error) {
	binary := o.Binary
	if binary == "" {
		var err error
		if binary, err = Find(); err != nil {
			return nil, err
		}
	}
	file, logFile := filepath.Join(o.Dir, o.Name+".yaml"), filepath.Join(o.Dir, o.Name+".log")
	if err := os.WriteFile(file, o.Bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("start Envoy %s: write its bootstrap file: %w", o.Name, err)
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start Envoy %s: open its log: %w", o.Name, err)
	}
	defer out.Close() // the process has its own copy

	// Without hot restart there is no shared memory whose number could collide: any
	// number of them run side by side.
	cmd := exec.Command(binary, "--config-path", file, "--disable-hot-restart",
		"--concurrency", strconv.Itoa(cmp.Or(o.Concurrency, 1)), "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()

	p := &Process{
		name: o.Name, log: logFile, cmd: cmd, ended: make(chan struct{}), admin: o.Admin,
		transport: &http.Transport{DisableKeepAlives: true},
	}
	started := make(chan error, 1)
	go func() {
		// The kernel ends the child when the thread that started it ends, so that
		// thread stays with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start Envoy %s: %w", o.Name, err)
	}
	return p, nil
}

// Name is what Options named it.
func (p *Process) Name() string { return p.name }

// PID is its process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Admin is the address of its admin page.
func (p *Process) Admin() string { return p.admin }

// Log is the path of its log.
func (p *Process) Log() string { return p.log }

// Ended is closed when the process has ended, by Stop or by itself.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Ready waits until the Envoy has everything it asked its control plane for at
// start (its /ready says LIVE). An Envoy that ended instead gives an error with the
// end of its log.
func (p *Process) Ready(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		_, err := p.Get(ctx, "/ready")
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-p.ended:
			return fmt.Errorf("wait for Envoy %s: it ended (%v): %s", p.name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for Envoy %s (its log is %s): %w; last: %v", p.name, p.log, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// Stop ends the process: SIGTERM, and SIGKILL when that takes too long. It returns
// when it has ended, and may be called again.
func (p *Process) Stop() {
	defer p.transport.CloseIdleConnections()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-p.ended:
	case <-grace.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// Get asks the admin page for path and gives the body of its 200.
func (p *Process) Get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		return "", fmt.Errorf("admin page of Envoy %s: %w", p.name, err)
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("admin page of Envoy %s: %w", p.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return "", fmt.Errorf("admin page of Envoy %s: read %s: %w", p.name, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("admin page of Envoy %s: %s answers %s: %s", p.name, path, resp.Status, bytes.TrimSpace(body[:min(len(body), 200)]))
	}
	return string(body), nil
}

// ConfigDump is everything the Envoy was given, endpoints included, as JSON text.
func (p *Process) ConfigDump(ctx context.Context) (string, error) {
	return p.Get(ctx, "/config_dump?include_eds")
}

// Clusters is the admin page's table of clusters and their hosts, one fact a line.
func (p *Process) Clusters(ctx context.Context) (string, error) { return p.Get(ctx, "/clusters") }

// tail is the end of the log, on one line.
func (p *Process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
