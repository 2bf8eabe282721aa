# What the parts of the benchmark share. Sourced by run, which sets `work`, an empty directory for each part, and
# `results`, the file that `row` adds to.

readonly ROUNDS=${ROUNDS:-7}
target=${CARGO_TARGET_DIR:-target}

# median BEFORE COMMAND...: microseconds of COMMAND, the median of several rounds; BEFORE runs before each and is not counted.
median() {
    local before=$1 times=() begin end
    shift
    for ((round = 0; round < ROUNDS; round++)); do
        eval "$before"
        begin=${EPOCHREALTIME/./}
        "$@" >/dev/null
        end=${EPOCHREALTIME/./}
        times+=($((end - begin)))
    done
    printf '%s\n' "${times[@]}" | sort -n | sed -n "$((ROUNDS / 2 + 1))p"
}

# row NAME MICROSECONDS PEER MICROSECONDS: prints a figure next to its peer, and adds it to the results.
row() {
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$results"
    awk -v name="$1" -v ours="$2" -v peer="$3" -v theirs="$4" \
        'BEGIN { printf "%-44s %9.1f ms   %-34s %9.1f ms   ratio %.2f\n", name, ours / 1000, peer, theirs / 1000, ours / theirs }'
}
