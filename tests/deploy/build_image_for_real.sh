#!/usr/bin/env bash
# Builds deploy/docker/Dockerfile with the compiler, where its base image cannot be pulled.
#
# In the place of the base image stands a Debian of the same release, made by debootstrap, with
# the toolchain and the crates of this machine as volumes. It takes minutes, so that CI does not
# do it: test_image.py does everything but the compiling. The files of the image are then in the
# folder that is printed at the end; tests/interop can be run on it:
#
#   export IMAGE_ROOT=FOLDER IMAGE_UID=65532 READYGATE=$PWD/tests/deploy/run_image.sh
#   tests/interop/run.sh test_delivery.py test_late_backend.py
#
# For root, with buildah and debootstrap. The storage is below FOLDER, the first argument.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(realpath "${1:?a folder for the storage is missing}")
base=$(sed -n 's/^FROM \(.*\) AS build$/\1/p' "$root/deploy/docker/Dockerfile")
cargo=${CARGO_HOME:-$HOME/.cargo}
rustup=${RUSTUP_HOME:-$HOME/.rustup}

buildah() {
    command buildah --storage-driver vfs --root "$folder/root" --runroot "$folder/run" "$@"
}

make_base() {
    local rootfs=$folder/rootfs container
    debootstrap --variant=minbase --include=gcc,libc6-dev,make,ca-certificates bookworm "$rootfs"
    # This machine's way to the packages of Debian.
    cp -r /etc/apt/sources.list.d /etc/apt/apt.conf.d "$rootfs/etc/apt/"
    cp /etc/ssl/certs/ca-certificates.crt "$rootfs/etc/ssl/certs/"
    mkdir -p "$rootfs/usr/local/rustup" "$rootfs/usr/local/cargo"
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$rootfs" /
    buildah config --env RUSTUP_HOME=/usr/local/rustup --env CARGO_HOME=/usr/local/cargo \
        --env CARGO_NET_OFFLINE=true \
        --env PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$base"
    rm -rf "$rootfs"
}

buildah inspect --type image "$base" &>/dev/null || make_base
buildah bud --pull-never --isolation chroot --format docker --timestamp 0 --layers=false \
    --volume "$rustup:/usr/local/rustup" --volume "$cargo:/usr/local/cargo" \
    --build-arg COMMIT="$(git -C "$root" rev-parse HEAD)" \
    --tag readygate --file "$root/deploy/docker/Dockerfile" "$root"
buildah mount "$(buildah from --pull-never readygate)"
