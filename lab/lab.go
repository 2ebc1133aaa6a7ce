package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/lab/envoy"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/stackfile"
)

// ErrStory is returned by Run when everything ran and something of the story failed.
// Any other error means that the lab could not run.
var ErrStory = errors.New("the lab's story failed")

// ControlPlane starts a control plane that reads what runs from src, issues development
// certificates by ca, serves proxies on xds, which it owns, and its API on the address
// api. It returns once proxies can connect. stop ends it and cuts its connections;
// whatever it knew is gone with it.
type ControlPlane func(ctx context.Context, src watcher.Source, cfg *config.Config, ca *secrets.LocalCA, xds net.Listener, api string) (stop func(), err error)

// Options say what the lab runs.
type Options struct {
	Files []string // stack files; none: the built-in demo, which tells its story
	Stack string   // name of the stack; "": as stackfile finds it
	Env   map[string]string
	Stdin io.Reader // for the file "-"
	Once  bool      // end after the story (of stack files: when every route was asked once)

	Format string // of what is printed when all is ready: "table" ("") or "json"

	// First port of each kind, counted up by collection; 0: any free ones.
	HTTPBase, HTTPSBase, AdminBase int
	API                            string // address of the API, "127.0.0.1:19000"; port 0: any free one

	Config       *config.Config // nil: a collection for each service_cluster of the files, and default
	ControlPlane ControlPlane

	Stdout, Stderr io.Writer // results; logs and progress

	Timing Timing  // zero: DefaultTiming
	Rate   float64 // of the demo's load, per collection and second; 0: 120
}

// lab is one that runs.
type lab struct {
	o         Options
	cfg       *config.Config
	addresses []addresses
	api       string
	src       *Source
	authority *secrets.LocalCA                 // of tls: local, and of the tasks' certificates
	root      string                           // file with its root
	material  atomic.Pointer[secrets.Material] // as it is followed; nil: it is not
	plane     *plane
	fleet     fleet
	files     *stackfile.Source // nil in the demo
	progress  io.Writer
}

// Run runs the lab until ctx ends, or with Once to the end of its story. Everything
// that it started has ended when it returns.
func Run(ctx context.Context, o Options) error {
	o.Timing = cmp.Or(o.Timing, DefaultTiming)
	o.Rate = cmp.Or(o.Rate, 120)
	o.Format = cmp.Or(o.Format, "table")
	o.API = cmp.Or(o.API, "127.0.0.1:19000")
	if o.Format != "table" && o.Format != "json" {
		return fmt.Errorf("format %q is unknown: use table or json", o.Format)
	}
	binary, err := envoy.Find()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waggle-lab-")
	if err != nil {
		return fmt.Errorf("make a directory for the lab's files: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	l := &lab{o: o, progress: o.Stderr}
	picture, err := l.read(ctx, dir)
	if err != nil {
		return err
	}
	if err := l.assign(); err != nil {
		return err
	}

	l.src = NewSource(o.Timing, l.cfg.LabelPrefixes, operatorPorts(l.cfg)...)
	defer l.src.Close()
	if l.authority, err = newAuthority(time.Now()); err != nil {
		return fmt.Errorf("make the lab's authority: %w", err)
	}
	l.root = filepath.Join(dir, "local-ca.pem")
	if err := writeRoot(l.authority, l.root); err != nil {
		return err
	}
	l.src.Secure(l.authority)
	if err := l.src.Apply(picture); err != nil {
		return err
	}
	if l.plane, err = startPlane(ctx, o.ControlPlane, l.src, l.cfg, l.authority, l.api); err != nil {
		return err
	}
	defer l.plane.kill()
	if l.fleet, err = startFleet(ctx, binary, dir, l.plane.address, l.addresses); err != nil {
		return err
	}
	defer l.fleet.stop()
	return l.live(ctx)
}

// live is what happens while everything runs.
func (l *lab) live(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, p := range l.fleet {
		go func() { // ends with the process, which ends before Run does
			<-p.Ended()
			cancel(endedError(p.Name()))
		}()
	}
	tell := l.follow
	if l.files == nil {
		tell = l.tellStory
	}
	err := tell(ctx)
	if ended, ok := errors.AsType[endedError](context.Cause(ctx)); ok {
		return ended
	}
	return err
}

// endedError names the collection whose Envoy ended although nobody asked it to.
type endedError string

func (e endedError) Error() string {
	return fmt.Sprintf("the Envoy of collection %s ended by itself, and the lab with it: start it again", string(e))
}

// read fills in the configuration and gives what should run: the demo, or the stack files.
func (l *lab) read(ctx context.Context, dir string) (*watcher.Picture, error) {
	if len(l.o.Files) == 0 {
		if l.o.Config != nil {
			return nil, errors.New("the demo brings its own collections: leave out the configuration, or give a stack file with -f")
		}
		l.cfg = config.ForCollections(environments)
		delete(l.cfg.Collections, "default")
		l.cfg.Order = environments
		return demoPicture(ctx, dir)
	}
	o := stackfile.Options{Files: l.o.Files, Stack: l.o.Stack, Env: l.o.Env, Stdin: l.o.Stdin}
	var stdin string
	if slices.Contains(o.Files, "-") { // read once, for now and for the source that watches
		content, err := io.ReadAll(o.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read the stack file from stdin: %w", err)
		}
		stdin = string(content)
		o.Stdin = strings.NewReader(stdin)
	}
	picture, findings, err := stackfile.Load(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, f := range findings {
		fmt.Fprintln(l.progress, f)
	}
	o.Stdin = strings.NewReader(stdin)
	l.files = stackfile.NewSource(o)
	if l.cfg = l.o.Config; l.cfg == nil {
		l.cfg = config.ForCollections(clusters(picture))
	}
	return picture, nil
}

// clusters are the collections that services name, in the order of the files.
func clusters(p *watcher.Picture) []string {
	prefixes := config.ForCollections(nil).LabelPrefixes
	services := slices.SortedFunc(maps.Values(p.Services), func(a, b *watcher.Service) int {
		if a.Older(b) {
			return -1
		}
		return 1
	})
	var names []string
	for _, s := range services {
		v, ok := labels.Merge(prefixes, s.Name, s.Labels).Lookup("", "service_cluster")
		if name := strings.TrimSpace(v.Text); ok && config.ValidCollection(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// assign gives the collections their ports, in a configuration of the lab's own.
func (l *lab) assign() error {
	names := slices.Clone(l.cfg.Order)
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Collections)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var err error
	if l.addresses, err = assign(names, l.o.HTTPBase, l.o.HTTPSBase, l.o.AdminBase); err != nil {
		return err
	}
	if l.api, err = l.assignAPI(); err != nil {
		return err
	}
	cfg := *l.cfg
	cfg.XDS.Insecure = true // on loopback, between processes of one user
	cfg.Admin.Address = l.api
	cfg.Collections = maps.Clone(cfg.Collections)
	for _, a := range l.addresses {
		c := *cfg.Collections[a.collection]
		c.Bind, c.HTTPPort, c.HTTPSPort, c.HTTPSPublicPort = loopback, uint32(a.http.port), uint32(a.https.port), uint32(a.https.port)
		cfg.Collections[a.collection] = &c
	}
	l.cfg = &cfg
	return nil
}

func (l *lab) assignAPI() (string, error) {
	host, port, err := net.SplitHostPort(l.o.API)
	if err != nil {
		return "", fmt.Errorf("--api %s is not an address: write 127.0.0.1:PORT", l.o.API)
	}
	n, err := strconv.Atoi(port)
	if err != nil || host != loopback && host != "localhost" {
		return "", fmt.Errorf("--api %s: the lab listens on this machine alone: write 127.0.0.1:PORT", l.o.API)
	}
	given := map[int]string{}
	for _, c := range l.addresses {
		for _, a := range []address{c.http, c.https, c.admin} {
			given[a.port] = a.what
		}
	}
	if n == 0 {
		if n, err = freePort(given); err != nil {
			return "", fmt.Errorf("find a free port for the API: %w", err)
		}
	}
	a := address{port: n, what: "the API", flag: "--api"}
	return a.String(), a.check(given)
}

// operatorPorts are the ports that defaults and required of any collection name.
func operatorPorts(cfg *config.Config) []uint32 {
	var ports []uint32
	for _, name := range slices.Sorted(maps.Keys(cfg.Collections)) {
		for _, keys := range []map[string]string{cfg.Collections[name].Defaults, cfg.Collections[name].Required} {
			if n, err := strconv.ParseUint(keys["port"], 10, 16); err == nil {
				ports = append(ports, uint32(n))
			}
		}
	}
	return ports
}

// built is what a control plane makes of what runs now.
func (l *lab) built() *translate.Builder {
	p := l.src.Picture()
	material := l.material.Load()
	if material == nil {
		material, _ = secrets.OfFiles(l.cfg, p) // the control plane tells what it cannot read
	}
	in := translate.Input{Picture: p, Config: l.cfg, Material: material.WithLocal(l.authority)}
	b := translate.Build(in)
	if issuers := b.Issuers(); len(issuers) > 0 { // it asks them, too
		providers := secrets.NewProviders(func(to netip.AddrPort, loopback bool) string { return translate.RefusedAddress(l.cfg, to, loopback) })
		providers.OnLoopback(p.Loopback)
		providers.Want(issuers)
		providers.AskOnce(context.Background()) // no longer than a provider may take
		in.Material = in.Material.With(providers.Answers())
		b = translate.Build(in)
	}
	return b
}
