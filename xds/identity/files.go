package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// Files are the control plane's own, in PEM form: xds.tls in waggle.yml.
type Files struct {
	CA   string // the authorities that vouch for proxies
	Cert string // the control plane's certificate, with any intermediate ones
	Key  string
}

// material is one version of the files.
type material struct {
	certificate tls.Certificate
	authorities *x509.CertPool
	count       int // of authorities
	hash        [sha256.Size]byte
}

// end is when the certificate ends.
func (m *material) end() time.Time { return m.certificate.Leaf.NotAfter }

func (m *material) same(other *material) bool { return m.hash == other.hash }

// load reads the files and checks that they work at the time now. Errors name the file
// and quote nothing of it.
func (f Files) load(now time.Time) (*material, error) {
	names := []string{f.CA, f.Cert, f.Key}
	var raw [3][]byte
	hash := sha256.New()
	for i, name := range names {
		if name == "" {
			return nil, errors.New("TLS of the channel: xds.tls needs ca, cert and key")
		}
		var err error
		if raw[i], err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("TLS of the channel: %w", err)
		}
		part := sha256.Sum256(raw[i])
		hash.Write(part[:])
	}
	m := &material{authorities: x509.NewCertPool()}
	hash.Sum(m.hash[:0])
	authorities, err := parseAuthorities(raw[0])
	if err != nil {
		return nil, fmt.Errorf("TLS of the channel: %s %w", f.CA, err)
	}
	for _, cert := range authorities {
		m.authorities.AddCert(cert)
	}
	m.count = len(authorities)
	if m.certificate, err = tls.X509KeyPair(raw[1], raw[2]); err != nil {
		return nil, fmt.Errorf("TLS of the channel: %s and %s: %w", f.Cert, f.Key, err)
	}
	leaf := m.certificate.Leaf
	switch usages := leaf.ExtKeyUsage; {
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("TLS of the channel: %s is valid only from %s: is the clock right?", f.Cert, leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("TLS of the channel: %s ended at %s: issue a new one (waggle ca issue)", f.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	case len(usages) > 0 && !slices.Contains(usages, x509.ExtKeyUsageServerAuth) && !slices.Contains(usages, x509.ExtKeyUsageAny):
		return nil, fmt.Errorf("TLS of the channel: %s is not the certificate of a server: use that of the control plane (waggle ca issue DIR waggle)", f.Cert)
	}
	return m, nil
}

// parseAuthorities takes certificates of authorities and nothing else.
func parseAuthorities(raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	block, rest := pem.Decode(raw)
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s: only certificates of authorities belong there", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		if !cert.IsCA {
			// As a root it would be believed whatever it says about itself.
			return nil, errors.New("holds a certificate that is not an authority's")
		}
		out = append(out, cert)
	}
	switch {
	case bytes.Contains(rest, []byte("-----BEGIN")):
		return nil, errors.New("ends in the middle of a certificate")
	case len(out) == 0:
		return nil, errors.New("holds no certificate in PEM form")
	}
	return out, nil
}

// signature tells versions of the files apart without reading them.
type signature [3]struct {
	dev, inode uint64
	size       int64
	changed    time.Time
}

// signature follows symbolic links, by which some platforms swap whole directories. What
// is missing has none, and is found out by reading.
func (f Files) signature() signature {
	var out signature
	for i, name := range []string{f.CA, f.Cert, f.Key} {
		info, err := os.Stat(name)
		if err != nil {
			continue
		}
		out[i].size, out[i].changed = info.Size(), info.ModTime()
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			out[i].dev, out[i].inode = uint64(sys.Dev), sys.Ino
		}
	}
	return out
}

// settled says that a later change would show: a file that is written twice within the
// clock's resolution looks the same both times.
func (s signature) settled(now time.Time) bool {
	for _, file := range s {
		if now.Sub(file.changed) < time.Second {
			return false
		}
	}
	return true
}
