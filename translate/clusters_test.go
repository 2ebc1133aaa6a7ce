package translate

import (
	"math"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/stretchr/testify/require"

	"github.com/waggle-lb/waggle/translate/labels"
)

func TestOneClusterForEachPortAndItsSettings(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{
		"hosts": "a.test", "port": "80",
		"same.hosts": "b.test", "same.port": "80",
		"other.hosts": "c.test", "other.port": "81",
		"slow.hosts": "d.test", "slow.port": "80", "slow.connect_timeout": "3s",
		"twin.hosts": "e.test", "twin.port": "80", "twin.connect_timeout": "3s",
		"bad.hosts": "f.test", "bad.port": "82x",
	})
	b := w.build(t, testConfig())
	require.Equal(t, []string{"x_web:80", "x_web:80/slow", "x_web:81"}, names(b, "dev", Cluster))
	require.Equal(t, []string{"/* -> x_web:80/slow"}, routeLines(b, "dev", "e.test"))
	require.Equal(t, 3*time.Second, b.Resources("dev")[Cluster]["x_web:80/slow"].Message.(*clusterv3.Cluster).ConnectTimeout.AsDuration())
}

func TestClusterDefaults(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80",
		"off.hosts": "b.test", "off.port": "80", "off.max_fails": "0",
		"three.hosts": "c.test", "three.port": "80", "three.max_fails": "3", "three.fail_timeout": "9s"})
	res := w.build(t, testConfig()).Resources("dev")[Cluster]
	c := res["x_web:80"].Message.(*clusterv3.Cluster)
	require.Equal(t, 500*time.Millisecond, c.ConnectTimeout.AsDuration())
	require.Equal(t, time.Second, c.EdsClusterConfig.EdsConfig.InitialFetchTimeout.AsDuration())
	require.NotNil(t, c.EdsClusterConfig.EdsConfig.GetAds())
	require.EqualValues(t, 1, c.CommonLbConfig.HealthyPanicThreshold.Value, "any task rather than none")
	require.True(t, c.IgnoreHealthOnHostRemoval)
	require.Len(t, c.HealthChecks, 1, "one connection, when a task has come")
	require.NotNil(t, c.HealthChecks[0].GetTcpHealthCheck())
	require.Equal(t, 24*time.Hour, c.HealthChecks[0].Interval.AsDuration())
	require.Len(t, c.CircuitBreakers.Thresholds, 2)
	for _, th := range c.CircuitBreakers.Thresholds {
		require.EqualValues(t, 1024, th.MaxRetries.GetValue())
		require.EqualValues(t, math.MaxUint32, th.MaxRequests.GetValue())
		require.EqualValues(t, math.MaxUint32, th.MaxPendingRequests.GetValue())
		require.EqualValues(t, math.MaxUint32, th.MaxConnections.GetValue())
	}
	o := c.OutlierDetection
	require.True(t, o.SplitExternalLocalOriginErrors)
	require.EqualValues(t, 1, o.ConsecutiveLocalOriginFailure.GetValue())
	require.EqualValues(t, 5, o.ConsecutiveGatewayFailure.GetValue())
	require.EqualValues(t, 50, o.MaxEjectionPercent.GetValue())
	require.False(t, o.AlwaysEjectOneHost.GetValue(), "the only task is never ejected")
	require.Equal(t, 5*time.Second, o.BaseEjectionTime.AsDuration())
	opt := c.UpstreamBindConfig.SocketOptions[0]
	require.EqualValues(t, []int64{6, 18, 2000}, []int64{opt.Level, opt.Name, opt.GetIntValue()}, "TCP_USER_TIMEOUT")

	require.Nil(t, res["x_web:80/off"].Message.(*clusterv3.Cluster).OutlierDetection)
	three := res["x_web:80/three"].Message.(*clusterv3.Cluster).OutlierDetection
	require.EqualValues(t, 3, three.ConsecutiveLocalOriginFailure.GetValue())
	require.EqualValues(t, 3, three.ConsecutiveGatewayFailure.GetValue())
	require.Equal(t, 9*time.Second, three.BaseEjectionTime.AsDuration())
}

func TestLabelsThatCannotAllHold(t *testing.T) {
	w := newWorld()
	w.service("x_web", map[string]string{"hosts": "a.test", "port": "80", "context_root": "/app",
		"lb_policy": "random", "hash_on": "ip", "health_interval": "1s", "slow_start": "10s",
		"two.hosts": "b.test", "two.port": "80", "two.rewrite_path": "/x", "two.rewrite_regex": "a,b", "two.lb_policy": "maglev",
		"vip.hosts": "c.test"})
	w.service("x_vip", map[string]string{"hosts": "d.test", "port": "80", "backend_mode": "vip", "sticky_sessions": "pin"})
	b := w.build(t, testConfig())
	requireProblem(t, b, "x_web", labels.Warning, "random hashes nothing")
	requireProblem(t, b, "x_web", labels.Warning, "without health_path nothing is checked")
	requireProblem(t, b, "x_web", labels.Warning, "knows no slow start")
	requireProblem(t, b, "x_web", labels.Error, "rewrite_path and rewrite_regex say what becomes of the path")
	requireProblem(t, b, "x_vip", labels.Warning, "Swarm chooses the task")
	require.Equal(t, []string{"/* -> 503 not_built"}, routeLines(b, "dev", "b.test"))
}
