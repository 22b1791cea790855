# Sourced by scripts/test-vm: the Debian package on a host that runs. Before these nothing of torpor is installed, and after the last
# of them nothing is again. What is loaded into the VM must have `torpor.deb`, which scripts/release makes.

check_package_installs_and_serves() {
    inside '
    dpkg -i torpor.deb
    is "$(systemctl is-active torpord.socket)" active "the socket"
    within 60 torpor version >/dev/null
    is "$(systemctl is-enabled torpord.service)" enabled "the service"
    is "$(stat -c "%U:%G %a" /run/torpor/torpor.sock)" "root:torpor 660" "the socket file"
    [ -x /usr/bin/runsc ] || [ -x /usr/local/bin/runsc ] || cp runsc /usr/local/bin/runsc
    systemctl restart torpord.service
    torpor image import box box.tar >/dev/null
    web live
    is "$(visit live)" 1 "the counter"
    '
}

check_package_upgrade_leaves_pods() {
    inside '
    before=$(sandbox live) pid=$(main_pid)
    web asleep
    torpor sleep asleep >/dev/null
    dpkg -i torpor.deb
    within 60 sh -c "systemctl show -p MainPID --value torpord | grep -qvx -e 0 -e $pid"
    within 60 torpor version >/dev/null
    is "$(sandbox live)" "$before" "the pid of the sandbox"
    is "$(visit live)" 2 "the counter"
    is "$(pod asleep .state)" sleeping "one that sleeps"
    '
}

check_package_purge_leaves_nothing() {
    inside '
    dpkg -r torpor
    is "$(pgrep -c runsc-sandbox || true)" 0 "sandboxes after the removal"
    [ -e /var/lib/torpor/torpor.db ] || fail "removing takes what pods keep"
    dpkg -i torpor.deb
    within 60 torpor version >/dev/null
    is "$(pod live .state)" stopped "one that ran"
    torpor wake asleep >/dev/null
    is "$(visit asleep)" 1 "one that slept"
    dpkg -P torpor
    scripts/leak-check || fail "see above"
    left=$(find / -xdev \( -path /proc -o -path /root -o -path /var/log -o -path /var/lib/dpkg \) -prune -o -name "*torpor*" -print |
        grep -v -e "^/tmp" -e "/sys/kernel" || true)
    [ -z "$left" ] || fail "left: $left"
    left=$(find /run /sys/fs/cgroup -name "*torpor*" | grep -v -e "^/run/log" -e "^/run/udev" || true)
    [ -z "$left" ] || fail "left: $left"
    ! getent group torpor || fail "the group is there"
    '
}
