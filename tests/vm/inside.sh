# What every check's script inside the VM begins with.
set -eu
fail() { echo "failed: $*" >&2; exit 1; }
is() { [ "$1" = "$2" ] || fail "$3: $1, expected $2"; }
# within SECONDS COMMAND...: the command succeeds in that time.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || fail "not in time: $*"
        sleep 0.1
    done
}
pod() { torpor --json inspect "$1" | jq -r "(if type == \"array\" then .[0] else . end) | $2"; }
port() { pod "$1" '.ports[0].host'; }
visit() { curl -fsS --max-time 20 --retry 5 --retry-connrefused "http://127.0.0.1:$(port "$1")/${2:-}"; }
sandbox() { pod "$1" .sandboxPid; }
cgroup() { find /sys/fs/cgroup/torpor.slice -type d -name "$(pod "$1" .id)-*"; }
# web NAME [ARGUMENT...]: a pod that counts visits in its memory.
web() {
    name=$1
    shift
    torpor run -d --name "$name" -p 8000 --ready-tcp 8000 --ready-timeout 60 -m 128m "$@" box /bin/counter 8000 >/dev/null
}
gone() { torpor rm -f "$@" >/dev/null; }
main_pid() { systemctl show -p MainPID --value torpord.service; }
clean() {
    pods=$(torpor ps -aq)
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$pods" ] || torpor rm -f $pods >/dev/null
}
