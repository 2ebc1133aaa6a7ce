package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/ca"
)

func caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "The authority of the channel between proxies and control plane",
		Long: `The authority of the channel between proxies and control plane. Every proxy
proves its collection with a certificate, and so does the control plane that it
is the control plane:

  waggle ca init DIR             makes the authority; keep DIR/ca.key off the Swarm
  waggle ca issue DIR waggle     the control plane: xds.tls in waggle.yml
  waggle ca issue DIR dev        the proxies of collection dev: waggle bootstrap --tls

Each identity is a directory DIR/NAME with tls.crt, tls.key and ca.crt. Issue it
again before it ends: running programs take the new files without a restart.

Another one is for development alone: services labelled tls: local get their
certificates from it.

  waggle ca local                its root, for those who trust it`,
		Args: cobra.NoArgs, // an unknown subcommand is an error
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(caInitCommand(), caIssueCommand(), caListCommand(), caLocalCommand())
	return cmd
}

func caInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Make an authority in a directory",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ca.Init(args[0], time.Now()); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Made the authority in %s. Next: waggle ca issue %[1]s %s, and one for each collection.\n", args[0], ca.ControlPlane)
			return err
		},
	}
}

func caIssueCommand() *cobra.Command {
	var dns, ips []string
	var days int
	cmd := &cobra.Command{
		Use:   "issue DIR NAME",
		Short: "Issue, or rotate, the identity of the control plane or of a collection",
		Example: `  waggle ca issue ./authority waggle
  waggle ca issue ./authority dev --days 90`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			const most = 36500
			if days < 1 || days > most {
				return fmt.Errorf("--days %d: use 1 to %d", days, most)
			}
			o := ca.Options{DNS: dns, Lifetime: time.Duration(days) * 24 * time.Hour}
			for _, text := range ips {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					return fmt.Errorf("--ip %q is not an IP address", text)
				}
				o.IPs = append(o.IPs, ip)
			}
			issued, err := ca.Issue(args[0], args[1], o)
			if err != nil {
				return err
			}
			did := "Issued"
			if issued.Rotated {
				did = "Rotated"
			}
			says := []string{issued.URI}
			if issued.URI == "" {
				says = issued.DNS
				for _, ip := range issued.IPs {
					says = append(says, ip.String())
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s for %s, valid until %s.\n",
				did, issued.Directory, strings.Join(says, ", "), issued.NotAfter.Format(time.DateOnly))
			return err
		},
	}
	cmd.Flags().StringArrayVar(&dns, "dns", nil, "a further DNS name of the control plane (may be repeated)")
	cmd.Flags().StringArrayVar(&ips, "ip", nil, "an IP address of the control plane (may be repeated)")
	cmd.Flags().IntVar(&days, "days", int(ca.DefaultLifetime/(24*time.Hour)), "how long it is valid")
	return cmd
}

func caListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list DIR",
		Short: "List the issued identities; exit 1 if one is unusable, or ends within 30 days",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := ca.Names(args[0])
			if err != nil {
				return err
			}
			now, found := time.Now(), false
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tVALID UNTIL\tSAYS\tSTATE")
			for _, name := range names {
				state, until := "ok", "-"
				i, err := ca.Inspect(filepath.Join(args[0], name), now)
				switch {
				case err != nil:
					state, found = err.Error(), true
				case i.Due(now):
					state, found = "issue it again", true
				}
				if !i.NotAfter.IsZero() {
					until = i.NotAfter.Format(time.DateOnly)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, until, strings.Join(append(i.DNS, i.URIs...), ","), state)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if found {
				return errFound
			}
			return nil
		},
	}
}

func caLocalCommand() *cobra.Command {
	var state string
	var create, withKey bool
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Print the root of the development authority (tls: local)",
		Long: `Print the root of the development authority as PEM. Services labelled tls: local
get their certificates from it, for any host: trust it on development machines
alone. A control plane makes it in its state_dir when a service first asks for it.

Replicas of a control plane agree on it where it is mounted as the secret
waggle-local-ca.`,
		Example: `  docker exec CONTROL_PLANE waggle ca local > waggle-root.pem
  curl --cacert waggle-root.pem https://app.example.com/

  waggle ca local --state-dir ./dev-ca --create --with-key | docker secret create waggle-local-ca -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			shared := filepath.Join(secrets.MountedSecrets, secrets.LocalSecret)
			if state == "" {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				state = cfg.StateDir
			} else {
				shared = "" // where one is named, that one is meant
			}
			dir := filepath.Join(state, ca.LocalDirectory)
			if create && !fileExists(shared) {
				if err := ca.InitLocal(dir, time.Now()); err != nil {
					return err
				}
			}
			root, both, err := secrets.LocalFiles(shared, dir)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("there is no development authority in %s: a control plane makes it when a service first asks for tls: local; --create makes it now", dir)
			case err != nil:
				return err
			case withKey:
				root = both
			}
			_, err = cmd.OutOrStdout().Write(root)
			return err
		},
	}
	cmd.Flags().StringVar(&state, "state-dir", "", "the state_dir of the control plane (default: that of the configuration, or the mounted secret "+secrets.LocalSecret+")")
	cmd.Flags().BoolVar(&create, "create", false, "make it if there is none")
	cmd.Flags().BoolVar(&withKey, "with-key", false, "print its private key too, for the secret "+secrets.LocalSecret)
	return cmd
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return path != "" && err == nil
}
