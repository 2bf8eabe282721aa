# What looking into an image costs, beside lsinitramfs of Debian's initramfs-tools. Needs 1 GB, apt for lsinitramfs where it is
# not installed, and a lock where there is none in the cache of the tests.

cargo build --quiet --locked --release -p host-builder
builder=$(realpath "$target/release/host-builder")
if ! command -v lsinitramfs >/dev/null; then
    (cd "$work" && apt-get -qq download initramfs-tools-core >/dev/null 2>&1 && dpkg-deb -x initramfs-tools-core_*.deb tools)
    PATH=$work/tools/usr/bin:$PATH
fi
lock=${GPU_INITRD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpu-initrd}/rig/initrd.lock
[ ! -f "$lock" ] || cp "$lock" "$work/initrd.lock"
"$builder" build-initrd --quiet --payload files --compression zstd --capabilities compute,utility,video \
    --lock "$work/initrd.lock" --output "$work/ours.img" --kernel-output "$work/vmlinuz" >/dev/null
# The same files as other tools pack them: one archive, one frame, and no size in its header.
"$builder" extract "$work/ours.img" --to "$work/files" >/dev/null
(cd "$work/files" && find . | LC_ALL=C sort | cpio --create --format newc --quiet | zstd -q -3 -T0 > "$work/one.img")

# lsinitramfs stops at the first archive, so the image of one archive is what it is measured with in every row.
peer=$(median true lsinitramfs "$work/one.img")
for image in ours one; do
    for command in list examine inspect; do
        ours=$(median true "$builder" "$command" "$work/$image.img")
        case $image in
            ours) what="$command: $(($(stat -c %s "$work/ours.img") / 1000000)) MB, a segment per origin" ;;
            one) what="$command: $(($(stat -c %s "$work/one.img") / 1000000)) MB, one zstd frame" ;;
        esac
        row "$what" "$ours" "lsinitramfs" "$peer"
        awk -v ours="$ours" -v peer="$peer" 'BEGIN { printf "%44s %.1f times as fast\n", "", peer / ours }'
    done
done
# Nobody can list the one frame without unpacking it.
row "list: one zstd frame" "$(median true "$builder" list "$work/one.img")" "zstd -dc" "$(median true zstd -q -dc "$work/one.img")"
