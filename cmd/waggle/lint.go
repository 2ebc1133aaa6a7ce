package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
)

func lintCommand() *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FILE…",
		Short: "Check the labels of stack files, as the control plane would see them",
		Long: `Check the labels of stack files, as the control plane would see them.

In a file for a Swarm the labels under deploy.labels count; in a Compose project for a
plain Docker those of the containers, under labels. Which of the two a file is, say
--compose and the configuration (swarm.source); without them it is a project if it is
called docker-compose.yml or compose.yml and says nothing that only a Swarm reads.`,
		Example: `  waggle lint stack.yml
  waggle lint --strict --config waggle.yml -f shop.yml -f blog.yml
  waggle lint docker-compose.yml
  docker compose config | waggle lint --compose --stack shop -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := formats(cmd, "text", "json")
			if err != nil {
				return err
			}
			files, err := cmd.Flags().GetStringArray("file")
			if err != nil {
				return err
			}
			if files = append(files, args...); len(files) == 0 {
				return fmt.Errorf("no stack file given: waggle lint stack.yml (or - for standard input)")
			}
			s, err := loadStack(cmd.Context(), cmd, files)
			if err != nil {
				return err
			}
			problems := s.problems()
			if format == "json" {
				err = problemsJSON(cmd.OutOrStdout(), problems)
			} else {
				problemsText(cmd.OutOrStdout(), problems, len(s.picture.Services))
			}
			if err != nil {
				return err
			}
			for _, p := range problems {
				if p.Severity == labels.Error || strict && p.Severity == labels.Warning {
					return errFound
				}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayP("file", "f", nil, "a stack file (may be repeated; - is standard input)")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit 1 for warnings too")
	cmd.Flags().String("format", "text", "text or json")
	fileFlags(cmd)
	return cmd
}

func problemsJSON(w io.Writer, problems []translate.Problem) error {
	if problems == nil {
		problems = []translate.Problem{}
	}
	return writeJSON(w, map[string]any{"problems": problems})
}

// problemsText writes each problem as its author needs it: what, where, why, and the way out.
func problemsText(w io.Writer, problems []translate.Problem, services int) {
	count := map[labels.Severity]int{}
	for _, p := range problems {
		count[p.Severity]++
		fmt.Fprintf(w, "%-7s ", p.Severity)
		if p.Service != "" {
			fmt.Fprintf(w, "%s: ", p.Service)
		}
		switch {
		case p.Label != "" && p.Value != "":
			fmt.Fprintf(w, "%s: \"%s\": ", p.Label, p.Value) // a value is one line already
		case p.Label != "":
			fmt.Fprintf(w, "%s: ", p.Label)
		}
		fmt.Fprintln(w, p.Reason)
		if p.Winner != "" {
			fmt.Fprintf(w, "        held by: %s\n", p.Winner)
		}
		if p.Hint != "" {
			fmt.Fprintf(w, "        → %s\n", p.Hint)
		}
	}
	fmt.Fprintf(w, "%s: %s, %s, %s\n", counted(services, "service"),
		counted(count[labels.Error], "error"), counted(count[labels.Warning], "warning"), counted(count[labels.Info], "note"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
