package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// LocalDirectory is where, in the state directory of a control plane, its development
// authority is: CAFile and LocalKeyFile.
const (
	LocalDirectory = "local-ca"
	LocalKeyFile   = caKeyFile
)

// Local reads the development authority in dir: its certificate and its key as PEM.
// fs.ErrNotExist where there is none.
func Local(dir string) (cert, key []byte, err error) {
	if cert, err = small(filepath.Join(dir, CAFile)); err == nil {
		key, err = small(filepath.Join(dir, caKeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s has the authority's certificate and not its key %s: put it back, or take the certificate away", dir, caKeyFile)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return cert, key, nil
}

// InitLocal makes a development authority in dir, which it creates if need be, unless
// there is one. It issues for any host, so whoever trusts it should be the only one
// who can read dir.
func InitLocal(dir string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a development authority: %w", err)
	}
	err := initialise(dir, now, func(c *x509.Certificate) {
		c.Subject.CommonName = fmt.Sprintf("Waggle development authority %08x", c.SerialNumber.Bytes()[:4])
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = nil, false
	})
	if _, _, there := Local(dir); err != nil && there == nil {
		return nil // another one was quicker
	}
	if err != nil {
		return fmt.Errorf("make a development authority in %s: %w", dir, err)
	}
	return nil
}

// small reads a file of an authority.
func small(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 64 << 10
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(raw) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return raw, err
}
