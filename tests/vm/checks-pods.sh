# Sourced by scripts/test-vm: pods on cgroup v2.

check_a_pod_runs_and_answers() {
    inside '
    web one
    is "$(visit one)" 1 "the counter"
    is "$(torpor exec one sh -c "echo \$((6 * 7))")" 42 exec
    is "$(cat /proc/$(sandbox one)/oom_score_adj)" 0 "the sandbox before the OOM killer"
    kill -0 "$(sandbox one)"
    here=$(sed "s/^0:://" /proc/$(sandbox one)/cgroup)
    is "/sys/fs/cgroup$here" "$(cgroup one)" "the cgroup of the sandbox"
    gone one
    '
}

check_memory_limit_is_oom() {
    inside '
    torpor run -d --name hog -m 96m box sh -c "sleep 1; tail -c 400m /dev/zero" >/dev/null
    until [ "$(pod hog .state)" != running ]; do sleep 0.5; done
    is "$(pod hog .exitReason)" oom "why it ended"
    torpor version >/dev/null
    gone hog
    '
}

check_pids_limit_holds() {
    inside '
    web forks --pids-limit 64
    is "$(cat "$(cgroup forks)/pids.max")" 64 pids.max
    gone forks
    torpor run -d --name bomb --pids-limit 48 -m 256m box sh -c "while :; do sleep 1000 & done" >/dev/null || true
    # It may end of it, or go on at its limit: the host has no more of its tasks.
    end=$(($(date +%s) + 5))
    while [ "$(date +%s)" -lt $end ]; do
        dir=$(cgroup bomb)
        [ -z "$dir" ] || [ "$(cat "$dir/pids.current" 2>/dev/null || echo 0)" -le 48 ] || fail "more tasks than allowed"
        sleep 0.2
    done
    gone bomb
    '
}

check_cpu_quota_holds() {
    inside '
    torpor run -d --name spin --cpus 0.5 -m 128m box sh -c "while :; do :; done" >/dev/null
    sleep 2
    stat=$(cgroup spin)/cpu.stat
    used() { sed -n "s/^usage_usec //p" "$stat"; }
    now() { date +%s%N; }
    a=$(used) t=$(now)
    sleep 6
    b=$(used) u=$(now)
    percent=$(((b - a) * 100000 / (u - t)))
    [ $percent -le 56 ] && [ $percent -ge 10 ] || fail "$percent % of a processor, 50 are allowed"
    echo "# $percent % of a processor used, 50 allowed"
    gone spin
    '
}

check_sleeps_and_wakes_with_its_counter() {
    inside '
    web dream
    visit dream >/dev/null
    visit dream >/dev/null
    torpor sleep dream >/dev/null
    is "$(pod dream .state)" sleeping "the state"
    [ -z "$(cgroup dream)" ] || fail "a sleeper has a cgroup"
    torpor wake dream >/dev/null
    is "$(visit dream)" 3 "the counter"
    is "$(cat "$(cgroup dream)/memory.max")" 134217728 memory.max
    gone dream
    '
}
