package engine

import (
	"context"
	"errors"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// Daemon is the way to one Docker daemon for sources that read other things of it
// than this package does: with the same care for versions, time limits and proxies,
// and errors that are whole sentences.
type Daemon struct {
	conn  *connection
	needs string // the requests that a socket proxy must let pass
}

// Connect makes a Daemon of Options.Host, CertDir and Timing.Timeout; needs names
// the requests that a socket proxy must let pass. Nothing is contacted yet: an
// error of it can never pass.
func Connect(o Options, needs string) (*Daemon, error) {
	conn, err := newConnection(o.withDefaults())
	if err != nil {
		return nil, err
	}
	return &Daemon{conn, needs}, nil
}

// Close ends the connections that are idle.
func (d *Daemon) Close() { d.conn.close() }

// Do runs one request, or several that belong together, within the time limit;
// what says what is read.
func (d *Daemon) Do(ctx context.Context, what string, f func(context.Context, *client.Client) error) error {
	return d.forbidden(what, d.conn.do(ctx, what, f))
}

// Events tells events until the stream ends, after opened was called: that is when
// the daemon has begun to tell. It returns an error only where no stream could be
// opened: they end now and then (proxies cut them), and are to be opened again.
func (d *Daemon) Events(ctx context.Context, f filters.Args, opened func(), each func(events.Message)) error {
	return d.forbidden("/events", follow(ctx, d.conn, f, opened, each))
}

// forbidden names the requests that this source needs, where a proxy refused one.
func (d *Daemon) forbidden(what string, err error) error {
	if !errors.Is(err, cerrdefs.ErrPermissionDenied) || unconnected(err) {
		return err
	}
	return &failure{fmt.Sprintf("Docker at %s forbids reading %s; let the socket proxy pass GET %s", d.conn.host, what, d.needs), err}
}
