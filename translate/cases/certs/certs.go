// Package certs makes the certificates that cases ask for, anew each time they run and
// the same each time: no key is kept anywhere, and what is made of them can be compared.
// They are worth nothing outside of tests: whoever has this package can make them.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/translate/cases"
)

// Local is the name of the development authority, which issues what says nothing else.
// It issues the certificates of the lab's tasks, too.
const Local = "local-ca"

// Variable names the directory in stack files.
const Variable = "CERTS"

// The usual time of a certificate: tests have no other.
var (
	begins = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	ends   = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Set is certificates by name.
type Set map[string]*pair

type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	with []*x509.Certificate // that lead to the root
}

// Make makes certificates, and the authorities that issue them.
func Make(want map[string]cases.Cert) (Set, error) {
	s := Set{}
	var make func(name string, depth int) (*pair, error)
	make = func(name string, depth int) (*pair, error) {
		if p := s[name]; p != nil {
			return p, nil
		}
		c, ok := want[name]
		switch {
		case name == Local:
			c, ok = cases.Cert{CA: true}, true
		case !ok:
			return nil, fmt.Errorf("there is no certificate %s", name)
		case depth > 5:
			return nil, fmt.Errorf("%s is issued by itself", name)
		case c.By == "":
			c.By = Local
		}
		by := &pair{}
		if name != Local && c.By != "itself" {
			var err error
			if by, err = make(c.By, depth+1); err != nil {
				return nil, err
			}
		}
		p, err := issue(name, c, by)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", name, err)
		}
		s[name] = p
		return p, nil
	}
	for _, name := range append([]string{Local}, slices.Sorted(maps.Keys(want))...) {
		if _, err := make(name, 0); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func issue(name string, c cases.Cert, by *pair) (*pair, error) {
	seed := sha256.Sum256([]byte("waggle case " + name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		return nil, err
	}
	serial := sha256.Sum256([]byte(fmt.Sprint(name, c)))
	subject := c.Subject
	if subject == "" {
		subject = filepath.Base(name)
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[1:16]), Subject: pkix.Name{CommonName: subject}, DNSNames: c.Names,
		NotBefore: begins, NotAfter: ends, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if !c.From.IsZero() {
		t.NotBefore = c.From
	}
	if !c.Until.IsZero() {
		t.NotAfter = c.Until
	}
	if c.CA {
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	} else {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	issuer, signer := t, key
	if by.cert != nil {
		issuer, signer = by.cert, by.key
	}
	// Without a source of randomness a signature is the same every time (RFC 6979).
	der, err := x509.CreateCertificate(nil, t, issuer, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	p := &pair{cert: cert, key: key}
	if by.cert != nil && by.cert.CheckSignatureFrom(by.cert) != nil { // no root: who asks needs it
		p.with = append([]*x509.Certificate{by.cert}, by.with...)
	}
	return p, nil
}

// Chain is a certificate as PEM, with what leads to its root.
func (s Set) Chain(name string) []byte {
	var out []byte
	for _, c := range append([]*x509.Certificate{s[name].cert}, s[name].with...) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Key is the key of a certificate as PEM.
func (s Set) Key(name string) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s[name].key)
	if err != nil {
		panic(err) // of a key that was made here
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Certificate is one that a client or server of a test shows.
func (s Set) Certificate(name string) (tls.Certificate, error) {
	if s[name] == nil {
		return tls.Certificate{}, fmt.Errorf("there is no certificate %s", name)
	}
	return tls.X509KeyPair(s.Chain(name), s.Key(name))
}

// Pool trusts one certificate.
func (s Set) Pool(name string) (*x509.CertPool, error) {
	if s[name] == nil {
		return nil, fmt.Errorf("there is no certificate %s", name)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s[name].cert)
	return pool, nil
}

// Write writes each certificate to dir/<name>.pem and its key to dir/<name>.key, but of
// the development authority the certificate alone.
func (s Set) Write(dir string) error {
	for name := range s {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file+".pem", s.Chain(name), 0o600); err != nil {
			return err
		}
		if name == Local {
			continue
		}
		if err := os.WriteFile(file+".key", s.Key(name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Authority is the development authority.
func (s Set) Authority() (*secrets.LocalCA, error) {
	both := append(s.Chain(Local), s.Key(Local)...)
	return secrets.ReadLocalCA(secrets.Item{Kind: secrets.File, Name: Local, Data: secrets.Hide(both)}, secrets.Item{})
}

// For makes the certificates of a case in dir, and gives the variables of its stack file.
func For(c cases.Case, dir string) (Set, map[string]string, error) {
	s, err := Make(c.Certs)
	if err == nil {
		err = s.Write(dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("certificates of case %s: %w", c.Name, err)
	}
	return s, map[string]string{Variable: dir}, nil
}
