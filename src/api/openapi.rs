//! `/openapi.json`, from the table of routes and the types that are sent.

use hyper::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    config::Role,
    wire::{
        extents, memory,
        problem::{InStore, Problem, Results},
        records::{Access, Jobs, Mode, Receipt, Recovery, Remains, Shown, Stores, View, Wanted},
    },
};

/// One route, as documented; a test holds it against the router.
#[derive(Debug)]
pub struct Line {
    /// The method.
    pub method: &'static str,
    /// The path, with `{store}` and `{id}`.
    pub path: &'static str,
    /// Whether it takes `?at=LOCATION` in place of an id.
    pub at: bool,
    /// The least role.
    pub role: Option<Role>,
    /// What it does.
    pub summary: &'static str,
    /// The status of success.
    pub status: &'static str,
    /// What comes back.
    pub answer: Answer,
}

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// An image's bytes.
    Bytes,
    /// Text, of this media type.
    Text(&'static str),
    /// JSON of this schema.
    Json(&'static str),
}

const STORE: &str = "/v1/stores/{store}";
const IMAGES: &str = "/v1/stores/{store}/images";
const IMAGE: &str = "/v1/stores/{store}/images/{id}";
const ACL: &str = "/v1/stores/{store}/images/{id}/acl";
const RECOVER: &str = "/v1/stores/{store}/images/{id}/recover";
const ACL_AT: &str = "/v1/stores/{store}/acl";
const TO_ALL: &str = "/v1/images/{id}";

#[rustfmt::skip]
/// Every route.
pub const ROUTES: &[Line] = &[
    Line { method: "GET", path: "/v1/stores", at: false, role: Some(Role::Reader), status: "200",
        summary: "every store, with its state", answer: Answer::Json("Stores") },
    Line { method: "GET", path: STORE, at: false, role: Some(Role::Reader), status: "200",
        summary: "one store, with its capacity", answer: Answer::Json("Store") },
    Line { method: "GET", path: IMAGES, at: false, role: Some(Role::Reader), status: "200",
        summary: "its images, a JSON object a line", answer: Answer::Text("application/x-ndjson") },
    Line { method: "GET", path: IMAGES, at: true, role: Some(Role::Service), status: "200",
        summary: "the bytes of the image at a location; without `at`, the list of images", answer: Answer::Bytes },
    Line { method: "HEAD", path: IMAGES, at: true, role: Some(Role::Reader), status: "200",
        summary: "size and digests of the image at a location", answer: Answer::Nothing },
    Line { method: "DELETE", path: IMAGES, at: true, role: Some(Role::Admin), status: "204",
        summary: "removes the image at a location; with the role service one that the caller has had made of a volume", answer: Answer::Nothing },
    Line { method: "PUT", path: IMAGE, at: false, role: Some(Role::Member), status: "201",
        summary: "stores the body as an image; `hash_algo` chooses the multihash; with `Imaged-Body: fd` the bytes come by descriptor", answer: Answer::Json("Receipt") },
    Line { method: "GET", path: IMAGE, at: false, role: Some(Role::Service), status: "200",
        summary: "the bytes, or one `Range` of them (206); with `Imaged-Accept: fd` perhaps a descriptor, with `memory` or `extents` perhaps records of what it holds", answer: Answer::Bytes },
    Line { method: "HEAD", path: IMAGE, at: false, role: Some(Role::Reader), status: "200",
        summary: "size and digests", answer: Answer::Nothing },
    Line { method: "DELETE", path: IMAGE, at: false, role: Some(Role::Admin), status: "204",
        summary: "removes an image; with the role service one that the caller has had made of a volume", answer: Answer::Nothing },
    Line { method: "POST", path: IMAGE, at: false, role: Some(Role::Service), status: "201",
        summary: "makes the image from a source; from a location it takes the role member", answer: Answer::Json("Receipt") },
    Line { method: "POST", path: RECOVER, at: false, role: Some(Role::Admin), status: "200",
        summary: "clears away what an upload has left whose daemon is gone for good; in stores that can tell (rbd). A whole image stays, and what a living daemon writes is 409", answer: Answer::Json("Recovery") },
    Line { method: "PUT", path: ACL, at: false, role: Some(Role::Admin), status: "204",
        summary: "lets the projects of the body and nobody else reach the image at its backend, beside its owner; in stores that know owners", answer: Answer::Nothing },
    Line { method: "PUT", path: ACL_AT, at: true, role: Some(Role::Admin), status: "204",
        summary: "the same for the image at a location", answer: Answer::Nothing },
    Line { method: "PUT", path: TO_ALL, at: false, role: Some(Role::Member), status: "201",
        summary: "stores the body as an image in each of `stores`, names with commas between, in one pass; with `all_or_none` in all of them or in none", answer: Answer::Json("Results") },
    Line { method: "POST", path: TO_ALL, at: false, role: Some(Role::Service), status: "201",
        summary: "makes the image from a source in each of `stores` of the body, in one pass; with `all_or_none` in all of them or in none; from a location it takes the role member", answer: Answer::Json("Results") },
    Line { method: "GET", path: "/v1/jobs", at: false, role: Some(Role::Reader), status: "200",
        summary: "background work", answer: Answer::Json("Jobs") },
    Line { method: "GET", path: "/v1/jobs/{id}", at: false, role: Some(Role::Reader), status: "200",
        summary: "one job; `wait` waits so many seconds for its end, 60 at most", answer: Answer::Json("View") },
    Line { method: "DELETE", path: "/v1/jobs/{id}", at: false, role: Some(Role::Member), status: "204",
        summary: "ends a job; with the role service one of an image that the caller has had made of a volume", answer: Answer::Nothing },
    Line { method: "GET", path: "/healthz", at: false, role: None, status: "200",
        summary: "the daemon lives", answer: Answer::Json("Status") },
    Line { method: "GET", path: "/readyz", at: false, role: None, status: "200",
        summary: "at least the default store is up", answer: Answer::Json("Status") },
    Line { method: "GET", path: "/metrics", at: false, role: Some(Role::Reader), status: "200",
        summary: "what Prometheus reads", answer: Answer::Text("application/openmetrics-text") },
    Line { method: "GET", path: "/openapi.json", at: false, role: None, status: "200",
        summary: "this document", answer: Answer::Json("Document") },
];

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for line in ROUTES {
        let path = paths.entry(line.path).or_insert_with(|| json!({}));
        // GET .../images is the list, or with `at` an image: one operation, the fuller text.
        if let Some(path) = path.as_object_mut() {
            path.insert(line.method.to_lowercase(), operation(line));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "imaged",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0"},
            "description": "HTTP/1.1 on a unix socket. A GET that fails after its head is cut \
                            short of Content-Length, or of its last chunk: a short body is the error.",
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

fn operation(line: &Line) -> Value {
    let mut parameters = Vec::new();
    for name in ["store", "id"] {
        if line.path.contains(&format!("{{{name}}}")) {
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "schema": {"type": "string"},
            }));
        }
    }
    let mut query = |name: &str, kind: &str| {
        parameters.push(json!({"name": name, "in": "query", "schema": {"type": kind}}));
    };
    match (line.method, line.path) {
        (_, IMAGES | ACL_AT) => query("at", "string"),
        (_, ACL) => {}
        ("PUT", path) => {
            if path == TO_ALL {
                query("stores", "string");
                query("all_or_none", "boolean");
            }
            query("hash_algo", "string");
        }
        ("GET", "/v1/jobs/{id}") => query("wait", "integer"),
        _ => {}
    }
    let success = match line.answer {
        Answer::Nothing => json!({"description": "done"}),
        Answer::Bytes => image(),
        Answer::Text(kind) => content(kind, &json!({"type": "string"})),
        Answer::Json(name) => content("application/json", &reference(name)),
    };
    let problem = content("application/problem+json", &reference("Problem"));
    let mut operation = json!({
        "summary": line.summary,
        "description": match line.role {
            Some(role) => format!("Needs the role {role}."),
            None => "Needs no role.".to_owned(),
        },
        "parameters": parameters,
        "responses": {line.status: success, "default": problem},
    });
    if line.path == TO_ALL
        && let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut)
    {
        let mut some = content("application/json", &reference("Results"));
        if let Some(some) = some.as_object_mut() {
            some.insert("description".to_owned(), "some of the stores have it".into());
        }
        responses.insert(StatusCode::MULTI_STATUS.as_str().to_owned(), some);
    }
    let body = match line.method {
        "PUT" if matches!(line.path, ACL | ACL_AT) => {
            Some(content("application/json", &reference("Access")))
        }
        "PUT" => Some(content("application/octet-stream", &binary())),
        "POST" if line.path == RECOVER => None,
        "POST" => Some(content("application/json", &reference("Wanted"))),
        _ => None,
    };
    if let (Some(body), Some(operation)) = (body, operation.as_object_mut()) {
        operation.insert("requestBody".to_owned(), body);
    }
    operation
}

/// An image, in either of two forms.
fn image() -> Value {
    let mut image = content("application/octet-stream", &binary());
    let mut extents = binary();
    if let Some(extents) = extents.as_object_mut() {
        let text = "To who sends `Imaged-Accept: extents`, of an image that may have holes: records, each \
                    of two unsigned numbers of 64 bits, the most significant byte first, an offset in the \
                    image and a length, and of so many bytes. They come in the order of their offsets \
                    and do not overlap; what is left out reads as zeros. The last has the length 0, and \
                    the offset at which the image, or the range that was asked for, ends: a body without \
                    it is not whole. `Imaged-Size` has the size of the image; `ETag` and `Repr-Digest` \
                    are those of its bytes.";
        extents.insert("description".to_owned(), text.into());
    }
    let mut through = binary();
    if let Some(through) = through.as_object_mut() {
        let text = "To who sends `Imaged-Accept: memory`, of an image of 4 MiB or more, while there is memory \
                    for it: the records of extents without their bytes, each with a third number, where in \
                    memory that is passed with the head the bytes are. Two descriptors come: of the memory, a \
                    memfd of 5 slots of 4 MiB whose length is sealed, for reading alone, and of the writing end \
                    of a pipe. A record's bytes are within a slot. When they have been read they are given \
                    back, by writing the slot's number, 0 to 4, as one byte to the pipe, once for each record. \
                    The last record comes when all have been given back; what was read before is the image's \
                    only if it does.";
        through.insert("description".to_owned(), text.into());
    }
    if let Some(content) = image.get_mut("content").and_then(Value::as_object_mut) {
        content.insert(extents::MEDIA_TYPE.to_owned(), json!({"schema": extents}));
        content.insert(memory::MEDIA_TYPE.to_owned(), json!({"schema": through}));
    }
    image
}

fn binary() -> Value {
    json!({"type": "string", "format": "binary"})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn content(kind: &str, schema: &Value) -> Value {
    json!({"description": "done", "content": {kind: {"schema": schema}}})
}

fn schemas() -> Value {
    let mut found = Vec::new();
    let mut all = Map::new();
    let mut add = |name: &str, schema: utoipa::openapi::RefOr<utoipa::openapi::Schema>| {
        all.insert(name.to_owned(), serde_json::to_value(schema).unwrap_or_default());
    };
    add("Receipt", Receipt::schema());
    add("Problem", Problem::schema());
    add("Results", Results::schema());
    add("InStore", InStore::schema());
    add("Stores", Stores::schema());
    add("Store", Shown::schema());
    add("Jobs", Jobs::schema());
    add("View", View::schema());
    add("Wanted", Wanted::schema());
    add("Access", Access::schema());
    add("Recovery", Recovery::schema());
    add("Remains", Remains::schema());
    add("Mode", Mode::schema());
    Stores::schemas(&mut found);
    Jobs::schemas(&mut found);
    Wanted::schemas(&mut found);
    for (name, schema) in found {
        add(&name, schema);
    }
    for name in ["Status", "Document"] {
        all.insert(name.to_owned(), json!({"type": "object"}));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_in_the_document_is_defined() {
        let document = document();
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        assert!(document["paths"][IMAGE]["put"]["requestBody"].is_object());
    }
}
