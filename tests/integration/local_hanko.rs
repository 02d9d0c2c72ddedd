//! What Hanko's frontend SDK asks of the local Hanko. That the SDK itself is content is tested in `tests/frontend`.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{ada, assert_problem, client, header, send, start};

#[tokio::test]
async fn pages_on_loopback_may_call_with_credentials_and_no_others() {
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
async fn a_session_ends_also_where_nobody_hears_the_webhook() {
    let (local_hanko, app) = start().await;
    local_hanko.send_webhooks_to(app.url("/nowhere"));
    let session = local_hanko.sign_in(&ada());
    let logout = client()
        .post(format!("{}/logout", local_hanko.url()))
        .bearer_auth(&session.token);
    assert_eq!(send(logout).await.status(), 204);
    assert_eq!(local_hanko.session_data(session.session_id), None);
}
