// Package ca is the built-in authority of the channel between proxies and
// control plane: it makes itself, and issues who may serve and who may ask.
//
// An authority is a directory, and so is each identity that it issued:
//
//	DIR/ca.crt        the authority's certificate; any further ones in the file are
//	                  trusted too, and handed on with every identity
//	DIR/ca.key        its key: whoever has it can be any proxy; keep it off the Swarm
//	DIR/NAME/tls.crt  what NAME shows
//	DIR/NAME/tls.key  its key, readable by its owner alone
//	DIR/NAME/ca.crt   whom NAME trusts: a copy of DIR/ca.crt
//
// NAME is [ControlPlane], or a collection. The control plane has DNS names and may
// only serve; a collection has the one URI that says which it is ([URI]) and may
// only ask. All proxies of a collection share its identity.
//
// Issuing again rotates: the new files replace the old ones by rename, the key just
// before its certificate, which both Envoy and the control plane notice without a
// restart. To replace the authority itself without an interruption, make a new one
// in another directory, append the old ca.crt to the new one's, issue everything
// from there, distribute it, and later issue once more without the old certificate.
//
// It also keeps another authority, which has nothing to do with the channel: the one
// of development ([InitLocal]), whose certificates package secrets issues.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	// ControlPlane is the name of the control plane's identity, and the DNS name in
	// its certificate that every proxy checks, whatever address it connects to.
	ControlPlane = "waggle"
	// controlPlaneAlias is the same for those who find it clearer.
	controlPlaneAlias = "control-plane"

	// TrustDomain is the host of every collection's URI.
	TrustDomain = "waggle"

	// Names of the files of an identity.
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
	CAFile   = "ca.crt"
	// caKeyFile is the authority's own key.
	caKeyFile = "ca.key"
)

const (
	day = 24 * time.Hour
	// authorityLife: the authority of a channel outlives the machines it runs on.
	authorityLife = 3650 * day
	// DefaultLifetime is how long an identity is valid if nothing else is asked for.
	DefaultLifetime = 365 * day
	// backdate lets a machine whose clock is behind accept what was just issued.
	backdate = time.Hour
)

// URI is how the certificate of a collection says which collection it is.
func URI(collection string) string {
	return "spiffe://" + TrustDomain + "/collection/" + collection
}

// Init makes an authority in dir, which it creates if need be. It never replaces one.
func Init(dir string, now time.Time) error {
	if err := initialise(dir, now, func(*x509.Certificate) {}); err != nil {
		return fmt.Errorf("make an authority in %s: %w", dir, err)
	}
	return nil
}

// initialise makes the authority that adapt makes of that of a channel.
func initialise(dir string, now time.Time, adapt func(*x509.Certificate)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range []string{CAFile, caKeyFile} {
		switch _, err := os.Lstat(filepath.Join(dir, name)); {
		case err == nil:
			return fmt.Errorf("%s is there already, and everything it issued would be worthless: use another directory", name)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := newSerial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Two authorities that are trusted at once can be told apart in messages.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Waggle authority %08x", serial.Bytes()[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it issues identities, no authorities
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		// Of no use for the identities of another mesh that happens to trust it.
		PermittedURIDomains:         []string{TrustDomain},
		PermittedDNSDomainsCritical: true,
	}
	adapt(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pemKey, err := encodeKey(key)
	if err != nil {
		return err
	}
	return replace(dir, file{caKeyFile, pemKey, 0o600}, file{CAFile, encodeCert(der), 0o644})
}

// authority is a directory that Init made.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	trust []byte // ca.crt as it is
}

// load reads the authority in dir and checks that it may issue at the time now.
func load(dir string, now time.Time) (*authority, error) {
	trust, err := os.ReadFile(filepath.Join(dir, CAFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no authority in %s: make one with «waggle ca init %[1]s»", dir)
	}
	if err != nil {
		return nil, err
	}
	pemKey, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has the authority's certificate and not its key %s: issue where the key is kept", dir, caKeyFile)
	}
	if err != nil {
		return nil, err
	}
	certs, err := decodeCerts(trust)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAFile), err)
	}
	key, err := decodeKey(pemKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, caKeyFile), err)
	}
	for _, cert := range certs {
		if !key.PublicKey.Equal(cert.PublicKey) {
			continue
		}
		switch {
		case !cert.IsCA:
			return nil, fmt.Errorf("%s is not the certificate of an authority", filepath.Join(dir, CAFile))
		case now.Before(cert.NotBefore):
			return nil, fmt.Errorf("the authority in %s is valid only from %s: is the clock right?", dir, cert.NotBefore.Format(time.RFC3339))
		case !now.Before(cert.NotAfter):
			return nil, fmt.Errorf("the authority in %s ended on %s: make a new one in another directory", dir, cert.NotAfter.Format(time.DateOnly))
		}
		return &authority{cert: cert, key: key, trust: trust}, nil
	}
	return nil, fmt.Errorf("%s belongs to no certificate in %s of %s", caKeyFile, CAFile, dir)
}

// newSerial is a random positive number of 127 bits, the highest of them set.
func newSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	raw[0] = raw[0]&0x7f | 0x40
	return new(big.Int).SetBytes(raw), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// decodeCerts takes one or more certificates and nothing else: a key in a file that
// is handed to everybody would be a leak.
func decodeCerts(raw []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s: only certificates belong there", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate in PEM form")
	}
	return certs, nil
}

// decodeKey never quotes what it was given.
func decodeKey(raw []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("holds no private key in PEM form (PKCS #8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("holds a private key that cannot be read")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a key of another kind (%T): only those of «waggle ca init» are understood", key)
	}
	return ec, nil
}
