//! The sign-in page of `dev`, the signed-in user in Swagger UI, and the page at `/`. Their behaviour in a browser is tested
//! in `tests/browser`.

use std::{sync::Arc, time::Duration};

use poem_hanko::{App, Clock, Hanko, ManualClock};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::greeting;
use crate::support::{
    START, ada, assert_problem, client, config, header, local_hanko, send, start, start_with,
};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// An app in `dev`, which ends with the test.
struct Dev {
    url: String,
    running: JoinHandle<()>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Dev {
    async fn start(app: App) -> Self {
        Self::start_with(app, &[]).await
    }

    /// Like [`start`], configured by `variables`.
    async fn start_with(app: App, variables: &[(&str, &str)]) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
        let server = app.clock(clock).bind_dev(config(variables)).await.unwrap();
        let hanko: Hanko = server.hanko().clone();
        hanko.wait_for_key_set_fetches(1).await;
        Self {
            url: server.public_url().to_owned(),
            running: tokio::spawn(server.run(std::future::pending())),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str, cookie: &str) -> Response {
        let request = self.request(Method::GET, path);
        send(request.header("cookie", cookie).header("accept", BROWSER)).await
    }

    async fn post(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Response {
        let request = self.request(Method::POST, path);
        let body = url_encoded(fields);
        send(
            request
                .header("cookie", cookie)
                .header("accept", BROWSER)
                .body(body),
        )
        .await
    }

    /// Signs in with these fields, and returns the cookie.
    async fn sign_in(&self, fields: &[(&str, &str)]) -> String {
        let response = self.post("/dev/sign-in", "", fields).await;
        assert_eq!(response.status(), 303);
        assert_eq!(header(&response, "location").as_deref(), Some("../docs"));
        header(&response, "set-cookie").unwrap()
    }

    async fn me(&self, cookie: &str) -> Value {
        let response = self.get("/me", cookie).await;
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }
}

fn url_encoded(fields: &[(&str, &str)]) -> String {
    let url = Url::parse_with_params("http://localhost", fields).unwrap();
    url.query().unwrap_or_default().to_owned()
}

/// Asserts that a response is a page, and returns it.
async fn page(response: Response, status: u16) -> String {
    assert_eq!(response.status(), status);
    let media_type = header(&response, "content-type").unwrap();
    assert!(media_type.starts_with("text/html"), "{media_type}");
    let policy = header(&response, "content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    response.text().await.unwrap()
}

#[tokio::test]
async fn sign_in_without_docs_leads_back_to_its_page() {
    let dev = Dev::start_with(greeting::app(), &[("DOCS", "false")]).await;
    let fields = [("email", "grace@example.com")];
    let response = dev.post("/dev/sign-in", "", &fields).await;
    assert_eq!(response.status(), 303);
    let location = header(&response, "location").unwrap();
    assert_eq!(location, "sign-in");
    let cookie = header(&response, "set-cookie").unwrap();
    let text = page(dev.get("/dev/sign-in", &cookie).await, 200).await;
    assert!(text.contains("grace@example.com"), "{text}");
    assert!(!text.contains("docs"), "{text}");
    assert_eq!(dev.get("/docs", &cookie).await.status(), 404);
}

#[tokio::test]
async fn sign_in_page_makes_tokens_to_try_guards_with() {
    let dev = Dev::start(greeting::app()).await;
    let cookie = dev
        .sign_in(&[
            ("email", "grace@example.com"),
            ("unverified", "true"),
            ("amr", "pwd"),
            ("amr", "totp"),
            ("signed_in_ago", "2h"),
            (
                "claims",
                r#"{"role": "admin", "org": {"permissions": ["read"]}}"#,
            ),
        ])
        .await;
    // The cookie expires with its token.
    assert!(cookie.contains("; Max-Age=36000;"), "{cookie}");
    let me = dev.me(&cookie).await;
    let email = json!({ "address": "grace@example.com", "is_primary": true, "is_verified": false });
    assert_eq!(me["email"], email);
    assert_eq!(me["claims"]["role"], "admin");
    assert_eq!(me["claims"]["org"], json!({ "permissions": ["read"] }));
    assert_eq!(me["claims"]["amr"], json!(["pwd", "totp"]));
    assert_eq!(me["issued_at"], "2026-11-23T10:00:00+00:00");
}

#[tokio::test]
async fn empty_fields_leave_their_claims_out() {
    let dev = Dev::start(greeting::app()).await;
    let fields = ["email", "username", "signed_in_ago", "claims"].map(|name| (name, ""));
    let cookie = dev.sign_in(&fields).await;
    let me = dev.me(&cookie).await;
    for name in ["email", "username"] {
        assert_eq!(me.get(name), None, "{me}");
    }
    assert_eq!(me["claims"], json!({}));
    assert_eq!(me["issued_at"], "2026-11-23T12:00:00+00:00");
    let page = page(dev.get("/dev/sign-in", &cookie).await, 200).await;
    assert!(page.contains(me["user_id"].as_str().unwrap()), "{page}");
}

#[tokio::test]
async fn mistake_is_shown_beside_what_was_entered() {
    let dev = Dev::start(greeting::app()).await;
    let fields = [
        ("email", "grace@example.com"),
        ("amr", "totp"),
        ("claims", r#"{"email": "<b>"}"#),
    ];
    let response = dev.post("/dev/sign-in", "", &fields).await;
    assert_eq!(header(&response, "set-cookie"), None);
    let page = page(response, 400).await;
    for part in [
        "`email` cannot be a custom claim",
        r#"value="grace@example.com""#,
        r#"value="totp" checked"#,
        "{&quot;email&quot;: &quot;&lt;b&gt;&quot;}",
        "<details open>",
        r#"aria-describedby="claims-mistake""#,
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Scripts get a problem instead of a page.
    let request = dev.request(Method::POST, "/dev/sign-in");
    let response = send(request.body(url_encoded(&fields))).await;
    let problem = assert_problem(response, 400, "bad-request").await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("`email` cannot be a custom claim"),
        "{detail}"
    );
}

#[tokio::test]
async fn cookie_that_no_browser_keeps_is_not_made() {
    let dev = Dev::start(greeting::app()).await;
    let claims = |bytes: usize| format!(r#"{{"notes":"{}"}}"#, "x".repeat(bytes));
    let large = dev.sign_in(&[("claims", &claims(2200))]).await;
    assert_eq!(dev.get("/me", &large).await.status(), 200);
    let response = dev
        .post("/dev/sign-in", "", &[("claims", &claims(3000))])
        .await;
    let text = page(response, 400).await;
    assert!(
        text.contains("browsers keep no cookie of more than 4096"),
        "{text}"
    );
    let response = dev
        .post("/dev/sign-in", "", &[("claims", &claims(16 * 1024))])
        .await;
    let text = page(response, 413).await;
    assert!(text.contains("more than 16 KiB"), "{text}");
}

#[tokio::test]
async fn forms_of_other_sites_sign_nobody_in() {
    let dev = Dev::start(greeting::app()).await;
    let request = dev
        .request(Method::POST, "/dev/sign-in")
        .header("sec-fetch-site", "cross-site");
    let response = send(request.try_clone().unwrap().header("accept", BROWSER)).await;
    assert_eq!(header(&response, "set-cookie"), None);
    let text = page(response, 403).await;
    assert!(text.contains("sent from another site"), "{text}");
    assert_problem(send(request).await, 403, "cross-site-request").await;
}

#[tokio::test]
async fn end_of_a_session_is_confirmed_in_every_tab() {
    let dev = Dev::start(greeting::app()).await;
    let cookie = dev.sign_in(&[("email", "grace@example.com")]).await;
    let signed_in = page(dev.get("/dev/sign-in", &cookie).await, 200).await;
    assert!(signed_in.contains("Signed in as <strong>grace@example.com</strong>"));

    let response = dev.post("/dev/end-session", &cookie, &[]).await;
    assert_eq!(response.status(), 303);
    assert_eq!(header(&response, "location").as_deref(), Some("sign-in"));
    let text = page(dev.get("/dev/sign-in", &cookie).await, 200).await;
    assert!(text.contains("The session has ended."), "{text}");
    assert_eq!(dev.get("/me", &cookie).await.status(), 401);

    // The button of another tab that still shows the old session.
    let text = page(dev.post("/dev/end-session", &cookie, &[]).await, 401).await;
    assert!(
        text.contains("No session was ended: the session has ended."),
        "{text}"
    );
    let text = page(dev.post("/dev/end-session", "", &[]).await, 401).await;
    assert!(text.contains("because nobody is signed in"), "{text}");
    let request = dev.request(Method::POST, "/dev/end-session");
    assert_problem(send(request).await, 401, "missing-credentials").await;
}

#[tokio::test]
async fn button_ends_only_the_session_that_its_page_showed() {
    let dev = Dev::start(greeting::app()).await;
    let first = dev.sign_in(&[("email", "ada@example.com")]).await;
    let second = dev.sign_in(&[("email", "grace@example.com")]).await;
    let first_id = dev.me(&first).await["session_id"].clone();
    let fields = [("session", first_id.as_str().unwrap())];
    let text = page(dev.post("/dev/end-session", &second, &fields).await, 409).await;
    assert!(
        text.contains("another one has started in this browser"),
        "{text}"
    );
    assert!(text.contains("grace@example.com"), "{text}");
    for cookie in [&first, &second] {
        assert_eq!(dev.get("/me", cookie).await.status(), 200);
    }
    let response = dev.post("/dev/end-session", &first, &fields).await;
    assert_eq!(response.status(), 303);
    assert_eq!(dev.get("/me", &first).await.status(), 401);
}

#[tokio::test]
async fn page_says_that_an_api_without_webhooks_does_not_know() {
    let dev = Dev::start(greeting::app().without_webhooks()).await;
    let cookie = dev.sign_in(&[("email", "grace@example.com")]).await;
    assert_eq!(dev.get("/me", &cookie).await.status(), 200);
    let response = dev.post("/dev/end-session", &cookie, &[]).await;
    assert_eq!(response.status(), 303);
    let text = page(dev.get("/dev/sign-in", &cookie).await, 200).await;
    assert!(
        text.contains("grace@example.com has ended at Hanko"),
        "{text}"
    );
    assert!(!text.contains("End this session"), "{text}");
}

#[tokio::test]
async fn signed_in_user_is_the_one_that_operations_see() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    let status = async |cookie: &str| {
        let response = send(app.get("/docs/session").header("cookie", cookie)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            header(&response, "cache-control").as_deref(),
            Some("no-store")
        );
        response.json::<Value>().await.unwrap()
    };
    assert_eq!(status("").await, json!({ "status": "anonymous" }));
    let signed_in = json!({
        "status": "signed_in",
        "user_id": session.user_id(),
        "email": "ada@example.com",
        "username": "ada",
    });
    assert_eq!(status(&session.cookie()).await, signed_in);
    let twice = format!("{0}; {0}", session.cookie());
    let rejected = json!({ "status": "rejected", "reason": "several credentials were sent" });
    assert_eq!(status(&twice).await, rejected);
    app.clock.advance(Duration::from_hours(13));
    let rejected = json!({ "status": "rejected", "reason": "the token has expired" });
    assert_eq!(status(&session.cookie()).await, rejected);

    let response = send(app.request(Method::POST, "/docs/session")).await;
    assert_eq!(header(&response, "allow").as_deref(), Some("GET, HEAD"));
    assert_problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn signed_in_user_is_unknown_without_keys() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    local_hanko.set_fault(poem_hanko::testing::Fault::DatabaseDown);
    let app = crate::support::App::start(&local_hanko.url(), &clock, &[]);
    let cookie = local_hanko.sign_in(&ada()).cookie();
    let response = send(app.get("/docs/session").header("cookie", cookie)).await;
    assert_problem(response, 503, "authentication-unavailable").await;
}

#[tokio::test]
async fn browsers_get_a_page_at_the_root_and_others_the_response() {
    let (_local_hanko, app) = start().await;
    for (accept, is_page) in [
        (BROWSER, true),
        ("application/json", false),
        ("application/json, text/plain, */*", false),
        ("*/*", false),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = send(app.request(method.clone(), "/").header("accept", accept)).await;
            assert_eq!(response.status(), 200);
            let media_type = header(&response, "content-type").unwrap();
            assert_eq!(media_type.starts_with("text/html"), is_page, "{accept}");
            assert_eq!(
                header(&response, "vary").as_deref(),
                Some("accept"),
                "{accept}"
            );
            let link = header(&response, "link").unwrap();
            assert!(link.contains(r#"<docs>; rel="service-doc""#), "{link}");
            assert!(
                link.contains(r#"<openapi.json>; rel="service-desc""#),
                "{link}"
            );
            let body = response.text().await.unwrap();
            assert_eq!(body.is_empty(), method == Method::HEAD);
        }
    }
    let response = send(app.get("/").header("accept", BROWSER)).await;
    let text = page(response, 200).await;
    for part in [
        "<title>poem-hanko</title>",
        r#"href="docs""#,
        r#"href="openapi.json""#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // No other path has a page.
    let response = send(app.get("/livez").header("accept", BROWSER)).await;
    assert_eq!(header(&response, "link"), None);
    let response = send(app.request(Method::POST, "/").header("accept", BROWSER)).await;
    assert_eq!(header(&response, "allow").as_deref(), Some("GET, HEAD"));
    assert_problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn api_without_a_root_has_no_page_there() {
    let app = App::new((), "empty", "1.0");
    let dev = Dev::start(app).await;
    let response = dev.get("/", "").await;
    assert_eq!(header(&response, "link"), None);
    assert_problem(response, 404, "not-found").await;
}

#[tokio::test]
async fn docs_name_the_sign_in_page() {
    let dev = Dev::start(greeting::app()).await;
    let docs = dev.get("/docs", "").await.text().await.unwrap();
    assert!(
        docs.contains(r#"<a href="dev/sign-in">Sign in or out</a>"#),
        "{docs}"
    );
    let root = dev.get("/", "").await.text().await.unwrap();
    assert!(
        root.contains(r#"<a href="dev/sign-in">Sign in or out</a>"#),
        "{root}"
    );

    let (_local_hanko, app) = start_with(&[("HANKO_COOKIE_NAME", "session")]).await;
    let docs = send(app.get("/docs")).await.text().await.unwrap();
    assert!(
        docs.contains("The cookie comes from your application"),
        "{docs}"
    );
    assert!(docs.contains(r#"data-cookie="session""#), "{docs}");
    assert!(!docs.contains("dev/sign-in"), "{docs}");
    let root = send(app.get("/").header("accept", BROWSER)).await;
    assert!(!root.text().await.unwrap().contains("Sign in"));
}
