package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/config/convert/hrm"
	"github.com/waggle-lb/waggle/config/convert/interlock"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

func convertCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "convert --from traefik|hrm|interlock-toml FILE",
		Short: "Turn another router's labels or configuration into Waggle's",
		Long: `Turn what another router was told into what Waggle is told. The result goes to
standard output; standard error has a line for each thing that has no equivalent.

  interlock-toml   Interlock's config.toml becomes waggle.yml
  hrm              the HRM labels of a stack file become com.docker.lb labels: what
                   changes in the file, to be merged into it

Both are also read as they are: waggle serve --config config.toml, and HRM labels
on services.

Exit code 1: something that was served has no equivalent.`,
		Example: `  waggle convert --from interlock-toml config.toml > waggle.yml
  docker config inspect --format '{{printf "%s" .Spec.Data}}' com.docker.ucp.interlock.conf-1 | waggle convert --from interlock-toml -
  waggle convert --from hrm stack.yml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch from {
			case "interlock-toml":
				return convertInterlock(cmd, args[0])
			case "hrm":
				return convertHRM(cmd, args[0])
			case "traefik":
				return errors.New("--from traefik is not built yet")
			case "":
				return errors.New("--from is missing: use traefik, hrm or interlock-toml")
			}
			return fmt.Errorf("--from %q is unknown: use traefik, hrm or interlock-toml", from)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "what FILE is: traefik, hrm or interlock-toml")
	fileFlags(cmd)
	return cmd
}

// convertInterlock prints a config.toml as waggle.yml.
func convertInterlock(cmd *cobra.Command, file string) error {
	data, name, err := readAll(cmd, file)
	if err != nil {
		return err
	}
	// As it would be served, so that a result that cannot be is not printed.
	_, notices, err := config.ParseInterlock(name, data, nil, labels.CheckOperator)
	for _, n := range notices {
		fmt.Fprintln(cmd.ErrOrStderr(), n)
	}
	if err != nil {
		return err
	}
	doc, err := interlock.Convert(data, config.Nearest)
	if err != nil {
		return err
	}
	if _, err := cmd.OutOrStdout().Write(doc.YAML); err != nil {
		return err
	}
	if slices.ContainsFunc(doc.Notices, func(n interlock.Notice) bool { return n.Lost }) {
		return errFound
	}
	return nil
}

// convertHRM prints what changes in a stack file when its HRM labels are written anew.
func convertHRM(cmd *cobra.Command, file string) error {
	stack, err := cmd.Flags().GetString("stack")
	if err != nil {
		return err
	}
	picture, _, err := stackfile.Load(cmd.Context(), stackfile.Options{Files: []string{file}, Stack: stack, Env: environment(), Stdin: cmd.InOrStdin()})
	if err != nil {
		return err
	}
	cfg, err := fileConfig(cmd, picture)
	if err != nil {
		return err
	}
	yaml, problems, err := hrm.Convert(cfg.LabelPrefixes, slices.Collect(maps.Values(picture.Services)))
	if err != nil {
		return err
	}
	if yaml == nil && len(problems) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no service has HRM labels ("+labels.HRMPrefix+"): nothing changes")
		return nil
	}
	if _, err := cmd.OutOrStdout().Write(yaml); err != nil {
		return err
	}
	wrong := false
	for _, p := range problems {
		wrong = wrong || p.Severity == labels.Error
	}
	if len(problems) > 0 {
		problemsText(cmd.ErrOrStderr(), problems, len(picture.Services))
	}
	if wrong {
		return errFound
	}
	return nil
}

// readAll reads a file, or standard input where it is "-".
func readAll(cmd *cobra.Command, file string) (data []byte, name string, err error) {
	const most = 1 << 20
	in, name := cmd.InOrStdin(), "config.toml"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		in, name = f, file
	}
	data, err = io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is larger than 1 MiB", name)
	}
	return data, name, err
}
