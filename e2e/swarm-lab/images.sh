# images.sh: the images, without a registry: what deploy/Dockerfile makes and a public
# image of Envoy are a directory each, that becomes one layer; the proxies' image is
# built by deploy/Dockerfile.envoy from the two. Sourced by lab.sh.

images_rootfs() {
	local root=$LAB/images
	mkdir -p "$root"/{waggle/etc,envoy/{etc/envoy,tmp,usr/local/bin}}
	printf 'root:x:0:0::/:\nenvoy:x:101:101::/:\nnobody:x:65534:65534::/:\n' | tee "$root/waggle/etc/passwd" >"$root/envoy/etc/passwd"
	printf 'root:x:0:\nenvoy:x:101:\nnogroup:x:65534:\n' | tee "$root/waggle/etc/group" >"$root/envoy/etc/group"

	cp "$WAGGLE" "$root/waggle/waggle"
	install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/waggle/etc/ssl/certs/ca-certificates.crt"

	# Envoy is linked against glibc: the binary, the libraries it names with their loader, and the authorities for TLS.
	cp "$ENVOY" "$root/envoy/usr/local/bin/envoy"
	local library
	for library in $(ldd "$ENVOY" | grep -oE '/[^ ]+\.so[^ ]*' | sort -u); do
		install -D "$library" "$root/envoy$library"
	done
	install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/envoy/etc/ssl/certs/ca-certificates.crt"
	chmod 1777 "$root/envoy/tmp"
}

# images_load N: the images into node N, but for those that are built.
images_load() {
	import() { # tag, directory, changes…
		local tag=$1 root=$LAB/images/$2 changes=() change
		shift 2
		for change in "$@"; do changes+=(--change "$change"); done
		tar -C "$root" --owner=0 --group=0 -c . | d "$n" import "${changes[@]}" - "$tag" >/dev/null
	}
	local n=$1
	import wgl/waggle:lab waggle 'ENTRYPOINT ["/waggle"]' 'CMD ["serve"]' 'USER 65532:65532' 'ENV PATH=/'
	import wgl/echo:lab waggle 'ENTRYPOINT ["/waggle","echo"]' 'USER 65534:65534' 'ENV PATH=/'
	import wgl/envoy:lab envoy 'ENTRYPOINT ["/usr/local/bin/envoy"]' 'CMD ["-c","/etc/envoy/envoy.yaml"]' 'USER 101:101' 'ENV PATH=/usr/local/bin'
}

# images_build N: the images that are built from these, on node N. The builder of old,
# which every Docker has, runs nothing here: it copies.
images_build() {
	build() { # tag, arguments…
		local out tag=$1
		shift
		out=$(DOCKER_BUILDKIT=0 d "$n" build -t "$tag" "$@" 2>&1) || {
			echo "$out" >&2
			return 1
		}
	}
	local n=$1
	build wgl/proxy:lab -f "$ROOT/deploy/Dockerfile.envoy" \
		--build-arg WAGGLE_IMAGE=wgl/waggle:lab --build-arg ENVOY_IMAGE=wgl/envoy:lab "$ROOT/deploy" &&
		build wgl/socket-proxy:lab "$HERE/socket-proxy"
}
