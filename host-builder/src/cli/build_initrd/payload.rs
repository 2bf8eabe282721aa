//! `build-initrd`: puts the driver's files where the guest's kernel and memory allow, and writes all outputs.

use crate::artifacts::tree::Tree;
use crate::build::pack::{Packed, Segments, compress};
use crate::build::payload;
use crate::build::payload::Mode;
use crate::build::plan::{Inputs, Plan, plan};
use crate::cli::BuildInitrd;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Staged;
use crate::kernel_modules::features::Features;
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::Profile;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use image::layout;
use image::manifest::Payload;
use std::collections::BTreeMap;
use std::io::Write;

/// A plan with its payload in place.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// The disk to write, when there is one.
    pub(crate) disk: Option<payload::Image>,
    /// Why the payload is carried so.
    pub(crate) why: String,
    /// Unless nothing will be written.
    pub(crate) segments: Option<Segments>,
}

/// What the steps of one build share.
pub(crate) struct Build<'a> {
    pub(crate) args: &'a BuildInitrd,
    pub(crate) profile: &'a Profile,
    pub(crate) lock: &'a Lock,
    pub(crate) access: Access<'a>,
}

impl Build<'_> {
    /// The plan in the first mode that fits into the guest's memory.
    pub(crate) fn plan(&self, inputs: &Inputs) -> Result<Planned> {
        let features = Features::of(inputs.kernel, inputs.index);
        let (cache, ui) = (self.access.cache, self.access.ui);
        let memory = self.args.guest_memory.map(|mib| u64::from(mib) << 20);
        let tools = !self.lock.set(Set::Payload).is_empty();
        let mut needs = Vec::new();
        for (mode, why) in payload::candidates(self.args.payload, memory, &features, tools)? {
            let more_modules = mode.modules(&features);
            let mut plan = plan(&Inputs { more_modules: &more_modules, ..*inputs })?;
            let disk = self.carry(&mut plan, mode, &features)?;
            let segments = if self.args.dry_run && memory.is_none() {
                None
            } else {
                Some(ui.stage("pack", || compress(&plan, self.args.compression, cache, ui))?)
            };
            let least =
                segments.as_ref().map_or(0, |made| payload::minimum_memory(&plan.manifest, made.bytes()));
            if memory.is_none_or(|memory| least <= memory) {
                return Ok(Planned { plan, disk, why, segments });
            }
            needs.push(format!("{} MiB with --payload {mode}", least.div_ceil(1 << 20)));
        }
        let memory = self.args.guest_memory.unwrap_or_default();
        Err(Error::new(format!("--guest-memory {memory}: such a guest needs at least {}", needs.join(", ")))
            .hint(
                "give guests more memory, choose --payload disk, or pack less: fewer --capabilities, --gpu",
            ))
    }

    /// Puts the payload where the mode has it. Returns the disk, if it is one.
    fn carry(&self, plan: &mut Plan, mode: Mode, features: &Features) -> Result<Option<payload::Image>> {
        if mode == Mode::Files {
            return Ok(None);
        }
        let compression = self.args.payload_compression.unwrap_or_else(|| mode.compression(features));
        let (cache, ui) = (self.access.cache, self.access.ui);
        let toolroot = || {
            resolve::fetch(self.profile, self.lock, &[Set::Payload], self.access)?;
            Toolroot::of(cache, self.lock, Set::Payload, &BTreeMap::new(), ui)
        };
        let image = payload::make(cache, plan, compression, toolroot, ui)?;
        let erofs = image.erofs.clone();
        if mode == Mode::Image {
            plan.carry(Payload::Image { path: layout::PAYLOAD_IMAGE.into(), erofs }, &image.path);
            return Ok(None);
        }
        plan.carry(Payload::Disk { erofs, verity: image.verity.clone() }, &image.path);
        Ok(Some(image))
    }

    /// All are made, and then appear, together: an initrd is of no use beside another kernel or disk.
    pub(crate) fn write(
        &self,
        segments: &Segments,
        disk: Option<&payload::Image>,
        kernel: &[Tree],
    ) -> Result<Packed> {
        let (initrd, others) = std::thread::scope(|scope| {
            let others = scope.spawn(|| self.beside(disk, kernel));
            let initrd = segments.write(&self.args.output, self.access.cache);
            (initrd, others.join().expect("writing does not panic"))
        });
        let ((initrd, packed), others) = (initrd?, others?);
        appear(initrd, others)?;
        Ok(packed)
    }

    /// The outputs beside the initrd, those that are not there already.
    fn beside(&self, disk: Option<&payload::Image>, kernel: &[Tree]) -> Result<Vec<Staged>> {
        let args = self.args;
        let mut staged = Vec::new();
        if let Some(disk) = disk {
            staged.push(disk.stage(&args.payload_output)?);
        }
        let image = kernel_image(kernel, &self.lock.kernel_release)?;
        let path = &args.kernel_output;
        if !std::fs::read(path).is_ok_and(|present| present == image) {
            staged.push(Staged::new(path, 0o644, |file| file.write_all(&image).doing("writing", path))?);
        }
        if Lock::read(&args.lock).ok().flatten().as_ref() != Some(self.lock) {
            staged.push(self.lock.stage(&args.lock)?);
        }
        Ok(staged)
    }
}

/// The initrd last: where something fails in between, the old one is there, which refuses another disk, and no new one beside an old disk.
fn appear(initrd: Staged, others: Vec<Staged>) -> Result<()> {
    others.into_iter().chain([initrd]).try_for_each(Staged::commit)
}

/// The kernel image: where Debian has it, or the one file that is called so.
fn kernel_image(trees: &[Tree], release: &str) -> Result<Vec<u8>> {
    let installed = format!("boot/vmlinuz-{release}");
    let named = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        ["vmlinux", "vmlinuz", "bzImage"].iter().any(|name| file.starts_with(name))
    };
    let files = || trees.iter().flat_map(|tree| tree.files.iter().map(move |file| (tree, file)));
    let mut images = files().filter(|(_, file)| file.path == installed);
    let mut others = files().filter(|(_, file)| named(&file.path));
    match (images.next(), others.next(), others.next()) {
        (Some((tree, file)), _, _) | (None, Some((tree, file)), None) => tree.read(file),
        (None, first, _) => {
            let found = if first.is_some() { "several images" } else { "none" };
            let origins: Vec<_> = trees.iter().map(|tree| tree.origin.as_str()).collect();
            Err(Error::new(format!("{}: expected {installed} or one kernel image, found {found}", origins.join(", ")))
                .hint("name the artifact with the image in the profile: sets = [\"kernel\"], a file called vmlinux…, vmlinuz… or bzImage…"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_failure_leaves_no_new_initrd_beside_an_old_disk() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("initrd"), "old").unwrap();
        let staged = |name: &str| {
            let path = at(name);
            Staged::new(&path, 0o644, |file| file.write_all(b"new").doing("writing", &path)).unwrap()
        };
        let (initrd, disk) = (staged("initrd"), staged("disk"));
        // Somebody makes a directory where the disk is to appear.
        fs::create_dir(at("disk")).unwrap();
        assert!(appear(initrd, vec![disk]).is_err());
        assert_eq!(fs::read_to_string(at("initrd")).unwrap(), "old");
        fs::remove_dir(at("disk")).unwrap();
        appear(staged("initrd"), vec![staged("disk")]).unwrap();
        assert_eq!(fs::read_to_string(at("initrd")).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
