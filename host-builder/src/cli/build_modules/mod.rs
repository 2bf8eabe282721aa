//! `build-modules`: NVIDIA's open modules for a kernel, as an archive.

pub(crate) mod options;

use self::options::BuildModules;
use crate::artifacts::cache::Cache;
use crate::build::modules::{self, ModulesRequest};
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::{Ui, megabytes, print, print_json};
use crate::kernel_modules::make::release_archive::Validation;
use crate::kernel_modules::make::sign::Signer;
use serde_json::json;
use std::fs;

/// Runs the command.
pub fn run(args: &BuildModules) -> Result<()> {
    let ui = Ui::new(args.quiet || args.json);
    check_outputs(args)?;
    let (profile, text) = args.profile.load(&args.lock)?;
    let request = ModulesRequest {
        profile: (&profile, &text),
        lock: &args.lock,
        source: args.source.as_deref(),
        headers: args.headers.as_deref(),
        headers_common: args.headers_common.as_deref(),
        headers_package: &args.headers_package,
        toolchain: args.toolchain,
        signer: signer(args),
        output: &args.output,
        validation: args.validation.as_deref(),
    };
    let cache = Cache::open()?;
    let validation = modules::make(&request, args.access.of(&cache, &ui))?;
    report(args, &validation)
}

fn signer(args: &BuildModules) -> Option<Signer> {
    let (key, certificate) = (args.sign_key.clone()?, args.sign_cert.clone()?);
    Some(Signer { key, certificate, hash: args.sign_hash })
}

fn check_outputs(args: &BuildModules) -> Result<()> {
    let outputs = [Some(&args.output), args.validation.as_ref()];
    for path in outputs.into_iter().flatten() {
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::new(format!(
                "{}: expected a file to write, found a directory",
                path.display()
            ))
            .hint("name the file to write"));
        }
    }
    if args.validation.as_ref() == Some(&args.output) {
        return Err(Error::new(format!("--output and --validation are both {}", args.output.display()))
            .hint("give each its own file"));
    }
    Ok(())
}

fn report(args: &BuildModules, validation: &Validation) -> Result<()> {
    let size = fs::metadata(&args.output).doing("reading", &args.output)?.len();
    if args.json {
        let report = json!({
            "output": args.output, "output_size": size, "output_sha256": sha256_file(&args.output)?, "validation": validation,
        });
        print_json(&format!("{report:#}\n"));
    } else if !args.quiet {
        let signed = validation.certificate_sha256.as_ref().map_or("not signed", |_| "signed");
        print(&format!(
            "{}: {}, driver {}, kernel {}, {signed}\n",
            args.output.display(),
            megabytes(size),
            validation.driver,
            validation.kernel_release
        ));
        for module in &validation.modules {
            print(&format!("  {:16} {:>9}  {}\n", module.name, megabytes(module.size), module.sha256));
        }
    }
    Ok(())
}
