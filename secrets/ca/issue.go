package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/config"
)

// Options is what may differ between identities.
type Options struct {
	// DNS and IPs are further names of the control plane, for clients that check the
	// address they connect to. Proxies check [ControlPlane], which is always there.
	DNS []string
	IPs []netip.Addr
	// Lifetime is how long the identity is valid from Now on; DefaultLifetime if 0.
	Lifetime time.Duration
	// Now is the time of issue; the zero value means the present.
	Now time.Time
}

// Issued is an identity on disk.
type Issued struct {
	Directory     string
	Cert, Key, CA string // paths
	Rotated       bool   // it replaced an older one
	NotAfter      time.Time
	DNS           []string // of the control plane
	IPs           []netip.Addr
	URI           string // of a collection
}

// Issue makes or rotates the identity name with the authority in dir. On an error the
// old identity, if there is one, is still whole and in force, unless the disk failed
// between the two renames, which the next Issue heals.
func Issue(dir, name string, o Options) (Issued, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.Lifetime == 0 {
		o.Lifetime = DefaultLifetime
	}
	issued, err := issue(dir, name, o)
	if err != nil {
		return Issued{}, fmt.Errorf("issue %q: %w", name, err)
	}
	return issued, nil
}

func issue(dir, name string, o Options) (Issued, error) {
	template, err := newTemplate(name, o)
	if err != nil {
		return Issued{}, err
	}
	unlock, err := lock(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Issued{}, fmt.Errorf("there is no authority in %s: make one with «waggle ca init %[1]s»", dir)
	}
	if err != nil {
		return Issued{}, err
	}
	defer unlock()
	a, err := load(dir, o.Now)
	if err != nil {
		return Issued{}, err
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		return Issued{}, fmt.Errorf("it would outlive its authority, which ends on %s: ask for at most %d days, or make a new authority",
			a.cert.NotAfter.Format(time.DateOnly), int(a.cert.NotAfter.Sub(o.Now)/day))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Issued{}, err
	}
	pemKey, err := encodeKey(key)
	if err != nil {
		return Issued{}, err
	}
	home := filepath.Join(dir, name)
	rotated, err := store(dir, name, []file{
		// Whoever is met with the new certificate must be trusted by then.
		{CAFile, a.trust, 0o644},
		// Envoy and Go keep the old pair while the two do not fit together.
		{KeyFile, pemKey, 0o600},
		{CertFile, encodeCert(der), 0o644},
	})
	if err != nil {
		return Issued{}, err
	}
	issued := Issued{
		Directory: home, Cert: filepath.Join(home, CertFile), Key: filepath.Join(home, KeyFile), CA: filepath.Join(home, CAFile),
		Rotated: rotated, NotAfter: template.NotAfter, DNS: template.DNSNames,
	}
	if len(template.URIs) > 0 {
		issued.URI = template.URIs[0].String()
	} else {
		issued.IPs = o.IPs
	}
	return issued, nil
}

// hostName is what DNS and Swarm (which has underscores) have as names.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?$`)

// newTemplate says what the certificate of name says.
func newTemplate(name string, o Options) (*x509.Certificate, error) {
	if o.Lifetime < time.Second {
		return nil, fmt.Errorf("a lifetime of %v is too short: ask for a day or more", o.Lifetime)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             o.Now.Add(-backdate),
		NotAfter:              o.Now.Add(o.Lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if name == ControlPlane || name == controlPlaneAlias {
		c.Subject.CommonName = "Waggle control plane"
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.DNSNames = []string{ControlPlane}
		for _, dns := range o.DNS {
			if _, err := netip.ParseAddr(dns); err == nil || !hostName.MatchString(dns) {
				return nil, fmt.Errorf("%q is not a DNS name: write it out, without a wildcard; addresses go to --ip", dns)
			}
			if !slices.Contains(c.DNSNames, dns) {
				c.DNSNames = append(c.DNSNames, dns)
			}
		}
		for _, ip := range o.IPs {
			if !ip.IsValid() || ip.Zone() != "" || ip.IsUnspecified() {
				return nil, fmt.Errorf("%q is not an address that a server has", ip)
			}
			c.IPAddresses = append(c.IPAddresses, net.IP(ip.Unmap().AsSlice()))
		}
		return c, nil
	}
	switch {
	case !config.ValidCollection(name):
		return nil, fmt.Errorf("this is neither %q, the control plane, nor the name of a collection: use lower case letters and digits, with . _ - only between them", ControlPlane)
	case name == CAFile || name == caKeyFile:
		return nil, errors.New("this is the name of the authority's own file: a collection of that name must be served with certificates of another authority")
	case len(o.DNS) > 0 || len(o.IPs) > 0:
		return nil, fmt.Errorf("a collection has no DNS names and addresses: only the control plane (%q) is connected to", ControlPlane)
	}
	uri, err := url.Parse(URI(name))
	if err != nil {
		return nil, err
	}
	c.Subject = pkix.Name{CommonName: "Waggle collection"} // for readers: nothing is decided by it
	if len(name) <= 40 {                                   // 64 is X.509's limit
		c.Subject.CommonName += " " + name
	}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	c.URIs = []*url.URL{uri}
	return c, nil
}

// Names are the identities that have been issued in dir, sorted.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the identities of an authority: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && config.ValidCollection(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
