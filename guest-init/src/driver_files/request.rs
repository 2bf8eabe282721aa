//! The request of one container, read from its environment as NVIDIA's container toolkit does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use image::capability::{self, Capability, UnknownCapability};
use image::config::{Config, DriverFiles};
use image::elf::{self, Elf};

use super::icd;
use crate::confined_fs::{RootDir, read_full_at};

/// Maximum size in bytes of a program whose RUNPATH is read. Only its headers are read.
const MAX_PROGRAM: u64 = 16 << 30;
/// Number of bytes of a script's first line that the kernel reads (`BINPRM_BUF_SIZE`).
const MAX_LINE: usize = 256;
/// Maximum depth of scripts interpreted by scripts (fs/exec.c).
const MAX_INTERPRETERS: usize = 4;
/// Maximum number of directories of PATH, which the image controls.
const MAX_PATH_DIRS: usize = 256;
/// Default `PATH` for programs without a slash in their name.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The request of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerRequest {
    /// Requested capabilities. Empty: the container receives no driver files.
    pub capabilities: BTreeSet<Capability>,
    /// Capabilities requested by name; a missing one is a finding.
    pub named: BTreeSet<Capability>,
    /// What happens to driver files in the image.
    pub driver_files: DriverFiles,
    /// Its `LD_LIBRARY_PATH`.
    pub library_path: Option<OsString>,
    /// Its program.
    pub program: Option<String>,
    /// Its `PATH`.
    pub path: Option<String>,
    /// ICD files and directories for Vulkan, EGL and OpenCL that the environment names.
    pub named_files: Vec<PathBuf>,
}

impl ContainerRequest {
    /// Reads the request from the configuration of a boot.
    ///
    /// # Errors
    /// [`UnknownCapability`] if `NVIDIA_DRIVER_CAPABILITIES` has an unknown name.
    pub fn of_config(config: &Config) -> Result<Self, UnknownCapability> {
        let value = config.env.get(capability::VARIABLE).map(String::as_str);
        Ok(Self {
            capabilities: capability::requested_by(&config.env)?,
            driver_files: config.driver_files,
            library_path: config.env.get("LD_LIBRARY_PATH").map(OsString::from),
            program: config.command().into_iter().next(),
            path: config.env.get("PATH").cloned(),
            named_files: icd::named_by(&|name| config.env.get(name).cloned()),
            ..Self::of_capabilities(value)?
        })
    }

    /// Parses a list of capabilities in the syntax of `NVIDIA_DRIVER_CAPABILITIES`.
    ///
    /// # Errors
    /// [`UnknownCapability`] if it has an unknown name.
    pub fn of_capabilities(list: Option<&str>) -> Result<Self, UnknownCapability> {
        let capabilities = capability::requested(list)?;
        let words: Vec<_> = list.unwrap_or_default().split(',').map(str::trim).collect();
        let named = capabilities.iter().copied().filter(|c| words.contains(&c.name())).collect();
        Ok(Self { capabilities, named, ..Self::default() })
    }

    /// Returns the directories in which programs without a slash in their name are searched.
    pub fn program_dirs(&self) -> impl Iterator<Item = &Path> {
        let dirs = self.path.as_deref().unwrap_or(DEFAULT_PATH).split(':');
        dirs.filter(|dir| dir.starts_with('/')).take(MAX_PATH_DIRS).map(Path::new)
    }

    /// Returns the directories of the program's RUNPATH, with `$ORIGIN` expanded. Empty if there is none, or if the program is
    /// not found, which is reported when it is started.
    pub fn runpath(&self, root: &RootDir) -> Vec<PathBuf> {
        self.directories(root, |elf| elf.runpath)
    }

    /// Returns the directories of the program's RPATH, which the loader searches only if there is no RUNPATH.
    pub fn rpath(&self, root: &RootDir) -> Vec<PathBuf> {
        self.directories(root, |elf| elf.rpath.filter(|_| elf.runpath.is_none()))
    }

    fn directories(&self, root: &RootDir, of: fn(Elf) -> Option<Vec<u8>>) -> Vec<PathBuf> {
        let Some((program, elf)) = self.program(root) else { return Vec::new() };
        let listed = of(elf).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let origin = program.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let dirs = listed.split(':').filter(|dir| !dir.is_empty());
        dirs.map(|dir| dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into()).collect()
    }

    /// Returns the program's file, the first of its name in PATH, or its interpreter.
    fn program(&self, root: &RootDir) -> Option<(PathBuf, Elf)> {
        let mut name = self.program.clone()?;
        for _ in 0..=MAX_INTERPRETERS {
            let (path, file) = self.find(root, &name)?;
            match interpreter(&file) {
                Some(next) => name = next,
                None => return Some((root.canonical(&path).ok()?, elf::read(&file).ok()?)),
            }
        }
        None
    }

    fn find(&self, root: &RootDir, name: &str) -> Option<(PathBuf, File)> {
        let candidates: Vec<PathBuf> = if name.contains('/') {
            vec![name.into()]
        } else {
            self.program_dirs().map(|dir| dir.join(name)).collect()
        };
        candidates.into_iter().find_map(|path| {
            let file = root.open_file(&path, MAX_PROGRAM).ok()?;
            Some((path, file))
        })
    }
}

/// Returns the interpreter in a script's first line, as the kernel parses it (fs/binfmt_script.c): a path, and optionally an
/// argument. For `env` it is the argument.
fn interpreter(script: &File) -> Option<String> {
    let mut line = [0; MAX_LINE];
    let length = read_full_at(script, &mut line, 0).ok()?;
    let line = line[..length].strip_prefix(b"#!")?;
    let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next()?).into_owned();
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let program = words.next()?;
    if program.rsplit('/').next() != Some("env") {
        return Some(program.to_owned());
    }
    // Options (`-S`, `-i`) and variables come before it.
    words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_lead_to_what_interprets_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        let program = std::fs::read("/proc/self/exe").unwrap();
        std::fs::create_dir_all(dir.path().join("opt/conda/bin")).unwrap();
        std::fs::write(dir.path().join("opt/conda/bin/python"), program).unwrap();
        let found = |text: &str| {
            std::fs::write(dir.path().join("script"), text).unwrap();
            let path = Some("/none:/opt/conda/bin".to_owned());
            let request =
                ContainerRequest { program: Some("/script".into()), path, ..ContainerRequest::default() };
            request.program(&root).map(|(path, _)| path)
        };
        let python = Some(PathBuf::from("/opt/conda/bin/python"));
        for line in [
            "#!/opt/conda/bin/python",
            "#! \t/opt/conda/bin/python -u\nprint()",
            "#!/usr/bin/env python",
            "#!/usr/bin/env -S X=y python -u",
        ] {
            assert_eq!(found(line), python, "{line}");
        }
        std::fs::write(dir.path().join("opt/conda/bin/tool"), "#!/usr/bin/env python\n").unwrap();
        assert_eq!(found("#!/opt/conda/bin/tool"), python);
        for line in ["#!/script", "#!", "#!/usr/bin/env", "#!/none", "echo"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn the_environment_is_the_request() {
        let mut config = Config::default();
        let request = ContainerRequest::of_config(&config).unwrap();
        assert_eq!(request.capabilities, BTreeSet::from(Capability::DEFAULT));
        assert!(request.named.is_empty());
        config.env.insert("CUDA_VERSION".into(), "8.0.61".into());
        let request = ContainerRequest::of_config(&config).unwrap();
        assert_eq!(request.capabilities.len(), Capability::ALL.len(), "an image of before the variable");
        assert!(request.named.is_empty());
        config.env.insert("NVIDIA_DRIVER_CAPABILITIES".into(), "video,all".into());
        config.cmd = vec!["python3".into()];
        let request = ContainerRequest::of_config(&config).unwrap();
        assert_eq!(request.capabilities.len(), Capability::ALL.len());
        assert_eq!(request.named, BTreeSet::from([Capability::Video]));
        assert_eq!(request.program.as_deref(), Some("python3"));
        config.env.insert("NVIDIA_DRIVER_CAPABILITIES".into(), "vidoe".into());
        assert!(ContainerRequest::of_config(&config).is_err());
    }
}
