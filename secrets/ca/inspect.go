package ca

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// RenewBefore is how long before its end an identity should be issued anew.
const RenewBefore = 30 * day

// Identity is what the certificate of an issued identity says.
type Identity struct {
	Name                string // of its directory
	DNS                 []string
	URIs                []string
	NotBefore, NotAfter time.Time
}

// Due says that it is time to issue the identity anew.
func (i Identity) Due(now time.Time) bool { return now.Add(RenewBefore).After(i.NotAfter) }

// Inspect reads the identity in a directory (DIR/NAME, or where its three files were
// brought to) and checks that they would work at the time now: that key and certificate
// belong together, that the authority beside them issued it, and that it is valid. The
// identity is also returned with an error, as far as it could be read.
func Inspect(dir string, now time.Time) (Identity, error) {
	i := Identity{Name: filepath.Base(dir)}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile))
	if err != nil {
		return i, fmt.Errorf("identity in %s: %w", dir, err)
	}
	leaf := pair.Leaf
	i.DNS, i.NotBefore, i.NotAfter = leaf.DNSNames, leaf.NotBefore, leaf.NotAfter
	for _, u := range leaf.URIs {
		i.URIs = append(i.URIs, u.String())
	}
	raw, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return i, fmt.Errorf("identity in %s: %w", dir, err)
	}
	roots := x509.NewCertPool()
	certs, err := decodeCerts(raw)
	if err != nil {
		return i, fmt.Errorf("%s: %w", filepath.Join(dir, CAFile), err)
	}
	for _, c := range certs {
		roots.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return i, fmt.Errorf("identity in %s: %w", dir, err)
	}
	return i, nil
}
