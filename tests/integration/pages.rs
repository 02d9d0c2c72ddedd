//! The sign-in page of `dev`. What a browser makes of them is tested in
//! `tests/browser`.

use std::sync::Arc;

use poem_hanko::{App, Clock, Hanko, ManualClock};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::greeting;
use crate::support::{START, assert_problem, client, config, header, send};

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
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(START));
        let server = app.clock(clock).bind_dev(config(&[])).await.unwrap();
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
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let value: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            format!("{name}={value}")
        })
        .collect();
    pairs.join("&")
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
    // The cookie goes when its token expires.
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
    // A script reads no pages.
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

    // The button of another tab, which does not know yet.
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
        text.contains("another one has begun in this browser"),
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
