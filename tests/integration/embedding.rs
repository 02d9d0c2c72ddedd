//! The crate in an existing Poem app.

#![allow(
    clippy::unused_async,
    reason = "Poem wants async handlers, whether they wait or not"
)]

use std::sync::Arc;

use poem::{Endpoint, EndpointExt, IntoResponse, Request, Route, get, handler, http::StatusCode};
use poem_hanko::{
    Hanko, HankoAuth, ManualClock, OptionalHankoAuth, WithProblems, require, testing::LocalHanko,
};
use poem_openapi::{OpenApi, OpenApiService, payload::PlainText};

use crate::support::{START, ada, local_hanko};

struct Api;

#[OpenApi]
impl Api {
    #[oai(path = "/who", method = "get", operation_id = "getWho")]
    async fn who(&self, auth: OptionalHankoAuth) -> PlainText<String> {
        PlainText(auth.session().map_or_else(
            || "nobody".to_owned(),
            |session| session.user_id().to_string(),
        ))
    }

    #[oai(path = "/mine", method = "post", operation_id = "postMine")]
    async fn mine(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }
}

async fn app() -> (LocalHanko, impl Endpoint<Output: IntoResponse>) {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let hanko = Hanko::builder(local_hanko.hanko_url())
        .clock(Arc::new(clock))
        .trusted_origins(["https://app.example".to_owned()])
        .build()
        .unwrap();
    let service = OpenApiService::new(WithProblems(Api), "embedding", "1.0");
    (
        local_hanko,
        Route::new()
            .at("/plain", get(plain))
            .nest("/", service)
            .data(hanko),
    )
}

#[handler]
async fn plain(request: &Request) -> poem::Result<String> {
    let session = require::<()>(request).await?;
    Ok(session.user_id().to_string())
}

async fn answer(
    app: &impl Endpoint<Output: IntoResponse>,
    request: Request,
) -> (StatusCode, String) {
    let response = app.get_response(request).await;
    let status = response.status();
    (status, response.into_body().into_string().await.unwrap())
}

#[tokio::test]
async fn optional_authentication_accepts_only_absent_credentials() {
    let (local_hanko, app) = app().await;
    let person = ada();
    let token = local_hanko.sign_in(&person).token;
    let who = |name: &'static str, value: String| {
        Request::builder()
            .uri_str("/who")
            .header(name, value)
            .finish()
    };
    let anonymous = Request::builder().uri_str("/who").finish();
    assert_eq!(
        answer(&app, anonymous).await,
        (StatusCode::OK, "nobody".to_owned())
    );
    let bearer = who("authorization", format!("Bearer {token}"));
    assert_eq!(
        answer(&app, bearer).await,
        (StatusCode::OK, person.id().to_string())
    );
    let bad_bearer = who("authorization", "Bearer x".to_owned());
    assert_eq!(answer(&app, bad_bearer).await.0, StatusCode::UNAUTHORIZED);
    let bad_cookie = who("cookie", "hanko=x".to_owned());
    assert_eq!(answer(&app, bad_cookie).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn plain_poem_handlers_can_authenticate_too() {
    let (local_hanko, app) = app().await;
    let person = ada();
    let token = local_hanko.sign_in(&person).token;
    let request = Request::builder()
        .uri_str("/plain")
        .header("authorization", format!("bearer {token}"))
        .finish();
    assert_eq!(
        answer(&app, request).await,
        (StatusCode::OK, person.id().to_string())
    );
    let request = Request::builder().uri_str("/plain").finish();
    assert_eq!(answer(&app, request).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn only_cookies_need_a_trusted_page_for_unsafe_methods() {
    let (local_hanko, app) = app().await;
    let token = local_hanko.sign_in(&ada()).token;
    let post = |credential: &'static str, headers: &[(&'static str, &'static str)]| {
        let value = match credential {
            "cookie" => format!("hanko={token}"),
            _ => format!("Bearer {token}"),
        };
        let mut request = Request::builder()
            .method(poem::http::Method::POST)
            .uri_str("/mine")
            .header(credential, value);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.finish()
    };
    for (status, headers) in [
        (StatusCode::OK, &[][..]),
        (StatusCode::OK, &[("sec-fetch-site", "same-origin")]),
        (
            StatusCode::OK,
            &[
                ("origin", "https://app.example"),
                ("sec-fetch-site", "cross-site"),
            ],
        ),
        (StatusCode::FORBIDDEN, &[("sec-fetch-site", "cross-site")]),
        (StatusCode::FORBIDDEN, &[("sec-fetch-site", "same-site")]),
        (StatusCode::FORBIDDEN, &[("origin", "https://evil.example")]),
        (StatusCode::FORBIDDEN, &[("origin", "null")]),
    ] {
        assert_eq!(
            answer(&app, post("cookie", headers)).await.0,
            status,
            "{headers:?}"
        );
        assert_eq!(
            answer(&app, post("authorization", headers)).await.0,
            StatusCode::OK,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn routes_without_hanko_fail_closed() {
    let service = OpenApiService::new(WithProblems(Api), "embedding", "1.0");
    let app = Route::new().nest("/", service);
    let request = Request::builder().uri_str("/who").finish();
    assert_eq!(
        answer(&app, request).await.0,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[test]
fn optional_authentication_has_an_empty_alternative() {
    let service = OpenApiService::new(WithProblems(Api), "embedding", "1.0");
    let document: serde_json::Value = serde_json::from_str(&service.spec()).unwrap();
    assert_eq!(
        document["paths"]["/who"]["get"]["security"],
        serde_json::json!([{ "bearer": [] }, { "cookie": [] }, {}])
    );
    assert_eq!(
        document["paths"]["/mine"]["post"]["security"],
        serde_json::json!([{ "bearer": [] }, { "cookie": [] }])
    );
    assert!(document["paths"]["/mine"]["post"]["responses"]["403"].is_object());
}
