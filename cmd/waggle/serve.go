package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/admin"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/courier"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/filewatch"
	"github.com/waggle-lb/waggle/xds"
	"github.com/waggle-lb/waggle/xds/identity"
	"github.com/waggle-lb/waggle/xds/lastgood"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: `Run the control plane: read what runs in the Swarm, and serve every collection's
Envoys their configuration over ADS.

Without --config there is one collection, default, on ports 80 and 443. Settings
outside collections can be overridden by WAGGLE_… variables (WAGGLE_XDS_ADDRESS).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			path, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			file := watchConfig(path)
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			guard, err := newGuard(cfg, log)
			if err != nil {
				return err
			}
			src := newSource(cfg, log)
			if err := reachedOrKnown(cmd.Context(), src, cfg, log); err != nil {
				return err
			}
			xdsLis, err := listen("xds.address", cfg.XDS.Address)
			if err != nil {
				return err
			}
			adminLis, err := listen("admin.address", cfg.Admin.Address)
			if err != nil {
				return errors.Join(err, xdsLis.Close())
			}
			couriers, err := listenForCouriers(cfg)
			if err != nil {
				return errors.Join(err, xdsLis.Close(), adminLis.Close())
			}
			log.Info("serving", "xds", xdsLis.Addr(), "admin", adminLis.Addr(), "source", src.Name(), "collections", len(cfg.Collections))
			return controlPlane{cfg: cfg, guard: guard, path: path, file: file, source: src, xds: xdsLis, admin: adminLis, couriers: couriers, log: log}.run(cmd.Context())
		},
	}
}

// newGuard is what stands at the door of the channel: mutual TLS, unless the operator
// said that it goes without.
func newGuard(cfg *config.Config, log *slog.Logger) (*identity.Guard, error) {
	if err := cfg.Servable(); err != nil {
		return nil, err
	}
	if cfg.XDS.TLS == nil {
		log.Warn("xds.insecure: proxies are believed what their node ID says; use it on a network that is yours alone")
		return identity.Insecure(), nil
	}
	guard, err := identity.TLS(identity.Files{CA: cfg.XDS.TLS.CA, Cert: cfg.XDS.TLS.Cert, Key: cfg.XDS.TLS.Key}, identity.Options{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("xds.tls: %w", err)
	}
	return guard, nil
}

// listen opens a TCP address that the configuration names by key.
func listen(key, address string) (net.Listener, error) {
	lis, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is taken by another program: stop it, or choose another port in waggle.yml", key, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w", key, address, err)
	}
	return lis, nil
}

// controlPlane is the rooms of a control plane, wired.
type controlPlane struct {
	cfg        *config.Config
	path       string           // of the operator's file
	file       *filewatch.Watch // of path; nil: nothing to reload
	guard      *identity.Guard
	source     watcher.Source
	local      *secrets.LocalCA // development authority, where it is none of the material's
	xds, admin net.Listener
	couriers   net.Listener // nil: there are none
	log        *slog.Logger
	moment     time.Duration // see lastgood.Options; 0: its default
}

// run serves until ctx ends. It closes the listeners.
func (p controlPlane) run(ctx context.Context) error {
	server := xds.New(xds.Options{Guard: p.guard, Logger: p.log, Identifier: replica()})
	loop := control.New(p.cfg, server, control.DefaultPace, p.log)
	inventory := secrets.NewInventory(time.Now)
	material := func(m *secrets.Material) {
		inventory.Take(m)
		loop.Material(m)
	}
	var brings *courier.Courier
	if p.couriers != nil {
		var err error
		if brings, err = newCourier(p.cfg, loop, material, p.log); err != nil {
			return errors.Join(err, p.xds.Close(), p.admin.Close(), p.couriers.Close())
		}
		material = brings.Material
	}
	state := p.cfg.StateDir
	if p.local != nil {
		state = ""
	}
	providers := secrets.NewProviders(func(to netip.AddrPort, loopback bool) string { return translate.RefusedAddress(p.cfg, to, loopback) })
	providers.Keep(state, p.log)
	disk := secrets.NewWatch(p.cfg, secrets.Options{State: state, Providers: providers, Log: p.log}, func(m *secrets.Material) {
		if p.local != nil {
			m = m.WithLocal(p.local)
		}
		material(m)
	})
	var keeper *lastgood.Keeper // nil: nothing is kept
	if state != "" {
		keeper = lastgood.New(lastgood.Options{Dir: lastGoodDir(state), Server: server, Log: p.log, Moment: p.moment})
		// Last of all: then the proxies are gone, and what they had accepted is known.
		defer keeper.Save()
	}
	loop.OnWantedLocalCA(disk.WantLocal)
	loop.OnWantedIssuers(disk.WantIssuers)
	if s, ok := p.source.(interface{ Confirm() }); ok {
		loop.OnHeld(s.Confirm)
	}
	disk.Look() // no guard is to be missing in what is published first
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(server, loop, p.guard, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics.MustRegister(inventory)
	if c, ok := p.source.(prometheus.Collector); ok {
		metrics.MustRegister(c)
	}
	if brings != nil {
		metrics.MustRegister(brings)
	}
	handler := admin.Handler(admin.Options{
		Address: p.admin.Addr().String(), Token: p.cfg.Admin.Token, Metrics: metrics, API: p.newAPI(loop, server, inventory),
		Ready: func() error {
			if s := loop.Status(); !s.Ready {
				return errors.Join(errors.New("no complete picture of the Swarm is published yet"), s.SourceError)
			}
			return nil
		},
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return loop.Run(ctx) })
	g.Go(func() error { disk.Run(ctx); return nil })
	g.Go(func() error {
		return p.source.Run(ctx, func(u watcher.Update) {
			disk.Declare(u.Picture)
			loop.Update(u)
		})
	})
	g.Go(func() error { return server.Serve(ctx, p.xds) })
	g.Go(func() error { p.guard.Run(ctx); return nil })
	if keeper != nil {
		g.Go(func() error { keeper.Run(ctx); return nil })
	}
	if brings != nil {
		g.Go(func() error { return brings.Run(ctx, p.couriers) })
	}
	g.Go(func() error { return admin.Serve(ctx, p.admin, handler) })
	if p.file != nil {
		g.Go(func() error { return reload(ctx, p.path, p.file, p.cfg, loop, disk, p.log) })
	}
	return g.Wait()
}
