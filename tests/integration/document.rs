//! The OpenAPI document, and whether the running service conforms to it. The command `openapi` is tested in `cli.rs`.

use std::collections::BTreeSet;

use poem_hanko::DocumentFormat;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::greeting;
use crate::support::{ada, header, send, start, start_with};

/// Headers that need not be in the document: those of HTTP itself, and those that only concern browsers and caches.
const UNDECLARED_HEADERS: [&str; 10] = [
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "content-length",
    "content-type",
    "date",
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
fn document_contains_only_public_routes() {
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
fn operations_declare_bearer_or_cookie_or_that_they_are_public() {
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
        for (status, header) in [("401", "WWW-Authenticate"), ("503", "Retry-After")] {
            let reference = format!("#/components/headers/{header}");
            let expected = json!({ "$ref": reference });
            assert_eq!(responses[status]["headers"][header], expected, "{name}");
        }
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
                json!({ "$ref": "#/components/headers/X-Request-Id" }),
                "{name} {status}"
            );
        }
    }
}

#[test]
fn every_operation_declares_that_it_may_fail() {
    for (name, operation) in operations(&document("hanko")) {
        for status in ["500", "503"] {
            assert!(
                operation["responses"][status].is_object(),
                "{name}: {status}"
            );
        }
    }
}

#[test]
fn every_header_is_one_component_with_an_example() {
    let document = document("hanko");
    let headers = document["components"]["headers"].as_object().unwrap();
    let mut used = BTreeSet::new();
    for (name, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            for (header, reference) in response["headers"].as_object().unwrap() {
                let reference = reference["$ref"].as_str();
                let expected = format!("#/components/headers/{header}");
                assert_eq!(reference, Some(&*expected), "{name} {status}");
                used.insert(header.clone());
            }
        }
    }
    assert_eq!(used, headers.keys().cloned().collect());
    for (name, header) in headers {
        assert!(header["description"].is_string(), "{name}");
        assert!(!header["example"].is_null(), "{name}");
    }
    assert_eq!(headers["Retry-After"]["schema"]["minimum"], 1);
}

#[tokio::test]
async fn the_link_of_the_document_is_the_one_that_is_sent() {
    let (_local_hanko, app) = start().await;
    let sent = header(&send(app.get("/")).await, "link").unwrap();
    assert_eq!(
        document("hanko")["components"]["headers"]["Link"]["example"],
        sent
    );
}

#[test]
fn examples_of_rejections_name_the_configured_cookie() {
    let document = document("sid");
    let examples = |path: &str, status: &str| {
        let operation = document["paths"][path].as_object().unwrap();
        let response = &operation.values().next().unwrap()["responses"][status];
        response["content"]["application/problem+json"]["examples"].clone()
    };
    let of_me = examples("/me", "401");
    let detail = |examples: &Value, slug: &str| examples[slug]["value"]["detail"].clone();
    assert_eq!(
        detail(&of_me, "missing-credentials"),
        "No credentials were sent, neither a Bearer token nor the cookie `sid`."
    );
    assert_eq!(
        detail(&of_me, "invalid-token"),
        "The session has ended. The cookie `sid` was examined."
    );
    assert_eq!(
        detail(&examples("/me", "400"), "ambiguous-credentials"),
        "Several credentials were sent: there is more than one cookie `sid`."
    );
    assert_eq!(
        detail(&examples("/webhooks/hanko", "401"), "invalid-token"),
        "The token is not valid."
    );
}

#[test]
fn webhook_operation_says_nothing_of_sessions_of_clients() {
    let document = document("hanko");
    let responses = &document["paths"]["/webhooks/hanko"]["post"]["responses"];
    for (status, text) in [
        ("400", "The body is not that of a Hanko webhook."),
        ("401", "The token of the webhook is not valid."),
    ] {
        assert_eq!(responses[status]["description"], text);
        assert!(
            !responses[status].to_string().contains("session"),
            "{status}"
        );
    }
    let unavailable = responses["503"]["description"].as_str().unwrap();
    assert!(
        unavailable.contains("neither verified nor held"),
        "{unavailable}"
    );
}

#[test]
fn a_status_of_one_value_is_an_enum() {
    let schemas = &document("hanko")["components"]["schemas"];
    for (schema, value) in [("Liveness", "alive"), ("Readiness", "ready")] {
        let reference = schemas[schema]["properties"]["status"]["$ref"]
            .as_str()
            .unwrap();
        let status = reference.rsplit('/').next().unwrap();
        assert_eq!(schemas[status]["enum"], json!([value]), "{schema}");
    }
}

#[test]
fn request_id_is_described_and_is_no_parameter() {
    let document = document("hanko");
    let description = document["info"]["description"].as_str().unwrap();
    assert!(
        description.contains("in the header `X-Request-Id`"),
        "{description}"
    );
    for (name, operation) in operations(&document) {
        assert!(!operation.contains_key("parameters"), "{name}");
    }
}

#[test]
fn bearer_scheme_says_where_a_token_comes_from() {
    let document = document("hanko");
    let description = document["components"]["securitySchemes"]["bearer"]["description"].as_str();
    assert!(description.unwrap().contains("`hanko.getSessionToken()`"));
}

#[test]
fn bounded_lists_have_their_bound() {
    let document = document("hanko");
    let audience = &document["components"]["schemas"]["SessionView"]["properties"]["audience"];
    assert_eq!(audience["maxItems"], 4096);
}

#[test]
fn timestamps_are_quoted_in_yaml() {
    let document = greeting::app().document("http://localhost:8000", "hanko");
    let yaml = document.unwrap().to_text(DocumentFormat::Yaml);
    for member in ["issued_at", "expires_at"] {
        let line = yaml
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{member}: 2")));
        assert_eq!(line, None, "{member} would be read as a timestamp");
        let is_quoted = ['\'', '"']
            .iter()
            .any(|quote| yaml.contains(&format!("{member}: {quote}2026-")));
        assert!(is_quoted, "{member} has no example");
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
fn schemas_have_formats_and_optional_members_are_not_required() {
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
