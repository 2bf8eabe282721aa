//! A phantom NVIDIA GPU on a vfio-user socket, for a QEMU started by hand or by `host-builder boot
//! --vfio-user`.

use std::{path::PathBuf, process::ExitCode, thread};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use rig::phantom::{Condition, Model, PhantomGpu};

/// Serve a PCI device that the NVIDIA driver takes for a GPU, over vfio-user, until QEMU
/// disconnects.
///
/// QEMU 10.1 or later attaches it with -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"PATH"}}'
/// and needs shared guest memory: -object memory-backend-memfd,id=m,size=SIZE,share=on -machine memory-backend=m
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Unix socket to listen on; it must not exist yet
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Which GPU to be
    #[arg(long, value_enum, default_value = "h100")]
    model: Model,
    /// What is wrong with it
    #[arg(long, value_enum, default_value = "well")]
    condition: Condition,
    /// Serve one QEMU after another instead of ending with the first
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("phantom-gpu: {error:?}");
            ExitCode::from(2)
        }
    }
}

fn serve(args: &Args) -> Result<(), rig::RigError> {
    let gpu = PhantomGpu::bind(&args.socket, args.model, args.condition)?;
    remove_on_signal(args.socket.clone());
    loop {
        gpu.serve_one()?;
        if !args.keep {
            return Ok(());
        }
    }
}

/// Ctrl-C and SIGTERM remove the socket, too, so that the same command can be run again.
fn remove_on_signal(socket: PathBuf) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Blocked before the thread starts, hence in both: the signal stays pending until it is waited
    // for.
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            let _ = std::fs::remove_file(&socket);
            std::process::exit(128 + signal as i32);
        }
    });
}
