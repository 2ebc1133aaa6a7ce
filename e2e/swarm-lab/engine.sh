#!/usr/bin/env bash
# engine.sh: one plain Docker Engine without a Swarm, in namespaces of its own, with
# the images of the lab: where docker-compose.yml is tried.
#
#   up             the engine and the images; its socket is /run/wge/n1/run/docker.sock
#   down           away again
#
# It is made like a node of lab.sh, under a name and on a network of its own: it may
# run beside the lab, and neither takes the other down. Needs and settings are those
# of lab.sh, but for the network: WGL_ENGINE_NET (10.79.0).
set -euo pipefail
exec 3>&2

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH

# What nodes.sh and images.sh want to know; as in lab.sh.
P=wge
LAB=/run/$P
DISK=/var/lib/$P
NET=${WGL_ENGINE_NET:-10.79.0}
STORE=${WGL_STORE:-tmpfs}
DRIVER=${WGL_DRIVER:-overlay2}
NODES=(1)
WAGGLE=${WAGGLE:-$ROOT/bin/waggle}
ENVOY=${ENVOY:-$ROOT/.cache/envoy-1.40.0/envoy}

step() { printf 'engine: %3d s  %s\n' "$SECONDS" "$*" >&2; }
die() {
	printf 'engine: %s\n' "$*" >&2
	exit 2
}
until_true() { # seconds, what, command…
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || {
			tail -n 20 "$LAB"/n1/log >&2 || true
			die "gave up waiting for: $what"
		}
		sleep 0.1
	done
}

. "$HERE/nodes.sh"
. "$HERE/images.sh"

up() {
	local tool
	for tool in dockerd docker ip nsenter unshare ldd; do
		command -v $tool >/dev/null || die "no $tool on this machine: run e2e/setup.sh first"
	done
	[ -x "$WAGGLE" ] || die "no Waggle binary at $WAGGLE: run make build first"
	[ -x "$ENVOY" ] || die "no Envoy binary at $ENVOY: run make envoy first"
	nodes_down
	nodes_up
	images_rootfs
	images_load 1
	step "the images are there"
}
down() { nodes_down; }

command=${1:-help}
case $command in
up | down)
	[ "$(id -u)" -eq 0 ] || die "a private Docker Engine needs root (network namespaces, dockerd): run it as root"
	exec 9</run && flock -w 300 9 || die "another command of the lab has been running for five minutes"
	$command
	step "$command: done"
	;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ;;
esac
