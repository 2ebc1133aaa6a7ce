package lab

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// plane is the lab's control plane: it can be killed and started again on the same address.
type plane struct {
	start   ControlPlane
	src     watcher.Source
	cfg     *config.Config
	ca      *secrets.LocalCA
	address string // of xDS
	api     string

	lis  *cuttable
	stop func()
}

// startPlane starts a control plane on a free port.
func startPlane(ctx context.Context, start ControlPlane, src watcher.Source, cfg *config.Config, ca *secrets.LocalCA, api string) (*plane, error) {
	p := &plane{start: start, src: src, cfg: cfg, ca: ca, address: net.JoinHostPort(loopback, "0"), api: api}
	return p, p.again(ctx)
}

// again starts it where it was before.
func (p *plane) again(ctx context.Context) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.address)
	if err != nil {
		return fmt.Errorf("start the control plane: %w", err)
	}
	p.address = lis.Addr().String()
	cfg := *p.cfg
	cfg.XDS.Address = p.address
	p.lis = &cuttable{Listener: lis, conns: map[net.Conn]struct{}{}}
	if p.stop, err = p.start(ctx, p.src, &cfg, p.ca, p.lis, p.api); err != nil {
		_ = lis.Close()
		return fmt.Errorf("start the control plane: %w", err)
	}
	return nil
}

// kill ends it as kill -9 would: its connections break before it knows.
func (p *plane) kill() {
	if p.stop == nil {
		return
	}
	p.lis.cut()
	p.stop()
	p.stop = nil
}

// cuttable is a listener that remembers its connections, to break them all.
type cuttable struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Accept implements net.Listener.
func (l *cuttable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return &cuttableConn{Conn: c, lis: l}, nil
}

func (l *cuttable) cut() {
	_ = l.Listener.Close() // closed again by whoever serves on it
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, no goodbye
		}
		_ = c.Close()
	}
}

type cuttableConn struct {
	net.Conn
	lis *cuttable
}

// Close implements net.Conn.
func (c *cuttableConn) Close() error {
	c.lis.mu.Lock()
	delete(c.lis.conns, c.Conn)
	c.lis.mu.Unlock()
	return c.Conn.Close()
}
