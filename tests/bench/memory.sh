# The smallest guest for each way of carrying the driver, against what build-initrd predicts, and how soon PID 1 starts.
#
# A guest is big enough when its container runs and the real driver, on a phantom H100, gets through GSP preparation to the
# hardware stage (RmInitAdapter failed! (0x62:0x65:…)). QEMU runs under TCG. Takes about half an hour.

readonly STEP=16 BOOT_LIMIT=${BOOT_LIMIT:-240}
cargo build --quiet --locked --release -p host-builder
cargo build --quiet --locked --release -p rig --bin phantom-gpu
builder=$(realpath "$target/release/host-builder")

root=$work/root
mkdir -p "$root"
for file in /bin/echo $(ldd /bin/echo | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done

"$target/release/phantom-gpu" --socket "$work/gpu.sock" --model h100 --keep >"$work/phantom.log" 2>&1 &
phantom=$!
trap 'kill $phantom' EXIT

# build MODE: an initrd with the default profile; leaves MODE.img, MODE.json and for a disk MODE.erofs.
build() {
    "$builder" build-initrd --json --capabilities compute,utility,video --payload "$1" --lock "$work/initrd.lock" \
        --output "$work/$1.img" --kernel-output "$work/vmlinuz" --payload-output "$work/$1.erofs" >"$work/$1.json"
}

# start MODE MIB ARGUMENT...: boots a guest; its console goes to console.log.
start() {
    local mode=$1 memory=$2 disk=()
    shift 2
    [ "$mode" != disk ] || disk=(--payload-disk "$work/disk.erofs")
    timeout -k 5 "$BOOT_LIMIT" "$builder" boot --quiet --force --accel tcg --cpus 1 --memory "$memory" --root "$root" \
        --initrd "$work/$mode.img" --kernel "$work/vmlinuz" --lock "$work/initrd.lock" --uds "$work/vsock.sock" \
        --console "$work/console.log" "${disk[@]}" "$@" -- /bin/echo the container runs </dev/null >"$work/said" 2>&1 || true
    tr -d '\r' <"$work/console.log" >"$work/console"
}

with_gpu() {
    start "$1" "$2" --vfio-user "$work/gpu.sock" --append 'gpu_initrd.gpu=optional gpu_initrd.linger=0s'
    grep -q '^the container runs' "$work/console" && grep -q 'RmInitAdapter failed! (0x62:0x65:' "$work/console"
}

without_gpu() {
    start "$1" "$2" --append gpu_initrd.linger=0s
    grep -q '^the container runs' "$work/console"
}

# smallest LOW HIGH CHECK MODE: the least multiple of STEP with which CHECK holds; HIGH holds.
smallest() {
    local low=$(($1 / STEP)) high=$(($2 / STEP)) middle
    "$3" "$4" "$2" || { echo "a guest of $2 MiB does not boot ($3 $4):" >&2; tail -20 "$work/console" >&2; return 1; }
    while [ $((high - low)) -gt 1 ]; do
        middle=$(((low + high) / 2))
        if "$3" "$4" $((middle * STEP)); then high=$middle; else low=$middle; fi
    done
    echo $((high * STEP))
}

field() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"]*\).*/\1/p" "$2" | head -1; }
against() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

for mode in files image disk; do
    build "$mode"
    case $mode in files) range="256 1024" ;; image) range="192 1024" ;; disk) range="96 512" ;; esac
    # shellcheck disable=SC2086 # two words
    measured=$(smallest $range with_gpu "$mode")
    predicted=$(field minimum_memory_mib "$work/$mode.json")
    printf '%-44s %9d MiB  %-34s %9d MiB  ratio %s\n' "smallest guest with a GPU, payload $mode" "$measured" \
        "predicted" "$predicted" "$(against "$predicted" "$measured")"
done
measured=$(smallest 48 256 without_gpu disk)
printf '%-44s %9d MiB\n' "smallest guest without a GPU, payload disk" "$measured"

# pid_1 MODE: microseconds of the kernel's clock when it starts /init, the middle of three boots.
pid_1() {
    local times=()
    for _ in 1 2 3; do
        start "$1" 1024 --append gpu_initrd.linger=0s
        times+=("$(sed -n 's|^\[ *\([0-9.]*\)\] Run /init as init process.*|\1|p' "$work/console" | head -1)")
    done
    printf '%s\n' "${times[@]}" | sort -n | sed -n 2p | awk '{ printf "%d", $1 * 1000000 }'
}
files=$(pid_1 files)
for mode in image disk; do
    row "PID 1 starts, payload $mode" "$(pid_1 "$mode")" "payload files" "$files"
done
