//! Checks that modules belong to a kernel and a driver.

use super::module::Module;
use crate::common::error::{Error, Result};

/// Fails if a module was built for another kernel.
pub fn check_release(module: &Module, release: &str) -> Result<()> {
    if module.release() == release {
        return Ok(());
    }
    Err(Error::new(format!(
        "module {} was built for kernel {:?} (its vermagic), but the image's kernel is {release:?}",
        module.name,
        module.release()
    ))
    .hint("modules and kernel must have the same release; resolve again: build-initrd --update-lock"))
}

/// Fails if a module of the GPU is for another kernel or driver.
pub fn check_built(module: &Module, release: &str, driver: &str) -> Result<()> {
    check_release(module, release)?;
    if module.version.as_deref() == Some(driver) {
        return Ok(());
    }
    let found = module.version.as_deref().unwrap_or("none");
    Err(Error::new(format!(
        "module {} has version {found}, but the libraries are of driver {driver}",
        module.name
    ))
    .hint(
        "modules, firmware and libraries must have exactly the same version; correct the profile's `driver`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(vermagic: &str, version: Option<&str>) -> Module {
        let mut module = Module::of("nvidia.ko", &image::elf::parse_modinfo(b""));
        module.vermagic = vermagic.into();
        module.version = version.map(str::to_owned);
        module
    }

    #[test]
    fn module_of_another_kernel_is_refused_with_both_releases() {
        let error = check_release(&module("6.1.0-9 SMP mod_unload", None), "6.12.1").unwrap_err().to_string();
        assert!(error.contains("6.1.0-9") && error.contains("6.12.1"), "{error}");
    }

    #[test]
    fn module_of_another_driver_is_refused_with_both_versions() {
        let error = check_built(&module("6.12.1 SMP", Some("550.90")), "6.12.1", "550.163.01")
            .unwrap_err()
            .to_string();
        assert!(error.contains("550.90") && error.contains("550.163.01"), "{error}");
        assert!(check_built(&module("6.12.1 SMP", Some("550.163.01")), "6.12.1", "550.163.01").is_ok());
    }
}
