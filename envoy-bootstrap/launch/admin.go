package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
)

// answerWithin bounds every question to the admin page. An update of a large route
// table keeps Envoy's main thread for a tenth of a second.
const answerWithin = 3 * time.Second

// connectionsOfListeners are the statistics, one per listener, that tell the drain of
// connections that are not HTTP. The form leaves out those of each worker thread.
const connectionsOfListeners = `listener\.([^.]+|[0-9a-f._\[\]]+)\.downstream_cx_active`

// Health asks the Envoy at an admin address, in any form that the bootstrap takes,
// whether it is alive, or ready, and gives its answer. Alive is what a container's
// health check is for: an Envoy whose control plane is away at its start is alive, and
// not ready, and starting it anew would not help.
func Health(ctx context.Context, address string, ready bool) (string, error) {
	a, err := adminAt(address)
	if err != nil {
		return "", err
	}
	defer a.close()
	if ready {
		return a.ready(ctx)
	}
	return a.alive(ctx)
}

// admin is the admin page of one Envoy.
type admin struct {
	network, address string // as net.Dial takes them
	client           *http.Client
}

// adminAt is the page at an address in any form that the bootstrap takes.
func adminAt(address string) (*admin, error) {
	// The collection does not matter: this says in one place which addresses there are.
	b, err := bootstrap.New(bootstrap.Options{Collection: "any", AdminAddress: address})
	if err != nil {
		return nil, err
	}
	return adminOf(b.GetAdmin())
}

func adminOf(b *bootstrapv3.Admin) (*admin, error) {
	a := &admin{network: "unix", address: b.GetAddress().GetPipe().GetPath()}
	if s := b.GetAddress().GetSocketAddress(); s != nil {
		if s.GetPortValue() == 0 {
			return nil, errors.New("admin address: port 0 is any port, and the health check has to know it: give one, or the path of a unix socket")
		}
		a.network, a.address = "tcp", net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(s.GetPortValue())))
	}
	a.client = &http.Client{
		Timeout: answerWithin,
		Transport: &http.Transport{
			// A kept connection would count among the proxy's own.
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) },
		},
	}
	return a, nil
}

func (a *admin) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, a.network, a.address)
}

func (a *admin) close() { a.client.CloseIdleConnections() }

// free makes sure that nobody else is at the address. Envoy would take the socket of
// another away, and what is told to the other's page would harm it.
func (a *admin) free(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := a.dial(ctx)
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return fmt.Errorf("admin address %s is taken by another program: stop it, or give another with --admin", a.address)
}

// alive is nil if Envoy's main thread answers.
func (a *admin) alive(ctx context.Context) (string, error) {
	if _, err := a.ask(ctx, http.MethodGet, "/server_info"); err != nil {
		return "", err
	}
	return "alive", nil
}

// ready is nil if Envoy has its configuration and is not draining.
func (a *admin) ready(ctx context.Context) (string, error) {
	state, err := a.ask(ctx, http.MethodGet, "/ready")
	return strings.TrimSpace(state), err
}

// do tells Envoy to do something.
func (a *admin) do(ctx context.Context, what string) error {
	_, err := a.ask(ctx, http.MethodPost, what)
	return err
}

// ask gives the answer to a question; an error if it is not 200.
func (a *admin) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return "", err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask Envoy's admin page at %s: %w", a.address, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return "", fmt.Errorf("ask Envoy's admin page at %s: %w", a.address, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("Envoy's admin page answers %s to %s: %s", res.Status, path, strings.TrimSpace(string(body[:min(len(body), 200)]))) //nolint:staticcheck // a name
	}
	return string(body), nil
}

// open is what a proxy has under way.
type open struct {
	requests    int64 // HTTP requests, WebSockets among them
	connections int64 // all connections of clients, idle ones too
	raw         int64 // those that are not HTTP (or not yet)
}

// open counts what is under way.
func (a *admin) open(ctx context.Context) (open, error) {
	text, err := a.ask(ctx, http.MethodGet, `/stats?type=Gauges&usedonly&filter=^(http|listener)\..*\.downstream_(cx|rq)_active$`)
	if err != nil {
		return open{}, err
	}
	return count(text)
}

func count(stats string) (open, error) {
	var o open
	var byListeners, byHTTP int64
	for line := range strings.Lines(stats) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "http.admin.") || strings.HasPrefix(name, "listener.admin.") {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return o, fmt.Errorf("statistic %s of Envoy: %q is not a number", name, value)
		}
		switch {
		case strings.HasPrefix(name, "listener."):
			byListeners += n
		case strings.HasSuffix(name, "rq_active"):
			o.requests += n
		default:
			byHTTP += n
		}
	}
	// The figures are not of one instant, and HTTP/3 counts otherwise: never less than nothing.
	o.raw = max(0, byListeners-byHTTP)
	o.connections = max(byListeners, byHTTP)
	return o, nil
}
