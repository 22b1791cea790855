# Sourced by the scripts beside it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${TORPOR_CACHE:-/var/cache/torpor-build}
tools=$cache/tools/bin
export PATH=$tools:$PATH

go_version=1.26.3
runsc_version=v0.0.0-20260905035102-160fafc42237
nextest_version=0.9.143
deny_version=0.20.2
deb_version=3.8.0
s3s_version=0.14.1
rust_needed=1.89

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { echo "error: $1" >&2; [ $# -lt 2 ] || echo "hint: $2" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "$0 must be run by root" "sudo $0 $*"; }

# With sudo, Rust of the caller is found too.
if [ -n "${SUDO_USER:-}" ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    if [ -d "$home/.cargo/bin" ]; then
        PATH=$PATH:$home/.cargo/bin
        export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
    fi
fi

# version_at_least A B: whether A is B or newer.
version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }

# install_packages NAME...: by apt, quietly.
install_packages() {
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
