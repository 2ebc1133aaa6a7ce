package engine

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// follow tells events until the stream ends, after opened was called: that is when
// the daemon has begun to tell. It returns an error only where no stream could be
// opened: they end now and then (proxies cut them), and are to be opened again.
func follow[E any](ctx context.Context, c *connection, f filters.Args, opened func(), each func(E)) error {
	cli, err := c.client(ctx)
	if err == nil {
		var body io.ReadCloser
		if body, err = openEvents(ctx, c, cli, f); err == nil {
			defer body.Close()
			opened()
			dec := json.NewDecoder(body)
			for {
				var e E
				if dec.Decode(&e) != nil {
					return nil
				}
				each(e)
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	c.renew(cli)
	return c.sentence("/events", err)
}

// openEvents waits for the head of the answer no longer than the time limit; the
// body may then come for ever, until it is closed or ctx ends.
func openEvents(ctx context.Context, c *connection, cli *client.Client, f filters.Args) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(c.timeout, cancel)
	resp, err := c.get(ctx, cli, "/events", f)
	inTime := limit.Stop()
	if err != nil {
		cancel()
		if !inTime {
			err = context.DeadlineExceeded
		}
		return nil, err
	}
	return cancelled{resp.Body, cancel}, nil
}

// cancelled is a body whose request ends when it is closed.
type cancelled struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c cancelled) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}
