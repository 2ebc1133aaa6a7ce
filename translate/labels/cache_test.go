package labels

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

func TestCache(t *testing.T) {
	c := NewCache(8)
	s := &watcher.Service{ID: "id", Name: "app", Version: 1, Labels: map[string]string{"lb.hosts": "a.example", "x.hosts": "x.example"}}
	opts := Options{Collection: "dev", Defaults: map[string]string{"retries": "3"}}
	first := c.Service(prefixes, s, opts)
	require.Equal(t, Parse(Merge(prefixes, "app", s.Labels), "app", opts), first)
	require.Same(t, first, c.Service(prefixes, s, opts), "the same question")
	require.Same(t, c.Set(prefixes, s), c.Set(prefixes, s))

	again := *s
	again.Labels = maps.Clone(s.Labels)
	require.Same(t, first, c.Service(prefixes, &again, opts), "another picture of the same service")

	// Each input by itself makes another question.
	for name, ask := range map[string]func() *Service{
		"version":    func() *Service { s := *s; s.Version = 2; return c.Service(prefixes, &s, opts) },
		"id":         func() *Service { s := *s; s.ID = "other"; return c.Service(prefixes, &s, opts) },
		"prefixes":   func() *Service { return c.Service([]string{"x"}, s, opts) },
		"collection": func() *Service { return c.Service(prefixes, s, Options{Collection: "prod", Defaults: opts.Defaults}) },
		"defaults": func() *Service {
			return c.Service(prefixes, s, Options{Collection: "dev", Defaults: map[string]string{"retries": "4"}})
		},
		"required": func() *Service { return c.Service(prefixes, s, Options{Collection: "dev", Required: opts.Defaults}) },
		"labels, without a new version": func() *Service {
			s := *s
			s.Labels = map[string]string{"lb.hosts": "b.example"}
			return c.Service(prefixes, &s, opts)
		},
		"name, without a new version": func() *Service { s := *s; s.Name = "renamed"; return c.Service(prefixes, &s, opts) },
	} {
		require.NotSame(t, c.Service(prefixes, s, opts), ask(), name)
	}
	s2 := *s
	s2.Labels = map[string]string{"lb.hosts": "b.example"}
	require.Equal(t, []string{"b.example"}, c.Service(prefixes, &s2, opts).Routes[0].Hosts, "never outdated")
}

func TestCacheIsBounded(t *testing.T) {
	c := NewCache(0)
	for i := range 10 {
		c.Service(prefixes, &watcher.Service{ID: fmt.Sprint(i)}, Options{})
	}
	require.Equal(t, 1, c.services.Len())
	require.Equal(t, 1, c.sets.Len())
}

func TestCacheIsConcurrent(t *testing.T) {
	c := NewCache(4)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				host := fmt.Sprintf("h%d.example", i%8)
				s := &watcher.Service{ID: fmt.Sprint(i % 8), Name: "app", Labels: map[string]string{"lb.hosts": host}}
				if got := c.Service(prefixes, s, Options{}).Routes[0].Hosts[0]; got != host {
					t.Errorf("service %d has host %s, not %s", i%8, got, host)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDigestTellsListsApart(t *testing.T) {
	require.NotEqual(t, digestOf([]string{"a", "b"}), digestOf([]string{"ab"}))
	require.NotEqual(t, digestOf([]string{"a"}, []string{"b"}), digestOf([]string{"a", "b"}))
	require.NotEqual(t, digestOf([]string{"a"}, nil), digestOf(nil, []string{"a"}))
}

func BenchmarkCacheHit(b *testing.B) {
	c := NewCache(8)
	s := &watcher.Service{ID: "id", Name: "shop_app", Version: 7, Labels: benchmarkLabels}
	opts := Options{Collection: "dev", Defaults: map[string]string{"retries": "2"}}
	b.ReportAllocs()
	for b.Loop() {
		c.Service(prefixes, s, opts)
	}
}
