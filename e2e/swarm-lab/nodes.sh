# nodes.sh: the machines. A node is a net + mount + uts + ipc + pid namespace with
# its own /run and /etc and a dockerd in it; sourced by lab.sh.
#
#  - inside, every path is the standard one (/var/run/docker.sock): a user's stack
#    file runs unchanged; and nothing of a Docker Engine on the host is in sight
#  - kill -9 of the namespaces' init is a power cut: dockerd, containerd, containers,
#    mounts and overlay networks all go at once. It is also how the lab is taken down

socket() { echo "$LAB/n$1/run/docker.sock"; }
address() { echo "$NET.1$1"; }
d() {
	local n=$1
	shift
	docker -H "unix://$(socket "$n")" "$@"
}

nodes_up() {
	if ip -o route show match "$NET.1" | grep -qvE '^default'; then
		die "this machine already has a route to $NET.0/24; choose another network for the lab: WGL_NET=10.78.0"
	fi
	install -d -m 755 "$LAB"
	ip link add $P-br type bridge
	ip addr add "$NET.1/24" dev $P-br
	ip link set $P-br up
	# A Docker Engine on the host may have set the policy for forwarded packets, to which bridged ones can belong, to DROP.
	iptables -I FORWARD -i $P-br -o $P-br -j ACCEPT 2>/dev/null || true
	local n
	for n in "${NODES[@]}"; do node_up "$n"; done
	for n in "${NODES[@]}"; do until_true 60 "the dockerd of node $n" dockerd_answers "$n"; done
	step "${#NODES[@]} dockerds answer"
}

node_up() {
	local n=$1
	local store=tmpfs
	mkdir -p "$LAB/n$n/run/data"
	if [ "$STORE" = disk ]; then
		store=$DISK/n$n
		mkdir -p "$store"
	fi
	ip netns add $P$n
	ip link add $P-v$n type veth peer name eth0 netns $P$n
	ip link set $P-v$n master $P-br up
	ip -n $P$n addr add "$(address "$n")/24" dev eth0
	ip -n $P$n link set eth0 up
	ip -n $P$n link set lo up
	# No default route: nodes reach each other and the host's end of the bridge, nothing else.
	setsid nohup nsenter --net=/var/run/netns/$P$n \
		unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc \
		bash "$HERE/node-init.sh" "$LAB/n$n" $P$n "$store" "$DRIVER" >>"$LAB/n$n/log" 2>&1 </dev/null 3>&- 9<&- &
	echo $! >"$LAB/n$n/outer"
}

dockerd_answers() {
	d "$1" version && return
	kill -0 "$(cat "$LAB/n$1/outer")" 2>/dev/null && return 1
	tail -n 20 "$LAB/n$1/log" >&3
	die "the dockerd of node $1 ended (its last lines are above)" 2>&3
}

# node_pid N: the init of node N, as the host numbers it.
node_pid() { awk '{print $1; exit}' /proc/"$(cat "$LAB/n$1/outer")"/task/*/children; }

ns() {
	local n=$1
	shift
	nsenter -t "$(node_pid "$n")" -a "$@"
}

# node_restart N: what systemctl restart docker does to a node.
node_restart() {
	touch "$LAB/n$1/run/restart"
	ns "$1" sh -c 'kill "$(cat /run/docker.pid)"'
	until_true 60 "the dockerd of node $1 to end" restarted "$1"
	until_true 60 "the dockerd of node $1" dockerd_answers "$1"
}
restarted() { [ ! -e "$LAB/n$1/run/restart" ]; }

node_kill() {
	local dir=$1 pid
	pid=$(cat "$dir/outer" 2>/dev/null) || return 0
	# The number may have become another's since: only what still runs our init is ours.
	grep -qa "node-init.sh.$dir" "/proc/$pid/cmdline" 2>/dev/null || return 0
	kill -9 "$pid" 2>/dev/null || return 0
	local i
	for ((i = 0; i < 250; i++)); do
		grep -qs '^State:.[^ZX]' "/proc/$pid/status" || return 0
		sleep 0.02
	done
	die "node process $pid does not end"
}

nodes_down() {
	local found=no dir ns pid link pids=()
	for dir in "$LAB"/n*; do
		[ -d "$dir" ] || continue
		found=yes
		node_kill "$dir" & pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid"; done
	for ns in $(ip netns list | awk '{print $1}' | grep -E "^$P[0-9]+$" || true); do
		found=yes
		for pid in $(ip netns pids "$ns"); do kill -9 "$pid" 2>/dev/null || true; done
		ip netns del "$ns"
	done
	for link in $(ip -o link show | grep -oE "\b$P-(v[0-9]+|br)\b" | sort -ru); do
		ip link del "$link" 2>/dev/null || true
	done
	while iptables -D FORWARD -i $P-br -o $P-br -j ACCEPT 2>/dev/null; do :; done
	# Killed processes let go of their directories a moment later.
	local i
	for ((i = 0; i < 50; i++)); do
		find /sys/fs/cgroup -depth -type d -path "*/$P/*" -exec rmdir {} + 2>/dev/null || true
		find /sys/fs/cgroup -depth -type d -name $P -exec rmdir {} + 2>/dev/null || true
		rm -rf "$LAB" "$DISK" 2>/dev/null && break
		sleep 0.1
	done
	[ ! -e "$LAB" ] && [ ! -e "$DISK" ] || die "could not remove $LAB and $DISK"
	[ $found = no ] || step "what was there before is down"
}

swarm_up() {
	d 1 swarm init --advertise-addr "$(address 1)" --task-history-limit 2 >/dev/null
	local token n pids=() pid
	token=$(d 1 swarm join-token -q worker)
	for n in "${NODES[@]:1}"; do
		d "$n" swarm join --token "$token" --advertise-addr "$(address "$n")" "$(address 1):2377" >/dev/null & pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || die "a node could not join the Swarm (see above)"; done
	until_true 60 "all nodes Ready" nodes_ready
	for n in "${!COLLECTIONS[@]}"; do
		d 1 node update --label-add "collection=${COLLECTIONS[n]}" $P${NODES[n]} >/dev/null
	done
	step "Swarm of ${#NODES[@]} nodes is ready"
}
nodes_ready() { [ "$(d 1 node ls --format '{{.Status}}' | grep -c Ready)" = ${#NODES[@]} ]; }
