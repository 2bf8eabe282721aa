//! What was found: checks by stable names, each with a verdict, the remedy and the evidence.

use serde::Serialize;

/// Version of what `--json` prints. A key is added without a new one; one that goes or changes its meaning makes one.
pub const SCHEMA: u32 = 1;

/// Names and meanings of all checks, in the order of the table in docs/booting.md. A test compares the two.
pub const CHECKS: &[(&str, &str)] = &[
    ("gpu", "NVIDIA GPUs are on the PCI bus, or the one of `--gpu` is"),
    (
        "kvm",
        "`/dev/kvm` can be opened by this user, and runs the test guest that `boot` starts, too: without it guests are emulated and get no GPU",
    ),
    ("iommu", "an IOMMU is on: `intel_iommu=on`, on AMD in the firmware's settings; devices are in groups"),
    ("iommu-passthrough", "`iommu=pt`: devices that the host keeps are not slowed down"),
    ("vfio-modules", "vfio-pci and its IOMMU driver are there"),
    ("vfio-access", "`/dev/vfio/vfio` and the GPUs' groups can be opened by this user"),
    ("memlock", "so much memory may be locked as a guest has: VFIO pins all of it"),
    ("huge-pages", "free huge pages hold `--guest-memory`; optional, for speed"),
    ("vsock", "`/dev/vhost-vsock` can be opened; without it hybrid sockets do"),
    ("fabric", "whether NVSwitches connect the GPUs, and what that asks for"),
    ("gpu-driver", "the GPU is bound to vfio-pci"),
    ("gpu-held", "no driver and no console of the host uses the GPU"),
    ("gpu-group", "all of the GPU's IOMMU group can go to the guest"),
    ("gpu-reset", "the kernel can reset the GPU between two guests"),
    (
        "gpu-supported",
        "NVIDIA's open modules of the packed driver know the GPU; without IMAGE, or where its driver cannot be read, a built-in list of names",
    ),
    ("gpu-bars", "the GPUs' BARs have addresses, and fit into a guest's address space"),
    ("image-driver", "the initrd carries a driver, and its files are those of the manifest"),
    ("container-read", "the container root could be read to the end"),
    ("container-libc", "the container has a C library that can load the driver's files"),
    ("container-files", "where the driver's files go"),
    ("container-driver-files", "which driver files the image brings along, and what happens to them"),
    ("container-cuda", "the CUDA runtimes in the image against the packed driver"),
    ("container-requires", "`NVIDIA_REQUIRE_*` of `--config` against the packed driver"),
    ("container-gpus", "`NVIDIA_VISIBLE_DEVICES` of `--config` names nothing that no guest has"),
];

/// How one check went. Ordered: the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A GPU will not work.
    Fail,
    /// It may not work, or not well; or it could not be found out.
    Warn,
    /// Good.
    Pass,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its stable name, one of [`CHECKS`].
    pub name: &'static str,
    /// What it is about, where there are several: the PCI address of a GPU.
    pub of: Option<String>,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, and what was expected where that differs.
    pub found: String,
    /// What to do; empty where nothing is.
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

    /// A good one.
    pub fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Pass, found, "")
    }

    /// A doubtful one, and what to do.
    pub fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warn, found, remedy)
    }

    /// A bad one, and what to do.
    pub fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fail, found, remedy)
    }

    /// With what it is about.
    #[must_use]
    pub fn of(mut self, subject: impl Into<String>) -> Self {
        self.of = Some(subject.into());
        self
    }

    /// With its proof.
    #[must_use]
    pub fn evidence(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(lines);
        self
    }
}

/// All checks of a run. `--json` prints exactly this.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether nothing failed.
    pub good: bool,
    /// The version of the packed driver, where an image was given.
    pub driver: Option<String>,
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
}

impl Report {
    /// The report of these checks.
    pub fn new(driver: Option<String>, checks: Vec<Check>) -> Self {
        let good = checks.iter().all(|check| check.verdict != Verdict::Fail);
        Self { schema: SCHEMA, good, driver, checks }
    }

    /// How many checks went so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}
