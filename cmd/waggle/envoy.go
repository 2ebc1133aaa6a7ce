package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/envoy-bootstrap/launch"
)

func envoyCommand() *cobra.Command {
	var o launch.Options
	var channel channelTLS
	var health, ready bool
	cmd := &cobra.Command{
		Use:   "envoy --collection C [flags] [-- further flags of Envoy]",
		Short: "Run an Envoy: bootstrap, start, and a drain that loses no request (entry point of the proxy image)",
		Long: `Run an Envoy as the entry point of a container: write its bootstrap, start it, hand
signals on, and on SIGTERM, SIGINT or SIGQUIT drain it. Draining means: say "not
ready" and serve on for --drain-delay, so that balancers leave; close connections
after their next answer; let nobody new in; and stop as soon as nothing is under
way, after --drain at the latest. A second signal stops it without waiting. The
container's stop_grace_period must be longer than --drain.

A crash of Envoy is one line, and its exit code (128 and the signal) is the command's.

Each flag can be set by a variable too: WAGGLE_COLLECTION, WAGGLE_XDS,
WAGGLE_NODE_ID and so on, and ENVOY for --envoy; flags win. A health check sees the
container's variables but not its flags.`,
		Example: `  waggle envoy --collection dev --xds waggle:18000 --tls /run/secrets
  waggle envoy --collection prod --tls /run/secrets --ready-address 0.0.0.0:8002 --drain 25s -- --component-log-level upstream:debug
  waggle envoy --health            # HEALTHCHECK of the image: is Envoy alive?
  waggle envoy --health --ready    # may it get requests?`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return fmt.Errorf("%q is no flag: flags of Envoy's own stand behind --", args[0])
			}
			return nil
		},
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags()); err != nil {
				return err
			}
			if ready && !health {
				return fmt.Errorf("--ready is a question: use it with --health")
			}
			if !health && o.Bootstrap.Collection == "" {
				return fmt.Errorf("which collection does this proxy belong to? give --collection or WAGGLE_COLLECTION")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if health {
				return envoyHealth(cmd, o.Bootstrap.AdminAddress, ready)
			}
			log, err := logger(cmd)
			if err != nil {
				return err
			}
			if o.Bootstrap.TLS, err = channel.options(); err != nil {
				return err
			}
			o.Logger, o.Args = log, args
			signals, stop := launch.Notify()
			defer stop()
			o.Signals = signals
			// The command's context ends with the first signal, which is in signals already.
			return launch.Run(context.WithoutCancel(cmd.Context()), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Bootstrap.Collection, "collection", "", "the collection this proxy belongs to")
	f.StringVar(&o.Bootstrap.XDSAddress, "xds", "waggle:18000", "host:port of the control plane")
	channel.flags(f)
	f.StringVar(&o.Bootstrap.NodeID, "node-id", "", "the proxy's node ID, collection/instance (default: collection/host name)")
	f.StringVar(&o.Bootstrap.Zone, "zone", "", "the Swarm node this proxy runs on, {{.Node.ID}} in a Swarm: prefer_local prefers its tasks (default: none)")
	f.StringVar(&o.Bootstrap.AdminAddress, "admin", "127.0.0.1:9901", "Envoy's admin address: host:port on loopback, or the path of a unix socket")
	f.Uint64Var(&o.Bootstrap.MaxConnections, "max-connections", 0, "client connections at once (default 50000)")
	f.StringVar(&o.ReadyAddress, "ready-address", "", "host:port of a small HTTP server that tells balancers whether to send requests here, at /ready (default: none)")
	f.DurationVar(&o.Drain, "drain", launch.DefaultDrain, "the longest time from the stop signal to the end")
	f.DurationVar(&o.DrainDelay, "drain-delay", launch.DefaultDrainDelay, "the part of it in which balancers notice: at least two of their checks")
	f.DurationVar(&o.ListenerDrain, "listener-drain", launch.DefaultListenerDrain, "how long connections of a changed listener live on")
	f.IntVar(&o.Concurrency, "concurrency", 0, "Envoy's worker threads (default: as many as the container may use CPUs)")
	f.StringVar(&o.LogLevel, "envoy-log-level", "warning", "Envoy's own log: trace, debug, info, warning, error, critical or off")
	f.StringVar(&o.Binary, "envoy", "", "the Envoy binary (default: /usr/local/bin/envoy, then the PATH)")
	f.StringVar(&o.Dir, "dir", "", "a writable directory for the bootstrap file (default: a temporary one)")
	f.BoolVar(&health, "health", false, "ask the Envoy at --admin whether it is alive, and exit with 0 or 1")
	f.BoolVar(&ready, "ready", false, "with --health: ask whether it is ready for requests")
	return cmd
}

// channelTLS are the flags about how a proxy proves its collection.
type channelTLS struct {
	tls      bootstrap.TLS
	insecure bool
}

func (c *channelTLS) flags(f *pflag.FlagSet) {
	tlsFlags(f, &c.tls)
	f.BoolVar(&c.insecure, "insecure", false, "speak to the control plane without TLS; only on a network that is yours alone")
}

// tlsFlags say where a proxy finds its identity.
func tlsFlags(f *pflag.FlagSet, t *bootstrap.TLS) {
	f.StringVar(&t.Directory, "tls", "", "the directory with the proxy's certificate, key and authority (tls.crt, tls.key, ca.crt), as «waggle ca issue» makes it")
	f.StringVar(&t.Cert, "tls-cert", "", "another certificate file: a name in --tls, or an absolute path")
	f.StringVar(&t.Key, "tls-key", "", "another key file, in the directory of the certificate")
	f.StringVar(&t.CA, "tls-ca", "", "another file with the authority")
	f.StringVar(&t.ServerName, "tls-server-name", "", "the DNS name in the control plane's certificate (default: waggle)")
}

// options is nil for a channel without TLS, which must have been asked for.
func (c *channelTLS) options() (*bootstrap.TLS, error) {
	given := c.tls != bootstrap.TLS{}
	switch {
	case given && c.insecure:
		return nil, errors.New("--tls and --insecure contradict each other: give one of them")
	case !given && !c.insecure:
		return nil, errors.New("the channel to the control plane has no TLS: give --tls DIR, with what «waggle ca issue» made for this collection, or, on a network that is yours alone, --insecure")
	case c.insecure:
		return nil, nil
	}
	tls := c.tls
	return &tls, nil
}

// envoyHealth prints the answer. Docker knows 0 and 1 alone, so that even a page that
// does not answer is "found something wrong".
func envoyHealth(cmd *cobra.Command, admin string, ready bool) error {
	answer, err := launch.Health(cmd.Context(), admin, ready)
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "waggle:", err)
		return errFound
	}
	fmt.Fprintln(cmd.OutOrStdout(), answer)
	return nil
}

// fromEnvironment sets the flags that the command line does not from their variables:
// --node-id from WAGGLE_NODE_ID. The questions of a health check have none.
func fromEnvironment(flags *pflag.FlagSet) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || slices.Contains([]string{"health", "ready", "help", "envoy"}, f.Name) {
			return
		}
		name := "WAGGLE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(name)
		if value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			first = cmp.Or(first, fmt.Errorf("%s=%q: %w", name, value, err))
		}
	})
	return first
}
