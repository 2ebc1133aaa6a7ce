package courier

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/secrets"
)

// OrderFile is the name of the file with a job's order, beside the secrets.
const OrderFile = "waggle-courier"

// order is what a job has to know, and what makes it believed.
//
// It comes as a Docker secret of its own, not by the environment or the arguments:
// those are shown to everybody who may look at services and tasks, which a read-only
// socket proxy lets many do. Secrets are shown to nobody; and who can read this one
// could read those that it is about.
type order struct {
	Addresses   []string          `json:"addresses"` // of the control plane, as far as it knows
	Seconds     int               `json:"seconds"`   // how long it waits
	Authority   string            `json:"authority"` // of the control plane's certificate, PEM
	Certificate string            `json:"certificate"`
	Key         string            `json:"key"`
	Tokens      map[string]string `json:"tokens"` // by the ID of the secret, which is its file's name
}

func (o *order) encode() (secrets.Bytes, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return secrets.Bytes{}, fmt.Errorf("encode the job's order: %w", err)
	}
	return secrets.Hide(raw), nil
}

// Deliver is what a job does: it hands every secret of the order in dir to the control
// plane that gave the order. dir is where the order and the secrets are mounted. Errors
// never hold anything of their content.
func Deliver(ctx context.Context, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, OrderFile))
	if err != nil {
		return fmt.Errorf("read the order: %w; this command is for jobs that a control plane makes (swarm.courier)", err)
	}
	var o order
	if json.Unmarshal(raw, &o) != nil { // its error could show a part of it
		return fmt.Errorf("the order in %s cannot be read", filepath.Join(dir, OrderFile))
	}
	identity, err := tls.X509KeyPair([]byte(o.Certificate), []byte(o.Key))
	if err != nil {
		return errors.New("the order's certificate and key do not fit")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(o.Authority)) {
		return errors.New("the order names no authority")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName, RootCAs: roots, Certificates: []tls.Certificate{identity}}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.Seconds)*time.Second)
	defer cancel()
	address, err := reach(ctx, o.Addresses, conf)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		TLSClientConfig: conf,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	var failed error
	for _, id := range slices.Sorted(maps.Keys(o.Tokens)) {
		if err := hand(ctx, transport, dir, id, o.Tokens[id]); err != nil {
			failed = errors.Join(failed, fmt.Errorf("deliver the secret %s: %w", id, err))
		}
	}
	return failed
}

// reach finds the address at which the control plane answers. Some of them are on
// networks that this job is not on; and a network that was just joined takes a while.
func reach(ctx context.Context, addresses []string, conf *tls.Config) (string, error) {
	type tried struct {
		address string
		err     error
	}
	try := func(ctx context.Context, address string) error {
		conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for {
		results := make(chan tried, len(addresses))
		round, cancel := context.WithTimeout(ctx, 2*time.Second)
		for _, a := range addresses {
			go func() { results <- tried{a, try(round, a)} }()
		}
		var last error
		var found string
		for range addresses {
			r := <-results
			if r.err != nil {
				last = r.err
				continue
			}
			if found == "" {
				found = r.address
				cancel() // the others need not go on
			}
		}
		cancel()
		if found != "" {
			return found, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the control plane cannot be reached at %s: %w", strings.Join(addresses, ", "), cmp.Or(last, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hand delivers one secret. There is one try: the token is good for no more.
func hand(ctx context.Context, transport http.RoundTripper, dir, id, token string) error {
	if !filepath.IsLocal(id) || filepath.Base(id) != id {
		return errors.New("this is no ID")
	}
	f, err := os.Open(filepath.Join(dir, id))
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+serverName+"/", bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 200))
		return fmt.Errorf("the control plane refuses it: %s: %s", res.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
