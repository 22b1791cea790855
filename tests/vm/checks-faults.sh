# Sourced by scripts/test-vm: what may happen to a host.

check_power_cut_loses_nothing_acknowledged() {
    inside '
    clean
    web awake
    web asleep
    visit asleep >/dev/null
    torpor sleep asleep >/dev/null
    torpor create --name made box /bin/counter 8000 >/dev/null
    web late
    '
    power_cut
    inside '
    within 240 torpor version >/dev/null
    is "$(pod awake .state)" stopped "the pod that ran"
    is "$(pod awake .exitReason)" host-restarted "why it ended"
    is "$(pod late .state)" stopped "the pod acknowledged last"
    is "$(pod made .state)" created "the pod that was made"
    is "$(pod asleep .state)" sleeping "the sleeper"
    torpor wake asleep >/dev/null
    is "$(visit asleep)" 2 "the counter of the sleeper"
    torpor start awake >/dev/null
    is "$(visit awake)" 1 "the counter of the pod started again"
    within 60 scripts/leak-check
    clean
    '
}

check_reboot_in_order() {
    inside '
    web awake
    web asleep
    is "$(visit asleep)" 1 "the counter"
    torpor sleep asleep >/dev/null
    web again --restart always
    is "$(visit again) $(visit again)" "1 2" "the counter"
    for policy in unless-stopped on-failure; do
        torpor run -d --name "$policy" --restart $policy -m 64m box sleep 1000000 >/dev/null
    done
    torpor run -d --name stopped --restart unless-stopped -m 64m box sleep 1000000 >/dev/null
    torpor stop -t 0 stopped >/dev/null
    sync
    systemctl reboot
    ' || true
    reboot
    inside '
    within 240 systemctl -q is-active torpord.service
    is "$(pod asleep .state)" sleeping "the sleeper"
    torpor wake asleep >/dev/null
    echo "# $(cut -d. -f1 /proc/uptime) s from the start of the kernel until a sleeper is awake"
    is "$(visit asleep)" 2 "the counter of the sleeper"
    is "$(pod awake .state)" stopped "the pod that ran, and is not to be started again"
    is "$(pod awake .exitReason)" host-restarted "why it ended"
    # By their policies; its address is the same, so its port leads to it.
    for name in again unless-stopped on-failure; do
        within 240 sh -c "torpor --json inspect $name | jq -e \".[0].state == \\\"running\\\"\" >/dev/null"
    done
    is "$(visit again)" 1 "the counter of the pod that is started again"
    is "$(pod stopped .state)" stopped "the pod that somebody had stopped"
    journalctl -b -1 -o cat >/tmp/journal
    if grep -E "timed out|State .stop-sigterm. timed" /tmp/journal >&2; then fail "the shutdown waited for something"; fi
    clean
    '
}
check_pods_sleep_over_a_shutdown() {
    inside '
    web goes_on
    visit goes_on >/dev/null
    torpor update --on-shutdown sleep goes_on >/dev/null
    torpor run -d --name back --restart unless-stopped -m 64m box sleep 1000000 >/dev/null
    is "$(systemctl is-active torpor-pods.service)" active "what brings pods down"
    systemctl reboot
    ' || true
    reboot
    inside '
    within 240 systemctl -q is-active torpord.service
    within 240 sh -c "torpor --json inspect goes_on | grep -q running"
    is "$(visit goes_on)" 2 "the counter of one that slept over it"
    within 60 sh -c "torpor --json inspect back | grep -q running"
    is "$(pod back .exitReason)" null "one that its policy started"
    journalctl -b -1 -u torpor-pods.service -o cat | grep -q "asleep: goes_on" || fail "torpor-pods.service did not say so"
    clean
    '
}

# qemu ends when the guest reboots.
reboot() {
    end=$(($(date +%s) + 400))
    while vm list | grep -qx "$name"; do
        [ "$(date +%s)" -lt $end ] || { echo "it does not reboot"; return 1; }
        sleep 0.5
    done
    vm up 2>/dev/null
}

check_clock_jumps() {
    inside '
    web jump
    web slept
    is "$(visit jump) $(visit slept)" "1 1" "the counters"
    torpor sleep slept >/dev/null
    kept=$(torpor snapshot create jump)
    # Its command ends just before each jump, and is due to be started again.
    torpor run -d --name again --restart always -m 64m box sleep 1000000 >/dev/null
    again() { [ "$(pod again ".state + \" \" + (.restartCount | tostring)")" = "running $1" ]; }
    count=0
    before=$(sandbox jump) was=$(date +%s) daemon=$(main_pid)
    # A day on, ten years on, a day back, and back to before all of that: more than ten years.
    for by in 86400 315576000 -86400 -315662400; do
        within 240 again $count
        # It may end with the pod that it ends.
        torpor exec again killall sleep || true
        date -s "@$(($(date +%s) + by))" >/dev/null
        is "$(pod jump .state)" running "the state after a jump by $by s"
        visit jump x >/dev/null
        is "$(torpor exec jump echo hello)" hello "exec after a jump by $by s"
        count=$((count + 1))
        within 240 again $count
        is "$(sandbox jump)" "$before" "the sandbox after a jump by $by s"
        is "$(main_pid)" "$daemon" "torpord after a jump by $by s"
        is "$(pod slept .state)" sleeping "the sleeper after a jump by $by s"
        torpor snapshot ls | grep -q "$(echo "$kept" | cut -c1-8)" || fail "the snapshot is gone after a jump by $by s"
    done
    gone again
    torpor sleep jump >/dev/null
    date -s "@$was" >/dev/null
    torpor wake jump slept >/dev/null
    is "$(visit jump) $(visit slept)" "2 2" "the counters"
    torpor snapshot restore --name old "$kept" >/dev/null
    is "$(visit old)" 2 "the counter of the snapshot"
    torpor snapshot rm "$kept" >/dev/null
    torpor stop -t 1 jump >/dev/null
    is "$(pod jump .state)" stopped "the state"
    systemctl restart torpord.service
    clean
    '
}

check_full_disk_hurts_no_pod() {
    inside '
    web full
    visit full >/dev/null
    # Nearly, as when something else fills it: not even torpord has a byte more. Root has its reserve, so that goes too.
    fallocate -l "$(($(df --output=avail -B1 /var/lib/torpor | tail -n 1)))" /var/lib/filler || true
    dd if=/dev/zero of=/var/lib/filler2 bs=64k 2>/dev/null || true
    is "$(pod full .state)" running "the state"
    visit full x >/dev/null
    is "$(torpor exec full echo hello)" hello exec
    if said=$(torpor sleep full 2>&1); then fail "it slept on a full disk"; fi
    case $said in *space* | *full* | *reserve* | *free*) ;; *) fail "it does not say why: $said" ;; esac
    echo "# $(echo "$said" | head -n 1)"
    is "$(pod full .state)" running "the state after a sleep that failed"
    rm -f /var/lib/filler /var/lib/filler2
    torpor sleep full >/dev/null
    torpor wake full >/dev/null
    is "$(visit full)" 2 "the counter"
    gone full
    '
}
