//! Whether the packed driver supports a GPU, according to the list in its module or a built-in
//! table of names.

use super::device::Device;
use super::packed::Packed;
use super::report::Check;
use crate::kernel_modules::gpus::{TURING, family, is_firmware_of, newer};

const NAME: &str = "gpu-supported";

/// Data-centre GPUs by PCI device id, as the list in driver 550's module names them.
const KNOWN: &[(u16, &str)] = &[
    (0x1eb8, "T4"),
    (0x20b0, "A100 SXM4 40GB"),
    (0x20b2, "A100 SXM4 80GB"),
    (0x20b3, "A100 SXM 64GB"),
    (0x20b5, "A100 80GB PCIe"),
    (0x20b7, "A30"),
    (0x20f1, "A100 PCIe 40GB"),
    (0x2235, "A40"),
    (0x2236, "A10"),
    (0x25b6, "A2 or A16"),
    (0x2321, "H100 NVL"),
    (0x2324, "H800"),
    (0x2329, "H20"),
    (0x2330, "H100 80GB HBM3"),
    (0x2331, "H100 PCIe"),
    (0x2335, "H200"),
    (0x2339, "H100"),
    (0x26b5, "L40"),
    (0x26b9, "L40S"),
    (0x27b8, "L4"),
];

/// Whether the GPU is in the list.
pub fn check(gpu: &Device, packed: Option<&Packed>) -> Check {
    let id = gpu.id();
    let check = if gpu.product < TURING {
        let found =
            format!("{id} is older than Turing; NVIDIA's open modules support Turing (1e02) and newer");
        Check::fail(NAME, found, "use a newer GPU")
    } else {
        match packed {
            Some(packed) => of_image(gpu, packed),
            None => by_name(gpu),
        }
    };
    check.of(&gpu.bdf)
}

/// Firmware files for chips of this family that the driver's module requests and that are not
/// packed.
fn missing_firmware(device: u16, packed: &Packed) -> Vec<String> {
    let family = family(device);
    let asked: Vec<_> = packed.asked.iter().filter(|file| is_firmware_of(file, family)).cloned().collect();
    // A module that names no firmware needs what earlier modules needed.
    let asked = if asked.is_empty() { vec![format!("gsp_{family}.bin")] } else { asked };
    let is_packed = |file: &String| packed.firmware.iter().any(|packed| packed.ends_with(file.as_str()));
    asked.into_iter().filter(|file| !is_packed(file)).collect()
}

fn of_image(gpu: &Device, packed: &Packed) -> Check {
    let (id, version) = (gpu.id(), packed.version());
    let chips = match &packed.chips {
        Ok(chips) => chips,
        Err(why) => {
            return Check::warn(
                NAME,
                format!("{id}: unknown: {why}"),
                "build the initrd again with unmodified modules",
            );
        }
    };
    let Some(chip) = chips.iter().find(|chip| chip.device == gpu.product) else {
        if let Some(newer) = newer::by_id(gpu.product, version) {
            return Check::fail(NAME, newer.found(version), newer.remedy());
        }
        return Check::fail(
            NAME,
            format!("{id} is not among the {} GPUs of driver {version}", chips.len()),
            "choose a driver that supports it: host-builder pins update --driver VERSION; then build the initrd again",
        );
    };
    let missing = missing_firmware(gpu.product, packed);
    if !missing.is_empty() {
        return Check::fail(
            NAME,
            format!(
                "{id} is {}, which driver {version} supports; the initrd lacks its firmware {}",
                chip.name,
                missing.join(", ")
            ),
            format!("build the initrd for it: host-builder build-initrd --gpu {id}"),
        )
        .evidence(packed.firmware.iter().cloned());
    }
    Check::pass(NAME, format!("{id} is {}, which driver {version} of the initrd supports", chip.name))
}

fn by_name(gpu: &Device) -> Check {
    let id = gpu.id();
    match KNOWN.iter().find(|(known, _)| *known == gpu.product) {
        Some((_, name)) => Check::pass(
            NAME,
            format!(
                "{id} is {name}, according to a built-in list; pass IMAGE to check the packed driver's list"
            ),
        ),
        None if let Some(newer) = newer::by_id(gpu.product, "0") => Check::warn(
            NAME,
            format!(
                "{id} is {}, according to a built-in list; drivers support it since {}",
                newer.name, newer.since
            ),
            "ask the packed driver's own list: host-builder doctor IMAGE",
        ),
        None => Check::warn(
            NAME,
            format!("{id} is Turing or newer, but not in the built-in list of data-centre GPUs"),
            "ask the packed driver's own list: host-builder doctor IMAGE",
        ),
    }
}
