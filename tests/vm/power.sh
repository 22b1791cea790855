# Sourced in the VM after other.sh: clients that are busy while the power fails. What they do and what was acknowledged stands in
# $acts (whole.py).
acts=$run/acts
marks=no
tell() {
    echo "$1 $2 $3" >>$acts
    [ $marks = no ] || dmsetup message f 0 mark "$1:$2:$3"
}
# act WORD NAME COMMAND...
act() {
    word=$1 what=$2
    shift 2
    tell begin "$word" "$what"
    if timeout 300 "$@" >/dev/null 2>&1; then tell acked "$word" "$what"; fi
}
# Each of them goes on until it is killed, or so often.
makes_pods() {
    n=0
    while [ $n -lt "$1" ]; do
        n=$((n + 1))
        act create "a$round-$n" torpor create --name "a$round-$n" box true
        [ $((n % 2)) = 0 ] || act rm "a$round-$n" torpor rm "a$round-$n"
    done
}
imports() {
    n=0
    while [ $n -lt "$1" ]; do
        n=$((n + 1))
        mkdir -p $run/import/d
        head -c 200k /dev/urandom >$run/import/d/one
        echo "$round $n" >$run/import/two
        act import "i$round-$n" torpor image import "i$round-$n" $run/import
        [ $((n % 2)) = 0 ] || act rmi "i$round-$n" torpor image rm "i$round-$n"
    done
}
naps() {
    n=0
    while [ $n -lt "$1" ]; do
        n=$((n + 1))
        act sleep $n torpor sleep nap
        act wake $n torpor wake nap
    done
}
takes_snapshots() {
    n=0
    while [ $n -lt "$1" ]; do
        n=$((n + 1))
        if id=$(timeout 300 torpor snapshot create busy 2>/dev/null); then tell acked snapshot "$id"; fi
    done
}

# busy_clients TIMES
busy_clients() {
    : >$acts
    clients=
    for client in makes_pods imports naps takes_snapshots; do
        $client "$1" &
        clients="$clients $!"
    done
}
acknowledged() { [ "$(grep -c '^acked' $acts)" -ge "$1" ]; }
end_clients() {
    # shellcheck disable=SC2086 # a list of pids
    kill $clients 2>/dev/null || true
    # shellcheck disable=SC2086
    wait $clients 2>/dev/null || true
}

# The state directory is whole enough for torpord itself: it starts, what sleeps wakes, and the newest snapshot is a pod.
goes_on() {
    booted_f
    torpor ps -a >/dev/null
    if [ "$(pod nap .state)" = sleeping ]; then
        torpor wake nap >/dev/null
        is "$(visit nap)" 2 "the counter of what slept"
    fi
    last=$(torpor --json snapshot ls | jq -r 'map(select(.podName == "busy")) | last | .id // empty')
    if [ -n "$last" ]; then
        torpor snapshot restore --name "copy-$round" "$last" >/dev/null
        is "$(visit "copy-$round")" 2 "the counter of a copy"
    fi
}

# An image, a pod that is saved again and again, and one that naps.
prepare() {
    round=0
    booted_f
    torpor image import box box.tar >/dev/null
    web busy
    web nap
}

# trial SEED HOW: the power fails at some moment while clients are busy. HOW: drops_writes or refuses_writes.
trial() {
    round=$1
    torpor stop -t 0 busy nap >/dev/null
    torpor start busy nap >/dev/null
    is "$(visit busy) $(visit nap)" "1 1" "the counters"
    busy_clients 1000
    # After so many acknowledged calls, and a moment more: how long that takes depends on the processor.
    calls=$(awk -v seed="$1" 'BEGIN { srand(seed); print 4 + int(12 * rand()) }')
    within 300 acknowledged "$calls"
    sleep "$(awk -v seed="$1" 'BEGIN { srand(seed + 2); print rand() }')"
    before=$(wc -l <$acts)
    $2
    sleep "$(awk -v seed="$1" 'BEGIN { srand(seed + 1); print 0.5 * rand() }')"
    all_die
    end_clients
    unmount_f
    healthy
    mount_f
    python3 whole.py check /f/state $acts "$before" >$run/saw || fail "seed $1: $(tail -n 5 $run/saw)"
    goes_on
    kept=$((${kept:-0} + $(cut -d" " -f1 <$run/saw)))
    trials=$((${trials:-0} + 1))
}
