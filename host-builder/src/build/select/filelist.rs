//! `sandboxutils-filelist.json`: the driver's own list (since 570) of the files that container
//! runtimes need.
//!
//! It is an array of rows with a file name, a type (`LIB`, `BINARY`, `JSON`, `SYMLINK`, `FIRMWARE`,
//! `MODPROBE`) and categories (`cuda`, `nvml`, `video`, `egl`, …). A file has a row for each group
//! of categories. The list does not say where a file belongs.

use super::selected::Destination;
use crate::artifacts::tree::Tree;
use crate::common::error::{Error, Result};
use crate::common::files::base_name;
use image::capability::Capability::{self, Compute, Display, Graphics, Ngx, Utility, Video};
use image::capability::TABLE;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// File name of the list in every package.
pub const FILE: &str = "sandboxutils-filelist.json";
/// Limits; real lists have about a hundred rows and 15 kB.
const MAX_BYTES: u64 = 1 << 20;
const MAX_ROWS: usize = 4096;
const MAX_NAME: usize = 255;
/// Categories of services that only a host runs: the power limits of notebooks.
const OF_HOSTS: [&str; 1] = ["powerd"];

#[derive(Deserialize)]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(alias = "categories")]
    category: Vec<String>,
}

/// A file's row.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it belongs, unless the table has another place.
    pub place: Destination,
    /// Its capabilities, sorted.
    pub capabilities: Vec<Capability>,
}

/// The list, with our types.
#[derive(Debug)]
pub struct List {
    /// The rows by file name.
    pub files: BTreeMap<String, Listed>,
    /// Rows that were skipped: the note, and the capabilities that lack this file; none if they are unknown.
    pub skipped: BTreeMap<String, BTreeSet<Capability>>,
}

impl List {
    /// What to say about the skipped rows of these capabilities.
    pub fn notes(&self, asked: &BTreeSet<Capability>) -> Vec<String> {
        let matters = |of: &BTreeSet<Capability>| of.is_empty() || !of.is_disjoint(asked);
        self.skipped.iter().filter(|(_, of)| matters(of)).map(|(note, _)| note.clone()).collect()
    }
}

/// Reads the list from these packages, if one of them has it.
pub fn read(trees: &[Tree], driver: &str) -> Result<Option<List>> {
    let files = trees.iter().flat_map(|tree| tree.files.iter().map(move |file| (tree, file)));
    let Some((tree, file)) = files.into_iter().find(|(_, file)| base_name(&file.path) == FILE) else {
        return Ok(None);
    };
    let place = format!("{} of {}", file.path, tree.origin);
    if file.size > MAX_BYTES {
        return Err(unusable(&place, &format!("has {} bytes, expected at most {MAX_BYTES}", file.size)));
    }
    parse(&tree.read(file)?, &place, driver).map(Some)
}

fn parse(bytes: &[u8], place: &str, driver: &str) -> Result<List> {
    let rows: Vec<Row> = serde_json::from_slice(bytes).map_err(|error| {
        unusable(place, "is not an array of rows with name, type and category").source(error)
    })?;
    if rows.len() > MAX_ROWS {
        return Err(unusable(place, &format!("has {} rows, expected at most {MAX_ROWS}", rows.len())));
    }
    let mut list = List { files: BTreeMap::new(), skipped: BTreeMap::new() };
    for row in &rows {
        let name = base_name(&row.name);
        if name.is_empty()
            || name.len() > MAX_NAME
            || name.starts_with('.')
            || name.contains(char::is_control)
        {
            return Err(unusable(place, &format!("names a file {:?}", row.name)));
        }
        // Firmware is selected by the modules that request it.
        let mut categories = row.category.iter();
        let is_of_hosts = categories.len() > 0 && categories.all(|word| OF_HOSTS.contains(&word.as_str()));
        if row.kind == "FIRMWARE" || is_of_hosts {
            continue;
        }
        let mut capabilities: BTreeSet<_> =
            row.category.iter().flat_map(|word| of_category(word)).copied().collect();
        if row.kind == "MODPROBE" {
            capabilities.insert(Utility);
        }
        let known = || TABLE.iter().any(|file| file.is(name, driver));
        let passed_over = match place_of(&row.kind) {
            // Wine's part of DLSS is listed as a library.
            _ if name.ends_with(".dll") => Some("a library for Windows".to_owned()),
            _ if capabilities.is_empty() => Some(format!("categories {}", row.category.join(", "))),
            None if !known() => Some(format!("type {}", row.kind)),
            _ => None,
        };
        if let Some(why) = passed_over {
            let note = format!("{FILE}: {name} is skipped: {why}");
            list.skipped.entry(note).or_default().extend(capabilities);
            continue;
        }
        let place = place_of(&row.kind).unwrap_or(Destination::Library(""));
        let listed = list.files.entry(name.to_owned()).or_insert(Listed { place, capabilities: Vec::new() });
        capabilities.extend(&listed.capabilities);
        listed.capabilities = capabilities.into_iter().collect();
    }
    Ok(list)
}

/// Where a file belongs that is not in the table. Only the table knows the places of other types.
fn place_of(kind: &str) -> Option<Destination> {
    match kind {
        "LIB" => Some(Destination::Library("")),
        "BINARY" | "MODPROBE" => Some(Destination::Program),
        _ => None,
    }
}

fn of_category(word: &str) -> &'static [Capability] {
    match word {
        "cuda" | "opencl" => &[Compute],
        "nvml" | "utils" | "modprobe" | "nvpd" | "nvsandboxutils" => &[Utility],
        "video" | "vdpau" => &[Video],
        "xdriver" => &[Display],
        "ngx" => &[Ngx],
        "vulkan" | "optix" | "egl" | "egl_headless" | "egl_wayland" | "egl_gbm" | "egl_x11" | "glx"
        | "gbm" | "glvnd" | "nvapi" | "nvpresent" => &[Display, Graphics],
        _ => &[],
    }
}

fn unusable(place: &str, what: &str) -> Error {
    Error::new(format!("{place} {what}"))
        .hint("the driver's own list of files has a format that this tool does not support: report it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "580.142";
    /// The format that the drivers' README documents and public readers of the file parse, with our
    /// own rows.
    const REAL_SHAPE: &str = include_str!("filelist.fixture.json");

    fn parsed(text: &str) -> Result<List> {
        parse(text.as_bytes(), "usr/share/nvidia/files.d/sandboxutils-filelist.json of driver 1", DRIVER)
    }

    #[test]
    fn categories_become_capabilities_and_rows_are_merged() {
        let list = parsed(REAL_SHAPE).unwrap();
        let of =
            |name: &str| list.files.get(name).map(|listed| listed.capabilities.clone()).unwrap_or_default();
        assert_eq!(of("libcuda.so.580.142"), [Compute, Display, Graphics]);
        assert_eq!(of("libnvidia-nvvm70.so.4"), [Compute]);
        assert_eq!(of("nvidia-smi"), [Utility]);
        assert_eq!(of("nvidia-modprobe"), [Utility]);
        assert_eq!(of("libnvidia-encode.so.580.142"), [Video]);
        assert_eq!(of("nvidia_icd.json"), [Display, Graphics]);
        assert_eq!(of("nvidia_drv.so"), [Display]);
        assert_eq!(list.files["libnvidia-new.so.580.142"].place, Destination::Library(""));
        assert!(!list.files.contains_key("gsp_ga10x.bin"));
    }

    #[test]
    fn unknown_rows_are_skipped_with_a_note() {
        let list = parsed(REAL_SHAPE).unwrap();
        assert!(
            !list.files.contains_key("future.json")
                && !list.files.contains_key("libnvidia-teleport.so.580.142")
        );
        let asked = BTreeSet::from(Capability::DEFAULT);
        let notes = list.notes(&asked).join("\n");
        let all = list.notes(&Capability::ALL.into_iter().collect()).join("\n");
        assert!(all.contains("future.json is skipped: type JSON"), "{all}");
        assert!(notes.contains("libnvidia-teleport.so.580.142 is skipped: categories teleport"), "{notes}");
        assert_eq!((list.skipped.len(), all.lines().count()), (2, 2), "{all}");
    }

    /// As in Ubuntu's package of driver 580.
    #[test]
    fn windows_libraries_are_skipped() {
        let list = parsed(
            r#"[{"name": "_nvngx.dll", "type": "LIB", "category": ["ngx"]},
                {"name": "_nvngx.dll", "type": "LIB", "category": ["ngx"]},
                {"name": "nvidia-powerd", "type": "BINARY", "category": ["powerd"]}]"#,
        )
        .unwrap();
        let notes = list.notes(&BTreeSet::from([Ngx]));
        assert!(list.files.is_empty() && notes.len() == 1 && notes[0].contains("for Windows"), "{notes:?}");
        // Nobody asked for them.
        assert_eq!(list.notes(&BTreeSet::from(Capability::DEFAULT)), [""; 0]);
    }

    #[test]
    fn unknown_format_is_an_error_with_the_file_name() {
        for text in [
            "",
            "{}",
            "[1]",
            r#"[{"name": "a"}]"#,
            r#"[{"name": "a", "type": "LIB", "category": "cuda"}]"#,
            r#"[{"name": "..", "type": "LIB", "category": ["cuda"]}]"#,
            r#"[{"name": "lib/", "type": "LIB", "category": ["cuda"]}]"#,
            "[{\"name\": \"a\\nb\", \"type\": \"LIB\", \"category\": [\"cuda\"]}]",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.to_string().contains(FILE) && error.remedy().is_some(), "{text}: {error}");
        }
        let row = r#"{"name": "a", "type": "LIB", "category": ["cuda"]}"#;
        let many = format!("[{}]", vec![row; MAX_ROWS + 1].join(","));
        assert!(parsed(&many).unwrap_err().to_string().contains("4097 rows"));
    }

    #[test]
    fn both_spellings_of_categories_are_read() {
        let list =
            parsed(r#"[{"name": "a", "type": "LIB", "categories": ["video"], "optional": true}]"#).unwrap();
        assert_eq!(list.files["a"].capabilities, [Video]);
    }
}
