package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// idps are providers by issuer: what they say, or why they do not.
type idps struct {
	mu      sync.Mutex
	says    map[string]Provider
	fails   map[string]string
	delay   time.Duration
	asked   []string
	now     int
	most    int
	changes int
}

func (i *idps) ask(ctx context.Context, issuer string) (Provider, error) {
	i.mu.Lock()
	i.asked = append(i.asked, issuer)
	i.now++
	i.most = max(i.most, i.now)
	i.mu.Unlock()
	select {
	case <-time.After(i.delay):
	case <-ctx.Done():
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.now--
	if why := i.fails[issuer]; why != "" {
		return Provider{}, errors.New(why)
	}
	return i.says[issuer], ctx.Err()
}

func (i *idps) count(issuer string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(i.asked), func(s string) bool { return s != issuer }))
}

func (i *idps) fail(issuer, why string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fails[issuer] = why
}

// running is Providers that ask them, with a clock of the test's.
func (i *idps) running(t *testing.T) *Providers {
	p := NewProviders(nil)
	p.ask = i.ask
	p.random = func() float64 { return 0 }
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		p.Run(ctx, func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.changes++
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

// What was good is kept while a provider fails, and it is asked again sooner and sooner
// less often, until it answers.
func TestProvidersAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &idps{says: map[string]Provider{"a": {Token: "1"}}, fails: map[string]string{"a": "is away"}}
		p := i.running(t)
		require.Equal(t, map[string]Answer{}, p.Answers())
		p.Want([]string{"a"})
		synctest.Wait()
		require.Equal(t, map[string]Answer{"a": {Failed: "is away"}}, p.Answers())
		require.Equal(t, 1, i.changes)
		time.Sleep(3*time.Second + 100*time.Millisecond) // after 1 s, and 2 s
		synctest.Wait()
		require.Equal(t, 3, i.count("a"))
		require.Equal(t, 1, i.changes, "the same failure is no news")

		i.fail("a", "")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		good := map[string]Answer{"a": {Provider: Provider{Token: "1"}, Known: true}}
		require.Equal(t, good, p.Answers())
		require.Equal(t, 2, i.changes)
		time.Sleep(askAgain - time.Second)
		p.Want([]string{"a"}) // nothing new
		synctest.Wait()
		require.Equal(t, 4, i.count("a"))

		i.fail("a", "is away")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, map[string]Answer{"a": {Provider: Provider{Token: "1"}, Known: true, Failed: "is away"}}, p.Answers())
		before := i.count("a")
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.InDelta(t, 24*12, i.count("a")-before, 10, "every five minutes")

		p.Want(nil)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, map[string]Answer{}, p.Answers(), "nobody wants it")
		before = i.count("a")
		i.fail("a", "")
		p.Want([]string{"a"})
		synctest.Wait()
		require.Equal(t, before+1, i.count("a"))
		require.Equal(t, good, p.Answers())
	})
}

// Many that never answer do not keep one that does waiting for long, and are not asked all at once.
func TestProvidersThatAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &idps{says: map[string]Provider{}, fails: map[string]string{}, delay: askTimeout}
		var all []string
		for n := range 40 {
			issuer := fmt.Sprintf("slow-%02d", n)
			all = append(all, issuer)
			i.fail(issuer, "does not answer")
		}
		p := i.running(t)
		require.True(t, p.Want(all))
		require.False(t, p.Want(all))
		m := (*Material)(nil).With(p.Answers())
		require.True(t, m.Coming())
		time.Sleep(askTimeout)
		synctest.Wait()
		require.False(t, m.With(p.Answers()).Coming(), "nobody waits for all of them")
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		require.Equal(t, asksAtOnce, i.most)
		p.Want(append(all, "good"))
		time.Sleep(2*askTimeout + time.Second)
		synctest.Wait()
		require.True(t, p.Answers()["good"].Known)
	})
}

func TestAskOnce(t *testing.T) {
	i := &idps{says: map[string]Provider{}, fails: map[string]string{"f": "is away"}}
	p := NewProviders(nil)
	p.ask = i.ask
	all := []string{"a", "b", "c", "d", "e", "f", "g"}
	p.Want(all)
	p.AskOnce(t.Context())
	require.Len(t, p.Answers(), len(all))
	for issuer, a := range p.Answers() {
		require.Equal(t, issuer != "f", a.Known, issuer)
	}
	p.AskOnce(t.Context())
	for _, issuer := range all {
		require.Equal(t, 1, i.count(issuer), "they have answered")
	}
	p.Want([]string{"h"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.AskOnce(ctx) // comes back
}

// Answers are told with the material, and are part of what makes it another.
func TestWatchTellsAnswers(t *testing.T) {
	i := &idps{says: map[string]Provider{"a": {Token: "1"}}}
	p := NewProviders(nil)
	p.ask = i.ask
	cfg, _, _ := two(t)
	var mu sync.Mutex
	var last *Material
	told := 0
	w := NewWatch(cfg, Options{Mounted: t.TempDir(), Providers: p, Every: 5 * time.Millisecond}, func(m *Material) {
		mu.Lock()
		defer mu.Unlock()
		last = m
		told++
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	answer := func() (a Answer, asked bool) {
		mu.Lock()
		defer mu.Unlock()
		return last.Provider("a")
	}
	require.Eventually(t, func() bool { _, asked := answer(); return asked }, 10*time.Second, time.Millisecond)
	p.Want([]string{"a"})
	require.Eventually(t, func() bool { a, _ := answer(); return a.Known }, 10*time.Second, time.Millisecond)
	mu.Lock()
	require.Equal(t, 2, told)
	mu.Unlock()

	var nobody *Material
	_, asked := nobody.Provider("a")
	require.False(t, asked)
	_, asked = nobody.With(map[string]Answer{}).Provider("a")
	require.True(t, asked)
}

// A control plane that starts while a provider is away knows it from before.
func TestWhatProvidersSaidIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	said := Provider{Authorization: "https://id.test/login", Token: "https://id.test/token"}
	i := &idps{says: map[string]Provider{"a": said, "b": said}, fails: map[string]string{}}
	var log strings.Builder
	start := func(issuers ...string) (p *Providers, stop func()) {
		p = NewProviders(nil)
		p.ask = i.ask
		p.Keep(dir, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx, func() {}) })
		p.Want(issuers)
		return p, func() { cancel(); wg.Wait() }
	}
	kept := func(issuers ...string) func() bool {
		return func() bool {
			all, err := remembered(dir)
			return err == nil && slices.Equal(slices.Sorted(maps.Keys(all)), issuers)
		}
	}
	_, stop := start("a", "b")
	require.Eventually(t, kept("a", "b"), 10*time.Second, time.Millisecond)
	stop()
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "and nothing half-written")

	i.fail("a", "is away")
	p, stop := start("a", "new")
	require.Equal(t, said, p.Answers()["a"].Provider)
	require.True(t, p.Answers()["a"].Known, "at once")
	require.False(t, p.Answers()["new"].Known)
	require.Eventually(t, func() bool { return p.Answers()["a"].Failed == "is away" }, 10*time.Second, time.Millisecond)
	require.True(t, p.Answers()["a"].Known)
	stop()
	require.Empty(t, log.String())

	for text, known := range map[string]bool{
		`{"a": {"Authorization": "https://id.test/login", "Token": "https://id.test/other"}}`: true,
		`{"a": {"Authorization": "javascript:x", "Token": "https://id.test/token"}}`:          false,
		`{"a": {"Authorization": "https://id.test/login"}}`:                                   false,
		`{`: false, ``: false, `[]`: false, `{"b": {}}`: false,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, ProvidersFile), []byte(text), 0o600))
		p := NewProviders(nil)
		p.Keep(dir, slog.New(slog.NewTextHandler(&log, nil)))
		p.Want([]string{"a"})
		require.Equal(t, known, p.Answers()["a"].Known, text)
	}
	require.Contains(t, log.String(), "remove it, and they are asked anew")
}
