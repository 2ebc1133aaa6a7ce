# deploy.sh: networks, platform and applications; sourced by lab.sh.

# deploy goes by deploy/README.md, with the files there.
deploy() {
	local c
	for c in "${COLLECTIONS[@]}"; do d 1 network create --driver overlay --attachable "$c-edge" >/dev/null; done
	identities
	platform
	until_true 120 "the platform to run" converged
	step "platform runs"
	if [ "$APPS" != none ]; then
		hold_networks
		deploy_apps
		until_true 120 "all services to run" converged
		[ "$HOLD" = yes ] || release_networks
		step "applications run"
	fi
	local address
	for address in $(edges); do until_true 60 "the Envoy at $address" answers "$address"; done
	[ "$APPS" = none ] || until_true 60 "every service to answer at its collection's Envoy" services_answer
	step "every Envoy answers"
}

# platform deploys the files of deploy/ that WGL_STACK names; also over one that runs.
platform() {
	local file files=()
	for file in $STACK; do files+=("$ROOT/deploy/$file"); done
	# Here dockerd cannot raise what this shell may not.
	local open
	open=$(ulimit -Hn)
	[ "$open" != unlimited ] && [ "$open" -lt 131072 ] || open=131072
	WAGGLE_IMAGE=wgl/waggle:lab WAGGLE_ENVOY_IMAGE=wgl/proxy:lab WAGGLE_SOCKET_PROXY_IMAGE=wgl/socket-proxy:lab \
		WAGGLE_CA=$LAB/ca WAGGLE_NOFILE=$open WAGGLE_DRAIN=12s stack_deploy edge "${files[@]}"
}

# identities: an authority of this lab's own, and what it issues.
identities() {
	local name
	"$WAGGLE" ca init "$LAB/ca" >/dev/null
	for name in waggle "${COLLECTIONS[@]}"; do "$WAGGLE" ca issue "$LAB/ca" "$name" >/dev/null; done
}

stack_deploy() { # stack, files…
	local stack=$1 file files=()
	shift
	for file in "$@"; do files+=(-c "$file"); done
	# The client's word on its future defaults is dropped, its errors are not.
	d 1 stack deploy --resolve-image never "${files[@]}" "$stack" 2>&1 >/dev/null | grep -v -- --detach >&2 || [ "${PIPESTATUS[0]}" -eq 0 ]
}

# hold_networks has every node join every collection's network, one after the other.
# When nodes join at the same moment, as they do when a stack starts, libnetwork's
# bulk sync between them stalls for 30 s, about every second time.
hold_networks() {
	local c n
	for c in "${COLLECTIONS[@]}"; do
		for n in "${NODES[@]}"; do
			[ "$(address "$n")" = "$(address_of "$c")" ] || # the proxy has joined it already
				d "$n" run -d --restart always --name $P-hold-$c --network "$c-edge" wgl/echo:lab >/dev/null
		done
	done
}
release_networks() {
	local n pids=() pid
	for n in "${NODES[@]}"; do
		d "$n" ps -aq --filter name=$P-hold- | xargs -r docker -H "unix://$(socket "$n")" rm -f >/dev/null & pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid"; done
}

# deploy_apps deploys the demo of make lab, once for each collection, or the stacks of WGL_APPS.
deploy_apps() {
	local file name c
	if [ -n "$APPS" ]; then
		for file in "$APPS"/*.yml; do stack_deploy "$(basename "$file" .yml)" "$file"; done
		return
	fi
	mkdir -p "$LAB/demo"
	for file in "$ROOT"/lab/demo/*.yml; do
		name=$(basename "$file" .yml)
		# Clients before Docker 24 want a version in every file.
		{ grep -q '^version:' "$file" || echo 'version: "3.8"'; cat "$file"; } >"$LAB/demo/$name.yml"
		for c in "${COLLECTIONS[@]}"; do
			ENV=$c stack_deploy "$name-$c" "$LAB/demo/$name.yml" "$HERE/$name.yml"
		done
	done
}

# edges: the addresses of the nodes with proxies, in the order of the collections.
edges() {
	local n
	for n in "${!COLLECTIONS[@]}"; do address "${NODES[n]}"; done
}

converged() {
	d 1 service ls --format '{{.Replicas}}' | awk '{split($1, r, "/"); bad += r[1] != r[2] || r[2] == 0} END {exit bad > 0 || NR == 0}'
}

# answers ADDRESS [HOST [PATH]]: prints the status of http://ADDRESS/PATH for this Host header; false when nothing answers.
answers() {
	local line
	line=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/80" && printf "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$2" "$1" >&3 && head -n 1 <&3' "$1" "${2:-waggle.invalid}" "${3:-/}" 2>/dev/null) || return 1
	[[ $line =~ ^HTTP/1.1\ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}

# services: collection, first host, root and name of every service that says whose it is and for which host.
services() {
	local label='{{or (index .Spec.Labels "com.docker.lb.%s") (index .Spec.Labels "lb.%s") "%s"}} ' format
	format=$(printf "$label" service_cluster{,} - hosts{,} - context_root{,} /)
	d 1 service ls -q | xargs docker -H "unix://$(socket 1)" service inspect --format "$format{{.Spec.Name}}" |
		awk '$1 != "-" && $2 != "-" {split($2, h, ","); sub("/*$", "/", $3); print $1, h[1], $3, $4}' | sort -k4
}

address_of() { # collection
	local n
	for n in "${!COLLECTIONS[@]}"; do [ "${COLLECTIONS[n]}" != "$1" ] || address "${NODES[n]}"; done
}

services_answer() {
	local collection host root name
	while read -r collection host root name; do
		[ "$(answers "$(address_of "$collection")" "$host" "$root")" = 200 ] || return 1
	done < <(services)
}

table() {
	local c collection host root name all
	all=$(services)
	printf '\n%-10s  %-22s  %s\n' COLLECTION SERVICE TRY
	for c in "${COLLECTIONS[@]}"; do
		while read -r collection host root name; do
			[ "$collection" != "$c" ] ||
				printf '%-10s  %-22s  curl -H "Host: %s" http://%s%s\n' "$c" "$name" "$host" "$(address_of "$c")" "$root"
		done <<<"$all"
	done
	cat <<-END

		nodes and tasks   $HERE/lab.sh status
		the manager       docker -H unix://$(socket 1) service ls
		an update         docker -H unix://$(socket 1) service update --force shop-dev_web
		down              make swarm-lab-down
	END
}
