//! No token is ever logged, at any level, however it comes in.

use poem_hanko::{
    config::{LogFormat, TelemetryConfig},
    telemetry,
};

use crate::support::{Log, ada, send, start};

/// Asserts that nothing of these tokens is in the log but what every token has in common.
#[track_caller]
fn assert_no_token(log: &str, tokens: &[String]) {
    for token in tokens {
        assert!(!log.contains(token), "a token was logged");
        let mut segments = token.split('.').skip(1);
        let (payload, signature) = (segments.next(), segments.next());
        for segment in [payload, signature].into_iter().flatten() {
            assert!(!log.contains(segment), "a segment was logged: {segment}");
            // Nor its beginning, as where a line is cut.
            assert!(
                !log.contains(&segment[..40]),
                "a segment was logged: {segment}"
            );
        }
    }
}

/// Sends good and bad tokens in every way there is, with everything logged.
async fn assert_tokens_stay_out_of_the_log(format: LogFormat) {
    let log = Log::default();
    let config = TelemetryConfig {
        format,
        filter: "trace".to_owned(),
    };
    // The service, its tasks and the clients all run on this test's thread.
    let _guard = tracing::subscriber::set_default(telemetry::subscriber(&config, log.clone()));
    let (local_hanko, app) = start().await;
    let good = local_hanko.sign_in(&ada()).token;
    let claims = local_hanko.claims_of(&ada());
    let mut tokens = vec![good.clone()];
    let forged = {
        let (signed, signature) = good.rsplit_once('.').expect("three segments");
        format!("{signed}.{}", signature.chars().rev().collect::<String>())
    };
    let mut expired = claims.clone();
    expired.insert("exp".to_owned(), 1.into());
    let mut misshapen = claims.clone();
    misshapen.insert("sub".to_owned(), "hanko webhooks".into());
    tokens.push(local_hanko.sign_claims(&expired));
    tokens.push(local_hanko.sign_claims(&misshapen));
    tokens.push(forged);
    let payload = serde_json::to_vec(&claims).expect("JSON");
    tokens.push(local_hanko.sign_raw(br#"{"alg":"none"}"#, &payload));
    tokens.push(local_hanko.sign_raw(br#"{"alg":"RS256","kid":"unknown"}"#, &payload));
    tokens.push(format!("{good}.{good}"));

    let http_1 = crate::support::client();
    let http_2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    for client in [http_1, http_2] {
        for token in &tokens {
            let expected = if *token == good { 200 } else { 401 };
            for path in ["/protected", "/me"] {
                let bearer = client.get(app.url(path)).bearer_auth(token);
                assert_eq!(send(bearer).await.status(), expected);
                let cookie = format!("theme=dark; hanko={token}");
                let cookie = client.get(app.url(path)).header("cookie", cookie);
                assert_eq!(send(cookie).await.status(), expected);
            }
            let both = client
                .get(app.url("/protected"))
                .header("authorization", format!("Bearer {token}"))
                .header("authorization", format!("Bearer {token}"));
            assert_eq!(send(both).await.status(), 400);
            for path in [
                format!("/{token}"),
                format!("/protected/{token}"),
                format!("/protected?access_token={token}"),
                format!("/docs?token={token}"),
            ] {
                let request = client.get(app.url(&path)).header("referer", app.url(&path));
                send(request).await;
            }
            let id = client.get(app.url("/")).header("x-request-id", token);
            send(id).await;
            let body = client.post(app.url("/webhooks/hanko")).body(token.clone());
            send(body).await;
        }
    }

    let text = log.text();
    assert!(
        text.matches("answered").count() >= 100,
        "everything is logged"
    );
    assert!(text.contains("refused a request"), "everything is logged");
    assert_no_token(&text, &tokens);

    // What was written by the log's own means would have been found.
    tracing::trace!(token = good.split('.').nth(1), "on purpose");
    let text = log.text();
    let found = std::panic::catch_unwind(|| assert_no_token(&text, &tokens));
    assert!(found.is_err(), "this test looks in the right place");
}

#[tokio::test]
async fn no_token_is_logged_as_text() {
    assert_tokens_stay_out_of_the_log(LogFormat::Text).await;
}

#[tokio::test]
async fn no_token_is_logged_as_json() {
    assert_tokens_stay_out_of_the_log(LogFormat::Json).await;
}
