package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// late can be read from its nth question on.
type late struct {
	watcher.Source
	asked, from int
}

func (l *late) Check(context.Context) error {
	if l.asked++; l.asked < l.from {
		return errors.New("nobody listens")
	}
	return nil
}

func TestAProxyMayStartAfterTheControlPlane(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		src := &late{from: 5}
		require.NoError(t, reached(t.Context(), src, "tcp://socket-proxy:2375", proxyStart, log))
		require.Equal(t, time.Second, time.Since(start))

		src = &late{from: 1000}
		require.EqualError(t, reached(t.Context(), src, "tcp://socket-proxy:2375", proxyStart, log), "nobody listens")
		require.Equal(t, time.Second+proxyStart, time.Since(start))

		src = &late{from: 2}
		require.Error(t, reached(t.Context(), src, "unix:///var/run/docker.sock", proxyStart, log))
		require.Equal(t, 1, src.asked, "a socket is there or not")
	})
}
