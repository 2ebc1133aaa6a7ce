package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// record is what the run of a Swarm wrote: all that any of its containers ever logged
// and, of each moment at which it was asked to take it, all that Docker, control planes
// and proxies show and keep. It knows what must be nowhere in it.
type record struct {
	mu     sync.Mutex
	wrote  map[piece]*bytes.Buffer
	logs   map[string]*os.File // of containers that are there, by path
	hidden map[string]string   // every form of every secret: whose it is
}

// piece is a part of a record: what kind of thing wrote it, and which.
type piece struct{ kind, name string }

// The kinds of what is written.
const (
	inLogs    = "logs of containers"
	inEngines = "logs of engines"
	inDocker  = "docker inspect"
	inAPI     = "API of control planes"
	inEnvoys  = "admin interface of proxies"
	inFiles   = "files of control planes and proxies"
)

// startRecord begins with the keys of the lab's own authority as what must be nowhere,
// and reads logs until the test ends.
func startRecord(t *testing.T, s *swarm) *record {
	r := &record{wrote: map[piece]*bytes.Buffer{}, logs: map[string]*os.File{}, hidden: map[string]string{}}
	keys, err := filepath.Glob(s.dir + "/ca/*/tls.key")
	require.NoError(t, err)
	for _, path := range append(keys, s.dir+"/ca/ca.key") {
		key, err := os.ReadFile(path)
		require.NoError(t, err)
		r.hide("the lab's "+path, key)
	}
	require.NotEmpty(t, r.hidden)

	ctx, cancel := context.WithCancel(context.Background())
	var read sync.WaitGroup
	read.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			r.read(s)
			<-tick.C
		}
	})
	t.Cleanup(func() {
		cancel()
		read.Wait()
		for _, f := range r.logs {
			f.Close()
		}
	})
	return r
}

// hide has every line of a secret be nowhere: of a private key those that are not about
// the public one, of users and what is known of their passwords the latter.
func (r *record) hide(whose string, content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hide := func(secret string) {
		for _, form := range forms(secret) {
			r.hidden[form] = whose
		}
	}
	block, _ := pem.Decode(content)
	if block == nil {
		for line := range strings.Lines(string(content)) {
			if _, hash, ok := strings.Cut(line, ":"); ok {
				line = strings.TrimPrefix(hash, "{SHA}")
			}
			hide(strings.TrimSpace(line))
		}
		return
	}
	if !strings.Contains(block.Type, "PRIVATE KEY") {
		return
	}
	public := publicKey(block.Bytes)
	for line := range strings.Lines(string(content)) {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil || len(raw) < 12 || bytes.Contains(public, raw) {
			continue
		}
		hide(strings.TrimSpace(line))
		hide(string(raw))
	}
}

func publicKey(private []byte) []byte {
	key, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		key, err = x509.ParseECPrivateKey(private)
	}
	if signer, ok := key.(crypto.Signer); ok && err == nil {
		public, _ := x509.MarshalPKIXPublicKey(signer.Public())
		return public
	}
	return nil
}

// forms are those in which a secret may stand in a text: as it is, in hexadecimal, in a
// URL, and anywhere in the middle of something that is in base64 as a whole.
func forms(secret string) []string {
	all := []string{secret, hex.EncodeToString([]byte(secret)), url.QueryEscape(secret)}
	for before, first := range []int{0, 2, 3} { // the first character that depends on nothing before
		text := append(make([]byte, before), secret...)
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all = append(all, e.EncodeToString(text)[first:len(text)*8/6])
		}
	}
	return all
}

// see adds to the record.
func (r *record) see(kind, name string, text []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.piece(kind, name).Write(text)
}

func (r *record) piece(kind, name string) *bytes.Buffer {
	p := piece{kind, name}
	if r.wrote[p] == nil {
		r.wrote[p] = &bytes.Buffer{}
	}
	return r.wrote[p]
}

// read adds what containers have logged since it was called before, also those that
// have gone meanwhile: a file that is open outlives its name.
func (r *record) read(s *swarm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for node := range s.nodes {
		init, err := s.nodeInit(node + 1)
		if err != nil {
			continue // it is down
		}
		found, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/var/lib/docker/containers/*/*-json.log", init))
		for _, path := range found {
			if r.logs[path] != nil {
				continue
			}
			if f, err := os.Open(path); err == nil {
				r.logs[path] = f
			}
		}
	}
	for path, f := range r.logs {
		_, gone := os.Stat(path)
		_, _ = io.Copy(r.piece(inLogs, filepath.Base(path)), f)
		if gone != nil {
			f.Close()
			delete(r.logs, path)
		}
	}
}

// has says in which kinds of what was written a text is.
func (r *record) has(text string) (kinds []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := map[string]bool{}
	for p, content := range r.wrote {
		if !in[p.kind] && bytes.Contains(content.Bytes(), []byte(text)) {
			in[p.kind] = true
		}
	}
	return slices.Sorted(maps.Keys(in))
}

// leaks says whose secrets are in the record, and where; not what they are.
func (r *record) leaks() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]bool{}
	for p, content := range r.wrote {
		for form, whose := range r.hidden {
			if bytes.Contains(content.Bytes(), []byte(form)) {
				found[whose+" in "+p.kind+": "+p.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// String says how much there is of everything.
func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	pieces, size, of := map[string]int{}, map[string]int{}, map[string]bool{}
	for p, content := range r.wrote {
		pieces[p.kind]++
		size[p.kind] += content.Len()
	}
	for _, whose := range r.hidden {
		of[whose] = true
	}
	var text strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(size)) {
		fmt.Fprintf(&text, "%-36s  %4d pieces  %8d KiB\n", kind, pieces[kind], size[kind]/1024)
	}
	fmt.Fprintf(&text, "looked for: %d forms of %d secrets", len(r.hidden), len(of))
	return text.String()
}

// take adds to the record all that Docker, control planes and proxies show and keep now.
func (s *swarm) take() {
	s.t.Helper()
	s.takeDocker()
	for i, c := range s.running("edge_waggle") {
		s.takeAPI(c, i)
		s.takeFiles(c, "edge_waggle")
	}
	for _, collection := range collections {
		for _, path := range []string{"/config_dump?include_eds", "/init_dump", "/certs", "/clusters", "/listeners", "/stats", "/stats/prometheus", "/server_info", "/runtime"} {
			s.record.see(inEnvoys, collection+path, []byte(s.envoyAdmin(collection, path)))
		}
		for _, c := range s.on(s.edges[collection].node, "edge_envoy-"+collection) {
			s.takeFiles(c, collection)
		}
	}
	engines, err := filepath.Glob(s.dir + "/n*/log")
	require.NoError(s.t, err)
	for _, path := range engines {
		content, err := os.ReadFile(path)
		require.NoError(s.t, err)
		s.record.see(inEngines, path, content)
	}
}

// takeDocker takes what anybody may see who may ask a manager.
func (s *swarm) takeDocker() {
	s.t.Helper()
	for _, kind := range []string{"service", "secret", "config", "network", "node"} {
		if ids := strings.Fields(s.docker(kind, "ls", "-q")); len(ids) > 0 {
			out, _ := s.try(s.t.Context(), 1, append([]string{kind, "inspect"}, ids...)...) // one may just have gone
			s.record.see(inDocker, kind, []byte(out))
		}
	}
	if ids := strings.Fields(s.docker(append([]string{"service", "ps", "-q"}, strings.Fields(s.docker("service", "ls", "-q"))...)...)); len(ids) > 0 {
		out, _ := s.try(s.t.Context(), 1, append([]string{"inspect", "--type", "task"}, ids...)...)
		s.record.see(inDocker, "task", []byte(out))
	}
	for node := range s.nodes {
		ids, err := s.try(s.t.Context(), node+1, "ps", "-aq")
		require.NoError(s.t, err)
		if ids != "" {
			out, _ := s.try(s.t.Context(), node+1, append([]string{"inspect"}, strings.Fields(ids)...)...)
			s.record.see(inDocker, "container", []byte(out))
		}
	}
}

// takeAPI takes every answer of a control plane: each endpoint, and each service and
// resource that it names.
func (s *swarm) takeAPI(c container, replica int) {
	s.t.Helper()
	client, err := s.inside(s.t.Context(), c.node, "edge_waggle")
	require.NoError(s.t, err)
	ask := func(path string) []byte {
		res, err := client.Get("http://127.0.0.1:19000" + path)
		require.NoError(s.t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(s.t, err)
		s.record.see(inAPI, fmt.Sprintf("replica %d %s", replica, path), body)
		return body
	}
	const api = "/api/v1/"
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", api + "status", api + "collections", api + "problems", api + "proxies", api + "certificates"} {
		ask(path)
	}
	var services struct{ Services []struct{ Name string } }
	require.NoError(s.t, json.Unmarshal(ask(api+"services"), &services))
	require.NotEmpty(s.t, services.Services)
	for _, service := range services.Services {
		ask(api + "services/" + url.PathEscape(service.Name))
	}
	for _, collection := range collections {
		ask(api + "collections/" + collection)
		var tree map[string]map[string]any
		require.NoError(s.t, json.Unmarshal(ask(api+"collections/"+collection+"/resources"), &tree))
		require.NotEmpty(s.t, tree)
		for kind, named := range tree {
			ask(api + "collections/" + collection + "/resources/" + kind)
			for name := range named {
				ask(api + "collections/" + collection + "/resources/" + kind + "/" + (&url.URL{Path: name}).EscapedPath())
			}
		}
		for _, u := range []string{"http://web.", "https://bank.", "https://secured."} {
			ask(api + "explain?collection=" + collection + "&url=" + url.QueryEscape(u+collection+".example.com/"))
		}
	}
}

// root is a container's root directory, as seen from this machine.
func (s *swarm) root(c container) string {
	s.t.Helper()
	pid, err := s.try(s.t.Context(), c.node, "inspect", "--format", "{{.State.Pid}}", c.id)
	require.NoError(s.t, err)
	init, err := s.nodeInit(c.node)
	require.NoError(s.t, err)
	return fmt.Sprintf("/proc/%d/root/proc/%s/root", init, pid)
}

// takeFiles takes the files that a container has where it may write, and its settings:
// state_dir and the proxies' bootstrap are among them. /run/secrets is where owners put
// secrets.
func (s *swarm) takeFiles(c container, whose string) {
	s.t.Helper()
	root := s.root(c)
	for _, dir := range []string{"/etc", "/tmp", "/var/lib", "/var/log"} {
		err := filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // there is no such directory, or it is none of ours
			}
			content, err := os.ReadFile(path)
			if err == nil {
				s.record.see(inFiles, whose+strings.TrimPrefix(path, root), content)
			}
			return nil
		})
		require.NoError(s.t, err)
	}
}

// listen takes what control planes tell on their streams of events, until the function
// that it gives is called.
func (s *swarm) listen() (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	var hear sync.WaitGroup
	for i, c := range s.running("edge_waggle") {
		client, err := s.inside(ctx, c.node, "edge_waggle")
		require.NoError(s.t, err)
		client.Timeout = 0
		hear.Go(func() {
			res, err := client.Get("http://127.0.0.1:19000/api/v1/events")
			if err != nil {
				return // what is heard is looked at
			}
			ended := context.AfterFunc(ctx, func() { res.Body.Close() })
			defer ended()
			told, _ := io.ReadAll(res.Body)
			s.record.see(inAPI, fmt.Sprintf("replica %d /api/v1/events", i), told)
		})
	}
	stop = sync.OnceFunc(func() { cancel(); hear.Wait() })
	s.t.Cleanup(stop)
	return stop
}

// unseen requires that no key, password or hash of the whole run is anywhere in what it
// wrote, and that one would have been found: something is planted in all places.
func unseen(t *testing.T, s *swarm) {
	planted := strings.ToLower(rand.Text())
	host := planted + ".dev.example.com"
	s.docker("service", "create", "--quiet", "--detach", "--no-resolve-image", "--name", "planted", "--network", "dev-edge",
		"--env", "SERVICE_NAME=planted", "--label", "com.docker.lb.hosts="+host, "--label", "com.docker.lb.port=8080", "--label", "com.docker.lb.service_cluster=dev", "wgl/echo:lab")
	t.Cleanup(func() { _, _ = s.try(context.WithoutCancel(t.Context()), 1, "service", "rm", "planted") })
	// A log that ends at once, and has it in base64.
	_, err := s.try(t.Context(), 2, "run", "--name", "planted", "wgl/waggle:lab", base64.StdEncoding.EncodeToString([]byte("a "+planted+" b")))
	require.Error(t, err, "there is no such command")
	for _, c := range s.on(s.edges["dev"].node, "edge_envoy-dev") {
		path := s.root(c) + "/tmp/planted"
		require.NoError(t, os.WriteFile(path, []byte(hex.EncodeToString([]byte(planted))), 0o600))
		t.Cleanup(func() { _ = os.Remove(path) })
	}
	s.eventually("dev", host, answer{status: http.StatusOK, service: "planted"})
	s.take()
	s.record.read(s)
	_, err = s.try(t.Context(), 2, "rm", "planted")
	require.NoError(t, err)
	t.Logf("what was written:\n%v", s.record)

	require.Empty(t, s.record.leaks())
	s.record.hide("planted", []byte(planted))
	in := map[string]bool{}
	for _, leak := range s.record.leaks() {
		_, where, _ := strings.Cut(leak, " in ")
		kind, _, _ := strings.Cut(where, ": ")
		in[kind] = true
	}
	for _, kind := range []string{inLogs, inDocker, inAPI, inEnvoys, inFiles} {
		require.True(t, in[kind], "what is planted in %s is found there; it is found in %v", kind, in)
	}
}
