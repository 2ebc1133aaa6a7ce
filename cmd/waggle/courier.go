package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/courier"
	"github.com/waggle-lb/waggle/secrets/courier/jobs"
	"github.com/waggle-lb/waggle/watcher/engine"
)

// courierCommand is the program of the jobs that a control plane makes.
func courierCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "courier",
		Short:  "Hand the secrets that are mounted here to the control plane that made this job (swarm.courier)",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return courier.Deliver(cmd.Context(), secrets.MountedSecrets)
		},
	}
}

// listenForCouriers opens swarm.courier.listen; nil where there are no couriers.
func listenForCouriers(cfg *config.Config) (net.Listener, error) {
	if cfg.Swarm.Courier == nil {
		return nil, nil
	}
	return listen("swarm.courier.listen", cfg.Swarm.Courier.Listen)
}

// newCourier is what brings Docker secrets that labels want, beside those on disk.
func newCourier(cfg *config.Config, loop *control.Control, emit func(*secrets.Material), log *slog.Logger) (*courier.Courier, error) {
	daemon, err := engine.Connect(engine.Options{Host: cfg.Swarm.Host, CertDir: os.Getenv("DOCKER_CERT_PATH"), Log: log}, jobs.Requests)
	if err != nil {
		return nil, fmt.Errorf("swarm.courier: %w", err)
	}
	c, err := courier.New(courier.Options{Swarm: jobs.New(daemon, cfg.Swarm.Courier.Image, cfg.Swarm.Courier.Network), Log: log}, emit)
	if err != nil {
		return nil, fmt.Errorf("swarm.courier: %w", err)
	}
	loop.OnWanted(c.Wanted)
	return c, nil
}
