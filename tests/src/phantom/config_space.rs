//! The PCI Express configuration space of the phantom: 4 KiB of bytes and a mask of those that
//! software may change.
//!
//! It has only what the driver requires: a 3D controller (or a switch) with the BARs of a
//! data-centre GPU, power management, and a PCI Express endpoint capability. Layout: PCI Local Bus
//! 3.0 section 6, PCI Express Base section 7.

use super::{Condition, Model};

/// Size of a PCI Express configuration space in bytes.
pub const SIZE: usize = 4096;
/// BAR0: registers, 32-bit.
pub const BAR0_SIZE: u64 = 16 << 20;
/// BAR1: video memory, 64-bit prefetchable, uses slots 1 and 2.
pub const BAR1_SIZE: u64 = 256 << 20;
/// BAR3: instance memory, 64-bit prefetchable, uses slots 3 and 4.
pub const BAR3_SIZE: u64 = 32 << 20;

const NVIDIA: u16 = 0x10de;
const STATUS_HAS_CAPABILITIES: u16 = 0x0010;
const REVISION_A1: u8 = 0xa1;
const BAR_64BIT_PREFETCHABLE: u32 = 0b1100;
const CAP_PM: usize = 0x60;
const CAP_PCIE: usize = 0x78;
const ID_PM: u8 = 0x01;
const ID_PCIE: u8 = 0x10;

/// Register contents and write mask.
pub struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
}

impl ConfigSpace {
    /// The configuration space of `model` as it is after reset.
    pub fn new(model: Model, condition: Condition) -> Self {
        let mut space = Self { bytes: Box::new([0; SIZE]), writable: Box::new([0; SIZE]) };
        space.header(model);
        if condition != Condition::NoBar {
            space.bar(0, BAR0_SIZE, 0);
        }
        space.bar(1, BAR1_SIZE, BAR_64BIT_PREFETCHABLE);
        space.bar(3, BAR3_SIZE, BAR_64BIT_PREFETCHABLE);
        space.power_management();
        space.pcie();
        space
    }

    /// Fills `data` from `offset`; offsets beyond the end read as all ones, as on a bus without a
    /// device.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes the writable bits of `data` at `offset`; the others keep their value.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (&new, at) in data.iter().zip(offset..SIZE) {
            let mask = self.writable[at];
            self.bytes[at] = (self.bytes[at] & !mask) | (new & mask);
        }
    }

    fn header(&mut self, model: Model) {
        self.put16(0x00, NVIDIA);
        self.put16(0x02, model.device_id());
        self.allow16(0x04, 0x0547); // command: I/O, memory, bus master, parity, SERR, INTx disable
        self.put16(0x06, STATUS_HAS_CAPABILITIES);
        self.bytes[0x08] = REVISION_A1;
        self.bytes[0x09..0x0c].copy_from_slice(&model.class());
        self.writable[0x0c] = 0xff; // cache line size
        self.put16(0x2c, NVIDIA);
        self.put16(0x2e, model.subsystem_id());
        self.bytes[0x34] = 0x60; // first capability: CAP_PM
        self.writable[0x3c] = 0xff; // interrupt line
        self.bytes[0x3d] = 1; // INTA
    }

    /// BAR `slot`: the address bits that cannot be written define the size.
    fn bar(&mut self, slot: usize, size: u64, flags: u32) {
        let at = 0x10 + 4 * slot;
        let mask = !(size - 1);
        self.put32(at, flags);
        let low = u32::try_from(mask & 0xffff_ffff).expect("masked to 32 bits");
        self.writable[at..at + 4].copy_from_slice(&low.to_le_bytes());
        if flags & 0b100 != 0 {
            self.writable[at + 4..at + 8].copy_from_slice(&[0xff; 4]);
        }
    }

    fn power_management(&mut self) {
        self.bytes[CAP_PM] = ID_PM;
        self.bytes[CAP_PM + 1] = 0x78; // next: CAP_PCIE
        self.put16(CAP_PM + 2, 0x0003); // version 3, no D1, no D2, no PME
        self.put16(CAP_PM + 4, 0x0008); // no soft reset between D3hot and D0
        self.allow16(CAP_PM + 4, 0x0003); // power state
    }

    fn pcie(&mut self) {
        self.bytes[CAP_PCIE] = ID_PCIE;
        self.put16(CAP_PCIE + 0x02, 0x0002); // version 2, endpoint
        self.put32(CAP_PCIE + 0x04, 0x0000_8021); // role-based errors, extended tags, 256-byte payload
        self.allow16(CAP_PCIE + 0x08, 0x7fff); // device control, all but function-level reset
        self.put32(CAP_PCIE + 0x0c, 0x0000_0104); // link: x16, 16 GT/s
        self.allow16(CAP_PCIE + 0x10, 0x0fff); // link control
        self.put16(CAP_PCIE + 0x12, 0x0104); // link status: x16, 16 GT/s
        self.allow16(CAP_PCIE + 0x28, 0xffff); // device control 2
        self.put16(CAP_PCIE + 0x30, 0x0004); // link control 2: target 16 GT/s
        self.allow16(CAP_PCIE + 0x30, 0xffff);
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn allow16(&mut self, at: usize, mask: u16) {
        self.writable[at..at + 2].copy_from_slice(&mask.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(space: &ConfigSpace, at: usize) -> u32 {
        let mut data = [0; 4];
        space.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn header_identifies_an_nvidia_3d_controller() {
        let space = ConfigSpace::new(Model::H100, Condition::Well);
        let mut header = [0; 64];
        space.read(0, &mut header);
        let mut expected = [0_u8; 64];
        expected[..4].copy_from_slice(&[0xde, 0x10, 0x30, 0x23]);
        expected[6] = 0x10;
        expected[8..12].copy_from_slice(&[0xa1, 0x00, 0x02, 0x03]);
        expected[0x14] = 0x0c;
        expected[0x1c] = 0x0c;
        expected[0x2c..0x30].copy_from_slice(&[0xde, 0x10, 0xc1, 0x16]);
        expected[0x34] = 0x60;
        expected[0x3d] = 1;
        assert_eq!(header, expected);
    }

    #[test]
    fn bars_answer_sizing_with_their_size_and_kind() {
        let mut space = ConfigSpace::new(Model::T4, Condition::Well);
        for at in (0x10..0x28).step_by(4) {
            space.write(at, &[0xff; 4]);
        }
        let bars: Vec<u32> = (0x10..0x28).step_by(4).map(|at| read32(&space, at)).collect();
        assert_eq!(bars, [0xff00_0000, 0xf000_000c, 0xffff_ffff, 0xfe00_000c, 0xffff_ffff, 0]);
    }

    #[test]
    fn capability_list_has_power_management_then_pcie_endpoint() {
        let space = ConfigSpace::new(Model::L4, Condition::Well);
        assert_eq!(read32(&space, 0x34) & 0xff, 0x60);
        assert_eq!(read32(&space, 0x60), 0x0003_7801);
        assert_eq!(read32(&space, 0x78), 0x0002_0010);
        assert_eq!(read32(&space, 0x100), 0, "no extended capability");
    }

    #[test]
    fn identity_is_read_only_and_command_is_not() {
        let mut space = ConfigSpace::new(Model::A100, Condition::Well);
        space.write(0, &[0; 8]);
        assert_eq!(read32(&space, 0), 0x20b0_10de);
        space.write(4, &[0x06, 0x04]);
        assert_eq!(read32(&space, 4), 0x0010_0406);
    }

    #[test]
    fn accesses_beyond_the_end_read_ones_and_write_nothing() {
        let mut space = ConfigSpace::new(Model::A100, Condition::Well);
        space.write(SIZE - 1, &[1, 2, 3]);
        let mut data = [0; 3];
        space.read(SIZE - 1, &mut data);
        assert_eq!(data, [0, 0xff, 0xff]);
    }
}
