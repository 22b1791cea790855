# Sourced by scripts/test-vm: the power fails under the state directory and the store in it (R5). VM_SEED and VM_TRIALS say
# with what and how often.

# power SCRIPT
power() {
    inside "
    . ./other.sh
    . ./power.sh
    trap 'end_clients; forget_f' EXIT
    clients= seed=${VM_SEED:-1} wanted=${VM_TRIALS:-2}
    $1"
}

# power_trials KIND HOW [MKFS ARGUMENTS]
power_trials() {
    power "
    OPTIONS='${4:-}'
    file_system $1 ${3:-}
    prepare
    for n in \$(seq \$wanted); do trial \$((seed + n)) $2; done
    echo \"# $1, $2: \$trials trials from seed \$((seed + 1)), \$kept calls acknowledged, 0 lost\"
    "
}
check_power_loss_on_ext4() { power_trials ext4 drops_writes '' commit=1; }
check_power_loss_on_xfs() { power_trials xfs drops_writes; }
check_a_disk_that_dies_on_ext4() { power_trials ext4 refuses_writes; }

check_every_moment_is_whole() {
    # Two hundred of them; on one that is emulated each takes some seconds.
    limit=1800
    power '
    # Of one that was killed.
    ! mountpoint -q /f || umount /f
    [ ! -e /dev/mapper/spare ] || dmsetup remove --retry spare
    file_system ext4 -E lazy_itable_init=0,lazy_journal_init=0
    prepare
    is "$(visit busy) $(visit nap)" "1 1" "the counters"
    torpor sleep busy nap >/dev/null
    all_die
    unmount_f
    # What is there now is what the replay begins with.
    dd if=$disk of=/dev/vdd bs=4M conv=sparse,fsync status=none
    dmsetup suspend f
    dmsetup load f --table "0 $(sectors $disk) log-writes $disk /dev/vdc"
    dmsetup resume f
    mount_f
    booted_f
    torpor wake busy nap >/dev/null
    marks=yes
    busy_clients 2
    # shellcheck disable=SC2086
    wait $clients
    clients= marks=no
    python3 whole.py sums /f/state/store >$run/sums
    all_die
    unmount_f
    dmsetup remove --retry f
    python3 whole.py replay /dev/vdc /dev/vdd /dev/vde $run/sums $seed 3 \
        sh -c ". ./inside.sh; . ./other.sh; . ./power.sh; round=moment; goes_on; all_die"
    '
}
