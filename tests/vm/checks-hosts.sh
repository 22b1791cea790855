# Sourced by scripts/test-vm: two hosts that share a store, an S3 server on this machine; and the engine that Debian ships.

# The other VM boots while the checks before this one run.
other=$name-b
other_vm() { command=$1; shift; VM_DISKS=1G VM_MEMORY=1536 "$root/scripts/vm" "$command" --name "$other" "$@"; }
begin_other() {
    { other_vm up && echo up >"$work/other.up" || echo failed >"$work/other.up"; } >"$work/other" 2>&1 </dev/null &
    other_boots=$!
}
# on_other SCRIPT: as `inside`, on the other host.
on_other() { on_vm "$other" "$1"; }

# A bucket on this machine, which the VMs reach at 10.0.2.2.
begin_s3() {
    command -v s3s-fs >/dev/null || { echo "there is no s3s-fs: scripts/setup --test-tools"; return 1; }
    [ ! -f "$work/s3.pid" ] || kill "$(cat "$work/s3.pid")" 2>/dev/null || true
    mkdir -p "$work/s3/bucket"
    s3=23100
    while :; do
        s3s-fs --access-key key --secret-key canary-3f9c --host 127.0.0.1 --port $s3 "$work/s3" >"$work/s3.log" 2>&1 &
        s3_pid=$!
        echo $s3_pid >"$work/s3.pid"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            ! curl -sS -o /dev/null --max-time 2 "http://127.0.0.1:$s3/" 2>/dev/null || break
            sleep 0.2
        done
        ! kill -0 $s3_pid 2>/dev/null || return 0
        [ $s3 -lt 23199 ] || { cat "$work/s3.log"; return 1; }
        s3=$((s3 + 1))
    done
}
# What both hosts are told.
shared_store() {
    cat <<STORE
    printf 'AWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=canary-3f9c\nAWS_REGION=us-east-1\nAWS_ENDPOINT_URL=http://10.0.2.2:$s3\n' >/etc/torpor/environment
    printf 'store = "s3://bucket/shared"\nstore-allow-http = true\nfreeze-limit-seconds = 600\n' >/etc/torpor/torpor.toml
    systemctl restart torpord.service
STORE
}

# Both hosts are there, with torpor on them and a store that they share.
share_a_store() {
    [ ! -f "$work/shared" ] || { inside clean; on_other clean; return 0; }
    begin_s3
    end=$(($(date +%s) + 700))
    until [ -f "$work/other.up" ]; do
        [ "$(date +%s)" -lt $end ] || { echo "the other VM does not boot"; return 1; }
        sleep 0.2
    done
    grep -q up "$work/other.up" || { cat "$work/other"; return 1; }
    load_into "$other"
    on_other "scripts/install --from bin --runsc runsc --enable; $(shared_store)"
    inside "clean; cp /etc/torpor/torpor.toml /root/torpor.toml; $(shared_store)
    torpor image import box box.tar >/dev/null"
    touch "$work/shared"
}

check_a_pod_sleeps_here_and_wakes_there() {
    share_a_store
    inside '
    web travels
    is "$(visit travels) $(visit travels)" "1 2" "the counter"
    torpor exec travels sh -c "echo written >/kept"
    torpor sleep travels >/dev/null
    pod travels .snapshot >/root/snapshot
    '
    snapshot=$(inside 'cat /root/snapshot')
    # There: no image, no layer, nothing but the store.
    on_other "snapshot=$snapshot"'
    is "$(torpor image ls | wc -l)" 1 "lines of the list of images"
    torpor snapshot ls | grep -q travels || fail "the snapshot is not seen here"
    torpor snapshot restore --name travels $snapshot >/dev/null
    is "$(visit travels)" 3 "the counter"
    is "$(torpor exec travels cat /kept)" written "what was written to the root"
    torpor sleep travels >/dev/null
    pod travels .snapshot >/root/snapshot
    '
    back=$(on_other 'cat /root/snapshot')
    [ "$back" != "$snapshot" ] || { echo "it sleeps in the same snapshot as before"; return 1; }
    # And back again, while the first one still sleeps here.
    inside "snapshot=$back"'
    torpor snapshot restore --name returned $snapshot >/dev/null
    is "$(visit returned)" 4 "the counter of the one that came back"
    torpor wake travels >/dev/null
    is "$(visit travels)" 3 "the counter of the one that stayed"
    clean
    '
    on_other clean
}

# Both hosts use one bucket at once, and the other's clock is ten minutes ahead: each removes what is its own and nothing else.
check_hosts_that_share_a_store_leave_each_others_alone() {
    share_a_store
    inside 'web here; is "$(visit here)" 1 "the counter"; torpor snapshot create here >/root/snapshot'
    snapshot=$(inside 'cat /root/snapshot')
    on_other 'date -s "@$(($(date +%s) + 600))" >/dev/null; systemctl restart torpord.service'
    on_other "snapshot=$snapshot"'
    for n in 1 2 3; do
        torpor snapshot restore --name there-$n $snapshot >/dev/null
        torpor sleep there-$n >/dev/null
    done
    torpor rm -f there-1 >/dev/null
    torpor wake there-2 >/dev/null
    is "$(visit there-2)" 2 "the counter"
    ' &
    there=$!
    inside '
    for n in 1 2 3; do
        kept=$(torpor snapshot create here)
        torpor sleep here >/dev/null
        torpor wake here >/dev/null
        torpor snapshot rm "$kept" >/dev/null
    done
    systemctl restart torpord.service
    is "$(visit here)" 2 "the counter"
    '
    wait $there || { echo "the other host"; return 1; }
    # What the one removes is gone for the other, and what is not the one'"'"'s own stays.
    inside "torpor snapshot rm $snapshot >/dev/null; clean"
    on_other "snapshot=$snapshot"'
    if torpor snapshot restore --name gone $snapshot 2>/tmp/said; then fail "a snapshot that was removed"; fi
    grep -q "no snapshot" /tmp/said || fail "it does not say why: $(cat /tmp/said)"
    torpor wake there-3 >/dev/null
    is "$(visit there-3)" 2 "the counter of what sleeps on"
    clean
    systemctl stop torpord.service
    within 60 scripts/leak-check
    '
    inside 'cp /root/torpor.toml /etc/torpor/torpor.toml; rm /etc/torpor/environment; systemctl restart torpord.service'
    left=$(find "$work/s3/bucket" -path '*v1/snapshots/*' -type f -o -path '*v1/packs/*' -type f | grep -v '\.internal' || true)
    [ -z "$left" ] || { echo "left in the store: $left"; return 1; }
    other_vm down
    kill "$(cat "$work/s3.pid")"
}

check_debians_engine() {
    [ -x "$old_runsc" ] || { echo "# there is no runsc 20240729: skipped"; return 0; }
    inside '
    . ./other.sh
    trap forget_f EXIT
    runsc=/root/torpor/runsc-20240729
    file_system ext4
    torpord_f
    torpor version
    torpor image import box box.tar >/dev/null
    web old
    is "$(visit old)" 1 "the counter"
    is "$(torpor exec old echo hello)" hello exec
    is "$(cat "$(cgroup old)/memory.max")" 134217728 memory.max
    torpor sleep old >/dev/null
    torpor wake old >/dev/null
    is "$(visit old)" 2 "the counter after a sleep"
    # Its pods go on with it when torpord has another one for new pods.
    systemctl stop torpord-f
    runsc=/usr/local/bin/runsc
    torpord_f
    is "$(visit old)" 3 "the counter with another torpord"
    torpor sleep old >/dev/null
    torpor wake old >/dev/null
    is "$(visit old)" 4 "the counter after another sleep"
    web new
    is "$(visit new)" 1 "the counter of a new pod"
    '
}
