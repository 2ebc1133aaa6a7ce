package stackfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waggle-lb/waggle/watcher"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write puts files into a directory of their own and gives their paths, in order.
func write(t testing.TB, namesAndContents ...string) (dir string, paths []string) {
	t.Helper()
	dir = t.TempDir()
	for i := 0; i < len(namesAndContents); i += 2 {
		p := filepath.Join(dir, namesAndContents[i])
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(namesAndContents[i+1]), 0o644))
		paths = append(paths, p)
	}
	return dir, paths
}

// lines gives findings without the directory they are in.
func lines(dir string, fs []Finding) (out []string) {
	for _, f := range fs {
		f.Hint = ""
		out = append(out, string(f.Severity)+" "+strings.ReplaceAll(f.String(), dir+"/", ""))
	}
	return out
}

const shop = `
version: "3.8"
x-labels: &common
  team: shop
services:
  web:
    image: example/web:1
    ports:
      - "80:8080"
      - target: 9000
        published: 9090
        protocol: udp
        mode: host
    expose: ["7000", "7001-7002", "53/udp"]
    networks: [front, edge]
    labels: ["com.docker.lb.hosts=forgotten.example.com"]
    configs: [site]
    secrets: [key, shared]
    deploy:
      mode: replicated
      replicas: 3
      endpoint_mode: dnsrr
      placement:
        constraints: ["node.labels.collection == dev"]
      labels:
        <<: *common
        com.docker.lb.hosts: "${HOST:-shop.example.com},${EXTRA}"
        com.docker.lb.port: 8080
        since: 2024-01-31
        price: 5$$
  api:
    image: example/api:1
    deploy: {mode: global, replicas: 0, labels: [com.docker.lb.port=80]}
  none:
    image: example/none:1
    deploy: {replicas: 0}
  job:
    image: example/job:1
    deploy: {mode: replicated-job}
networks:
  front:
    labels: {a: b}
  edge: {external: {name: dev-edge}}
configs:
  site: {file: ./site.conf, labels: {c: d}}
secrets:
  key: {file: ./key.pem}
  shared: {external: true}
`

func TestLoadReadsAWholeStack(t *testing.T) {
	dir, files := write(t, "shop.yml", shop, "site.conf", "hello", "key.pem", "secret bytes")
	p, findings, err := Load(t.Context(), Options{Files: files[:1], Env: map[string]string{"EXTRA": "b.example.com"}})
	require.NoError(t, err)
	require.Equal(t, []string{
		"info shop.yml:43: the network dev-edge is external and assumed to exist",
		"info shop.yml:48: the secret shared is external and assumed to exist",
	}, lines(dir, findings))

	of := map[string]string{watcher.StackLabel: "shop"}
	want := &watcher.Picture{
		Static: true,
		Services: map[string]*watcher.Service{
			"shop_web": {
				ID: "shop_web", Name: "shop_web", Order: 0, Mode: watcher.Replicated, Replicas: 3, EndpointMode: "dnsrr",
				Labels: map[string]string{
					watcher.StackLabel: "shop", "team": "shop", "com.docker.lb.port": "8080",
					"com.docker.lb.hosts": "shop.example.com,b.example.com", "since": "2024-01-31", "price": "5$",
				},
				ContainerLabels: map[string]string{"com.docker.lb.hosts": "forgotten.example.com"},
				Constraints:     []string{"node.labels.collection == dev"},
				Networks:        []string{"dev-edge", "shop_front"},
				Ports:           []watcher.Port{{Protocol: "tcp", Target: 8080, Published: 80}, {Protocol: "udp", Target: 9000, Published: 9090, HostMode: true}},
				Expose:          []uint32{7000, 7001, 7002},
			},
			"shop_api": {
				ID: "shop_api", Name: "shop_api", Order: 1, Mode: watcher.Global, Replicas: 0, EndpointMode: "vip",
				Labels: map[string]string{watcher.StackLabel: "shop", "com.docker.lb.port": "80"}, Networks: []string{"shop_default"},
			},
			"shop_none": {ID: "shop_none", Name: "shop_none", Order: 2, Mode: watcher.Replicated, Replicas: 0, EndpointMode: "vip", Labels: of, Networks: []string{"shop_default"}},
			"shop_job":  {ID: "shop_job", Name: "shop_job", Order: 3, Mode: watcher.ReplicatedJob, Replicas: 1, EndpointMode: "vip", Labels: of, Networks: []string{"shop_default"}},
		},
		Tasks: map[string][]*watcher.Task{},
		Nodes: map[string]*watcher.Node{},
		Networks: map[string]*watcher.Network{
			"shop_front":   {ID: "shop_front", Name: "shop_front", Labels: map[string]string{"a": "b", watcher.StackLabel: "shop"}},
			"dev-edge":     {ID: "dev-edge", Name: "dev-edge"},
			"shop_default": {ID: "shop_default", Name: "shop_default", Labels: of},
		},
		Configs: map[string]*watcher.Config{"shop_site": {ID: "shop_site", Name: "shop_site", Data: []byte("hello"), Labels: map[string]string{"c": "d", watcher.StackLabel: "shop"}}},
		Secrets: map[string]*watcher.Secret{
			"shop_key": {ID: "shop_key", Name: "shop_key", Labels: of, File: filepath.Join(dir, "key.pem")},
			"shared":   {ID: "shared", Name: "shared", Labels: map[string]string{watcher.StackLabel: "shop"}},
		},
	}
	for _, s := range p.Services {
		require.NotZero(t, s.Version)
		s.Version = 0
	}
	require.Empty(t, cmp.Diff(want, p))
}

func TestNamesOfStacks(t *testing.T) {
	const body = "services: {web: {image: x}}\n"
	dir, files := write(t, "shop.prod.yml", body, "named.yml", "name: ${WHO:-Fruit}\n"+body, "docker-compose.yaml", body, ".yml", body)
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"the base name", Options{Files: files[:1]}, "shop.prod_web"},
		{"the name in the file", Options{Files: files[1:2]}, "Fruit_web"},
		{"a variable in it", Options{Files: files[1:2], Env: map[string]string{"WHO": "veg"}}, "veg_web"},
		{"the option before all", Options{Files: files[1:2], Stack: "prod"}, "prod_web"},
		{"a dash in the name", Options{Files: files[2:3]}, "docker-compose_web"},
		{"nothing before the extension", Options{Files: files[3:4]}, "yml_web"},
		{"stdin", Options{Files: []string{"-"}, Stdin: strings.NewReader(body)}, "stack_web"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, findings, err := Load(t.Context(), tt.o)
			require.NoError(t, err)
			require.Empty(t, lines(dir, findings))
			require.Contains(t, p.Services, tt.want)
			require.Equal(t, strings.TrimSuffix(tt.want, "_web"), p.Services[tt.want].Stack())
		})
	}
}

func TestSeveralFilesAreSeveralStacks(t *testing.T) {
	dir, files := write(t,
		"edge.yml", "services: {proxy: {image: x, networks: [edge]}}\nnetworks: {edge: {name: dev-edge}}\n",
		"a/app.yml", "services: {web: {image: x, networks: [edge]}, api: {image: x}}\nnetworks: {edge: {external: true, name: dev-edge}}\n",
		"b/app.yml", "services: {web: {image: y}, more: {image: y}}\n",
	)
	p, findings, err := Load(t.Context(), Options{Files: files})
	require.NoError(t, err)
	require.Equal(t, []string{"error b/app.yml:1: app_web: the service is declared a second time; a/app.yml declares it already, and that one counts"}, lines(dir, findings),
		"and the network is not called external: another file declares it")
	require.Equal(t, []string{"edge_proxy", "app_web", "app_api", "app_more"}, byOrder(p))
	require.Equal(t, []string{"dev-edge"}, p.Services["app_web"].Networks)
	require.Equal(t, "edge", p.Networks["dev-edge"].Labels[watcher.StackLabel])
}

// byOrder lists the services from the oldest to the youngest.
func byOrder(p *watcher.Picture) []string {
	names := make([]string, len(p.Services))
	for n, s := range p.Services {
		names[s.Order] = n
	}
	return names
}

// What is wrong with a part of a file costs that part, and is one sentence with a place.
func TestBadPartsAreFoundAndCostNoMore(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"a type", "services:\n  good: {image: x}\n  bad:\n    image: x\n    deploy:\n      replicas: many\n",
			`error f.yml:6: f_bad: services.bad.deploy.replicas cannot be "many"`},
		{"an unknown key", "services:\n  good: {image: x}\n  bad:\n    image: x\n    deploy:\n      lables: {a: b}\n",
			"error f.yml:6: f_bad: unknown key 'lables' in services.bad.deploy"},
		{"an unknown key of a service", "services:\n  good: {image: x}\n  bad:\n    imagee: x\n",
			"error f.yml:4: f_bad: unknown key 'imagee' in services.bad"},
		{"an unknown section", "servces: {}\nservices:\n  good: {image: x}\n", "error f.yml:1: unknown key 'servces' in the top level"},
		{"a service that is none", "services:\n  good: {image: x}\n  bad: 7\n", "error f.yml:3: f_bad: services.bad must be a mapping"},
		{"a service without content", "services:\n  good: {image: x}\n  bad:\n", "error f.yml:3: f_bad: services.bad must be a mapping"},
		{"a bad network", "services:\n  good: {image: x}\nnetworks:\n  n: {drivr: overlay}\n", "error f.yml:4: unknown key 'drivr' in networks.n"},
		{"a missing variable", "services:\n  good: {image: x}\n  bad:\n    image: x\n    labels:\n      a: ${X:?say which}\n",
			"error f.yml:6: f_bad: services.bad.labels.a: required variable X is missing a value: say which"},
		{"a lone dollar", "services:\n  good: {image: x}\n  bad:\n    image: x\n    deploy:\n      labels:\n        a.b: ${\n",
			"error f.yml:7: f_bad: invalid interpolation format for services.bad.deploy.labels.a.b"},
		{"an undeclared network", "services:\n  good:\n    image: x\n    networks: [edge]\n", "error f.yml:4: f_good: the network edge is not declared in this file"},
		{"an undeclared config", "services:\n  good:\n    image: x\n    configs: [c]\n", "error f.yml:4: f_good: the config c is not declared in this file"},
		{"an undeclared secret", "services:\n  good:\n    image: x\n    secrets: [{source: s}]\n", "error f.yml:4: f_good: the secret s is not declared in this file"},
		{"a mode", "services:\n  good: {image: x, deploy: {mode: sometimes}}\n", `error f.yml:2: f_good: deploy.mode "sometimes" does not exist; the service counts as replicated`},
		{"replicas", "services:\n  good: {image: x, deploy: {replicas: -1}}\n", `error f.yml:2: f_good: deploy.replicas is -1; one replica is assumed`},
		{"an endpoint mode", "services:\n  good: {image: x, deploy: {endpoint_mode: dns}}\n", `error f.yml:2: f_good: deploy.endpoint_mode "dns" does not exist; the service counts as vip`},
		{"a port", "services:\n  good:\n    image: x\n    ports: [{target: 99999}]\n", "error f.yml:4: f_good: the target port 99999 is no port"},
		{"a range without an end", "services:\n  good:\n    image: x\n    ports: ['1-65000:1-65000']\n", "error f.yml:4: f_good: ports names more than 2048 ports; none of them is read"},
		{"a published port", "services:\n  good:\n    image: x\n    ports: [{target: 80, published: \"http\"}]\n", "error f.yml:4: f_good: the published port \"http\" is no port"},
		{"a config without its file", "services:\n  good: {image: x}\nconfigs:\n  c: {file: nowhere}\n", "error f.yml:4: the config c cannot be read from nowhere: no such file or directory"},
		{"a config that is a directory", "services:\n  good: {image: x}\nconfigs:\n  c: {file: .}\n", "error f.yml:4: the config c cannot be read from DIR: not a regular file"},
		{"a secret without its file", "services:\n  good: {image: x}\nsecrets:\n  c: {file: nowhere}\n", "error f.yml:4: the secret c cannot be read from nowhere: no such file or directory"},
		{"a config from nowhere", "services:\n  good: {image: x}\nconfigs:\n  c: {}\n", "error f.yml:4: configs.c: one of file|environment|content must be set"},
		{"an unset variable", "services:\n  good:\n    image: x:$TAG\n    labels: {a: \"$$TAG2 ${OTHER:-1}\"}\n", "warning f.yml:3: the variable TAG is not set and counts as empty"},
		{"a profile", "services:\n  good:\n    image: x\n    profiles: [dev]\n", "warning f.yml:4: f_good: a Swarm does not know `profiles`: the service is deployed always"},
		{"extends", "services:\n  good:\n    image: x\n    extends: {file: other.yml, service: base}\n", "error f.yml:4: f_good: a Swarm does not know `extends`; what it names is not read"},
		{"include", "include: [other.yml]\nservices:\n  good: {image: x}\n", "error f.yml:1: a Swarm does not know `include`; what it names is not read"},
		{"scale", "services:\n  good: {image: x, scale: 4}\n", "warning f.yml:2: f_good: a Swarm ignores `scale`"},
		{"a second document", "services:\n  good: {image: x}\n---\nservices: {more: {image: x}}\n", "warning f.yml: only the first YAML document of the file is read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, files := write(t, "f.yml", tt.file)
			p, findings, err := Load(t.Context(), Options{Files: files})
			require.NoError(t, err)
			got := lines(dir, findings)
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], dir, "DIR")
			}
			require.Equal(t, []string{tt.want}, got)
			require.NotEmpty(t, findings[0].Hint)
			require.Contains(t, p.Services, "f_good")
			require.Len(t, p.Services, 1)
			require.EqualValues(t, 1, p.Services["f_good"].Replicas)
			require.Equal(t, watcher.Replicated, p.Services["f_good"].Mode)
		})
	}
}

// What cannot be read at all is an error of one sentence, and the other files are still there.
func TestFilesThatCannotBeRead(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"invalid YAML", "services:\n  web: {image: x\n", "bad.yml:1: is not valid YAML: did not find expected ',' or '}'; check the indentation and quotes there"},
		{"a tab", "services:\n\tweb: {}\n", "bad.yml:2: is not valid YAML: found character that cannot start any token; check the indentation and quotes there"},
		{"a key twice", "services:\n  web: {image: x}\n  web: {image: y}\n", `bad.yml:3: is not valid YAML: mapping key "web" already defined at line 2; check the indentation and quotes there`},
		{"empty", "\n", "bad.yml: is empty; a stack file has at least `services:`"},
		{"comments", "# nothing\n", "bad.yml: has no content besides comments; a stack file has at least `services:`"},
		{"a list", "- a\n", "bad.yml:1: is not a stack file: its top level is not a mapping; it should begin with `services:`"},
		{"an alias bomb", "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
			"bad.yml: is not valid YAML: document contains excessive aliasing; check the indentation and quotes there"},
		{"many aliases of a large list", manyAliases(), "bad.yml: has too many values once its aliases are written out; split it into several files"},
		{"binary", "\x00\x01\x02", "bad.yml: is not valid YAML: control characters are not allowed; check the indentation and quotes there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, files := write(t, "bad.yml", tt.file, "good.yml", "services: {web: {image: x}}\n")
			p, findings, err := Load(t.Context(), Options{Files: files})
			require.EqualError(t, err, filepath.Join(dir, tt.want))
			var fe *FileError
			require.ErrorAs(t, err, &fe)
			require.Empty(t, findings)
			require.Contains(t, p.Services, "good_web")
		})
	}
	dir, _ := write(t, "x", "")
	_, _, err := Load(t.Context(), Options{Files: []string{filepath.Join(dir, "none.yml"), dir}})
	require.EqualError(t, err, filepath.Join(dir, "none.yml")+": cannot be read: no such file or directory; check the path; it is taken from the current directory\n"+
		dir+": is a directory, not a stack file; name the file in it, for example "+filepath.Join(dir, "stack.yml"))
	require.ErrorIs(t, err, os.ErrNotExist)

	_, _, err = Load(t.Context(), Options{Files: []string{"-"}, Stdin: strings.NewReader("")})
	require.EqualError(t, err, "stdin: is empty; a stack file has at least `services:`")
}

// manyAliases is a document that the YAML parser lets pass and that is far too large written out.
func manyAliases() string {
	list := "x-a: &a [" + strings.Repeat("x,", 20_000) + "]\nx-b: ["
	return list + strings.Repeat("*a,", 12) + "]\n"
}

// The same files give the same picture, whatever the order of maps; a change gives another version.
func TestLoadIsDeterministic(t *testing.T) {
	_, files := write(t, "shop.yml", shop, "site.conf", "hello", "key.pem", "k")
	first, found, err := Load(t.Context(), Options{Files: files[:1]})
	require.NoError(t, err)
	for range 20 {
		again, f, err := Load(t.Context(), Options{Files: files[:1]})
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(first, again))
		require.Equal(t, found, f)
	}
	require.NoError(t, os.WriteFile(files[0], []byte(strings.Replace(shop, "team: shop", "team: fruit", 1)), 0o644))
	other, _, err := Load(t.Context(), Options{Files: files[:1]})
	require.NoError(t, err)
	require.NotEqual(t, first.Services["shop_web"].Version, other.Services["shop_web"].Version)
	require.Equal(t, first.Services["shop_api"].Version, other.Services["shop_api"].Version)
}

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, files := write(t, "a.yml", "services: {}\n")
	_, _, err := Load(ctx, Options{Files: files})
	require.ErrorIs(t, err, context.Canceled)
}

// The parser's own talk must not reach stderr, which belongs to our own log.
func TestLoadIsSilent(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	old := os.Stderr
	os.Stderr = w
	t.Cleanup(func() { os.Stderr = old })
	_, files := write(t, "old.yml", "version: '3.8'\nservices:\n  web: {image: 'x:$NOPE', privileged: 'yes', volumes: ['~/x:/x']}\nnetworks: {e: {external: {name: n}}}\n")
	_, _, err = Load(t.Context(), Options{Files: files})
	require.NoError(t, err)
	os.Stderr = old
	require.NoError(t, w.Close())
	said := make([]byte, 1024)
	n, _ := r.Read(said)
	require.Empty(t, string(said[:n]))
}

// Nobody can write a file that takes the program down or keeps it busy.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(shop))
	f.Add([]byte("services:\n  web: {image: x, ports: ['1-20000:1-20000/udp', {target: 80}], deploy: {replicas: '3'}}\n"))
	f.Add([]byte("a: &a [x,x]\nb: &b [*a,*a,*a]\nservices: {web: {labels: *b, <<: *a}}\n"))
	f.Add([]byte("name: ${X:-${Y:-z}}\nservices: {w: {environment: {A: ${B?c}}}}\n1: 2\n"))
	f.Add([]byte("services: &s {<<: *s}\n"))
	f.Add([]byte("services: {w: {configs: [c], secrets: [s], networks: {n: {aliases: [a]}}}}\nconfigs: {c: {content: x}}\nsecrets: {s: {environment: E}}\nnetworks: {n: }\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		l := newAssembly("", nil)
		err := l.file(t.Context(), 0, "-", content, map[string]string{"B": "b"})
		p, findings := l.picture()
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("not one sentence: %q", err)
		}
		for _, f := range findings {
			if f.Reason == "" || strings.Contains(f.String(), "\n") {
				t.Errorf("not one sentence: %q", f)
			}
		}
		for id, s := range p.Services {
			if s.ID != id || s.Stack() == "" && s.Labels == nil {
				t.Errorf("a service without its names: %+v", s)
			}
		}
	})
}
