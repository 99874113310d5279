#!/bin/sh
# Stands in for `sidelane` in the benchmark, and counts the instructions of each sidecar:
#
#   PROGRAM=target/release/sidelane COUNTS=/tmp/counts target/release/sidelane-bench \
#       --only sidelane --sidelane tests/bench/callgrind.sh --quick --rounds 1
#   callgrind_annotate /tmp/counts/caller.out
#
# COUNTS is a folder that is there already. The second command shows which functions they go to.

case "$*" in
*"--node bench-"*)
    role=${*#*--node bench-}
    exec valgrind --tool=callgrind --callgrind-out-file="$COUNTS/${role%% *}.out" "$PROGRAM" "$@"
    ;;
*)
    exec "$PROGRAM" "$@"
    ;;
esac
