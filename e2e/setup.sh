#!/usr/bin/env bash
# setup.sh: installs what the tests and the Swarm lab need and this machine lacks,
# from Debian's packages, and says so. Installs nothing where nothing is missing.
#
# No service is started or enabled: the lab runs dockerds of its own, and a machine
# that only wanted to run the tests should not find a Docker Engine listening.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian keeps these in sbin, which is not in every PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# command, and the package that brings it. gcc: the race detector needs cgo.
needs=(
	"dockerd docker.io"
	"iptables iptables"
	"ip iproute2"
	"nsenter util-linux"
	"ldd libc-bin"
	"python3 python3"
	"gcc gcc"
	"make make"
)

# Only where the kernel has them: containers need the profile loader, overlay networks the module loader.
[ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || needs+=("apparmor_parser apparmor")
[ ! -e /proc/modules ] || needs+=("modprobe kmod")

packages=()
for need in "${needs[@]}"; do
	read -r command package <<<"$need"
	have "$command" || packages+=("$package")
done
have python3 && ! python3 -m pip --version >/dev/null 2>&1 && packages+=(python3-pip)
have python3 || packages+=(python3-pip)
have gcc || packages+=(libc6-dev)
[ -s /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)

# docker-compose.yml is tried with either generation of Compose: v2, a plugin of the
# client, where the machine has it, else Debian's package of the first.
has_compose() { docker compose version >/dev/null 2>&1 || have docker-compose; }
has_compose || packages+=(docker-compose)

have go || die "no Go toolchain in PATH: install the Go version that go.mod names, then try again"

if [ ${#packages[@]} -eq 0 ]; then
	if have docker; then
		say "nothing to install"
		exit 0
	fi
	packages+=(docker-cli)
fi

[ "$(id -u)" -eq 0 ] || die "missing: ${packages[*]}. Installing them needs root: run this as root, or install them yourself, then try again"
have apt-get || die "missing: ${packages[*]} (Debian's names). This machine has no apt-get: install them with its own package manager, then try again"

# While packages are configured, invoke-rc.d asks policy-rc.d whether it may start
# their services: for that time the answer is no. A policy that the machine has
# already is put back afterwards.
policy=/usr/sbin/policy-rc.d
before=
if [ -e "$policy" ]; then
	before=$(mktemp "$policy.XXXXXX")
	cp -p "$policy" "$before"
fi
restore_policy() {
	if [ -n "$before" ]; then mv -f "$before" "$policy"; else rm -f "$policy"; fi
}
trap restore_policy EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
apt() {
	# --no-install-recommends: no AppArmor, no build tools, no extra daemons.
	apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1
}
install() {
	say "installing $* (apt-get)"
	apt install "$@" && return
	# Usually package lists that were never fetched, or that name versions since replaced.
	say "refreshing the package lists (apt-get update)"
	if ! { apt update && apt install "$@"; }; then
		tail -n 20 "$log" >&2
		die "apt-get could not install $*; its last lines are above, all of them in $log"
	fi
}

units_before=$(ls /etc/systemd/system/*.wants/docker.* /etc/systemd/system/*.wants/containerd.* 2>/dev/null || true)
install "${packages[@]}"
have docker || install docker-cli # newer Debian has the client in a package of its own

# Installing a package enables its units for the next boot; those which were not before are not wanted.
for unit in /etc/systemd/system/*.wants/docker.* /etc/systemd/system/*.wants/containerd.*; do
	[ -e "$unit" ] || [ -L "$unit" ] || continue
	grep -qxF "$unit" <<<"$units_before" || rm -f "$unit"
done

for need in "${needs[@]}" "docker docker-cli"; do
	read -r command package <<<"$need"
	have "$command" || die "package $package is installed, but there is no command $command in $PATH"
done
has_compose || die "package docker-compose is installed, but there is no command docker-compose in $PATH"
rm -f "$log"
say "done; the Docker Engine is installed, and neither started nor enabled"
