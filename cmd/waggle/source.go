package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/compose"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/swarmkit"
	"github.com/waggle-lb/waggle/xds/lastgood"
)

// source is a watcher.Source that can say beforehand what stands in its way.
type source interface {
	watcher.Source
	Check(context.Context) error
}

// newSource makes the source that swarm.source names.
func newSource(cfg *config.Config, log *slog.Logger) source {
	certs := os.Getenv("DOCKER_CERT_PATH")
	if cfg.Swarm.Source == "compose" {
		return compose.New(compose.Options{Host: cfg.Swarm.Host, CertDir: certs, Projects: cfg.Swarm.ComposeProjects, Log: log})
	}
	return engine.New(engine.Options{
		Host: cfg.Swarm.Host, CertDir: certs, PollInterval: cfg.Swarm.PollInterval, Log: log,
		Push: push(cfg.Swarm, log), PushOnly: cfg.Swarm.Source == "swarmkit",
		Interesting: func(s *watcher.Service) bool { return !labels.Merge(cfg.LabelPrefixes, s.Name, s.Labels).Empty() },
	})
}

// proxyStart is how long a socket proxy that starts together with the control plane may
// take: `docker stack deploy` starts services in no particular order.
const proxyStart = 15 * time.Second

// reached checks that what runs can be read. A socket is there or not, but a proxy
// behind tcp:// may still be starting: it is asked again for a while.
func reached(ctx context.Context, src source, host string, patience time.Duration, log *slog.Logger) error {
	err := src.Check(ctx)
	if err == nil || !strings.HasPrefix(host, "tcp://") {
		return err
	}
	log.Warn("Docker cannot be reached yet; asking again", "error", err)
	until := time.Now().Add(patience)
	for err != nil && time.Now().Before(until) {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
		err = src.Check(ctx)
	}
	return err
}

// reachedOrKnown is reached for a control plane: one that has on disk what proxies accepted
// last starts all the same, to offer it, and goes on asking.
func reachedOrKnown(ctx context.Context, src source, cfg *config.Config, log *slog.Logger) error {
	known, patience := lastgood.Store{Dir: lastGoodDir(cfg.StateDir)}.Any(), proxyStart
	if known {
		patience = 0
	}
	err := reached(ctx, src, cfg.Swarm.Host, patience, log)
	if err != nil && known && ctx.Err() == nil {
		log.Warn("what runs cannot be read; starting with what proxies accepted last", "error", err)
		return nil
	}
	return err
}

// lastGoodDir is where in the state directory that is.
func lastGoodDir(state string) string { return filepath.Join(state, "last-good") }

// push is where tasks come from without being asked for; nil where the configuration wants none.
func push(c config.Swarm, log *slog.Logger) engine.Pusher {
	if c.Source == "engine" {
		return nil
	}
	return swarmkit.New(swarmkit.Options{Socket: c.ControlSocket, Log: log})
}
