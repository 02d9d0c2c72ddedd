//! A separate service for each test.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use poem_hanko::{
    Clock, Config, Hanko, HankoBuilder, HankoChoice, HankoUrl, ManualClock, PlainHttp, SessionMode,
    testing::{LocalHanko, Person},
};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing_subscriber::fmt::MakeWriter;

use crate::greeting;

/// 2026-11-23T12:00:00Z: when every test begins.
pub(crate) const START: Duration = Duration::from_hours(498_732);

/// The API, served on a free port, with a clock that the test advances.
pub(crate) struct App {
    pub(crate) clock: ManualClock,
    pub(crate) hanko: Hanko,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    _stop: oneshot::Sender<()>,
}

impl App {
    /// Serves the API for the Hanko at `hanko_url`, configured by `variables`.
    pub(crate) fn start(hanko_url: &str, clock: &ManualClock, variables: &[(&str, &str)]) -> Self {
        Self::start_waiting(hanko_url, clock, variables)
            .now_or_never()
            .expect("the API is created at once without a revocation store")
    }

    /// Like [`start`](Self::start), also with a revocation store, to which it connects first.
    async fn start_waiting(
        hanko_url: &str,
        clock: &ManualClock,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut config = config(variables);
        config.hanko.url =
            Some(HankoUrl::parse(hanko_url, PlainHttp::LoopbackOnly).expect("a loopback URL"));
        let server = greeting::app()
            .clock(Arc::new(clock.clone()))
            .bind(config)
            .await
            .expect("a free port");
        let (stop, stopped) = oneshot::channel::<()>();
        let app = Self {
            clock: clock.clone(),
            hanko: server.hanko().clone(),
            address: server.address(),
            client: client(),
            _stop: stop,
        };
        tokio::spawn(server.run(async move {
            let _dropped = stopped.await;
        }));
        app
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) async fn get_with_bearer(&self, path: &str, token: &str) -> Response {
        send(self.get(path).bearer_auth(token)).await
    }

    pub(crate) async fn get_with_cookie(&self, path: &str, token: &str) -> Response {
        send(self.get(path).header("cookie", format!("hanko={token}"))).await
    }
}

/// The capacity of the token cache in tests that do not set it, if not the default. `tests/run` runs the tests with the
/// cache and without.
#[allow(
    clippy::disallowed_methods,
    reason = "whoever runs the tests chooses, and not a test"
)]
pub(crate) fn token_cache_capacity() -> Option<usize> {
    let text = std::env::var("POEM_HANKO_TEST_TOKEN_CACHE_CAPACITY").ok()?;
    Some(
        text.parse()
            .expect("POEM_HANKO_TEST_TOKEN_CACHE_CAPACITY is a number"),
    )
}

/// A `Hanko` for the sessions of `tenant`, without a server. Stateless, because most tests are about tokens that are signed
/// without a session at the local Hanko.
pub(crate) fn hanko_builder(tenant: HankoUrl) -> HankoBuilder {
    let builder = Hanko::builder(tenant).session_mode(SessionMode::Stateless);
    match token_cache_capacity() {
        Some(capacity) => builder.token_cache_capacity(capacity),
        None => builder,
    }
}

/// The configuration of these variables: a free port, stateless mode where a test names no other, and nothing from the
/// process environment.
pub(crate) fn config(variables: &[(&str, &str)]) -> Config {
    let mut all: HashMap<String, String> = HashMap::from([
        ("PORT".to_owned(), "0".to_owned()),
        ("HANKO_SESSION_MODE".to_owned(), "stateless".to_owned()),
    ]);
    if let Some(capacity) = token_cache_capacity() {
        all.insert("TOKEN_CACHE_CAPACITY".to_owned(), capacity.to_string());
    }
    for (name, value) in variables {
        all.insert((*name).to_owned(), (*value).to_owned());
    }
    Config::from_lookup(move |name| all.get(name).cloned(), HankoChoice::Local)
        .expect("the test's configuration is right")
}

/// Whether a test must fail, rather than be skipped, without promtool.
#[allow(
    clippy::disallowed_methods,
    reason = "whoever runs the tests chooses, and not a test"
)]
pub(crate) fn requires_promtool() -> bool {
    std::env::var_os("POEM_HANKO_REQUIRE_PROMTOOL").is_some()
}

/// A client that uses no proxy and follows no redirects.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        // A test that advances its clock makes the server close idle connections, perhaps during the next request.
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

/// Awaits a future that must complete without the test's help. If it does not, the test fails instead of hanging.
#[allow(
    clippy::disallowed_methods,
    reason = "a test that would hang must fail, whatever its clock says"
)]
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(Duration::from_mins(1), future)
            .await
            .unwrap_or_else(|_| panic!("{caller}: it never came about"))
    }
}

/// Writes a line that is shown whether or not the test fails: libtest captures `println!` and `eprintln!`, but not direct
/// writes to the stream.
pub(crate) fn report(line: &str) {
    // In one write, so that it is not mixed with lines of other tests.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[track_caller]
pub(crate) fn send(request: RequestBuilder) -> impl Future<Output = Response> {
    let caller = std::panic::Location::caller();
    async move {
        within(request.send())
            .await
            .unwrap_or_else(|error| panic!("{caller}: no response: {error:?}"))
    }
}

/// A local Hanko and the API in front of it, with the keys fetched.
pub(crate) async fn start() -> (LocalHanko, App) {
    start_with(&[]).await
}

/// The same, configured by `variables`.
pub(crate) async fn start_with(variables: &[(&str, &str)]) -> (LocalHanko, App) {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let app = App::start_waiting(&local_hanko.url(), &clock, variables).await;
    app.hanko.wait_for_key_set_fetches(1).await;
    (local_hanko, app)
}

pub(crate) async fn local_hanko(clock: &ManualClock) -> LocalHanko {
    LocalHanko::builder()
        .clock(Arc::new(clock.clone()) as Arc<dyn Clock>)
        .start()
        .await
        .expect("the local Hanko starts")
}

/// A person with everything: an e-mail address, a user name and nested custom claims.
pub(crate) fn ada() -> Person {
    Person::default()
        .username("ada")
        .claim("plan", json!({ "name": "pro", "seats": [1, 2] }))
}

/// Asserts that a response is this problem: its status, media type, `type` and members.
#[track_caller]
pub(crate) fn assert_problem(
    response: Response,
    status: u16,
    slug: &str,
) -> impl Future<Output = Value> {
    let caller = std::panic::Location::caller();
    let slug = slug.to_owned();
    async move {
        let actual = response.status().as_u16();
        let media_type = header(&response, "content-type");
        let body = response.text().await.unwrap_or_default();
        assert_eq!(actual, status, "{caller}: {body}");
        assert_eq!(
            media_type.as_deref(),
            Some("application/problem+json"),
            "{caller}: {body}"
        );
        let problem: Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{caller}: {body}: {error}"));
        assert_eq!(problem["type"], format!("/problems/{slug}"), "{caller}");
        assert_eq!(problem["status"], status, "{caller}");
        for member in ["title", "detail"] {
            assert!(problem[member].is_string(), "{caller}: {member}: {problem}");
        }
        problem
    }
}

/// The only value of a header.
#[track_caller]
pub(crate) fn header(response: &Response, name: &str) -> Option<String> {
    let mut values = response.headers().get_all(name).iter();
    let value = values.next()?;
    assert!(values.next().is_none(), "{name} occurs twice");
    Some(value.to_str().expect("text").to_owned())
}

/// Sends this thread's log to `subscriber` until the guard is dropped.
///
/// A global subscriber is set too. Without one, a thread that logs nothing may be the first to reach an event, which is then
/// cached as disabled at the moment when another thread starts to listen.
pub(crate) fn listen(
    subscriber: impl tracing::Subscriber + Send + Sync,
) -> tracing::subscriber::DefaultGuard {
    static EVERY_THREAD: Once = Once::new();
    EVERY_THREAD.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry())
            .expect("no other one for all threads");
    });
    tracing::subscriber::set_default(subscriber)
}

/// A log that is kept in memory.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Returns what makes a writer to it.
    pub(crate) fn maker(&self) -> impl Fn() -> Self + Send + Sync + use<> {
        let log = self.clone();
        move || log.clone()
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// An example that runs until it is dropped.
pub(crate) struct Example(pub(crate) Child);

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs an example, with these variables and no others.
pub(crate) fn example(name: &str, variables: &[(&str, &str)]) -> Command {
    // target/debug/deps/integration-… is this test.
    let test = std::env::current_exe().unwrap();
    let folder: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().into();
    let program = folder.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it unless told which targets to test; then run `cargo build --example {name}`",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}
