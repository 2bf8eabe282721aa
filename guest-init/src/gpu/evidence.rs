//! What the driver's lines in the kernel log mean.

use crate::report::{self, with_evidence};
use image::status::{Code, Finding};
use std::io;

/// What a failed open means, from the kernel's lines.
pub fn failure(bdf: &str, error: &io::Error, evidence: &[String]) -> Finding {
    let has = |words: &[&str]| evidence.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let firmware = evidence.iter().find_map(|line| {
        let name = line.split("Direct firmware load for ").nth(1)?;
        name.split(' ').next()
    });
    let finding = if let Some(name) = firmware {
        report::error(
            Code::FirmwareMissing,
            format!("GPU {bdf} needs firmware /lib/firmware/{name}, which the initrd does not have"),
            "build the initrd again with the driver's firmware package",
        )
    } else if has(&["WPR2 already up"]) {
        report::error(
            Code::Wpr2AlreadyUp,
            format!(
                "GPU {bdf} still runs the firmware of its last user, which nothing in this guest can end"
            ),
            "reset the GPU on the host before the guest gets it: echo 1 > /sys/bus/pci/devices/BDF/reset, or a reset of the whole bus or machine where it has none",
        )
    } else if has(&["NV_ERR_NO_MEMORY", "out of memory", "page allocation failure"]) {
        report::error(
            Code::LowMemory,
            format!("GPU {bdf}: the driver had too little memory to initialise the adapter ({error})"),
            "give the guest more memory; build-initrd says how much it needs, and less with --payload disk",
        )
    } else if has(&["Cannot initialize GSP firmware RM", "RmInitAdapter failed"]) {
        report::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: the adapter did not initialise ({error})"),
            "reset the GPU on the host (unbind, reset, bind to vfio-pci again); if it stays so, look up the Xid and the RmInitAdapter code in NVIDIA's documentation",
        )
    } else {
        report::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: opening its node failed: {error}"),
            "the kernel's lines say why",
        )
    };
    with_evidence(finding, evidence.to_vec())
}

/// What the driver says of itself at every load.
const CHATTER: [&str; 6] = [
    "NVRM: loading NVIDIA UNIX",
    "loading out-of-tree module",
    "module verification failed",
    "Nvlink Core is being initialized",
    "Loaded the UVM driver",
    "nvidia-modeset: Loading NVIDIA",
];

/// The driver's lines about one GPU. It names the address in the first line of a message and sometimes only there, and
/// some lines name none: those are kept when they follow one that does.
pub fn about(lines: &[String], bdf: &str) -> Vec<String> {
    let mut ours = true;
    let mut list = Vec::new();
    for line in lines {
        let of_the_driver = ["NVRM", "nvidia", "firmware"].iter().any(|word| line.contains(word));
        if !of_the_driver || CHATTER.iter().any(|chatter| line.contains(chatter)) {
            continue;
        }
        if names_a_gpu(line) {
            ours = names(line, bdf);
        }
        if ours && !list.contains(line) {
            list.push(line.clone());
        }
    }
    list
}

/// Whether a line of the driver's names a GPU: it writes 0000:01:00.0, and 0000:01:00 in Xid lines.
pub fn names(line: &str, bdf: &str) -> bool {
    line.contains(bdf.rsplit_once('.').map_or(bdf, |(short, _)| short))
}

/// Whether a line contains a PCI address.
fn names_a_gpu(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_hexdigit() && c != ':').any(|word| {
        let parts: Vec<_> = word.trim_matches(':').split(':').collect();
        matches!(&parts[..], [domain, bus, device] if domain.len() == 4 && bus.len() == 2 && device.len() == 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_belong_to_the_gpu_that_was_named_last() {
        let log = lines(
            "usb 1-1: new device\nnvidia: loading out-of-tree module taints kernel.\nNVRM: GPU 0000:01:00.0: starts\nNVRM: a detail\n\
             NVRM: Xid (PCI:0000:02:00): 143, pid=1, name=x, Timeout\nNVRM: of the second\n",
        );
        assert_eq!(about(&log, "0000:01:00.0"), ["NVRM: GPU 0000:01:00.0: starts", "NVRM: a detail"]);
        assert_eq!(about(&log, "0000:02:00.0").len(), 2);
    }

    #[test]
    fn missing_firmware_is_told_from_a_dead_adapter() {
        let error = io::Error::from_raw_os_error(libc::EIO);
        let missing = lines(
            "nvidia 0000:01:00.0: Direct firmware load for nvidia/550.163.01/gsp_ga10x.bin failed with error -2\n\
             NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x61:0x56:1705)",
        );
        let finding = failure("0000:01:00.0", &error, &missing);
        assert_eq!(finding.code, Code::FirmwareMissing);
        assert!(finding.message.contains("/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin"));
        assert_eq!(failure("0000:01:00.0", &error, &missing[1..]).code, Code::AdapterInitFailed);
    }

    #[test]
    fn a_gpu_in_use_and_too_little_memory_have_names_of_their_own() {
        let error = io::Error::from_raw_os_error(libc::EIO);
        let code = |text: &str| failure("0000:01:00.0", &error, &lines(text)).code;
        let failed = "\nNVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:1860)";
        let busy = "NVRM: _kgspBootGspRm: unexpected WPR2 already up, cannot proceed with booting GSP";
        assert_eq!(code(&format!("{busy}{failed}")), Code::Wpr2AlreadyUp);
        let memory = "NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051) returned from kgspCreateRadix3";
        assert_eq!(code(&format!("{memory}{failed}")), Code::LowMemory);
    }
}
