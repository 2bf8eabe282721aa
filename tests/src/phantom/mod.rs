//! An emulated GPU: a vfio-user server with as much of an NVIDIA PCI device as the real driver
//! needs to bind to it.
//!
//! QEMU (10.1 and later) connects to the socket and presents the device to its guest. The driver
//! finds its vendor id, its BARs and the boot registers, registers the GPU, and makes its /proc
//! entries; the first open of the device node then fails in the adapter's start, as it would on
//! broken hardware, because all other registers read as zero.

mod config_space;
mod model;

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
};

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_BAR3_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use config_space::ConfigSpace;
pub use model::Model;

use crate::RigError;

/// Chip identity, in BAR0.
const PMC_BOOT_0: u64 = 0x000;
/// Chip identity in the wider format of newer chips, in BAR0.
const PMC_BOOT_42: u64 = 0xa00;

/// Whether the FSP of Hopper has booted, in BAR0 (`NV_THERM_I2CS_SCRATCH` of gh100/dev_therm.h).
const FSP_BOOT_COMPLETE: u64 = 0x200bc;
/// End of the memory that a running GSP firmware protects, in BAR0 (`NV_PFB_PRI_MMU_WPR2_ADDR_HI`
/// of tu102/dev_fb.h).
const WPR2_ADDR_HI: u64 = 0x1f_a828;
/// The value of that register on a GPU whose GSP firmware runs.
const IN_USE: [(u64, u32); 2] = [(FSP_BOOT_COMPLETE, 0xff), (WPR2_ADDR_HI, 0x02ff_f000)];

/// The condition of a phantom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Condition {
    /// The driver binds to it, and its adapter does not start.
    #[default]
    Well,
    /// The firmware of its last user still runs. The driver checks that this early only on Hopper.
    InUse,
    /// It answers on the bus, and every register reads as all ones.
    Dead,
    /// The memory of its registers, BAR0, has no address.
    NoBar,
}

/// A bound socket on which a phantom GPU is served.
pub struct PhantomGpu {
    model: Model,
    condition: Condition,
    path: PathBuf,
    server: Server,
    /// The same listening socket, to end a wait for a client.
    listener: OwnedFd,
}

impl PhantomGpu {
    /// Binds `socket`, which must not exist, for a GPU of `model`.
    pub fn bind(socket: &Path, model: Model, condition: Condition) -> Result<Self, RigError> {
        let listener = UnixListener::bind(socket)
            .map_err(|e| RigError::io("bind the phantom GPU's socket", socket, e))?;
        let listener = OwnedFd::from(listener);
        let second = listener
            .try_clone()
            .map_err(|e| RigError::io("duplicate the phantom GPU's socket", socket, e))?;
        let server = Server::from_owned_fd(second, true, irqs(), regions(condition));
        Ok(Self { model, condition, path: socket.to_owned(), server, listener })
    }

    /// Serves one QEMU, from its connection to its disconnection.
    pub fn serve_one(&self) -> Result<(), RigError> {
        let mut device = Device::new(self.model, self.condition);
        match self.server.run(&mut device) {
            Ok(()) => Ok(()),
            Err(error) if is_disconnection(&error) => Ok(()),
            Err(source) => Err(RigError::Phantom { socket: self.path.clone(), source }),
        }
    }

    /// Serves one QEMU on a thread of its own. The socket is removed when the handle is dropped.
    pub fn spawn(self) -> Result<PhantomHandle, RigError> {
        let path = self.path.clone();
        let listener =
            self.listener.try_clone().map_err(|e| RigError::io("duplicate the socket", &path, e))?;
        thread::Builder::new()
            .name("phantom-gpu".into())
            .spawn(move || {
                // A client that disconnects, or that never connects, is the usual end; the guest's
                // console shows the rest.
                let _ = self.serve_one();
            })
            .map_err(|e| RigError::io("start a thread for", &path, e))?;
        Ok(PhantomHandle { path, listener })
    }
}

impl Drop for PhantomGpu {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A phantom GPU that is served on a thread until QEMU disconnects, or until this is dropped while
/// no QEMU has connected.
pub struct PhantomHandle {
    path: PathBuf,
    listener: OwnedFd,
}

impl PhantomHandle {
    /// The socket for QEMU to connect to.
    pub fn socket(&self) -> &Path {
        &self.path
    }
}

impl Drop for PhantomHandle {
    fn drop(&mut self) {
        // A shut-down listener makes the pending accept return; an established connection ends with
        // its QEMU.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The device behind one connection.
struct Device {
    model: Model,
    condition: Condition,
    registers: Vec<(u64, u32)>,
    config: ConfigSpace,
}

impl Device {
    fn new(model: Model, condition: Condition) -> Self {
        let mut registers = vec![(PMC_BOOT_0, model.boot_register()), (PMC_BOOT_42, model.boot_register())];
        registers.extend(IN_USE.iter().filter(|_| condition == Condition::InUse));
        Self { model, condition, registers, config: ConfigSpace::new(model, condition) }
    }

    /// BAR0: the registers that are known, and zeros. Byte by byte, so that any width and alignment
    /// is answered.
    fn read_registers(&self, offset: u64, data: &mut [u8]) {
        if self.condition == Condition::Dead {
            return data.fill(0xff);
        }
        for (byte, at) in data.iter_mut().zip(offset..) {
            let known = self.registers.iter().find(|(register, _)| (*register..register + 4).contains(&at));
            *byte = known.map_or(0, |(register, value)| {
                value.to_le_bytes()[usize::try_from(at - register).expect("below 4")]
            });
        }
    }
}

impl ServerBackend for Device {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                self.config.read(usize::try_from(offset).unwrap_or(usize::MAX), data);
            }
            VFIO_PCI_BAR0_REGION_INDEX => self.read_registers(offset, data),
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == VFIO_PCI_CONFIG_REGION_INDEX {
            self.config.write(usize::try_from(offset).unwrap_or(usize::MAX), data);
        }
        Ok(())
    }

    /// The phantom never touches guest memory: the mapping is acknowledged, its descriptor closed.
    fn dma_map(&mut self, _: DmaMapFlags, _: u64, _: u64, _: u64, _: Option<File>) -> io::Result<()> {
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.config = ConfigSpace::new(self.model, self.condition);
        Ok(())
    }

    /// The phantom sends no interrupts: every set-up is acknowledged.
    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

/// A QEMU that is killed during a request resets the connection, which is a normal end.
fn is_disconnection(error: &vfio_user::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error {
        vfio_user::Error::StreamRead(e) | vfio_user::Error::StreamWrite(e) => {
            matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
        }
        vfio_user::Error::ReceiveWithFd(e) => matches!(e.errno(), libc::ECONNRESET | libc::EPIPE),
        _ => false,
    }
}

fn regions(condition: Condition) -> Vec<ServerRegion> {
    (0..VFIO_PCI_NUM_REGIONS)
        .map(|index| {
            let size = match index {
                VFIO_PCI_BAR0_REGION_INDEX if condition == Condition::NoBar => 0,
                VFIO_PCI_BAR0_REGION_INDEX => config_space::BAR0_SIZE,
                VFIO_PCI_BAR1_REGION_INDEX => config_space::BAR1_SIZE,
                VFIO_PCI_BAR3_REGION_INDEX => config_space::BAR3_SIZE,
                VFIO_PCI_CONFIG_REGION_INDEX => config_space::SIZE as u64,
                _ => 0,
            };
            let flags = if size == 0 { 0 } else { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE };
            let argsz = u32::try_from(size_of::<vfio_region_info>()).expect("a small structure");
            let region_info = vfio_region_info { argsz, index, size, flags, ..Default::default() };
            ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
        })
        .collect()
}

fn irqs() -> Vec<IrqInfo> {
    (0..VFIO_PCI_NUM_IRQS)
        .map(|index| {
            let intx = index == VFIO_PCI_INTX_IRQ_INDEX;
            let flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
            IrqInfo { index, flags: if intx { flags } else { 0 }, count: u32::from(intx) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_registers_read_the_chip_and_all_others_zero() {
        let mut device = Device::new(Model::L4, Condition::Well);
        let mut data = [0xff; 8];
        device.region_read(VFIO_PCI_BAR0_REGION_INDEX, 0, &mut data).unwrap();
        assert_eq!(data, [0xa1, 0x00, 0x40, 0x19, 0, 0, 0, 0]);
        device.region_read(VFIO_PCI_BAR0_REGION_INDEX, 0x9fc, &mut data).unwrap();
        assert_eq!(data, [0, 0, 0, 0, 0xa1, 0x00, 0x40, 0x19]);
        device.region_read(VFIO_PCI_BAR1_REGION_INDEX, 0, &mut data).unwrap();
        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn gpu_in_use_has_protected_memory() {
        let mut data = [0; 4];
        Device::new(Model::H100, Condition::InUse)
            .region_read(VFIO_PCI_BAR0_REGION_INDEX, WPR2_ADDR_HI, &mut data)
            .unwrap();
        assert_eq!(u32::from_le_bytes(data) >> 4, 0x2f_ff00);
        Device::new(Model::H100, Condition::Well)
            .region_read(VFIO_PCI_BAR0_REGION_INDEX, WPR2_ADDR_HI, &mut data)
            .unwrap();
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn client_reads_bars_resets_and_disconnects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu.sock");
        let handle = PhantomGpu::bind(&path, Model::H100, Condition::Well).unwrap().spawn().unwrap();
        let mut client = vfio_user::Client::new(handle.socket()).unwrap();
        let sizes: Vec<u64> = (0..VFIO_PCI_NUM_REGIONS).map(|i| client.region(i).unwrap().size).collect();
        assert_eq!(sizes, [16 << 20, 256 << 20, 0, 32 << 20, 0, 0, 0, 4096, 0]);

        let mut word = [0; 4];
        client.region_write(VFIO_PCI_CONFIG_REGION_INDEX, 0x3c, &[11]).unwrap();
        client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, 0x3c, &mut word).unwrap();
        assert_eq!(word, [11, 1, 0, 0]);
        client.reset().unwrap();
        client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, 0x3c, &mut word).unwrap();
        assert_eq!(word, [0, 1, 0, 0]);
    }

    #[test]
    fn dropped_handle_frees_its_path_without_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu.sock");
        drop(PhantomGpu::bind(&path, Model::T4, Condition::Well).unwrap().spawn().unwrap());
        assert!(!path.exists());
        PhantomGpu::bind(&path, Model::T4, Condition::Well).unwrap();
    }
}
