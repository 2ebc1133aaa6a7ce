package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	dockerswarm "github.com/docker/docker/api/types/swarm"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

// clusters is a Publisher that knows which clusters there are.
type clusters struct {
	mu   sync.Mutex
	live map[string]bool
}

func (c *clusters) SetCollections([]string) {}

func (c *clusters) Publish(d translate.Delta) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range d.Changes {
		if ch.Kind == translate.Cluster {
			c.live[ch.Name] = ch.Resource != nil
			if ch.Resource == nil {
				delete(c.live, ch.Name)
			}
		}
	}
	return nil
}

func (c *clusters) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live)
}

// A stack that is really removed, one service after the other, is gone within three
// seconds, with the source's own pace.
func TestARemovedStackGoesWithinThreeSeconds(t *testing.T) {
	d := fakedocker.Start(t)
	names := make([]string, 12)
	for i := range names {
		names[i] = fmt.Sprintf("shop_s%d", i)
		d.PutService(names[i], func(s *dockerswarm.Service) {
			s.Spec.Labels = map[string]string{"com.docker.lb.hosts": names[i] + ".example.com", "com.docker.lb.port": "80"}
		})
		d.PutTask(names[i], "task-"+names[i], nil)
	}
	source := engine.New(engine.Options{Host: d.Host()})
	pub := &clusters{live: map[string]bool{}}
	loop := control.New(config.ForCollections(nil), pub, control.DefaultPace, slog.New(slog.DiscardHandler))
	loop.OnHeld(source.Confirm)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- loop.Run(ctx) }()
	go func() { ended <- source.Run(ctx, loop.Update) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool { return pub.count() == 12 && d.Streams() == 1 }, 10*time.Second, 5*time.Millisecond)

	start := time.Now()
	for _, name := range names {
		d.RemoveService(name)
	}
	require.Eventually(t, func() bool { return pub.count() == 0 }, 10*time.Second, 5*time.Millisecond)
	took := time.Since(start)
	t.Logf("gone after %v", took)
	require.Less(t, took, 3*time.Second)
	require.Empty(t, loop.Status().Held)
}
