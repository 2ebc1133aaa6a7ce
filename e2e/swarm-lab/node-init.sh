# node-init.sh DIR NAME STORE DRIVER: the first process inside a node's namespaces.
# STORE is where dockerd keeps its data: "tmpfs" or a directory.
set -eu
dir=$1 name=$2 store=$3 driver=$4

hostname "$name"
if [ "$store" = tmpfs ]; then mount -t tmpfs -o mode=711 tmpfs "$dir/run/data"; else mount --bind "$store" "$dir/run/data"; fi
mount --rbind "$dir/run" /run # the host reaches the node's sockets there
[ -L /var/run ] || mount --rbind /run /var/run
mkdir -p /run/lock

# /etc and /var/lib are the host's until something is written: dockerd keeps keys in
# the one and a network database in the other, wherever its data root is.
mount -t tmpfs -o mode=755 tmpfs /mnt
for path in etc var/lib; do
	mkdir -p "/mnt/new/$path" "/mnt/work/$path"
	mount -t overlay -o "lowerdir=/$path,upperdir=/mnt/new/$path,workdir=/mnt/work/$path" overlay "/$path"
done
mkdir -p /etc/docker /var/lib/docker
mount --bind /run/data /var/lib/docker
echo '{}' >/etc/docker/daemon.json

# A Swarm node asks the registry for an image even if it has it: with a name server
# that refuses at once each task starts at once; else each waits 20 s for no answer.
rm -f /etc/resolv.conf
echo nameserver 127.0.0.1 >/etc/resolv.conf

# cgroupfs and a parent of our own: nothing of these containers is systemd's, and what they leave behind can be found.
# It ends with its dockerd, unless lab.sh restarts that.
while :; do
	dockerd --storage-driver "$driver" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/${name%%[0-9]*}" &
	wait $! || true
	rm /run/restart 2>/dev/null || break
done
