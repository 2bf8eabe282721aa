//! Every pair of a kernel and a driver (tests/matrix): builds its image, and boots it with a phantom GPU of every family. Prints a table.

use clap::Parser;
use host_builder::pins::profile::pair;
use image::status::{Code, GpuState, Outcome, Status};
use image::wire::Until;
use rig::build::cache;
use rig::disk::FileSystem;
use rig::guest::Setup;
use rig::pair::{INITRD, KERNEL, build};
use rig::phantom::Model;
use rig::roots::Suite;
use rig::scene::{boot, root_disk, wait};
use std::path::Path;
use std::process::ExitCode;

/// The GPUs, from Turing to Blackwell.
const MODELS: [(Model, &str); 8] = [
    (Model::T4, "T4"),
    (Model::A100, "A100"),
    (Model::A10, "A10"),
    (Model::L4, "L4"),
    (Model::L40s, "L40S"),
    (Model::H100, "H100"),
    (Model::H200, "H200"),
    (Model::B200, "B200"),
];
/// What a guest with the largest of the images needs.
const MEMORY_MIB: u32 = 1536;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    /// Only these pairs, as KERNEL+DRIVER.
    pairs: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { pairs } = Arguments::parse();
    let is_wanted = |(kernel, driver): &(&str, &str)| {
        pairs.is_empty() || pairs.iter().any(|pair| *pair == format!("{kernel}+{driver}"))
    };
    let models: Vec<_> = MODELS.iter().map(|(_, name)| *name).collect();
    println!("| kernel | driver | {} |\n|---|---|{}", models.join(" | "), "---|".repeat(models.len()));
    let mut good = true;
    for (kernel, driver) in pair::all().into_iter().filter(is_wanted) {
        let cells = row(kernel, driver);
        println!("| {kernel} | {driver} | {} |", cells.join(" | "));
        let is_known = pair::PAIRS.contains(&(kernel, driver));
        good &= !is_known || cells.iter().all(|cell| cell == DRIVEN || cell == UNSUPPORTED);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The driver initialises the adapter as far as a phantom lets it.
const DRIVEN: &str = "yes";
/// The driver says that it does not know the GPU.
const UNSUPPORTED: &str = "unknown to the driver";

fn row(kernel: &str, driver: &str) -> Vec<String> {
    let place = cache().expect("the cache can be used").room(&format!("rig/matrix/{kernel}+{driver}"));
    let place = place.expect("a directory of the cache can be made");
    if let Err(why) = build(&place, &["--kernel", kernel, "--driver", driver]) {
        eprintln!("{kernel}+{driver}: {why}");
        return vec!["does not build".into(); MODELS.len()];
    }
    MODELS
        .iter()
        .map(|(model, name)| {
            let status = drive(&place, *model);
            let cell = outcome(&status);
            if cell != DRIVEN && cell != UNSUPPORTED {
                eprintln!("{kernel}+{driver}, {name}: {:#?}", status.findings);
            }
            cell
        })
        .collect()
}

fn drive(place: &Path, model: Model) -> Status {
    let setup = Setup::new(&place.join(KERNEL), &place.join(INITRD)).expect("the rig can be used");
    let setup = setup.memory_mib(MEMORY_MIB).disk(&root_disk(Suite::Trixie, FileSystem::Ext4), "root");
    let cmdline = "rootfstype=ramfs HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.linger=120s -- /bin/true";
    wait(&boot(setup.gpu(model).cmdline(cmdline)), Until::Ready)
}

/// What the driver made of the phantom.
fn outcome(status: &Status) -> String {
    let has = |code: Code| status.findings.iter().any(|finding| finding.code == code);
    let init = status.findings.iter().find(|finding| finding.code == Code::AdapterInitFailed);
    let reached = init
        .is_some_and(|finding| finding.evidence.iter().any(|line| line.contains("RmInitAdapter failed!")));
    if status.outcome == Outcome::Ready
        && reached
        && status.gpus.iter().all(|gpu| gpu.state == GpuState::Failed)
    {
        DRIVEN.into()
    } else if has(Code::GpuUnsupported) {
        UNSUPPORTED.into()
    } else {
        let codes: Vec<_> = status.findings.iter().map(|finding| finding.code.name()).collect();
        format!("no: {}", codes.join(", "))
    }
}
