//! Findings that no other test produces, each produced in a guest with its severity, evidence and
//! remedy.
//!
//! The driver is the real one on phantom GPUs; where that would need hardware, it is the stub, and
//! the test says so.

mod container;
mod driver;
mod fault;
mod gpu;
mod later;

use image::status::{Outcome, Status};
use image::wire::Until;
use rig::build::initrd_for_disk;
use rig::disk::FileSystem;
use rig::guest::Setup;
use rig::roots::Suite;
use rig::scene::{boot, root_disk, wait};
use rig::variant::Variant;
use std::path::{Path, PathBuf};

/// A guest with a root that is to have a GPU. It answers for two minutes after its end.
fn with_root(setup: Setup) -> Setup {
    let root = root_disk(Suite::Bookworm, FileSystem::Erofs);
    setup.disk(&root, "root").cmdline("HAS_GPU=1 gpu_initrd.linger=120s")
}

/// Boots, and returns the status of the boot that failed.
fn failed(setup: Setup) -> Status {
    let status = wait(&boot(setup.cmdline("-- true")), Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None), "{status:#?}");
    status
}

/// Another image with these changes.
fn variant(of: &Path, dir: &Path, change: impl FnOnce(&mut Variant)) -> PathBuf {
    let mut variant = Variant::of(of).unwrap();
    change(&mut variant);
    let image = dir.join("variant.img");
    variant.write(&image).unwrap();
    image
}

/// The built image with these changes.
fn real_variant(dir: &Path, change: impl FnOnce(&mut Variant)) -> PathBuf {
    variant(&initrd_for_disk().initrd, dir, change)
}
