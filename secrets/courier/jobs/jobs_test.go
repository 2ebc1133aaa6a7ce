package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/secrets/courier"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const content = "alice:{SHA}c3VycHJpc2UsIHN1cnByaXNlLiE="

// deliver is what a job's container does, with what is mounted into it.
func deliver(t *testing.T) func(context.Context, swarm.ServiceSpec, map[string][]byte) error {
	top := t.TempDir()
	return func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error {
		dir := filepath.Join(top, spec.Name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		for name, data := range mounted {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o400); err != nil {
				return err
			}
		}
		return courier.Deliver(ctx, dir)
	}
}

// control is the control plane: what it was told last, and what was logged.
type control struct {
	*courier.Courier
	picture *watcher.Picture

	mu  sync.Mutex
	m   *secrets.Material
	log bytes.Buffer
}

func (c *control) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

func (c *control) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// says is the content that a name leads to, or why there is none.
func (c *control) says(collection, stack, name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := secrets.Find(c.picture, c.m, collection, stack, name)
	if err != nil {
		return err.Error()
	}
	return string(i.Data.Reveal())
}

// running is a courier at a daemon, in which these secrets are.
func running(t *testing.T, d *fakedocker.Daemon, timing courier.Timing, labels map[string]string) *control {
	t.Helper()
	c := &control{picture: &watcher.Picture{Secrets: map[string]*watcher.Secret{}}}
	for name, collection := range labels {
		of := map[string]string{}
		if collection != "" {
			of[secrets.CollectionLabel] = collection
		}
		d.PutSecretWith("id-"+name, name, of, []byte(content+name), time.Time{})
		c.picture.Secrets[name] = &watcher.Secret{ID: "id-" + name, Name: name, Labels: of}
	}
	daemon, err := engine.Connect(engine.Options{Host: d.Host()}, Requests)
	require.NoError(t, err)
	loopback := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}, nil
	}
	o := courier.Options{Swarm: New(daemon, "waggle:1", "waggle-xds"), Addresses: loopback, Log: slog.New(slog.NewTextHandler(c, nil)), Timing: timing}
	c.Courier, err = courier.New(o, func(m *secrets.Material) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.m = m
	})
	require.NoError(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.Empty(t, d.Left(watcher.CourierLabel), "nothing is left behind")
		daemon.Close()
		require.NotContains(t, c.logged(), "c3VycHJpc2U", "nor in the log")
	})
	return c
}

func want(collection, stack, name string) secrets.Want {
	return secrets.Want{Collection: collection, Stack: stack, Name: name}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 20*time.Second, 5*time.Millisecond, what)
}

// The whole way, from the names that labels give to the content.
func TestAJobBringsWhatIsMadeForTheCollection(t *testing.T) {
	d := fakedocker.Start(t)
	d.Write(deliver(t))
	c := running(t, d, courier.Timing{}, map[string]string{"shop_users": "dev", "keys": "dev", "prods": "prod", "nobodys": ""})
	c.Wanted(c.picture, []secrets.Want{want("dev", "shop", "users"), want("dev", "", "keys"), want("dev", "", "prods"), want("dev", "", "nobodys"), want("prod", "", "keys")})
	eventually(t, "both are there", func() bool {
		return c.says("dev", "shop", "users") == content+"shop_users" && c.says("dev", "", "keys") == content+"keys"
	})
	eventually(t, "nothing is left", func() bool { return len(d.Left(watcher.CourierLabel)) == 0 })
	require.Contains(t, c.says("dev", "", "prods"), "was not given to the control plane")
	require.Contains(t, c.says("dev", "", "nobodys"), "was not given to the control plane")
	require.Contains(t, c.says("prod", "", "keys"), "was not given to the control plane")

	made := d.Made()
	require.Len(t, made, 1, "one job for what comes together")
	spec := made[0]
	require.Equal(t, []string{"courier"}, spec.TaskTemplate.ContainerSpec.Args)
	require.Equal(t, "waggle:1", spec.TaskTemplate.ContainerSpec.Image)
	require.Equal(t, "65532:65532", spec.TaskTemplate.ContainerSpec.User)
	require.True(t, spec.TaskTemplate.ContainerSpec.ReadOnly)
	require.Equal(t, []string{"ALL"}, spec.TaskTemplate.ContainerSpec.CapabilityDrop)
	require.Equal(t, []string{"NONE"}, spec.TaskTemplate.ContainerSpec.Healthcheck.Test)
	require.Equal(t, []swarm.NetworkAttachmentConfig{{Target: "waggle-xds"}}, spec.TaskTemplate.Networks)
	require.Equal(t, []string{"node.id==n1"}, spec.TaskTemplate.Placement.Constraints)
	require.Equal(t, swarm.RestartPolicyConditionNone, spec.TaskTemplate.RestartPolicy.Condition)
	require.NotNil(t, spec.Mode.ReplicatedJob)
	require.Equal(t, map[string]string{watcher.CourierLabel: spec.Name}, spec.Labels)
	var mounted []string
	for _, s := range spec.TaskTemplate.ContainerSpec.Secrets {
		require.Equal(t, os.FileMode(0o400), s.File.Mode)
		mounted = append(mounted, s.SecretName)
	}
	slices.Sort(mounted)
	require.Equal(t, []string{"keys", "shop_users", spec.Name}, mounted)
	// Whoever may look at services learns nothing of use.
	raw, err := json.Marshal(spec)
	require.NoError(t, err)
	require.Empty(t, spec.TaskTemplate.ContainerSpec.Env)
	for _, hidden := range []string{"c3VycHJpc2U", "PRIVATE KEY", "CERTIFICATE", "token"} {
		require.NotContains(t, string(raw), hidden)
	}
}

// What is not wanted any more is forgotten, and fetched anew when it is again; so is a
// secret that was made anew.
func TestWhatChangesIsFetchedAnew(t *testing.T) {
	d := fakedocker.Start(t)
	d.Write(deliver(t))
	c := running(t, d, courier.Timing{}, map[string]string{"v1": "dev", "v2": "dev"})
	for i, name := range []string{"v1", "v2", "v1"} {
		c.Wanted(c.picture, []secrets.Want{want("dev", "", name)})
		eventually(t, name, func() bool { return c.says("dev", "", name) == content+name })
		other := map[string]string{"v1": "v2", "v2": "v1"}[name]
		require.Contains(t, c.says("dev", "", other), "was not given")
		require.Len(t, d.Made(), i+1)
	}
	anew := &watcher.Picture{Secrets: map[string]*watcher.Secret{"v1": {ID: "id2", Name: "v1", Labels: map[string]string{secrets.CollectionLabel: "dev"}}}}
	d.PutSecretWith("id2", "v1", anew.Secrets["v1"].Labels, []byte("another"), time.Time{})
	c.Wanted(anew, []secrets.Want{want("dev", "", "v1")})
	eventually(t, "the new one", func() bool { return c.says("dev", "", "v1") == "another" })

	taken := &watcher.Picture{Secrets: map[string]*watcher.Secret{"v1": {ID: "id2", Name: "v1", Labels: map[string]string{secrets.CollectionLabel: "prod"}}}}
	c.Wanted(taken, []secrets.Want{want("dev", "", "v1")})
	require.Contains(t, c.says("dev", "", "v1"), "was not given", "at once")
}

// A label that names something new leads to what it led to before until that is there,
// also where fetching it fails at first; whatever was before, be it a file.
func TestALabelLeadsToWhatItLedToUntilTheNewIsThere(t *testing.T) {
	d := fakedocker.Start(t)
	var mu sync.Mutex
	broken := false
	works := deliver(t)
	d.Write(func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return errors.New("broken")
		}
		return works(ctx, spec, mounted)
	})
	breaks := func(b bool) {
		mu.Lock()
		defer mu.Unlock()
		broken = b
	}
	c := running(t, d, courier.Timing{Look: 5 * time.Millisecond, RetryMin: 300 * time.Millisecond, RetryMax: 300 * time.Millisecond}, map[string]string{"v1": "dev", "v2": "dev", "v3": "prod"})
	c.Material(secrets.Of(map[string][]secrets.Item{"dev": {{Kind: secrets.File, Name: "file", Data: secrets.Hide([]byte("of a file"))}}}))
	names := func(collection, name string) {
		c.Wanted(c.picture, []secrets.Want{{Collection: collection, Name: name, Use: "web//basic_auth"}, {Collection: "dev", Name: name, Use: "new//basic_auth"}})
	}
	before := func(collection, use string) string {
		c.mu.Lock()
		defer c.mu.Unlock()
		i, _ := c.m.Before(collection, use)
		return string(i.Data.Reveal())
	}
	c.Wanted(c.picture, []secrets.Want{{Collection: "dev", Name: "file", Use: "web//basic_auth"}})
	names("dev", "v1")
	require.Equal(t, "of a file", before("dev", "web//basic_auth"), "at once")
	require.Empty(t, before("dev", "new//basic_auth"), "it led nowhere")
	eventually(t, "v1", func() bool { return c.says("dev", "", "v1") == content+"v1" })
	require.Empty(t, before("dev", "web//basic_auth"))
	breaks(true)
	names("dev", "v2")
	eventually(t, "it fails", func() bool { return strings.Contains(c.says("dev", "", "v2"), "broken") })
	require.Equal(t, content+"v1", before("dev", "web//basic_auth"))
	require.Equal(t, content+"v1", before("dev", "new//basic_auth"))
	names("dev", "v2")
	require.Equal(t, content+"v1", before("dev", "web//basic_auth"), "however often that is said")
	breaks(false)
	eventually(t, "v2", func() bool { return c.says("dev", "", "v2") == content+"v2" })
	require.Empty(t, before("dev", "web//basic_auth"))
	breaks(true)
	names("prod", "v3")
	require.Empty(t, before("prod", "web//basic_auth"), "another collection gets nothing of it")
	names("dev", "nothing")
	names("dev", "v1")
	require.Empty(t, before("dev", "web//basic_auth"), "it led nowhere in between")
}

// A job that fails says why, and is made again, less and less often.
func TestFailuresAreToldAndTriedAgain(t *testing.T) {
	d := fakedocker.Start(t)
	var mu sync.Mutex
	broken := true
	works := deliver(t)
	d.Write(func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return errors.New("No such image:\n waggle:1")
		}
		return works(ctx, spec, mounted)
	})
	c := running(t, d, courier.Timing{Look: 5 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond}, map[string]string{"a": "dev", "b": "dev"})
	c.Wanted(c.picture, []secrets.Want{want("dev", "", "a"), want("dev", "", "b")})
	eventually(t, "why", func() bool {
		return c.says("dev", "", "a") == "the secret a cannot be used: the courier could not fetch it: its job failed: No such image: waggle:1"
	})
	eventually(t, "again, each by itself", func() bool { return len(d.Made()) >= 5 })
	for _, s := range d.Made()[1:] {
		require.Len(t, s.TaskTemplate.ContainerSpec.Secrets, 2)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	eventually(t, "both", func() bool { return c.says("dev", "", "a") == content+"a" && c.says("dev", "", "b") == content+"b" })
}

// Whatever stands in the way is a sentence with the way out.
func TestWhatStandsInTheWayIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		m    fakedocker.Middleware
		says string
	}{
		"a socket proxy that only lets read": {"/secrets/create", fakedocker.Refuse(http.StatusForbidden, "no"), "Docker forbids /secrets/create; the courier needs the Docker socket itself"},
		"no such network":                    {"/services/create", fakedocker.Refuse(http.StatusNotFound, "network waggle-xds not found"), "network waggle-xds not found"},
	} {
		t.Run(name, func(t *testing.T) {
			d := fakedocker.Start(t)
			d.Write(deliver(t))
			d.Between(c.path, c.m)
			ctl := running(t, d, courier.Timing{RetryMin: time.Hour}, map[string]string{"a": "dev"})
			ctl.Wanted(ctl.picture, []secrets.Want{want("dev", "", "a")})
			eventually(t, c.says, func() bool { return strings.Contains(ctl.says("dev", "", "a"), c.says) })
		})
	}
}

// Without /info it is any manager.
func TestAnyManagerWillDo(t *testing.T) {
	d := fakedocker.Start(t)
	d.Write(deliver(t))
	d.Between("/info", fakedocker.Refuse(http.StatusForbidden, "no"))
	c := running(t, d, courier.Timing{}, map[string]string{"a": "dev"})
	c.Wanted(c.picture, []secrets.Want{want("dev", "", "a")})
	eventually(t, "it is there", func() bool { return c.says("dev", "", "a") == content+"a" })
	require.Equal(t, []string{"node.role==manager"}, d.Made()[0].TaskTemplate.Placement.Constraints)
}

// A job that is never run ends when its time is over.
func TestAJobHasItsTime(t *testing.T) {
	d := fakedocker.Start(t)
	d.Write(func(ctx context.Context, _ swarm.ServiceSpec, _ map[string][]byte) error {
		<-ctx.Done()
		return ctx.Err()
	})
	c := running(t, d, courier.Timing{Lifetime: 300 * time.Millisecond, RetryMin: time.Hour}, map[string]string{"a": "dev"})
	c.Wanted(c.picture, []secrets.Want{want("dev", "", "a")})
	eventually(t, "given up", func() bool { return strings.Contains(c.says("dev", "", "a"), "did not deliver within 300ms") })
}

// Leftovers are taken away, at the start and later; what others make, and what is
// younger, is not.
func TestLeftoversAreReaped(t *testing.T) {
	d := fakedocker.Start(t)
	d.Write(deliver(t))
	old, young := time.Now().Add(-time.Hour), time.Now()
	job := func(name, label string, created time.Time, change func(*swarm.Service)) {
		d.PutService(name, func(s *swarm.Service) {
			s.Meta.CreatedAt, s.Spec.Labels = created, map[string]string{watcher.CourierLabel: label}
			s.Spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}}
			if change != nil {
				change(s)
			}
		})
	}
	order := func(name, label string, created time.Time) {
		d.PutSecretWith(name, name, map[string]string{watcher.CourierLabel: label}, nil, created)
	}
	job("waggle-courier-1", "waggle-courier-1", old, func(s *swarm.Service) {
		s.Spec.TaskTemplate.ContainerSpec.Secrets = []*swarm.SecretReference{{SecretID: "waggle-courier-1"}}
	})
	order("waggle-courier-1", "waggle-courier-1", old)
	order("waggle-courier-2", "waggle-courier-2", old) // its service is gone already
	job("waggle-courier-3", "waggle-courier-3", young, nil)
	order("waggle-courier-3", "waggle-courier-3", young)
	// Somebody else's, whatever they are called.
	job("web", "web", old, nil)
	job("waggle-courier-4", "true", old, nil)
	job("waggle-courier-5", "waggle-courier-5", old, func(s *swarm.Service) {
		s.Spec.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}}
	})
	order("key", "key", old)

	daemon, err := engine.Connect(engine.Options{Host: d.Host()}, Requests)
	require.NoError(t, err)
	defer daemon.Close()
	c, err := courier.New(courier.Options{Swarm: New(daemon, "i", "n"), Timing: courier.Timing{Lifetime: 500 * time.Millisecond, Reap: 20 * time.Millisecond}}, func(*secrets.Material) {})
	require.NoError(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx, lis) })
	eventually(t, "those that are old", func() bool { return !slices.Contains(d.Left(watcher.CourierLabel), "secret waggle-courier-2") })
	eventually(t, "those that get old", func() bool { return !slices.Contains(d.Left(watcher.CourierLabel), "secret waggle-courier-3") })
	cancel()
	run.Wait()
	require.Equal(t, []string{"secret key", "service waggle-courier-4", "service waggle-courier-5", "service web"}, d.Left(watcher.CourierLabel))
}

// However many are wanted, jobs and what they carry are bounded, and all arrive.
func TestManyAtOnce(t *testing.T) {
	d := fakedocker.Start(t)
	works := deliver(t)
	var mu sync.Mutex
	now, most := 0, 0
	d.Write(func(ctx context.Context, spec swarm.ServiceSpec, mounted map[string][]byte) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		defer func() { mu.Lock(); now--; mu.Unlock() }()
		return works(ctx, spec, mounted)
	})
	labels := map[string]string{}
	var wants []secrets.Want
	for i := range 200 {
		name := "s" + strings.Repeat("x", i)
		labels[name] = []string{"dev", "prod"}[i%2]
		wants = append(wants, secrets.Want{Collection: labels[name], Name: name})
	}
	c := running(t, d, courier.Timing{}, labels)
	c.Wanted(c.picture, wants)
	eventually(t, "all", func() bool {
		return !slices.ContainsFunc(wants, func(w secrets.Want) bool { return c.says(w.Collection, "", w.Name) != content+w.Name })
	})
	require.Len(t, d.Made(), 8)
	for _, s := range d.Made() {
		require.LessOrEqual(t, len(s.TaskTemplate.ContainerSpec.Secrets), 33)
	}
	mu.Lock()
	defer mu.Unlock()
	require.LessOrEqual(t, most, 4)
}
