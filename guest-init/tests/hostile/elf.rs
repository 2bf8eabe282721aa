//! A small library with everything that is read from one, and the same with every field wrong.

use std::fs;

use guest_init::ldcache::{self, Machine, Platform, SearchSettings};
use image::elf;

use crate::scene::{Scene, in_time, lib, open};

/// A field: where it is, how many bytes.
type Field = (usize, usize);

/// A shared object of this machine, and its fields: headers, dynamic section, notes, sections.
fn whole(soname: &str) -> (Vec<u8>, Vec<Field>) {
    const SEGMENTS: usize = 5;
    const SECTIONS: usize = 3;
    let machine = if Machine::NATIVE == Machine::Aarch64 { 183 } else { 62 };
    let json = br#"{"CUDA Version": "13.1", "Driver": [599]}"#;
    let strings = [b"\0", soname.as_bytes(), b"\0libc.so.6\0/lib64/ld-linux-x86-64.so.2\0"].concat();
    let names = b"\0.note.cuda.fwd_compatibility\0";
    let libc = 2 + soname.len();
    let note = 64 + SEGMENTS * 56;
    let property = note + 32;
    let dynamic = property + 32;
    let strings_at = dynamic + 5 * 16;
    let compat = (strings_at + strings.len()).next_multiple_of(8);
    let names_at = compat + 32 + json.len();
    let sections = (names_at + names.len()).next_multiple_of(8);
    let end = sections + SECTIONS * 64;

    let mut out = Out(Vec::new(), Vec::new());
    out.0.extend(b"\x7fELF");
    for byte in [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0] {
        out.field(byte, 1);
    }
    out.fields(&[(3, 2), (machine, 2), (1, 4), (0, 8), (64, 8), (sections, 8), (0, 4)]);
    out.fields(&[(64, 2), (56, 2), (SEGMENTS, 2), (64, 2), (SECTIONS, 2), (2, 2)]);
    let property_type = 0x6474_e553;
    let segments = [
        (1, 0, end, 8),
        (2, dynamic, strings_at - dynamic, 8),
        (3, strings_at + libc + 10, 28, 1),
        (4, note, 32, 4),
        (property_type, property, 32, 8),
    ];
    for (kind, at, len, align) in segments {
        out.fields(&[(kind, 4), (4, 4), (at, 8), (at, 8), (at, 8), (len, 8), (len, 8), (align, 8)]);
    }
    out.words(&[4, 16, 1, 0x0055_4e47, 0, 3, 2, 0]);
    out.words(&[4, 16, 5, 0x0055_4e47, 0xc000_8002, 4, 1, 0]);
    for (tag, value) in [(14, 1), (1, libc), (5, strings_at), (10, strings.len()), (0, 0)] {
        out.fields(&[(tag, 8), (value, 8)]);
    }
    out.0.extend(strings);
    out.0.resize(compat, 0);
    out.words(&[19, json.len(), 1]);
    out.0.extend(b"NVIDIA Corporation\0\0");
    out.0.extend(json);
    out.0.extend(names);
    out.0.resize(sections, 0);
    for (name, at, len) in [(0, 0, 0), (1, compat, 32 + json.len()), (1, names_at, names.len())] {
        out.fields(&[(name, 4), (7, 4), (0, 8), (0, 8), (at, 8), (len, 8), (0, 4), (0, 4), (4, 8), (0, 8)]);
    }
    (out.0, out.1)
}

struct Out(Vec<u8>, Vec<Field>);

impl Out {
    fn field(&mut self, value: usize, len: usize) {
        self.1.push((self.0.len(), len));
        self.0.extend(&value.to_le_bytes()[..len]);
    }

    fn fields(&mut self, fields: &[(usize, usize)]) {
        for (value, len) in fields {
            self.field(*value, *len);
        }
    }

    fn words(&mut self, words: &[usize]) {
        for word in words {
            self.field(*word, 4);
        }
    }
}

pub fn library(soname: &str) -> Vec<u8> {
    whole(soname).0
}

/// The library with one field set to each value that a program may stumble over.
fn mutants(soname: &str) -> Vec<Vec<u8>> {
    let (whole, fields) = whole(soname);
    let mut all = Vec::new();
    for (at, len) in fields {
        let max = u64::MAX >> (64 - 8 * len);
        let size = whole.len() as u64;
        for value in [0, 1, max, max - 1, max / 2 + 1, max / 2, size, size - 1, size + 1] {
            let mut mutant = whole.clone();
            mutant[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            all.push(mutant);
        }
    }
    all.extend((0..whole.len()).step_by(7).map(|len| whole[..len].to_vec()));
    all
}

#[test]
fn the_whole_library_is_read() {
    let (whole, fields) = whole("libseed.so.1");
    assert!(fields.len() > 100, "{}", fields.len());
    let found = elf::read(&whole).unwrap();
    assert_eq!(found.soname.as_deref(), Some(b"libseed.so.1".as_slice()));
    assert_eq!(found.needed, [b"libc.so.6".to_vec()]);
    assert_eq!(found.interp.as_deref(), Some(b"/lib64/ld-linux-x86-64.so.2".as_slice()));
    assert!(found.abi_tag.is_some() && found.x86_isa_needed == 1);
    assert_eq!(elf::cuda_compat(&whole).unwrap().unwrap().drivers, [599]);
}

#[test]
fn libraries_with_every_field_wrong_are_passed_over_or_read() {
    let scene = Scene::new();
    for (index, mutant) in mutants("libseed.so.1").iter().enumerate() {
        scene.file(&lib(&format!("libseed.so.{index}")), mutant);
    }
    scene.all("mutants in the library directory");
}

#[test]
fn any_field_of_libc_loader_and_compatibility_library_may_be_wrong() {
    let scene = Scene::new();
    let root = scene.root("");
    fs::create_dir_all(root.join("lib64")).unwrap();
    let compat = "usr/local/cuda/compat/libcuda.so.599.99.08";
    scene.file(compat, b"");
    let paths = [scene.root(&lib("libc.so.6")), scene.root("lib64/ld-linux-x86-64.so.2"), scene.root(compat)];
    in_time("mutants as libc, loader and compatibility library", move || {
        let root = open(&root);
        for (index, mutant) in mutants("libcuda.so.1").into_iter().enumerate() {
            let _ = (elf::read(&mutant), elf::cuda_compat(&mutant), elf::modinfo(&mutant));
            // Opening a file and looking for directories is slow, and each field has many values.
            if index % 3 == 0 {
                for path in &paths {
                    fs::write(path, &mutant).unwrap();
                }
                let _ = Platform::detect(&root);
                let _ = ldcache::resolve(&root, "libcuda.so.1", &SearchSettings::default());
            }
        }
    });
}
