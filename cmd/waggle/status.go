package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/admin/overview"
)

func statusCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "status [--api HOST:PORT]…",
		Short: "Show how the control planes are: stale sources, collections, proxies, problems",
		Long: `Ask running control planes how they are, and show it as one: every proxy once,
wherever it is connected, and whether the replicas serve the same.

Exit code 1: something is wrong (a control plane does not answer, is not ready or
cannot read what runs; replicas disagree; a proxy rejects something; a service has
an error). Exit code 2: no control plane answers.`,
		Example: `  waggle status
  waggle status --api 10.0.1.5:19000,10.0.1.6:19000 --token-file /run/secrets/waggle-admin-token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := formats(cmd, "text", "json")
			if err != nil {
				return err
			}
			replicas, err := apiClients(cmd)
			if err != nil {
				return err
			}
			o, err := overview.Ask(cmd.Context(), replicas)
			if err != nil {
				return err
			}
			if format == "json" {
				err = writeJSON(cmd.OutOrStdout(), o)
			} else {
				err = o.Text(cmd.OutOrStdout(), all)
			}
			if err == nil && len(o.Wrong) > 0 {
				err = errFound
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show problems that are for information alone, too")
	cmd.Flags().String("format", "text", "text or json")
	apiFlags(cmd)
	return cmd
}

// apiFlags adds the flags of commands that ask running control planes.
func apiFlags(cmd *cobra.Command) {
	cmd.Flags().StringSlice("api", nil, "the admin address of a control plane (may be repeated, or a list with commas; default: admin.address)")
	cmd.Flags().String("token-file", "", "a file with the token of the admin address (default: admin.token_file, WAGGLE_ADMIN_TOKEN_FILE)")
}

// apiClients are the control planes of --api, or the one of the operator's file.
func apiClients(cmd *cobra.Command) ([]*api.Client, error) {
	addresses, err := cmd.Flags().GetStringSlice("api")
	if err != nil {
		return nil, err
	}
	file, err := cmd.Flags().GetString("token-file")
	if err != nil {
		return nil, err
	}
	cfg, err := loadConfig(cmd)
	if err != nil {
		return nil, err
	}
	token := cfg.Admin.Token
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		if token = strings.TrimSpace(string(raw)); token == "" {
			return nil, fmt.Errorf("--token-file: %s is empty", file)
		}
	}
	if len(addresses) == 0 {
		addresses = []string{reachable(cfg.Admin.Address)}
	}
	var out []*api.Client
	for _, a := range addresses {
		if a = strings.TrimSpace(a); a == "" {
			continue
		}
		c, err := api.NewClient(a, token)
		if err != nil {
			return nil, fmt.Errorf("--api: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("--api names no address")
	}
	return out, nil
}
