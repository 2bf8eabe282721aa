//! Interprets the driver's lines in the kernel log.

use super::error::{AdapterFailure, NotBound};
use std::io;

/// Returns why the open of an adapter failed, according to the kernel's lines about it.
pub fn failure(error: io::Error, log: &[String]) -> AdapterFailure {
    let has = |words: &[&str]| log.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let firmware = log.iter().find_map(|line| {
        let name = line.split("Direct firmware load for ").nth(1)?;
        name.split(' ').next()
    });
    if let Some(name) = firmware {
        AdapterFailure::FirmwareMissing { name: name.to_owned() }
    } else if has(&["WPR2 already up"]) {
        AdapterFailure::Wpr2AlreadyUp
    } else if has(&["NV_ERR_NO_MEMORY", "out of memory", "page allocation failure"]) {
        AdapterFailure::OutOfMemory(error)
    } else if has(&["Cannot initialize GSP firmware RM", "RmInitAdapter failed"]) {
        AdapterFailure::Initialisation(error)
    } else {
        AdapterFailure::Open(error)
    }
}

/// Whether the driver has initialised adapters while it was loaded, as it does since branch 615 (`NVreg_GpuInitOnProbe`).
pub fn initialised_on_probe(log: &[String]) -> bool {
    log.iter().any(|line| ["RmInitAdapter", "failed during probe"].iter().any(|words| line.contains(words)))
}

/// Reasons for which the driver does not bind a GPU, each with the text of its log line. The first match is used.
const NOT_BOUND: [(&str, NotBound); 6] = [
    ("fallen off the bus", NotBound::OffTheBus),
    ("assigned to your NVIDIA device is invalid", NotBound::NoAddress),
    ("request_mem_region failed", NotBound::RegistersClaimed),
    ("is already bound to", NotBound::OtherDriver),
    ("requires use of the NVIDIA open kernel modules", NotBound::NeedsOpenModules),
    ("not supported by", NotBound::Unsupported),
];

/// Returns why the driver did not bind a GPU on the bus. A GPU is unsupported only if the driver says so.
pub fn not_bound(log: &[String]) -> NotBound {
    let is_said = |words: &str| log.iter().any(|line| line.contains(words));
    NOT_BOUND.iter().find(|(words, _)| is_said(words)).map_or(NotBound::Unexplained, |(_, why)| *why)
}

/// Lines that the driver prints at every load.
const CHATTER: [&str; 6] = [
    "NVRM: loading NVIDIA UNIX",
    "loading out-of-tree module",
    "module verification failed",
    "Nvlink Core is being initialized",
    "Loaded the UVM driver",
    "nvidia-modeset: Loading NVIDIA",
];

/// Returns the driver's lines about one GPU. The address is often only in the first line of a message; lines without an
/// address are kept if they follow one with this address.
pub fn about(lines: &[String], bdf: &str) -> Vec<String> {
    let mut ours = true;
    let mut list = Vec::new();
    let mut heading = None;
    for line in lines {
        let of_the_driver = ["NVRM", "nvidia", "firmware"].iter().any(|word| line.contains(word));
        if !of_the_driver || CHATTER.iter().any(|chatter| line.contains(chatter)) {
            continue;
        }
        if names_a_gpu(line) {
            ours = names(line, bdf);
        } else if line.ends_with(':') {
            // The next line names the GPU.
            heading = Some(line);
            continue;
        }
        for line in heading.take().into_iter().chain([line]) {
            if ours && !list.contains(line) {
                list.push(line.clone());
            }
        }
    }
    list
}

/// Returns whether a line of the driver names a GPU: as 0000:01:00.0, or 0000:01:00 in Xid lines.
pub fn names(line: &str, bdf: &str) -> bool {
    line.contains(bdf.rsplit_once('.').map_or(bdf, |(short, _)| short))
}

/// Returns whether a line contains a PCI address.
fn names_a_gpu(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_hexdigit() && c != ':').any(|word| {
        let parts: Vec<_> = word.trim_matches(':').split(':').collect();
        matches!(&parts[..], [domain, bus, device] if domain.len() == 4 && bus.len() == 2 && device.len() == 2)
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::GpuError;
    use super::super::pci::PciGpu;
    use super::*;
    use image::status::{Code, Finding};

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
        let log = lines("NVRM: GPU 0000:01:00.0: starts\nNVRM: it is so:\nNVRM: BAR1 (PCI:0000:02:00.0)");
        assert_eq!(about(&log, "0000:01:00.0"), ["NVRM: GPU 0000:01:00.0: starts"]);
        assert_eq!(about(&log, "0000:02:00.0"), ["NVRM: it is so:", "NVRM: BAR1 (PCI:0000:02:00.0)"]);
    }

    #[test]
    fn missing_firmware_is_told_from_a_dead_adapter() {
        let error = io::Error::from_raw_os_error(libc::EIO);
        let missing = lines(
            "nvidia 0000:01:00.0: Direct firmware load for nvidia/550.163.01/gsp_ga10x.bin failed with error -2\n\
             NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x61:0x56:1705)",
        );
        let why = failure(io::Error::from_raw_os_error(libc::EIO), &missing);
        assert!(why.to_string().contains("/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin"), "{why}");
        assert!(matches!(failure(error, &missing[1..]), AdapterFailure::Initialisation(_)));
    }

    /// As kernel-open/nvidia/nv-pci.c of the driver has them, with this GPU's numbers.
    #[test]
    fn only_the_drivers_own_word_makes_a_gpu_unsupported() {
        let gpu = PciGpu { bdf: "0000:01:00.0".into(), vendor: 0x10de, device: 0x2330 };
        for (text, code, message) in [
            (
                "NVRM: The NVIDIA GPU 0000:01:00.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\nNVRM: fallen off the bus and is not responding to commands.",
                Code::GpuNotBound,
                "fallen off the bus",
            ),
            (
                "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\nNVRM: BAR1 is 0M @ 0x0 (PCI:0000:01:00.0)",
                Code::GpuNotBound,
                "without an address",
            ),
            (
                "NVRM: request_mem_region failed for 16M @ 0xfd000000. This can\nNVRM: occur when a driver such as rivatv is loaded",
                Code::GpuNotBound,
                "has claimed its registers",
            ),
            ("NVRM: GPU 0000:01:00.0 is already bound to nouveau.", Code::GpuNotBound, "another driver"),
            (
                "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:2330)\nNVRM: installed in this system requires use of the NVIDIA open kernel modules.",
                Code::GpuUnsupported,
                "only by NVIDIA's open modules",
            ),
            (
                "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:2330)\nNVRM: installed in this system is not supported by the\nNVRM: NVIDIA 550.163.01 driver release.",
                Code::GpuUnsupported,
                "not supported by this driver",
            ),
            (
                "nvidia 0000:01:00.0: probe with driver nvidia failed with error -12",
                Code::GpuNotBound,
                "was not bound",
            ),
        ] {
            let log = about(&lines(text), &gpu.bdf);
            let why = not_bound(&log);
            let finding = Finding::from(GpuError::NotBound { gpu: gpu.clone(), why, log });
            assert_eq!(finding.code, code, "{text}");
            assert!(finding.message.contains(message) && !finding.evidence.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn a_gpu_in_use_and_too_little_memory_have_names_of_their_own() {
        let why = |text: &str| failure(io::Error::from_raw_os_error(libc::EIO), &lines(text));
        let failed = "\nNVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:1860)";
        let busy = "NVRM: _kgspBootGspRm: unexpected WPR2 already up, cannot proceed with booting GSP";
        assert!(matches!(why(&format!("{busy}{failed}")), AdapterFailure::Wpr2AlreadyUp));
        let memory = "NVRM: nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051) returned from kgspCreateRadix3";
        assert!(matches!(why(&format!("{memory}{failed}")), AdapterFailure::OutOfMemory(_)));
    }
}
