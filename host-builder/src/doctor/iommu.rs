//! The IOMMU (Documentation/admin-guide/kernel-parameters.txt: `intel_iommu`, `amd_iommu`, `iommu`).

use super::host::HostRoot;
use super::report::Check;

const CLASS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// Whether an IOMMU is on, and whether the host's own devices bypass it.
pub fn check(host: &HostRoot) -> Vec<Check> {
    let words = host.cmdline();
    let said: Vec<String> = words.iter().filter(|word| word.contains("iommu")).cloned().collect();
    let evidence = match said.join(" ") {
        said if said.is_empty() => "/proc/cmdline: no iommu option".to_owned(),
        said => format!("/proc/cmdline: {said}"),
    };
    let (units, groups) = (host.names(CLASS).len(), host.names(GROUPS).len());
    // AMD's is on by default: the kernel has no amd_iommu=on.
    let options = if host.is_amd() { "iommu=pt" } else { "intel_iommu=on iommu=pt" };
    if groups == 0 {
        let off = words.iter().find(|word| is_off(word));
        let remedy = match off {
            Some(word) => format!("remove {word} from the kernel command line, and reboot"),
            None if units > 0 && host.is_amd() => {
                "the firmware reports an IOMMU, but the kernel does not use it: find the reason with dmesg | grep AMD-Vi"
                    .to_owned()
            }
            None if units > 0 => format!("add {options} to the kernel command line, and reboot"),
            None => format!(
                "enable the IOMMU in the firmware settings (VT-d on Intel, AMD-Vi on AMD), add {options} to the kernel command line, and reboot; in a virtual machine, add a virtual IOMMU"
            ),
        };
        let found = format!("the IOMMU is off: {GROUPS} has no groups, {CLASS} has {units} units");
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    if units == 0 {
        let found = format!(
            "{GROUPS} has {groups} groups, but {CLASS} has no unit: VFIO creates such groups without an IOMMU (enable_unsafe_noiommu_mode), so a guest could write to all memory"
        );
        let remedy = format!(
            "disable that mode of vfio, and enable the IOMMU: in the firmware settings (VT-d on Intel, AMD-Vi on AMD), and with {options} on the kernel command line"
        );
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    vec![
        Check::pass("iommu", format!("on: {units} units, {groups} groups")).evidence([evidence]),
        passthrough(host, &words),
    ]
}

/// Whether a word of the command line turns passthrough on or off.
fn says(word: &str) -> Option<bool> {
    let (name, value) = word.split_once('=')?;
    let of = |value: &str| match (name, value) {
        ("iommu", "pt") | ("iommu.passthrough", "1" | "y" | "Y" | "on") => Some(true),
        ("iommu", "nopt") | ("iommu.passthrough", "0" | "n" | "N" | "off") => Some(false),
        _ => None,
    };
    value.split(',').rev().find_map(of)
}

fn is_off(word: &str) -> bool {
    let Some((name, value)) = word.split_once('=') else { return false };
    matches!(name, "iommu" | "intel_iommu" | "amd_iommu") && value.split(',').any(|value| value == "off")
}

/// Checks for `iommu=pt`, or a kernel with this default: the type of all groups is `identity` then.
fn passthrough(host: &HostRoot, words: &[String]) -> Check {
    const NAME: &str = "iommu-passthrough";
    // The last word that sets it takes precedence.
    let said = words.iter().rev().find_map(|word| says(word).map(|asked| (word, asked)));
    if let Some((word, true)) = said {
        return Check::pass(NAME, format!("{word} on the kernel command line"));
    }
    let types: Vec<_> =
        host.names(GROUPS).iter().filter_map(|group| host.hint(&format!("{GROUPS}/{group}/type"))).collect();
    if !types.is_empty() && types.iter().all(|kind| kind == "identity") {
        return Check::pass(NAME, "the kernel's default: the type of every group is identity");
    }
    Check::warn(
        NAME,
        "iommu=pt is not on the kernel command line: DMA of the host's devices is translated, which makes them slower",
        "add iommu=pt to the kernel command line; DMA of guests' GPUs is always translated",
    )
}
