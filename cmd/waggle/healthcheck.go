package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func healthcheckCommand() *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the control plane of this container whether it is alive (for HEALTHCHECK)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			client := &http.Client{Timeout: 3 * time.Second}
			res, err := client.Get("http://" + reachable(cfg.Admin.Address) + path)
			if err != nil {
				return fmt.Errorf("ask %s of the admin address: %w", path, err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
			fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(string(body)))
			if res.StatusCode != http.StatusOK {
				return errFound
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it is ready instead: the first complete picture is published")
	return cmd
}

// reachable is the address to dial for a server that listens on address.
func reachable(address string) string {
	for _, any := range []string{"0.0.0.0:", "[::]:", ":"} {
		if port, ok := strings.CutPrefix(address, any); ok {
			return "127.0.0.1:" + port
		}
	}
	return address
}
