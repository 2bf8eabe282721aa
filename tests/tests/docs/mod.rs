//! The documentation compared with the code: its tables (`tables`), and what it names and links to
//! (`links`).

mod links;
mod markdown;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn markdown_in(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// README.md and the other pages at the top, and all of docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let (mut pages, docs) = (markdown_in(top()), markdown_in(&top().join("docs")));
    assert!(pages.len() >= 4 && docs.len() >= 11, "{} and {}", pages.len(), docs.len());
    pages.extend(docs);
    pages
}

fn templates() -> Vec<(PathBuf, String)> {
    markdown_in(&top().join(".github/ISSUE_TEMPLATE"))
}
