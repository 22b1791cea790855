# Sourced by the scripts of the development stack: where it lies, and what its services are told.
#
# S3_* and MINIO_* are what clients of the stack have in their environment; torpord takes them too.
dev=${DEV_STATE:-/var/lib/torpor-dev}
export S3_ENDPOINT="${S3_ENDPOINT:-${MINIO_ENDPOINT:-http://localhost:9000}}"
export S3_ACCESS_KEY="${S3_ACCESS_KEY:-${MINIO_ACCESS_KEY:-minioadmin}}"
export S3_SECRET_KEY="${S3_SECRET_KEY:-${MINIO_SECRET_KEY:-minioadmin}}"
export S3_BUCKET="${S3_BUCKET:-pinacle-snapshots}"
agent_address=${DEV_ADDRESS:-127.0.0.1}
export TORPOR_HOST="unix://$dev/torpord.sock"

# lives PID: one that has ended and that nobody has waited for does not.
lives() { [ -n "$1" ] && grep -qs '^State:' "/proc/$1/status" && ! grep -qs '^State:.[ZX]' "/proc/$1/status"; }
# Ours is ended by its process id, and only if that process is still what it was.
ours() { # ours NAME PROGRAM
    p=$(cat "$dev/$1.pid" 2>/dev/null) && lives "$p" && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$2" ]
}
end_ours() {
    ours "$1" "$2" || { rm -f "$dev/$1.pid"; return 0; }
    kill "$p"
    while lives "$p"; do sleep 0.05; done
    rm -f "$dev/$1.pid"
}

# until_ready WHAT NAME COMMAND...: asks again and again while the process lives, a minute at most.
until_ready() {
    what=$1 name=$2
    shift 2
    end=$(($(date +%s) + 60))
    until "$@" >/dev/null 2>&1; do
        lives "$(cat "$dev/$name.pid")" || die "$what ended: $(tail -n 3 "$dev/$name.log")"
        [ "$(date +%s)" -lt $end ] || die "$what does not answer: $(tail -n 3 "$dev/$name.log")"
        sleep 0.1
    done
}

# s3 METHOD PATH: a signed request without a body; prints the status.
empty='x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
s3() {
    printf 'user = "%s:%s"\n' "$S3_ACCESS_KEY" "$S3_SECRET_KEY" |
        curl -sS -K - --aws-sigv4 aws:amz:us-east-1:s3 -X "$1" -H "$empty" -o /dev/null -w '%{http_code}' "$S3_ENDPOINT$2"
}
s3_keys() {
    printf 'user = "%s:%s"\n' "$S3_ACCESS_KEY" "$S3_SECRET_KEY" |
        curl -fsS -K - --aws-sigv4 aws:amz:us-east-1:s3 -H "$empty" "$S3_ENDPOINT/$S3_BUCKET?list-type=2" |
        sed 's/<Key>/\n<Key>/g' | sed -n 's/^<Key>\([^<]*\)<.*/\1/p'
}
bucket_is_there() { [ "$(s3 GET "/$S3_BUCKET?list-type=2")" = 200 ]; }
