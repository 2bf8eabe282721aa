//! The report: checks with stable names, each with a verdict, a remedy and evidence.

use serde::Serialize;

/// Version of the output of `--json`. It is increased when a key is removed or changes its meaning,
/// not when one is added.
pub const SCHEMA: u32 = 1;

/// Names and meanings of all checks, in the order of the table in docs/booting.md. A test compares
/// the two.
pub const CHECKS: &[(&str, &str)] = &[
    ("gpu", "NVIDIA GPUs, or the one of `--gpu`, are on the PCI bus"),
    (
        "kvm",
        "this user can open `/dev/kvm`, and a test guest runs on it (the same test as in `boot`): without KVM, guests are emulated and get no GPU",
    ),
    (
        "iommu",
        "an IOMMU is on (`intel_iommu=on`; on AMD in the firmware settings), and devices are in groups",
    ),
    ("iommu-passthrough", "`iommu=pt` is set, so that the host's own devices are not slowed down"),
    ("vfio-modules", "vfio-pci and its IOMMU driver are loaded"),
    ("vfio-access", "this user can open `/dev/vfio/vfio` and the GPUs' groups"),
    ("memlock", "the limit of locked memory is high enough for a guest: VFIO pins all of its memory"),
    ("huge-pages", "there are enough free huge pages for `--guest-memory`; optional, for speed"),
    ("vsock", "this user can open `/dev/vhost-vsock`; without it, hybrid sockets are used"),
    ("fabric", "whether NVSwitches connect the GPUs, and what they require"),
    ("gpu-driver", "the GPU is bound to vfio-pci"),
    ("gpu-held", "no driver and no console of the host uses the GPU"),
    ("gpu-group", "the whole IOMMU group of the GPU can be passed to the guest"),
    ("gpu-reset", "the kernel can reset the GPU between two guests"),
    (
        "gpu-supported",
        "the open modules of the packed driver support the GPU; without IMAGE, or if its driver cannot be read, a built-in list is used",
    ),
    ("gpu-bars", "the GPUs' BARs have addresses, and fit into a guest's address space"),
    ("image-driver", "the initrd contains a driver, and its files match the manifest"),
    ("image-driver-support", "NVIDIA supports the branch of the packed driver, according to a built-in list"),
    ("container-read", "the container root could be read completely"),
    ("container-libc", "the container has a C library that can load the driver's files"),
    ("container-files", "where the driver's files are injected"),
    ("container-driver-files", "which driver files the image has itself, and what happens to them"),
    ("container-cuda", "the packed driver supports the CUDA runtimes in the image"),
    ("container-requires", "the packed driver meets `NVIDIA_REQUIRE_*` of `--config`"),
    ("container-gpus", "`NVIDIA_VISIBLE_DEVICES` of `--config` names only GPUs that a guest can have"),
];

/// Result of a check, ordered with the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A GPU will not work.
    Fail,
    /// It may not work, or not well; or the result is unknown.
    Warn,
    /// Good.
    Pass,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its stable name, one of [`CHECKS`].
    pub name: &'static str,
    /// What was checked, if there are several: the PCI address of a GPU.
    pub of: Option<String>,
    /// Its result.
    pub verdict: Verdict,
    /// What was found, and what was expected if it differs.
    pub found: String,
    /// What to do; empty if nothing.
    pub remedy: String,
    /// Paths, values, lines.
    pub evidence: Vec<String>,
}

impl Check {
    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        debug_assert!(CHECKS.iter().any(|(known, _)| *known == name), "{name} is not in the table");
        Self { name, of: None, verdict, found: found.into(), remedy: remedy.into(), evidence: Vec::new() }
    }

    /// A check that passed.
    pub fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Pass, found, "")
    }

    /// A check with a warning, and what to do.
    pub fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warn, found, remedy)
    }

    /// A check that failed, and what to do.
    pub fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fail, found, remedy)
    }

    /// Sets what was checked.
    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.of = Some(subject.into());
        self
    }

    /// Adds evidence.
    #[must_use]
    pub fn evidence(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(lines);
        self
    }
}

/// All checks of a run. `--json` prints exactly this.
#[derive(Debug, Serialize)]
pub struct DoctorReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether no check failed.
    pub good: bool,
    /// The version of the packed driver, if an image was given.
    pub driver: Option<String>,
    /// The checks, in the order in which they were run.
    pub checks: Vec<Check>,
}

impl DoctorReport {
    /// The report of these checks.
    pub fn new(driver: Option<String>, checks: Vec<Check>) -> Self {
        let good = checks.iter().all(|check| check.verdict != Verdict::Fail);
        Self { schema: SCHEMA, good, driver, checks }
    }

    /// Number of checks with this result.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}
