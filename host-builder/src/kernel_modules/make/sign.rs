//! Signs modules as the kernel expects it: a detached PKCS#7 signature after the module, with a
//! trailer. The kernel's own `sign-file` makes it if it runs, else `openssl`.

use super::environment::{Room, Workshop};
use super::headers::Headers;
use crate::common::error::{Doing, Error, Result};
use crate::programs::toolroot::explain;
use clap::ValueEnum;
use image::elf::{length_without_signature, signature_trailer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Certificate and signature in the work directory.
const CERTIFICATE: &str = "certificate";
const SIGNATURE: &str = "signature";
/// Environment variable with the passphrase of the key, as in the kernel's build.
const PIN: &str = "KBUILD_SIGN_PIN";

/// Digest that is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Its name for openssl.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A key with its certificate.
#[derive(Debug, Clone)]
pub struct Signer {
    /// Private key, PEM.
    pub key: PathBuf,
    /// X.509 certificate, PEM or DER.
    pub certificate: PathBuf,
    /// Digest.
    pub hash: Hash,
}

/// Whether a module carries a signature.
pub fn is_signed(module: &[u8]) -> bool {
    length_without_signature(module).is_some()
}

impl Signer {
    /// Fails if key or certificate cannot be read, or if the key's passphrase is missing. Compiling
    /// takes minutes, and there is no prompt afterwards.
    pub fn check(&self) -> Result<()> {
        self.check_with(std::env::var_os(PIN).is_some())
    }

    fn check_with(&self, has_pin: bool) -> Result<()> {
        fs::read(&self.certificate).doing("reading the certificate", &self.certificate)?;
        let key = fs::read(&self.key).doing("reading the key", &self.key)?;
        let key = String::from_utf8_lossy(&key);
        if !key.contains("PRIVATE KEY-----") {
            return Err(Error::new(format!("{}: expected a private key in PEM form", self.key.display()))
                .hint("convert a key in DER form: openssl pkey -inform DER -in KEY -out KEY.pem"));
        }
        // PKCS#8, and OpenSSL's older format.
        let encrypted = key.contains("BEGIN ENCRYPTED PRIVATE KEY") || key.contains("Proc-Type: 4,ENCRYPTED");
        if encrypted && !has_pin {
            return Err(Error::new(format!("{} is encrypted, and {PIN} has no passphrase for it", self.key.display()))
                .hint(format!("set the passphrase in the environment, as for the kernel's own build: read -rs {PIN}; export {PIN}")));
        }
        Ok(())
    }

    /// Signs all modules in `dir`, which must not be signed yet.
    pub fn sign_all(
        &self,
        workshop: &Workshop,
        headers: &Headers,
        dir: &Path,
        names: &[String],
    ) -> Result<()> {
        let certificate = fs::read(&self.certificate).doing("reading the certificate", &self.certificate)?;
        let bench = Bench::new(self, workshop, headers, dir)?;
        fs::write(dir.join(CERTIFICATE), certificate).doing("writing", dir)?;
        for name in names {
            let path = dir.join(name);
            let plain = fs::read(&path).doing("reading", &path)?;
            bench.sign(name)?;
            let signed = fs::read(&path).doing("reading", &path)?;
            if !(signed.starts_with(&plain) && is_signed(&signed)) || is_signed(&plain) {
                return Err(Error::new(format!("{name}: expected the module followed by one signature, found something else"))
                    .hint("the sign-file of the kernel headers does not work here: report this with the release of the kernel"));
            }
        }
        fs::remove_file(dir.join(CERTIFICATE)).doing("removing", dir)
    }
}

/// The program that signs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    SignFile(String),
    Openssl,
}

struct Bench<'a> {
    signer: &'a Signer,
    workshop: &'a Workshop,
    binds: Vec<(PathBuf, Room)>,
    program: Program,
    key: String,
}

impl<'a> Bench<'a> {
    fn new(signer: &'a Signer, workshop: &'a Workshop, headers: &Headers, dir: &Path) -> Result<Self> {
        let key = signer.key.canonicalize().doing("finding the key", &signer.key)?;
        let (parent, name) = match (key.parent(), key.file_name()) {
            (Some(parent), Some(name)) if key.is_file() => (parent, name.to_string_lossy()),
            _ => {
                return Err(Error::new(format!("{}: expected a key file", key.display()))
                    .hint("pass a private key in PEM form"));
            }
        };
        let seen = headers.seen_from(workshop);
        let mut binds = seen.binds;
        binds.extend([(dir.to_owned(), Room::Work), (parent.to_owned(), Room::Key)]);
        let key = format!("{}/{name}", workshop.place(Room::Key));
        let program = Program::SignFile(format!("{}/scripts/sign-file", seen.output));
        let mut bench = Self { signer, workshop, binds, program, key };
        bench.program = bench.choose()?;
        Ok(bench)
    }

    /// Finds a program that runs: `sign-file` prints its usage and ends with 2.
    fn choose(&self) -> Result<Program> {
        let Program::SignFile(path) = &self.program else { return Ok(self.program.clone()) };
        let runs = |program: &str, arguments: &[&str], code: i32| {
            let output = self.command(program).args(arguments).output();
            let output = output.doing("running unshare (package util-linux) for", Path::new(program))?;
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            Ok::<_, Error>((output.status.code() == Some(code), stderr))
        };
        let (works, why) = runs(path, &[], 2)?;
        if works {
            return Ok(self.program.clone());
        }
        if runs("openssl", &["version"], 0)?.0 {
            return Ok(Program::Openssl);
        }
        let error = explain(&format!("{path} and openssl do not run; signing"), &why);
        Err(match error.remedy() {
            Some(_) => error,
            None => error.hint("install openssl and use --toolchain host, or add openssl to the profile's [toolroot] packages"),
        })
    }

    fn command(&self, program: &str) -> Command {
        let binds: Vec<_> = self.binds.iter().map(|(path, room)| (path.as_path(), *room)).collect();
        let mut command = self.workshop.command(&binds, program);
        command.envs(std::env::var_os(PIN).map(|pin| (PIN, pin)));
        command
    }

    fn sign(&self, name: &str) -> Result<()> {
        let place = |name: &str| format!("{}/{name}", self.workshop.place(Room::Work));
        let hash = self.signer.hash.name();
        let mut command = match &self.program {
            Program::SignFile(path) => {
                let mut command = self.command(path);
                command.args([hash, &self.key, &place(CERTIFICATE), &place(name)]);
                command
            }
            Program::Openssl => {
                let mut command = self.command("openssl");
                command.args([
                    "cms",
                    "-sign",
                    "-binary",
                    "-noattr",
                    "-nocerts",
                    "-nosmimecap",
                    "-outform",
                    "DER",
                ]);
                command.args(["-md", hash, "-inkey", &self.key, "-signer", &place(CERTIFICATE)]);
                command.args(["-in", &place(name), "-out", &place(SIGNATURE)]);
                if std::env::var_os(PIN).is_some() {
                    command.args(["-passin", &format!("env:{PIN}")]);
                }
                command
            }
        };
        // A key that asks for its passphrase gets no answer.
        let output = command.stdin(std::process::Stdio::null()).output().doing("signing", Path::new(name))?;
        if !output.status.success() {
            let error = explain(&format!("signing {name}"), &String::from_utf8_lossy(&output.stderr));
            return Err(match error.remedy() {
                Some(_) => error,
                None => error.hint(format!(
                    "key and certificate must belong together and be readable; the passphrase is read from {PIN}"
                )),
            });
        }
        if self.program == Program::Openssl { self.append(name) } else { Ok(()) }
    }

    /// Appends the signature and its trailer to the module.
    fn append(&self, name: &str) -> Result<()> {
        let work = self.binds.iter().find(|(_, room)| *room == Room::Work);
        let work = &work.expect("the work directory is always bound").0;
        let (path, place) = (work.join(name), work.join(SIGNATURE));
        let signature = fs::read(&place).doing("reading", &place)?;
        fs::remove_file(&place).doing("removing", &place)?;
        let length = u32::try_from(signature.len()).expect("a signature has some hundred bytes");
        let mut module = fs::read(&path).doing("reading", &path)?;
        module.extend(signature);
        module.extend(signature_trailer(length));
        fs::write(&path, module).doing("writing", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_key_without_passphrase_is_refused_early() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("cert"), "x").unwrap();
        let signer = Signer { key: path("key"), certificate: path("cert"), hash: Hash::Sha256 };
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----\n",
        ] {
            fs::write(path("key"), text).unwrap();
            let error = signer.check_with(false).unwrap_err();
            assert!(error.to_string().contains("is encrypted") && error.remedy().unwrap().contains(PIN));
            signer.check_with(true).unwrap();
        }
        fs::write(path("key"), "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n").unwrap();
        signer.check_with(false).unwrap();
        fs::write(path("key"), [0x30, 0x82]).unwrap();
        assert!(signer.check_with(true).unwrap_err().remedy().unwrap().contains("openssl pkey"));
    }
}
