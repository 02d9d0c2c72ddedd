use std::time::Duration;

use poem_hanko::local_hanko::SESSION_LIFESPAN;
use serde_json::Value;

use crate::support::{ada, assert_problem, header, send, start};

#[tokio::test]
async fn a_bearer_token_opens_the_protected_route() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let response = app.get_with_bearer("/protected", &session.token).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type").as_deref(),
        Some("application/json")
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["message"], "Hello from protected route!");
}

#[tokio::test]
async fn a_cookie_opens_the_protected_route_until_it_expires() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let response = app.get_with_cookie("/protected", &session.token).await;
    assert_eq!(response.status(), 200);
    app.clock
        .advance(SESSION_LIFESPAN + Duration::from_secs(30));
    let response = app.get_with_cookie("/protected", &session.token).await;
    assert_problem(response, 401, "invalid-token").await;
}

#[tokio::test]
async fn no_credentials_are_challenged_with_bearer_alone() {
    let (_local_hanko, app) = start().await;
    let response = send(app.get("/protected")).await;
    assert_eq!(
        header(&response, "www-authenticate").as_deref(),
        Some("Bearer")
    );
    assert_problem(response, 401, "missing-credentials").await;
}
