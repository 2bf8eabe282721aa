use super::origin::Origin;
use super::*;
use image::capability::Capability;
use image::manifest::{Driver, File, Kind, Manifest};
use std::collections::BTreeSet;

fn manifest() -> Manifest {
    let file = |path: &str, origin: &str, capabilities: &[Capability]| File {
        path: path.into(),
        kind: Kind::File { size: 1, sha256: sha256(path.as_bytes()) },
        mode: 0o644,
        origin: origin.into(),
        reason: "a test".into(),
        capabilities: capabilities.to_vec(),
        soname: None,
        glibc: None,
        payload: !capabilities.is_empty(),
    };
    Manifest {
        format: image::manifest::FORMAT,
        builder: "gpu-initrd 0.1.0".into(),
        profile: "p".into(),
        arch: "x86_64".into(),
        kernel_release: "6.12".into(),
        driver: Some(Driver { version: "550.1".into(), cuda: None, firmware: vec![], gpus: vec![] }),
        capabilities: vec!["compute".into()],
        control: None,
        payload: image::manifest::Payload::Files,
        modules: vec![],
        files: vec![
            file("/init", "gpu-initrd 0.1.0", &[]),
            file("/lib/modules/6.12/kernel/drivers/gpu/nvidia.ko", "built from source", &[]),
            file("/lib/modules/6.12/kernel/a.ko", "linux-image 1:6.12+deb13~1", &[]),
            file("/usr/lib/nvidia/libcuda.so", "libcuda1 550.1-2", &[Capability::Compute]),
            file("/usr/lib32/nvidia/libcuda.so", "libcuda1:i386 550.1-2", &[Capability::Compat32]),
        ],
    }
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect()
}

#[test]
fn origins_become_package_urls_with_version_and_architecture() {
    let manifest = manifest();
    let purl = |text: &str| Origin::of(text, &manifest).purl;
    let kernel = "pkg:deb/debian/linux-image@1:6.12%2Bdeb13~1?arch=amd64";
    assert_eq!(purl("linux-image 1:6.12+deb13~1").as_deref(), Some(kernel));
    assert_eq!(purl("libcuda1:i386 550.1-2").as_deref(), Some("pkg:deb/debian/libcuda1@550.1-2?arch=i386"));
    assert_eq!(purl("gpu-initrd 0.1.0"), None);
    let built = Origin::of("built from source", &manifest);
    assert_eq!((built.version.as_str(), built.purl), ("550.1", None));
}

/// The fields that the format's schema requires, and its rules that every reference is unique and
/// leads somewhere.
#[test]
fn the_cyclonedx_document_has_what_its_schema_requires() {
    let manifest = manifest();
    let bill = Bill::of(&manifest, "0123456789abcdef0123456789abcdef");
    let document = cyclonedx::document(&bill);
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    assert_eq!(document["version"], 1);
    assert_eq!(document["serialNumber"], "urn:uuid:01234567-89ab-8def-8123-456789abcdef");
    let kinds = ["application", "device-driver", "file", "library", "operating-system"];
    let mut references = BTreeSet::new();
    let mut component = |value: &Value| {
        assert!(kinds.contains(&value["type"].as_str().unwrap()), "{value}");
        assert!(!value["name"].as_str().unwrap().is_empty());
        assert!(references.insert(value["bom-ref"].as_str().unwrap().to_owned()), "{value} is not unique");
    };
    component(&document["metadata"]["component"]);
    let mut digests = 0;
    for part in document["components"].as_array().unwrap() {
        component(part);
        for file in part["components"].as_array().into_iter().flatten() {
            component(file);
            assert_eq!(file["hashes"][0]["alg"], "SHA-256");
            assert_eq!(file["hashes"][0]["content"], sha256(file["name"].as_str().unwrap().as_bytes()));
            digests += 1;
        }
    }
    assert_eq!(digests, manifest.files.len());
    let dependencies = document["dependencies"].as_array().unwrap();
    for dependency in dependencies {
        assert!(references.contains(dependency["ref"].as_str().unwrap()));
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(on.as_str().unwrap()), "{on} leads nowhere");
        }
    }
    assert_eq!(dependencies[1]["dependsOn"].as_array().unwrap().len(), 3, "{:?}", dependencies[1]);
}

#[test]
fn the_spdx_document_has_what_its_schema_requires() {
    let manifest = manifest();
    let bill = Bill::of(&manifest, "0123456789abcdef0123456789abcdef");
    let document = spdx::document(&bill);
    assert_eq!((&document["spdxVersion"], &document["dataLicense"]), (&"SPDX-2.3".into(), &"CC0-1.0".into()));
    assert!(document["documentNamespace"].as_str().unwrap().ends_with(&bill.serial));
    assert_eq!(strings(&document["files"], "fileName").len(), manifest.files.len());
    let mut ids = BTreeSet::from([document["SPDXID"].as_str().unwrap()]);
    ids.extend(strings(&document["packages"], "SPDXID"));
    ids.extend(strings(&document["files"], "SPDXID"));
    assert_eq!(ids.len(), 1 + 2 + 5 + manifest.files.len());
    assert!(ids.iter().all(|id| {
        let name = id.strip_prefix("SPDXRef-").unwrap();
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
    }));
    for package in document["packages"].as_array().unwrap() {
        for field in ["name", "versionInfo", "downloadLocation", "licenseConcluded", "licenseDeclared"] {
            assert!(package[field].is_string(), "{field} of {package}");
        }
    }
    for relation in document["relationships"].as_array().unwrap() {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.contains(relation[end].as_str().unwrap()), "{relation}");
        }
    }
}

#[test]
fn same_manifest_produces_the_same_document() {
    let manifest = manifest();
    let document = |digest: &str| cyclonedx::document(&Bill::of(&manifest, digest)).to_string();
    let (one, two) = (sha256(b"one"), sha256(b"two"));
    assert_eq!(document(&one), document(&one));
    assert_ne!(document(&one), document(&two));
}
