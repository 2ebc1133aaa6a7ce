package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/lab/load"
)

// bank is a stack with HTTPS, the same in each collection that has it: bank.yml.
type bank struct {
	collection, stack, host string
	pems                    string // the directory of its certificates and keys
	tls                     *tls.Config
}

// newBank makes two certificates, each with a key; their serial numbers are 1 and 2.
func newBank(s *swarm, collection string) *bank {
	s.t.Helper()
	b := &bank{collection: collection, stack: "bank-" + collection, host: "bank." + collection + ".example.com", pems: s.t.TempDir()}
	b.tls = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: b.host}
	for version := range 2 {
		cert, key := certificate(s.t, b.host, int64(version+1))
		require.True(s.t, b.tls.RootCAs.AppendCertsFromPEM(cert))
		for kind, content := range map[string][]byte{"crt": cert, "key": key} {
			name := kind + strconv.Itoa(version+1)
			s.record.hide(b.stack+"_"+name, content)
			require.NoError(s.t, os.WriteFile(filepath.Join(b.pems, name), content, 0o600))
		}
	}
	return b
}

// deploy deploys it with one of its certificates.
func (b *bank) deploy(s *swarm, version int) {
	s.t.Helper()
	for key, value := range map[string]string{"COLLECTION": b.collection, "VERSION": strconv.Itoa(version), "PEMS": b.pems} {
		s.t.Setenv(key, value)
	}
	s.deploy(b.stack, "bank.yml")
}

func (b *bank) edge(s *swarm) string {
	return strings.TrimSuffix(s.edges[b.collection].address, ":80") + ":443"
}

// answer asks by HTTPS on a connection of its own, and says which certificate vouched
// for the answer of the right service.
func (b *bank) answer(s *swarm) func() string {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: b.tls, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, b.edge(s))
	}}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	return func() string {
		res, err := client.Get("https://" + b.host + "/")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		if service := res.Header.Get("X-Waggle-Service"); err != nil || res.StatusCode != http.StatusOK || service != b.stack+"_web" {
			return fmt.Sprintf("status %d of %q, %v", res.StatusCode, service, err)
		}
		return res.TLS.PeerCertificates[0].SerialNumber.String()
	}
}

// load asks by HTTPS on connections that are kept open.
func (b *bank) load(t *testing.T, s *swarm) *load.Run {
	t.Helper()
	return startLoad(t, load.Target{
		Name: b.stack, URL: "https://" + b.host + "/", Addr: b.edge(s), TLS: b.tls, Rate: 50, Expect: load.Service(b.stack + "_web"),
	})
}

// names are the stack's secrets that its collection's proxy uses for new connections,
// and those that control planes would give it. (Of a listener that was changed Envoy keeps
// what the connections need that it still has, for its drain time.) Of any other
// collection's stack the proxy says nothing at all.
func (b *bank) names(s *swarm) string {
	s.t.Helper()
	text := s.envoyAdmin(b.collection, "/config_dump")
	for _, other := range collections {
		if other != b.collection {
			require.NotContains(s.t, text, "bank-"+other)
		}
	}
	var dump struct {
		Configs []struct {
			Listeners []struct {
				Active  json.RawMessage `json:"active_state"`
				Warming json.RawMessage `json:"warming_state"`
			} `json:"dynamic_listeners"`
		}
	}
	require.NoError(s.t, json.Unmarshal([]byte(text), &dump))
	own := map[string]bool{}
	named := regexp.MustCompile(`"(cert/[^"]*` + b.stack + `_[^"]*)"`)
	for _, config := range dump.Configs {
		for _, l := range config.Listeners {
			for _, name := range named.FindAllStringSubmatch(string(l.Active)+string(l.Warming), -1) {
				own[name[1]] = true
			}
		}
	}
	for _, c := range s.running("edge_waggle") {
		client, err := s.inside(s.t.Context(), c.node, "edge_waggle")
		require.NoError(s.t, err)
		res, err := client.Get("http://127.0.0.1:19000/api/v1/collections/" + b.collection + "/resources/secrets")
		require.NoError(s.t, err)
		given := map[string]any{}
		require.NoError(s.t, json.NewDecoder(res.Body).Decode(&given))
		require.NoError(s.t, res.Body.Close())
		for name := range given {
			if strings.Contains(name, b.stack) {
				own[name] = true
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(own)), " ")
}

// certified has two collections deploy a stack with HTTPS each; one of them has its
// certificate replaced, and goes, and neither that nor anything else is felt by the other.
func certified(t *testing.T, s *swarm) {
	dev, prod := newBank(s, "dev"), newBank(s, "prod")
	stopListening := s.listen()
	for _, b := range []*bank{dev, prod} {
		began := time.Now()
		b.deploy(s, 1)
		deployed := time.Since(began)
		answer := b.answer(s)
		s.until(b.host+" answers by HTTPS", func() bool { return answer() == "1" })
		t.Logf("%s: from docker stack deploy to the first answer by HTTPS %v; the command took %v of it", b.stack, time.Since(began).Round(time.Millisecond), deployed.Round(time.Millisecond))
		require.Contains(t, b.names(s), b.stack+"_crt1")
	}
	devLoad, prodLoad := dev.load(t, s), prod.load(t, s)
	prodAnswers := s.asking(prod.answer(s))

	t.Run("the next certificate by a changed label", func(t *testing.T) {
		s := s.at(t)
		answers := s.asking(dev.answer(s))
		began := time.Now()
		dev.deploy(s, 2)
		s.until("the new certificate is shown", func() bool { return s.shown("dev", dev.host) == "2" })
		t.Logf("from docker stack deploy to the new certificate: %v", time.Since(began).Round(time.Millisecond))
		s.until("the one before is forgotten", func() bool {
			names := dev.names(s)
			return strings.Contains(names, dev.stack+"_crt2") && !strings.Contains(names, dev.stack+"_crt1")
		})
		all, course := answers()
		require.Equal(t, "1 2", course, "%v", all)
		r := devLoad.Stop()
		require.Zero(t, r.Failed, "%v", r.Failures)
		require.Greater(t, r.Requests, uint64(50))
		t.Logf("%d requests on connections that were kept open, and %v on new ones, by certificate; none failed", r.Requests, all)
	})
	s.take()

	t.Run("its stack is removed", func(t *testing.T) {
		s := s.at(t)
		before := s.shown("dev", "secured.dev.example.com")
		require.NotEqual(t, "none", before)
		s.docker("stack", "rm", dev.stack)
		s.until("HTTPS is refused", func() bool { return s.shown("dev", dev.host) == "none" })
		s.eventually("dev", dev.host, unknownHost)
		s.until("its secret is forgotten", func() bool { return dev.names(s) == "" })
		require.Equal(t, before, s.shown("dev", "secured.dev.example.com"), "another host of the collection")
	})
	t.Run("the neighbour felt nothing", func(t *testing.T) {
		s := s.at(t)
		require.Contains(t, prod.names(s), prod.stack+"_crt1")
		all, course := prodAnswers()
		require.Equal(t, "1", course, "%v", all)
		r := prodLoad.Stop()
		require.Zero(t, r.Failed, "%v", r.Failures)
		require.Greater(t, r.Requests, uint64(100))
		t.Logf("%d requests on connections that were kept open and %v on new ones, none failed", r.Requests, all["1"])
		s.docker("stack", "rm", prod.stack)
		s.until("its secret is forgotten", func() bool { return prod.names(s) == "" })
	})
	stopListening()
}
