package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRestartOnlyNamesWhatALiveChangeCannotReach(t *testing.T) {
	parse := func(text string) *Config {
		c, _, err := Parse([]byte(text), nil)
		require.NoError(t, err)
		return c
	}
	old := parse("xds: {insecure: true}\ncollections: {dev: {http_port: 80}}\n")
	require.Empty(t, old.RestartOnly(parse("xds: {insecure: true}\ncollections: {dev: {http_port: 8080}, prod: {}}\n")))
	courier := func(image string) *Config {
		return parse("swarm: {courier: {image: " + image + ", network: n}}\n")
	}
	require.Empty(t, courier("a").RestartOnly(courier("a")))
	require.Equal(t, []string{"swarm"}, courier("a").RestartOnly(courier("b")))
	require.Equal(t, []string{"xds", "admin", "swarm"}, old.RestartOnly(parse(
		"xds: {insecure: true, address: ':18001'}\nadmin: {address: '127.0.0.1:19001'}\nswarm: {poll_interval: 2s}\n")))
}
