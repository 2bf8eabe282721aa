//! The documents that `--json` prints, their version, and their JSON Schemas.

use super::error::QueryError;
use super::target::Target;
use image::event::Event;
use image::status::{Status, Step, critical_path};
use serde::Serialize;

/// Version of the JSON lines. It is increased when a key is removed or changes its meaning, not
/// when a key or a value, such as a code, is added.
pub const SCHEMA: u32 = 1;

/// A line of `status --json`: one guest.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "gpu-initrd status"))]
pub struct Answer {
    /// Number of this form.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// The target of the guest.
    pub target: String,
    /// Its answer.
    #[serde(flatten)]
    pub given: Given,
    /// What the start of the program waited for, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical_path: Vec<Step>,
}

/// A status, or why there is none.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    /// The status of the guest.
    Status(Box<Status>),
    /// Why it could not be queried.
    Error(Failure),
}

/// Why a guest could not be queried.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Failure {
    /// A stable name: no-socket, not-listening, timed-out, gave-up, not-our-protocol,
    /// other-version, too-large, malformed, closed, unknown-request, refused, endless, io.
    pub code: String,
    /// What was expected and what was found.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Answer {
    /// The document for one guest.
    pub fn of(target: &Target, result: Result<Status, &QueryError>) -> Self {
        let (given, critical_path) = match result {
            Ok(status) => {
                let path = critical_path(&status);
                (Given::Status(Box::new(status)), path)
            }
            Err(error) => (Given::Error(Failure::of(error)), Vec::new()),
        };
        Self { schema: SCHEMA, target: target.to_string(), given, critical_path }
    }
}

impl Failure {
    /// The document of an error.
    pub fn of(error: &QueryError) -> Self {
        Self { code: error.name().into(), message: error.chain(), hint: error.hint().into() }
    }
}

/// A line of `events --json`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "gpu-initrd event"))]
pub struct EventLine {
    /// Number of this form.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// The guest; with --listen: where it connected to, and its CID.
    pub target: String,
    /// The event, or the number of lost events.
    #[serde(flatten)]
    pub news: EventNews,
}

/// An event, or a number of lost events.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EventNews {
    /// An event.
    Event(Event),
    /// Number of events before the next line that the guest no longer keeps.
    Lost(u64),
}

/// JSON Schema of [`Answer`].
pub const STATUS_SCHEMA: &str = include_str!("../../status.schema.json");

/// JSON Schema of [`EventLine`].
pub const EVENT_SCHEMA: &str = include_str!("../../event.schema.json");

#[cfg(test)]
mod tests {
    use super::*;

    /// `WRITE_SCHEMAS=1 cargo test -p host-builder schemas` makes them anew.
    #[test]
    fn the_schemas_in_the_repository_are_those_of_the_types() {
        for (name, kept, schema) in [
            ("status", STATUS_SCHEMA, schemars::schema_for!(Answer)),
            ("event", EVENT_SCHEMA, schemars::schema_for!(EventLine)),
        ] {
            let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            // Lines of a comment are one paragraph, wherever it is wrapped.
            let made = made.replace("\\n\\n", "\u{b6}").replace("\\n", " ").replace('\u{b6}', "\\n\\n");
            if std::env::var_os("WRITE_SCHEMAS").is_some() {
                let file = format!("{}/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
                std::fs::write(file, made).unwrap();
            } else {
                assert_eq!(made, kept, "{name}");
            }
        }
    }

    #[test]
    fn schemas_explain_every_code_of_a_finding() {
        for text in [STATUS_SCHEMA, EVENT_SCHEMA] {
            let schema: serde_json::Value = serde_json::from_str(text).unwrap();
            let codes = schema["$defs"]["Code"]["oneOf"].as_array().unwrap();
            let codes = codes.iter().map(|code| (code["const"].as_str(), code["description"].as_str()));
            let table = image::status::finding::CODES;
            let names: Vec<String> = table.iter().map(|row| row.code.name()).collect();
            let expected = names.iter().zip(table).map(|(name, row)| (Some(&**name), Some(row.meaning)));
            assert!(codes.eq(expected));
        }
    }

    /// A key can be added without a new version, so readers must accept keys that they do not know.
    /// Only the name of a variant is the only key of its object.
    #[test]
    fn schemas_accept_unknown_keys() {
        fn closed(schema: &serde_json::Value) -> Vec<&serde_json::Value> {
            let inner: Vec<_> = match schema {
                serde_json::Value::Object(object) => object.values().collect(),
                serde_json::Value::Array(list) => list.iter().collect(),
                _ => vec![],
            };
            let own = schema.get("additionalProperties").is_some_and(|more| more == false);
            inner.into_iter().flat_map(closed).chain(own.then_some(schema)).collect()
        }
        for text in [STATUS_SCHEMA, EVENT_SCHEMA] {
            let schema = serde_json::from_str(text).unwrap();
            for object in closed(&schema) {
                assert_eq!(object["properties"].as_object().unwrap().len(), 1, "{object:.200}");
            }
        }
    }

    #[test]
    fn an_answer_has_a_status_or_an_error() {
        let target = "vsock:3".parse().unwrap();
        let status = serde_json::to_value(Answer::of(&target, Ok(Status::default()))).unwrap();
        assert_eq!((&status["schema"], &status["target"]), (&1.into(), &"vsock:3:1042".into()));
        assert_eq!(status["status"]["phase"], "start");
        let error = QueryError::NotListening { port: 1042 };
        let error = serde_json::to_value(Answer::of(&target, Err(&error))).unwrap();
        assert_eq!(error["error"]["code"], "not-listening");
        assert!(error.get("status").is_none() && status.get("error").is_none());
    }
}
