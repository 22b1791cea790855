#!/bin/sh
# Takes away the development stack: its pods, what they saved, their directories, the bucket, the database, the services.
# usage: scripts/dev-clean.sh [--keep-data]   (end the services only; dev-start.sh goes on with all of it)
. "$(dirname "$0")/lib/common.sh"
. "$root/scripts/lib/dev.sh"
need_root "$@"
keep=no
case ${1:-} in '') ;; --keep-data) keep=yes ;; *) die "$1 is not known" "usage: scripts/dev-clean.sh [--keep-data]" ;; esac
[ -d "$dev" ] || exit 0
bin=${CARGO_TARGET_DIR:-$root/target}/dist/bin
[ -x "$bin/torpor" ] || bin=$(dirname "$(command -v torpor)")

if [ $keep = no ] && ours torpord torpord; then
    # One that does not answer is ended all the same.
    pods=$("$bin/torpor" ps -aq) || pods=
    for pod in $pods; do
        name=$("$bin/torpor" --json inspect "$pod" | jq -r 'if type == "array" then .[0].name else .name end')
        case $name in
            # As its clients remove it: with its directory and its snapshots' files.
            pod-*) curl -fsS -o /dev/null -X POST http://localhost:8080/delete-pod \
                ${POD_HOST_API_KEY:+-H "X-API-Key: $POD_HOST_API_KEY"} -d "{\"podId\":\"${name#pod-}\"}" ;;
            *) "$bin/torpor" rm -f "$pod" >/dev/null ;;
        esac
    done
    for snapshot in $("$bin/torpor" --json snapshot ls 2>/dev/null | jq -r '.[].id'); do
        "$bin/torpor" snapshot rm "$snapshot" >/dev/null
    done
fi
end_ours torpord torpord
# A store that was there before keeps its other buckets; one of our own goes with its directory.
if [ $keep = no ] && [ -e "$dev/bucket-is-ours" ] && [ ! -d "$dev/s3" ]; then
    while keys=$(s3_keys) && [ -n "$keys" ]; do
        echo "$keys" | while IFS= read -r key; do s3 DELETE "/$S3_BUCKET/$key" >/dev/null; done
    done
    s3 DELETE "/$S3_BUCKET" >/dev/null
fi
if [ -d "$dev/postgres" ]; then
    pg=$(pg_config --bindir 2>/dev/null || ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n1)
    (cd / && setpriv --reuid postgres --regid postgres --clear-groups "$pg/pg_ctl" -D "$dev/postgres" -m fast -w stop) \
        >/dev/null 2>&1 || true
fi
for program in minio s3s-fs; do
    if ours s3 $program; then end_ours s3 $program; fi
done
[ $keep = no ] || exit 0
rm -rf "$dev"
rmdir "${DEV_PODS:-/var/pods}" 2>/dev/null || true
