//! CycloneDX 1.6. Source: https://cyclonedx.org/docs/1.6/json/

use super::bill::{Bill, DRIVER_NAME, DRIVER_SUPPLIER, NO_ASSERTION};
use super::origin::{Origin, OriginKind};

use image::manifest::{File, Kind};
use serde_json::{Value, json};

const IMAGE: &str = "image";
const DRIVER: &str = "driver";

/// The whole document.
pub fn document(bill: &Bill) -> Value {
    let mut components: Vec<Value> = bill.parts.iter().map(|(origin, files)| part(origin, files)).collect();
    let of_driver = bill.parts.iter().filter(|(_, files)| bill.is_of_driver(files));
    let of_driver: Vec<_> = of_driver.map(|(origin, _)| reference(origin)).collect();
    let mut needs: Vec<_> = bill.parts.iter().map(|(origin, _)| reference(origin)).collect();
    let mut dependencies = Vec::new();
    if let Some(driver) = &bill.manifest.driver {
        components.push(json!({
            "type": "device-driver",
            "bom-ref": DRIVER,
            "name": DRIVER_NAME,
            "version": driver.version,
            "supplier": { "name": DRIVER_SUPPLIER },
            "licenses": [{ "license": { "name": NO_ASSERTION } }],
        }));
        dependencies.push(json!({ "ref": DRIVER, "dependsOn": of_driver }));
        needs.push(DRIVER.to_owned());
    }
    dependencies.insert(0, json!({ "ref": IMAGE, "dependsOn": needs }));
    let builder = bill.manifest.builder.split_once(' ').unwrap_or((&bill.manifest.builder, ""));
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", bill.serial),
        "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": builder.0, "version": builder.1 }] },
            "component": {
                "type": "operating-system",
                "bom-ref": IMAGE,
                "name": format!("initrd of {}", bill.manifest.profile),
                "version": bill.digest,
                "properties": [
                    { "name": "gpu-initrd:kernel-release", "value": bill.manifest.kernel_release },
                    { "name": "gpu-initrd:capabilities", "value": bill.manifest.capabilities.join(",") },
                    { "name": "gpu-initrd:manifest-sha256", "value": bill.digest },
                ],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn part(origin: &Origin, files: &[&File]) -> Value {
    let kind = match origin.kind {
        OriginKind::Package => "library",
        OriginKind::Built => "device-driver",
        OriginKind::Tool => "application",
    };
    let mut part = json!({
        "type": kind,
        "bom-ref": reference(origin),
        "name": origin.name,
        "version": origin.version,
        "components": files.iter().filter_map(|entry| file(entry)).collect::<Vec<_>>(),
    });
    if let Some(purl) = &origin.purl {
        part["purl"] = json!(purl);
    }
    part
}

/// Unique for an origin.
fn reference(origin: &Origin) -> String {
    origin.purl.clone().unwrap_or_else(|| format!("{} {}", origin.name, origin.version))
}

fn file(file: &File) -> Option<Value> {
    let Kind::File { size, sha256 } = &file.kind else { return None };
    Some(json!({
        "type": "file",
        "bom-ref": format!("file:{}", file.path),
        "name": file.path,
        "hashes": [{ "alg": "SHA-256", "content": sha256 }],
        "properties": [
            { "name": "gpu-initrd:size", "value": size.to_string() },
            { "name": "gpu-initrd:reason", "value": file.reason },
        ],
    }))
}
