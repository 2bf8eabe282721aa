//! ELF files of an image: libraries, programs, CUDA's compatibility note, modules.
#![no_main]

use image::elf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(elf) = elf::read(data) {
        assert!(elf.needed.len() <= 1024);
        let names =
            elf.needed.iter().chain(&elf.soname).chain(&elf.runpath).chain(&elf.rpath).chain(&elf.interp);
        for name in names {
            assert!(name.len() < 4096 && !name.contains(&0));
        }
    }
    let _ = elf::cuda_compat(data);
    if let Ok(info) = elf::modinfo(data) {
        assert!(info.0.len() <= data.len());
    }
});
