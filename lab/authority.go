package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/labels"
	"github.com/waggle-lb/waggle/watcher"
)

// newAuthority makes a development authority that ends with the lab: nobody can have
// its key, so whoever trusts its root by mistake risks nothing later.
func newAuthority(now time.Time) (*secrets.LocalCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Waggle lab " + now.Format(time.DateTime)},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	return secrets.ReadLocalCA(secrets.Item{Kind: secrets.File, Name: "the lab's authority", Data: secrets.Hide(both)}, secrets.Item{})
}

// writeRoot writes who is to be trusted to a file that commands can name.
func writeRoot(ca *secrets.LocalCA, file string) error {
	if err := os.WriteFile(file, ca.Root(), 0o644); err != nil {
		return fmt.Errorf("write the root of the lab's authority: %w", err)
	}
	return nil
}

// Secure makes tasks that start from now on speak TLS, too, with certificates of an
// authority: for the name of their service, with its stack and without, and for the
// hosts of its labels as they are at the moment.
func (s *Source) Secure(ca *secrets.LocalCA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authority = ca
}

// tlsOf is how the tasks of a service speak TLS; nil where they do not. s.mu is held.
func (s *Source) tlsOf(svc *service) *tls.Config {
	ca := s.authority
	if ca == nil {
		return nil
	}
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.Lock()
		spec := svc.spec
		s.mu.Unlock()
		pair, err := ca.Pair(certificateFor(namesOf(spec, s.prefixes), hello.ServerName), time.Now())
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(pair.Chain.Reveal(), pair.Key.Reveal())
		return &cert, err
	}}
}

// certificateFor is which of its names a server shows to a client that asks for one:
// the first where it is none of them.
func certificateFor(names []string, asked string) string {
	asked = strings.ToLower(asked)
	_, parent, _ := strings.Cut(asked, ".")
	for _, n := range []string{asked, "*." + parent} {
		if slices.Contains(names, n) {
			return n
		}
	}
	return names[0]
}

// namesOf are the names that a service has, as a certificate writes them.
func namesOf(spec *watcher.Service, prefixes []string) []string {
	names := []string{strings.ToLower(spec.Name)}
	add := func(name string) {
		if name = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), ".")); name != "" && name != "*" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	add(strings.TrimPrefix(spec.Name, spec.Stack()+"_"))
	for _, keys := range labels.Merge(prefixes, spec.Name, spec.Labels).Routes {
		for host := range strings.SplitSeq(keys["hosts"].Text, ",") {
			add(host)
		}
	}
	return names
}
