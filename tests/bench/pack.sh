# Packing: a whole build with everything fetched, against dracut and find | cpio | zstd on the same files (default profile,
# compute+utility+video, plain files, zstd level 3), cold and after a change of PID 1; and the memory that it takes.

for program in dracut cpio zstd /usr/bin/time; do
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install dracut-core cpio zstd time" >&2; exit 1; }
done
cargo build --quiet --locked --release -p host-builder
builder=$(realpath "$target/release/host-builder")
cache=${GPU_INITRD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpu-initrd}

build() {
    "$builder" build-initrd --quiet --capabilities compute,utility,video --payload files --lock "$work/initrd.lock" \
        --output "$work/initrd.img" --kernel-output "$work/vmlinuz" "$@"
}
build
"$builder" extract "$work/initrd.img" --to "$work/tree" >/dev/null

with_dracut() {
    dracut --force --no-kernel --modules '' --no-hostonly --no-early-microcode --nostrip --include "$work/tree" / \
        --compress 'zstd -3 -T0' "$work/dracut.img" 0.0.0-bench 2>/dev/null
}
with_cpio() { (cd "$work/tree" && find . -print0 | cpio --null --quiet -o -H newc | zstd -3 -T0 -q -f -o "$work/cpio.img"); }

# Another PID 1 each time: a byte behind the ELF file changes nothing but its digest.
changes=0
change() { cp "$work/tree/init" "$work/init" && printf '%d' $((++changes)) >>"$work/init"; }

dracut=$(median true with_dracut)
cpio=$(median true with_cpio)
cold=$(median 'rm -rf "$cache/segments"' build)
warm=$(median change build --guest-init "$work/init")
row "cold pack of $(du -sm "$work/tree" | cut -f1) MB" "$cold" "dracut" "$dracut"
row "cold pack" "$cold" "find | cpio | zstd -3 -T0" "$cpio"
row "warm, PID 1 changed" "$warm" "dracut" "$dracut"

rm -rf "$cache/segments"
/usr/bin/time -f %M -o "$work/rss" "$builder" build-initrd --quiet --capabilities all --payload files \
    --lock "$work/initrd.lock" --output "$work/initrd.img" --kernel-output "$work/vmlinuz"
awk '{ printf "%-44s %9.1f MiB\n", "peak memory, all capabilities, cold", $1 / 1024 }' "$work/rss"
