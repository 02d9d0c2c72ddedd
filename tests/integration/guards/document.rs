//! What the document says about guards, and the order of the checks.

use poem::{EndpointExt, Route, http::StatusCode, test::TestClient};
use poem_hanko::{
    AnyOf, App, Document, Fresh, Guard, HankoAuth, JsonBody, Live, ProblemType, Requirement,
    VerifiedEmail, WithProblems,
};
use poem_openapi::{ApiResponse, Object, OpenApi, OpenApiService, payload::Json};
use serde_json::{Value, json};

use super::{Scene, ada, get, seen};
use crate::support::{Log, listen};

const UPGRADE: ProblemType =
    ProblemType::new("/problems/document-upgrade", 402, "Another plan is needed");

struct Paying;

impl Guard for Paying {
    const REQUIRES: Requirement = Requirement::claim("plan")
        .equals("pro")
        .with_problem(UPGRADE);
}

#[derive(Object)]
struct Note {
    text: String,
}

#[derive(ApiResponse)]
enum Own {
    /// Not today.
    #[oai(status = 403)]
    Forbidden,
}

struct Api;

#[OpenApi]
#[allow(clippy::unused_async, reason = "Poem requires async handlers")]
impl Api {
    /// Read
    ///
    /// As often as you like.
    #[oai(path = "/read", method = "get", operation_id = "read")]
    async fn read(&self, _auth: HankoAuth<VerifiedEmail>) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// Write
    #[oai(path = "/write", method = "post", operation_id = "write")]
    async fn write(
        &self,
        _auth: HankoAuth<(VerifiedEmail, Fresh<60>)>,
        note: Json<Note>,
    ) -> JsonBody<String> {
        JsonBody(note.0.text)
    }

    /// Export
    #[oai(path = "/export", method = "get", operation_id = "export")]
    async fn export(&self, _auth: HankoAuth<(Paying, Live)>) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// Nested
    #[allow(clippy::type_complexity, reason = "it nests")]
    #[oai(path = "/nested", method = "get", operation_id = "nested")]
    async fn nested(
        &self,
        _auth: HankoAuth<(AnyOf<(Paying, VerifiedEmail)>, (), Fresh<60>)>,
    ) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// Sign in again
    #[oai(path = "/again", method = "get", operation_id = "again")]
    async fn again(&self, _auth: HankoAuth<AnyOf<(VerifiedEmail, Fresh<60>)>>) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// Let Hanko decide
    #[oai(path = "/live", method = "get", operation_id = "live")]
    async fn live(&self, _auth: HankoAuth<AnyOf<(Paying, Live)>>) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// With a response of its own
    #[oai(path = "/own", method = "get", operation_id = "own")]
    async fn own(&self, _auth: HankoAuth<VerifiedEmail>) -> Own {
        Own::Forbidden
    }

    /// Without a guard
    #[oai(path = "/plain", method = "get", operation_id = "plain")]
    async fn plain(&self, _auth: HankoAuth) -> JsonBody<u8> {
        JsonBody(1)
    }

    /// In the wrong order
    #[oai(path = "/wrong/:id", method = "post", operation_id = "wrong")]
    async fn wrong(
        &self,
        id: poem_openapi::param::Path<u8>,
        note: Json<Note>,
        _auth: HankoAuth<VerifiedEmail>,
    ) -> JsonBody<String> {
        JsonBody(format!("{}{}", id.0, note.0.text))
    }
}

fn spec(service: &OpenApiService<impl OpenApi, ()>) -> Value {
    serde_json::from_str(&service.spec()).unwrap()
}

#[tokio::test]
async fn guarded_operations_state_what_they_require() {
    let scene = Scene::new().await;
    let service = OpenApiService::new(WithProblems(Api), "guards", "1.0");
    let document = Document::new(&service, &scene.hanko);
    let document = document.as_json();
    let operation = |path: &str, method: &str| &document["paths"][path][method];
    let examples = |path: &str, method: &str, status: &str| {
        let response = &operation(path, method)["responses"][status];
        let examples = response["content"]["application/problem+json"]["examples"].as_object();
        let mut names: Vec<String> = examples
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    };

    let both = json!([{ "bearer": [] }, { "cookie": [] }]);
    for (path, method) in [("/read", "get"), ("/write", "post"), ("/export", "get")] {
        assert_eq!(operation(path, method)["security"], both);
    }
    assert_eq!(
        operation("/read", "get")["description"],
        "As often as you like.\n\nRequires a verified e-mail address."
    );
    assert_eq!(
        operation("/write", "post")["description"],
        "Requires a verified e-mail address, and a sign-in within the last 60 seconds."
    );
    assert_eq!(
        operation("/export", "get")["description"],
        "Requires the claim `plan` to be `pro`, and that Hanko confirms the session now."
    );
    assert_eq!(operation("/plain", "get")["description"], Value::Null);
    assert_eq!(examples("/read", "get", "403"), ["insufficient-permission"]);
    assert_eq!(
        examples("/write", "post", "403"),
        ["cross-site-request", "insufficient-permission"]
    );
    assert_eq!(
        examples("/write", "post", "401"),
        ["invalid-token", "missing-credentials", "sign-in-too-old"]
    );
    assert_eq!(examples("/export", "get", "402"), ["document-upgrade"]);
    assert_eq!(
        operation("/nested", "get")["description"],
        "Requires (the claim `plan` to be `pro`, or a verified e-mail address), and a sign-in within the last 60 seconds."
    );
    // Only what can occur.
    assert!(examples("/again", "get", "401").contains(&"sign-in-too-old".to_owned()));
    assert!(examples("/again", "get", "403").is_empty());
    assert!(examples("/live", "get", "402").is_empty());
    // Beside a response of the handler's own.
    assert_eq!(examples("/own", "get", "403"), ["insufficient-permission"]);
    let own = &operation("/own", "get")["responses"]["403"]["description"];
    assert!(own.as_str().unwrap().starts_with("Not today."));
    assert!(examples("/plain", "get", "403").is_empty());
    let forbidden = &operation("/write", "post")["responses"]["403"];
    assert!(forbidden["headers"]["WWW-Authenticate"].is_object());
}

#[tokio::test]
async fn document_lists_all_problem_types() {
    let scene = Scene::new().await;
    let service = OpenApiService::new(WithProblems(Api), "guards", "1.0");
    let document = Document::new(&service, &scene.hanko);
    let member = &document.as_json()["components"]["schemas"]["Problem"]["properties"]["type"];
    let listed: Vec<&str> = member["x-extensible-enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|uri| uri.as_str().unwrap())
        .collect();
    for known in ProblemType::ALL.iter().chain(&[UPGRADE]) {
        assert!(listed.contains(&known.uri()), "{}", known.uri());
        let line = format!("- `{}`: {}", known.uri(), known.title());
        assert!(member["description"].as_str().unwrap().contains(&line));
    }
    // Only those of this document.
    let other = Document::new(
        &OpenApiService::new(WithProblems(poem_hanko::MeApi), "other", "1.0"),
        &scene.hanko,
    );
    assert!(!other.as_json().to_string().contains(UPGRADE.uri()));
    assert_eq!(member["enum"], Value::Null);
    assert_eq!(member["type"], "string");
}

#[test]
fn without_the_wrapper_no_guard_is_shown() {
    let document = spec(&OpenApiService::new(Api, "guards", "1.0"));
    let operation = &document["paths"]["/read"]["get"];
    assert_eq!(
        operation["security"],
        json!([{ "bearer": [] }, { "cookie": [] }])
    );
    assert_eq!(operation["description"], "As often as you like.");
    let schemes = document["components"]["securitySchemes"]
        .as_object()
        .unwrap();
    assert_eq!(schemes.len(), 2);
}

#[test]
fn a_wrapped_wrapper_states_a_guard_once() {
    let document = spec(&OpenApiService::new(
        WithProblems(WithProblems(Api)),
        "guards",
        "1.0",
    ));
    assert_eq!(
        document["paths"]["/read"]["get"]["description"],
        "As often as you like.\n\nRequires a verified e-mail address."
    );
}

#[tokio::test]
async fn guard_comes_before_the_body() {
    let scene = Scene::new().await;
    let app = App::new(Api, "guards", "1.0").test().await;
    let person = ada().unverified_email("ada@example.com");
    let token = app.sign_in(&person).token;
    let malformed = app
        .client()
        .post("/write")
        .header("authorization", format!("Bearer {token}"))
        .content_type("application/json")
        .body("{")
        .send()
        .await;
    assert_eq!(seen(malformed.0).await.status, 403);
    drop(scene);
}

#[tokio::test]
async fn guard_after_the_body_is_an_error_that_names_the_operation() {
    let log = Log::default();
    let _guard = listen(tracing_subscriber::fmt().with_writer(log.clone()).finish());
    let scene = Scene::new().await;
    let service = OpenApiService::new(WithProblems(Api), "guards", "1.0");
    let client = TestClient::new(Route::new().nest("/api", service).data(scene.hanko.clone()));
    let token = scene.sign_in(&ada()).token;
    let response = client
        .post("/api/wrong/7")
        .header("authorization", format!("Bearer {token}"))
        .body_json(&json!({ "text": "x" }))
        .send()
        .await;
    response.assert_status(StatusCode::INTERNAL_SERVER_ERROR);
    let text = log.text();
    assert!(text.contains("POST /api/wrong/:"), "{text}");
    assert!(text.contains("ERROR"), "{text}");
    assert_eq!(get(&client, "/api/read", &token).await.status, 200);
}
