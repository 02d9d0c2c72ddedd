//! The OpenAPI document, and whether the live service keeps to it. The command `openapi` is tested in `cli.rs`.

use std::collections::BTreeSet;

use poem_hanko::DocumentFormat;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::greeting;
use crate::support::{ada, send, start, start_with};

/// Headers that need no word in the document: those of HTTP itself, what concerns browsers and caches alone, and the `Link` that
/// leads to the document.
const UNDECLARED_HEADERS: [&str; 11] = [
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-length",
    "content-type",
    "date",
    "link",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
];

fn document(cookie_name: &str) -> Value {
    let document = greeting::app().document("http://localhost:8000", cookie_name);
    document.unwrap().as_json().clone()
}

/// Each operation as `GET /path`.
fn operations(document: &Value) -> Vec<(String, Map<String, Value>)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{} {path}", method.to_uppercase());
            operations.push((name, operation.as_object().unwrap().clone()));
        }
    }
    operations
}

fn is_secured(operation: &Map<String, Value>) -> bool {
    operation["security"] != json!([])
}

#[test]
fn the_exported_files_are_what_the_source_generates() {
    let document = greeting::app().document("http://localhost:8000", "hanko");
    let document = document.unwrap();
    for (exported, format) in [
        (
            include_str!("../../openapi/openapi.json"),
            DocumentFormat::Json,
        ),
        (
            include_str!("../../openapi/openapi.yaml"),
            DocumentFormat::Yaml,
        ),
    ] {
        assert!(
            exported == document.to_text(format),
            "{format:?}: `cargo run -- openapi --output openapi` writes it anew"
        );
    }
}

#[test]
fn only_what_is_public_is_in_it() {
    let names: Vec<String> = operations(&document("hanko"))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            "GET /",
            "GET /protected",
            "GET /verified",
            "GET /me",
            "POST /webhooks/hanko",
            "GET /livez",
            "GET /readyz",
        ]
    );
}

#[test]
fn every_operation_is_named_summed_up_and_tagged() {
    let document = document("hanko");
    let described_tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|tag| tag["description"].is_string())
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(ids.insert(id), "{name}: its id is taken");
        assert!(operation["summary"].is_string(), "{name}");
        let tags = operation["tags"].as_array().unwrap();
        assert_eq!(tags.len(), 1, "{name}");
        assert!(described_tags.contains(tags[0].as_str().unwrap()), "{name}");
    }
}

#[test]
fn security_is_bearer_or_else_the_cookie_and_public_operations_say_that_they_are() {
    for (name, operation) in operations(&document("hanko")) {
        let expected = match name.as_str() {
            "GET /protected" | "GET /verified" | "GET /me" => {
                json!([{ "bearer": [] }, { "cookie": [] }])
            }
            _ => json!([]),
        };
        assert_eq!(operation["security"], expected, "{name}");
    }
}

#[test]
fn secured_operations_declare_every_refusal() {
    for (name, operation) in operations(&document("hanko")) {
        if !is_secured(&operation) {
            continue;
        }
        let responses = &operation["responses"];
        for status in ["400", "401", "500", "503"] {
            assert!(responses[status].is_object(), "{name}: {status}");
        }
        assert!(responses["401"]["headers"]["WWW-Authenticate"].is_object());
        assert_eq!(responses["503"]["headers"]["Retry-After"]["required"], true);
    }
}

#[test]
fn responses_have_the_style_that_all_generators_take() {
    let document = document("hanko");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.0."));
    for (name, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        // One type for success: several statuses may share it.
        let successes: std::collections::HashSet<String> = responses
            .iter()
            .filter(|(status, _)| status.starts_with('2'))
            .map(|(_, response)| response["content"].to_string())
            .collect();
        assert_eq!(successes.len(), 1, "{name}");
        for (status, response) in responses {
            let media_types: Vec<&str> = response["content"]
                .as_object()
                .into_iter()
                .flat_map(|content| content.keys().map(String::as_str))
                .collect();
            match status.as_str() {
                "200" => assert_eq!(media_types, ["application/json"], "{name}"),
                "202" | "204" => assert!(response.get("content").is_none(), "{name}"),
                "default" => panic!("{name} has a default response"),
                _ => {
                    assert_eq!(media_types, ["application/problem+json"], "{name} {status}");
                    let content = &response["content"]["application/problem+json"];
                    let examples = content["examples"].as_object().unwrap();
                    assert!(!examples.is_empty(), "{name} {status}");
                    for example in examples.values() {
                        let status: u16 = status.parse().unwrap();
                        assert_eq!(example["value"]["status"], status, "{name}");
                    }
                }
            }
            assert_eq!(
                response["headers"]["X-Request-Id"],
                json!({ "$ref": "#/components/headers/RequestId" }),
                "{name} {status}"
            );
        }
    }
}

#[test]
fn every_body_of_a_success_has_an_example() {
    let document = document("hanko");
    for (name, operation) in operations(&document) {
        let content = &operation["responses"]["200"]["content"]["application/json"];
        if let Some(reference) = content["schema"]["$ref"].as_str() {
            let schema = document.pointer(&reference[1..]).unwrap();
            assert!(schema["example"].is_object(), "{name}");
        }
    }
}

#[test]
fn ids_times_and_addresses_have_formats_and_what_may_be_absent_is_not_required() {
    let schema = &document("hanko")["components"]["schemas"]["SessionView"];
    let properties = &schema["properties"];
    for (name, format) in [
        ("user_id", "uuid"),
        ("session_id", "uuid"),
        ("issued_at", "date-time"),
        ("expires_at", "date-time"),
    ] {
        assert_eq!(properties[name]["format"], format, "{name}");
    }
    assert_eq!(
        schema["required"],
        json!(["user_id", "session_id", "expires_at", "audience", "claims"])
    );
    assert!(!schema.to_string().contains("nullable"));
}

#[tokio::test]
async fn the_cookie_scheme_has_the_configured_name() {
    assert_eq!(
        document("session")["components"]["securitySchemes"]["cookie"]["name"],
        "session"
    );
    let (_local_hanko, app) = start_with(&[("HANKO_COOKIE_NAME", "session")]).await;
    let response = send(app.get("/openapi.json")).await;
    let served: Value = response.json().await.unwrap();
    assert_eq!(
        served["components"]["securitySchemes"]["cookie"]["name"],
        "session"
    );
}

#[tokio::test]
async fn every_header_that_is_sent_is_declared() {
    let (local_hanko, app) = start_with(&[("CORS_ALLOWED_ORIGINS", "http://localhost:3000")]).await;
    let document = document("hanko");
    let session = local_hanko.sign_in(&ada());
    for (name, operation) in operations(&document) {
        let (method, path) = name.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let request = || {
            app.request(method.clone(), path)
                .header("origin", "http://localhost:3000")
        };
        for request in [
            request(),
            request().bearer_auth(&session.token),
            request().bearer_auth("not.a.token"),
            request()
                .bearer_auth("one")
                .header("authorization", "Bearer two"),
            request().json(&json!({ "token": "not.a.token", "event": "user" })),
            request().json(&json!([])),
        ] {
            let response = send(request).await;
            let status = response.status().as_u16().to_string();
            let declared = &operation["responses"][&status];
            assert!(declared.is_object(), "{name}: {status} is not declared");
            let declared: BTreeSet<String> = declared["headers"]
                .as_object()
                .unwrap()
                .keys()
                .map(|header| header.to_lowercase())
                .collect();
            for header in response.headers().keys() {
                assert!(
                    declared.contains(header.as_str())
                        || UNDECLARED_HEADERS.contains(&header.as_str()),
                    "{name}: {status} has an undeclared {header}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_refused_with_allow() {
    let (_local_hanko, app) = start().await;
    for method in ["QUERY", "CONNECTED", "TRACE"] {
        let method: Method = method.parse().unwrap();
        let response = send(app.request(method, "/protected")).await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
}
