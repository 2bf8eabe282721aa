//! Checks what the image requires of the driver, before anything is started.

use super::error::GpuError;
use image::config::Config;
use image::manifest::Driver;
use image::requirement::{self, Facts, Verdict};

/// Returns the requirements in the container's environment that `driver` does not meet.
pub fn unmet(config: &Config, driver: &Driver) -> Vec<GpuError> {
    let facts = Facts::of_driver(&driver.version, driver.cuda.as_deref());
    let list = requirement::requirements(&config.env);
    list.iter().filter_map(|(name, value)| error(name, value, &facts)).collect()
}

fn error(name: &str, value: &str, facts: &Facts) -> Option<GpuError> {
    let why = match requirement::evaluate(value, facts) {
        Ok(Verdict::Met) => return None,
        Ok(Verdict::Unknown) => {
            log::info!("{name} depends on facts that are unknown here; assuming that it is met");
            return None;
        }
        Ok(Verdict::Unmet) => "none of its alternatives is met".into(),
        Err(error) => error.to_string(),
    };
    let cuda = facts.cuda_in_words().unwrap_or_else(|| "unknown".into());
    let (name, value, driver) = (name.to_owned(), value.to_owned(), facts.driver.clone());
    Some(GpuError::RequirementUnmet { name, value, driver, cuda, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::{Code, Finding};

    #[test]
    fn an_unmet_requirement_names_both_sides() {
        let mut config = Config::default();
        config.env.insert("NVIDIA_REQUIRE_CUDA".into(), "cuda>=13.0".into());
        let driver = |version: &str, cuda: Option<&str>| Driver {
            version: version.into(),
            cuda: cuda.map(Into::into),
            firmware: Vec::new(),
            gpus: Vec::new(),
        };
        let finding = Finding::from(unmet(&config, &driver("550.163.01", None)).remove(0));
        assert_eq!(finding.code, Code::CudaRequirementUnmet);
        assert!(finding.message.contains("550.163.01") && finding.message.contains("12.4"), "{finding:?}");
        assert_eq!(finding.evidence, ["NVIDIA_REQUIRE_CUDA=cuda>=13.0"]);
        assert!(unmet(&config, &driver("580.95.05", None)).is_empty());
        assert!(unmet(&config, &driver("550.163.01", Some("13.1"))).is_empty(), "its own word counts");
        config.env.insert("NVIDIA_DISABLE_REQUIRE".into(), "1".into());
        assert!(unmet(&config, &driver("550.163.01", None)).is_empty());
    }
}
