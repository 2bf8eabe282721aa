//! The text output of `inspect`.

use super::report::InspectReport;
use crate::cli::examine::table;
use crate::common::clean::clean;
use crate::common::ui::megabytes;
use image::manifest::{Payload, Purpose};
use std::fmt;

/// Most characters of a word from the image.
const MAX_WORD: usize = 512;

fn safe(text: &str) -> String {
    clean(text, MAX_WORD)
}

fn row(out: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    if value.is_empty() { Ok(()) } else { writeln!(out, "{name:13} {}", safe(value)) }
}

impl fmt::Display for InspectReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        writeln!(out, "{:13} {}  {}", "image", self.image, megabytes(self.size))?;
        row(out, "made by", self.tool.as_deref().unwrap_or("unknown"))?;
        row(out, "profile", &text(&self.profile))?;
        row(out, "architecture", &text(&self.arch))?;
        row(out, "kernel", &self.kernel_releases.join(" "))?;
        let cuda = self.cuda.as_ref().map(|cuda| format!(", CUDA {cuda}")).unwrap_or_default();
        row(out, "driver", &format!("{}{cuda}", text(&self.driver)))?;
        row(out, "capabilities", &self.capabilities.join(" "))?;
        row(out, "payload", self.payload.as_ref().map_or("", payload))?;
        row(out, "init", self.init.as_deref().unwrap_or("none: the kernel starts no program of it"))?;
        let (entries, files) = (self.entries, self.unpacked_files);
        row(
            out,
            "content",
            &format!("{entries} entries, {files} files with {}", megabytes(self.unpacked_bytes)),
        )?;
        self.modules_text(out)?;
        if !self.firmware.is_empty() {
            writeln!(out, "\nfirmware:")?;
            self.firmware.iter().try_for_each(|name| writeln!(out, "  {}", safe(name)))?;
        }
        for (capability, files) in &self.driver_files {
            writeln!(out, "\ndriver files for {}:", safe(capability))?;
            files.iter().try_for_each(|path| writeln!(out, "  {}", safe(path)))?;
        }
        writeln!(out, "\nsizes, unpacked:")?;
        for size in &self.sizes {
            writeln!(out, "{:>12}  {:>5} files  {}", megabytes(size.bytes), size.files, safe(&size.of))?;
        }
        write!(out, "\nsegments:\n{}", table(&self.segments))
    }
}

fn payload(payload: &Payload) -> &'static str {
    match payload {
        Payload::Files => "plain files",
        Payload::Image { .. } => "an EROFS image in the initramfs",
        Payload::Disk { .. } => "an EROFS disk, separate from the initramfs",
    }
}

impl InspectReport {
    fn modules_text(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.modules.is_empty() {
            return Ok(());
        }
        let planned = self.modules.iter().any(|module| module.purpose.is_some());
        writeln!(out, "\nmodules{}:", if planned { ", in load order" } else { "" })?;
        let width = self.modules.iter().map(|module| module.name.len()).max().unwrap_or(0).min(40);
        for module in &self.modules {
            let when = match module.purpose {
                Some(Purpose::Boot) => "boot  ",
                Some(Purpose::Gpu) => "gpu   ",
                None => "",
            };
            write!(out, "  {when}{:width$}  {}", safe(&module.name), safe(&module.why))?;
            if let Some(version) = &module.version {
                write!(out, "; version {}", safe(version))?;
            }
            let other = module.kernel.as_ref().filter(|kernel| !self.kernel_releases.contains(kernel));
            if let Some(kernel) = other {
                write!(out, "; built for kernel {}", safe(kernel))?;
            }
            if let Some(parameters) = &module.parameters {
                write!(out, "; parameters {}", safe(parameters))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
