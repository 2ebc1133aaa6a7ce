package control

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/config"
	"github.com/waggle-lb/waggle/secrets"
	"github.com/waggle-lb/waggle/watcher"
)

// The first build waits for what OpenID providers say: a control plane that starts must
// not close what proxies have open.
func TestTheFirstBuildWaitsForProviders(t *testing.T) {
	const issuer = "https://id.test"
	answer := func(a secrets.Answer) *secrets.Material {
		client := secrets.Item{Kind: secrets.Secret, Name: "client", Data: secrets.Hide([]byte("s3cr3t"))}
		return secrets.Of(map[string][]secrets.Item{"default": {client}}).With(map[string]secrets.Answer{issuer: a})
	}
	good := answer(secrets.Answer{Known: true, Provider: secrets.Provider{Authorization: issuer + "/login", Token: issuer + "/token"}})
	synctest.Test(t, func(t *testing.T) {
		cfg := config.ForCollections(nil)
		cfg.Collections["default"].Networks = []string{"edge"}
		b := &board{}
		c := New(cfg, b, DefaultPace, slog.New(slog.DiscardHandler))
		var asked [][]string
		c.OnWantedIssuers(func(issuers []string) {
			if asked = append(asked, issuers); len(asked) == 1 {
				c.Material(answer(secrets.Answer{})) // being asked
			}
		})
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		t.Cleanup(func() { require.NoError(t, <-ended) })
		s := newSwarm("a")
		for k, v := range map[string]string{"oidc_issuer": issuer, "oidc_client_id": "shop", "oidc_client_secret": "client"} {
			s.p.Services["a"].Labels["com.docker.lb."+k] = v
		}
		c.Material(answer(secrets.Answer{}).With(map[string]secrets.Answer{}))
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, b.take())
		require.Equal(t, [][]string{{issuer}}, asked)

		c.Material(good)
		synctest.Wait()
		require.Contains(t, changed(b.take()), "put secrets oidc/a/session")
		require.Empty(t, c.Status().Problems)

		s.p.Services["a"].Version++
		delete(s.p.Services["a"].Labels, "com.docker.lb.oidc_issuer")
		c.Update(s.update(watcher.Changes{All: true}))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, asked[len(asked)-1], "nobody wants it any more")
		c.Update(s.update(watcher.Changes{})) // nothing is left in the collection: a second list says so, too
		synctest.Wait()
		require.Contains(t, changed(b.take()), "gone secrets oidc/a/session")
	})
}
