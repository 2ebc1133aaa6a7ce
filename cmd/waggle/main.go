// Command waggle is the Envoy control plane for Docker Swarm: one binary with
// everything, from the control plane itself to the lab and the checks of stack
// files. Its commands wire the rooms together and hold no logic of their own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/envoy-bootstrap/launch"
)

// version is set by the linker.
var version = "dev"

// Exit codes, as INTERFACES promises them to scripts.
const (
	exitFound    = 1 // ran, and found something wrong
	exitCouldNot = 2 // could not run: usage, unreadable file, no connection
)

// errFound ends a command that ran and found something wrong: what it is has been printed already.
var errFound = errors.New("found something wrong")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and gives its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return exitFound
	}
	fmt.Fprintln(stderr, "waggle:", err)
	if ended, ok := errors.AsType[*launch.Ended](err); ok {
		return ended.ExitCode() // whoever watches the container sees Envoy's own end
	}
	return exitCouldNot
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "waggle",
		Short: "The Envoy control plane for Docker Swarm",
		Long: `Waggle reads what runs in a Docker Swarm and turns service labels into the
configuration of Envoy fleets: one per collection (dev, test, prod …).

Try it without Docker:    waggle lab
Check a stack file:       waggle lint stack.yml
Run the control plane:    waggle serve --config waggle.yml`,
		SilenceUsage:  true,
		SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	root.PersistentFlags().String("config", "", "the operator's file, waggle.yml (default: built-in settings)")
	root.PersistentFlags().String("log-level", "info", "how much is logged to stderr: debug, info, warn or error")
	root.AddCommand(
		serveCommand(), statusCommand(), labCommand(),
		lintCommand(), renderCommand(), explainCommand(), diffCommand(), convertCommand(),
		bootstrapCommand(), envoyCommand(), caCommand(), healthcheckCommand(), versionCommand(), echoCommand(), courierCommand(),
	)
	return root
}

// logger writes to stderr at the level that was asked for.
func logger(cmd *cobra.Command) (*slog.Logger, error) {
	text, err := cmd.Flags().GetString("log-level")
	if err != nil {
		return nil, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("--log-level %q is not a level: use debug, info, warn or error", text)
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})), nil
}

// formats checks a --format flag against what the command can write.
func formats(cmd *cobra.Command, known ...string) (string, error) {
	got, err := cmd.Flags().GetString("format")
	if err != nil {
		return "", err
	}
	for _, k := range known {
		if got == k {
			return got, nil
		}
	}
	return "", fmt.Errorf("--format %q is unknown: use one of %v", got, known)
}

// writeJSON writes what --format json shows: for programs, and still to be read.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
