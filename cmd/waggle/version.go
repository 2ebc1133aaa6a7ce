package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print build facts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := formats(cmd, "text", "json")
			if err != nil {
				return err
			}
			facts := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version, revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if format == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(facts)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "waggle %s %s (%s, %s)\n", facts.Version, facts.Revision, facts.Go, facts.Platform)
			return nil
		},
	}
	cmd.Flags().String("format", "text", "text or json")
	return cmd
}

// revision is the commit that the binary was built from, if the build knew it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
