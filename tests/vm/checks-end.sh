# Sourced by scripts/test-vm: what is left when torpor goes. The last one.

check_uninstall_leaves_nothing() {
    inside '
    web last
    torpor sleep last >/dev/null
    web live
    if scripts/install --uninstall >/tmp/said 2>&1; then fail "it took away live pods unasked"; fi
    grep -q "2 pods" /tmp/said || fail "it does not say why: $(cat /tmp/said)"
    scripts/install --uninstall --force
    scripts/leak-check || fail "see above"
    left=$(find / -xdev \( -path /proc -o -path /root -o -path /var/log \) -prune -o -name "*torpor*" -print |
        grep -v -e "^/tmp" -e "/sys/kernel" || true)
    [ -z "$left" ] || fail "left: $left"
    left=$(find /run /sys/fs/cgroup -name "*torpor*" | grep -v -e "^/run/log" -e "^/run/udev" || true)
    [ -z "$left" ] || fail "left: $left"
    is "$(systemctl list-units --all --no-legend "torpor*")" "" "units"
    is "$(systemctl list-unit-files --no-legend "torpor*")" "" "unit files"
    ! getent group torpor || fail "the group is there"
    '
    install_torpor
    inside 'web again; is "$(visit again)" 1 "a pod after installing anew"; clean; scripts/install --uninstall; scripts/leak-check'
}
