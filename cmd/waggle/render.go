package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/render"
)

func renderCommand() *cobra.Command {
	var collection, kind string
	cmd := &cobra.Command{
		Use:   "render -f FILE… --collection C",
		Short: "Show the Envoy resources that stack files become",
		Example: `  waggle render -f stack.yml --collection prod
  waggle render -f stack.yml --collection prod --type routes --format json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := formats(cmd, "yaml", "json")
			if err != nil {
				return err
			}
			kinds, err := kindsNamed(kind)
			if err != nil {
				return err
			}
			s, err := loadStackFlag(cmd)
			if err != nil {
				return err
			}
			if err := s.collection(collection); err != nil {
				return err
			}
			tree, err := render.Tree(s.built.Resources(collection), kinds...)
			if err != nil {
				return err
			}
			raw, err := json.MarshalIndent(tree, "", "  ")
			if err != nil {
				return err
			}
			if format == "yaml" {
				var plain any // through JSON, so that both formats show the same values
				if err := yaml.Unmarshal(raw, &plain); err != nil {
					return err
				}
				if raw, err = yaml.Marshal(plain); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(string(raw), "\n"))
			return nil
		},
	}
	cmd.Flags().StringVar(&collection, "collection", "default", "the collection to show")
	cmd.Flags().StringVar(&kind, "type", "", "only this type: listeners, routes, clusters, endpoints, secrets or extensions")
	cmd.Flags().String("format", "yaml", "yaml or json")
	stackFlag(cmd)
	return cmd
}

func kindsNamed(name string) ([]translate.Kind, error) {
	if name == "" {
		return render.Shown, nil
	}
	k, ok := render.KindNamed(name)
	if !ok {
		var known []string
		for _, k := range render.Shown {
			known = append(known, k.String())
		}
		return nil, fmt.Errorf("--type %q is unknown: use one of %s", name, strings.Join(known, ", "))
	}
	return []translate.Kind{k}, nil
}

// stackFlag adds -f and --stack to a command that takes its files by flag alone.
func stackFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayP("file", "f", nil, "a stack file (may be repeated; - is standard input)")
	fileFlags(cmd)
}

func loadStackFlag(cmd *cobra.Command) (*stack, error) {
	files, err := cmd.Flags().GetStringArray("file")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no stack file given: add -f stack.yml (or -f - for standard input)")
	}
	return loadStack(cmd.Context(), cmd, files)
}
