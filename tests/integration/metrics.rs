//! The listener on `ADMIN_ADDRESS`.

#![allow(
    clippy::unused_async,
    reason = "Poem wants async handlers, whether they wait or not"
)]

use std::{
    collections::BTreeSet,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use poem::{Request, get, handler, web::Path as PlainPath};
use poem_hanko::{
    App, CheckStatus, Guard, Hanko, HankoAuth, HankoUrl, JsonBody, ManualClock, OptionalHankoAuth,
    PlainHttp, Requirement, VerifiedEmail, testing::LocalHanko,
};
use poem_openapi::{OpenApi, param::Path};
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

use crate::support::{
    START, ada, assert_problem, client, config, local_hanko, report, send, within,
};

/// An app that listens on both addresses.
struct Served {
    clock: ManualClock,
    hanko: Hanko,
    address: SocketAddr,
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Served {
    async fn start(app: App, hanko_url: &str, clock: &ManualClock, more: &[(&str, &str)]) -> Self {
        let mut variables = vec![("ADMIN_ADDRESS", "127.0.0.1:0")];
        variables.extend(more);
        let mut config = config(&variables);
        config.hanko.url = Some(HankoUrl::parse(hanko_url, PlainHttp::LoopbackOnly).unwrap());
        let server = app
            .clock(Arc::new(clock.clone()))
            .bind(config)
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let hanko = server.hanko().clone();
        hanko.wait_for_key_set_fetches(1).await;
        Self {
            clock: clock.clone(),
            hanko,
            address: server.address(),
            admin: server.admin_address().unwrap(),
            stop,
            running: tokio::spawn(server.run(async move {
                let _dropped = stopped.await;
            })),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        client().request(method, format!("http://{}{path}", self.address))
    }

    async fn get(&self, path: &str) -> Response {
        send(self.request(Method::GET, path)).await
    }

    async fn get_with(&self, path: &str, token: &str) -> u16 {
        let request = self.request(Method::GET, path).bearer_auth(token);
        send(request).await.status().as_u16()
    }

    async fn admin(&self, path: &str) -> Response {
        send(client().get(format!("http://{}{path}", self.admin))).await
    }

    async fn scrape(&self) -> Scrape {
        let response = self.admin("/metrics").await;
        assert_eq!(response.status(), 200);
        let media_type = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(media_type, "text/plain; version=0.0.4; charset=utf-8");
        Scrape(response.text().await.unwrap())
    }

    /// Scrapes until the condition holds.
    async fn scrape_until(&self, condition: impl Fn(&Scrape) -> bool) -> Scrape {
        within(async {
            loop {
                let scrape = self.scrape().await;
                if condition(&scrape) {
                    return scrape;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// The text of one scrape.
#[derive(Debug)]
struct Scrape(String);

impl Scrape {
    /// The value of a series, written as Prometheus does.
    fn find(&self, series: &str) -> Option<f64> {
        let mut values = self.0.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (name == series).then(|| value.parse().unwrap())
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{series} occurs twice");
        value
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        self.find(series)
            .unwrap_or_else(|| panic!("no {series} in {}", self.0))
    }

    #[track_caller]
    fn assert(&self, series: &str, expected: f64) {
        let value = self.value(series);
        assert!((value - expected).abs() < 1e-9, "{series} is {value}");
    }

    /// The sum of all series of a metric.
    fn sum(&self, name: &str) -> f64 {
        self.0
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    /// The values of a label of a metric.
    fn labels(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let label = format!("{label}=\"");
        self.0
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'))
            })
            .filter_map(|line| line.split_once(&label)?.1.split('"').next())
            .collect()
    }
}

struct Admin;

impl Guard for Admin {
    const REQUIRES: Requirement = Requirement::claim("role").equals("admin");
}

struct Api;

#[OpenApi]
impl Api {
    #[oai(path = "/hello", method = "get")]
    async fn hello(&self, _auth: HankoAuth) -> JsonBody<String> {
        JsonBody(String::new())
    }

    #[oai(path = "/open", method = "get")]
    async fn open(&self, _auth: OptionalHankoAuth) -> JsonBody<String> {
        JsonBody(String::new())
    }

    #[oai(path = "/admin", method = "get")]
    async fn admin(&self, _auth: HankoAuth<(VerifiedEmail, Admin)>) -> JsonBody<String> {
        JsonBody(String::new())
    }

    #[oai(path = "/things/:id/parts/:part", method = "get")]
    async fn part(&self, id: Path<u32>, part: Path<String>) -> JsonBody<String> {
        JsonBody(format!("{}{}", id.0, part.0))
    }
}

fn app() -> App {
    App::new(Api, "test", "1.0")
}

/// An app for a local Hanko whose webhooks it receives.
async fn start(app: App, variables: &[(&str, &str)]) -> (LocalHanko, Served) {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let served = Served::start(app, &local_hanko.url(), &clock, variables).await;
    local_hanko.send_webhooks_to(format!("http://{}/webhooks/hanko", served.address));
    (local_hanko, served)
}

#[handler]
fn file(path: PlainPath<String>) -> String {
    path.0
}

#[tokio::test]
async fn labels_are_bounded_whatever_clients_send() {
    let (_local_hanko, served) = start(app(), &[]).await;
    for number in 0..50 {
        let method = Method::from_bytes(format!("M{number}SECRET").as_bytes()).unwrap();
        let path = format!("/secret{number}/x?secret={number}");
        send(served.request(method, &path)).await;
        send(served.request(Method::PUT, &path)).await;
    }
    let scrape = served.scrape().await;
    let name = "http_requests_total";
    assert_eq!(
        scrape.labels(name, "method"),
        BTreeSet::from(["PUT", "other"])
    );
    assert_eq!(scrape.labels(name, "route"), BTreeSet::from(["unmatched"]));
    scrape.assert(
        r#"http_requests_total{method="other",route="unmatched",status="404"}"#,
        50.0,
    );
    assert!(!scrape.0.to_lowercase().contains("secret"), "{}", scrape.0);
}

#[tokio::test]
async fn requests_are_counted_by_template_of_route() {
    let files = poem::Route::new().at("/:name", get(file));
    let app = app().at("/events/:id", get(file)).nest("/static", files);
    let (_local_hanko, served) = start(app, &[]).await;
    for path in [
        "/open",
        "/open?a=b",
        "/things/7/parts/a",
        "/things/x/parts/a",
        "/events/9",
        "/static/logo",
        "/static/",
        "/docs",
        "/livez",
    ] {
        served.get(path).await;
    }
    send(served.request(Method::DELETE, "/things/7/parts/a")).await;
    send(served.request(Method::HEAD, "/open")).await;
    let scrape = served.scrape().await;
    for (method, route, status, count) in [
        ("GET", "/open", 200, 2.0),
        ("HEAD", "/open", 200, 1.0),
        ("GET", "/things/{id}/parts/{part}", 200, 1.0),
        ("GET", "/things/{id}/parts/{part}", 400, 1.0),
        ("DELETE", "/things/{id}/parts/{part}", 405, 1.0),
        ("GET", "/events/{id}", 200, 1.0),
        ("GET", "/static/*rest", 200, 1.0),
        ("GET", "/static/*rest", 404, 1.0),
        ("GET", "/docs", 200, 1.0),
        ("GET", "/livez", 200, 1.0),
    ] {
        let labels = format!(r#"method="{method}",route="{route}",status="{status}""#);
        scrape.assert(&format!("http_requests_total{{{labels}}}"), count);
    }
    scrape.assert(
        r#"http_request_duration_seconds_count{method="GET",route="/things/{id}/parts/{part}"}"#,
        2.0,
    );
    assert_eq!(scrape.sum("http_requests_total").to_string(), "11");
    // Requests to the other listener are not counted.
    assert_eq!(
        scrape.find(r#"http_requests_total{method="GET",route="/metrics",status="200"}"#),
        None
    );
}

#[tokio::test]
async fn duration_ends_with_beginning_of_response() {
    let release = Arc::new(Semaphore::new(0));
    let (_local_hanko, served) = start(waiting_app(&release), &[]).await;
    let request = tokio::spawn(send(served.request(Method::GET, "/wait")));
    served
        .scrape_until(|scrape| scrape.find("http_requests_in_flight") == Some(1.0))
        .await;
    served.clock.advance(Duration::from_millis(1500));
    release.add_permits(1);
    request.await.unwrap();
    let scrape = served.scrape().await;
    let labels = r#"method="GET",route="/wait""#;
    scrape.assert(
        &format!("http_request_duration_seconds_sum{{{labels}}}"),
        1.5,
    );
    for (bound, count) in [("1", 0.0), ("2.5", 1.0), ("+Inf", 1.0)] {
        let labels = format!(r#"{labels},le="{bound}""#);
        scrape.assert(
            &format!("http_request_duration_seconds_bucket{{{labels}}}"),
            count,
        );
    }
    scrape.assert("http_requests_in_flight", 0.0);
}

#[tokio::test]
async fn each_authentication_is_counted_once_with_its_reason() {
    let (local_hanko, served) = start(app(), &[("TOKEN_CACHE_CAPACITY", "10")]).await;
    let session = local_hanko.sign_in(&ada());
    let (admin, ended) = (
        local_hanko.sign_in(&ada().claim("role", "admin")),
        local_hanko.sign_in(&ada()),
    );
    for _ in 0..3 {
        assert_eq!(served.get_with("/hello", session.token()).await, 200);
    }
    assert_eq!(served.get_with("/open", session.token()).await, 200);
    assert_eq!(served.get_with("/admin", admin.token()).await, 200);
    assert_eq!(served.get_with("/admin", session.token()).await, 403);
    assert_eq!(served.get("/hello").await.status(), 401);
    assert_eq!(served.get("/open").await.status(), 200);
    assert_eq!(
        served
            .get_with("/hello", &local_hanko.expired_token(&ada()))
            .await,
        401
    );
    assert_eq!(
        served
            .get_with("/open", &local_hanko.forged_token(&ada()))
            .await,
        401
    );
    assert_eq!(served.get_with("/hello", "no token").await, 401);
    let twice = served
        .request(Method::GET, "/hello")
        .bearer_auth("a")
        .bearer_auth("b");
    assert_eq!(send(twice).await.status(), 400);
    let cross_site = served
        .request(Method::GET, "/hello")
        .header("cookie", format!("hanko={}", session.token()))
        .header("upgrade", "websocket")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(send(cross_site).await.status(), 403);
    local_hanko.end_session(ended.session_id()).await.unwrap();
    assert_eq!(served.get_with("/hello", ended.token()).await, 401);
    let scrape = served.scrape().await;
    let mut total = 0.0;
    for (outcome, reason, count) in [
        ("accepted", "", 6.0),
        ("anonymous", "", 1.0),
        ("missing", "", 1.0),
        ("rejected", "expired", 1.0),
        ("rejected", "invalid-signature", 1.0),
        ("rejected", "not-compact", 1.0),
        ("rejected", "ambiguous", 1.0),
        ("rejected", "cross-site", 1.0),
        ("rejected", "session-ended", 1.0),
    ] {
        let labels = format!(r#"outcome="{outcome}",reason="{reason}""#);
        scrape.assert(&format!("hanko_authentications_total{{{labels}}}"), count);
        total += count;
    }
    assert_eq!(
        scrape.sum("hanko_authentications_total").to_string(),
        total.to_string()
    );
    scrape.assert(r#"hanko_guard_rejections_total{guard="claim"}"#, 1.0);
    assert_eq!(scrape.sum("hanko_guard_rejections_total").to_string(), "1");
    scrape.assert(r#"hanko_token_cache_lookups_total{result="hit"}"#, 4.0);
    // Not that of the ended session.
    scrape.assert("hanko_token_cache_entries", 2.0);
    scrape.assert(
        r#"hanko_webhooks_total{event="session.delete.explicit.logout",outcome="accepted"}"#,
        1.0,
    );
    scrape.assert("hanko_webhook_last_timestamp_seconds", START.as_secs_f64());
    scrape.assert("hanko_revocations", 1.0);
}

#[tokio::test]
async fn unavailable_is_counted_by_what_is_missing() {
    let clock = ManualClock::new(START);
    // Nothing listens there.
    let served = Served::start(app(), "http://127.0.0.1:1", &clock, &[]).await;
    let token = local_hanko(&clock).await.sign_in(&ada()).token().to_owned();
    assert_eq!(served.get_with("/hello", &token).await, 503);
    assert_problem(
        served.admin("/readyz").await,
        503,
        "authentication-unavailable",
    )
    .await;
    let scrape = served.scrape().await;
    scrape.assert(
        r#"hanko_authentications_total{outcome="unavailable",reason="keys"}"#,
        1.0,
    );
    scrape.assert(r#"hanko_ready{component="keys"}"#, 0.0);
    scrape.assert(r#"hanko_ready{component="server"}"#, 1.0);
    scrape.assert("hanko_jwks_keys", 0.0);
    scrape.assert("hanko_jwks_last_success_timestamp_seconds", 0.0);
    scrape.assert(r#"hanko_jwks_fetches_total{outcome="transport"}"#, 1.0);
}

#[tokio::test]
async fn keys_are_exported_with_age_and_lifetime() {
    let (local_hanko, served) = start(app(), &[("JWKS_CACHE_MAX_AGE", "5m")]).await;
    served.clock.advance(Duration::from_secs(7));
    let scrape = served.scrape().await;
    scrape.assert("hanko_jwks_keys", 1.0);
    scrape.assert("hanko_jwks_stale", 0.0);
    scrape.assert("hanko_jwks_lifetime_seconds", 300.0);
    scrape.assert(
        "hanko_jwks_last_success_timestamp_seconds",
        START.as_secs_f64(),
    );
    scrape.assert(r#"hanko_jwks_fetches_total{outcome="success"}"#, 1.0);
    scrape.assert("hanko_jwks_fetch_duration_seconds_count", 1.0);
    let foreign = local_hanko.foreign_token(&ada());
    for _ in 0..2 {
        assert_eq!(served.get_with("/hello", &foreign).await, 401);
    }
    let scrape = served.scrape().await;
    scrape.assert(r#"hanko_jwks_unknown_kid_total{action="fetched"}"#, 1.0);
    scrape.assert(r#"hanko_jwks_unknown_kid_total{action="cooldown"}"#, 1.0);
    scrape.assert(
        r#"hanko_authentications_total{outcome="rejected",reason="unknown-key"}"#,
        2.0,
    );
}

#[tokio::test]
async fn validations_are_counted_by_outcome() {
    let variables = [
        ("HANKO_SESSION_MODE", "stateful"),
        ("SESSION_CACHE_TTL", "0s"),
    ];
    let (local_hanko, served) = start(app(), &variables).await;
    local_hanko.stop_webhooks();
    let session = local_hanko.sign_in(&ada());
    assert_eq!(served.get_with("/hello", session.token()).await, 200);
    let _ = local_hanko.end_session(session.session_id()).await;
    assert_eq!(served.get_with("/hello", session.token()).await, 401);
    let scrape = served.scrape().await;
    scrape.assert(r#"hanko_session_validations_total{outcome="active"}"#, 1.0);
    scrape.assert(r#"hanko_session_validations_total{outcome="ended"}"#, 1.0);
    assert_eq!(
        scrape.sum("hanko_session_validations_total").to_string(),
        "2"
    );
    scrape.assert("hanko_session_validation_duration_seconds_count", 2.0);
    scrape.assert("hanko_session_validations_in_flight", 0.0);
    scrape.assert("hanko_sessions_found_ended_total", 0.0);
    served.clock.advance(Duration::from_secs(11));
    served
        .scrape_until(|scrape| scrape.find("hanko_sessions_found_ended_total") == Some(1.0))
        .await;
}

#[tokio::test]
async fn webhook_is_counted_once_by_its_last_outcome() {
    let app = app().on_event(async |_event| Err::<(), _>("the listener fails"));
    let (local_hanko, served) = start(app, &[]).await;
    let body = serde_json::json!({ "token": "a.b.c", "event": "session" });
    let rejected = send(served.request(Method::POST, "/webhooks/hanko").json(&body)).await;
    assert_eq!(rejected.status(), 401);
    let session = local_hanko.sign_in(&ada());
    local_hanko.end_session(session.session_id()).await.unwrap();
    let name = "hanko_webhooks_total";
    let scrape = served.scrape().await;
    scrape.assert(
        r#"hanko_webhooks_total{event="unverified",outcome="rejected"}"#,
        1.0,
    );
    assert_eq!(scrape.sum(name).to_string(), "1");
    let given_up =
        r#"hanko_webhooks_total{event="session.delete.explicit.logout",outcome="given_up"}"#;
    let scrape = served
        .scrape_until(|scrape| {
            served.clock.advance(Duration::from_secs(5));
            scrape.find(given_up) == Some(1.0)
        })
        .await;
    assert_eq!(scrape.sum(name).to_string(), "2");
}

/// An app with a handler that waits until it is released.
fn waiting_app(release: &Arc<Semaphore>) -> App {
    #[handler]
    async fn wait(request: &Request) -> &'static str {
        let release: &Arc<Semaphore> = request.data().unwrap();
        release.acquire().await.unwrap().forget();
        "done"
    }

    app().data(Arc::clone(release)).at("/wait", get(wait))
}

#[tokio::test]
async fn admin_listener_answers_while_connections_are_exhausted() {
    let release = Arc::new(Semaphore::new(0));
    let variables = [("MAX_CONNECTIONS", "2"), ("MAX_REQUESTS", "1000")];
    let (_local_hanko, served) = start(waiting_app(&release), &variables).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(tokio::spawn(send(served.request(Method::GET, "/wait"))));
    }
    let scrape = served
        .scrape_until(|scrape| scrape.find("http_requests_in_flight") == Some(2.0))
        .await;
    scrape.assert("http_connections", 2.0);
    scrape.assert("http_connections_limit", 2.0);
    // Neither connection can be closed, so there is no room for a third.
    let third = tokio::spawn(send(served.request(Method::GET, "/livez")));
    assert_eq!(served.admin("/livez").await.status(), 200);
    assert_eq!(served.admin("/readyz").await.status(), 200);
    assert!(!third.is_finished());
    release.add_permits(2);
    for request in waiting {
        assert_eq!(request.await.unwrap().status(), 200);
    }
    assert_eq!(third.await.unwrap().status(), 200);
    let closed = r#"http_connections_closed_total{reason="ended"}"#;
    served
        .scrape_until(|scrape| scrape.find(closed) == Some(3.0))
        .await;
}

#[tokio::test]
async fn admin_listener_closes_last() {
    let release = Arc::new(Semaphore::new(0));
    let (_local_hanko, served) = start(waiting_app(&release), &[]).await;
    let waiting = tokio::spawn(send(served.request(Method::GET, "/wait")));
    served
        .scrape_until(|scrape| scrape.find("http_requests_in_flight") == Some(1.0))
        .await;
    let Served {
        address,
        admin,
        stop,
        running,
        ..
    } = served;
    let get = |path: &str| send(client().get(format!("http://{admin}{path}")));
    drop(stop);
    within(async {
        while client()
            .get(format!("http://{address}/livez"))
            .send()
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let not_ready = assert_problem(get("/readyz").await, 503, "authentication-unavailable").await;
    assert_eq!(not_ready["detail"], "The service is shutting down.");
    let scrape = Scrape(get("/metrics").await.text().await.unwrap());
    scrape.assert(r#"hanko_ready{component="server"}"#, 0.0);
    scrape.assert("http_requests_in_flight", 1.0);
    assert!(!running.is_finished());
    release.add_permits(1);
    assert_eq!(waiting.await.unwrap().status(), 200);
    within(running).await.unwrap();
    assert!(
        client()
            .get(format!("http://{admin}/livez"))
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn metrics_are_on_admin_listener_only() {
    let (_local_hanko, served) = start(app(), &[]).await;
    assert_problem(served.get("/metrics").await, 404, "not-found").await;
    for path in ["/", "/hello", "/docs", "/openapi.json"] {
        assert_problem(served.admin(path).await, 404, "not-found").await;
    }
    let post = send(client().post(format!("http://{}/metrics", served.admin))).await;
    assert_eq!(post.headers()["allow"], "GET, HEAD");
    assert_problem(post, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn series_of_several_tenants_carry_tenant() {
    let clock = ManualClock::new(START);
    let (first, second) = (local_hanko(&clock).await, local_hanko(&clock).await);
    let url = second.url().parse().unwrap();
    let other = Hanko::builder(url)
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    other.wait_for_key_set_fetches(1).await;
    let served = Served::start(app().tenant(&other), &first.url(), &clock, &[]).await;
    let session = first.sign_in(&ada());
    assert_eq!(served.get_with("/hello", session.token()).await, 200);
    let scrape = served.scrape().await;
    let tenants = scrape.labels("hanko_jwks_keys", "tenant");
    assert_eq!(tenants.len(), 2, "{tenants:?}");
    let accepted = tenants.iter().map(|tenant| {
        let labels = format!(r#"tenant="{tenant}",outcome="accepted",reason="""#);
        scrape.value(&format!("hanko_authentications_total{{{labels}}}"))
    });
    assert_eq!(accepted.sum::<f64>().to_string(), "1");
    assert!(scrape.labels("http_requests_total", "tenant").is_empty());
    assert_eq!(served.hanko.url().as_str(), first.hanko_url().as_str());
}

#[tokio::test]
async fn metrics_of_application_are_exported() {
    let app = app().metrics(|| {
        "# HELP notes_total Notes.\n# TYPE notes_total counter\nnotes_total 3".to_owned()
    });
    let (_local_hanko, served) = start(app, &[]).await;
    let scrape = served.scrape().await;
    scrape.assert("notes_total", 3.0);
    assert!(scrape.0.ends_with('\n'));
}

#[tokio::test]
async fn check_of_application_decides_readiness() {
    let works = Arc::new(AtomicBool::new(false));
    let app = {
        let works = Arc::clone(&works);
        app()
            .readiness("filled", move || {
                let works = Arc::clone(&works);
                async move {
                    if works.load(Ordering::Relaxed) {
                        CheckStatus::Ok
                    } else {
                        CheckStatus::Unavailable
                    }
                }
            })
            .readiness("database", async || CheckStatus::Degraded)
    };
    let (_local_hanko, served) = start(app, &[]).await;
    let degraded = r#"hanko_degraded{component="database"}"#;
    let scrape = served
        .scrape_until(|scrape| scrape.find(degraded) == Some(1.0))
        .await;
    scrape.assert(r#"hanko_ready{component="database"}"#, 1.0);
    scrape.assert(r#"hanko_ready{component="filled"}"#, 0.0);
    for response in [served.get("/readyz").await, served.admin("/readyz").await] {
        let problem = assert_problem(response, 503, "authentication-unavailable").await;
        let application = &problem["components"]["application"];
        assert_eq!(application["filled"]["status"], "unavailable");
        assert_eq!(application["database"]["status"], "degraded");
    }
    works.store(true, Ordering::Relaxed);
    let ready = r#"hanko_ready{component="filled"}"#;
    served
        .scrape_until(|scrape| {
            served.clock.advance(Duration::from_secs(5));
            scrape.find(ready) == Some(1.0)
        })
        .await;
    let response = served.get("/readyz").await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["components"]["application"]["filled"]["status"], "ok");
}

#[tokio::test]
async fn promtool_accepts_metrics() {
    let (local_hanko, served) = start(app(), &[]).await;
    let session = local_hanko.sign_in(&ada());
    served.get_with("/hello", session.token()).await;
    served.get_with("/admin", session.token()).await;
    let scrape = served.scrape().await;
    #[cfg(target_os = "linux")]
    for name in [
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "process_max_fds",
    ] {
        assert!(scrape.value(name) > 0.0, "{name}");
    }
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        let is_required = crate::support::requires_promtool();
        assert!(!is_required, "promtool is missing");
        report(
            "promtool_accepts_metrics: skipped, as there is no promtool (Debian package prometheus)",
        );
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(scrape.0.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.is_empty(),
        "{text}\n{}",
        scrape.0
    );
}
