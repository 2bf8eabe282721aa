//! Promises of the README that are numbers or shapes.

use image::elf;

#[test]
fn guest_init_is_static_and_below_its_size() {
    let program = host_builder::GUEST_INIT;
    assert!(
        program.len() < 1_500_000,
        "guest-init has {} bytes, it promises less than 1.5 MB",
        program.len()
    );
    let elf = elf::read(program).expect("host-builder carries an ELF program");
    assert_eq!((elf.interp, elf.needed), (None, vec![]), "PID 1 runs before there is any library");
}
