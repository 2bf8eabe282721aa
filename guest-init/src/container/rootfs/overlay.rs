//! The overlays of a container root: the order of their layers, and both mounts.

use super::error::RootfsError;
use crate::kernel::bounded::{TimedOut, bounded};
use crate::kernel::disks::Scratch;
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::modules;
use image::layout;
use image::manifest::{Manifest, Payload};
use nix::mount::{MsFlags, mount};

/// Returns the lower layers with the driver, highest first.
pub fn driver_layers(manifest: &Manifest) -> Vec<&'static str> {
    if manifest.payload == Payload::Files {
        vec![layout::DRIVER_LAYER]
    } else {
        vec![layout::DRIVER_MASKS, layout::DRIVER_FILES]
    }
}

/// Mounts the container root: the upper layer on top, then the driver, then the image.
pub fn mount_merged(scratch: &Scratch, driver: &[&str]) -> Result<(), RootfsError> {
    let options = scratch.overlay(&[driver, &[layout::ROOT_LOWER]].concat().join(":"));
    let log = KernelLog::here();
    mount_overlay(layout::ROOT_MERGED, MsFlags::MS_NODEV, &options)?.map_err(|errno| RootfsError::Overlay {
        options,
        errno,
        log: log.lines(),
    })
}

/// Mounts an overlay that provides the content of the metadata-only files. It is separate from the overlay with the image,
/// because in that one the kernel would also honour metacopy attributes in the image's file system.
pub fn mount_driver_files() -> Result<(), RootfsError> {
    let options = format!("lowerdir={}::{},metacopy=on", layout::DRIVER_NAMES, layout::PAYLOAD_MOUNT);
    let log = KernelLog::here();
    mount_overlay(layout::DRIVER_FILES, MsFlags::MS_RDONLY | MsFlags::MS_NODEV, &options)?
        .map_err(|errno| RootfsError::Layer { options, errno, log: log.lines() })
}

/// Mounts an overlay. The kernel looks into its layers, whose disk or share may not respond.
fn mount_overlay(target: &'static str, flags: MsFlags, options: &str) -> Result<nix::Result<()>, TimedOut> {
    modules::request("fs-overlay");
    let options = options.to_owned();
    bounded(format!("mounting an overlay on {target}"), move || {
        mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))
    })
}
