# Sourced by scripts/test-vm: the Debian package on a host that runs. They go together, in this order: what another way of installing
# left is taken away first, and after the last of them nothing of torpor is there.

# package SCRIPT: with the packages there, of this version and of one before it (packing makes both).
package() {
    [ -f "$load/torpor.deb" ] || { echo "# there is no cargo-deb (scripts/setup --release-tools): skipped"; return 0; }
    inside "export DEBIAN_FRONTEND=noninteractive
    # what DPKG ARGUMENTS...: with what it says, if it fails.
    quiet() { \"\$@\" >/tmp/dpkg 2>&1 || fail \"\$*: \$(cat /tmp/dpkg)\"; }
    version() { dpkg-query -W -f '\${Version}' torpor; }
    $1"
}
# make_packages DIR: what these checks install. The one before differs by its version alone: how far a host that goes back gets is
# for each release's own notes.
make_packages() {
    command -v cargo-deb >/dev/null || return 0
    scripts/release --profile dev --no-build --out "$1" >/dev/null
    mv "$1"/torpor_*.deb "$load/torpor.deb"
    dpkg-deb -R "$load/torpor.deb" "$1/before"
    sed -i 's/^Version: .*/Version: 0.0.0/' "$1/before/DEBIAN/control"
    dpkg-deb -Znone --root-owner-group -b "$1/before" "$load/torpor-before.deb" >/dev/null
}

check_package_installs_and_serves() {
    package '
    [ ! -x /usr/local/bin/torpord ] || { clean; scripts/install --uninstall; }
    quiet dpkg -P torpor
    rm -rf /etc/torpor
    # As Vagrant makes a new VM a host; and once more, as it does when it is asked to.
    for time in once again; do
        quiet ./provision --deb torpor-before.deb --runsc runsc --user nobody
        is "$(version)" 0.0.0 "the version"
        torpor version >/dev/null
    done
    id -nG nobody | grep -qw torpor || fail "who was named may not use it"
    is "$(systemctl is-active torpord.socket)" active "the socket"
    is "$(systemctl is-enabled torpord.service)" enabled "the service"
    is "$(stat -c "%U:%G %a" /run/torpor/torpor.sock)" "root:torpor 660" "the socket file"
    printf "freeze-limit-seconds = 600\n" >>/etc/torpor/torpor.toml
    systemctl restart torpord.service
    within 60 torpor version >/dev/null
    torpor image import box box.tar >/dev/null
    web live
    is "$(visit live)" 1 "the counter"
    web asleep
    is "$(visit asleep)" 1 "the counter of the sleeper"
    torpor sleep asleep >/dev/null
    '
}

check_package_upgrade_leaves_pods() {
    package '
    before=$(sandbox live) count=1
    # To the new one, and back again.
    for step in torpor.deb torpor-before.deb torpor.deb; do
        pid=$(main_pid) from=$(version)
        quiet dpkg --force-confold -i $step
        [ "$(version)" != "$from" ] || fail "the version is the same"
        within 120 sh -c "systemctl show -p MainPID --value torpord | grep -qvx -e 0 -e $pid"
        within 60 torpor version >/dev/null
        count=$((count + 1))
        is "$(sandbox live)" "$before" "the pid of the sandbox with $step"
        is "$(visit live)" $count "the counter with $step"
        is "$(torpor exec live echo hello)" hello "exec with $step"
        is "$(pod asleep .state)" sleeping "one that sleeps with $step"
        grep -q "^freeze-limit-seconds = 600" /etc/torpor/torpor.toml || fail "$step replaced the configuration"
    done
    journalctl -b -u torpord.service -o cat >/tmp/journal
    if grep left-over /tmp/journal >&2; then fail "systemd found processes that were left over"; fi
    '
}

check_package_purge_leaves_nothing() {
    package '
    quiet dpkg -r torpor
    is "$(pgrep -c runsc-sandbox || true)" 0 "sandboxes after the removal"
    [ -e /var/lib/torpor/torpor.db ] || fail "removing takes what pods keep"
    quiet dpkg -i torpor.deb
    within 60 torpor version >/dev/null
    is "$(pod live .state)" stopped "one that ran"
    torpor wake asleep >/dev/null
    is "$(visit asleep)" 2 "one that slept"
    systemctl -q disable --now torpord.service torpord.socket
    quiet dpkg -P torpor
    rm -f /usr/local/bin/runsc
    scripts/leak-check || fail "see above"
    left=$(find / -xdev \( -path /proc -o -path /root -o -path /var/log -o -path /var/lib/dpkg \) -prune -o -name "*torpor*" -print |
        grep -v -e "^/tmp" -e "/sys/kernel" || true)
    [ -z "$left" ] || fail "left: $left"
    left=$(find /run /sys/fs/cgroup -name "*torpor*" | grep -v -e "^/run/log" -e "^/run/udev" || true)
    [ -z "$left" ] || fail "left: $left"
    is "$(systemctl list-units --all --no-legend "torpor*")" "" "units"
    ! getent group torpor || fail "the group is there"
    '
}
