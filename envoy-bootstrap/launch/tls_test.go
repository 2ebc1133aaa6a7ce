package launch

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bootstrap "github.com/waggle-lb/waggle/envoy-bootstrap"
	"github.com/waggle-lb/waggle/secrets/ca"
	"github.com/waggle-lb/waggle/xds/identity"
)

// A proxy that has a certificate of its collection is served, and waits for one that
// comes later. Its SDS files are the launcher's.
func TestTheChannelIsTLS(t *testing.T) {
	authority := filepath.Join(t.TempDir(), "authority")
	require.NoError(t, ca.Init(authority, time.Now()))
	plane, err := ca.Issue(authority, ca.ControlPlane, ca.Options{})
	require.NoError(t, err)
	dev, err := ca.Issue(authority, "dev", ca.Options{})
	require.NoError(t, err)
	guard, err := identity.TLS(identity.Files{CA: plane.CA, Cert: plane.Cert, Key: plane.Key}, identity.Options{})
	require.NoError(t, err)
	c := newCollection(t, "dev")
	o := options(t, c, guardedControlPlane(t, guard, backend(t), c))
	o.Drain, o.DrainDelay = 0, 0

	o.Bootstrap.TLS = &bootstrap.TLS{Directory: t.TempDir()}
	p := launch(t, c, o)
	p.says(t, "the proxy waits for a file of its channel to the control plane")
	for _, file := range []string{dev.CA, dev.Key, dev.Cert} {
		whole := filepath.Join(o.Bootstrap.TLS.Directory, filepath.Base(file))
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(whole+".new", raw, 0o600))
		require.NoError(t, os.Rename(whole+".new", whole))
	}
	p.isReady(t)
	require.Equal(t, http.StatusOK, status(client(t), "http://"+c.http))
	require.Empty(t, o.Bootstrap.TLS.SDSDirectory, "what was given is not changed")
}
