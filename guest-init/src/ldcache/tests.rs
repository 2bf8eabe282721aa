use super::*;

#[test]
fn an_empty_root_gives_an_empty_cache_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootDir::open(dir.path()).unwrap();
    let cache = build(&root).unwrap();
    assert!(read(&cache.bytes).unwrap().entries.is_empty());
    assert!(cache.write(&root).unwrap());
    assert!(!cache.write(&root).unwrap(), "the second time nothing changes");
}
