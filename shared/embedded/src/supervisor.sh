# Runs one server exactly as long as the process that started this script.
#
#   sh -c SCRIPT waybill-supervisor LOG STOP_SIGNAL FOLDER COMMAND [ARGUMENT...]
#
# It obeys one word a line from standard input and answers each with one line. The end of standard input means
# that the parent is gone, by whatever death: then the server is stopped, FOLDER (unless empty) is removed, and
# the script ends. It stays in a process group of its own, so Ctrl-C in a terminal reaches the parent alone.
set -u
log=$1
signal=$2
folder=$3
shift 3
server=

alive() {
    [ -n "$server" ] || return 1
    # Makes the shell notice a child that ended: kill -0 alone would still find its zombie.
    jobs >/dev/null 2>&1
    kill -0 "$server" 2>/dev/null && return 0
    server=
    return 1
}

end() {
    alive || return 0
    kill -"$1" "$server" 2>/dev/null
    tries=0
    while alive; do
        [ "$tries" -lt 500 ] || kill -KILL "$server" 2>/dev/null
        tries=$((tries + 1))
        sleep 0.02
    done
}

finish() {
    end "$signal"
    [ -n "$folder" ] || return 0
    # A postmaster that was killed leaves its System V segment behind; line 7 of its pid file ends with its id.
    for pid_file in "$folder"/postmaster.pid "$folder"/*/postmaster.pid; do
        [ -f "$pid_file" ] || continue
        segment=$(sed -n '7s/.* //p' "$pid_file")
        [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
    done
    rm -rf -- "$folder"
}

trap finish EXIT
trap 'exit 143' HUP INT TERM
# An answer nobody reads must not end the script before it has cleaned up.
trap '' PIPE

while read -r word; do
    case $word in
    run)
        "$@" </dev/null >>"$log" 2>&1
        echo "ended $?"
        ;;
    start)
        "$@" </dev/null >>"$log" 2>&1 &
        server=$!
        echo "started $server"
        ;;
    status) if alive; then echo alive; else echo ended; fi ;;
    stop) end "$signal" && echo stopped ;;
    kill) end KILL && echo stopped ;;
    keep)
        folder=
        echo kept
        ;;
    esac
done
