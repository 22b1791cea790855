# What every check's script inside the VM begins with.
set -eu
fail() { echo "failed: $*" >&2; exit 1; }
is() { [ "$1" = "$2" ] || fail "$3: $1, expected $2"; }
# within SECONDS COMMAND...: the command succeeds in that time.
within() {
    read -r up _ </proc/uptime
    end=$((${up%.*} + $1))
    shift
    until "$@"; do
        read -r up _ </proc/uptime
        [ "${up%.*}" -lt "$end" ] || fail "not in time: $*"
        sleep 0.1
    done
}
# pod NAME QUESTION: what the API says of it, asked with jq.
pod() {
    socket=${TORPOR_HOST:-unix:///run/torpor/torpor.sock}
    curl -fsS --max-time 120 --unix-socket "${socket#unix://}" "http://torpor/v1/pods/$1" | jq -r "$2"
}
port() { pod "$1" '.ports[0].host'; }
visit() { curl -fsS --max-time 60 --retry 5 --retry-connrefused "http://127.0.0.1:$(port "$1")/${2:-}"; }
sandbox() { pod "$1" .sandboxPid; }
cgroup() { find /sys/fs/cgroup/torpor.slice -type d -name "$(pod "$1" .id)-*"; }
# web NAME [ARGUMENT...]: a pod that counts visits in its memory.
web() {
    name=$1
    shift
    torpor run -d --name "$name" -p 8000 --ready-tcp 8000 --ready-timeout 240 -m 128m "$@" box /bin/counter 8000 >/dev/null
}
gone() { torpor rm -f "$@" >/dev/null; }
main_pid() { systemctl show -p MainPID --value torpord.service; }
clean() {
    pods=$(torpor ps -aq)
    # shellcheck disable=SC2086 # a list of ids
    [ -z "$pods" ] || torpor rm -f $pods >/dev/null
}
# lock_database STATE [HOW]: another program keeps torpord's database locked, until `kill $locker`. HOW: what SQLite is told first.
lock_database() {
    : >/tmp/held
    python3 -c '
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1] + "/torpor.db", isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(120)
' "$1" "${2:-PRAGMA user_version}" >/tmp/held 2>&1 &
    locker=$!
    within 120 grep -q locked /tmp/held
}
