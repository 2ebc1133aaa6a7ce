package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher/filewatch"
)

// reload applies every saved change of the operator's file until ctx ends. A bad new
// file leaves the old one in force. w was made before the file was read the first time.
func reload(ctx context.Context, path string, w *filewatch.Watch, inForce *config.Config, loop *control.Control, disk *secrets.Watch, log *slog.Logger) error {
	defer w.Close()
	for w.Wait(ctx) {
		w.Reset([]string{path})
		next, notices, err := config.Load(path, os.Environ(), labels.CheckOperator)
		if err != nil {
			log.Error("the changed configuration cannot be used; the one before stays in force", "error", err)
			loop.Misconfigured(err)
			continue
		}
		for _, n := range notices {
			log.Warn(n.String())
		}
		if keys := inForce.RestartOnly(next); len(keys) > 0 {
			log.Warn("these keys take effect at the next start: " + strings.Join(keys, ", "))
		}
		disk.Reconfigure(next)
		loop.Reconfigure(next)
		log.Info("the changed configuration is in force", "file", path)
	}
	return nil
}

// watchConfig notes how the operator's file looks now; nil without a file.
func watchConfig(path string) *filewatch.Watch {
	if path == "" {
		return nil
	}
	w := filewatch.New(100*time.Millisecond, 2*time.Second)
	w.Reset([]string{path})
	return w
}
