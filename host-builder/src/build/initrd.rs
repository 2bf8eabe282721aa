//! The pipeline of an initrd: resolve → fetch → modules → select → plan → payload → pack → outputs.

use super::outputs::Outputs;
use super::pack::{Compression, Packed, Segments, compress};
use super::payload::{self, Mode};
use super::plan::{Draft, Inputs, Plan, draft};
use super::select::{self, Absent};
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::common::error::{Error, Result};
use crate::common::halt::Halt;
use crate::kernel_modules::features::{Features, State};
use crate::kernel_modules::gpus::{self, Asked, Chosen};
use crate::kernel_modules::index::Index;
use crate::kernel_modules::make::prebuilt;
use crate::kernel_modules::make::{Built, build, made_here};
use crate::kernel_modules::module::content;
use crate::pins::artifact::Artifact;
use crate::pins::lock::Lock;
use crate::pins::profile::Profile;
use crate::pins::set::Set;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use image::capability::Capability;
use image::config::Control;
use image::layout;
use image::manifest::Payload;
use std::collections::{BTreeMap, BTreeSet};

/// Modules with which a guest notices the power button of its VMM, where the kernel has them as
/// modules.
const BUTTON_MODULES: [&str; 2] = ["button", "evdev"];

/// The inputs and options of an initrd build.
pub struct InitrdRequest<'a> {
    /// The profile, and its text.
    pub profile: (&'a Profile, &'a str),
    /// Resolve the profile again even if there is a lock.
    pub update_lock: bool,
    /// The capabilities that containers can use.
    pub capabilities: &'a BTreeSet<Capability>,
    /// GPUs whose firmware is packed; empty: all GPUs that the driver supports.
    pub gpus: &'a [Asked],
    /// How the driver's files are carried, and how their image is compressed.
    pub payload: (payload::PayloadChoice, Option<payload::Compression>),
    /// How the initrd is compressed.
    pub compression: Compression,
    /// Planned memory of the guests, in MiB.
    pub guest_memory: Option<u32>,
    /// The program that becomes PID 1.
    pub guest_init: &'a [u8],
    /// The highest level of requests that guests accept; `None`: the kernel command line decides.
    pub control: Option<Control>,
    /// Paths of the outputs. With `is_dry`, only the lock is read.
    pub outputs: Outputs<'a>,
    /// Make the plan, but write nothing.
    pub is_dry: bool,
}

/// The result of a build.
pub struct Made {
    /// The plan of the initrd.
    pub plan: Plan,
    /// The initrd file; `None`: nothing was written.
    pub packed: Option<Packed>,
    /// Why this way of carrying the payload was chosen.
    pub why: String,
}

/// Builds an initrd and the files that belong to it.
///
/// # Errors
/// An input is wrong or not available. Nothing is written then.
pub fn make(request: &InitrdRequest, access: Access) -> Result<Made> {
    let (profile, text) = request.profile;
    let ui = access.ui;
    profile.check_capabilities(request.capabilities)?;
    let lock = ui.stage("resolve", || {
        resolve::lock_of(request.outputs.lock, request.update_lock, profile, text, access)
    })?;
    check_compat32(&lock, request.capabilities)?;
    let (built, Unpacked { kernel, index }) = prepare(request, &lock, access)?;
    let build = Build { request, profile, lock: &lock, access };
    let planned = ui.stage("plan", || build.plan(&kernel, &index, &built))?;
    let Planned { plan, disk, why, segments } = planned;
    let packed = match segments.filter(|_| !request.is_dry) {
        None => None,
        Some(segments) => {
            let write = || request.outputs.write(&segments, disk.as_ref(), &kernel, &lock, access.cache);
            Some(ui.stage("write", write)?)
        }
    };
    Ok(Made { plan, packed, why })
}

/// Checks that a lock has the 32-bit packages that an image needs: the archive that it was resolved from can have been without them.
fn check_compat32(lock: &Lock, capabilities: &BTreeSet<Capability>) -> Result<()> {
    let wanted = Set::compat32(capabilities);
    let is_alone = wanted.len() == 1;
    if wanted.is_empty() || is_alone || !lock.set(Set::Driver).is_empty() || !lock.sets(&wanted).is_empty() {
        return Ok(());
    }
    Err(Error::new("the lock has no 32-bit packages, which --capabilities compat32 needs")
        .hint("resolve again with --update-lock, which says what the archive lacks, or leave out compat32"))
}

/// What the steps of one build share.
struct Build<'a> {
    request: &'a InitrdRequest<'a>,
    profile: &'a Profile,
    lock: &'a Lock,
    access: Access<'a>,
}

/// A plan with its payload.
struct Planned {
    plan: Plan,
    /// The payload disk to write, if there is one.
    disk: Option<payload::Image>,
    /// Why this way of carrying the payload was chosen.
    why: String,
    /// The compressed segments; `None` if nothing will be written.
    segments: Option<Segments>,
}

impl Build<'_> {
    /// Selects the files, and plans the initrd in the first mode that fits into the guest's memory.
    fn plan(&self, kernel: &[Tree], index: &Index, built: &Built) -> Result<Planned> {
        let Build { request, profile, lock, access } = *self;
        let (cache, capabilities) = (access.cache, request.capabilities);
        let whole = trees(cache, lock, &[Set::Driver])?;
        let absent = if whole.is_empty() { Absent::IsAnError } else { Absent::IsNoted };
        let native = [trees(cache, lock, &Set::userspace(capabilities))?, whole.clone()].concat();
        let compat32 = [trees32(cache, lock, &Set::compat32(capabilities))?, whole].concat();
        let selected = select::select(&native, &compat32, capabilities, &lock.driver, absent)?;
        let gpus = chosen_gpus(request.gpus, built, lock)?;
        self.fit(&Inputs {
            profile,
            lock,
            capabilities,
            kernel,
            index,
            built,
            firmware: &trees(cache, lock, &[Set::Firmware, Set::Driver, Set::GpuModules])?,
            selected: &selected,
            more_modules: &[],
            gpus: gpus.as_ref(),
            guest_init: request.guest_init,
            control: request.control,
        })
    }

    /// Returns the plan in the first mode that fits into the guest's memory.
    fn fit(&self, inputs: &Inputs) -> Result<Planned> {
        let features = Features::of(inputs.kernel, inputs.index);
        let (cache, ui) = (self.access.cache, self.access.ui);
        let memory = self.request.guest_memory.map(|mib| u64::from(mib) << 20);
        let tools = !self.lock.set(Set::Payload).is_empty();
        let mut needs = Vec::new();
        for (mode, why) in payload::candidates(self.request.payload.0, memory, &features, tools)? {
            let buttons = BUTTON_MODULES.into_iter().filter(|name| features.module(name) == State::Module);
            let more_modules: Vec<_> = mode.modules(&features).into_iter().chain(buttons).collect();
            let draft = draft(&Inputs { more_modules: &more_modules, ..*inputs })?;
            let (plan, disk) = self.carry(draft, mode, &features)?;
            let segments = if self.request.is_dry && memory.is_none() {
                None
            } else {
                Some(ui.stage("pack", || compress(&plan, self.request.compression, cache, ui))?)
            };
            let least =
                segments.as_ref().map_or(0, |made| payload::minimum_memory(&plan.manifest, made.bytes()));
            if memory.is_none_or(|memory| least <= memory) {
                return Ok(Planned { plan, disk, why, segments });
            }
            needs.push(format!("{} MiB with --payload {mode}", least.div_ceil(1 << 20)));
        }
        let memory = self.request.guest_memory.unwrap_or_default();
        Err(Error::new(format!("--guest-memory {memory}: such a guest needs at least {}", needs.join(", ")))
            .hint(
                "give guests more memory, choose --payload disk, or pack less: fewer --capabilities, --gpu",
            ))
    }

    /// Completes the plan with the payload in this mode. Returns the payload disk, if there is one.
    fn carry(&self, draft: Draft, mode: Mode, features: &Features) -> Result<(Plan, Option<payload::Image>)> {
        if mode == Mode::Files {
            return Ok((draft.with_files(), None));
        }
        let compression = self.request.payload.1.unwrap_or_else(|| mode.compression(features));
        let (cache, ui) = (self.access.cache, self.access.ui);
        let toolroot = || {
            resolve::fetch(self.profile, self.lock, &[Set::Payload], self.access)?;
            Toolroot::of(cache, self.lock, Set::Payload, &BTreeMap::new(), ui)
        };
        let image = payload::make(cache, &draft, compression, toolroot, ui)?;
        let erofs = image.erofs.clone();
        if mode == Mode::Image {
            let payload = Payload::Image { path: layout::PAYLOAD_IMAGE.into(), erofs };
            return Ok((draft.with_image(payload, &image.path), None));
        }
        let payload = Payload::Disk { erofs, verity: image.verity.clone() };
        Ok((draft.with_image(payload, &image.path), Some(image)))
    }
}

/// Fetches and unpacks the artifacts, and builds the GPU's modules. Where they must be compiled, what that takes is fetched first, and the
/// rest meanwhile.
fn prepare(request: &InitrdRequest, lock: &Lock, access: Access) -> Result<(Built, Unpacked)> {
    let (profile, ui) = (request.profile.0, access.ui);
    let sets = Set::image(request.capabilities);
    let compiler = compiler_sets(profile, lock, access)?;
    let first = if compiler.is_empty() || access.offline {
        // One error lists all missing artifacts.
        [&compiler[..], &sets].concat()
    } else {
        compiler
    };
    ui.stage("fetch", || resolve::fetch(profile, lock, &first, access))?;
    let halt = Halt::default();
    std::thread::scope(|scope| {
        let built = scope.spawn(|| ui.stage("build modules", || gpu_modules(profile, lock, &halt, access)));
        let fetched = || ui.stage("fetch", || resolve::fetch(profile, lock, &sets, access));
        let unpacked = fetched().and_then(|()| unpack(profile, lock, &sets, access));
        if unpacked.is_err() {
            halt.halt();
        }
        let built = built.join().expect("building modules does not panic");
        let unpacked = unpacked?;
        Ok((built?, unpacked))
    })
}

/// The sets that are needed to compile the GPU's modules; none if they are in an artifact or in the cache.
fn compiler_sets(profile: &Profile, lock: &Lock, access: Access) -> Result<Vec<Set>> {
    let is_prebuilt = !lock.set(Set::GpuModules).is_empty();
    if is_prebuilt || made_here(access.cache, lock, &profile.modules)?.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Set::Toolroot, Set::ModuleSource])
}

/// What is prepared in parallel with building the GPU's modules.
struct Unpacked {
    kernel: Vec<Tree>,
    index: Index,
}

/// Unpacks these sets from the cache, and indexes the kernel's modules.
fn unpack(profile: &Profile, lock: &Lock, sets: &[Set], access: Access) -> Result<Unpacked> {
    let Access { cache, ui, .. } = access;
    let kernel = ui.stage("unpack", || {
        trees(cache, lock, sets)?;
        trees(cache, lock, &[Set::Kernel])
    })?;
    let of_kernel = || Index::of(cache, &kernel, &lock.kernel_release, &profile.kernel.builtin);
    let index = ui.stage("index modules", of_kernel)?;
    Ok(Unpacked { kernel, index })
}

/// Returns the GPU's modules: prebuilt from an artifact if the lock has one, else built from
/// source, unless `halt` ends that.
fn gpu_modules(profile: &Profile, lock: &Lock, halt: &Halt, access: Access) -> Result<Built> {
    let prebuilt = trees(access.cache, lock, &[Set::GpuModules])?;
    if !prebuilt.is_empty() {
        return prebuilt::built(access.cache, &prebuilt, &lock.kernel_release);
    }
    let toolroot = || resolve::toolroot_of(profile, lock, access);
    build(access.cache, lock, &profile.modules, toolroot, halt, access.ui)
}

fn trees(cache: &Cache, lock: &Lock, sets: &[Set]) -> Result<Vec<Tree>> {
    lock.sets(sets).into_iter().map(|artifact| Tree::of(cache, artifact)).collect()
}

/// Trees of 32-bit packages. They have the same name and version as the 64-bit ones, so their
/// origin contains the architecture, as apt writes it.
fn trees32(cache: &Cache, lock: &Lock, sets: &[Set]) -> Result<Vec<Tree>> {
    let named = |artifact: &Artifact, tree: Tree| Tree {
        origin: format!("{}:{} {}", artifact.name, artifact.arch, artifact.version),
        ..tree
    };
    lock.sets(sets).into_iter().map(|artifact| Ok(named(artifact, Tree::of(cache, artifact)?))).collect()
}

/// Resolves the GPUs of `--gpu` with the list in the `nvidia` module.
fn chosen_gpus(asked: &[Asked], built: &Built, lock: &Lock) -> Result<Option<Chosen>> {
    if asked.is_empty() {
        return Ok(None);
    }
    let module = built.modules.iter().find(|module| module.name == "nvidia");
    let module = module.ok_or_else(|| {
        Error::new(
            "--gpu: the list of supported GPUs is in the module nvidia, which this driver does not have",
        )
        .hint("build without --gpu, which packs the firmware of all GPUs")
    })?;
    let chips = gpus::chips(&content(&built.dir.join(&module.path))?)?;
    gpus::choose(asked, &chips, &lock.driver)
}
