# Sourced by scripts/test-vm: the state directory's disk has no room, can't be written, or fails. Every check has a torpord of
# its own on a disk of its own (other.sh), two pods that run, one of which writes lines all the time, and one that sleeps.

# on_disk SCRIPT: with those pods there. In it `lives` checks that neither has noticed anything.
on_disk() {
    inside "
    . ./other.sh
    trap 'forget_f' EXIT
    with_pods() {
        torpord_f
        torpor image import box box.tar >/dev/null
        web asleep
        is \"\$(visit asleep)\" 1 'the counter of the sleeper'
        torpor sleep asleep >/dev/null
        web busy
        torpor run -d --name talk -m 64m box sh -c 'n=0; while :; do n=\$((n + 1)); echo line \$n; usleep 50000; done' >/dev/null
        daemon=\$(pid_f) boxes=\"\$(sandbox busy) \$(sandbox talk)\" count=0
    }
    lives() {
        count=\$((count + 1))
        is \"\$(visit busy)\" \$count \"the counter of the pod \$1\"
        is \"\$(torpor exec talk echo hello)\" hello \"exec \$1\"
        is \"\$(pid_f)\" \"\$daemon\" \"torpord \$1\"
        is \"\$(sandbox busy) \$(sandbox talk)\" \"\$boxes\" \"the sandboxes \$1\"
    }
    # All that was refused works now, and nobody was started again for it.
    all_is_well() {
        lives \"\$1\"
        done_now POST 'images?name=small' '{\"directory\": \"/root/small\"}'
        done_now DELETE images/small
        done_now POST pods '{\"name\": \"new\", \"image\": \"box\", \"command\": [\"sleep\", \"1000\"]}'
        done_now DELETE 'pods/new?force=true'
        done_now POST pods/busy/sleep
        done_now POST pods/busy/wake
        boxes=\"\$(sandbox busy) \$(sandbox talk)\"
        lives \"after a sleep \$1\"
        done_now POST pods/asleep/wake
        is \"\$(visit asleep)\" 2 'the counter of the sleeper'
        n=\$(torpor logs -n 1 talk)
        within 120 sh -c \"[ \\\"\\\$(torpor logs -n 1 talk)\\\" != '\$n' ]\"
        # Lines that had no room are counted and told; all others are there, in order.
        call GET pods/talk/logs
        jq -r .line \$run/answer | awk '/were lost here/ { gap = 1; next } { if (\$2 != last + 1 && !gap) exit 1; last = \$2; gap = 0 }' ||
            fail 'lines of the log are missing, and nothing says so'
    }
    mkdir -p /root/small && head -c 300k /dev/urandom >/root/small/file
    $1"
}

check_quota_hurts_no_pod() {
    on_disk '
    OPTIONS=prjquota file_system xfs
    quota() { xfs_quota -x -c "$1" /f >/dev/null; }
    # Before there is anything in it: files of pods have no name by which they could be found later.
    mkdir /f/state
    quota "project -s -p /f/state 7"
    with_pods
    used=$(xfs_quota -x -c "report -p -N -b" /f | awk "\$1 == \"#7\" { print \$2 }")
    quota "limit -p bhard=$((used + 2 * 1024))k 7"
    lives "at its quota"
    # The writable layer of a pod hits it first: an error for who writes, and for nobody else.
    if torpor exec busy sh -c "head -c 8m /dev/urandom >/big && sync /big"; then fail "8 MiB within 2"; fi
    lives "after its writable layer was refused more"
    left=$(df --output=avail -k /f/state | tail -n 1)
    fallocate -l "${left}k" /f/state/filler 2>/dev/null || dd if=/dev/zero of=/f/state/filler bs=4k 2>/dev/null || true
    refused exhausted POST "images?name=small" "{\"directory\": \"/root/small\"}"
    refused exhausted POST pods/busy/sleep
    refused exhausted POST pods "{\"name\": \"new\", \"image\": \"box\", \"command\": [\"sleep\", \"1000\"]}"
    refused exhausted POST pods/asleep/wake
    lives "with its quota used up"
    rm -f /f/state/filler
    quota "limit -p bhard=0 7"
    torpor exec busy rm -f /big
    all_is_well "with more quota"
    '
}

check_read_only_disk_hurts_no_pod() {
    on_disk '
    file_system ext4
    with_pods
    # Every file system, by force, as the kernel does it on an emergency: what is open for writing is so no more.
    trap "mount -o remount,rw /; forget_f" EXIT
    echo u >/proc/sysrq-trigger
    within 120 sh -c "! touch /f/state/probe 2>/dev/null"
    lives "on a disk that is read-only"
    refused disk_failed POST "images?name=small" "{\"directory\": \"/root/small\"}"
    refused disk_failed POST pods "{\"name\": \"new\", \"image\": \"box\", \"command\": [\"sleep\", \"1000\"]}"
    refused disk_failed POST pods/busy/sleep
    refused disk_failed POST pods/busy/snapshots
    refused disk_failed POST pods/asleep/wake
    lives "on a disk that is read-only, after all that was refused"
    mount -o remount,rw /
    # ext4 is not written again while files without a name are open, as the roots of pods are: it takes a boot.
    all_die
    unmount_f
    mount_f
    booted_f
    is "$(pod asleep .state)" sleeping "the sleeper after a boot"
    done_now POST pods/asleep/wake
    is "$(visit asleep)" 2 "the counter of the sleeper"
    is "$(pod busy .exitReason)" host-restarted "why the pod that ran ended"
    done_now POST pods/busy/start
    is "$(visit busy)" 1 "the counter of the pod that is started again"
    '
}

check_failing_fsync_hurts_no_pod() {
    on_disk '
    # What fails are the files that are written. The journal of the file system is on a disk that works, and it is not written back
    # meanwhile: a file system ends itself when that fails, or is damaged, and nothing could go on by itself.
    mke2fs -q -F -O journal_dev -b 4096 /dev/vdc 16384
    file_system ext4 -b 4096 -J device=/dev/vdc
    sysctl -q vm.dirty_writeback_centisecs=0 vm.dirty_expire_centisecs=360000
    trap "sysctl -q vm.dirty_writeback_centisecs=500 vm.dirty_expire_centisecs=3000; forget_f" EXIT
    with_pods
    for time in 1 2; do
        refuses_writes
        lives "on a disk that fails"
        refused disk_failed POST "images?name=small" "{\"directory\": \"/root/small\"}"
        refused disk_failed POST pods "{\"name\": \"new\", \"image\": \"box\", \"command\": [\"sleep\", \"1000\"]}"
        refused "disk_failed|store_unavailable" POST pods/busy/sleep
        refused "disk_failed|store_unavailable" POST pods/busy/snapshots
        refused disk_failed POST pods/asleep/wake
        is "$(pod asleep .state)" sleeping "the sleeper"
        lives "on a disk that fails, after all that was refused"
        healthy
    done
    all_is_well "on a disk that works again"
    '
}

check_a_locked_database_is_survived() {
    on_disk '
    file_system ext4
    with_pods
    lock_database /f/state
    lives "while its database is locked"
    refused in_use POST pods "{\"name\": \"new\", \"image\": \"box\", \"command\": [\"sleep\", \"1000\"]}"
    refused in_use POST pods/asleep/wake
    lives "while its database is locked, after what was refused"
    kill $locker
    all_is_well "with its database unlocked"
    '
}
