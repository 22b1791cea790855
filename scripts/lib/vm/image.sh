# Sourced by scripts/vm: the clean disk image that every VM starts from, made once.
#
# $images/<recipe>/ holds root.img (ext4), vmlinuz, initrd, the key for ssh, and `packages`: what is in it, by version. It
# is made under another name and renamed: one that is there is whole.

images=$cache/vm/images
recipe=$(cat "$root/scripts/lib/vm/packages" "$root/scripts/lib/vm/image.sh" | sha256sum | cut -c1-16)
image=$images/$recipe

# The distribution's mirror and key as this host has them, if it is Debian; else the usual ones.
debian_mirror() {
    sources=/etc/apt/sources.list.d/debian.sources
    mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' "$sources" 2>/dev/null | grep -v security | head -n1)
    [ -n "$mirror" ] || mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list 2>/dev/null |
        grep /debian | grep -v security | head -n1)
    echo "${mirror:-http://deb.debian.org/debian}"
}

make_image() (
    say "making the VM's image (once; some minutes)"
    [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] || die "Debian's keys are missing" "apt-get install debian-archive-keyring"
    mkdir -p "$images"
    work=$(mktemp -d "$images/new-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    rootfs=$work/rootfs
    ssh-keygen -q -t ed25519 -N '' -C torpor-vm -f "$work/key"
    # An initrd of what this machine has, so that it is unpacked soon also by an emulated processor.
    mkdir -p "$work/initramfs"
    printf 'MODULES=list\nCOMPRESS=lz4\nRESUME=none\n' >"$work/initramfs/vm"
    printf 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n' >"$work/initramfs/modules"
    include=$(sed '/^#/d' "$root/scripts/lib/vm/packages" | paste -sd,),lz4
    mmdebstrap --quiet --variant=minbase --mode=root --components=main \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --include="$include" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
        --essential-hook="copy-in $work/initramfs/modules /etc/initramfs-tools" \
        --essential-hook="copy-in $work/initramfs/vm /etc/initramfs-tools/conf.d" \
        --aptopt='Dpkg::Options "--force-confold"' \
        bookworm "$rootfs" "$(debian_mirror)" >&2
    echo torpor-vm >"$rootfs/etc/hostname"
    printf '127.0.0.1 localhost torpor-vm\n' >"$rootfs/etc/hosts"
    printf '/dev/vda / ext4 defaults 0 1\n' >"$rootfs/etc/fstab"
    rm -f "$rootfs/etc/resolv.conf"
    echo 'nameserver 10.0.2.3' >"$rootfs/etc/resolv.conf"
    # The network of qemu's user mode is the same always; nobody need be asked.
    cat >"$rootfs/etc/systemd/network/vm.network" <<'NETWORK'
[Match]
Name=en*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
NETWORK
    install -d -m 0700 "$rootfs/root/.ssh"
    install -m 0600 "$work/key.pub" "$rootfs/root/.ssh/authorized_keys"
    printf 'UseDNS no\nGSSAPIAuthentication no\nUsePAM no\nPrintMotd no\n' >"$rootfs/etc/ssh/sshd_config.d/vm.conf"
    # The journal is read after a power cut.
    mkdir -p "$rootfs/var/log/journal"
    chroot "$rootfs" systemctl -q enable systemd-networkd ssh
    chroot "$rootfs" systemctl -q disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
        e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service 2>/dev/null || true
    chroot "$rootfs" systemctl -q mask getty@tty1.service systemd-networkd-wait-online.service
    rm -rf "$rootfs/var/cache/apt"/* "$rootfs/var/lib/apt/lists"/*
    : >"$rootfs/etc/machine-id"
    chroot "$rootfs" dpkg-query -W >"$work/packages"
    cp "$rootfs"/boot/vmlinuz-* "$work/vmlinuz"
    cp "$rootfs"/boot/initrd.img-* "$work/initrd"
    mke2fs -q -t ext4 -d "$rootfs" -L torpor-vm "$work/root.img" 8G
    rm -rf "$rootfs" "$work/initramfs"
    chmod 0755 "$work"
    mv "$work" "$image"
)
