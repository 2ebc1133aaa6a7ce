package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
)

// oldest is the first API version that has everything: configs, and events of the Swarm.
const oldest = "1.30"

// connection is the way to one Docker daemon. A client is made, and the API
// version agreed on, when one is needed; after a failure it is made anew, because
// the daemon may come back as another version.
type connection struct {
	host    string
	url     *url.URL // scheme and authority of requests
	options []client.Opt
	certDir string
	socket  string // path of a unix socket
	timeout time.Duration
	dial    func(socket string) error // tries whether somebody listens there

	mu  sync.Mutex
	cli *client.Client
}

// newConnection checks the address and the TLS files; an error of it can never pass.
func newConnection(o Options) (*connection, error) {
	const hint = "use unix:///var/run/docker.sock or tcp://HOST:PORT"
	u, err := client.ParseHostURL(o.Host)
	if err != nil {
		return nil, fmt.Errorf("the Docker host %q is no address; %s", o.Host, hint)
	}
	c := &connection{host: o.Host, timeout: o.Timing.Timeout, options: []client.Opt{client.WithHost(o.Host), client.WithUserAgent("waggle")}}
	switch u.Scheme {
	case "unix":
		c.socket, c.dial = u.Host, dialSocket
		c.url = &url.URL{Scheme: "http", Host: "docker"}
	case "tcp", "http", "https":
		c.url = &url.URL{Scheme: "http", Host: u.Host, Path: u.Path}
		if u.Scheme == "https" && o.CertDir == "" {
			return nil, fmt.Errorf("the Docker host %s needs TLS files; set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem", o.Host)
		}
		if o.CertDir != "" {
			c.url.Scheme, c.certDir = "https", o.CertDir
			file := func(name string) string { return filepath.Join(o.CertDir, name) }
			c.options = append(c.options, client.WithTLSClientConfig(file("ca.pem"), file("cert.pem"), file("key.pem")))
		}
	default:
		return nil, fmt.Errorf("the Docker host %s has a scheme that Waggle does not speak; %s", o.Host, hint)
	}
	cli, err := client.NewClientWithOpts(c.options...)
	if err != nil {
		return nil, fmt.Errorf("the TLS files for the Docker host %s cannot be used: %w; DOCKER_CERT_PATH (%s) needs ca.pem, cert.pem and key.pem", o.Host, err, o.CertDir)
	}
	return c, cli.Close()
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cli != nil {
		c.cli.Close()
		c.cli = nil
	}
}

// client gives a client that has agreed on an API version with the daemon.
func (c *connection) client(ctx context.Context) (*client.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cli != nil {
		return c.cli, nil
	}
	cli, err := client.NewClientWithOpts(c.options...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ping, err := cli.Ping(ctx)
	if err == nil && ping.APIVersion != "" && versions.LessThan(ping.APIVersion, oldest) {
		err = tooOld(ping.APIVersion)
	}
	if err != nil {
		cli.Close()
		return nil, err
	}
	cli.NegotiateAPIVersionPing(ping)
	c.cli = cli
	return cli, nil
}

type tooOld string

func (v tooOld) Error() string { return "API " + string(v) }

// do runs one request, or several that belong together, within the time limit.
// Its errors are whole sentences; what says what is read.
func (c *connection) do(ctx context.Context, what string, f func(context.Context, *client.Client) error) error {
	cli, err := c.client(ctx)
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, c.timeout)
		err = f(limited, cli)
		cancel()
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	c.renew(cli)
	return c.sentence(what, err)
}

// renew drops a client that has failed.
func (c *connection) renew(failed *client.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed != nil && c.cli == failed {
		c.cli.Close()
		c.cli = nil
	}
}

// get makes a GET request of its own where the client's methods read more, or
// with less control, than is wanted. The caller closes the body.
func (c *connection) get(ctx context.Context, cli *client.Client, path string, f filters.Args) (*http.Response, error) {
	u := *c.url
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v" + cli.ClientVersion() + path
	encoded, err := filters.ToJSON(f)
	if err != nil {
		return nil, err
	}
	if encoded != "" {
		u.RawQuery = url.Values{"filters": {encoded}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := cli.HTTPClient().Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var said struct{ Message string }
	if json.Unmarshal(body, &said) != nil || said.Message == "" {
		said.Message = strings.TrimSpace(string(body))
	}
	return nil, &refused{resp.StatusCode, said.Message}
}

// refused is an answer that is not 200.
type refused struct {
	status  int
	message string
}

func (r *refused) Error() string {
	return fmt.Sprintf("%d %s: %s", r.status, http.StatusText(r.status), r.message)
}

// Is lets the same questions be asked of our own requests as of the client's.
func (r *refused) Is(target error) bool {
	return r.status == http.StatusForbidden && target == cerrdefs.ErrPermissionDenied ||
		r.status == http.StatusNotFound && target == cerrdefs.ErrNotFound
}

// sentence says what happened at which host, and the way out.
func (c *connection) sentence(what string, err error) error {
	text := err.Error()
	has := func(s ...string) bool {
		for _, s := range s {
			if strings.Contains(text, s) {
				return true
			}
		}
		return false
	}
	var old tooOld
	var badJSON *json.SyntaxError
	var s string
	switch {
	case errors.As(err, &old):
		s = fmt.Sprintf("Docker at %s speaks API %s, which is too old; Waggle needs %s (Docker 17.06) or newer", c.host, string(old), oldest)
	case has("not a swarm manager", "not part of a swarm"):
		s = fmt.Sprintf("Docker at %s is not a Swarm manager; run Waggle on a manager, or make this node one with `docker swarm init` or `docker node promote`", c.host)
		if has("trouble connecting to the cluster") {
			s = fmt.Sprintf("Docker at %s is a Swarm manager that has lost the cluster; bring back a majority of the managers", c.host)
		}
	case has("needs to be unlocked"):
		s = fmt.Sprintf("the Swarm of Docker at %s is locked; run `docker swarm unlock` there", c.host)
	case has("client version") && has("is too old", "is too new"):
		s = fmt.Sprintf("Docker at %s does not speak the API version of this Waggle (%s); update the older of the two", c.host, flat(text))
	case has("HTTP request to an HTTPS server", "TLS-enabled daemon without TLS", "malformed HTTP response"):
		s = fmt.Sprintf("Docker at %s speaks TLS; set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem", c.host)
	case has("gave HTTP response to HTTPS client", "first record does not look like a TLS handshake"):
		s = fmt.Sprintf("Docker at %s does not speak TLS; unset DOCKER_CERT_PATH, or use the daemon's TLS port (2376)", c.host)
	case has("x509:", "tls:", "bad certificate"):
		s = fmt.Sprintf("TLS with Docker at %s failed (%s); check ca.pem, cert.pem and key.pem in %s", c.host, flat(text), c.certDir)
	case errors.Is(err, cerrdefs.ErrPermissionDenied) && !has("dial"):
		s = fmt.Sprintf("Docker at %s forbids reading %s; let the socket proxy pass GET /_ping, /events, /services, /tasks, /nodes and /networks", c.host, what)
	case errors.Is(err, context.DeadlineExceeded):
		s = fmt.Sprintf("Docker at %s did not answer within %v when asked for %s; look at the daemon's log and load", c.host, c.timeout, what)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &badJSON):
		s = fmt.Sprintf("Docker at %s broke off in the middle of %s; it is asked again", c.host, what)
	case unconnected(err):
		s = c.unreachable(err)
	default:
		s = fmt.Sprintf("Docker at %s cannot be asked for %s (%s); look at the daemon's log", c.host, what, flat(text))
	}
	return &failure{s, err}
}

// failure is a sentence with its cause.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

func unconnected(err error) bool {
	var op *net.OpError
	return client.IsErrConnectionFailed(err) || errors.As(err, &op) && op.Op == "dial"
}

// unreachable says why no connection came about.
func (c *connection) unreachable(err error) string {
	if c.socket == "" {
		return fmt.Sprintf("Docker at %s cannot be reached (%s); check swarm.host, and that the daemon or its proxy listens there", c.host, flat(cause(err)))
	}
	// The client's own errors no longer know why: look at the socket once more.
	dialErr := c.dial(c.socket)
	switch {
	case dialErr == nil:
		return fmt.Sprintf("Docker at %s closed the connection; it is asked again", c.host)
	case errors.Is(dialErr, os.ErrNotExist):
		return fmt.Sprintf("there is no Docker at %s: the socket does not exist; start Docker, mount the socket into the container, or set swarm.host", c.host)
	case errors.Is(dialErr, os.ErrPermission):
		return fmt.Sprintf("Docker at %s may not be used by this user: permission denied; run Waggle as root or in the socket's group", c.host)
	case errors.Is(dialErr, syscall.ECONNREFUSED):
		return fmt.Sprintf("Docker at %s is dead: nobody listens on the socket; start Docker, and in a container mount the socket's directory, not the file", c.host)
	}
	return fmt.Sprintf("Docker at %s cannot be reached (%s); check swarm.host", c.host, flat(cause(dialErr)))
}

func dialSocket(path string) error {
	d, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return err
	}
	return d.Close()
}

// cause is the innermost part of a network error that still says something.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

func flat(s string) string {
	return strings.Join(strings.Fields(s), " ")
}
