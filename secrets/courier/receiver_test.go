package courier

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const content = "s3cr3t-content"

// receiving is a receiver at an address.
func receiving(t *testing.T) (*receiver, string) {
	t.Helper()
	r, err := newReceiver(time.Now())
	require.NoError(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = r.serve(ctx, lis) })
	t.Cleanup(func() { cancel(); served.Wait() })
	return r, lis.Addr().String()
}

// expecting is an order for secrets at an address.
func expecting(t *testing.T, r *receiver, address, job string, lifetime time.Duration, ids ...string) (*expected, *order) {
	t.Helper()
	e, o, err := r.expect(job, ids, time.Now(), lifetime)
	require.NoError(t, err)
	o.Addresses = []string{address}
	return e, o
}

// mounted is the directory of a job.
func mounted(t *testing.T, o *order, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	raw, err := o.encode()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, OrderFile), raw.Reveal(), 0o600))
	for name, data := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
	}
	return dir
}

// client is one with the identity and trust of an order.
func client(t *testing.T, o *order) *http.Client {
	t.Helper()
	identity, err := tls.X509KeyPair([]byte(o.Certificate), []byte(o.Key))
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(o.Authority)))
	tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: serverName, RootCAs: roots, Certificates: []tls.Certificate{identity}}}
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func put(t *testing.T, c *http.Client, address, token, body string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+address+"/", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	require.NoError(t, res.Body.Close())
	return res.StatusCode, nil
}

func TestDeliver(t *testing.T) {
	r, address := receiving(t)
	e, o := expecting(t, r, address, "job", time.Minute, "a", "b")
	// The first address is of a network that the job is not on.
	o.Addresses = []string{"127.0.0.1:1", address}
	require.NoError(t, Deliver(t.Context(), mounted(t, o, map[string]string{"a": content, "b": strings.Repeat("b", maxSecret)})))
	<-e.complete
	got := r.close("job")
	require.Equal(t, content, string(got["a"].Reveal()))
	require.Len(t, got["b"].Reveal(), maxSecret)
}

func TestDeliverSaysWhatIsWrong(t *testing.T) {
	r, address := receiving(t)
	_, o := expecting(t, r, address, "job", time.Minute, "there", "gone", "empty", "huge", "../up")
	dir := mounted(t, o, map[string]string{"there": content, "empty": "", "huge": strings.Repeat("x", maxSecret+1)})
	err := Deliver(t.Context(), dir)
	for _, want := range []string{"gone: no such file", "deliver the secret empty: the control plane refuses it: 400", "deliver the secret huge: the control plane refuses it: 413", "deliver the secret ../up: this is no ID"} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), content)
	require.NotContains(t, err.Error(), "secret there")
	require.Len(t, r.close("job"), 1)

	require.ErrorContains(t, Deliver(t.Context(), t.TempDir()), "this command is for jobs that a control plane makes")
	for _, raw := range []string{`{"tokens":{"a":"` + content + `"`, `{"tokens":1,"key":"` + content + `"}`, `{"key":"` + content + `","certificate":"` + content + `"}`, ""} {
		broken := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(broken, OrderFile), []byte(raw), 0o600))
		err := Deliver(t.Context(), broken)
		require.ErrorContains(t, err, "order")
		require.NotContains(t, err.Error(), content)
	}
}

// A secret goes to nobody but the control plane that gave the order.
func TestDeliverTrustsOnlyWhoGaveTheOrder(t *testing.T) {
	r, _ := receiving(t)
	other, address := receiving(t)
	_, o := expecting(t, r, address, "job", time.Second, "a")
	theirs, _ := expecting(t, other, address, "job", time.Minute, "a")
	err := Deliver(t.Context(), mounted(t, o, map[string]string{"a": content}))
	require.ErrorContains(t, err, "cannot be reached at "+address)
	require.Len(t, theirs.tickets, 1, "it was asked for nothing")
	require.Empty(t, other.close("job"))
}

// The receiver believes nobody whom it does not expect.
func TestTheReceiverBelievesNobodyElse(t *testing.T) {
	r, address := receiving(t)
	_, o := expecting(t, r, address, "job", time.Minute, "a", "b")
	_, o2 := expecting(t, r, address, "another", time.Minute, "a")
	stranger, err := newReceiver(time.Now())
	require.NoError(t, err)
	_, foreign := expecting(t, stranger, address, "job", time.Minute, "a")
	foreign.Authority = o.Authority

	t.Run("without a certificate, or with a foreign one", func(t *testing.T) {
		nobody := client(t, o)
		nobody.Transport.(*http.Transport).TLSClientConfig.Certificates = nil
		_, err := put(t, nobody, address, o.Tokens["a"], content)
		require.ErrorContains(t, err, "certificate required")
		_, err = put(t, client(t, foreign), address, o.Tokens["a"], content)
		require.Error(t, err)
		old := client(t, o)
		old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
		_, err = put(t, old, address, o.Tokens["a"], content)
		require.ErrorContains(t, err, "protocol version")
		res, err := http.Get("http://" + address + "/")
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusBadRequest, res.StatusCode, "without TLS")
	})
	refused := func(o *order, token string) {
		t.Helper()
		status, err := put(t, client(t, o), address, token, content)
		require.NoError(t, err)
		require.Equal(t, http.StatusForbidden, status)
	}
	t.Run("another job's token", func(t *testing.T) {
		refused(o2, o.Tokens["a"])
		refused(o, o2.Tokens["a"])
		refused(o, strings.Repeat("0", 64))
	})
	t.Run("a token twice", func(t *testing.T) {
		status, err := put(t, client(t, o), address, o.Tokens["a"], content)
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, status)
		refused(o, o.Tokens["a"])
		status, err = put(t, client(t, o), address, o.Tokens["b"], "")
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status)
		refused(o, o.Tokens["b"]) // whatever became of it
		require.Len(t, r.close("job"), 1)
	})
	t.Run("a job that is over", func(t *testing.T) {
		r.close("another")
		refused(o2, o2.Tokens["a"])
	})
	t.Run("after its time", func(t *testing.T) {
		e, late := expecting(t, r, address, "late", time.Minute, "a")
		r.mu.Lock()
		e.until = time.Now().Add(-time.Second)
		r.mu.Unlock()
		refused(late, late.Tokens["a"])
		ended, o, err := r.expect("ended", []string{"a"}, time.Now().Add(-time.Hour), time.Minute)
		require.NoError(t, err)
		_, err = put(t, client(t, o), address, o.Tokens["a"], content)
		require.ErrorContains(t, err, "expired certificate")
		require.Len(t, ended.tickets, 1)
	})
	t.Run("another request", func(t *testing.T) {
		_, o := expecting(t, r, address, "odd", time.Minute, "a")
		for _, c := range []struct{ method, path string }{{"GET", "/"}, {"POST", "/"}, {"PUT", "/other"}} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+address+c.path, bytes.NewReader(nil))
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+o.Tokens["a"])
			res, err := client(t, o).Do(req)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusBadRequest, res.StatusCode, "%v", c)
		}
	})
}

// What prints shows nothing.
func TestOrdersDoNotShow(t *testing.T) {
	r, address := receiving(t)
	_, o := expecting(t, r, address, "job", time.Minute, "a")
	raw, err := o.encode()
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%+v", Job{Name: "job", Order: raw}), o.Tokens["a"])
}

func FuzzDeliver(f *testing.F) {
	for _, s := range []string{"", "{}", `{"addresses":["x"],"seconds":1}`, `{"tokens":{"":""}}`, `{"seconds":-1,"certificate":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, OrderFile), raw, 0o600))
		require.Error(t, Deliver(t.Context(), dir), "nobody made this order")
	})
}
