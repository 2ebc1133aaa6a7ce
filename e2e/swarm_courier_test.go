package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// guarded is a Docker secret with one user and password, and what must be seen of it nowhere.
type guarded struct {
	password string
	hash     string // what the secret holds of it
}

func newGuarded() guarded {
	password := rand.Text()
	sum := sha1.Sum([]byte(password))
	return guarded{password, base64.StdEncoding.EncodeToString(sum[:])}
}

// make makes the secret, for a collection if one is named.
func (g guarded) make(s *swarm, name, collection string) {
	s.t.Helper()
	s.record.hide("the password of "+name, []byte(g.password))
	s.secret(name, collection, []byte("alice:{SHA}"+g.hash+"\n"))
}

// secret makes a Docker secret, for a collection if one is named.
func (s *swarm) secret(name, collection string, content []byte) {
	s.t.Helper()
	s.record.hide(name, content)
	file := filepath.Join(s.t.TempDir(), name)
	require.NoError(s.t, os.WriteFile(file, content, 0o600))
	args := []string{"secret", "create"}
	if collection != "" {
		args = append(args, "--label", "com.docker.lb.collection="+collection)
	}
	s.docker(append(args, name, file)...)
}

// certificate makes a certificate and its key, for a host, and gives them as PEM.
func certificate(t *testing.T, host string, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{host}, NotBefore: time.Now(), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// shown is the serial number of the certificate that a collection's proxy shows for a host.
func (s *swarm) shown(collection, host string) string {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 5*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", strings.TrimSuffix(s.edges[collection].address, ":80")+":443")
	if err != nil {
		return "none"
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// as asks a collection's proxy for a host with this password; what else there is in the
// answer is left out.
func (g guarded) as(s *swarm, collection, host string) (status int, reason string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.edges[collection].address+"/", nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	req.SetBasicAuth("alice", g.password)
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("X-Waggle-Reason"), err
}

// becomes waits until a host answers so, and gives how long that took.
func (g guarded) becomes(s *swarm, collection, host string, want int) time.Duration {
	s.t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		status, _, err := g.as(s, collection, host)
		if err == nil && status == want {
			return time.Since(began)
		}
		require.Less(s.t, time.Since(began), patience, "%s asked of %s: %d instead of %d, %v", host, collection, status, want, err)
	}
}

// couriered has control planes that fetch Docker secrets by couriers.
func couriered(t *testing.T, s *swarm, traffic *traffic) {
	dev, next, prod, nobodys := newGuarded(), newGuarded(), newGuarded(), newGuarded()
	var certs, keys [2][]byte
	for i := range certs {
		certs[i], keys[i] = certificate(t, "secured.dev.example.com", int64(i+1))
	}
	traffic.lossless(t, func() {
		// What a control plane left that was killed in the middle of it, and something
		// that is somebody else's.
		left := "waggle-courier-0123456789abcdef"
		s.plantJob(left, left)
		s.plantJob("nightly", "nightly")
		t.Cleanup(func() { _, _ = s.try(context.WithoutCancel(t.Context()), 1, "service", "rm", "nightly") })

		out, err := s.script(t.Context(), "platform", "WGL_STACK=stack.yml stack-courier.yml")
		require.NoError(t, err, out)
		s.until("control planes with couriers run", func() bool {
			now := s.running("edge_waggle")
			for _, c := range now {
				env, err := s.try(t.Context(), c.node, "inspect", "--format", "{{.Config.Env}}", c.id)
				if err != nil || !strings.Contains(env, "WAGGLE_SWARM_COURIER_IMAGE") {
					return false
				}
			}
			return len(now) == 2 && s.settled("edge_waggle")
		})
		pushed(t, s)
		stopWatching := s.watchCouriers()

		dev.make(s, "courier_users", "dev")
		prod.make(s, "prods", "prod")
		nobodys.make(s, "nobodys", "")
		s.secret("courier_crt", "dev", certs[0])
		s.secret("courier_key", "dev", keys[0])
		s.deploy("courier", "courier.yml")
		t.Logf("from the deployment to the first request with the secret's password: %v in dev, %v more in prod",
			dev.becomes(s, "dev", "right.dev.example.com", http.StatusOK).Round(time.Millisecond),
			prod.becomes(s, "prod", "right.prod.example.com", http.StatusOK).Round(time.Millisecond))
		nobodys.becomes(s, "dev", "right.dev.example.com", http.StatusUnauthorized)
		for _, host := range []string{"others.dev.example.com", "nobodys.dev.example.com"} {
			for _, g := range []guarded{dev, prod, nobodys} {
				status, reason, err := g.as(s, "dev", host)
				require.NoError(t, err)
				require.Equal(t, http.StatusServiceUnavailable, status, host)
				require.Equal(t, "guard_unavailable", reason, host)
			}
		}

		t.Run("a changed label is a rotation", func(t *testing.T) {
			s := s.at(t)
			next.make(s, "courier_users2", "dev")
			// The old password or the new one, at any moment.
			of := []func() (map[string]int, string){
				s.asking(dev.answer(s, "dev", "right.dev.example.com")), s.asking(next.answer(s, "dev", "right.dev.example.com")),
			}
			s.docker("service", "update", "--quiet", "--detach", "--label-add", "com.docker.lb.basic_auth=users2", "courier_right")
			t.Logf("from the changed label to the new password: %v", next.becomes(s, "dev", "right.dev.example.com", http.StatusOK).Round(time.Millisecond))
			dev.becomes(s, "dev", "right.dev.example.com", http.StatusUnauthorized)
			for i, stop := range of {
				answers, course := stop()
				t.Logf("%s password: %v, %s", []string{"old", "new"}[i], answers, course)
				require.Equal(t, []string{"200 401", "401 200"}[i], course)
			}
		})
		t.Run("so it is for a certificate and its key", func(t *testing.T) {
			s := s.at(t)
			s.until("the certificate is shown", func() bool { return s.shown("dev", "secured.dev.example.com") == "1" })
			s.secret("courier_crt2", "dev", certs[1])
			s.secret("courier_key2", "dev", keys[1])
			stop := s.asking(func() string { return s.shown("dev", "secured.dev.example.com") })
			began := time.Now()
			s.docker("service", "update", "--quiet", "--detach", "--label-add", "com.docker.lb.ssl_cert=crt2", "--label-add", "com.docker.lb.ssl_key=key2", "courier_secured")
			s.until("the new certificate is shown", func() bool { return s.shown("dev", "secured.dev.example.com") == "2" })
			t.Logf("from the changed labels to the new certificate: %v", time.Since(began).Round(time.Millisecond))
			handshakes, course := stop()
			require.Equal(t, "1 2", course, "%v", handshakes)
		})
		t.Run("HTTPS by a stack's own secrets and two labels", func(t *testing.T) { certified(t, s.at(t)) })
		t.Run("control planes that start take nothing away", func(t *testing.T) {
			s := s.at(t)
			asked := s.asking(next.answer(s, "dev", "right.dev.example.com"))
			secured := s.asking(func() string { return s.shown("dev", "secured.dev.example.com") })
			s.replace("edge_waggle")
			s.until("new control planes serve", func() bool { return s.ready() == 2 && s.connected("dev") && s.connected("prod") })
			answers, course := asked()
			require.Equal(t, "200", course, "%v", answers)
			require.Greater(t, answers["200"], 50)
			handshakes, course := secured()
			require.Equal(t, "2", course, "%v", handshakes)
			t.Logf("%d requests with the secret's password and %d handshakes with its certificate, none failed", answers["200"], handshakes["2"])
		})
		t.Run("nothing of them is seen", func(t *testing.T) {
			s := s.at(t)
			stopWatching()
			s.take()
			require.Contains(t, s.record.has("courier_users"), inDocker, "jobs were seen")
			require.Contains(t, s.record.has("the courier has fetched secrets"), inLogs)
			require.NotContains(t, s.record.has("PRIVATE KEY"), inDocker)
			require.Empty(t, s.record.leaks())
		})
		t.Run("leftovers are reaped, and nothing else", func(t *testing.T) {
			s := s.at(t)
			s.until("only somebody else's is there", func() bool {
				return s.docker("service", "ls", "--filter", "label=waggle.courier", "--format", "{{.Name}}") == "nightly" &&
					s.docker("secret", "ls", "--filter", "label=waggle.courier", "--format", "{{.Name}}") == ""
			})
		})
		t.Run("what is removed is gone", func(t *testing.T) {
			s := s.at(t)
			s.docker("secret", "rm", "courier_users2")
			next.becomes(s, "dev", "right.dev.example.com", http.StatusServiceUnavailable)
			s.docker("stack", "rm", "courier")
			s.docker("secret", "rm", "courier_users", "prods", "nobodys", "courier_crt", "courier_key", "courier_crt2", "courier_key2")
			s.eventually("dev", "right.dev.example.com", unknownHost)
		})
	})
}

// ready counts the control planes that have published. (Of what is wrong with services
// waggle status says so by its exit code.)
func (s *swarm) ready() (n int) {
	s.t.Helper()
	for _, c := range s.running("edge_waggle") {
		if _, err := s.try(s.t.Context(), c.node, "exec", c.id, "/waggle", "healthcheck", "--config", "/etc/waggle/waggle.yml", "--ready"); err == nil {
			n++
		}
	}
	return n
}

// plantJob makes a job that looks like a courier's, with a label.
func (s *swarm) plantJob(name, label string) {
	s.t.Helper()
	s.docker("service", "create", "--quiet", "--detach", "--no-resolve-image", "--mode", "replicated-job", "--restart-condition", "none",
		"--name", name, "--label", "waggle.courier="+label, "wgl/waggle:lab", "version")
}

// watchCouriers looks at couriers' jobs, and at their tasks, as anybody may, until the
// function that it gives is called; what was seen is in the record.
func (s *swarm) watchCouriers() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var look sync.WaitGroup
	look.Go(func() {
		for ctx.Err() == nil {
			names, err := s.try(ctx, 1, "service", "ls", "-q", "--filter", "label=waggle.courier")
			if err != nil || names == "" {
				continue // a process that is started: no busy loop
			}
			for _, id := range strings.Fields(names) {
				out, _ := s.try(ctx, 1, "service", "inspect", id) // it may just have gone
				s.record.see(inDocker, "couriers", []byte(out))
				tasks, _ := s.try(ctx, 1, "service", "ps", "-q", id)
				if ids := strings.Fields(tasks); len(ids) > 0 {
					out, _ = s.try(ctx, 1, append([]string{"inspect", "--type", "task"}, ids...)...)
					s.record.see(inDocker, "couriers", []byte(out))
				}
			}
		}
	})
	stop = func() { cancel(); look.Wait() }
	s.t.Cleanup(stop)
	return stop
}

// answer asks a host and says what came.
func (g guarded) answer(s *swarm, collection, host string) func() string {
	return func() string {
		status, reason, err := g.as(s, collection, host)
		switch {
		case err != nil:
			return err.Error()
		case status >= http.StatusInternalServerError:
			return strconv.Itoa(status) + " " + reason
		}
		return strconv.Itoa(status)
	}
}

// asking asks again and again until the function that it gives is called; that gives
// how often which answer came, and the course of them: each that is another than the
// one before.
func (s *swarm) asking(once func() string) (stop func() (answers map[string]int, course string)) {
	ctx, cancel := context.WithCancel(s.t.Context())
	answers := map[string]int{}
	var course []string
	var ask sync.WaitGroup
	ask.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			answer := once()
			answers[answer]++
			course = append(course, answer)
			<-tick.C
		}
	})
	s.t.Cleanup(func() { cancel(); ask.Wait() })
	return func() (map[string]int, string) {
		cancel()
		ask.Wait()
		return answers, strings.Join(slices.Compact(course), " ")
	}
}
