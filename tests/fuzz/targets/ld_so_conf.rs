//! The text of an image's ld.so.conf.
#![no_main]

use guest_init::ldcache::{Directive, parse_conf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let directives = parse_conf(data);
    assert!(directives.len() <= data.iter().filter(|byte| **byte == b'\n').count() + 1);
    for directive in directives {
        match directive {
            Directive::Directory(dir) => {
                assert!(!dir.is_empty() && !dir.ends_with(b"/"));
                assert!(!dir.iter().any(|byte| matches!(byte, 0 | b'\n' | b'#')));
            }
            Directive::Include(patterns) => {
                assert!(patterns.iter().all(|pattern| !pattern.is_empty() && !pattern.contains(&0)));
            }
            Directive::Hwcap(_) => {}
        }
    }
});
