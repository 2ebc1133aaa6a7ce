package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDefaults(t *testing.T) {
	for _, data := range []string{"", "# nothing\n", "---\n", "collections: {}\n", "collections:\n"} {
		c, notices, err := Parse([]byte(data), nil)
		require.NoError(t, err, "%q", data)
		require.Empty(t, notices)
		require.Equal(t, &Config{
			XDS:   XDS{Address: ":18000"},
			Admin: Admin{Address: "127.0.0.1:19000"},
			Swarm: Swarm{Source: "auto", Host: "unix:///var/run/docker.sock",
				ControlSocket: "/var/run/docker/swarm/control.sock", PollInterval: time.Second},
			LabelPrefixes: []string{"com.docker.lb", "lb"},
			StateDir:      "/var/lib/waggle",
			Collections: map[string]*Collection{"default": {Name: "default", Default: true, Bind: "0.0.0.0",
				HTTPPort: 80, HTTPSPort: 443, HTTPSPublicPort: 443, ShareHosts: "owner", Routes: "rds"}},
			Order: []string{"default"},
		}, c, "%q", data)
	}
	c, _, err := Load("", nil)
	require.NoError(t, err)
	require.True(t, c.Collections["default"].Default)
}

func TestEveryKey(t *testing.T) {
	c, notices, err := Load("testdata/every-key.yml", nil)
	require.NoError(t, err)
	require.Equal(t, XDS{Address: "127.0.0.1:18001", Insecure: true}, c.XDS)
	require.Equal(t, Swarm{Source: "engine", Host: "tcp://proxy:2375", ControlSocket: "/run/swarm/control.sock",
		ComposeProjects: []string{"shop"}, PollInterval: 2 * time.Second}, c.Swarm)
	require.Equal(t, []string{"lb"}, c.LabelPrefixes)
	require.Equal(t, []string{"prod", "dev"}, c.Order)
	require.Equal(t, &Collection{
		Name: "dev", Default: true, Bind: "::", HTTPPort: 8081, HTTPSPort: 8441, HTTPSPublicPort: 443, HTTP3: true,
		Certificates: Certificates{Directories: []string{"/etc/waggle/certs/dev"}, Secrets: []string{"dev.pem"}, Default: "dev.pem"},
		TCPPorts:     []uint32{5432}, UDPPorts: []uint32{53},
		Networks:     []string{"dev-edge"},
		AccessLabels: []string{"/dev", "/Shared/dev"}, MatchConstraints: []string{"node.labels.collection==dev"},
		TrustedProxies: []string{"10.0.0.0/8"}, ShareHosts: "any",
		HostOwners: map[string][]string{"*.shop.example.com": {"shop", "other"}},
		AccessLog:  true, Tracing: Tracing{OTLP: "collector:4317", ServiceName: "edge"}, Routes: "vhds",
		Defaults: map[string]string{"retries": "2", "ssl_only": "true", "timeout": "1.50", "set_request_header.X-Env": "dev"},
		Required: map[string]string{"port": "0x50", "weight": "010", "allow_ips": ""},
		Fleet:    map[string]any{"image": "envoy", "replicas": int64(2), "labels": map[string]any{"a": "b"}, "list": []any{true, "x"}},
	}, c.Collections["dev"])
	require.Equal(t, uint32(8443), c.Collections["prod"].HTTPSPublicPort, "it follows https_port")

	var keys []string
	for _, n := range notices {
		require.Contains(t, n.String(), "has no effect")
		require.True(t, strings.HasPrefix(n.Where, "testdata/every-key.yml:"), n.Where)
		keys = append(keys, n.Key)
	}
	require.Equal(t, []string{"swarm.compose_projects",
		"collections.dev.tcp_ports", "collections.dev.udp_ports",
		"collections.dev.routes", "collections.dev.fleet"}, keys)
}

func TestMergedCollections(t *testing.T) {
	c, _, err := Parse([]byte("collections:\n  a: &a {http_port: 81, https_port: 82, networks: [n]}\n  b: {<<: *a, http_port: 83}\n  c: {<<: [*a], default: true}\n"), nil)
	require.NoError(t, err)
	require.Equal(t, uint32(83), c.Collections["b"].HTTPPort, "the own key holds over the merged one")
	require.Equal(t, uint32(82), c.Collections["b"].HTTPSPort)
	require.Equal(t, []string{"n"}, c.Collections["c"].Networks)
	require.Equal(t, "a", c.Collections["a"].Name)
}

// Each row is a file that must be refused, with the whole sentence.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"unknown key", "xds:\n  adress: :1\n", "waggle.yml:2: xds.adress: unknown key; did you mean address?"},
		{"unknown key of a collection", "collections:\n  dev:\n    http-port: 80\n", "waggle.yml:3: collections.dev.http-port: unknown key; did you mean http_port?"},
		{"key in the wrong section", "http_port: 80\n", "waggle.yml:1: http_port: unknown key; http_port belongs under collections.<name>"},
		{"nothing like it", "swarm: {zebra: 1}\n", "waggle.yml:1: swarm.zebra: unknown key; the keys here are source, host, control_socket, compose_projects, poll_interval, courier"},
		{"token is no key", "admin: {token: x}\n", "waggle.yml:1: admin.token: unknown key; the keys here are address, token_file"},
		{"duplicate key", "xds: {}\nadmin: {}\nxds: {}\n", "waggle.yml:3: xds: this key is already given at line 1; keep one of the two"},
		{"duplicate collection", "collections:\n  a: {}\n  a: {}\n", "waggle.yml:3: collections.a: this key is already given at line 2; keep one of the two"},
		{"duplicate label key", "collections: {a: {defaults: {retries: 1, retries: 2}}}\n", "waggle.yml:1: collections.a.defaults.retries: this key is already given at line 1; keep one of the two"},
		{"broken yaml", "xds:\n  address: [\n", "waggle.yml:2: this is not valid YAML: did not find expected node content; look at the indentation, colons and quotes of this line and the one before"},
		{"tab", "xds:\n\taddress: x\n", "waggle.yml:2: this is not valid YAML: found character that cannot start any token; look at the indentation, colons and quotes of this line and the one before"},
		{"two documents", "xds: {}\n---\nxds: {}\n", "waggle.yml:2: this is not valid YAML: a second document begins here, but a configuration is one; look at the indentation, colons and quotes of this line and the one before"},
		{"a list", "- xds\n", "waggle.yml: this is a list, but keys with values are expected; write one of xds, admin, swarm, label_prefixes, state_dir, collections, each followed by a colon"},
		{"section as value", "xds: :18000\n", "waggle.yml:1: xds: this is the single value \":18000\", but keys with values are expected; write one of address, tls, insecure, each followed by a colon"},
		{"value as section", "xds: {address: {host: x}}\n", "waggle.yml:1: xds.address: this is a group of keys, but one value is expected; write text"},
		{"list as value", "collections: {a: {networks: n}}\n", "waggle.yml:1: collections.a.networks: this is the single value \"n\", but a list is expected; write [n]"},
		{"number", "collections: {a: {http_port: 80/tcp}}\n", "waggle.yml:1: collections.a.http_port: \"80/tcp\" is not a whole number; write a number such as 8080"},
		{"bool", "collections: {a: {default: maybe}}\n", "waggle.yml:1: collections.a.default: \"maybe\" is neither true nor false; write true or false"},
		{"duration", "swarm: {poll_interval: 1 s}\n", "waggle.yml:1: swarm.poll_interval: \"1 s\" is not a duration; write it as 500ms, 2s, 1m30s or in bare seconds"},
		{"busy loop", "swarm: {poll_interval: 1ms}\n", "waggle.yml:1: swarm.poll_interval: 1ms is too short; write at least 100ms; 1s is the default"},
		{"negative duration", "swarm: {poll_interval: -1s}\n", "waggle.yml:1: swarm.poll_interval: -1s is too short; write at least 100ms; 1s is the default"},
		{"control character", "swarm: {host: \"unix:///a\\nb\"}\n", "waggle.yml:1: swarm.host: control characters (line breaks, tabs) are refused in values; write it on one line"},
		{"source", "swarm: {source: engin}\n", "waggle.yml:1: swarm.source: \"engin\" is unknown here; did you mean engine?"},
		{"source unlike any", "swarm: {source: kubernetes}\n", "waggle.yml:1: swarm.source: \"kubernetes\" is unknown here; write one of auto, swarmkit, engine, compose"},
		{"docker host", "swarm: {host: /var/run/docker.sock}\n", "waggle.yml:1: swarm.host: \"/var/run/docker.sock\" is not where a Docker Engine listens; write unix:///var/run/docker.sock or tcp://HOST:PORT"},
		{"xds address", "xds: {address: 18000}\n", "waggle.yml:1: xds.address: \"18000\" is not an address to listen on; write IP:PORT, or :PORT for every address"},
		{"xds port", "xds: {address: ':70000'}\n", "waggle.yml:1: xds.address: \":70000\" is not an address to listen on; write IP:PORT, or :PORT for every address"},
		{"admin open", "admin: {address: ':19000'}\n", "waggle.yml:1: admin.address: :19000 can be reached from other machines, and no token is asked for; set admin.token_file, or listen on 127.0.0.1"},
		{"token missing", "admin: {token_file: testdata/nothing}\n", "waggle.yml:1: admin.token_file: the token cannot be read: stat testdata/nothing: no such file or directory; write the token into this file, or correct its name"},
		{"token is a directory", "admin: {token_file: testdata}\n", "waggle.yml:1: admin.token_file: the token cannot be read: testdata is not a regular file; write the token into this file, or correct its name"},
		{"no prefix", "label_prefixes: []\n", "waggle.yml:1: label_prefixes: there is no prefix, so that no label would be read; write [com.docker.lb, lb], or drop the key"},
		{"prefix with dot", "label_prefixes: [lb.]\n", "waggle.yml:1: label_prefixes[0]: \"lb.\" is not a label prefix; write it in lower case without the last dot, as com.docker.lb"},
		{"state dir", "state_dir: ''\n", "waggle.yml:1: state_dir: this is empty; name a directory, or drop the key for /var/lib/waggle"},
		{"collection name", "collections:\n  Dev: {}\n", "waggle.yml:2: collections.Dev: \"Dev\" is not a collection name; use lower case letters and digits, with . _ - only between them, 128 at most"},
		{"collection name with slash", "collections: {a/b: {}}\n", "waggle.yml:1: collections.a/b: \"a/b\" is not a collection name; use lower case letters and digits, with . _ - only between them, 128 at most"},
		{"two defaults", "collections:\n  a: {default: true}\n  b: {default: true}\n", "waggle.yml:3: collections.b.default: a, b are all marked default: true; keep it at one"},
		{"access label twice", "collections:\n  a: {access_labels: [/dev]}\n  b: {access_labels: [/x, /dev/]}\n", "waggle.yml:3: collections.b.access_labels[1]: access label /dev is already at collections.a.access_labels[0] (waggle.yml:2); give each access label to one collection"},
		{"access label", "collections: {a: {access_labels: [dev]}}\n", "waggle.yml:1: collections.a.access_labels[0]: \"dev\" is not an access label; write it from its root, as /dev or /Shared/dev"},
		{"bind", "collections: {a: {bind: eth0}}\n", "waggle.yml:1: collections.a.bind: \"eth0\" is not an IP address; write 0.0.0.0, :: or an address of the proxies' machines"},
		{"port 0", "collections: {a: {http_port: 0}}\n", "waggle.yml:1: collections.a.http_port: 0 is not a port; use 1 to 65535"},
		{"port too high", "collections: {a: {https_port: 65536}}\n", "waggle.yml:1: collections.a.https_port: 65536 is not a port; use 1 to 65535"},
		{"public port", "collections: {a: {https_public_port: 65536}}\n", "waggle.yml:1: collections.a.https_public_port: 65536 is not a port; use 1 to 65535"},
		{"one port twice", "collections:\n  a:\n    http_port: 8080\n    https_port: 8080\n", "waggle.yml:4: collections.a.https_port: port 8080 is already collections.a.http_port (waggle.yml:3); give each listener of a collection its own port"},
		{"tcp port twice", "collections: {a: {tcp_ports: [443]}}\n", "waggle.yml:1: collections.a.tcp_ports[0]: port 443 is already collections.a.https_port (waggle.yml:1); give each listener of a collection its own port"},
		{"certificate path", "collections: {a: {certificates: {secrets: [../key.pem]}}}\n", "waggle.yml:1: collections.a.certificates.secrets[0]: \"../key.pem\" is a path, but the name of a certificate is expected; name a secret, or a file of certificates.directories without its path"},
		{"default certificate", "collections: {a: {certificates: {default: x/y}}}\n", "waggle.yml:1: collections.a.certificates.default: \"x/y\" is a path, but the name of a certificate is expected; name a secret, or a file of certificates.directories without its path"},
		{"one address", "collections: {a: {trusted_proxies: [10.0.0.1]}}\n", "waggle.yml:1: collections.a.trusted_proxies[0]: \"10.0.0.1\" is not a range of addresses; write 10.0.0.1/32 for this one address"},
		{"no address", "collections: {a: {trusted_proxies: [everyone]}}\n", "waggle.yml:1: collections.a.trusted_proxies[0]: \"everyone\" is not a range of addresses; write it as 10.0.0.0/8"},
		{"collector", "collections: {a: {tracing: {otlp: \"collector:otlp\"}}}\n", "waggle.yml:1: collections.a.tracing.otlp: \"collector:otlp\" is not where a collector listens for OTLP over gRPC; write collector:4317, or https://collector.example.com:4317"},
		{"collector with a path", "collections: {a: {tracing: {otlp: \"http://collector:4318/v1/traces\"}}}\n", "waggle.yml:1: collections.a.tracing.otlp: \"http://collector:4318/v1/traces\" is not where a collector listens for OTLP over gRPC; write collector:4317, or https://collector.example.com:4317"},
		{"service without collector", "collections: {a: {tracing: {service_name: edge}}}\n", "waggle.yml:1: collections.a.tracing.service_name: no collector is named beside it, so nothing is traced; set tracing.otlp, or drop the key"},
		{"share_hosts", "collections: {a: {share_hosts: owners}}\n", "waggle.yml:1: collections.a.share_hosts: \"owners\" is unknown here; did you mean owner?"},
		{"routes", "collections: {a: {routes: srds}}\n", "waggle.yml:1: collections.a.routes: \"srds\" is unknown here; did you mean rds?"},
		{"host owner", "collections: {a: {host_owners: {\"Shop.example.com\": [s]}}}\n", "waggle.yml:1: collections.a.host_owners.Shop.example.com: \"Shop.example.com\" is not a host; write shop.example.com, *.example.com or *, in lower case and without a port"},
		{"host of nobody", "collections: {a: {host_owners: {a.example.com: []}}}\n", "waggle.yml:1: collections.a.host_owners.a.example.com: no owner is named; write the names of the stacks, as [shop]"},
		{"empty network", "collections: {a: {networks: ['']}}\n", "waggle.yml:1: collections.a.networks[0]: this entry is empty; drop it"},
		{"network twice", "collections: {a: {networks: [n, n]}}\n", "waggle.yml:1: collections.a.networks[1]: n is there twice; keep one of the two"},
		{"prefixed default", "collections:\n  a:\n    defaults:\n      com.docker.lb.retries: 2\n", "waggle.yml:4: collections.a.defaults.com.docker.lb.retries: label keys stand here without their prefix; write retries"},
		{"nested default", "collections: {a: {required: {retries: [1]}}}\n", "waggle.yml:1: collections.a.required.retries: this is a list, but one value is expected; write text"},
		{"half of tls", "xds: {tls: {ca: a, cert: b}}\n", "waggle.yml:1: xds.tls: the file with its key is missing; name it in xds.tls.key; `waggle ca issue` makes all three"},
		{"tls and none", "xds: {insecure: true, tls: {ca: a, cert: b, key: c}}\n", "waggle.yml:1: xds.insecure: this contradicts xds.tls; keep one of the two"},
		{"proxy protocol", "collections: {a: {proxy_protocol: true}}\n", "waggle.yml:1: collections.a.proxy_protocol: only trusted_proxies may connect then, and there are none; name their addresses under trusted_proxies, as [10.0.0.0/8]"},
		{"courier without image", "swarm: {courier: {network: x}}\n", "waggle.yml:1: swarm.courier: the image of the job is missing; write Waggle's own, the one that the control plane runs, under swarm.courier.image"},
		{"courier without network", "swarm:\n  courier: {image: waggle}\n", "waggle.yml:2: swarm.courier: the job's network is missing; name an overlay network that the control plane is on, under swarm.courier.network"},
		{"courier without TLS", "xds: {insecure: true}\nswarm:\n  courier: {image: waggle, network: x}\n", "waggle.yml:3: swarm.courier: xds.insecure is set: whoever asks would get what the courier brings; give xds.tls instead, or drop swarm.courier"},
		{"courier in Compose", "swarm: {source: compose, courier: {image: waggle, network: x}}\n", "waggle.yml:1: swarm.courier: swarm.source is compose: a plain Docker has no secrets and no jobs; drop swarm.courier"},
		{"courier's address", "swarm: {courier: {image: waggle, network: x, listen: 18001}}\n", "waggle.yml:1: swarm.courier.listen: \"18001\" is not an address to listen on; write IP:PORT, or :PORT for every address"},
		{"courier's key elsewhere", "swarm: {image: waggle}\n", "waggle.yml:1: swarm.image: unknown key; image belongs under swarm.courier"},
		{"merge of nothing", "xds: {<<: 1}\n", "waggle.yml:1: xds.<<: only keys with values can be merged; write <<: *name"},
		{"own ancestor", "collections: &a {a: {fleet: *a}}\n", "waggle.yml:1: collections.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet.a.fleet: the document is too large or too deep here once its aliases are expanded; write it out without aliases (*name)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := Parse([]byte(tt.data), nil)
			require.EqualError(t, err, tt.want)
			require.Nil(t, c)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.WayOut)
		})
	}
}

func TestEveryErrorAtOnce(t *testing.T) {
	_, _, err := Parse([]byte("xds: {adress: x}\nswarm: {source: x}\ncollections:\n  dev: {http_port: 0, defaults: {retries: x}}\n"), nil,
		func(where string, m map[string]string) []error {
			require.Equal(t, "collections.dev.defaults", where)
			return []error{fmt.Errorf("retries: %q is not a number; write 2", m["retries"])}
		})
	require.EqualError(t, err, strings.Join([]string{
		"waggle.yml:1: xds.adress: unknown key; did you mean address?",
		`waggle.yml:2: swarm.source: "x" is unknown here; write one of auto, swarmkit, engine, compose`,
		"waggle.yml:4: collections.dev.http_port: 0 is not a port; use 1 to 65535",
		`waggle.yml:4: collections.dev.defaults: retries: "x" is not a number; write 2`,
	}, "\n"))
}

func TestErrorsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "key%d: 1\n", i)
	}
	_, _, err := Parse([]byte(b.String()), nil)
	require.Len(t, strings.Split(err.Error(), "\n"), maxErrors)
}

// An alias bomb is refused without being expanded.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("collections:\n  a:\n    fleet:\n      x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "      x%d: &x%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i-1), 10), ", "))
	}
	_, _, err := Parse([]byte(b.String()), nil)
	require.ErrorContains(t, err, "too large or too deep")
}

func TestEnvironment(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte(" s3cret\n"), 0o600))
	c, notices, err := Parse([]byte("xds: {address: ':1', insecure: false}\nlabel_prefixes: [a, a]\nswarm: {poll_interval: 9s}\n"), []string{
		"PATH=/bin", "WAGGLE_XDS_ADDRESS=127.0.0.1:2", "WAGGLE_XDS_INSECURE=true",
		"WAGGLE_ADMIN_ADDRESS=0.0.0.0:3", "WAGGLE_ADMIN_TOKEN_FILE=" + token,
		"WAGGLE_SWARM_HOST=tcp://h:1", "WAGGLE_SWARM_SOURCE=engine", "WAGGLE_SWARM_POLL_INTERVAL=3",
		"WAGGLE_LABEL_PREFIXES= x.y , z,", "WAGGLE_STATE_DIR=/s", "WAGGLE_SWARM_CONTROL_SOCKET=",
		"WAGGLE_XDS_ADRESS=:4", "WAGGLE_PORT=tcp://10.0.0.1:80",
	})
	require.NoError(t, err)
	require.Equal(t, XDS{Address: "127.0.0.1:2", Insecure: true}, c.XDS)
	require.Equal(t, Admin{Address: "0.0.0.0:3", TokenFile: token, Token: "s3cret"}, c.Admin)
	require.Equal(t, "tcp://h:1", c.Swarm.Host)
	require.Equal(t, "engine", c.Swarm.Source)
	require.Equal(t, 3*time.Second, c.Swarm.PollInterval)
	require.Equal(t, []string{"x.y", "z"}, c.LabelPrefixes)
	require.Equal(t, "/s", c.StateDir)
	require.Equal(t, []string{
		"WAGGLE_PORT: this variable is unknown and has no effect",
		"WAGGLE_XDS_ADRESS: this variable is unknown and has no effect; did you mean WAGGLE_XDS_ADDRESS?",
	}, texts(notices))
	require.NoError(t, c.Servable())

	_, _, err = Parse(nil, []string{"WAGGLE_XDS_INSECURE=perhaps", "WAGGLE_ADMIN_ADDRESS=:1", "WAGGLE_XDS_TLS_CA=/ca.pem"})
	require.ErrorContains(t, err, `WAGGLE_XDS_INSECURE: xds.insecure: "perhaps" is neither true nor false`)
	require.ErrorContains(t, err, "WAGGLE_ADMIN_ADDRESS: admin.address: :1 can be reached")
	require.ErrorContains(t, err, "xds.tls: the file with the control plane's certificate is missing")
}

func TestCourier(t *testing.T) {
	c, notices, err := Parse([]byte("swarm: {courier: {image: waggle:1, network: waggle-xds}}\n"), nil)
	require.NoError(t, err)
	require.Empty(t, notices)
	require.Equal(t, &Courier{Image: "waggle:1", Network: "waggle-xds", Listen: ":18001"}, c.Swarm.Courier)

	c, notices, err = Parse(nil, []string{"WAGGLE_SWARM_COURIER_IMAGE=w", "WAGGLE_SWARM_COURIER_NETWORK=n", "WAGGLE_SWARM_COURIER_LISTEN=10.0.0.1:5"})
	require.NoError(t, err)
	require.Empty(t, notices)
	require.Equal(t, &Courier{Image: "w", Network: "n", Listen: "10.0.0.1:5"}, c.Swarm.Courier)
}

func texts(notices []Notice) []string {
	var out []string
	for _, n := range notices {
		out = append(out, n.String())
	}
	return out
}

func TestServable(t *testing.T) {
	c, _, err := Parse(nil, nil)
	require.NoError(t, err)
	require.ErrorContains(t, c.Servable(), "WAGGLE_XDS_INSECURE=true")
	c, _, err = Parse([]byte("xds: {tls: {ca: a, cert: b, key: c}}\n"), nil)
	require.NoError(t, err)
	require.Equal(t, &TLS{CA: "a", Cert: "b", Key: "c"}, c.XDS.TLS)
	require.NoError(t, c.Servable())
}

func TestForCollections(t *testing.T) {
	c := ForCollections([]string{"prod", "dev", "prod"})
	require.Equal(t, []string{"prod", "dev", "default"}, c.Order)
	require.Len(t, c.Collections, 3)
	require.False(t, c.Collections["dev"].Default)
	require.True(t, c.Collections["default"].Default)
	require.Equal(t, uint32(443), c.Collections["dev"].HTTPSPublicPort)

	plain, _, err := Load("", nil)
	require.NoError(t, err)
	require.Equal(t, plain, ForCollections(nil), "without names it is the built-in configuration")
}

func TestHash(t *testing.T) {
	read := func(data string) string {
		c, _, err := Parse([]byte(data), nil)
		require.NoError(t, err)
		return c.Hash()
	}
	same := read("collections: {a: {defaults: {x: 1, y: 2}}, b: {}}")
	require.Equal(t, same, read("collections: {b: {}, a: {defaults: {y: '2', x: '1'}}}"), "order and spelling do not count")
	require.NotEqual(t, same, read("collections: {a: {defaults: {x: 1, y: 3}}, b: {}}"))
	require.NotEqual(t, same, read("collections: {a: {defaults: {x: 1, y: 2}}, b: {fleet: {z: 1}}}"))
	require.Len(t, same, 32)
}

func TestLoadUnreadable(t *testing.T) {
	_, _, err := Load("testdata/nothing.yml", nil)
	require.EqualError(t, err, "read configuration: open testdata/nothing.yml: no such file or directory")
	require.True(t, errors.Is(err, os.ErrNotExist))

	big := filepath.Join(t.TempDir(), "big.yml")
	require.NoError(t, os.WriteFile(big, make([]byte, maxFile+1), 0o600))
	_, _, err = Load(big, nil)
	require.ErrorContains(t, err, "is larger than 1 MiB")
}

func FuzzParse(f *testing.F) {
	every, err := os.ReadFile("testdata/every-key.yml")
	require.NoError(f, err)
	f.Add(every)
	for _, s := range []string{"", "xds: {<<: *a}", "a: &a [*a]", "collections: {a: {<<: &b {default: yes}}, c: *b}", "? [a]\n: b", "swarm: {poll_interval: 1e9}", "\xff\xfe", "collections: {a: {fleet: {x: .nan}}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "token_file") {
			return // no files of the machine are read here
		}
		c, _, err := Parse(data, nil)
		if err != nil {
			require.Nil(t, c)
			return
		}
		again, _, err := Parse(data, nil)
		require.NoError(t, err)
		require.Equal(t, c.Hash(), again.Hash())
		require.Len(t, c.Order, len(c.Collections))
		for name, coll := range c.Collections {
			require.True(t, ValidCollection(name))
			require.NotZero(t, coll.HTTPSPublicPort)
		}
	})
}
