package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/diff"
	"github.com/waggle-lb/waggle/translate/render"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

func diffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff (-f OLD -f NEW | --api HOST:PORT -f FILE)",
		Short: "Say what would change for each collection, and what would break",
		Long: `Say what would change if a stack file were deployed: hosts, routes, clusters and
endpoints of each collection, and what would break: hosts lost, routes whose answer
becomes an error, guards opened.

With two files, the second takes the place of the first. With --api, the file takes
the place of its stack in a running control plane; give the same --config, since
defaults of a collection count too. What guards hold (passwords, keys) is compared
between files only: a control plane does not give it away.

Exit code 1: something would break.`,
		Example: `  git show HEAD:stack.yml > old.yml && waggle diff -f old.yml -f stack.yml
  waggle diff --api 127.0.0.1:19000 -f stack.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := formats(cmd, "text", "json")
			if err != nil {
				return err
			}
			files, err := cmd.Flags().GetStringArray("file")
			if err != nil {
				return err
			}
			compare := diffFiles
			if cmd.Flags().Changed("api") {
				compare = diffRunning
			}
			report, err := compare(cmd, files)
			if err != nil {
				return err
			}
			if format == "json" {
				err = writeJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Text(cmd.OutOrStdout())
			}
			if err == nil && len(report.Breaks) > 0 {
				err = errFound
			}
			return err
		},
	}
	cmd.Flags().String("format", "text", "text or json")
	stackFlag(cmd)
	apiFlags(cmd)
	return cmd
}

// diffFiles compares two stack files.
func diffFiles(cmd *cobra.Command, files []string) (*diff.Report, error) {
	if len(files) != 2 {
		return nil, fmt.Errorf("%s given: waggle diff -f OLD -f NEW, or --api HOST:PORT -f FILE", counted(len(files), "stack file"))
	}
	stack, err := cmd.Flags().GetString("stack")
	if err != nil {
		return nil, err
	}
	old, err := readStack(cmd, files[0], stack)
	if err != nil {
		return nil, err
	}
	next, err := readStack(cmd, files[1], stack)
	if err != nil {
		return nil, err
	}
	// Two files without a name of their own are two versions of one stack, whatever they are called.
	if was, is := stackOf(old), stackOf(next); stack == "" && was != is && was == baseName(files[0]) && is == baseName(files[1]) {
		if next, err = readStack(cmd, files[1], was); err != nil {
			return nil, err
		}
	}
	cfg, err := fileConfig(cmd, together(old, next))
	if err != nil {
		return nil, err
	}
	// What guards and certificates hold is compared, and shown to nobody.
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	a, err := trees(cfg, old, key)
	if err != nil {
		return nil, err
	}
	b, err := trees(cfg, next, key)
	if err != nil {
		return nil, err
	}
	return diff.Compare(a, b, diff.Options{Guards: translate.GuardFilters()}), nil
}

// diffRunning compares what a control plane serves of a stack with its file.
func diffRunning(cmd *cobra.Command, files []string) (*diff.Report, error) {
	if len(files) != 1 {
		return nil, fmt.Errorf("%s given: waggle diff --api HOST:PORT -f FILE", counted(len(files), "stack file"))
	}
	stack, err := cmd.Flags().GetString("stack")
	if err != nil {
		return nil, err
	}
	next, err := readStack(cmd, files[0], stack)
	if err != nil {
		return nil, err
	}
	replicas, err := apiClients(cmd)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, c := range replicas {
		running, served, err := askResources(cmd, c)
		if err != nil {
			errs = append(errs, fmt.Errorf("ask the control plane at %s: %w", c.Address, err))
			continue
		}
		cfg := served
		if cmd.Flags().Changed("config") {
			if cfg, err = loadConfig(cmd); err != nil {
				return nil, err
			}
		}
		b, err := trees(cfg, next, nil) // the API has no marks
		if err != nil {
			return nil, err
		}
		own := stackOf(next) + "_"
		return diff.Compare(running, b, diff.Options{
			Guards: translate.GuardFilters(),
			Mine:   func(service string) bool { return strings.HasPrefix(service, own) },
		}), nil
	}
	return nil, errors.Join(errs...)
}

// askResources gets what a control plane serves, and the collections that it has.
func askResources(cmd *cobra.Command, c *api.Client) (map[string]diff.Tree, *config.Config, error) {
	all, err := c.Collections(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	cfg := config.ForCollections(nil)
	cfg.Collections, cfg.Order = map[string]*config.Collection{}, nil
	running := map[string]diff.Tree{}
	for _, x := range all.Collections {
		if running[x.Name], err = c.Resources(cmd.Context(), x.Name); err != nil {
			return nil, nil, err
		}
		coll := config.NewCollection(x.Name)
		coll.Default, coll.Bind, coll.HTTPPort, coll.HTTPSPort, coll.HTTPSPublicPort = x.Default, x.Bind, x.HTTPPort, x.HTTPSPort, x.HTTPSPort
		coll.TCPPorts, coll.UDPPorts = x.TCPPorts, x.UDPPorts
		cfg.Collections[x.Name] = coll
		cfg.Order = append(cfg.Order, x.Name)
	}
	return running, cfg, nil
}

func readStack(cmd *cobra.Command, file, stack string) (*watcher.Picture, error) {
	plain, err := plainDocker(cmd)
	if err != nil {
		return nil, err
	}
	p, findings, err := stackfile.Load(cmd.Context(), stackfile.Options{Files: []string{file}, Stack: stack, Plain: plain, Env: environment(), Stdin: cmd.InOrStdin()})
	for _, f := range findings {
		if f.Severity == stackfile.Error {
			fmt.Fprintln(cmd.ErrOrStderr(), "waggle:", f)
		}
	}
	return p, err
}

// stackOf is the name of the stack that a picture of one file holds.
func stackOf(p *watcher.Picture) string {
	for _, s := range p.Services {
		return s.Labels["com.docker.stack.namespace"]
	}
	return ""
}

func baseName(file string) string {
	return strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
}

// together is a picture with the services of both: their collections are known in both states.
func together(a, b *watcher.Picture) *watcher.Picture {
	both := *a
	both.Services = maps.Clone(a.Services)
	for id, s := range b.Services {
		if _, there := both.Services[id]; there {
			id += " new"
		}
		both.Services[id] = s
	}
	return &both
}

// trees translates a picture and shows every collection, with marks if there is a key.
func trees(cfg *config.Config, p *watcher.Picture, key []byte) (map[string]diff.Tree, error) {
	material, _ := secrets.OfFiles(cfg, p) // what is wrong there is with the services that want it
	built := translate.Build(translate.Input{Picture: p, Config: cfg, Material: material})
	out := map[string]diff.Tree{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Collections)) {
		show := render.Tree
		if key != nil {
			show = func(res translate.Resources, kinds ...translate.Kind) (map[string]map[string]any, error) {
				return render.Marked(key, res, kinds...)
			}
		}
		t, err := show(built.Resources(name), render.Shown...)
		if err != nil {
			return nil, err
		}
		out[name] = t
	}
	return out, nil
}
