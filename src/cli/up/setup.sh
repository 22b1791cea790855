# Run as root in a pod that `torpor up` made: setup.sh UID GID LOGIN. Whoever works there gets a name, a home and the cache.
# Says whether the pod is bootstrapped. Does nothing that is done already.
set -e
umask 022
uid=$1 gid=$2 login=$3

# find FILE FIELD VALUE: sets name and home of the line whose first or third field that is
find() {
    name='' home=''
    [ -f "$1" ] || return 1
    while IFS=: read -r first second third fourth fifth sixth rest || [ -n "$first" ]; do
        if [ "$2" = 1 ]; then is=$first; else is=$third; fi
        if [ "$is" = "$3" ]; then
            name=$first home=$sixth
            return 0
        fi
    done <"$1"
    return 1
}

# append FILE LINE
append() {
    [ ! -s "$1" ] || [ -z "$(tail -c 1 "$1")" ] || echo >>"$1"
    printf '%s\n' "$2" >>"$1"
}

mkdir -p /etc /home
if ! find /etc/passwd 3 "$uid"; then
    while find /etc/passwd 1 "$login"; do login=${login}_; done
    [ "$uid" = 0 ] && home=/root || home=/home/$login
    for shell in zsh bash sh; do
        shell=$(command -v "$shell" 2>/dev/null) && break
    done
    append /etc/passwd "$login:x:$uid:$gid::$home:${shell:-/bin/sh}"
    find /etc/passwd 3 "$uid"
fi
user=$name place=$home
if ! find /etc/group 3 "$gid"; then
    group=$user
    while find /etc/group 1 "$group"; do group=${group}_; done
    append /etc/group "$group:x:$gid:"
fi
if [ -n "$place" ] && [ ! -d "$place" ]; then
    mkdir -p "$place"
    chown "$uid:$gid" "$place"
fi
# A volume below it made it, perhaps.
case $place in
    /home/?*) [ -O "$place" ] && chown "$uid:$gid" "$place" ;;
esac
[ ! -d /cache ] || chown "$uid:$gid" /cache
[ ! -e /var/lib/torpor/bootstrapped ] || echo bootstrapped
