package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ServeTCP sends every byte back on each connection of lis, which it closes, until
// ctx ends; then connections are cut.
func ServeTCP(ctx context.Context, lis net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = lis.Close() })()
	for {
		c, err := lis.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("echo on tcp %s: %w", lis.Addr(), err)
		}
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer func() { _ = c.Close() }()
			_, _ = io.Copy(c, c) // ends with the connection, whoever closed it
		})
	}
}

// ServeUDP sends every datagram back to where it came from until ctx ends, and closes pc.
func ServeUDP(ctx context.Context, pc net.PacketConn) error {
	defer func() { _ = pc.Close() }()
	defer context.AfterFunc(ctx, func() { _ = pc.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("echo on udp %s: %w", pc.LocalAddr(), err)
		}
		_, _ = pc.WriteTo(buf[:n], from) // a datagram may get lost; the next one is its own
	}
}
