# What giving a driver to a container costs. Needs 6 GB.

readonly LIBRARIES=(libcuda libnvidia-ml libnvidia-nvvm libnvidia-ptxjitcompiler libnvidia-gpucomp libnvidia-opencl libnvidia-cfg libcudadebugger)
cargo build --quiet --locked --release -p rig --bin gpu-probe
cargo build --quiet --locked --profile init -p guest-init --target "$(uname -m)-unknown-linux-musl"
probe=$(realpath "$target/release/gpu-probe")
guest_init=$(realpath "$target/$(uname -m)-unknown-linux-musl/init/guest-init")

# driver DIR MIB: a driver of MIB mebibytes, always of the same number of files. Real ELF headers, then ballast.
driver() {
    local dir=$1/usr/lib/nvidia each=$(($2 / ${#LIBRARIES[@]})) lib
    mkdir -p "$dir"
    for lib in "${LIBRARIES[@]}"; do
        "$probe" --stale "$lib.so.1" "$dir/$lib.so.550.1.1"
        head -c $((each << 20)) /dev/urandom >> "$dir/$lib.so.550.1.1"
    done
}

# container DIR: as little as has a C library.
container() {
    mkdir -p "$1/usr/lib/x86_64-linux-gnu" "$1/etc"
    cp "$(ldd "$probe" | grep -o '/[^ ]*libc\.so\.6')" "$1/usr/lib/x86_64-linux-gnu/"
    ln -s usr/lib "$1/lib"
}

copy_with_cp() { cp -a "$1" "$2" && sync -f "$2"; }

driver "$work/small" 200
driver "$work/large" 2000
container "$work/root"
layer() { "$guest_init" inject --root "$work/root" --driver "$1" --layer "$work/layer"; }
fresh_layer='rm -rf "$work/layer"; mkdir "$work/layer"'
small=$(median "$fresh_layer" layer "$work/small")
large=$(median "$fresh_layer" layer "$work/large")
row "overlay: layer of a 2000 MB driver" "$large" "layer of a 200 MB driver" "$small"

fresh_root='rm -rf "$work/copy"; cp -a "$work/root" "$work/copy"; sync -f "$work"'
copy=$(median "$fresh_root" "$guest_init" inject --root "$work/copy" --driver "$work/small")
cp=$(median "$fresh_root" copy_with_cp "$work/small/usr" "$work/copy/driver")
row "copy: 200 MB into a root, cache and all" "$copy" "cp -a and sync" "$cp"

"$guest_init" inject --root "$work/copy" --driver "$work/small" >/dev/null
again=$(median true "$guest_init" inject --root "$work/copy" --driver "$work/small")
row "copy: second boot, nothing to do" "$again" "first boot" "$copy"

# This machine's own libraries, so that there is something to scan.
libraries() {
    mkdir -p "$1/usr/lib/x86_64-linux-gnu" "$1/etc" "$1/lib64"
    cp -a /usr/lib/x86_64-linux-gnu/lib*.so* "$1/usr/lib/x86_64-linux-gnu/" 2>/dev/null || true
    cp /lib64/ld-linux-x86-64.so.2 "$1/lib64/"
    ln -s usr/lib "$1/lib"
}
libraries "$work/libs"
real_ldconfig() { unshare --map-root-user -- ldconfig -i -r "$work/libs" -C /theirs; }
ours=$(median true "$guest_init" ld-cache --root "$work/libs" --output "$work/ours")
theirs=$(median true real_ldconfig)
row "loader cache of $(ls "$work/libs/usr/lib/x86_64-linux-gnu" | wc -l) libraries" "$ours" "ldconfig -i" "$theirs"
