package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/translate/explain"
)

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 256 << 20

// Client asks one replica.
type Client struct {
	// Address is what the client was made for, as it was given.
	Address string
	base    string
	token   string
	http    *http.Client
}

// NewClient makes a client for an admin address: host:port, or the URL of what
// stands before it. The token may be empty.
func NewClient(address, token string) (*Client, error) {
	base := strings.TrimRight(address, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not an admin address: give HOST:PORT or a URL", address)
	}
	return &Client{Address: address, base: base, token: token, http: &http.Client{
		// A connection for this client alone, closed after each answer: it asks a few times and ends.
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true, ResponseHeaderTimeout: 10 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Refused is an answer that is not 200.
type Refused struct {
	Status int
	Reason string // the control plane's own sentence
}

func (r *Refused) Error() string { return fmt.Sprintf("it answers %d: %s", r.Status, r.Reason) }

// Status asks for /api/v1/status.
func (c *Client) Status(ctx context.Context) (Status, error) { return ask[Status](ctx, c, "status") }

// Collections asks for /api/v1/collections.
func (c *Client) Collections(ctx context.Context) (Collections, error) {
	return ask[Collections](ctx, c, "collections")
}

// Proxies asks for /api/v1/proxies.
func (c *Client) Proxies(ctx context.Context) (Proxies, error) {
	return ask[Proxies](ctx, c, "proxies")
}

// Certificates asks for /api/v1/certificates.
func (c *Client) Certificates(ctx context.Context) (Certificates, error) {
	return ask[Certificates](ctx, c, "certificates")
}

// Problems asks for /api/v1/problems.
func (c *Client) Problems(ctx context.Context) (Problems, error) {
	return ask[Problems](ctx, c, "problems")
}

// Resources asks for everything that a collection is served, by kind and name, as
// plain JSON values with numbers as json.Number.
func (c *Client) Resources(ctx context.Context, collection string) (map[string]map[string]any, error) {
	raw, err := ask[json.RawMessage](ctx, c, "collections/"+url.PathEscape(collection)+"/resources")
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree map[string]map[string]any
	if err := d.Decode(&tree); err != nil {
		return nil, errors.New("what answers there is not the API of a control plane")
	}
	return tree, nil
}

// Explain asks what becomes of a request. An empty collection means the default one.
func (c *Client) Explain(ctx context.Context, r explain.Request) (*explain.Answer, error) {
	q := url.Values{"url": {r.URL}}
	if r.Collection != "" {
		q.Set("collection", r.Collection)
	}
	if r.Method != "" {
		q.Set("method", r.Method)
	}
	for name, values := range r.Header {
		for _, v := range values {
			q.Add("header", name+": "+v)
		}
	}
	a, err := ask[explain.Answer](ctx, c, "explain?"+q.Encode())
	if err != nil {
		return nil, err
	}
	return &a, nil
}

func ask[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	err := c.get(ctx, path, &v)
	return v, err
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL is in what the caller says
		}
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read its answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var e Error
		if json.Unmarshal(body, &e) != nil || e.Error == "" {
			e.Error = strings.TrimSpace(string(body[:min(len(body), 300)]))
		}
		return &Refused{res.StatusCode, e.Error}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return errors.New("what answers there is not the API of a control plane")
	}
	return nil
}
