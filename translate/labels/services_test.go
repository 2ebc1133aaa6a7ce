package labels

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/watcher"
)

func TestServiceClusters(t *testing.T) {
	cluster := func(labels map[string]string) *watcher.Service { return &watcher.Service{Name: "s", Labels: labels} }
	require.Equal(t, []string{"dev", "prod"}, ServiceClusters(prefixes, []*watcher.Service{
		cluster(map[string]string{"com.docker.lb.service_cluster": "prod"}),
		cluster(map[string]string{"lb.service_cluster": "dev"}),
		cluster(map[string]string{"com.docker.lb.service_cluster": "dev", "lb.service_cluster": "other"}),
		cluster(map[string]string{"lb.service_cluster": ""}),
		cluster(map[string]string{"lb.service_cluster": "No Name"}),
		cluster(map[string]string{"lb.api.service_cluster": "elsewhere"}),
		cluster(nil),
	}))
	require.Empty(t, ServiceClusters(prefixes, nil))
}

func TestMisplaced(t *testing.T) {
	for _, c := range []struct {
		name               string
		labels, containers map[string]string
		told               []string
	}{
		{name: "none"},
		{name: "foreign", containers: map[string]string{"maintainer": "me", "lb.foo": "x"}},
		{name: "one", containers: map[string]string{"lb.hosts": "a.example"}, told: []string{
			"warning lb.hosts=\"a.example\": labels under `labels:` reach the container, not the service; move them under `deploy.labels`"}},
		{name: "several", containers: map[string]string{"com.docker.lb.port": "80", "com.docker.lb.hosts": "a.example"}, told: []string{
			"warning com.docker.lb.hosts=\"a.example\": labels under `labels:` reach the container, not the service (this one and 1 more); move them under `deploy.labels`"}},
		{name: "in both places", labels: map[string]string{"lb.hosts": "a.example"}, containers: map[string]string{"lb.hosts": "a.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &watcher.Service{Name: "shop_app", Labels: c.labels, ContainerLabels: c.containers}
			require.Equal(t, c.told, told(Misplaced(prefixes, s)))
		})
	}
}
