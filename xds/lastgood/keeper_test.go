package lastgood

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/xds/envoylike"
)

func TestWithoutAPictureNewProxiesGetWhatIsOnDiskAndOthersNothing(t *testing.T) {
	s := newSwarm(t)
	dir, old := accepted(t, s)
	kept, at, err := Store{dir}.Read(collection)
	require.NoError(t, err)
	require.Equal(t, epoch, at)

	p := start(t, dir)
	before, oldState := old.Counts(), old.State()
	connect(t, old, p.addr)
	fresh := envoylike.New(envoylike.Options{Node: collection + "/2", AnyEndpoints: true})
	connect(t, fresh, p.addr)
	p.keeper.offer()
	require.Equal(t, map[string]time.Time{collection: epoch}, p.Offered())

	want := map[translate.Kind]map[string]string{}
	for _, r := range kept {
		if want[r.Kind] == nil {
			want[r.Kind] = map[string]string{}
		}
		want[r.Kind][r.Name] = ""
	}
	wait(t, fresh, "a proxy that has nothing is served", func() bool {
		return fresh.Active() && len(fresh.State()[translate.Cluster]) == len(want[translate.Cluster]) &&
			slices.Equal(slices.Sorted(maps.Keys(fresh.State()[translate.Listener])), slices.Sorted(maps.Keys(want[translate.Listener])))
	})
	hosts := hostsOf(t, fresh.Resource(translate.Routes, "http").GetValue())
	require.NotZero(t, hosts["open.test"].GetRoutes()[0].GetRoute(), "it needs no secret")
	for _, closed := range []string{"users.test", "keys.test", "login.test"} {
		for _, r := range hosts[closed].GetRoutes() {
			require.EqualValues(t, 503, r.GetDirectResponse().GetStatus(), closed)
		}
	}
	require.Equal(t, before.Resources, old.Counts().Resources, "a proxy that has something is sent nothing")
	require.Equal(t, oldState, old.State())
	require.Nil(t, p.Snapshot(collection), "nothing is published")
	p.keeper.Save()
	again, _, err := Store{dir}.Read(collection)
	require.NoError(t, err)
	require.Equal(t, len(kept), len(again), "what is offered is not what is accepted")

	// The first picture, in which one service is new and one has gone.
	s.serve("new", "hosts", "new.test")
	delete(s.picture.Services, "open")
	fed := fresh.Counts()
	whole := s.whole()
	require.NoError(t, p.Publish(whole))
	p.has(t, fresh)
	published := 0
	for _, c := range whole.Changes {
		require.Contains(t, p.Snapshot(collection)[c.Kind], c.Name)
		published++
	}
	for _, names := range p.Snapshot(collection) {
		published -= len(names)
	}
	require.Zero(t, published, "what was offered and is not published has gone")
	p.has(t, old)
	require.Empty(t, p.Offered())
	require.Empty(t, fresh.Faults())
	require.Empty(t, old.Faults())
	now := old.Counts()
	require.Equal(t, 1, now.Resources[translate.Cluster]-before.Resources[translate.Cluster], "the new one")
	require.Equal(t, 0, now.Resources[translate.Listener]-before.Resources[translate.Listener], "no listener is different")
	require.Equal(t, 0, now.Resources[translate.Secret]-before.Resources[translate.Secret])
	now = fresh.Counts()
	require.Equal(t, 1, now.Resources[translate.Cluster]-fed.Resources[translate.Cluster], "it had the others from disk")
	require.Equal(t, 1, now.Resources[translate.Listener]-fed.Resources[translate.Listener], "the one with TLS")
	require.NotZero(t, hostsOf(t, fresh.Resource(translate.Routes, "http").GetValue())["new.test"])
}

func TestNothingIsOfferedWhenSomethingIsPublished(t *testing.T) {
	s := newSwarm(t)
	dir, _ := accepted(t, s)
	p := start(t, dir)
	delete(s.picture.Services, "open")
	require.NoError(t, p.Publish(s.whole()))
	p.keeper.offer()
	require.Empty(t, p.Offered())
	c := envoylike.New(envoylike.Options{Node: collection + "/2", AnyEndpoints: true})
	connect(t, c, p.addr)
	p.has(t, c)
}

func TestWhatIsTheSameIsNotWrittenAgain(t *testing.T) {
	s := newSwarm(t)
	dir := t.TempDir()
	p := start(t, dir)
	c := envoylike.New(envoylike.Options{Node: collection + "/1", AnyEndpoints: true})
	connect(t, c, p.addr)
	require.NoError(t, p.Publish(s.whole()))
	p.has(t, c)
	p.keeper.Save()
	file := Store{dir}.file(collection)
	require.NoError(t, os.Remove(file))
	p.keeper.Save()
	require.NoFileExists(t, file, "nothing has changed")
	s.serve("new", "hosts", "new.test")
	require.NoError(t, p.Publish(s.whole()))
	p.has(t, c)
	p.keeper.Save()
	require.FileExists(t, file)
}

// journal is a log that may be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func TestRunOffersAfterAMomentAndWritesNowAndThen(t *testing.T) {
	s := newSwarm(t)
	dir, _ := accepted(t, s)
	file := Store{dir}.file(collection)
	was, err := os.ReadFile(file)
	require.NoError(t, err)
	left := filepath.Join(dir, ".new-1")
	require.NoError(t, os.WriteFile(left, nil, 0o600))
	require.NoError(t, os.Chtimes(left, epoch, epoch.Add(-time.Hour)))
	p := start(t, dir)
	var log journal
	k := New(Options{Dir: dir, Server: p.Server, Log: slog.New(slog.NewTextHandler(&log, nil)), Moment: time.Millisecond, Every: time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	require.Eventually(t, func() bool { return len(p.Offered()) == 1 }, patience, time.Millisecond)
	require.NoFileExists(t, left, "what a crash left is removed")
	s.serve("new", "hosts", "new.test")
	require.NoError(t, p.Publish(s.whole()))
	c := envoylike.New(envoylike.Options{Node: collection + "/2", AnyEndpoints: true})
	connect(t, c, p.addr)
	require.Eventually(t, func() bool {
		is, err := os.ReadFile(file)
		return err == nil && !bytes.Equal(is, was)
	}, patience, time.Millisecond)
	require.Contains(t, log.String(), "there is no complete picture yet")
}

func TestADirectoryThatCannotBeWrittenIsToldOnce(t *testing.T) {
	s := newSwarm(t)
	dir := filepath.Join(t.TempDir(), "is-a-file")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	p := start(t, dir)
	var log journal
	p.keeper.o.Log = slog.New(slog.NewTextHandler(&log, nil))
	c := envoylike.New(envoylike.Options{Node: collection + "/1", AnyEndpoints: true})
	connect(t, c, p.addr)
	require.NoError(t, p.Publish(s.whole()))
	p.has(t, c)
	p.keeper.Save()
	p.keeper.Save()
	require.Equal(t, 1, bytes.Count([]byte(log.String()), []byte("is not kept")), log.String())
	require.NoError(t, os.Remove(dir))
	p.keeper.Save()
	require.FileExists(t, Store{dir}.file(collection), "and tried again")
}

func hostsOf(t *testing.T, table []byte) map[string]*routev3.VirtualHost {
	t.Helper()
	hosts := map[string]*routev3.VirtualHost{}
	for _, vh := range tableOf(t, table).GetVirtualHosts() {
		for _, d := range vh.GetDomains() {
			hosts[d] = vh
		}
	}
	return hosts
}
