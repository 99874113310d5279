#!/bin/sh
# Stands in for `sidelane` in the benchmark, and counts the instructions of each sidecar:
#
#   PROGRAM=target/release/sidelane COUNTS=/tmp/counts target/release/sidelane-bench \
#       --only sidelane --sidelane tests/bench/callgrind.sh --quick --rounds 1
#   callgrind_annotate /tmp/counts/caller.out
#
# COUNTS is a folder that is there already. FLAGS, where it is set, are more flags of both sidecars, such
# as `--otlp http://127.0.0.1:4317`. The second command shows which functions they go to.

case "$*" in
*"--node bench-"*)
    role=${*#*--node bench-}
    # shellcheck disable=SC2086 # FLAGS are words.
    exec valgrind --tool=callgrind --callgrind-out-file="$COUNTS/${role%% *}.out" "$PROGRAM" "$@" $FLAGS
    ;;
*)
    exec "$PROGRAM" "$@"
    ;;
esac
