package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

func bootstrapCommand() *cobra.Command {
	var o bootstrap.Options
	var tls bootstrap.TLS
	var sds string
	cmd := &cobra.Command{
		Use:   "bootstrap --collection C",
		Short: "Print the bootstrap file of an Envoy",
		Example: `  waggle bootstrap --collection dev --xds waggle:18000 > envoy.json && envoy -c envoy.json
  waggle bootstrap --collection dev --tls pki/dev --write-sds pki/dev > envoy.json
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
			if tls != (bootstrap.TLS{}) {
				o.TLS = &tls
			}
			if sds != "" {
				if err := bootstrap.WriteSDS(sds, tls); err != nil {
					return err
				}
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
	cmd.Flags().StringVar(&o.Zone, "zone", "", "the Swarm node this proxy runs on, {{.Node.ID}} in a Swarm: prefer_local prefers its tasks (default: none)")
	cmd.Flags().StringVar(&o.AdminAddress, "admin", "127.0.0.1:9901", "the admin address: host:port on loopback, or the path of a unix socket")
	tlsFlags(cmd.Flags(), &tls)
	cmd.Flags().StringVar(&tls.SDSDirectory, "tls-sds", "", fmt.Sprintf("where the proxy finds its SDS files, %s and %s (default: --tls)", bootstrap.ClientSDSFile, bootstrap.CASDSFile))
	cmd.Flags().StringVar(&sds, "write-sds", "", "also write the SDS files, into this directory («waggle envoy» does by itself)")
	if err := cmd.MarkFlagRequired("collection"); err != nil {
		panic(err) // the flag is declared above
	}
	return cmd
}
