package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/compose"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/swarmkit"
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

// push is where tasks come from without being asked for; nil where the configuration wants none.
func push(c config.Swarm, log *slog.Logger) engine.Pusher {
	if c.Source == "engine" {
		return nil
	}
	return swarmkit.New(swarmkit.Options{Socket: c.ControlSocket, Log: log})
}
