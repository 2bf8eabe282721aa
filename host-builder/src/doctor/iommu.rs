//! The IOMMU (Documentation/admin-guide/kernel-parameters.txt: `intel_iommu`, `amd_iommu`, `iommu`).

use super::host::Host;
use super::report::Check;

const CLASS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// Whether there is one that is on, and whether the host's own devices pass it by.
pub fn check(host: &Host) -> Vec<Check> {
    let words = host.cmdline();
    let said: Vec<String> = words.iter().filter(|word| word.contains("iommu")).cloned().collect();
    let evidence = match said.join(" ") {
        said if said.is_empty() => "/proc/cmdline: nothing about iommu".to_owned(),
        said => format!("/proc/cmdline: {said}"),
    };
    let (units, groups) = (host.names(CLASS).len(), host.names(GROUPS).len());
    // AMD's is on unless it is switched off: the kernel knows no amd_iommu=on.
    let options = if host.is_amd() { "iommu=pt" } else { "intel_iommu=on iommu=pt" };
    if groups == 0 {
        let off = words.iter().find(|word| is_off(word));
        let remedy = match off {
            Some(word) => format!("take {word} off the kernel command line, and boot again"),
            None if units > 0 && host.is_amd() => {
                "the firmware shows one, and the kernel does not use it: dmesg | grep AMD-Vi says why"
                    .to_owned()
            }
            None if units > 0 => format!("add {options} to the kernel command line, and boot again"),
            None => format!(
                "turn the IOMMU on in the firmware's settings (VT-d on Intel, AMD-Vi on AMD), add {options} to the kernel command line, and boot again; in a virtual machine, have a virtual IOMMU added"
            ),
        };
        let found = format!("the IOMMU is off: {GROUPS} has no groups, {CLASS} has {units} units");
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    if units == 0 {
        let found = format!(
            "{GROUPS} has {groups} groups, and {CLASS} no unit: VFIO makes such groups without an IOMMU (enable_unsafe_noiommu_mode), and then a guest could write to all memory"
        );
        let remedy = format!(
            "turn that mode of vfio off, and the IOMMU on: in the firmware's settings (VT-d on Intel, AMD-Vi on AMD), and with {options} on the kernel command line"
        );
        return vec![Check::fail("iommu", found, remedy).evidence([evidence])];
    }
    vec![
        Check::pass("iommu", format!("on: {units} units, {groups} groups")).evidence([evidence]),
        passthrough(host, &words),
    ]
}

/// Whether a word of the command line asks for passthrough, or for the contrary.
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

/// `iommu=pt`, or a kernel that was built so: the default domains of groups are `identity` then.
fn passthrough(host: &Host, words: &[String]) -> Check {
    const NAME: &str = "iommu-passthrough";
    // The last word that says anything of it counts.
    let said = words.iter().rev().find_map(|word| says(word).map(|asked| (word, asked)));
    if let Some((word, true)) = said {
        return Check::pass(NAME, format!("{word} on the kernel command line"));
    }
    let types: Vec<_> =
        host.names(GROUPS).iter().filter_map(|group| host.hint(&format!("{GROUPS}/{group}/type"))).collect();
    if !types.is_empty() && types.iter().all(|kind| kind == "identity") {
        return Check::pass(NAME, "the kernel's default: every group's type is identity");
    }
    Check::warn(
        NAME,
        "iommu=pt is not on the kernel command line: devices that the host keeps are translated, which costs them speed",
        "add iommu=pt to the kernel command line; GPUs of guests are translated in any case",
    )
}
