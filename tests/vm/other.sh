# Sourced in the VM: a second torpord, on a disk of its own that can be made to fail. It is `torpord-f`, its state is /f/state.
run=/run/torpor-f
export TORPOR_HOST=unix://$run/torpor.sock
# Which virtio disk lies below.
disk=${disk:-/dev/vdb}
sectors() { blockdev --getsz "$1"; }

# table TARGET...: from now on the disk behaves so. What is under way is not waited for, and nothing is written before.
table() {
    dmsetup suspend --noflush --nolockfs f
    dmsetup load f --table "0 $(sectors "$disk") $*"
    dmsetup resume f
}
healthy() { table linear "$disk" 0; }
# Every write is lost and said to have been done, or refused; what is read is what the disk has.
drops_writes() { table flakey "$disk" 0 0 600 1 drop_writes; }
refuses_writes() { table flakey "$disk" 0 0 600 1 error_writes; }

# file_system KIND [MKFS ARGUMENT...]: a new one on the disk, at /f. OPTIONS: how it is mounted.
file_system() {
    kind=$1
    shift
    forget_f
    dmsetup create f --table "0 $(sectors "$disk") linear $disk 0"
    case $kind in ext4) force=-F ;; xfs) force=-f ;; esac
    "mkfs.$kind" -q $force "$@" /dev/mapper/f
    mkdir -p /f "$run"
    mount_f
}
mount_f() { mount ${OPTIONS:+-o "$OPTIONS"} /dev/mapper/f /f; }

# torpord_f [PROPERTY...]: starts it and waits until it is ready.
torpord_f() {
    systemctl reset-failed torpord-f 2>/dev/null || true
    # The host's own has no pods now, and would only look at each change of the firewall. The next call starts it again.
    systemctl stop torpord.service
    rm -f $run/tag
    # shellcheck disable=SC2086 # a list of words
    systemd-run -q --unit=torpord-f --slice=torpor.slice -p Type=notify -p KillMode=process -p TimeoutStartSec=300 \
        -E TORPOR_LIBEXEC=/usr/local/lib/torpor -E TORPOR_CGROUP=torpor.slice "$@" \
        /usr/local/bin/torpord --state-dir /f/state --socket $run/torpor.sock --pod-cidr 10.91.0.0/16 \
        --port-range 21000-21100 --config /root/torpor/other.toml --runsc "${runsc:-/usr/local/bin/runsc}" ||
        fail "torpord-f does not start: $(journalctl -u torpord-f -n 5 -o cat)"
    cp /f/state/instance $run/tag
}
# As after a boot: another boot id than the one before.
booted_f() {
    cat /proc/sys/kernel/random/uuid >$run/boot-id
    torpord_f -p BindReadOnlyPaths=$run/boot-id:/proc/sys/kernel/random/boot_id
}
pid_f() { systemctl show -p MainPID --value torpord-f; }
# What `kill -9` on the host's main switch would: all processes of that torpord and of its pods, at once.
all_die() {
    # 0, where there is none, would be all of us.
    main=$(pid_f)
    [ "$main" = 0 ] || kill -9 "$main" 2>/dev/null || true
    [ -f $run/tag ] || return 0
    tag=$(cat $run/tag)
    for group in /sys/fs/cgroup/torpor.slice/torpor-"$tag" /sys/fs/cgroup/torpor.slice/torpord-f.service; do
        [ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
    done
    within 120 nobody_left "$tag"
    # A boot leaves no cgroup; and in kernels of 2025 what is cloned from one that was killed once into another is killed at once
    # (their `kill_seq` differ).
    find /sys/fs/cgroup/torpor.slice/torpor-"$tag" -depth -type d -exec rmdir {} + 2>/dev/null || true
    rm -rf $run/torpor.sock "/run/torpor/$tag" 2>/dev/null || true
}
nobody_left() {
    ! systemctl -q is-active torpord-f && ! grep -qs 'populated 1' /sys/fs/cgroup/torpor.slice/torpor-"$1"/cgroup.events
}
unmount_f() {
    if [ -f $run/tag ]; then
        grep -o '/run/torpor/[^ ]*' /proc/self/mountinfo | grep "/$(cat $run/tag)/" | sort -r | while read -r at; do
            umount -l "$at" 2>/dev/null || true
        done
    fi
    within 120 sh -c 'umount /f 2>/dev/null'
}
# Away with it, whatever state it is in.
forget_f() {
    [ -e /dev/mapper/f ] || return 0
    dmsetup resume f 2>/dev/null || true
    if mountpoint -q /f; then
        healthy
        # shellcheck disable=SC2046 # a list of ids
        if systemctl -q is-active torpord-f; then timeout 60 torpor rm -f $(torpor ps -aq) >/dev/null 2>&1 || true; fi
        systemctl stop torpord-f 2>/dev/null || true
        all_die
        unmount_f
    fi
    systemctl reset-failed torpord-f 2>/dev/null || true
    dmsetup remove --retry f
}

# call METHOD PATH [BODY | @FILE]: what the API answers ($run/answer: the disks may be read-only), with `code` set: the problem's,
# or the HTTP status.
call() {
    method=$1 path=$2
    shift 2
    status=$(curl -sS -o $run/answer -w '%{http_code}' --max-time 300 --unix-socket $run/torpor.sock -X "$method" \
        ${1:+-H content-type:application/json --data-binary "$1"} "http://torpor/v1/$path") || fail "$method $path: no answer"
    code=$status
    case $status in 2*) ;; *) code=$(jq -r .code $run/answer) ;; esac
}
# refused CODES METHOD PATH [BODY]: it is refused with one of these codes (a pattern), and a reason.
refused() {
    codes=$1
    shift
    call "$@"
    echo "$code" | grep -qxE "$codes" || fail "$*: $code, expected $codes: $(cat $run/answer)"
    [ -n "$(jq -r .hint $run/answer)" ] || fail "$*: no hint: $(cat $run/answer)"
    echo "# $1 $2: $code: $(jq -r .detail $run/answer | cut -c1-150)"
}
done_now() {
    call "$@"
    case $code in 2*) ;; *) fail "$*: $(cat $run/answer)" ;; esac
}
