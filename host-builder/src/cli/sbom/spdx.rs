//! SPDX 2.3. Source: https://spdx.github.io/spdx-spec/v2.3/

use super::bill::{Bill, DRIVER_NAME, DRIVER_SUPPLIER, NO_ASSERTION};
use super::origin::Origin;

use image::manifest::{File, Kind};
use serde_json::{Value, json};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
const DRIVER: &str = "SPDXRef-Driver";
/// The format requires a time. This value means that there is none.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// The whole document.
pub fn document(bill: &Bill) -> Value {
    let name = format!("initrd of {}", bill.manifest.profile);
    let mut packages = vec![package(IMAGE, &name, bill.digest)];
    let mut files = Vec::new();
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    if let Some(driver) = &bill.manifest.driver {
        let mut package = package(DRIVER, DRIVER_NAME, &driver.version);
        package["supplier"] = json!(format!("Organization: {DRIVER_SUPPLIER}"));
        packages.push(package);
        relationships.push(relation(IMAGE, "CONTAINS", DRIVER));
    }
    for (at, (origin, contained)) in bill.parts.iter().enumerate() {
        let id = format!("SPDXRef-Package-{at}");
        packages.push(of_origin(&id, origin));
        relationships.push(relation(IMAGE, "CONTAINS", &id));
        if bill.is_of_driver(contained) {
            relationships.push(relation(&id, "PACKAGE_OF", DRIVER));
        }
        for entry in contained {
            let file_id = format!("SPDXRef-File-{}", files.len());
            if let Some(value) = file(&file_id, entry) {
                files.push(value);
                relationships.push(relation(&id, "CONTAINS", &file_id));
            }
        }
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": format!("{}/spdx/{}", env!("CARGO_PKG_REPOSITORY"), bill.serial),
        "creationInfo": {
            "created": NO_TIME,
            "creators": [format!("Tool: {}", bill.manifest.builder.replacen(' ', "-", 1))],
        },
        "packages": packages,
        "files": files,
        "relationships": relationships,
    })
}

fn package(id: &str, name: &str, version: &str) -> Value {
    json!({
        "SPDXID": id,
        "name": name,
        "versionInfo": version,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
    })
}

fn of_origin(id: &str, origin: &Origin) -> Value {
    let mut package = package(id, &origin.name, &origin.version);
    if let Some(purl) = &origin.purl {
        package["externalRefs"] = json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }]);
    }
    package
}

fn file(id: &str, file: &File) -> Option<Value> {
    let Kind::File { sha256, .. } = &file.kind else { return None };
    Some(json!({
        "SPDXID": id,
        "fileName": format!(".{}", file.path),
        "checksums": [{ "algorithm": "SHA256", "checksumValue": sha256 }],
        "licenseConcluded": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "comment": file.reason,
    }))
}

fn relation(of: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to })
}
