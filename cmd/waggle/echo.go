package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/lab/echo"
)

// echoCommand is the program of the containers that the tests run on a real Swarm.
func echoCommand() *cobra.Command {
	var o echo.Options
	var check bool
	cmd := &cobra.Command{
		Use:    "echo",
		Short:  "Run one echo task: the program behind the lab's services, for containers",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check {
				return echo.Check(cmd.Context(), o.Addr)
			}
			return echo.Serve(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Addr, "addr", ":8080", "where it listens")
	cmd.Flags().StringVar(&o.Service, "service", os.Getenv("SERVICE_NAME"), "the service's name (or SERVICE_NAME)")
	cmd.Flags().StringVar(&o.Task, "task", cmp.Or(os.Getenv("TASK_NAME"), os.Getenv("HOSTNAME")), "the task's name (or TASK_NAME)")
	cmd.Flags().DurationVar(&o.Delay, "delay", 0, "how long each answer takes, unless the request says")
	cmd.Flags().DurationVar(&o.Grace, "grace", echo.DefaultGrace, "how long open requests may take after SIGTERM")
	cmd.Flags().BoolVar(&check, "check", false, "ask the task at --addr whether it answers, and exit")
	return cmd
}
