package courier

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/secrets"
)

// maxSecret is Swarm's own limit for the content of a secret, in bytes.
const maxSecret = 500 << 10

// serverName is the name that the control plane proves to couriers.
const serverName = "waggle-courier"

// receiver is where couriers deliver. It believes those alone whom it expects: a
// certificate of its own authority, which is made at the start and never leaves the
// memory, says which job it is, and each secret has a token, good for this secret, by
// this job, once, for a short time.
type receiver struct {
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	identity  tls.Certificate

	mu   sync.Mutex
	jobs map[string]*expected // by name
}

// expected is what one job is to bring.
type expected struct {
	until    time.Time
	tickets  map[[sha256.Size]byte]string // IDs of secrets by the sum of the token
	want     int
	got      map[string]secrets.Bytes // by ID
	complete chan struct{}            // closed when everything is there
}

func newReceiver(now time.Time) (*receiver, error) {
	r := &receiver{jobs: map[string]*expected{}}
	var err error
	// Longer than any process lives; nobody else ever trusts it.
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Waggle courier"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	der, err := sign(template, template, r.key.Public(), r.key)
	if err != nil {
		return nil, err
	}
	if r.authority, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	r.identity, err = r.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName}, NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return r, err
}

// issue makes an identity of the authority.
func (r *receiver) issue(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := sign(template, r.authority, key.Public(), r.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func sign(template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

// expect begins to wait for a job and what it is to bring, and gives its order, but
// for the addresses. close ends the waiting.
func (r *receiver) expect(job string, ids []string, now time.Time, lifetime time.Duration) (*expected, *order, error) {
	identity, err := r.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: job}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime + time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("issue the job's certificate: %w", err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(identity.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the job's key: %w", err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	o := &order{
		Seconds: int(lifetime / time.Second), Authority: text("CERTIFICATE", r.authority.Raw),
		Certificate: text("CERTIFICATE", identity.Certificate[0]), Key: text("PRIVATE KEY", key),
		Tokens: map[string]string{},
	}
	e := &expected{
		until: now.Add(lifetime), tickets: map[[sha256.Size]byte]string{}, want: len(ids),
		got: map[string]secrets.Bytes{}, complete: make(chan struct{}),
	}
	for _, id := range ids {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw) // never fails
		o.Tokens[id] = hex.EncodeToString(raw)
		e.tickets[sha256.Sum256([]byte(o.Tokens[id]))] = id
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[job] = e
	return e, o, nil
}

// close ends the waiting for a job and gives what it has brought.
func (r *receiver) close(job string) map[string]secrets.Bytes {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.jobs[job]
	delete(r.jobs, job)
	return e.got
}

// admit takes a job's token, which is worth nothing afterwards, whatever becomes of
// the delivery, and gives the ID of the secret that it is for.
func (r *receiver) admit(job, token string, now time.Time) (id string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.jobs[job]
	if e == nil || now.After(e.until) {
		return "", false
	}
	sum := sha256.Sum256([]byte(token)) // what is looked up is not what was sent: nothing is to be learned from the time it takes
	id, ok = e.tickets[sum]
	delete(e.tickets, sum)
	return id, ok
}

func (r *receiver) put(job, id string, content []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.jobs[job]; e != nil {
		e.got[id] = secrets.Hide(content)
		if len(e.got) == e.want {
			close(e.complete) // once: no secret comes twice
		}
	}
}

// ServeHTTP takes one secret: PUT / with its token. Whoever comes here has a
// certificate of the authority.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	token, bearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if req.Method != http.MethodPut || req.URL.Path != "/" || !bearer || req.TLS == nil || len(req.TLS.VerifiedChains) == 0 {
		http.Error(w, "this is for couriers", http.StatusBadRequest)
		return
	}
	job := req.TLS.VerifiedChains[0][0].Subject.CommonName
	id, ok := r.admit(job, token, time.Now())
	if !ok {
		http.Error(w, "this token is not, or no longer, for this job", http.StatusForbidden)
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxSecret))
	switch {
	case err != nil && errors.As(err, new(*http.MaxBytesError)):
		http.Error(w, "larger than a secret can be", http.StatusRequestEntityTooLarge)
	case err != nil || len(content) == 0:
		http.Error(w, "there is nothing in it", http.StatusBadRequest)
	default:
		r.put(job, id, content)
		w.WriteHeader(http.StatusNoContent)
	}
}

// serve receives until ctx ends, and closes lis.
func (r *receiver) serve(ctx context.Context, lis net.Listener) error {
	clients := x509.NewCertPool()
	clients.AddCert(r.authority)
	s := &http.Server{
		Handler: r,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{r.identity},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, SessionTicketsDisabled: true,
		},
		Protocols: new(http.Protocols),
		// A whole secret in this time; the network is a local one.
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 4096,
		ErrorLog: log.New(io.Discard, "", 0), // strangers must not fill the log
	}
	s.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	return s.ServeTLS(lis, "", "")
}
