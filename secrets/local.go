package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
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

	"github.com/waggle-lb/waggle/secrets/ca"
)

// LocalCA is the development authority: it issues a certificate for any host at once.
// It is immutable. Those who have the same one issue the same bytes.
type LocalCA struct {
	cert *x509.Certificate
	key  privateKey
	seed Bytes // of all keys
}

// localLife is how long a certificate of the development authority is valid after the
// month in which it is issued.
const localLife = 62 * 24 * time.Hour

// ReadLocalCA reads the development authority: one PEM with its certificate and its
// key, or one for each.
func ReadLocalCA(cert, key Item) (*LocalCA, error) {
	held, refusal := parse(cert)
	if refusal != nil {
		return nil, refusal
	}
	keys := held
	if key.Data.any() {
		if keys, refusal = parse(key); refusal != nil {
			return nil, refusal
		}
	} else {
		key = cert
	}
	for _, k := range keys.keys {
		for _, c := range held.certs {
			if !same509(k().Public(), c.PublicKey) {
				continue
			}
			if reason, hint, refused := weak(c); refused {
				return nil, refuse(cert, reason, hint)
			}
			if !c.IsCA {
				return nil, refuse(cert, "is no certificate of an authority", "give an authority's, made for this alone")
			}
			der, err := x509.MarshalPKCS8PrivateKey(k())
			if err != nil {
				return nil, refuse(key, "holds a private key that cannot be used", "make a new authority")
			}
			seed, err := hkdf.Extract(sha256.New, der, []byte("waggle local authority"))
			if err != nil {
				return nil, err
			}
			return &LocalCA{cert: c, key: k, seed: Hide(seed)}, nil
		}
	}
	return nil, refuse(cert, "holds no authority with its key", "give both, as PEM")
}

// Root is the authority's certificate as PEM: who trusts it trusts every host that the
// authority issues for.
func (c *LocalCA) Root() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Equal reports whether two authorities are the same.
func (c *LocalCA) Equal(o *LocalCA) bool {
	return c == o || c != nil && o != nil && c.cert.Equal(o.cert) && c.seed.Equal(o.seed)
}

// Pair issues a certificate for a host, which may begin with "*.". It is the same for
// one month.
func (c *LocalCA) Pair(host string, at time.Time) (*Pair, error) {
	if c == nil {
		return nil, errors.New("there is no development authority")
	}
	if !servable(host) {
		return nil, fmt.Errorf("the development authority cannot issue for %q: it is not the name of a host", shown(host))
	}
	if at.IsZero() {
		at = c.cert.NotBefore // dates do not count
	}
	at = at.UTC()
	month := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
	key, err := c.deriveKey(host)
	if err != nil {
		return nil, err
	}
	raw, err := hkdf.Expand(sha256.New, c.seed.Reveal(), "serial "+host+" "+day(month), 16)
	if err != nil {
		return nil, err
	}
	raw[0] = raw[0]&0x7f | 0x40
	t := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(raw),
		NotBefore:             later(month.Add(-24*time.Hour), c.cert.NotBefore),
		NotAfter:              earlier(month.AddDate(0, 1, 0).Add(localLife), c.cert.NotAfter),
		DNSNames:              []string{host},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(host) <= 64 { // X.509's limit; nothing is decided by it
		t.Subject = pkix.Name{CommonName: host}
	}
	if at.Before(t.NotBefore) || at.After(t.NotAfter) {
		return nil, fmt.Errorf("the development authority is valid from %s to %s: make a new one", day(c.cert.NotBefore), day(c.cert.NotAfter))
	}
	// Without a source of randomness a signature is the same every time (RFC 6979).
	der, err := x509.CreateCertificate(nil, t, c.cert, key.Public(), c.key())
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s: %w", host, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &Pair{
		Chain: Hide(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:   Hide(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		Names: []string{host}, Serial: fmt.Sprintf("%x", t.SerialNumber), Issuer: shown(c.cert.Subject.CommonName),
		NotBefore: t.NotBefore, NotAfter: t.NotAfter,
	}, nil
}

// deriveKey makes the key of a host.
func (c *LocalCA) deriveKey(host string) (*ecdsa.PrivateKey, error) {
	for n := range 16 { // once in 2^32 a number is no key
		raw, err := hkdf.Expand(sha256.New, c.seed.Reveal(), fmt.Sprintf("key %d %s", n, host), 32)
		if err != nil {
			return nil, err
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("no key for %s can be made", host)
}

// LocalSecret is the Docker secret, or mounted file, from which all replicas of a
// control plane take one development authority: PEM with its certificate and key.
const LocalSecret = "waggle-local-ca"

// LocalFiles reads the development authority from the file shared, or, where there is
// none, from the directory dir; "" is none. It gives the root, and the root with its
// key. fs.ErrNotExist where there is no authority.
func LocalFiles(shared, dir string) (root, both []byte, err error) {
	both, _, err = localFiles(shared, dir)
	if err != nil {
		return nil, nil, err
	}
	authority, err := ReadLocalCA(Item{Kind: File, Name: LocalSecret, Data: Hide(both)}, Item{})
	if err != nil {
		return nil, nil, err
	}
	return authority.Root(), both, nil
}

func localFiles(shared, dir string) (both []byte, name string, err error) {
	both, err = nil, fs.ErrNotExist
	if shared != "" {
		both, err = os.ReadFile(shared)
	}
	if !errors.Is(err, fs.ErrNotExist) || dir == "" {
		return both, LocalSecret, err
	}
	cert, key, err := ca.Local(dir)
	return append(cert, key...), ca.LocalDirectory, err
}

// local is where the development authority comes from.
type local struct {
	paths []string // its files, which nobody else may be given
	both  Bytes    // as read
	ca    *LocalCA // nil: there is none
	err   error    // about both
}

// read reads the authority: the mounted one, else that of the state directory, which is
// made if create says so. Without any there is none.
func (l *local) read(mounted, state string, create bool, now time.Time) error {
	shared, dir := filepath.Join(mounted, LocalSecret), ""
	l.paths = []string{shared}
	if state != "" {
		dir = filepath.Join(state, ca.LocalDirectory)
		l.paths = append(l.paths, filepath.Join(dir, ca.CAFile), filepath.Join(dir, ca.LocalKeyFile))
	}
	both, name, err := localFiles(shared, dir)
	if errors.Is(err, fs.ErrNotExist) && create && dir != "" {
		if err = ca.InitLocal(dir, now); err == nil {
			both, name, err = localFiles(shared, dir)
		}
	}
	gone := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !gone && l.ca != nil:
		return fmt.Errorf("the development authority cannot be read and stays as it was: %w", err)
	case err != nil:
		*l = local{paths: l.paths}
		if gone && !create {
			return nil
		}
		return fmt.Errorf("there is no development authority (tls: local): %w; make state_dir writable, or mount the secret %s", err, LocalSecret)
	case l.both.any() && l.both.Equal(Hide(both)):
		return l.err
	}
	l.both, l.err = Hide(both), nil
	next, err := ReadLocalCA(Item{Kind: File, Name: name, Data: l.both}, Item{})
	if err != nil { // what was good stays
		l.err = fmt.Errorf("the development authority (tls: local): %w", err)
		return l.err
	}
	l.ca = next
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
