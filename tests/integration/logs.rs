//! The log at its default level, which clients cannot flood.

use std::time::Duration;

use poem_hanko::{LogFormat, TelemetryConfig, flush_log, install_log, log_subscriber};
use reqwest::Method;
use serde_json::json;
use tracing::subscriber::DefaultGuard;

use crate::support::{App, Log, ada, listen, send, start, start_with, within};

/// Captures this thread's log at a level, in the format of the program.
fn log_at(filter: &str) -> (Log, DefaultGuard) {
    let log = Log::default();
    let config = TelemetryConfig {
        format: LogFormat::Text,
        filter: filter.to_owned(),
    };
    let guard = listen(log_subscriber(&config, log.maker()));
    (log, guard)
}

/// The lines that contain all of these.
fn lines(log: &Log, parts: &[&str]) -> Vec<String> {
    log.text()
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .map(ToOwned::to_owned)
        .collect()
}

/// Lets the tasks of the service run until the line has been logged.
async fn until_logged(log: &Log, parts: &[&str]) -> String {
    within(async {
        loop {
            if let Some(line) = lines(log, parts).pop() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn rejected(app: &App, token: &str, count: usize) {
    for _ in 0..count {
        let response = app.get_with_bearer("/protected", token).await;
        assert_eq!(response.status(), 401);
    }
}

#[tokio::test]
async fn wrong_audience_is_visible_at_info() {
    let (log, _guard) = log_at("info");
    let (local_hanko, app) = start_with(&[("HANKO_AUDIENCE", "another.example")]).await;
    rejected(&app, &local_hanko.sign_in(&ada()).token, 1).await;
    let found = lines(&log, &["INFO", "rejected a request", "another audience"]);
    assert_eq!(found.len(), 1, "{}", log.text());
    let response = send(app.get("/protected")).await;
    assert_eq!(response.status(), 401);
    let found = lines(&log, &["INFO", "rejected a request", "no credentials"]);
    assert_eq!(found.len(), 1, "{}", log.text());
}

#[tokio::test]
async fn rejected_webhook_is_a_warning() {
    let (log, _guard) = log_at("info");
    let (_local_hanko, app) = start().await;
    for (body, reason) in [
        (json!({ "token": "x", "event": "user" }), "compact JWS"),
        (json!([]), "not that of a Hanko webhook"),
    ] {
        let request = app.request(Method::POST, "/webhooks/hanko").json(&body);
        assert!(send(request).await.status().is_client_error());
        let found = lines(&log, &["WARN", "rejected a webhook", reason]);
        assert_eq!(found.len(), 1, "{}", log.text());
    }
}

#[tokio::test]
async fn flood_of_rejections_is_counted() {
    let (log, _guard) = log_at("info");
    let (_local_hanko, app) = start().await;
    rejected(&app, "flood", 60).await;
    // Another reason is still logged.
    rejected(&app, "eyJhbGciOiJub25lIn0.e30.AA", 1).await;
    let flood = ["rejected a request", "compact JWS"];
    assert_eq!(lines(&log, &flood).len(), 10, "{}", log.text());
    assert_eq!(lines(&log, &["rejected a request", "algorithm"]).len(), 1);
    assert!(lines(&log, &["count="]).is_empty());

    // At the end of the interval, whether or not the flood continues.
    app.clock.advance(Duration::from_mins(1));
    let line = until_logged(&log, &["rejected more requests", "not-compact"]).await;
    assert!(line.contains("INFO") && line.contains("count=50"), "{line}");
    rejected(&app, "flood", 20).await;
    assert_eq!(lines(&log, &flood).len(), 20);
    app.clock.advance(Duration::from_mins(1));
    until_logged(&log, &["rejected more requests", "count=10"]).await;
    assert_eq!(lines(&log, &["count="]).len(), 2, "{}", log.text());
}

#[test]
fn connections_log_no_warning_of_a_library() {
    let (log, guard) = log_at("info");
    for _ in 0..3 {
        tracing::warn!(target: "h2::proto::streams", "a stream was reset");
        tracing::warn!(target: "hyper::proto::h2", "a header is illegal");
        tracing::error!(target: "h2::proto::streams", "this is worth a line");
    }
    assert!(lines(&log, &["WARN"]).is_empty(), "{}", log.text());
    assert_eq!(lines(&log, &["ERROR"]).len(), 3);
    drop(guard);
    let (log, _guard) = log_at("info,h2=warn");
    tracing::warn!(target: "h2::proto::streams", "a stream was reset");
    assert_eq!(lines(&log, &["WARN"]).len(), 1);
}

/// Run by [`panic_is_a_line_of_the_log`] in another process, since the log can be installed only once per process.
#[test]
#[ignore = "installs the log of the process"]
fn panics() {
    let config = TelemetryConfig {
        format: LogFormat::Json,
        // A panic is reported all the same.
        filter: "off".to_owned(),
    };
    install_log(&config).unwrap();
    for _ in 0..30 {
        let panicked = std::panic::catch_unwind(|| panic!("found \"eyJhbGciOiJub25lIn0.e30.AA\""));
        assert!(panicked.is_err());
    }
    flush_log();
}

#[test]
fn panic_is_a_line_of_the_log() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logs::panics", "--ignored"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    // As many as a client may cause in a minute.
    assert_eq!(log.lines().count(), 10, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let message = line["message"].as_str().unwrap();
        assert!(
            message.starts_with("panicked at tests/integration/logs.rs:"),
            "{message}"
        );
        assert!(message.contains("found \"[token]\""), "{message}");
        assert_eq!(line["level"], "ERROR");
    }
}
