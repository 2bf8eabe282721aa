//! The fields of `apt-cache show` that are used here.

/// One version of a package.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub sha256: String,
    /// Unpacked size in bytes, as its publisher estimates it.
    pub installed: Option<u64>,
}

/// Parses the paragraphs of a package list.
pub fn records(text: &str) -> Vec<Record> {
    let one = |paragraph: &str| {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().trim().to_owned()
        };
        let kibibytes = field("Installed-Size").parse::<u64>().ok();
        Record {
            name: field("Package"),
            version: field("Version"),
            sha256: field("SHA256"),
            installed: kibibytes.map(|size| size.saturating_mul(1024)),
        }
    };
    text.split("\n\n").map(one).filter(|record| !record.name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_become_records() {
        let text = "Package: a\nVersion: 1:2-3\nInstalled-Size: 5\nSHA256: ff\nDescription: x\n Package: no\n\nPackage: b\n";
        let list = records(text);
        assert_eq!(
            list[0],
            Record { name: "a".into(), version: "1:2-3".into(), sha256: "ff".into(), installed: Some(5120) }
        );
        assert_eq!((list.len(), list[1].installed), (2, None));
        assert!(records("").is_empty());
    }
}
