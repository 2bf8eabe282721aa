//! The GPUs that the container requests: `NVIDIA_VISIBLE_DEVICES`, as NVIDIA's container toolkit reads it.
//!
//! This is a selection, not a restriction: the whole guest belongs to one container.

use super::error::GpuError;
use image::pci;
use image::status::{Gpu, Node};
use std::collections::{BTreeMap, BTreeSet};

const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Prefixes of GPU names in the Container Device Interface.
const CDI: [&str; 2] = ["runtime.nvidia.com/gpu=", "nvidia.com/gpu="];

/// The requested GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// Every GPU. This is the default, since the host passed them to this container.
    All,
    /// The driver, but no GPU.
    None,
    /// Neither GPU nor driver.
    Void,
    /// These GPUs: indices in PCI order, UUIDs or PCI addresses.
    List(Vec<String>),
}

impl Visible {
    /// Reads the request from an environment.
    pub fn asked(env: &BTreeMap<String, String>) -> Self {
        match env.get(VARIABLE).map(|value| value.trim()) {
            None => Self::All,
            Some(list) if words(list).any(|word| word == "all") => Self::All,
            Some(list) if words(list).eq(["none"]) => Self::None,
            Some("" | "void") => Self::Void,
            Some(list) => {
                Self::List(words(list).filter(|word| !word.is_empty()).map(str::to_owned).collect())
            }
        }
    }

    /// Returns the error for MIG instances, which no guest has.
    pub fn refused(&self) -> Option<GpuError> {
        let Self::List(words) = self else { return None };
        words.iter().find(|word| is_instance(word)).map(|word| unmatched(word, &[]))
    }

    /// Selects the container's nodes: those of its GPUs, and those that belong to no GPU.
    ///
    /// # Errors
    /// [`GpuError::NotVisible`] with the word that matches no GPU.
    pub fn nodes(&self, gpus: &[Gpu], nodes: Vec<Node>) -> Result<Vec<Node>, GpuError> {
        let minors: BTreeSet<u32> = match self {
            Self::All => return Ok(nodes),
            Self::Void => return Ok(Vec::new()),
            Self::None => BTreeSet::new(),
            Self::List(words) => {
                let found = words.iter().map(|word| minor(word, gpus).ok_or_else(|| unmatched(word, gpus)));
                found.collect::<Result<_, _>>()?
            }
        };
        let of_gpu =
            |node: &Node| node.path.strip_prefix("/dev/nvidia").and_then(|rest| rest.parse::<u32>().ok());
        Ok(nodes
            .into_iter()
            .filter(|node| of_gpu(node).is_none_or(|minor| minors.contains(&minor)))
            .collect())
    }
}

/// Splits a list into words, without prefixes of the Container Device Interface: `nvidia.com/gpu=0`, or
/// `runtime.nvidia.com/gpu=0` as NVIDIA's toolkit writes it.
fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|word| {
        let word = word.trim();
        CDI.iter().find_map(|kind| word.strip_prefix(kind)).unwrap_or(word)
    })
}

/// Returns the GPUs with nodes in the order of their indices: by PCI address, as in NVML, not by minor.
fn numbered(gpus: &[Gpu]) -> Vec<&Gpu> {
    let mut bound: Vec<&Gpu> = gpus.iter().filter(|gpu| gpu.minor.is_some()).collect();
    bound.sort_by(|a, b| a.bdf.cmp(&b.bdf));
    bound
}

/// Returns the minor of the GPU that a word refers to.
fn minor(word: &str, gpus: &[Gpu]) -> Option<u32> {
    let found = match word.parse::<usize>() {
        Ok(index) => numbered(gpus).get(index).copied(),
        Err(_) => numbered(gpus).into_iter().find(|gpu| {
            gpu.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(word))
                || pci::address(word).is_some_and(|address| address == gpu.bdf)
        }),
    };
    found.and_then(|gpu| gpu.minor)
}

/// Returns whether a word is a MIG instance: `MIG-UUID`, `0:1`, and `mig1:0` of the Container Device Interface.
fn is_instance(word: &str) -> bool {
    word.starts_with("MIG-") || word.contains(':') && pci::address(word).is_none()
}

fn unmatched(word: &str, gpus: &[Gpu]) -> GpuError {
    let what = if is_instance(word) {
        format!(
            "the MIG instance {word}: expected all, none, void, indices, UUIDs or PCI addresses of whole GPUs"
        )
    } else {
        format!("GPU {word}, which is not one of the {} GPUs in this guest", gpus.len())
    };
    let present = numbered(gpus).into_iter().enumerate().map(|(index, gpu)| {
        format!("{index}: {} {}", gpu.bdf, gpu.uuid.as_deref().unwrap_or("(UUID unknown)"))
    });
    GpuError::NotVisible { what, present: present.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::{Finding, GpuState};

    fn gpu(bdf: &str, minor: u32, uuid: &str) -> Gpu {
        Gpu {
            bdf: bdf.into(),
            minor: Some(minor),
            uuid: Some(uuid.into()),
            state: GpuState::Ready,
            ..Gpu::default()
        }
    }

    fn chosen(value: Option<&str>) -> Result<Vec<String>, Finding> {
        // Minors need not follow PCI order.
        let gpus = [gpu("0000:02:00.0", 0, "GPU-bb"), gpu("0000:01:00.0", 1, "GPU-aa")];
        let node = |path: &str| Node { path: path.into(), major: 195, minor: 0, mode: 0o666, uid: 0, gid: 0 };
        let nodes = ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"].map(node);
        let env = value.map(|value| (VARIABLE.to_owned(), value.to_owned())).into_iter().collect();
        let nodes = Visible::asked(&env).nodes(&gpus, nodes.into()).map_err(Finding::from)?;
        Ok(nodes.into_iter().map(|node| node.path.trim_start_matches("/dev/nvidia").to_owned()).collect())
    }

    #[test]
    fn the_toolkits_words_choose_the_nodes() {
        for (value, expected) in [
            (None, &["0", "1", "ctl", "-uvm"][..]),
            (Some("all"), &["0", "1", "ctl", "-uvm"]),
            (Some("none"), &["ctl", "-uvm"]),
            (Some("void"), &[]),
            (Some(""), &[]),
            (Some("0"), &["1", "ctl", "-uvm"]),
            (Some("GPU-bb"), &["0", "ctl", "-uvm"]),
            (Some("1,gpu-aa"), &["0", "1", "ctl", "-uvm"]),
            // By address, as the driver's tools print it.
            (Some("00000000:02:00.0"), &["0", "ctl", "-uvm"]),
            (Some("01:00.0"), &["1", "ctl", "-uvm"]),
            (Some("nvidia.com/gpu=all"), &["0", "1", "ctl", "-uvm"]),
            (Some("runtime.nvidia.com/gpu=1, nvidia.com/gpu=GPU-bb"), &["0", "ctl", "-uvm"]),
            (Some("nvidia.com/gpu=none"), &["ctl", "-uvm"]),
        ] {
            assert_eq!(chosen(value).unwrap(), expected, "{value:?}");
        }
    }

    #[test]
    fn what_matches_no_gpu_is_named_with_those_that_there_are() {
        let finding = chosen(Some("0,2")).unwrap_err();
        assert!(finding.message.contains("GPU 2") && finding.evidence[0].contains("0000:0"), "{finding:?}");
        for instance in ["MIG-1234", "0:0", "nvidia.com/gpu=0:1", "nvidia.com/gpu=mig1:0"] {
            let message = chosen(Some(instance)).unwrap_err().message;
            assert!(message.contains("MIG instance"), "{message}");
            let env = [(VARIABLE.to_owned(), instance.to_owned())].into();
            assert_eq!(Finding::from(Visible::asked(&env).refused().unwrap()).message, message);
        }
        let env = [(VARIABLE.to_owned(), "0,GPU-1,01:00.0".to_owned())].into();
        assert!(Visible::asked(&env).refused().is_none());
        for other in ["amd.com/gpu=0", "nvidia.com/mig=0"] {
            assert!(chosen(Some(other)).unwrap_err().message.contains(&format!("requests GPU {other}")));
        }
    }
}
