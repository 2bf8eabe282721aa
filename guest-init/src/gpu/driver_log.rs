//! Interprets the driver's lines in the kernel log.

use super::pci::PciGpu;
use crate::status;
use crate::status::with_evidence;
use image::status::{Code, Finding, GpuState};
use std::io;

/// Returns the finding for a failed open, according to the kernel's lines.
pub fn failure(bdf: &str, error: &io::Error, evidence: &[String]) -> Finding {
    let has = |words: &[&str]| evidence.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let firmware = evidence.iter().find_map(|line| {
        let name = line.split("Direct firmware load for ").nth(1)?;
        name.split(' ').next()
    });
    let finding = if let Some(name) = firmware {
        status::error(
            Code::FirmwareMissing,
            format!("GPU {bdf} requires firmware /lib/firmware/{name}, which is not in the initrd"),
            "rebuild the initrd with the driver's firmware package",
        )
    } else if has(&["WPR2 already up"]) {
        status::error(
            Code::Wpr2AlreadyUp,
            format!("GPU {bdf} still runs the firmware of its previous user, which this guest cannot stop"),
            "reset the GPU on the host before you pass it to the guest: echo 1 > /sys/bus/pci/devices/BDF/reset; if the GPU has no reset, reset the whole bus or reboot the host",
        )
    } else if has(&["NV_ERR_NO_MEMORY", "out of memory", "page allocation failure"]) {
        status::error(
            Code::LowMemory,
            format!("GPU {bdf}: the driver ran out of memory while it initialised the adapter ({error})"),
            "give the guest more memory (build-initrd prints the minimum), or build with --payload disk, which needs less",
        )
    } else if has(&["Cannot initialize GSP firmware RM", "RmInitAdapter failed"]) {
        status::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: the adapter failed to initialise ({error})"),
            "reset the GPU on the host (unbind, reset, bind to vfio-pci again); if it still fails, look up the Xid and the RmInitAdapter code in NVIDIA's documentation",
        )
    } else {
        status::error(
            Code::AdapterInitFailed,
            format!("GPU {bdf}: cannot open its device node: {error}"),
            "read the kernel log lines in the evidence",
        )
    };
    with_evidence(finding, evidence.to_vec())
}

/// Reasons for which the driver does not bind a GPU: text in its log lines, code, message after the GPU's name, and hint. The
/// first match is used.
const NOT_TAKEN: [(&str, Code, &str, &str); 6] = [
    (
        "fallen off the bus",
        Code::GpuNotBound,
        " is on the bus but does not respond to the driver: it has fallen off the bus",
        "check the host's kernel log (PCIe errors, power, temperature), reset the GPU on the host, and start a new guest",
    ),
    (
        "assigned to your NVIDIA device is invalid",
        Code::GpuNotBound,
        " has memory without an address: the guest's PCI windows are too small for its BARs",
        "configure larger 64-bit PCI memory windows in the VMM, and guest firmware that uses them; host-builder doctor prints the size of the BARs",
    ),
    (
        "request_mem_region failed",
        Code::GpuNotBound,
        ": another driver in the guest's kernel has claimed its registers",
        "boot the kernel that build-initrd wrote, or disable the frame buffer or nouveau on the kernel command line (video=efifb:off, nouveau.modeset=0)",
    ),
    (
        "is already bound to",
        Code::GpuNotBound,
        " is bound to another driver",
        "remove that driver's module from the initrd or the kernel",
    ),
    (
        "requires use of the NVIDIA open kernel modules",
        Code::GpuUnsupported,
        " is supported only by NVIDIA's open modules, but the initrd contains other ones",
        "build the initrd with the open modules of this driver",
    ),
    (
        "not supported by",
        Code::GpuUnsupported,
        " is not supported by this driver",
        "build the initrd with a driver that supports this GPU: the open modules require Turing or newer, and a driver released after the GPU",
    ),
];

/// Explains why the driver did not bind a GPU on the bus. A GPU is unsupported only if the driver says so.
pub fn not_taken(gpu: &PciGpu, evidence: &[String]) -> (GpuState, Finding) {
    let is_said = |words: &str| evidence.iter().any(|line| line.contains(words));
    let (_, code, what, hint) = NOT_TAKEN.into_iter().find(|(words, ..)| is_said(words)).unwrap_or((
        "",
        Code::GpuNotBound,
        " was not bound by the driver",
        "read the driver's log lines in the evidence; host-builder doctor checks the driver's list of GPUs",
    ));
    let message = format!("GPU {} ({:04x}:{:04x}){what}", gpu.bdf, gpu.vendor, gpu.device);
    let state = if code == Code::GpuUnsupported { GpuState::Unsupported } else { GpuState::Failed };
    (state, with_evidence(status::error(code, message, hint), evidence.to_vec()))
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
        let finding = failure("0000:01:00.0", &error, &missing);
        assert_eq!(finding.code, Code::FirmwareMissing);
        assert!(finding.message.contains("/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin"));
        assert_eq!(failure("0000:01:00.0", &error, &missing[1..]).code, Code::AdapterInitFailed);
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
            let (_, finding) = not_taken(&gpu, &about(&lines(text), &gpu.bdf));
            assert_eq!(finding.code, code, "{text}");
            assert!(finding.message.contains(message) && !finding.evidence.is_empty(), "{finding:?}");
        }
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
