package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/xds/identity"
)

func labCommand() *cobra.Command {
	o := lab.Options{}
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run everything on this machine without Docker: control plane, Envoys, echo tasks",
		Long: `Run everything on this machine without Docker: the control plane, one real Envoy
per collection, and for each service of a stack file as many echo tasks as it has
replicas. The stack file is watched: what you save is live at once.

Without -f: the built-in demo of dev, test and prod with live load, which tells its
story. A task that leaves gets its early warning 2 s before it stops, as in a Swarm.
Loopback refuses connections where an overlay network swallows them, so only a real
Swarm shows that nothing is lost (make swarm-lab).`,
		Example: `  waggle lab
  waggle lab --once
  waggle lab -f stack.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("config") {
				if o.Config, err = loadConfig(cmd); err != nil {
					return err
				}
			}
			o.Env, o.Stdin = environment(), cmd.InOrStdin()
			o.Stdout, o.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			o.ControlPlane = labControlPlane(quiet(log, cmd.ErrOrStderr()))
			if err = lab.Run(cmd.Context(), o); errors.Is(err, lab.ErrStory) {
				return errFound
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Files, "file", "f", nil, "a stack file to run (may be repeated; - is standard input)")
	f.StringVar(&o.Stack, "stack", "", "the stack's name (default: «name:» in the file, else the file's name)")
	f.BoolVar(&o.Once, "once", false, "end after the story; exit 1 if a step of it failed")
	f.StringVar(&o.Format, "format", "table", "what is printed when all is ready: table, or one line of json")
	f.IntVar(&o.HTTPBase, "http-base", 8081, "first HTTP port, counted up by collection (0: any free)")
	f.IntVar(&o.HTTPSBase, "https-base", 8441, "first HTTPS port (0: any free)")
	f.IntVar(&o.AdminBase, "admin-base", 9901, "first port of the Envoys' admin (0: any free)")
	f.StringVar(&o.API, "api", "127.0.0.1:19000", "the control plane's API (port 0: any free)")
	return cmd
}

// labControlPlane is the control plane of serve, on the lab's source and listener.
func labControlPlane(log *slog.Logger) lab.ControlPlane {
	return func(ctx context.Context, src watcher.Source, cfg *config.Config, ca *secrets.LocalCA, xds net.Listener, api string) (func(), error) {
		adminLis, err := listen("--api", api)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := (controlPlane{cfg: cfg, local: ca, guard: identity.Insecure(), source: src, xds: xds, admin: adminLis, log: log}).run(ctx); err != nil && ctx.Err() == nil {
				log.Error("the lab's control plane ended", "error", err)
			}
		}()
		return func() { cancel(); <-ended }, nil
	}
}

// quiet keeps the control plane's everyday messages out of the lab's story.
func quiet(log *slog.Logger, to io.Writer) *slog.Logger {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return log
	}
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelError}))
}
