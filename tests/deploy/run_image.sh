#!/bin/sh
# Runs the program of an unpacked image in the place of a binary: as the image's user, without
# capabilities, in the image's folder, with a root that cannot be written to. A file after
# --config is shown to it in the folder where the image's users mount theirs.
#
# IMAGE_ROOT is where the image is unpacked, IMAGE_UID its user and group, IMAGE_ENTRYPOINT its
# program, IMAGE_FOLDER its working folder, and IMAGE_CONFIG a file to show.
set -eu
export IMAGE_ENTRYPOINT="${IMAGE_ENTRYPOINT:-/readygate}"
export IMAGE_FOLDER="${IMAGE_FOLDER:-/etc/readygate}"
export IMAGE_CONFIG="${IMAGE_CONFIG:-}"
if [ "${1:-}" = --config ]; then
    IMAGE_CONFIG=$2
    shift 2
    set -- --config "$IMAGE_FOLDER/${IMAGE_CONFIG##*/}" "$@"
fi
# Everything is exec: signals go to the program itself.
# shellcheck disable=SC2016
exec unshare --mount --propagation private sh -eu -c '
    mount --bind "$IMAGE_ROOT" "$IMAGE_ROOT"
    folder=$IMAGE_ROOT$IMAGE_FOLDER
    if [ -n "$IMAGE_CONFIG" ]; then
        mount -t tmpfs -o mode=755 readygate "$folder"
        install -m 644 "$IMAGE_CONFIG" "$folder"
        mount -o remount,ro,bind "$folder"
    fi
    mount -o remount,ro,bind "$IMAGE_ROOT"
    exec setpriv --bounding-set=-all,+sys_chroot,+setuid,+setgid --no-new-privs \
        unshare --root "$IMAGE_ROOT" --wd "$IMAGE_FOLDER" \
        --setuid "$IMAGE_UID" --setgid "$IMAGE_UID" "$IMAGE_ENTRYPOINT" "$@"
' readygate "$@"
