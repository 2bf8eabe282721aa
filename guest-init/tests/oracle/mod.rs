//! Asks the real `ldconfig`, and compares. Also used by the rig, on whole distributions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_init::ldcache::{self, CacheContent};
use guest_init::rootfs::RootDir;

/// Runs `ldconfig`, the root's own where it has one, and gives back the cache that it wrote.
pub fn ask(root: &Path) -> Vec<u8> {
    // It changes its root directory, which only root of a namespace may.
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--"]);
    if root.join("sbin/ldconfig").exists() {
        command.arg("chroot").arg(root).arg("/sbin/ldconfig");
    } else {
        command.arg("/sbin/ldconfig").arg("-r").arg(root);
    }
    // With -C the auxiliary cache is not used.
    let output =
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-C", "/oracle-cache"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = root.join("oracle-cache");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    bytes
}

/// The links of the library directories of a root, sorted.
pub fn links(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let walk = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().filter_map(Result::ok);
    let links = walk.filter(|e| e.path_is_symlink() && !e.path().starts_with(dir.join("proc")));
    links.map(|e| (e.path().to_owned(), fs::read_link(e.path()).unwrap())).collect()
}

/// Everything before the extensions, where the generator string is; only the offset of the extensions may
/// move, and it does not. What follows has the same length but for that string.
fn without_generator(bytes: &[u8]) -> Vec<u8> {
    let CacheContent { generator, .. } = ldcache::read(bytes).unwrap();
    let generator = generator.unwrap();
    assert!(bytes.ends_with(generator));
    let mut rest = bytes[..bytes.len() - generator.len()].to_vec();
    // The length of the generator, in its section header behind the extension directory's magic and count.
    let at = u32::from_ne_bytes(bytes[32..36].try_into().unwrap()) as usize + 8 + 12;
    rest[at..at + 4].fill(0);
    rest
}

/// Compares the cache of a root with that of `ldconfig`: entry for entry first, since that is readable, then
/// byte for byte. Ours goes first, so that the links are its work.
pub fn compare(root: &Path) {
    let ours = ldcache::build(&RootDir::open(root).unwrap()).unwrap();
    let links_before = links(root);
    let theirs = ask(root);
    assert_eq!(links(root), links_before, "ldconfig had links to make or change in {}", root.display());
    let (our, their) = (ldcache::read(&ours.bytes).unwrap(), ldcache::read(&theirs).unwrap());
    for (index, (our, their)) in our.entries.iter().zip(&their.entries).enumerate() {
        assert_eq!(our, their, "entry {index} of {}", root.display());
    }
    assert_eq!(our.entries.len(), their.entries.len(), "{}", root.display());
    assert_eq!(without_generator(&ours.bytes), without_generator(&theirs), "{}", root.display());
    println!(
        "{}: {} entries, same bytes; links made: {:?}",
        root.display(),
        our.entries.len(),
        ours.report.links
    );
}
