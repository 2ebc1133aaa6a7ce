package control

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/watcher"
)

// An observer is told of each build with what it changed, and of the source and the
// configuration when they go wrong and when they are right again.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var steps []Step
		c := New(config.ForCollections(nil), &board{}, DefaultPace, slog.New(slog.DiscardHandler))
		c.Observe(func(s Step) {
			mu.Lock()
			defer mu.Unlock()
			require.False(t, s.At.IsZero())
			s.At = time.Time{}
			steps = append(steps, s)
		})
		go c.Run(t.Context())
		take := func() (out []Step) {
			time.Sleep(2 * time.Second) // in the bubble: until everything pending is built
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out, steps = steps, nil
			return out
		}
		require.Equal(t, []Step{{Kind: ConfigStep}}, take())
		require.NotNil(t, c.Status().Config)
		require.Zero(t, c.Status().Builds)

		s := newSwarm("a")
		c.Update(s.update(watcher.Changes{All: true}))
		got := take()
		require.Len(t, got, 1)
		require.Equal(t, BuildStep, got[0].Kind)
		require.True(t, got[0].Structure)
		require.Positive(t, got[0].Changed["default"])
		require.EqualValues(t, 1, c.Status().Builds)
		require.Contains(t, c.Status().Picture.Services, "a")

		s.task("a", 2)
		c.Update(s.update(watcher.Changes{Tasks: set("a")}))
		require.Equal(t, []Step{{Kind: BuildStep, Changed: map[string]int{"default": 1}}}, take())
		require.EqualValues(t, 2, c.Status().Builds)

		gone, other := errors.New("the daemon is gone"), errors.New("it says 503")
		for range 2 { // the same error again is no step
			c.Update(watcher.Update{Picture: c.Status().Picture, Err: gone})
		}
		c.Update(watcher.Update{Picture: c.Status().Picture, Err: other})
		c.Update(watcher.Update{Picture: c.Status().Picture, At: time.Now()})
		require.Equal(t, []Step{{Kind: SourceStep, Err: gone}, {Kind: SourceStep, Err: other}, {Kind: SourceStep}}, take())

		c.Update(watcher.Update{Picture: c.Status().Picture, At: time.Now(), Via: watcher.ViaEngine, Fallback: gone})
		require.Empty(t, take(), "where tasks come from is no fault")
		require.Equal(t, watcher.ViaEngine, c.Status().Via)
		require.Equal(t, gone, c.Status().Fallback)

		bad := errors.New("waggle.yml:3: unknown key")
		c.Misconfigured(bad)
		require.Equal(t, []Step{{Kind: ConfigStep, Err: bad}}, take())
		c.Reconfigure(config.ForCollections(nil))
		got = take()
		require.Equal(t, Step{Kind: ConfigStep}, got[0])
		require.Equal(t, BuildStep, got[1].Kind)
	})
}
