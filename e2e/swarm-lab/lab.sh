#!/usr/bin/env bash
# lab.sh: a real Docker Swarm of several nodes on this one machine, with Waggle,
# one Envoy fleet per collection, and the demo applications on it.
#
#   up             everything: nodes, images, networks, platform, applications
#   down           all of it away again; also what a crashed run left behind
#   status         nodes, services, tasks
#   d N ARGS…      docker ARGS… on node N (node 1 is the manager)
#   ns N COMMAND…  COMMAND… inside node N's namespaces
#   table          what to try
#   platform       the platform anew, as WGL_STACK says
#   restart N      the dockerd of node N anew: what ran there stops
#   unplug N       the network cable of node N out; plug N: in again
#
# Needs root, and what e2e/setup.sh installs. No registry, no system Docker Engine.
# Settings, by environment:
#   WAGGLE, ENVOY    binaries (bin/waggle and .cache/envoy-1.40.0/envoy of this checkout)
#   WGL_NET          the nodes' network, a /24 without its last part (10.77.0)
#   WGL_STORE        tmpfs (faster) or disk: where nodes keep images and containers
#   WGL_DRIVER       Docker's storage driver (overlay2; vfs where overlayfs cannot stack)
#   WGL_NODES        the nodes ("1 2 3"); from the fourth on they have no proxy
#   WGL_HOLD         yes: every node stays in every collection's network, whatever runs there;
#                    no: as in life, where joining one may take a task 30 s
#   WGL_STACK        the platform: files of deploy/, one over the other (stack.yml)
#   WGL_APPS         a directory of stack files instead of the demo; "none": no applications
set -euo pipefail
exec 3>&2 # for what must be seen although output is thrown away

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH

P=wgl           # every name that the machine sees begins with this
LAB=/run/$P     # one lab per machine: any checkout finds what another left
DISK=/var/lib/$P # the nodes' data, with WGL_STORE=disk
NET=${WGL_NET:-10.77.0}
STORE=${WGL_STORE:-tmpfs}
DRIVER=${WGL_DRIVER:-overlay2}
read -ra NODES <<<"${WGL_NODES:-1 2 3}"
COLLECTIONS=(dev test prod) # the first on node 1, and so on
WAGGLE=${WAGGLE:-$ROOT/bin/waggle}
ENVOY=${ENVOY:-$ROOT/.cache/envoy-1.40.0/envoy}
STACK=${WGL_STACK:-stack.yml}
APPS=${WGL_APPS:-}
HOLD=${WGL_HOLD:-no}

START=${EPOCHREALTIME/[.,]/}
step() {
	local ms=$(((${EPOCHREALTIME/[.,]/} - START) / 1000))
	printf 'swarm-lab: %3d.%ds  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*" >&2
}
die() {
	printf 'swarm-lab: %s\n' "$*" >&2
	exit 2
}
# until SECONDS WHAT COMMAND…: waits for COMMAND, or dies naming WHAT.
until_true() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || {
			diagnose >&2
			die "gave up waiting for: $what"
		}
		sleep 0.1
	done
}

. "$HERE/nodes.sh"
. "$HERE/images.sh"
. "$HERE/deploy.sh"

up() {
	need_root
	local tool
	for tool in dockerd docker ip nsenter unshare ldd; do
		command -v $tool >/dev/null || die "no $tool on this machine: run e2e/setup.sh first"
	done
	[ -x "$WAGGLE" ] || die "no Waggle binary at $WAGGLE: run make build first"
	[ -x "$ENVOY" ] || die "no Envoy binary at $ENVOY: run make envoy first"
	down
	nodes_up
	local pids=()
	images_rootfs
	for n in "${NODES[@]}"; do { images_load "$n" && images_build "$n"; } & pids+=($!); done
	swarm_up
	for pid in "${pids[@]}"; do wait "$pid" || die "could not make the images (see above)"; done
	step "images in every node"
	deploy
	table
}

down() {
	need_root
	nodes_down
}

status() {
	[ -S "$(socket 1)" ] || die "no lab is up: make swarm-lab"
	d 1 node ls
	d 1 service ls
	d 1 service ps --filter desired-state=running --format 'table {{.Name}}\t{{.Node}}\t{{.CurrentState}}\t{{.Error}}' $(d 1 service ls -q)
}

# diagnose prints what one wants to see when something did not come up.
diagnose() {
	[ -S "$(socket 1)" ] || {
		tail -n 20 "$LAB"/n*/log 2>/dev/null || true
		return 0
	}
	status 2>&1 || true
	local s
	for s in $(d 1 service ls --format '{{.Name}}' --filter label=com.docker.stack.namespace=edge); do
		echo "--- $s"
		d 1 service ps --no-trunc --format '{{.Name}} {{.CurrentState}} {{.Error}}' "$s" || true
		timeout 10 docker -H "unix://$(socket 1)" service logs --tail 200 "$s" 2>&1 | grep -v "\[info\]" | tail -n 40 || true
	done
}

need_root() { [ "$(id -u)" -eq 0 ] || die "the Swarm lab needs root (network namespaces, dockerd): run it as root. Without root: make lab"; }

# One at a time on this machine; the lock is on the directory, so no file is left.
lock() { exec 9</run && flock -w 300 9 || die "another swarm-lab command has been running for five minutes"; }

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
up | down) need_root; lock; $command; step "$command: done" ;;
status | table | diagnose | platform) $command ;;
d) d "$@" ;;
ns) ns "$@" ;;
restart) node_restart "$@" ;;
unplug) ip link set "$P-v$1" down ;;
plug) ip link set "$P-v$1" up ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" ;;
esac
