package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// loadConfig reads the file of --config, checks the label keys in it, and prints its notices.
func loadConfig(cmd *cobra.Command) (*config.Config, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	cfg, notices, err := config.Load(path, os.Environ(), labels.CheckOperator)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		fmt.Fprintln(cmd.ErrOrStderr(), "waggle: notice:", n)
	}
	return cfg, nil
}

// stack is what the stack files of a command line say.
type stack struct {
	config   *config.Config
	picture  *watcher.Picture
	findings []translate.Problem // of the files themselves
	built    *translate.Builder
}

// problems are those of the files, then those of the labels.
func (s *stack) problems() []translate.Problem {
	return append(slices.Clone(s.findings), s.built.Problems()...)
}

// fileFlags adds the flags of every command that reads stack files.
func fileFlags(cmd *cobra.Command) {
	cmd.Flags().Bool("compose", false, "the files are Compose projects for a plain Docker: labels of containers count")
	cmd.Flags().String("stack", "", "the stack's name (default: «name:» in the file, else the file's name)")
}

// loadStack reads stack files and translates them as the control plane would.
func loadStack(ctx context.Context, cmd *cobra.Command, files []string) (*stack, error) {
	name, err := cmd.Flags().GetString("stack")
	if err != nil {
		return nil, err
	}
	plain, err := plainDocker(cmd)
	if err != nil {
		return nil, err
	}
	s := &stack{}
	picture, findings, err := stackfile.Load(ctx, stackfile.Options{Files: files, Stack: name, Plain: plain, Env: environment(), Stdin: cmd.InOrStdin()})
	if err != nil {
		return nil, err
	}
	s.picture, s.findings = picture, fileProblems(findings)
	if s.config, err = fileConfig(cmd, picture); err != nil {
		return nil, err
	}
	material, errs := secrets.OfFiles(s.config, picture)
	for _, err := range errs {
		s.findings = append(s.findings, translate.Problem{Severity: labels.Warning, Reason: err.Error()})
	}
	s.built = translate.Build(translate.Input{Picture: picture, Config: s.config, Material: material})
	return s, nil
}

// plainDocker says whether stack files are for a plain Docker: --compose, else the
// source of the operator's file; nil where neither says it, and each file tells.
func plainDocker(cmd *cobra.Command) (*bool, error) {
	compose, err := cmd.Flags().GetBool("compose")
	if err != nil || compose {
		return &compose, err
	}
	if !cmd.Flags().Changed("config") {
		return nil, nil
	}
	path, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	cfg, _, err := config.Load(path, os.Environ(), labels.CheckOperator) // its notices are printed where it is used
	if err != nil {
		return nil, err
	}
	return new(cfg.Swarm.Source == "compose"), nil
}

// fileConfig is the operator's file where one is given; without it, a collection
// for each service_cluster in the files, plus default.
func fileConfig(cmd *cobra.Command, p *watcher.Picture) (*config.Config, error) {
	if cmd.Flags().Changed("config") {
		return loadConfig(cmd)
	}
	services := slices.Collect(maps.Values(p.Services))
	return config.ForCollections(labels.ServiceClusters(config.ForCollections(nil).LabelPrefixes, services)), nil
}

// fileProblems gives findings about the files the one shape that problems have everywhere.
func fileProblems(findings []stackfile.Finding) []translate.Problem {
	var ps []translate.Problem
	for _, f := range findings {
		where := f.File
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		ps = append(ps, translate.Problem{
			Severity: labels.Severity(f.Severity), Service: f.Service, Label: where, Reason: f.Reason, Hint: f.Hint,
		})
	}
	return ps
}

func environment() map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

// collection checks that the collection of --collection exists.
func (s *stack) collection(name string) error {
	if s.config.Collections[name] != nil {
		return nil
	}
	return fmt.Errorf("collection %q is unknown: there are %s", name, strings.Join(slices.Sorted(maps.Keys(s.config.Collections)), ", "))
}
