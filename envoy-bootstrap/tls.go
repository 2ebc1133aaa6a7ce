package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TLS says where a proxy finds what it proves its collection with, all of it on the
// proxy's own file system. Envoy takes a changed certificate without a restart only from
// a secret, and a secret only from a file of its own: hence the two of [SDSFiles]. They
// and the directory that they are in must be there when Envoy starts; certificate and key
// may come later.
type TLS struct {
	// Directory holds certificate, key and authority; it may be read-only. Needed, unless
	// all of these are absolute paths.
	Directory string
	// Cert, Key and CA are their files: names in Directory, or absolute paths. Empty:
	// tls.crt, tls.key and ca.crt, as «waggle ca issue» calls them. Certificate and key
	// must be in one directory. They are replaced by rename, the key first: Envoy does
	// not notice a file that is written over.
	Cert, Key, CA string
	// SDSDirectory is where the SDS files are; empty: Directory.
	SDSDirectory string
	// ServerName is the DNS name that the control plane's certificate must have, whatever
	// address it is reached at; "waggle" if empty.
	ServerName string
}

// Names of the SDS files, and of the secrets in them.
const (
	ClientSDSFile = "xds-client.json"
	CASDSFile     = "xds-ca.json"

	clientSecret = "xds_client"
	caSecret     = "xds_ca"
)

const tlsTransportSocket = "envoy.transport_sockets.tls"

// complete fills in what is empty and checks the rest.
func (t TLS) complete() (TLS, error) {
	for _, f := range []struct {
		path      *string
		name      string
		otherwise string
	}{{&t.Cert, "certificate", "tls.crt"}, {&t.Key, "key", "tls.key"}, {&t.CA, "authority", "ca.crt"}} {
		if *f.path == "" {
			*f.path = f.otherwise
		}
		if !filepath.IsAbs(*f.path) {
			*f.path = filepath.Join(t.Directory, *f.path)
		}
		if err := checkPath(f.name, *f.path); err != nil {
			return TLS{}, err
		}
	}
	if filepath.Dir(t.Cert) != filepath.Dir(t.Key) {
		return TLS{}, fmt.Errorf("bootstrap: TLS: certificate %s and key %s are in different directories: Envoy watches one of them for both", t.Cert, t.Key)
	}
	if t.SDSDirectory == "" {
		t.SDSDirectory = t.Directory
	}
	if t.SDSDirectory == "" {
		t.SDSDirectory = filepath.Dir(t.Cert)
	}
	if err := checkPath("directory of the SDS files", t.SDSDirectory); err != nil {
		return TLS{}, err
	}
	t.SDSDirectory = filepath.Clean(t.SDSDirectory)
	if t.ServerName == "" {
		t.ServerName = "waggle"
	}
	if !hostName.MatchString(t.ServerName) || strings.HasSuffix(t.ServerName, ".") {
		return TLS{}, fmt.Errorf("bootstrap: TLS: %q is not a DNS name that a certificate has", t.ServerName)
	}
	return t, nil
}

// checkPath: Envoy's working directory is anybody's guess.
func checkPath(what, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("bootstrap: TLS: %s %q is not an absolute path", what, path)
	}
	if len(path) > 4096 || !printable(path) {
		return fmt.Errorf("bootstrap: TLS: %s %q: use a path of printable characters", what, path)
	}
	return nil
}

// transportSocket is TLS 1.3 to the control plane: it must have the name, from the
// authority, and is shown the proxy's certificate. t is complete.
func (t TLS) transportSocket() (*corev3.TransportSocket, error) {
	const version = tlsv3.TlsParameters_TLSv1_3
	context, err := anypb.New(&tlsv3.UpstreamTlsContext{
		Sni: t.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: version, TlsMaximumProtocolVersion: version},
			AlpnProtocols:                  []string{"h2"}, // grpc-go ends connections without
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{t.secretConfig(clientSecret, ClientSDSFile)},
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: &tlsv3.CertificateValidationContext{
						// Without it any certificate of the authority would do, a proxy's too.
						MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
							SanType: tlsv3.SubjectAltNameMatcher_DNS,
							Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.ServerName}},
						}},
					},
					ValidationContextSdsSecretConfig: t.secretConfig(caSecret, CASDSFile),
				},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: TLS to the control plane: %w", err)
	}
	return &corev3.TransportSocket{
		Name:       tlsTransportSocket,
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: context},
	}, nil
}

func (t TLS) secretConfig(name, file string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
			Path:             filepath.Join(t.SDSDirectory, file),
			WatchedDirectory: &corev3.WatchedDirectory{Path: t.SDSDirectory},
		}},
	}}
}

// SDSFiles are the files, by name, that belong into t.SDSDirectory on the proxy. They
// hold paths and no secret: they may well be Swarm configs.
func SDSFiles(t TLS) (map[string][]byte, error) {
	t, err := t.complete()
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, 2)
	for file, secret := range map[string]*tlsv3.Secret{
		ClientSDSFile: {Name: clientSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: fromFile(t.Cert),
			PrivateKey:       fromFile(t.Key),
			WatchedDirectory: &corev3.WatchedDirectory{Path: filepath.Dir(t.Cert)},
		}}},
		CASDSFile: {Name: caSecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:        fromFile(t.CA),
			WatchedDirectory: &corev3.WatchedDirectory{Path: filepath.Dir(t.CA)},
		}}},
	} {
		if out[file], err = sdsFile(secret); err != nil {
			return nil, fmt.Errorf("bootstrap: TLS: %s: %w", file, err)
		}
	}
	return out, nil
}

func fromFile(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

// sdsFile is the response of an SDS server of one secret.
func sdsFile(secret *tlsv3.Secret) ([]byte, error) {
	if err := secret.ValidateAll(); err != nil {
		return nil, err
	}
	resource := &anypb.Any{}
	if err := anypb.MarshalFrom(resource, secret, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, err
	}
	return marshal(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{resource}})
}

// WriteSDS writes the SDS files into dir, which is t.SDSDirectory on the proxy itself,
// or the place that it is filled from. Each is replaced by rename.
func WriteSDS(dir string, t TLS) error {
	files, err := SDSFiles(t)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := replace(filepath.Join(dir, name), append(content, '\n')); err != nil {
			return fmt.Errorf("bootstrap: TLS: write the SDS files: %w", err)
		}
	}
	return nil
}

// replace puts a file in place whole.
func replace(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-"+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // not there any more if all went well
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644) // the proxy may be another user
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
