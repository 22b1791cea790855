# Sourced by scripts/test-vm: the units. Checks are run in the order in which they stand here.

install_torpor() {
    # An emulated processor takes its time.
    inside 'mkdir -p /etc/torpor; echo "freeze-limit-seconds = 600" >/etc/torpor/torpor.toml
    scripts/install --from bin --runsc runsc --enable'
    inside 'torpor image import box box.tar >/dev/null'
}

check_units_are_clean() {
    inside '
    cd /usr/local/lib/systemd/system
    said=$(systemd-analyze verify --man=no torpord.service torpord.socket torpor.slice 2>&1)
    [ -z "$said" ] || fail "$said"
    # What is left is what it needs to make namespaces and mounts for pods (see the unit): no more than that, 7.2 of 10.
    systemd-analyze security --no-pager --threshold=72 torpord.service >/tmp/security ||
        fail "$(tail -n 1 /tmp/security)"
    echo "# $(tail -n 1 /tmp/security | sed "s/[^ -~]//g")"
    '
}

check_first_call_starts_the_daemon() {
    inside '
    systemctl stop torpord.service
    is "$(systemctl is-active torpord.service || true)" inactive "the service after a stop"
    is "$(systemctl is-active torpord.socket)" active "the socket after a stop of the service"
    is "$(stat -c "%U:%G %a" /run/torpor/torpor.sock)" "root:torpor 660" "the socket"
    torpor version >/dev/null
    is "$(systemctl is-active torpord.service)" active "the service after a call"
    '
}

check_readiness_is_real() {
    inside '
    # Recovery is over when systemd says that the service has started: a database that is locked holds both up.
    web ended
    box=$(sandbox ended)
    systemctl stop torpord.service
    kill -9 "$box"
    lock_database /var/lib/torpor "PRAGMA locking_mode = EXCLUSIVE"
    systemctl start --no-block torpord.service
    within 120 sh -c "[ \"\$(systemctl show -p MainPID --value torpord)\" != 0 ]"
    if curl -fsS --max-time 3 --unix-socket /run/torpor/torpor.sock http://torpor/health 2>/dev/null; then
        fail "it answers while its database is locked"
    fi
    is "$(systemctl is-active torpord.service || true)" activating "the service while its database is locked"
    kill $locker
    within 240 sh -c "[ \"\$(systemctl is-active torpord)\" = active ]"
    # From that moment: an answer at once, and what happened meanwhile is known.
    is "$(curl -fsS --max-time 20 --unix-socket /run/torpor/torpor.sock http://torpor/v1/pods/ended | jq -r .state)" stopped \
        "the pod whose sandbox ended meanwhile"
    gone ended
    # What it can not do without is missing: it does not say that it is ready, and nor does systemd.
    systemctl stop torpord.service
    mv /usr/local/lib/torpor/torpor-init /usr/local/lib/torpor/away
    if timeout 60 systemctl start torpord.service 2>/dev/null; then fail "it says that it is ready, and is not"; fi
    mv /usr/local/lib/torpor/away /usr/local/lib/torpor/torpor-init
    systemctl start torpord.service
    curl -fsS --max-time 30 --unix-socket /run/torpor/torpor.sock http://torpor/health | jq -e ".status == \"ok\"" >/dev/null
    '
}

check_doctor_finds_nothing() {
    inside '
    torpor --json doctor >/tmp/doctor || true
    bad=$(jq -r ".findings[] | select(.status == \"fail\") | .check + \": \" + .detail" /tmp/doctor)
    [ -z "$bad" ] || fail "$bad"
    '
}

# living COMMAND: a pod's sandbox stays, and its memory, whatever is done to the daemon. One pod lives through all of that.
living() {
    inside "
    [ \"\$(pod live .state 2>/dev/null)\" = running ] || web live
    count=\$(visit live)
    before=\$(sandbox live) pid=\$(main_pid) at=\$(port live)
    $1
    within 120 torpor version >/dev/null
    is \"\$(sandbox live)\" \"\$before\" 'the pid of the sandbox'
    kill -0 \"\$before\" || fail 'the sandbox is gone'
    is \"\$(pod live .state)\" running 'the state'
    is \"\$(visit live)\" \$((count + 1)) 'the counter'
    is \"\$(torpor exec live echo hello)\" hello exec
    [ \"\$(main_pid)\" != \"\$pid\" ] || fail 'it is the same torpord as before'
    journalctl -b -u torpord.service -o cat >/tmp/journal
    if grep left-over /tmp/journal >&2; then fail 'systemd found processes that were left over'; fi
    "
}
check_restart_leaves_pods() { living 'systemctl restart torpord.service'; }
check_kill_9_leaves_pods() { living 'kill -9 $pid; within 120 sh -c "systemctl show -p MainPID --value torpord | grep -qvx -e 0 -e $pid"'; }
check_stop_leaves_pods() {
    living 'systemctl stop torpord.service
    is "$(systemctl is-active torpord.service || true)" inactive "the service"
    kill -0 $before || fail "the sandbox did not outlive the stop"
    is "$(curl -fsS --max-time 60 http://10.0.2.15:$at/x)" /x "the pod by the host'"'"'s address while torpord is stopped"'
}
check_reload_of_systemd_leaves_limits() {
    living 'max=$(cat "$(cgroup live)/cpu.max")
    systemctl daemon-reload; systemctl daemon-reexec; systemctl restart torpord.service; systemctl daemon-reload
    is "$(cat "$(cgroup live)/cpu.max")" "$max" cpu.max'
}
check_watchdog_restarts_what_stands_still() {
    inside '
    mkdir -p /run/systemd/system/torpord.service.d
    printf "[Service]\nWatchdogSec=10\n" >/run/systemd/system/torpord.service.d/short.conf
    systemctl daemon-reload
    '
    living 'systemctl restart torpord.service
    pid=$(main_pid)
    # Its own time is enough for it, as long as it lives: it gives the word again and again.
    for time in 1 2; do
        word=$(systemctl show -p WatchdogTimestampMonotonic --value torpord)
        within 60 sh -c "[ \"\$(systemctl show -p WatchdogTimestampMonotonic --value torpord)\" != $word ]"
    done
    is "$(main_pid)" "$pid" "a torpord that works"
    kill -STOP $pid
    is "$(curl -fsS --max-time 60 http://10.0.2.15:$at/x)" /x "the pod while torpord stands still"
    within 120 sh -c "systemctl show -p MainPID --value torpord | grep -qvx -e 0 -e $pid"
    journalctl -b -u torpord.service -o cat | grep -q "Watchdog timeout" || fail "it was not the watchdog"'
    inside 'rm -r /run/systemd/system/torpord.service.d; systemctl daemon-reload; systemctl restart torpord.service'
}
check_who_connects_meanwhile_waits() {
    inside '
    torpor rm -f kept nap >/dev/null 2>&1 || true
    config=/etc/torpor/torpor.toml drop=/run/systemd/system/torpord.service.d
    stored() { systemctl show -p NFileDescriptorStore --value torpord.service; }
    stores() { [ "$(stored)" = "$1" ]; }
    listens() { ss -Hltne "sport = :$1" | grep -o "ino:[0-9]*"; }
    # Away for long enough that somebody comes meanwhile.
    mkdir -p $drop
    printf "[Service]\nRestartSec=20\n" >$drop/slow.conf
    printf "freeze-limit-seconds = 600\n[[listen]]\naddress = \"127.0.0.1:8099\"\n" >$config
    systemctl daemon-reload
    systemctl restart torpord.service
    before=$(stored)
    web kept
    web nap
    torpor sleep nap >/dev/null
    within 60 stores $((before + 2))
    at=$(port kept) asleep=$(port nap) pid=$(main_pid)
    same="$(listens 8099) $(listens "$at") $(listens "$asleep")"
    is "$(echo "$same" | wc -w)" 3 "sockets that listen"
    kill -9 "$pid"
    within 60 sh -c "[ \"\$(systemctl show -p SubState --value torpord.service)\" = auto-restart ]"
    curl -fsS --max-time 300 http://127.0.0.1:8099/health >/tmp/api 2>&1 &
    api=$!
    curl -fsS --max-time 300 "http://127.0.0.1:$at/x" >/tmp/kept 2>&1 &
    awake=$!
    curl -fsS --max-time 300 "http://127.0.0.1:$asleep/x" >/tmp/nap 2>&1 &
    sleeper=$!
    sleep 3
    is "$(systemctl show -p SubState --value torpord.service)" auto-restart "the service when they had asked"
    kill -0 $api $awake $sleeper || fail "somebody did not wait: $(cat /tmp/api /tmp/kept /tmp/nap)"
    wait $api || fail "the listener: $(cat /tmp/api)"
    wait $awake || fail "the pod: $(cat /tmp/kept)"
    is "$(cat /tmp/kept)" /x "what the pod said"
    code=0
    wait $sleeper || code=$?
    # Not refused (7): ended without a word, as by any sleeper.
    case $code in 52 | 56) ;; *) fail "the sleeper: curl ended with $code, $(cat /tmp/nap)" ;; esac
    [ "$(main_pid)" != "$pid" ] || fail "it is the same torpord as before"
    # In order, too: the same sockets, and no more of them.
    systemctl restart torpord.service
    is "$(listens 8099) $(listens "$at") $(listens "$asleep")" "$same" "the sockets"
    is "$(stored)" $((before + 2)) "descriptors in the store"
    is "$(curl -fsS --max-time 60 "http://127.0.0.1:$at/x")" /x "the pod after a restart"
    # What is not wanted any more is not kept.
    echo "freeze-limit-seconds = 600" >$config
    rm -r $drop
    systemctl daemon-reload
    gone kept nap
    systemctl restart torpord.service
    within 60 stores $((before - 1))
    is "$(listens 8099 || true)" "" "the listener that is not configured any more"
    systemctl stop torpord.service
    within 60 stores 0
    systemctl start torpord.service
    torpor version >/dev/null
    '
}
check_install_again_leaves_pods() { living 'scripts/install --from bin --enable; [ -x /usr/local/bin/runsc ]'; }
