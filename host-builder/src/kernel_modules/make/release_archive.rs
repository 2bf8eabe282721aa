//! Checks, describes and packs built modules in the format of release archives.

use super::built::Fact;
use super::sign::is_signed;
use crate::artifacts::directory;
use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use serde::Serialize;
use std::fs::{self, File};
use std::path::Path;

/// Directory below that of the kernel release.
const PLACE: &str = "kernel/drivers/gpu";
/// The file that describes the modules, next to them.
const VALIDATION: &str = "nvidia-modules.json";
/// Modules that every driver needs.
const NEEDED: [&str; 4] = ["nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm"];

/// The properties that modules must have.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Release of the kernel.
    pub release: &'a str,
    /// Version of the driver; `None` if it is not known, because only the source was given.
    pub driver: Option<&'a str>,
    /// Architecture, as `uname -m` prints it.
    pub arch: &'a str,
}

/// The description of modules. Equal modules have equal descriptions.
#[derive(Debug, Clone, Serialize)]
pub struct Validation {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Version of the driver.
    pub driver: String,
    /// Architecture.
    pub arch: String,
    /// SHA-256 of the certificate of the signature.
    pub certificate_sha256: Option<String>,
    /// The modules, sorted by name.
    pub modules: Vec<ModuleFacts>,
}

/// The description of one module.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleFacts {
    /// Name with underscores.
    pub name: String,
    /// Path in the archive.
    pub path: String,
    /// Version.
    pub version: String,
    /// Kernel and build options that it is for.
    pub vermagic: String,
    /// Modules that it needs.
    pub depends: Vec<String>,
    /// Whether it carries a signature.
    pub signed: bool,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256.
    pub sha256: String,
}

/// Checks modules, and describes them.
pub fn check(
    dir: &Path,
    facts: &[Fact],
    expected: Expected,
    certificate: Option<&Path>,
) -> Result<Validation> {
    let names: Vec<_> = facts.iter().map(|(module, _)| module.name.as_str()).collect();
    if let Some(lacking) = NEEDED.iter().find(|name| !names.contains(name)) {
        return Err(Error::new(format!("expected the module {lacking}, found {}", names.join(", ")))
            .hint("use the complete source of NVIDIA's open modules, and a kernel with the options that they need (CONFIG_DRM for nvidia-drm)"));
    }
    let own = facts
        .iter()
        .find(|(module, _)| module.name == NEEDED[0])
        .and_then(|(module, _)| module.version.clone());
    let driver = expected.driver.map(str::to_owned).or(own).unwrap_or_default();
    let certificate_sha256 = match certificate {
        Some(path) => Some(sha256(&fs::read(path).doing("reading", path)?)),
        None => None,
    };
    let describe = |fact: &Fact| describe(dir, fact, expected, &driver, &names);
    Ok(Validation {
        kernel_release: expected.release.to_owned(),
        arch: expected.arch.to_owned(),
        certificate_sha256,
        modules: facts.iter().map(describe).collect::<Result<_>>()?,
        driver,
    })
}

fn describe(
    dir: &Path,
    (module, (size, sha256)): &Fact,
    expected: Expected,
    driver: &str,
    names: &[&str],
) -> Result<ModuleFacts> {
    let name = &module.name;
    let wrong = |what: String, hint: &str| Err(Error::new(format!("module {name}: {what}")).hint(hint));
    if module.release() != expected.release {
        let found = module.release();
        return wrong(
            format!("expected kernel release {:?} in its vermagic, found {found:?}", expected.release),
            "use configured and common headers of the same kernel",
        );
    }
    let version = module.version.clone().unwrap_or_default();
    if version != driver || version.is_empty() {
        return wrong(
            format!("expected driver version {driver:?}, found {version:?}"),
            "all modules must have exactly the driver's version: check the source, and the profile's `driver`",
        );
    }
    let ours = |needed: &&String| needed.starts_with("nvidia");
    if let Some(absent) = module.depends.iter().filter(ours).find(|needed| !names.contains(&needed.as_str()))
    {
        return wrong(
            format!("needs module {absent}, which was not built"),
            "build from a complete source tree",
        );
    }
    let path = dir.join(&module.path);
    let bytes = fs::read(&path).doing("reading", &path)?;
    let elf = image::elf::read(bytes.as_slice());
    let machine =
        elf.map_err(|error| Error::new(format!("{}: expected ELF", path.display())).source(error))?.machine;
    let wanted = if expected.arch == "aarch64" { 183 } else { 62 };
    if machine != wanted {
        return wrong(
            format!(
                "expected a module for {} (ELF machine {wanted}), found machine {machine}",
                expected.arch
            ),
            "use headers, a compiler and a profile of the same architecture",
        );
    }
    Ok(ModuleFacts {
        name: name.clone(),
        path: place(expected.release, &module.path),
        version,
        vermagic: module.vermagic.clone(),
        depends: module.depends.clone(),
        signed: is_signed(&bytes),
        size: *size,
        sha256: sha256.clone(),
    })
}

fn place(release: &str, file: &str) -> String {
    format!("lib/modules/{release}/{PLACE}/{file}")
}

impl Validation {
    /// The description as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("text and numbers have a JSON form") + "\n"
    }

    /// Packs the modules in `dir` with this description. The same modules produce the same bytes.
    pub fn pack(&self, dir: &Path, out: &mut File, output: &Path) -> Result<()> {
        let description = dir.join(VALIDATION);
        fs::write(&description, self.to_json()).doing("writing", &description)?;
        let of = |module: &ModuleFacts| (module.path.clone(), dir.join(base_name(&module.path)));
        let mut files: directory::Files = self.modules.iter().map(of).collect();
        files.insert(place(&self.kernel_release, VALIDATION), description);
        // The gzip header has no name and no time.
        let mut stream = flate2::GzBuilder::new().write(out, flate2::Compression::default());
        directory::pack(&files, &mut stream, output)?;
        stream.finish().doing("writing", output).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_modules::Module;

    fn facts(names: &[&str], vermagic: &str, version: &str) -> Vec<Fact> {
        let fact = |name: &&str| {
            let info = format!("vermagic={vermagic}\0version={version}\0depends=nvidia\0");
            (
                Module::of(&format!("{name}.ko"), &image::elf::parse_modinfo(info.as_bytes())),
                (1, "d".to_owned()),
            )
        };
        names.iter().map(fact).collect()
    }

    #[test]
    fn incomplete_or_mismatched_modules_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |facts: &[Fact], driver| {
            let expected = Expected { release: "6.1", driver, arch: "x86_64" };
            let error = check(dir.path(), facts, expected, None).unwrap_err();
            assert!(error.remedy().is_some(), "{error}");
            error.to_string()
        };
        assert!(refused(&facts(&NEEDED[..3], "6.1 SMP", "550"), None).contains("nvidia_drm"));
        let found = refused(&facts(&NEEDED, "6.2 SMP", "550"), None);
        assert!(found.contains("\"6.1\"") && found.contains("\"6.2\""), "{found}");
        let found = refused(&facts(&NEEDED, "6.1 SMP", "550"), Some("551"));
        assert!(found.contains("\"551\"") && found.contains("\"550\""), "{found}");
        // This test itself is a program for this machine.
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(dir.path().join("nvidia.ko"), program).unwrap();
        let expected = Expected { release: "6.1", driver: None, arch: "aarch64" };
        let error = check(dir.path(), &facts(&NEEDED, "6.1 SMP", "550"), expected, None).unwrap_err();
        assert!(
            error.to_string().contains("machine 183") && error.to_string().contains("found machine 62"),
            "{error}"
        );
    }
}
