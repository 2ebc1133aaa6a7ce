package stackfile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

func TestLabelsOfContainersCountWithoutASwarm(t *testing.T) {
	const plain = "name: shop\nservices:\n  web:\n    image: app\n    scale: 2\n    ports: [\"8080:80\"]\n    labels: {lb.hosts: a.example}\n"
	const both = plain + "    deploy: {labels: {lb.port: \"80\"}}\n"
	for name, tt := range map[string]struct {
		file, body string
		option     *bool
		plain      bool
		labels     map[string]string
		told       []string
	}{
		"called as Compose wants it": {
			file: "compose.prod.yaml", body: plain, plain: true, labels: map[string]string{"lb.hosts": "a.example", watcher.StackLabel: "shop"},
			told: []string{"info compose.prod.yaml:2: this is read as a Compose project for a plain Docker: the labels of its containers count"},
		},
		"called otherwise": {
			file: "stack.yml", body: plain, labels: map[string]string{watcher.StackLabel: "shop"},
			told: []string{"warning stack.yml:5: shop_web: a Swarm ignores `scale`"},
		},
		"called so, and for a Swarm": {
			file: "docker-compose.yml", body: both, labels: map[string]string{"lb.port": "80", watcher.StackLabel: "shop"},
			told: []string{"warning docker-compose.yml:5: shop_web: a Swarm ignores `scale`"},
		},
		"called so, and with what only a Swarm does": {
			file: "docker-compose.yml", body: plain + "    deploy: {placement: {constraints: [a==b]}}\n", labels: map[string]string{watcher.StackLabel: "shop"},
			told: []string{"warning docker-compose.yml:5: shop_web: a Swarm ignores `scale`"},
		},
		"said otherwise": {
			file: "docker-compose.yml", body: plain, option: new(false), labels: map[string]string{watcher.StackLabel: "shop"},
			told: []string{"warning docker-compose.yml:5: shop_web: a Swarm ignores `scale`"},
		},
		"said so": {
			file: "stack.yml", body: both, option: new(true), plain: true, labels: map[string]string{"lb.hosts": "a.example", watcher.StackLabel: "shop"},
			told: []string{"warning stack.yml:8: shop_web: a plain Docker does not read deploy.labels"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := write(t, tt.file, tt.body)
			p, findings, err := Load(t.Context(), Options{Files: files, Plain: tt.option})
			require.NoError(t, err)
			svc := p.Services["shop_web"]
			require.Equal(t, tt.plain, svc.Plain)
			require.Equal(t, tt.labels, svc.Labels)
			if tt.plain {
				require.Equal(t, uint64(2), svc.Replicas)
				require.Empty(t, svc.ContainerLabels)
				require.Equal(t, []watcher.Port{{Protocol: "tcp", Target: 80, Published: 8080, HostMode: true}}, svc.Ports)
			}
			require.Equal(t, tt.told, lines(dir, findings))
		})
	}
}
