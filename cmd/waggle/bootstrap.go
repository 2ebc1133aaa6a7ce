package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

func bootstrapCommand() *cobra.Command {
	var o bootstrap.Options
	cmd := &cobra.Command{
		Use:   "bootstrap --collection C",
		Short: "Print the bootstrap file of an Envoy",
		Example: `  waggle bootstrap --collection dev --xds waggle:18000 > envoy.json && envoy -c envoy.json
  waggle bootstrap --collection dev --node-id 'dev/{{.Task.ID}}'    # a Swarm config with template_driver: golang`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.NodeID == "" {
				host, err := os.Hostname()
				if err != nil {
					return fmt.Errorf("name this proxy by its host: %w: give --node-id", err)
				}
				o.NodeID = o.Collection + "/" + host
			}
			b, err := bootstrap.New(o)
			if err != nil {
				return err
			}
			raw, err := bootstrap.Marshal(b)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw)
			return err
		},
	}
	cmd.Flags().StringVar(&o.Collection, "collection", "", "the collection this proxy belongs to")
	cmd.Flags().StringVar(&o.XDSAddress, "xds", "waggle:18000", "host:port of the control plane")
	cmd.Flags().StringVar(&o.NodeID, "node-id", "", "the proxy's node ID, collection/instance (default: collection/host name)")
	cmd.Flags().StringVar(&o.AdminAddress, "admin", "127.0.0.1:9901", "the admin address: host:port on loopback, or the path of a unix socket")
	if err := cmd.MarkFlagRequired("collection"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}
