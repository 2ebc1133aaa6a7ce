package secrets

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

// secretsOf is a picture with these Docker secrets, each with the collection that its label names.
func secretsOf(collections map[string]string) *watcher.Picture {
	p := &watcher.Picture{Secrets: map[string]*watcher.Secret{}, Configs: map[string]*watcher.Config{"shop_public": {}, "open": {}}}
	for name, c := range collections {
		p.Secrets[name] = &watcher.Secret{ID: "id-" + name, Name: name, Labels: map[string]string{}}
		if c != "" {
			p.Secrets[name].Labels[CollectionLabel] = c
		}
	}
	return p
}

func TestLacksOnlyWhatTheCollectionMayHave(t *testing.T) {
	p := secretsOf(map[string]string{
		"shop_users": "dev", "users": "dev", "keys": "dev", "prods": "prod", "nobodys": "", "shop_nobodys": "",
		"mounted": "dev", "shop_mounted": "", "filed": "dev", "shop_filed": "dev", "shop_half": "", "half": "dev", "open": "dev",
	})
	disk := Of(map[string][]Item{"dev": {
		{Kind: Secret, Name: "mounted", Data: Hide([]byte("m"))},
		{Kind: File, Name: "shop_filed", Data: Hide([]byte("f"))},
		{Kind: File, Name: "half", Data: Hide([]byte("f"))},
	}})
	for _, c := range []struct{ collection, stack, name, want string }{
		{"dev", "shop", "users", "shop_users"}, // its own first
		{"dev", "other", "users", "users"},
		{"dev", "", "shop_users", "shop_users"},
		{"dev", "shop", "keys", "keys"},
		{"prod", "shop", "users", ""}, // another collection's
		{"prod", "", "prods", "prods"},
		{"dev", "", "prods", ""},
		{"dev", "shop", "nobodys", ""},
		{"dev", "", "mounted", ""},
		{"dev", "shop", "mounted", ""},
		{"prod", "", "mounted", ""},
		{"dev", "shop", "filed", ""},
		{"dev", "", "filed", "filed"},
		{"dev", "shop", "half", ""},   // there is a file for it
		{"dev", "shop", "public", ""}, // its own config
		{"dev", "shop", "nothing", ""},
		{"dev", "shop", "../users", ""},
		{"dev", "shop", "", ""},
	} {
		got := ""
		if s := Lacks(p, disk, Want{Collection: c.collection, Stack: c.stack, Name: c.name}); s != nil {
			got = s.Name
		}
		require.Equal(t, c.want, got, "%+v", c)
	}
	require.Equal(t, "users", Lacks(p, nil, Want{Collection: "dev", Name: "users"}).Name)
}

// Whatever has to be fetched is found under the same name once it is there.
func TestWhatIsFetchedIsFound(t *testing.T) {
	p := secretsOf(map[string]string{"shop_users": "dev", "users": "dev", "shop_tls": "", "tls": "dev"})
	for _, w := range []Want{
		{Collection: "dev", Stack: "shop", Name: "users"}, {Collection: "dev", Name: "users"}, {Collection: "dev", Stack: "shop", Name: "tls"}, {Collection: "dev", Stack: "x", Name: "tls"},
	} {
		s := Lacks(p, nil, w)
		m := (*Material)(nil).WithFetched(map[string]Fetched{"dev": {Content: map[string]Bytes{s.Name: Hide([]byte(s.Name))}}})
		i, err := Find(p, m, w.Collection, w.Stack, w.Name)
		require.NoError(t, err)
		require.Equal(t, s.Name, string(i.Data.Reveal()))
		require.Equal(t, Secret, i.Kind)
		_, err = Find(p, m, "prod", w.Stack, w.Name)
		require.Error(t, err, "another collection has nothing of it")
	}
}

func TestWhatIsMountedHolds(t *testing.T) {
	disk := Of(map[string][]Item{"dev": {{Kind: Secret, Name: "users", Data: Hide([]byte("mounted"))}}})
	m := disk.WithFetched(map[string]Fetched{"dev": {Content: map[string]Bytes{"users": Hide([]byte("fetched")), "more": Hide([]byte("more"))}}})
	p := secretsOf(map[string]string{"users": "dev", "more": "dev"})
	for name, want := range map[string]string{"users": "mounted", "more": "more"} {
		i, err := Find(p, m, "dev", "", name)
		require.NoError(t, err)
		require.Equal(t, want, string(i.Data.Reveal()))
	}
	require.Len(t, disk.shelves["dev"].secrets, 1, "what it was made of stays as it is")
}

// A certificate is made, put into a secret and fetched: it is valid by then, whenever
// the rest was read.
func TestDatesCountAsOfTheArrival(t *testing.T) {
	early := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	disk := Of(nil)
	with := func(at time.Time) *Material { return disk.WithFetched(map[string]Fetched{"dev": {At: at}}) }
	require.Zero(t, with(early).At(), "dates do not count")
	disk.at = early
	require.Equal(t, early.Add(time.Hour), with(early.Add(time.Hour)).At())
	require.Equal(t, early, with(early.Add(-time.Hour)).At())
	require.Equal(t, early, with(time.Time{}).At())
}

func TestFetchedIsCompared(t *testing.T) {
	fetched := func() map[string]Fetched {
		return map[string]Fetched{"dev": {Content: map[string]Bytes{"a": Hide([]byte("a"))}, Failed: map[string]string{"b": "why"}, Coming: map[string]bool{"c": true}, Before: map[string]Item{"use": {Name: "x"}}}}
	}
	disk := Of(nil)
	m := disk.WithFetched(fetched())
	require.True(t, m.Equal(disk.WithFetched(fetched())))
	require.True(t, m.Coming())
	require.False(t, disk.WithFetched(nil).Coming())
	require.False(t, (*Material)(nil).Coming())
	require.False(t, disk.Equal(disk.WithFetched(nil)), "a courier changes what is said")
	for what, change := range map[string]func(f Fetched){
		"content": func(f Fetched) { f.Content["a"] = Hide([]byte("b")) },
		"failed":  func(f Fetched) { f.Failed["b"] = "why else" },
		"coming":  func(f Fetched) { delete(f.Coming, "c") },
		"before":  func(f Fetched) { f.Before["use"] = Item{Name: "y"} },
	} {
		other := fetched()
		change(other["dev"])
		require.False(t, m.Equal(disk.WithFetched(other)), what)
	}
}

func TestNotFoundSaysWhatTheCourierDoes(t *testing.T) {
	p := secretsOf(map[string]string{"coming": "dev", "shop_coming": "", "failed": "dev", "nobodys": "", "prods": "prod"})
	m := (*Material)(nil).WithFetched(map[string]Fetched{"dev": {
		Coming: map[string]bool{"coming": true}, Failed: map[string]string{"failed": "the courier could not fetch it: no node has room"},
	}})
	for name, want := range map[string][2]string{
		"coming":  {"the courier is fetching the content of the secret coming", "some seconds"},
		"failed":  {"the secret failed cannot be used: the courier could not fetch it: no node has room", "tried again"},
		"nobodys": {"the secret nobodys exists, and its content was not given to the control plane", "docker secret create --label com.docker.lb.collection=dev"},
		"prods":   {"the secret prods exists, and its content was not given to the control plane", "docker secret create --label com.docker.lb.collection=dev"},
		"nothing": {"there is no secret, config or file called nothing", "docker secret create"},
	} {
		_, err := Find(p, m, "dev", "shop", name)
		require.EqualError(t, err, want[0])
		var missing *NotFound
		require.True(t, errors.As(err, &missing))
		require.Contains(t, missing.Hint("dev"), want[1])
		require.Equal(t, name == "coming", missing.Coming)
		require.Equal(t, name == "coming" || name == "failed", missing.Underway())
	}
}
