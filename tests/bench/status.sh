# Asking a guest whose processor is busy: how long a status takes, against a connection without a request. QEMU runs under TCG.

readonly COUNT=${COUNT:-1000}
cargo build --quiet --locked --release -p host-builder
cargo build --quiet --locked --release -p rig --bin ask-latency
builder=$(realpath "$target/release/host-builder")
"$builder" build-initrd --quiet --lock "$work/initrd.lock" --output "$work/initrd.img" --kernel-output "$work/vmlinuz"

root=$work/root
for file in /bin/sh $(ldd /bin/sh | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done
"$builder" boot --quiet --accel tcg --cpus 1 --memory 512 --root "$root" --initrd "$work/initrd.img" --kernel "$work/vmlinuz" \
    --lock "$work/initrd.lock" --uds "$work/vsock.sock" -- /bin/sh -c 'while :; do :; done' </dev/null >"$work/console" 2>&1 &
guest=$!
trap 'kill $guest' EXIT
"$builder" status "unix:$work/vsock.sock" --wait running --timeout 300s >/dev/null
read -r median p99 bare_median bare_p99 < <("$target/release/ask-latency" "unix:$work/vsock.sock" "$COUNT")
row "status of a busy guest, median" "$median" "connection alone, median" "$bare_median"
row "status of a busy guest, p99" "$p99" "connection alone, p99" "$bare_p99"
kill $guest
wait $guest || true
trap - EXIT
