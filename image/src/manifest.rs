//! The manifest of an initrd: its files, the order in which the guest uses them, their origin and purpose.
//!
//! host-builder writes it, `--dry-run` prints it, `inspect` reads it, guest-init executes it. It is JSON, so that a person can
//! read it from an initrd with `cpio` alone.

use crate::capability::Capability;
use crate::config::Control;
use crate::layout;
use serde::{Deserialize, Serialize};

/// Version of the manifest's own format. A newer one is refused. A key that a reader may ignore needs no new version.
pub const FORMAT: u32 = 3;
/// The oldest format that is read.
pub const OLDEST_FORMAT: u32 = 2;
/// The first format with the facts of ELF files ([`File::soname`], [`File::glibc`]).
pub const FACTS_SINCE: u32 = 3;
/// Maximum size of a manifest in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// The contents of one initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the tool that wrote it.
    pub format: u32,
    /// Name and version of that tool.
    pub builder: String,
    /// Name of the profile it was made from.
    pub profile: String,
    /// Target architecture, as `uname -m` says it.
    pub arch: String,
    /// Release of the kernel the modules belong to (`uname -r`).
    pub kernel_release: String,
    /// The driver, when one is packed.
    pub driver: Option<Driver>,
    /// Capabilities that were selected, sorted.
    pub capabilities: Vec<String>,
    /// The highest level of requests that a guest accepts, whatever its kernel command line says; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// Where the driver files are stored.
    pub payload: Payload,
    /// Kernel modules in load order: each after everything it needs.
    pub modules: Vec<Module>,
    /// Every entry of the archive but the manifest itself, and every file of the payload, sorted by path.
    pub files: Vec<File>,
}

/// Where the driver files (GPU modules, firmware, files for containers) are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum Payload {
    /// As plain files of the archive.
    Files,
    /// In one EROFS image, which is a file of the archive.
    Image {
        /// Where it is in the initramfs.
        path: String,
        /// The image.
        erofs: Erofs,
    },
    /// In one EROFS image on a disk of its own, which many guests share read-only.
    Disk {
        /// The image, from the disk's first byte.
        erofs: Erofs,
        /// The hash tree behind it.
        verity: Verity,
    },
}

/// An EROFS image, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erofs {
    /// UUID in its superblock, lower-case with hyphens: what the guest finds a disk by.
    pub uuid: String,
    /// Size in bytes, whole blocks of [`Verity::BLOCK`].
    pub size: u64,
    /// SHA-256 of these bytes, lower-case hex.
    pub sha256: String,
}

/// The hash tree of a disk, as the kernel's dm-verity reads it: format 1, SHA-256, no superblock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verity {
    /// Digest of the tree's root block, lower-case hex.
    pub root_hash: String,
    /// Salt, lower-case hex.
    pub salt: String,
    /// Bytes of image, tree and padding together: the size of the disk.
    pub disk_size: u64,
}

impl Verity {
    /// Bytes of a block of data, and of one of hashes.
    pub const BLOCK: u64 = 4096;
}

/// One NVIDIA driver: modules, firmware and libraries all carry this version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// `550.163.01`, to the last digit.
    pub version: String,
    /// CUDA version of the driver, such as `12.4`, from its own files; `None` if they do not contain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
    /// Firmware files the modules ask for, relative to [`crate::layout::FIRMWARE_DIR`], that are packed.
    pub firmware: Vec<String>,
    /// The GPUs that the initrd was built for; empty: all that the driver supports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

/// What a module is for: decides when, and whether, the guest loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Disks, file systems, overlay, vsock, buttons: [`Module::on`] says when.
    Boot,
    /// The GPU's driver and what it needs: loaded only when the guest has a GPU.
    Gpu,
}

/// A kernel module in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Module name with underscores, as /proc/modules shows it.
    pub name: String,
    /// Where it is in the initramfs; one for the GPU below the payload's root.
    pub path: String,
    /// Purpose, which determines when it is loaded.
    pub purpose: Purpose,
    /// Parameters for `finit_module`, space separated; may be empty.
    pub parameters: String,
    /// Modules that must be loaded before it (hard dependencies).
    pub depends: Vec<String>,
    /// Its `vermagic`, as checked against the kernel.
    pub vermagic: String,
    /// Its own `version`, when it states one.
    pub version: Option<String>,
    /// What makes a guest load it, apart from the modules that depend on it: patterns of device aliases (`virtio:d00000002v*`) and of
    /// what guest-init asks for ([`ASKED_FOR`]). `None`: every boot loads it. For [`Purpose::Gpu`] without a meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
}

/// What guest-init asks for when it uses it: file systems, as the kernel's own requests name them, and drivers without a device.
pub const ASKED_FOR: [&str; 7] =
    ["fs-ext4", "fs-erofs", "fs-squashfs", "fs-overlay", "fs-virtiofs", "dm_verity", "loop"];

impl Module {
    /// Whether a device with this alias, or a request of [`ASKED_FOR`], makes a guest load it.
    pub fn is_for(&self, asked: &str) -> bool {
        let is_it = |pattern: &String| crate::pattern::matches(pattern.as_bytes(), asked.as_bytes());
        self.on.as_ref().is_some_and(|on| on.iter().any(is_it))
    }
}

/// What an archive entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// SHA-256 of the content, lower-case hex.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// Target of the link.
        target: String,
    },
}

/// One entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path in the initramfs, or below the payload's root.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Package or step it came from.
    pub origin: String,
    /// Why it is in the initrd.
    pub reason: String,
    /// For a driver file that containers get: the capabilities that it belongs to, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// SONAME of a driver library. The guest does not read it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soname: Option<String>,
    /// The newest version of glibc that a driver file requires: major, minor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<(u32, u32)>,
    /// Whether it belongs to the driver's payload: [`Manifest::payload`] says where that is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payload: bool,
}

impl File {
    /// Bytes of its content; links and directories have none.
    pub fn size(&self) -> u64 {
        if let Kind::File { size, .. } = self.kind { size } else { 0 }
    }
}

/// Why a manifest could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the manifest's shape.
    #[error("cannot parse the manifest: {0}; rebuild the initrd")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer tool.
    #[error(
        "unsupported manifest format {found}: expected {OLDEST_FORMAT} to {FORMAT}; use guest-init and host-builder of the release that wrote it, or of a later one"
    )]
    TooNew {
        /// The format found.
        found: u32,
    },
    /// Written by a tool that is too old.
    #[error("unsupported manifest format {found}: expected {OLDEST_FORMAT} to {FORMAT}; rebuild the initrd")]
    TooOld {
        /// The format found.
        found: u32,
    },
}

impl Manifest {
    /// Reads a manifest.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format > FORMAT {
            return Err(ManifestError::TooNew { found: head.format });
        }
        if head.format < OLDEST_FORMAT {
            return Err(ManifestError::TooOld { found: head.format });
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Returns the level of requests that a guest accepts, if its configuration sets this one.
    pub fn control(&self, configured: Control) -> Control {
        self.control.map_or(configured, |highest| highest.min(configured))
    }

    /// The bytes that go into the image: stable for equal manifests.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest holds nothing that JSON cannot");
        bytes.push(b'\n');
        bytes
    }

    /// The entries of the archive, the manifest itself apart.
    pub fn archived(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| !file.payload || self.payload == Payload::Files)
    }

    /// Where the guest has the payload: the paths of its files are below it.
    pub fn payload_root(&self) -> &'static str {
        match self.payload {
            Payload::Files => "/",
            Payload::Image { .. } | Payload::Disk { .. } => layout::PAYLOAD_MOUNT,
        }
    }

    /// Returns the path of a kernel module in the guest.
    pub fn module_path(&self, module: &Module) -> String {
        match module.purpose {
            Purpose::Gpu if self.payload != Payload::Files => {
                format!("{}{}", layout::PAYLOAD_MOUNT, module.path)
            }
            _ => module.path.clone(),
        }
    }

    /// Bytes of the archive's regular files: what unpacking costs the guest, page rounding aside.
    pub fn unpacked_bytes(&self) -> u64 {
        self.archived().map(File::size).sum()
    }

    /// Modules of one purpose, in load order.
    pub fn modules_for(&self, purpose: Purpose) -> impl Iterator<Item = &Module> {
        self.modules.iter().filter(move |module| module.purpose == purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            format: FORMAT,
            builder: "gpu-initrd 0".into(),
            profile: "p".into(),
            arch: "x86_64".into(),
            kernel_release: "6.12".into(),
            driver: Some(Driver { version: "550.163.01".into(), cuda: None, firmware: vec![], gpus: vec![] }),
            capabilities: vec!["compute".into()],
            control: None,
            payload: Payload::Files,
            modules: vec![],
            files: vec![File {
                path: "/init".into(),
                kind: Kind::File { size: 3, sha256: "aa".into() },
                mode: 0o755,
                origin: "guest-init".into(),
                reason: "PID 1".into(),
                capabilities: vec![],
                soname: None,
                glibc: None,
                payload: false,
            }],
        }
    }

    #[test]
    fn only_plain_payload_files_are_in_the_archive() {
        let mut manifest = sample();
        manifest.files.push(File {
            path: "/usr/lib/nvidia/x".into(),
            payload: true,
            ..manifest.files[0].clone()
        });
        assert_eq!(manifest.unpacked_bytes(), 6);
        let erofs = Erofs { uuid: String::new(), size: 4096, sha256: String::new() };
        manifest.payload = Payload::Image { path: "/x.erofs".into(), erofs };
        assert_eq!(manifest.unpacked_bytes(), 3);
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
        assert_eq!(manifest.payload_root(), layout::PAYLOAD_MOUNT);
    }

    #[test]
    fn a_boot_cannot_widen_what_the_build_allows() {
        let mut manifest = sample();
        assert_eq!(manifest.control(Control::Exec), Control::Exec);
        manifest.control = Some(Control::Stop);
        let accepted = Control::ALL.map(|asked| manifest.control(asked));
        assert_eq!(accepted, [Control::None, Control::Stop, Control::Stop]);
    }

    #[test]
    fn survives_json() {
        let manifest = sample();
        assert_eq!(Manifest::from_json(&manifest.to_json()).unwrap(), manifest);
        assert_eq!(manifest.unpacked_bytes(), 3);
    }

    #[test]
    fn refuses_a_newer_format_whatever_else_it_holds() {
        let error = Manifest::from_json(br#"{"format": 99, "modules": 7}"#).unwrap_err();
        assert!(matches!(error, ManifestError::TooNew { found: 99 }));
        assert!(
            error.to_string().starts_with("unsupported manifest format 99: expected 2 to 3; use "),
            "{error}"
        );
    }

    #[test]
    fn older_format_is_read_back_to_the_oldest() {
        let oldest = br#"{
            "format": 2, "builder": "gpu-initrd 0", "profile": "p", "arch": "x86_64", "kernel_release": "6.12",
            "driver": { "version": "550.163.01", "firmware": [] }, "capabilities": ["compute"],
            "payload": { "mode": "files" }, "modules": [],
            "files": [{ "path": "/init", "kind": "file", "size": 3, "sha256": "aa", "mode": 493, "origin": "guest-init", "reason": "PID 1" }]
        }"#;
        assert_eq!(Manifest::from_json(oldest).unwrap(), Manifest { format: OLDEST_FORMAT, ..sample() });
        let error = Manifest::from_json(br#"{"format": 1, "files": []}"#).unwrap_err();
        assert!(matches!(error, ManifestError::TooOld { found: 1 }), "{error}");
    }

    #[test]
    fn unknown_key_is_ignored() {
        let mut json: serde_json::Value = serde_json::from_slice(&sample().to_json()).unwrap();
        json["new"] = 1.into();
        json["files"][0]["new"] = "x".into();
        assert_eq!(Manifest::from_json(json.to_string().as_bytes()).unwrap(), sample());
    }
}
