//! Several checks of one guest: all failures are reported, not only the first.

use std::fmt::Debug;

/// Collects failures, and panics with all of them when it is dropped.
#[derive(Debug, Default)]
pub struct Checks {
    failures: Vec<String>,
    context: String,
}

impl Checks {
    /// Checks about something, which is shown once below the failures.
    pub fn of(context: impl Into<String>) -> Self {
        Self { failures: Vec::new(), context: context.into() }
    }

    /// `found` is to be true.
    #[track_caller]
    pub fn that(&mut self, found: bool, what: impl Into<String>) {
        if !found {
            self.fail(&what.into());
        }
    }

    /// `found` is to be `expected`.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "as assert_eq takes them")]
    pub fn same<T: PartialEq<U> + Debug, U: Debug>(&mut self, found: T, expected: U, what: &str) {
        if found != expected {
            self.fail(&format!("{what}: expected {expected:#?}, found {found:#?}"));
        }
    }

    /// `text` is to have `part` in it.
    #[track_caller]
    pub fn has(&mut self, text: &str, part: &str, what: &str) {
        if !text.contains(part) {
            self.fail(&format!("{what}: no {part:?} in {text:?}"));
        }
    }

    #[track_caller]
    fn fail(&mut self, what: &str) {
        let at = std::panic::Location::caller();
        self.failures.push(format!("{}:{}: {what}", at.file(), at.line()));
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        if self.failures.is_empty() {
            return;
        }
        let text = format!("{} checks failed:\n{}", self.failures.len(), self.failures.join("\n"));
        // Two panics at a time would end all tests.
        assert!(std::thread::panicking(), "{text}\n{}", self.context);
        eprintln!("and before that {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_check_is_reported() {
        let run = || {
            let mut checks = Checks::of("the console");
            checks.that(true, "good");
            checks.that(false, "first");
            checks.same(2, 3, "second");
            checks.has("text", "other", "third");
        };
        let panic = std::panic::catch_unwind(run).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        for part in [
            "3 checks failed",
            "checks.rs:",
            ": first",
            "second: expected 3, found 2",
            "no \"other\" in \"text\"",
            "the console",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("good"), "{text}");
    }

    #[test]
    fn passed_checks_report_nothing() {
        Checks::of("x").same("a", "a", "same");
    }
}
