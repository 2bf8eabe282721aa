//! A fake host: files below a directory, as the kernel would show them.

use crate::doctor::{Asked, Check, HostRoot, Packed, TestGuest, check_host};
use nix::libc;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// The GPU of [`Fake::good`].
pub const GPU: &str = "0000:01:00.0";
/// Its BARs: 16 MiB, 256 MiB and 32 MiB.
pub const RESOURCE: &str = "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200
0x0000004000000000 0x000000400fffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000004010000000 0x0000004011ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x00000000f1000000 0x00000000f107ffff 0x0000000000046200
";

/// Does something on a thread that is not root.
pub fn as_nobody(work: impl FnOnce() + Send) {
    let drop_rights = || {
        if nix::unistd::geteuid().is_root() {
            // SAFETY: a system call with numbers only. glibc's function would change every thread
            // of the process.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, -1_i64, 65534_i64, -1_i64) };
            assert_eq!(done, 0);
        }
    };
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            drop_rights();
            work();
        });
        worker.join().unwrap();
    });
}

pub struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// An Intel host with an L4 for vfio-pci.
    pub fn good() -> Self {
        let fake = Self::empty();
        fake.write("/proc/cmdline", "quiet intel_iommu=on iommu=pt");
        fake.write(
            "/proc/cpuinfo",
            "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\naddress sizes\t: 46 bits physical, 48 bits virtual\n",
        );
        fake.write(
            "/proc/self/limits",
            "Max locked memory         unlimited            unlimited            bytes\n",
        );
        fake.write("/proc/self/status", "Name:\tdoctor\nCapEff:\t0000000000000000\n");
        for node in ["/dev/kvm", "/dev/vfio/vfio", "/dev/vfio/14", "/dev/vhost-vsock"] {
            fake.write(node, "");
            fs::set_permissions(fake.path(node), fs::Permissions::from_mode(0o666)).unwrap();
        }
        fake.write("/sys/class/iommu/dmar0/x", "");
        fake.write("/sys/bus/pci/drivers/vfio-pci/new_id", "");
        fake.write("/sys/module/vfio_iommu_type1/refcnt", "0");
        let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        fake.write(&format!("{pool}/nr_hugepages"), "4096\n");
        fake.write(&format!("{pool}/free_hugepages"), "2048\n");
        fake.device(GPU, (0x10de, 0x27b8, 0x0302), Some("vfio-pci"), Some("14"));
        fake.write(&format!("/sys/bus/pci/devices/{GPU}/resource"), RESOURCE);
        fake.write(&format!("/sys/bus/pci/devices/{GPU}/reset_method"), "flr bus\n");
        fake
    }

    pub fn host(&self) -> HostRoot {
        HostRoot::at(self.dir.path())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let place = self.path(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let place = self.path(path);
        if place.is_dir() { fs::remove_dir_all(place) } else { fs::remove_file(place) }.unwrap();
    }

    /// Takes all rights from a node; root has them all the same ([`as_nobody`]).
    pub fn forbid(&self, path: &str) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o0)).unwrap();
    }

    /// A PCI device: vendor, product and class; its driver; its group.
    pub fn device(
        &self,
        bdf: &str,
        (vendor, product, class): (u16, u16, u16),
        driver: Option<&str>,
        group: Option<&str>,
    ) {
        let at = |name: &str| format!("/sys/bus/pci/devices/{bdf}/{name}");
        self.write(&at("vendor"), &format!("0x{vendor:04x}\n"));
        self.write(&at("device"), &format!("0x{product:04x}\n"));
        self.write(&at("class"), &format!("0x{class:04x}00\n"));
        if let Some(driver) = driver {
            self.bind(bdf, driver);
        }
        if let Some(group) = group {
            symlink(format!("../../kernel/iommu_groups/{group}"), self.path(&at("iommu_group"))).unwrap();
            let member = self.path(&format!("/sys/kernel/iommu_groups/{group}/devices/{bdf}"));
            fs::create_dir_all(member.parent().unwrap()).unwrap();
            symlink(format!("../../../../bus/pci/devices/{bdf}"), member).unwrap();
        }
    }

    /// Binds a device to another driver.
    pub fn bind(&self, bdf: &str, driver: &str) {
        let link = self.path(&format!("/sys/bus/pci/devices/{bdf}/driver"));
        let _ = fs::remove_file(&link);
        symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
    }

    /// All checks, for a guest of 2 GiB.
    pub fn checks(&self) -> Vec<Check> {
        self.checks_with(None)
    }

    pub fn checks_with(&self, packed: Option<&Packed>) -> Vec<Check> {
        let test_guest = Some(&TestGuest::Ran);
        check_host(&self.host(), &Asked { gpus: &[], guest_memory: Some(2048), packed, test_guest }).unwrap()
    }

    /// The check of a name; of the first GPU, where there are several.
    pub fn check(&self, name: &str) -> Check {
        self.checks()
            .into_iter()
            .find(|check| check.name == name)
            .unwrap_or_else(|| panic!("no check {name}"))
    }
}
