//! Images that attack the commands: text that controls a terminal, and small files that unpack to
//! large ones.

use std::{fs, io::Read, process::Command};

use host_builder::initramfs::cpio::Writer;
use rig::{
    build::{initrd, program},
    variant::Variant,
};

use super::host_builder;

/// Names, link targets and strings of a manifest that would control a terminal, in an image of this
/// project.
#[test]
fn commands_print_no_terminal_control_from_images() {
    const EVIL: &str = "evil\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}\r";
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("evil.img");
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.edit_manifest(|manifest| {
        manifest.profile = EVIL.into();
        manifest.files[5].origin = EVIL.into();
        manifest.files[6].reason = EVIL.into();
        manifest.modules[0].name = EVIL.into();
    });
    variant.write(&image).unwrap();
    let mut writer = Writer::new(fs::File::options().append(true).open(&image).unwrap());
    writer.file(EVIL, 0o644, 1, &mut &b"x"[..]).unwrap();
    writer.link(&format!("link{EVIL}"), EVIL).unwrap();
    writer.finish().unwrap();
    let original = initrd().initrd.to_str().unwrap();
    let lock = initrd().lock.to_str().unwrap();
    // A list that does not go to a terminal has the names as they are.
    for args in [
        &["list", "--json"][..],
        &["inspect"],
        &["inspect", "--json"],
        &["examine"],
        &["verify", "--lock", lock],
        &["verify", "--json"],
        &["diff", original],
        &["sbom", "--format", "spdx"],
        &["sbom"],
        &["cat", "--json"],
    ] {
        let mut command = Command::new(program());
        command.args(args).arg(&image).args((args[0] == "cat").then_some(EVIL));
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let steers = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(!text.contains(steers), "{args:?}: {:?}", text.lines().find(|line| line.contains(steers)));
        assert!(text.contains("evil") || args == ["examine"], "{args:?}: {text}");
    }
}

/// Small images that unpack to large ones: memory depends on what is shown, not on what the image
/// claims.
#[test]
fn memory_for_small_hostile_images_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, fill: &dyn Fn(&mut Writer<zstd::Encoder<'static, fs::File>>)| {
        let path = dir.path().join(name);
        let out = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
        let mut writer = Writer::new(out);
        fill(&mut writer);
        writer.finish().unwrap().finish().unwrap();
        path
    };
    let names = |count: usize, length: usize| {
        move |writer: &mut Writer<_>| {
            for number in 0..count {
                let name = format!("{number:08}{}", "a".repeat(length));
                writer.file(&name, 0o644, 0, &mut &b""[..]).unwrap();
            }
        }
    };
    let many = image("many.img", &names(249_000, 1));
    let long = image("long.img", &names(16_000, 4_000));
    let too_many = image("too-many.img", &names(260_000, 1));
    let too_long = image("too-long.img", &names(17_500, 4_000));
    let large = image("large.img", &|writer| {
        writer.file("zeros", 0o644, 2 << 30, &mut std::io::repeat(0).take(2 << 30)).unwrap();
    });
    let all = [
        (&many, &["list", "--json"][..]),
        (&long, &["list", "--json"]),
        (&many, &["inspect", "--json"]),
        (&long, &["list"]),
        (&large, &["cat", "--json"]),
        (&large, &["list", "--json"]),
    ];
    for (image, bound) in [(&too_many, "more than 250000 entries"), (&too_long, "names")] {
        let refused = host_builder(&["list"], image);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && text.contains(bound), "{}: {text}", image.display());
    }
    for (image, args) in all {
        assert!(fs::metadata(image).unwrap().len() < 4 << 20, "{}", image.display());
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v 1048576; exec \"$@\"", "limited"])
            .arg(program())
            .args(args)
            .arg(image);
        let output = command.args((args[0] == "cat").then_some("zeros")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} {}: {text}", image.display());
    }
}
