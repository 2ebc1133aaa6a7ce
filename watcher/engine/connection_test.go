package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/swarm"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
	"github.com/waggle-lb/waggle/watcher/engine/fakedocker"
)

// Check says at once, in one sentence, what stands in the way and the way out.
func TestCheck(t *testing.T) {
	d := fakedocker.Start(t)
	d.PutService("web", nil)
	require.NoError(t, New(quick(d)).Check(t.Context()))

	tests := []struct {
		name  string
		spoil func(d *fakedocker.Daemon)
		want  string
	}{
		{"not a manager", (*fakedocker.Daemon).Demote, "Docker at HOST is not a Swarm manager; run Waggle on a manager, or make this node one with `docker swarm init` or `docker node promote`"},
		{"no socket", (*fakedocker.Daemon).Down, "there is no Docker at HOST: the socket does not exist; start Docker, mount the socket into the container, or set swarm.host"},
		{"too old", func(d *fakedocker.Daemon) { d.Speak("1.12", "1.29") }, "Docker at HOST speaks API 1.29, which is too old; Waggle needs 1.30 (Docker 17.06) or newer"},
		{"too new", func(d *fakedocker.Daemon) { d.Speak("1.90", "1.99") }, "Docker at HOST does not speak the API version of this Waggle (Error response from daemon: client version 1.51 is too old. Minimum supported API version is 1.90, please upgrade your client to a newer version); update the older of the two"},
		{"a proxy that forbids tasks", func(d *fakedocker.Daemon) { d.Between("/tasks", fakedocker.Refuse(403, "no")) }, "Docker at HOST forbids reading /tasks; let the socket proxy pass GET /_ping, /events, /services, /tasks, /nodes and /networks"},
		{"a proxy that forbids services", func(d *fakedocker.Daemon) { d.Between("/services", fakedocker.Refuse(403, "no")) }, "Docker at HOST forbids reading /services; let the socket proxy pass GET /_ping, /events, /services, /tasks, /nodes and /networks"},
		{"an error", func(d *fakedocker.Daemon) {
			d.Between("/tasks", fakedocker.Refuse(500, "rpc error:\n the raft\tis gone"))
		}, "Docker at HOST cannot be asked for /tasks (500 Internal Server Error: rpc error: the raft is gone); look at the daemon's log"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := fakedocker.Start(t)
			tt.spoil(d)
			require.EqualError(t, New(quick(d)).Check(t.Context()), strings.ReplaceAll(tt.want, "HOST", d.Host()))
		})
	}
}

// Every version in between is spoken.
func TestVersionsAreNegotiated(t *testing.T) {
	for _, v := range [][2]string{{"1.12", "1.30"}, {"1.12", "1.41"}, {"1.24", "1.43"}, {"1.44", "1.52"}, {"1.40", "1.56"}} {
		d := fakedocker.Start(t)
		d.Speak(v[0], v[1])
		d.PutService("web", nil)
		require.NoErrorf(t, New(quick(d)).Check(t.Context()), "%v", v)
	}
}

func TestADeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	err = New(Options{Host: "unix://" + path}).Check(t.Context())
	require.EqualError(t, err, "Docker at unix://"+path+" is dead: nobody listens on the socket; start Docker, and in a container mount the socket's directory, not the file")
}

func TestASocketThatMayNotBeUsed(t *testing.T) {
	o := New(Options{Host: "unix://" + filepath.Join(t.TempDir(), "s")}).options
	c, err := newConnection(o)
	require.NoError(t, err)
	t.Cleanup(c.close)
	c.dial = func(string) error {
		return &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
	}
	_, err = newTaskReader(c, o).list(t.Context(), nil)
	require.EqualError(t, err, "Docker at "+o.Host+" may not be used by this user: permission denied; run Waggle as root or in the socket's group")
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	host := "tcp://" + l.Addr().String()
	require.NoError(t, l.Close())
	err = New(Options{Host: host}).Check(t.Context())
	require.ErrorContains(t, err, "Docker at "+host+" cannot be reached (")
	require.ErrorContains(t, err, "; check swarm.host, and that the daemon or its proxy listens there")
}

// An address that can never work ends Run at once.
func TestMalformedHosts(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{Host: "docker"}, `the Docker host "docker" is no address; use unix:///var/run/docker.sock or tcp://HOST:PORT`},
		{Options{Host: "ssh://me@box"}, "the Docker host ssh://me@box has a scheme that Waggle does not speak; use unix:///var/run/docker.sock or tcp://HOST:PORT"},
		{Options{Host: "https://box:2376"}, "the Docker host https://box:2376 needs TLS files; set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem"},
		{Options{Host: "tcp://box:2376", CertDir: dir}, "the TLS files for the Docker host tcp://box:2376 cannot be used: "},
	} {
		err := New(tt.o).Run(t.Context(), func(watcher.Update) { t.Error("an update") })
		require.ErrorContains(t, err, tt.want)
		require.ErrorContains(t, New(tt.o).Check(t.Context()), tt.want)
	}
}

func TestTLS(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		if !strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Write([]byte("[]"))
		}
	})
	secure, plain := httptest.NewUnstartedServer(answer), httptest.NewServer(answer)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	defer plain.Close()

	dir := t.TempDir()
	put := func(name string, blocks ...*pem.Block) {
		var b []byte
		for _, block := range blocks {
			b = append(b, pem.EncodeToMemory(block)...)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	put("cert.pem", &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	put("key.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	put("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})

	host := func(s *httptest.Server) string { return "tcp://" + s.Listener.Addr().String() }
	require.NoError(t, New(Options{Host: host(secure), CertDir: dir}).Check(t.Context()))
	require.NoError(t, New(Options{Host: host(plain)}).Check(t.Context()))
	require.EqualError(t, New(Options{Host: host(secure)}).Check(t.Context()), "Docker at "+host(secure)+" speaks TLS; set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem")
	require.EqualError(t, New(Options{Host: host(plain), CertDir: dir}).Check(t.Context()), "Docker at "+host(plain)+" does not speak TLS; unset DOCKER_CERT_PATH, or use the daemon's TLS port (2376)")

	put("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	err = New(Options{Host: host(secure), CertDir: dir}).Check(t.Context())
	require.ErrorContains(t, err, "TLS with Docker at "+host(secure)+" failed (")
	require.ErrorContains(t, err, "; check ca.pem, cert.pem and key.pem in "+dir)
}

func TestAddressesOfNodes(t *testing.T) {
	for _, tt := range []struct{ status, manager, want string }{
		{"192.168.7.1", "", "192.168.7.1"},
		{"192.168.7.1", "10.0.0.9:2377", "192.168.7.1"},
		{"0.0.0.0", "10.0.0.9:2377", "10.0.0.9"},
		{"127.0.0.1", "10.0.0.9:2377", "10.0.0.9"},
		{"0.0.0.0", "[fd00::9]:2377", "fd00::9"},
		{"::1", "10.0.0.9", "10.0.0.9"},
		{"127.0.0.1", "127.0.0.1:2377", "invalid IP"},
		{"0.0.0.0", "", "invalid IP"},
		{"", "0.0.0.0:2377", "invalid IP"},
		{"::ffff:192.168.7.1", "", "192.168.7.1"},
		{"a name", "", "invalid IP"},
	} {
		v := swarm.Node{ID: "n", Status: swarm.NodeStatus{Addr: tt.status}}
		if tt.manager != "" {
			v.ManagerStatus = &swarm.ManagerStatus{Addr: tt.manager}
		}
		require.Equalf(t, tt.want, node(v).Addr.String(), "%+v", tt)
	}
}

// Only a node that Swarm has given up is down.
func TestStatesOfNodes(t *testing.T) {
	for state, down := range map[swarm.NodeState]bool{
		swarm.NodeStateReady: false, swarm.NodeStateDown: true, swarm.NodeStateUnknown: false, swarm.NodeStateDisconnected: false,
	} {
		require.Equal(t, down, node(swarm.Node{Status: swarm.NodeStatus{State: state}}).Down, state)
	}
}
