//! Reads from a driver file what a manifest would contain about it: for directories without one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use image::elf::{self, ET_DYN};

use super::inventory::{DriverFile, MAX_FILE, Placement};
use crate::confined_fs::{RootDir, is_file_name, read_full_at};
use crate::ldcache::Machine;

/// Adds size, SONAME, required glibc version, and whether it is a script. A file that cannot be read has none of them.
pub(super) fn read(driver: &RootDir, file: &mut DriverFile) {
    if file.link.is_some() {
        return;
    }
    file.size = driver.lstat(&file.from).map_or(0, |stat| stat.size);
    let Ok(opened) = driver.open_file(&file.from, MAX_FILE) else { return };
    let mut start = [0; 2];
    file.is_script = read_full_at(&opened, &mut start, 0).is_ok() && start == *b"#!";
    let Ok(elf) = elf::read(&opened) else { return };
    file.glibc = elf::glibc_needed(&opened).ok().flatten();
    let (machine, rest) = match &file.place {
        Placement::Library(rest) => (Machine::NATIVE, rest),
        Placement::Library32(rest) => (Machine::I386, rest),
        Placement::Program(_) | Placement::Data(_) => return,
    };
    if elf.e_type == ET_DYN && machine.flags(&elf) == Some(machine.native_flags()) {
        // The driver is trusted, but its SONAME becomes a path in the container.
        let soname = elf.soname.map(OsString::from_vec).filter(|soname| is_file_name(soname));
        file.soname = soname.or_else(|| rest.file_name().map(Into::into));
    }
}
