//! Swagger UI and the served document: small, cached by browsers, and strict about scripts. Their behaviour in a browser is
//! tested in `tests/browser`.

use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::{App, header, send, start, start_with};

const REVALIDATED: [&str; 3] = ["/docs", "/openapi.json", "/openapi.yaml"];

/// The paths of the files that the page loads, as written in the page.
async fn assets(app: &App) -> Vec<String> {
    let page = text(app, "/docs").await;
    let assets: Vec<String> = page
        .split('"')
        .filter(|value| value.starts_with("docs/"))
        .map(|value| format!("/{value}"))
        .collect();
    assert_eq!(assets.len(), 3, "{page}");
    assets
}

async fn all_paths(app: &App) -> Vec<String> {
    let mut paths = assets(app).await;
    paths.extend(REVALIDATED.map(str::to_owned));
    paths
}

async fn text(app: &App, path: &str) -> String {
    let response = send(app.get(path)).await;
    assert_eq!(response.status(), 200, "{path}");
    response.text().await.unwrap()
}

async fn get_with(app: &App, path: &str, name: &str, value: &str) -> Response {
    send(app.get(path).header(name, value)).await
}

#[tokio::test]
async fn gzip_response_has_the_same_content() {
    let (_local_hanko, app) = start().await;
    for path in all_paths(&app).await {
        let plain = send(app.get(&path)).await;
        let compressed = get_with(&app, &path, "accept-encoding", "br, gzip;q=0.8").await;
        assert_eq!(header(&plain, "content-encoding"), None, "{path}");
        assert_eq!(
            header(&compressed, "content-encoding").as_deref(),
            Some("gzip"),
            "{path}"
        );
        for name in ["content-type", "etag", "cache-control"] {
            assert_eq!(header(&plain, name), header(&compressed, name), "{path}");
        }
        for response in [&plain, &compressed] {
            let vary = header(response, "vary").unwrap();
            assert!(vary.contains("accept-encoding"), "{path}: {vary}");
        }
        let plain = plain.bytes().await.unwrap();
        let compressed = compressed.bytes().await.unwrap();
        let mut unpacked = Vec::new();
        GzDecoder::new(compressed.as_ref())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert!(unpacked == plain, "{path}: the content differs");
        assert!(compressed.len() < plain.len(), "{path}");
    }
}

#[tokio::test]
async fn excluded_gzip_is_not_sent() {
    let (_local_hanko, app) = start().await;
    for accepted in ["identity", "gzip;q=0", "gzip; q=0.0, br", "xgzip"] {
        let response = get_with(&app, "/docs", "accept-encoding", accepted).await;
        assert_eq!(response.status(), 200, "{accepted}");
        assert_eq!(header(&response, "content-encoding"), None, "{accepted}");
    }
}

#[tokio::test]
async fn page_assets_are_cached_forever_and_the_rest_is_revalidated() {
    let (_local_hanko, app) = start().await;
    for path in assets(&app).await {
        let response = send(app.get(&path)).await;
        assert_eq!(
            header(&response, "cache-control").as_deref(),
            Some("public, max-age=31536000, immutable"),
            "{path}"
        );
    }
    for path in REVALIDATED {
        let response = send(app.get(path)).await;
        assert_eq!(
            header(&response, "cache-control").as_deref(),
            Some("no-cache"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn cached_content_is_not_sent_again() {
    let (_local_hanko, app) = start().await;
    for path in all_paths(&app).await {
        let first = send(app.get(&path)).await;
        let etag = header(&first, "etag").unwrap();
        let strong = etag.trim_start_matches("W/");
        for known in [&etag, strong, &format!("\"other\", {etag}"), "*"] {
            let response = get_with(&app, &path, "if-none-match", known).await;
            assert_eq!(response.status(), 304, "{path}: {known}");
            // RFC 9110 section 15.4.5: the same fields as in a 200.
            for name in ["etag", "cache-control", "vary", "content-security-policy"] {
                assert_eq!(header(&response, name), header(&first, name), "{path}");
            }
            assert!(response.bytes().await.unwrap().is_empty(), "{path}");
        }
        let response = get_with(&app, &path, "if-none-match", "\"other\"").await;
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn another_document_is_not_taken_for_a_known_one() {
    let (_local_hanko, app) = start().await;
    let (_other_hanko, renamed) = start_with(&[("HANKO_COOKIE_NAME", "session")]).await;
    for path in ["/openapi.json", "/openapi.yaml"] {
        let etag = header(&send(app.get(path)).await, "etag").unwrap();
        let response = get_with(&renamed, path, "if-none-match", &etag).await;
        assert_eq!(response.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn only_our_own_scripts_run_on_the_page() {
    let (_local_hanko, app) = start_with(&[("PUBLIC_URL", "https://api.example/base")]).await;
    let response = send(app.get("/docs")).await;
    let policy = header(&response, "content-security-policy").unwrap();
    let directive = |name: &str| {
        let mut matching = policy
            .split(';')
            .filter_map(|directive| directive.trim().split_once(' '))
            .filter(|(directive, _)| *directive == name)
            .map(|(_, sources)| sources.to_owned());
        let sources = matching.next();
        assert_eq!(matching.next(), None, "{name} occurs twice in {policy}");
        sources
    };
    assert_eq!(directive("default-src").as_deref(), Some("'none'"));
    assert_eq!(directive("script-src").as_deref(), Some("'self'"));
    assert_eq!(directive("script-src-elem"), None);
    assert_eq!(directive("script-src-attr"), None);
    assert_eq!(
        directive("connect-src").as_deref(),
        Some("'self' https://api.example")
    );
    for name in ["base-uri", "form-action", "frame-ancestors"] {
        assert_eq!(directive(name).as_deref(), Some("'none'"), "{name}");
    }
    assert!(!policy.contains("unsafe-eval"), "{policy}");

    let page = response.text().await.unwrap();
    assert!(
        page.contains("<title>poem-hanko</title>"),
        "the page is titled after the service: {page}"
    );
    assert!(!page.contains("//"), "the page names another host: {page}");
}

#[tokio::test]
async fn a_trailing_slash_leads_to_the_page() {
    let (_local_hanko, app) = start().await;
    let response = send(app.get("/docs/")).await;
    assert_eq!(response.status(), 308);
    let location = header(&response, "location").unwrap();
    let target = response.url().join(&location).unwrap();
    assert_eq!(target.as_str(), app.url("/docs"));
}

#[tokio::test]
async fn json_and_yaml_say_the_same() {
    let (_local_hanko, app) = start().await;
    let json: Value = serde_json::from_str(&text(&app, "/openapi.json").await).unwrap();
    let yaml: Value = serde_saphyr::from_str(&text(&app, "/openapi.yaml").await).unwrap();
    assert!(json["paths"]["/protected"].is_object(), "{json}");
    assert!(json == yaml, "the two differ");
    for (path, media_type) in [
        ("/openapi.json", "application/json"),
        ("/openapi.yaml", "application/yaml"),
    ] {
        let response = send(app.get(path)).await;
        assert_eq!(
            header(&response, "content-type").as_deref(),
            Some(media_type)
        );
    }
}

#[tokio::test]
async fn head_returns_the_headers_of_get() {
    let (_local_hanko, app) = start().await;
    for path in all_paths(&app).await {
        let got = send(app.get(&path)).await;
        let head = send(app.request(Method::HEAD, &path)).await;
        assert_eq!(head.status(), 200, "{path}");
        // The length may be left out (RFC 9110 section 9.3.2), and Poem does.
        for name in ["content-type", "etag", "cache-control"] {
            assert_eq!(header(&head, name), header(&got, name), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn docs_can_be_left_out() {
    let (_local_hanko, app) = start().await;
    let paths = all_paths(&app).await;
    let (_local_hanko, app) = start_with(&[("DOCS", "false")]).await;
    for path in paths.iter().map(String::as_str).chain(["/docs/"]) {
        let response = send(app.get(path)).await;
        assert_eq!(response.status(), 404, "{path}");
    }
    assert_eq!(send(app.get("/")).await.status(), 200);
}
