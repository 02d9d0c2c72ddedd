//! Calls the running service with the client that progenitor generates when this is compiled.

use std::env;

use progenitor::progenitor_client::{Error, ResponseValue};
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};

/// The generated client. progenitor gives a type to `application/json` only, so `tests/clients/run` has replaced
/// `application/problem+json` by that; the client decodes a body whatever its media type.
mod client {
    progenitor::generate_api!(
        spec = "../../../target/clients/openapi-for-progenitor.json",
        interface = Positional
    );
}

use client::{Client, types::Problem};

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Returns a client that sends this header with every request.
fn client(header: Option<(HeaderName, &str)>) -> Client {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, value.parse().expect("a header value"));
    }
    let http = reqwest::Client::builder()
        .default_headers(headers)
        .no_proxy()
        .build()
        .expect("an HTTP client");
    Client::new_with_client(&variable("API"), http)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(
    result: Result<ResponseValue<T>, Error<Problem>>,
    status: u16,
    slug: &str,
) {
    match result {
        Err(Error::ErrorResponse(response)) => {
            assert_eq!(response.status(), status);
            assert!(response.headers().contains_key("www-authenticate"));
            let problem: Problem = response.into_inner();
            assert_eq!(problem.type_, format!("/problems/{slug}"));
            assert_eq!(problem.status, status);
        }
        other => panic!("not a typed problem: {other:?}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error<Problem>> {
    let bearer = format!("Bearer {}", variable("TOKEN"));
    let cookie = variable("COOKIE");
    let anonymous = client(None);
    let bearer = client(Some((AUTHORIZATION, &bearer)));
    let with_cookie = client(Some((COOKIE, &cookie)));
    let bad = client(Some((AUTHORIZATION, "Bearer not.a.token")));

    // Eight calls, one check each; the first that fails ends the program.
    let greeting = anonymous
        .get_greeting()
        .await
        .expect("/ needs no credentials");
    assert_eq!(greeting.message, "Poem x Hanko!");
    let greeting = bearer.get_protected_greeting().await?;
    assert_eq!(greeting.message, "Hello from protected route!");
    let session = bearer.get_me().await?;
    let email = session.email.as_ref().expect("an e-mail address");
    assert_eq!(email.address, "ada@example.com");
    assert_eq!(session.username, None);
    assert!(session.expires_at > chrono::Utc::now());
    let greeting = with_cookie.get_protected_greeting().await?;
    assert_eq!(greeting.message, "Hello from protected route!");
    let session = with_cookie.get_me().await?;
    assert_eq!(session.username.as_deref(), Some("grace"));
    assert_refused(anonymous.get_me().await, 401, "missing-credentials");
    assert_refused(bad.get_protected_greeting().await, 401, "invalid-token");
    let guest = format!("Bearer {}", variable("UNVERIFIED"));
    let guest = client(Some((AUTHORIZATION, &guest)));
    assert_refused(
        guest.get_verified_greeting().await,
        403,
        "insufficient-permission",
    );
    println!("progenitor: 8 checks passed");
    Ok(())
}
