//! The GPUs that the phantom can pretend to be.
//!
//! The driver decides by three numbers whether it supports a GPU: the PCI device id, and the
//! registers `PMC_BOOT_0` and `PMC_BOOT_42`, which carry the chip's architecture and
//! implementation. Everything else about the phantom is the same for all models.

use clap::ValueEnum;

/// A GPU model, named as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// Tesla T4: Turing, the oldest that the open kernel modules drive.
    T4,
    /// A100: Ampere GA100, whose firmware is `gsp_tu10x.bin`.
    A100,
    /// A10: Ampere GA102.
    A10,
    /// L4: Ada.
    L4,
    /// L40S: Ada.
    L40s,
    /// H100: Hopper.
    H100,
    /// H200: Hopper.
    H200,
    /// B200: Blackwell, which drivers before 570 refuse as unsupported.
    B200,
    /// An NVSwitch of the third generation, as on boards with eight H100. It is not a GPU.
    #[value(name = "nvswitch")]
    NvSwitch,
}

impl Model {
    /// PCI device id.
    pub const fn device_id(self) -> u16 {
        match self {
            Self::T4 => 0x1eb8,
            Self::A100 => 0x20b0,
            Self::A10 => 0x2236,
            Self::L4 => 0x27b8,
            Self::L40s => 0x26b9,
            Self::H100 => 0x2330,
            Self::H200 => 0x2335,
            Self::B200 => 0x2901,
            Self::NvSwitch => 0x22a3,
        }
    }

    /// PCI subsystem device id (the vendor is NVIDIA): the driver finds the marketing name by it.
    pub const fn subsystem_id(self) -> u16 {
        match self {
            Self::T4 => 0x12a2,
            Self::A100 => 0x144e,
            Self::A10 => 0x1482,
            Self::L4 => 0x16ca,
            Self::L40s => 0x1851,
            Self::H100 => 0x16c1,
            Self::H200 => 0x18be,
            Self::B200 => 0x1999,
            Self::NvSwitch => 0x1796,
        }
    }

    /// What `PMC_BOOT_0` and `PMC_BOOT_42` both read as: architecture, implementation and revision
    /// A1.
    pub const fn boot_register(self) -> u32 {
        match self {
            Self::T4 => 0x1640_00a1,
            Self::A100 => 0x1700_00a1,
            Self::A10 => 0x1720_00a1,
            Self::L4 => 0x1940_00a1,
            Self::L40s => 0x1920_00a1,
            Self::H100 | Self::H200 => 0x1800_00a1,
            Self::B200 => 0x1a20_00a1,
            Self::NvSwitch => 0,
        }
    }

    /// PCI class, in the order of configuration space: programming interface, subclass, base class.
    pub const fn class(self) -> [u8; 3] {
        match self {
            // Another bridge.
            Self::NvSwitch => [0x00, 0x80, 0x06],
            // 3D controller: a GPU without display outputs.
            _ => [0x00, 0x02, 0x03],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_parsed_from_lower_case_names() {
        let names: Vec<_> = Model::value_variants()
            .iter()
            .map(|m| m.to_possible_value().unwrap().get_name().to_owned())
            .collect();
        assert_eq!(names, ["t4", "a100", "a10", "l4", "l40s", "h100", "h200", "b200", "nvswitch"]);
    }

    #[test]
    fn models_have_different_device_ids() {
        let mut ids: Vec<_> = Model::value_variants().iter().map(|m| m.device_id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Model::value_variants().len());
    }
}
