#!/usr/bin/env bash
# Runs the interop suite; arguments go to pytest: tests/interop/run.sh -k autobahn
#
# Installs what the suite needs into target/interop, when missing or changed, and
# tests the binary $READYGATE, by default the debug build of this checkout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
installed=$root/target/interop
mkdir -p "$installed"

# A copy of the list, written last, says that the install is complete and current.
install_python() {
    local venv=$installed/venv
    cmp -s "$here/requirements.txt" "$venv/requirements.txt" && return
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --requirement "$here/requirements.txt"
    "$venv/bin/pip" check --quiet --disable-pip-version-check
    cp "$here/requirements.txt" "$venv/requirements.txt"
}

install_node() {
    local node=$installed/node
    cmp -s "$here/package-lock.json" "$node/installed-lock.json" && return
    rm -rf "$node"
    mkdir -p "$node"
    cp "$here/package.json" "$here/package-lock.json" "$node"
    npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund --loglevel=error
    cp "$here/package-lock.json" "$node/installed-lock.json"
}

# curl, h2load, wrk, slowhttptest, Chromium and promtool come from the system.
install_programs() {
    local missing=()
    command -v curl >/dev/null || missing+=(curl)
    command -v h2load >/dev/null || missing+=(nghttp2-client)
    command -v wrk >/dev/null || missing+=(wrk)
    command -v slowhttptest >/dev/null || missing+=(slowhttptest)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v promtool >/dev/null || missing+=(prometheus)
    ((${#missing[@]})) || return 0
    if ((EUID)) || ! command -v apt-get >/dev/null; then
        echo "missing programs; install the Debian packages: ${missing[*]}" >&2
        exit 2
    fi
    # One at a time: the other suite may be installing, too.
    local apt="flock /tmp/readygate-apt.lock apt-get"
    $apt update -qq
    $apt install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_programs
install_python
install_node

if [[ -z ${READYGATE:-} ]]; then
    # cargo builds what is absent or older than its source, and else nothing.
    cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --bin readygate
    READYGATE=${CARGO_TARGET_DIR:-$root/target}/debug/readygate
fi
if [[ ! -f $READYGATE || ! -x $READYGATE ]]; then
    echo "READYGATE=$READYGATE is not a program" >&2
    exit 2
fi
READYGATE=$(realpath "$READYGATE")

export READYGATE
export NODE_PATH=$installed/node/node_modules
export READYGATE_INTEROP_REPORTS=$installed/reports
export PYTHONDONTWRITEBYTECODE=1
export PATH=$installed/venv/bin:$PATH
cd "$here"
exec "$installed/venv/bin/python" -m pytest "$@"
