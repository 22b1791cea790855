#!/bin/sh
# Starts the development stack: an object store, PostgreSQL if it is installed, and torpord with the pod agent at port 8080.
# What runs already stays as it is. scripts/create-test-pod.sh makes a pod, scripts/dev-clean.sh takes all of it away.
# usage: scripts/dev-start.sh
#   S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY, S3_BUCKET (or MINIO_...)  another store than http://localhost:9000
#   DEV_IMAGE    a rootfs tar for pods; else one is built of the distribution's packages
#   DEV_HOOK     a command that is run when all is up; else `db:migrate` and `db:seed` of package.json, where there is one
#   DEV_STATE    where all of it lies (/var/lib/torpor-dev); DEV_ADDRESS: where the agent and the store listen (127.0.0.1)
called_from=$PWD
. "$(dirname "$0")/lib/common.sh"
. "$root/scripts/lib/dev.sh"
need_root "$@"
[ $# = 0 ] || die "$1 is not known" "usage: scripts/dev-start.sh"
bin=${CARGO_TARGET_DIR:-$root/target}/dist/bin
[ -x "$bin/torpord" ] || bin=$(dirname "$(command -v torpord)") || die "torpor is not built" "scripts/build"
libexec=${TORPOR_LIBEXEC:-$bin}
[ -x "$libexec/torpor-init" ] || libexec=$bin/../lib/torpor
runsc=$(command -v runsc || echo "$tools/runsc-2026")
[ -x "$runsc" ] || die "there is no runsc" "torpor doctor --fix, or scripts/setup"
mkdir -p "$dev"
chmod 0700 "$dev"

echo "Starting the development environment..."

# The object store.
case $S3_ENDPOINT in
    http://localhost:* | http://127.0.0.1:*)
        port=${S3_ENDPOINT##*:}
        if curl -sS -o /dev/null "$S3_ENDPOINT/" 2>/dev/null; then
            : # somebody's is there
        elif command -v minio >/dev/null; then
            MINIO_ROOT_USER=$S3_ACCESS_KEY MINIO_ROOT_PASSWORD=$S3_SECRET_KEY setsid minio server "$dev/s3" \
                --address ":$port" --console-address :9001 >"$dev/s3.log" 2>&1 </dev/null &
            echo $! >"$dev/s3.pid"
            until_ready minio s3 curl -sS -o /dev/null "$S3_ENDPOINT/"
        else
            command -v s3s-fs >/dev/null || die "there is no object store at $S3_ENDPOINT and none to start" \
                "put minio on PATH, or: scripts/setup --test-tools (it builds s3s-fs)"
            mkdir -p "$dev/s3"
            setsid s3s-fs --host "$agent_address" --port "$port" --access-key "$S3_ACCESS_KEY" --secret-key "$S3_SECRET_KEY" \
                "$dev/s3" >"$dev/s3.log" 2>&1 </dev/null &
            echo $! >"$dev/s3.pid"
            until_ready s3s-fs s3 curl -sS -o /dev/null "$S3_ENDPOINT/"
        fi
        ;;
esac
bucket_is_there || { s3 PUT "/$S3_BUCKET" >/dev/null && : >"$dev/bucket-is-ours"; }
bucket_is_there || die "bucket $S3_BUCKET can't be reached or made at $S3_ENDPOINT" "are the keys right?"

# PostgreSQL: whoever serves the port already, or one of our own.
database=
if command -v pg_isready >/dev/null && pg_isready -q -h localhost -p 5432; then
    database=there
elif pg=$(pg_config --bindir 2>/dev/null || ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n1) &&
    [ -x "$pg/initdb" ] && id postgres >/dev/null 2>&1; then
    as_postgres() { (cd / && setpriv --reuid postgres --regid postgres --clear-groups "$@"); }
    chmod 0711 "$dev"
    if [ ! -d "$dev/postgres" ]; then
        install -d -o postgres -g postgres -m 0700 "$dev/postgres"
        printf 'postgres\n' >"$dev/password"
        chown postgres "$dev/password"
        as_postgres "$pg/initdb" -D "$dev/postgres" -U postgres -A scram-sha-256 --pwfile="$dev/password" >/dev/null
        rm -f "$dev/password"
    fi
    as_postgres "$pg/pg_ctl" -D "$dev/postgres" -w -l "$dev/postgres/log" \
        -o "-p 5432 -c listen_addresses=localhost -c unix_socket_directories=$dev/postgres" start >/dev/null
    PGPASSWORD=postgres "$pg/psql" -q -h localhost -U postgres -tc "SELECT 1 FROM pg_database WHERE datname='pinacle'" |
        grep -q 1 || PGPASSWORD=postgres "$pg/createdb" -h localhost -U postgres pinacle
    database=ours
fi

# torpord.
if ! ours torpord torpord; then
    cat >"$dev/torpor.toml" <<TOML
port-range = "20101-20400"
pod-cidr = "10.92.0.0/20"

[[listen]]
surface = "agent"
address = "$agent_address:8080"

[agent]
images = { "ubuntu:22.04" = "base" }
pods = "${DEV_PODS:-/var/pods}"
TOML
    TORPOR_LIBEXEC=$libexec setsid "$bin/torpord" --config "$dev/torpor.toml" --state-dir "$dev/state" \
        --socket "$dev/torpord.sock" --store "s3://$S3_BUCKET" --store-allow-http --runsc "$runsc" \
        >>"$dev/torpord.log" 2>&1 </dev/null &
    echo $! >"$dev/torpord.pid"
fi
until_ready torpord torpord curl -fsS http://localhost:8080/health
if ! "$bin/torpor" image inspect base >/dev/null 2>&1; then
    if [ -n "${DEV_IMAGE:-}" ]; then
        "$bin/torpor" image import base "$DEV_IMAGE" >/dev/null
    else
        say "building the pods' image from the distribution's packages (once)"
        "$root/bundles/base/build" "$cache/images/base"
        "$bin/torpor" image import base-system "$cache/images/base/system.tar.zst" >/dev/null
        "$bin/torpor" image import --base base-system base "$cache/images/base/tools.tar.zst" >/dev/null
    fi
fi

# What the application makes ready.
cd "$called_from"
if [ -n "${DEV_HOOK:-}" ]; then
    sh -c "$DEV_HOOK"
elif [ -n "$database" ] && [ -f package.json ] && command -v npm >/dev/null; then
    npm run --if-present db:migrate
    npm run --if-present db:seed
fi

echo "Development environment ready!"
echo "- Next.js: http://localhost:3000"
[ -z "$database" ] || echo "- PostgreSQL: localhost:5432"
if [ "$(cat "/proc/$(cat "$dev/s3.pid" 2>/dev/null)/comm" 2>/dev/null)" = minio ]; then
    echo "- MinIO: http://localhost:9001"
else
    echo "- S3: $S3_ENDPOINT (bucket $S3_BUCKET)"
fi
echo "- Pod Host API: http://localhost:8080"
echo "TORPOR_HOST=$TORPOR_HOST lets torpor see the same pods."
