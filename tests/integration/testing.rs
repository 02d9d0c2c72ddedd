//! The local Hanko, as Hanko's frontend SDK and backends see it. `tests/frontend` tests it with the SDK itself, and
//! `recorded` compares it with a real Hanko.

pub(crate) mod receiver;
mod sessions;
mod validations;
mod webhooks;

use std::sync::Arc;

use poem_hanko::{
    Clock, ManualClock,
    testing::{LocalHanko, LocalHankoBuilder},
};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::{START, ada, assert_problem, client, header, send, start};

/// A builder with a clock that the test advances.
fn builder() -> (LocalHankoBuilder, ManualClock) {
    let clock = ManualClock::new(START);
    let builder = LocalHanko::builder().clock(Arc::new(clock.clone()) as Arc<dyn Clock>);
    (builder, clock)
}

/// A local Hanko with default settings, and its clock.
async fn local_hanko() -> (LocalHanko, ManualClock) {
    let (builder, clock) = builder();
    (builder.start().await.unwrap(), clock)
}

/// A validation request by POST.
fn post_validation(local_hanko: &LocalHanko, token: &str) -> RequestBuilder {
    client()
        .post(format!("{}/sessions/validate", local_hanko.url()))
        .json(&json!({ "session_token": token }))
}

/// A validation request by GET.
fn get_validation(local_hanko: &LocalHanko, token: &str) -> RequestBuilder {
    client()
        .get(format!("{}/sessions/validate", local_hanko.url()))
        .bearer_auth(token)
}

#[track_caller]
fn json_of(response: Response, status: u16) -> impl Future<Output = Value> {
    let caller = std::panic::Location::caller();
    async move {
        let actual = response.status();
        let body = response.text().await.unwrap();
        assert_eq!(actual, status, "{caller}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{caller}: {body}: {error}"))
    }
}

/// Whether a session is active at the local Hanko, by a GET, which does not renew the session.
async fn is_active(local_hanko: &LocalHanko, token: &str) -> bool {
    let body = json_of(send(get_validation(local_hanko, token)).await, 200).await;
    body["is_valid"].as_bool().unwrap()
}

#[tokio::test]
async fn only_pages_on_loopback_may_call_with_credentials() {
    let (local_hanko, _app) = start().await;
    let url = format!("{}/sessions/validate", local_hanko.url());
    let from = |request: RequestBuilder, origin: &str| request.header("origin", origin);
    for origin in [
        "http://localhost:3000",
        "http://127.0.0.1:5173",
        "http://[::1]:8080",
    ] {
        let response = send(from(client().get(&url), origin)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "access-control-allow-origin").as_deref(),
            Some(origin)
        );
        assert_eq!(
            header(&response, "access-control-allow-credentials").as_deref(),
            Some("true")
        );
        assert_eq!(header(&response, "vary").as_deref(), Some("Origin"));

        let names = "authorization,content-type,x-language";
        let preflight = client()
            .request(Method::OPTIONS, &url)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", names);
        let response = send(from(preflight, origin)).await;
        assert_eq!(response.status(), 204);
        assert_eq!(
            header(&response, "access-control-allow-headers").as_deref(),
            Some(names)
        );
        assert_eq!(
            header(&response, "access-control-allow-origin").as_deref(),
            Some(origin)
        );
    }
    for origin in [
        "null",
        "https://localhost:3000",
        "http://localhost.evil.example",
        "http://localhost:3000.evil.example",
        "http://evil.example:3000",
        "http://user@localhost:3000",
        "http://localhost:3000/",
        "http://LOCALHOST:3000",
        "https://[::1]:3000",
        "http://[::2]:3000",
        "http://[0:0:0:0:0:0:0:1]:3000",
    ] {
        for method in [Method::GET, Method::OPTIONS] {
            let response = send(from(client().request(method, &url), origin)).await;
            assert_eq!(
                header(&response, "access-control-allow-origin"),
                None,
                "{origin}"
            );
            assert_eq!(header(&response, "vary").as_deref(), Some("Origin"));
        }
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_everywhere() {
    let (local_hanko, app) = start().await;
    local_hanko.send_webhooks_to(app.url("/webhooks/hanko"));
    let logout = || client().post(format!("{}/logout", local_hanko.url()));
    let by_bearer = local_hanko.sign_in(&ada());
    let by_cookie = local_hanko.sign_in(&ada());
    for (session, request) in [
        (&by_bearer, logout().bearer_auth(&by_bearer.token)),
        (
            &by_cookie,
            logout().header("cookie", format!("hanko={}", by_cookie.token)),
        ),
    ] {
        let response = app.get_with_bearer("/protected", &session.token).await;
        assert_eq!(response.status(), 200);
        let response = send(request.try_clone().unwrap()).await;
        assert_eq!(response.status(), 204);
        assert_eq!(
            header(&response, "set-cookie").as_deref(),
            Some("hanko=; Path=/; Max-Age=0; SameSite=Lax")
        );
        let response = app.get_with_bearer("/protected", &session.token).await;
        assert_problem(response, 401, "invalid-token").await;

        let again = send(request).await;
        assert_eq!(again.status(), 401);
        let body: Value = again.json().await.unwrap();
        assert_eq!(body, json!({ "code": 401, "message": "Unauthorized" }));
    }
    assert_eq!(send(logout()).await.status(), 401);
}

#[tokio::test]
async fn a_session_ends_if_its_webhook_is_not_delivered() {
    let (local_hanko, app) = start().await;
    local_hanko.send_webhooks_to(app.url("/nowhere"));
    let session = local_hanko.sign_in(&ada());
    let logout = client()
        .post(format!("{}/logout", local_hanko.url()))
        .bearer_auth(&session.token);
    assert_eq!(send(logout).await.status(), 204);
    assert_eq!(local_hanko.session_data(session.session_id), None);
}
