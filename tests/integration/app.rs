//! An `App` with the API of an application, in our server.

#![allow(
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "Poem wants async handlers that take extractors by value, whether they need that or not"
)]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use poem::{
    Request, get, handler,
    web::{Data, Path as PlainPath},
};
use poem_hanko::{
    App, Config, Conflict, Event, HankoAuth, JsonBody, ManualClock, Problem, ProblemOf,
    ProblemType, ProblemTypes, StartError, WithProblems, testing::LocalHanko,
};
use poem_openapi::{
    Object, OpenApi, OpenApiService, SecurityScheme,
    auth::ApiKey,
    param::{Path, Query},
    payload::PlainText,
};
use reqwest::{Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::support::{
    Example, START, ada, assert_problem, client, config, example, local_hanko, send, within,
};

/// An app that listens.
struct Served {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Served {
    fn new(server: poem_hanko::Server) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let address = server.address();
        tokio::spawn(server.run(async move {
            let _dropped = stopped.await;
        }));
        Self {
            address,
            _stop: stop,
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, format!("http://{}{path}", self.address))
    }

    #[track_caller]
    fn get(&self, path: &str) -> impl Future<Output = Response> + use<> {
        send(self.request(Method::GET, path))
    }

    async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    async fn document(&self) -> Value {
        self.get("/openapi.json").await.json().await.unwrap()
    }
}

/// Serves an app for a local Hanko, which sends its webhooks to the app's default path.
async fn serve(app: App, variables: &[(&str, &str)]) -> (LocalHanko, Served) {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let mut config = config(variables);
    config.hanko.url = Some(local_hanko.hanko_url());
    let server = app.clock(Arc::new(clock)).bind(config).await.unwrap();
    server.hanko().wait_for_key_set_fetches(1).await;
    let api = Served::new(server);
    local_hanko.send_webhooks_to(format!("http://{}/webhooks/hanko", api.address));
    (local_hanko, api)
}

/// Returns why an app cannot be bound.
async fn refusal(app: App) -> StartError {
    let mut config = config(&[]);
    config.hanko.url = Some("https://hanko.example".parse().unwrap());
    app.bind(config).await.expect_err("it must not start")
}

fn paths(document: &Value) -> Vec<&str> {
    let paths = document["paths"].as_object().unwrap();
    paths.keys().map(String::as_str).collect()
}

struct HelloApi;

#[OpenApi]
impl HelloApi {
    #[oai(path = "/hello", method = "get", operation_id = "getHello")]
    async fn hello(&self, auth: HankoAuth) -> PlainText<String> {
        PlainText(format!("Hello, {}!", auth.user_id()))
    }

    #[oai(path = "/word", method = "get", operation_id = "getWord")]
    async fn word(&self, word: Data<&Word>) -> PlainText<&'static str> {
        PlainText(word.0.0)
    }

    #[oai(path = "/things/special", method = "get", operation_id = "getSpecial")]
    async fn special(&self) -> PlainText<&'static str> {
        PlainText("the operation")
    }
}

#[derive(Clone, Copy)]
struct Word(&'static str);

#[handler]
fn plain_word(word: Data<&Word>) -> &'static str {
    word.0.0
}

#[handler]
fn plain_name(PlainPath(name): PlainPath<String>) -> String {
    name
}

#[handler]
fn seen_path(request: &Request) -> String {
    request.uri().path().to_owned()
}

fn hello() -> App {
    App::new(HelloApi, "hello", "1.0").data(Word("poem"))
}

/// The entry in the document for a request header that every operation accepts.
const REQUEST_ID_TEXT: &str = "A request may have an id in the header `X-Request-Id`: 1 to 64 letters, digits, `-`, `_` or `.`. \
    The response and the log of the service have the same id.";

#[tokio::test]
async fn own_operations_stand_beside_ours() {
    let (local_hanko, api) = serve(hello(), &[]).await;
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let request = || {
        api.request(Method::GET, "/hello")
            .bearer_auth(&session.token)
    };
    let response = send(request()).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert_eq!(text, format!("Hello, {}!", person.id()));
    assert_problem(api.get("/hello").await, 401, "missing-credentials").await;
    for path in ["/livez", "/readyz", "/docs"] {
        assert_eq!(api.get(path).await.status(), 200, "{path}");
    }
    let document = api.document().await;
    for path in ["/hello", "/webhooks/hanko", "/livez", "/readyz"] {
        assert!(paths(&document).contains(&path), "{path}");
    }
    // In stateless mode, only the webhook ends it.
    local_hanko.end_session(&session).await.unwrap().unwrap();
    assert_problem(send(request()).await, 401, "invalid-token").await;
}

#[tokio::test]
async fn data_reaches_operations_and_plain_endpoints() {
    let app = hello()
        .at("/plain", get(plain_word))
        .nest("/below", get(plain_word));
    let (_local_hanko, api) = serve(app, &[]).await;
    for path in ["/word", "/word?query", "/plain", "/below/it"] {
        assert_eq!(api.text(path).await, "poem", "{path}");
    }
}

#[tokio::test]
async fn plain_endpoints_are_served_and_not_documented() {
    let app = hello()
        .at("/names/:name", get(plain_name))
        .nest("/files/", get(seen_path));
    let (_local_hanko, api) = serve(app, &[]).await;
    assert_eq!(api.text("/names/ada").await, "ada");
    assert_eq!(api.text("/names/ada?a=b").await, "ada");
    for (path, seen) in [
        ("/files", "/"),
        ("/files/", "/"),
        ("/files/a/b?c=d", "/a/b"),
    ] {
        assert_eq!(api.text(path).await, seen, "{path}");
    }
    let head = send(api.request(Method::HEAD, "/names/ada")).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.text().await.unwrap(), "");
    for path in ["/names/ada", "/files/a"] {
        let response = send(api.request(Method::DELETE, path)).await;
        assert_problem(response, 405, "method-not-allowed").await;
    }
    let response = send(api.request(Method::DELETE, "/hello")).await;
    assert_eq!(response.headers()["allow"], "GET, HEAD");
    assert_problem(response, 405, "method-not-allowed").await;
    assert_problem(api.get("/names").await, 404, "not-found").await;
    let document = api.document().await;
    let paths = paths(&document);
    assert!(paths.contains(&"/hello"));
    let is_plain = |path: &&str| path.contains("names") || path.contains("files");
    assert!(!paths.iter().any(is_plain), "{paths:?}");
}

#[tokio::test]
async fn nest_at_the_root_serves_what_no_operation_has() {
    let app = hello().nest("/", get(seen_path));
    let (_local_hanko, api) = serve(app, &[]).await;
    assert_eq!(api.text("/word").await, "poem");
    assert_eq!(api.text("/word?query").await, "poem");
    assert_eq!(api.get("/livez").await.status(), 200);
    assert_eq!(api.text("/index.html").await, "/index.html");
    assert_eq!(api.text("/").await, "/");
    let response = send(api.request(Method::PUT, "/word")).await;
    assert_eq!(response.headers()["allow"], "GET, HEAD");
}

#[tokio::test]
async fn query_does_not_change_who_serves_a_path() {
    let app = hello().at("/things/:name", get(plain_name));
    let (_local_hanko, api) = serve(app, &[]).await;
    for path in ["/things/special", "/things/special?query"] {
        assert_eq!(api.text(path).await, "the operation", "{path}");
    }
    for path in ["/things/other", "/things/other?query"] {
        assert_eq!(api.text(path).await, "other", "{path}");
    }
}

#[tokio::test]
async fn left_out_operations_are_neither_served_nor_documented() {
    let (_local_hanko, api) = serve(hello().without_webhooks().without_health(), &[]).await;
    let post = send(api.request(Method::POST, "/webhooks/hanko")).await;
    assert_problem(post, 404, "not-found").await;
    for path in ["/livez", "/readyz"] {
        assert_problem(api.get(path).await, 404, "not-found").await;
    }
    let document = api.document().await;
    assert_eq!(paths(&document), ["/hello", "/word", "/things/special"]);
}

#[tokio::test]
async fn moved_operations_leave_their_old_paths() {
    for prefix in ["/internal", "internal/"] {
        let (_local_hanko, api) = serve(hello().own_operations_under(prefix), &[]).await;
        let document = api.document().await;
        let paths = paths(&document);
        for path in ["/livez", "/readyz", "/webhooks/hanko"] {
            assert_problem(api.get(path).await, 404, "not-found").await;
            assert!(!paths.contains(&path), "{paths:?}");
            let moved = format!("/internal{path}");
            assert!(paths.contains(&moved.as_str()), "{paths:?}");
        }
        assert_eq!(api.get("/internal/livez").await.status(), 200);
        assert_eq!(api.text("/word").await, "poem");
        let response = api.get("/internal/webhooks/hanko").await;
        assert_eq!(response.headers()["allow"], "POST");
        assert_problem(response, 405, "method-not-allowed").await;
    }
}

/// Signs in and out at the local Hanko of `dev`, and returns the statuses before and, when no validation is cached any more,
/// after.
async fn statuses_around_sign_out(app: App, session_mode: &str) -> (u16, u16) {
    let variables = [
        ("HANKO_SESSION_MODE", session_mode),
        ("SESSION_CACHE_TTL", "30s"),
    ];
    let clock = ManualClock::new(START);
    let app = app.clock(Arc::new(clock.clone()));
    let server = app.bind_dev(config(&variables)).await.unwrap();
    server.hanko().wait_for_key_set_fetches(1).await;
    let local_hanko = server.local_hanko().unwrap();
    let token = local_hanko.sign_in(&ada()).token;
    let logout = format!("{}/logout", local_hanko.url());
    let api = Served::new(server);
    let status = async || {
        let request = api.request(Method::GET, "/hello").bearer_auth(&token);
        send(request).await.status().as_u16()
    };
    let before = status().await;
    let response = send(client().post(logout).bearer_auth(&token)).await;
    assert_eq!(response.status(), 204);
    clock.advance(Duration::from_secs(31));
    (before, status().await)
}

#[tokio::test]
async fn dev_sends_webhooks_where_they_are_received() {
    for app in [hello(), hello().own_operations_under("/internal")] {
        // Nothing but the webhook ends the session.
        assert_eq!(statuses_around_sign_out(app, "stateless").await, (200, 401));
    }
}

#[tokio::test]
async fn dev_without_webhooks_rejects_ended_sessions() {
    let app = || hello().without_webhooks();
    assert_eq!(
        statuses_around_sign_out(app(), "stateful").await,
        (200, 401)
    );
    assert_eq!(
        statuses_around_sign_out(app(), "stateless").await,
        (200, 200)
    );
}

#[tokio::test]
async fn every_event_listener_gets_the_event() {
    let (sender, mut events) = mpsc::unbounded_channel::<(u8, Event)>();
    let listener = |number: u8| {
        let sender = sender.clone();
        move |event: Event| {
            let sent = sender.send((number, event)).map_err(|_| "nobody listens");
            async move { sent }
        }
    };
    let app = hello().on_event(listener(1)).on_event(listener(2));
    let (local_hanko, _served) = serve(app, &[]).await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.end_session(&session).await.unwrap().unwrap();
    let mut listeners = Vec::new();
    for _ in 0..2 {
        let (number, event) = within(events.recv()).await.unwrap();
        let session_id = Some(session.session_id().as_uuid());
        assert_eq!(event.subject_id(), session_id);
        listeners.push(number);
    }
    listeners.sort_unstable();
    assert_eq!(listeners, [1, 2]);
}

#[tokio::test]
async fn configured_hanko_is_used_and_documented() {
    let app = hello().configure_hanko(|builder| builder.cookie_name("mine"));
    let (local_hanko, api) = serve(app, &[]).await;
    let token = local_hanko.sign_in(&ada()).token;
    for (cookie, status) in [("mine", 200), ("hanko", 401)] {
        let request = api.request(Method::GET, "/hello");
        let response = send(request.header("cookie", format!("{cookie}={token}"))).await;
        assert_eq!(response.status(), status, "{cookie}");
    }
    let document = api.document().await;
    let scheme = &document["components"]["securitySchemes"]["cookie"];
    assert_eq!(scheme["name"], "mine");
}

struct MadeApi(String);

#[OpenApi]
impl MadeApi {
    #[oai(path = "/made", method = "get", operation_id = "getMade")]
    async fn made(&self) -> PlainText<String> {
        PlainText(self.0.clone())
    }
}

#[tokio::test]
async fn configured_hanko_is_that_of_dev_too() {
    let app = hello().configure_hanko(|builder| {
        builder
            .cookie_name("mine")
            .trusted_origins(["https://app.example".to_owned()])
    });
    let server = app.bind_dev(config(&[])).await.unwrap();
    assert_eq!(server.hanko().cookie_name(), "mine");
    assert!(server.hanko().trusts_origin("https://app.example"));
}

#[tokio::test]
async fn api_is_made_once_and_not_for_its_document() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let app = App::with(
        async move |config: Config| {
            counted.fetch_add(1, Ordering::Relaxed);
            let greeting = config.variable("GREETING").ok_or("GREETING is not set")?;
            Ok::<_, &'static str>(MadeApi(greeting))
        },
        "made",
        "1.0",
    );
    let document = app.document("http://localhost:8000", "hanko").unwrap();
    assert!(document.as_json()["paths"]["/made"].is_object());
    assert_eq!(count.load(Ordering::Relaxed), 0);
    let (_local_hanko, api) = serve(app, &[("GREETING", "from a variable")]).await;
    assert_eq!(api.text("/made").await, "from a variable");
    assert_eq!(api.text("/made?query").await, "from a variable");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn api_that_cannot_be_made_is_a_start_error() {
    let app = App::with(
        async |config: Config| {
            let url = config.variable("NO_SUCH_VARIABLE");
            url.map(MadeApi).ok_or("the database is away")
        },
        "made",
        "1.0",
    );
    let error = refusal(app).await;
    assert!(matches!(error, StartError::Api(_)), "{error:?}");
    assert_eq!(error.to_string(), "the database is away");
}

macro_rules! api {
    ($name:ident, $method:literal, $path:literal, $id:literal) => {
        struct $name;

        #[OpenApi]
        impl $name {
            #[oai(path = $path, method = $method, operation_id = $id)]
            async fn handle(&self) -> PlainText<&'static str> {
                PlainText($id)
            }
        }
    };
}

api!(GetThing, "get", "/things/:id", "getThing");
api!(ReadThing, "get", "/things/:key", "readThing");
api!(OtherGetThing, "get", "/other", "getThing");
api!(GetDocs, "get", "/docs", "getDocs");
api!(GetLivez, "get", "/livez", "getOwnLivez");

mod cats {
    use poem_openapi::Object;

    #[derive(Object)]
    pub(crate) struct Animal {
        pub(crate) purrs: bool,
    }
}

mod dogs {
    use poem_openapi::Object;

    #[derive(Object)]
    pub(crate) struct Animal {
        pub(crate) barks: bool,
    }
}

struct CatApi;

#[OpenApi]
impl CatApi {
    #[oai(path = "/cat", method = "get", operation_id = "getCat")]
    async fn cat(&self) -> JsonBody<cats::Animal> {
        JsonBody(cats::Animal { purrs: true })
    }
}

struct DogApi;

#[OpenApi]
impl DogApi {
    #[oai(path = "/dog", method = "get", operation_id = "getDog")]
    async fn dog(&self) -> JsonBody<dogs::Animal> {
        JsonBody(dogs::Animal { barks: true })
    }
}

/// Has the name of a schema of ours.
#[derive(Object)]
struct Liveness {
    pulse: u8,
}

struct PulseApi;

#[OpenApi]
impl PulseApi {
    #[oai(path = "/pulse", method = "get", operation_id = "getPulse")]
    async fn pulse(&self) -> JsonBody<Liveness> {
        JsonBody(Liveness { pulse: 60 })
    }
}

mod own {
    use poem_openapi::Object;

    /// Has the name of the problem schema that every operation may respond with.
    #[derive(Object)]
    pub(crate) struct Problem {
        pub(crate) text: String,
    }
}

struct PuzzleApi;

#[OpenApi]
impl PuzzleApi {
    #[oai(path = "/puzzle", method = "get", operation_id = "getPuzzle")]
    async fn puzzle(&self) -> JsonBody<own::Problem> {
        let text = "a chessboard".to_owned();
        JsonBody(own::Problem { text })
    }
}

fn app(api: impl OpenApi + Send + 'static) -> App {
    App::new(api, "conflict", "1.0")
}

/// Asserts that neither the document nor the server can be created, and that the error contains all of `names`.
async fn assert_conflict(make: impl Fn() -> App, names: &[&str]) {
    let of_document = make().document("http://localhost:8000", "hanko");
    let of_document = of_document.expect_err(names[0]);
    let error = refusal(make()).await;
    let StartError::Conflict(of_server) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(&of_document, of_server);
    let text = error.to_string();
    for name in names {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[tokio::test]
async fn conflicting_operations_are_named() {
    assert_conflict(
        || app((GetThing, ReadThing)),
        &[
            "GET /things/{id} (getThing)",
            "GET /things/{key} (readThing)",
        ],
    )
    .await;
    assert_conflict(
        || app(GetLivez),
        &["GET /livez (getOwnLivez)", "GET /livez (getLiveness)"],
    )
    .await;
    assert_conflict(
        || app((GetThing, OtherGetThing)),
        &["GET /things/{id}", "GET /other", "`getThing`"],
    )
    .await;
}

#[tokio::test]
async fn plain_endpoint_over_an_operation_is_named() {
    for path in ["/things/:id", "things/:key", "//things/:key"] {
        let make = || app(GetThing).at(path, get(plain_name));
        assert_conflict(make, &["the endpoint at /things/{", "(getThing)"]).await;
    }
    for path in ["/livez", "/livez/"] {
        let make = || app(GetThing).nest(path, get(seen_path));
        assert_conflict(make, &["the endpoint at /livez", "GET /livez"]).await;
    }
}

type Add = Box<dyn Fn(App) -> App>;

#[tokio::test]
async fn plain_endpoints_of_one_path_are_named() {
    let at = |path: &'static str| move |app: App| app.at(path, get(plain_name));
    let nest = |path: &'static str| move |app: App| app.nest(path, get(seen_path));
    let cases: [(Add, Add, &str); 5] = [
        (Box::new(at("/a")), Box::new(at("/a")), "/a"),
        (Box::new(at("/a/:b")), Box::new(at("/a/:c")), "/a/{c}"),
        (Box::new(nest("/a")), Box::new(nest("/a/")), "/a"),
        (Box::new(nest("/")), Box::new(nest("/")), "/"),
        (Box::new(at("/a/*b")), Box::new(nest("/a")), "/a/*"),
    ];
    for (first, second, path) in cases {
        let make = || second(first(app(GetThing)));
        assert_conflict(make, &[&format!("the endpoint at {path}"), " and "]).await;
    }
}

#[tokio::test]
async fn operation_behind_a_page_is_named() {
    let error = refusal(app(GetDocs)).await;
    assert!(
        matches!(&error, StartError::Conflict(Conflict::Route { .. })),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("the page at /docs and GET /docs (getDocs)"),
        "{text}"
    );
    let error = refusal(app(GetThing).at("/docs", get(seen_path))).await;
    let text = error.to_string();
    assert!(
        text.contains("the endpoint at /docs and the page at /docs"),
        "{text}"
    );
}

#[tokio::test]
async fn unusable_path_is_named() {
    for (app, path) in [
        (app(GetThing).nest("/a/:b", get(seen_path)), "/a/:b"),
        (app(GetThing).nest("/a/*b", get(seen_path)), "/a/*b"),
        (app(GetThing).at("/a/:", get(seen_path)), "/a/"),
        (app(GetThing).at("/a/:b<[>", get(seen_path)), "/a/:b<[>"),
    ] {
        let error = refusal(app).await;
        let is_path = matches!(&error, StartError::Conflict(Conflict::Path { .. }));
        assert!(is_path, "{path}: {error:?}");
        assert!(error.to_string().contains(path), "{path}: {error}");
    }
}

#[tokio::test]
async fn two_types_of_one_name_are_named() {
    assert_conflict(
        || app((CatApi, DogApi)),
        &["cats::Animal", "dogs::Animal", "`Animal`"],
    )
    .await;
    assert_conflict(
        || app(PuzzleApi),
        &["own::Problem", "poem_hanko::", "`Problem`"],
    )
    .await;
    assert_conflict(|| app(PulseApi), &["`Liveness`", "schemas"]).await;
    // Without our operations, the name is free.
    let document = app(PulseApi).without_health();
    assert!(document.document("http://localhost:8000", "hanko").is_ok());
}

struct Animals;

const LOST: ProblemType = ProblemType::new("/problems/lost", 403, "It got lost");
const WILD: ProblemType =
    ProblemType::new("/problems/wild", 403, "It is wild").with_detail("Keep your distance.");
const EXTINCT: ProblemType = ProblemType::new("/problems/extinct", 410, "It is extinct");

impl ProblemTypes for Animals {
    const TYPES: &[ProblemType] = &[LOST, WILD, EXTINCT];
}

struct AnimalApi;

#[OpenApi]
impl AnimalApi {
    #[oai(
        path = "/animals/:name",
        method = "delete",
        operation_id = "freeAnimal"
    )]
    async fn free(
        &self,
        _auth: HankoAuth,
        name: Path<String>,
    ) -> Result<PlainText<String>, ProblemOf<Animals>> {
        match name.0.as_str() {
            "cat" => Err(LOST.into()),
            "wolf" => Err(WILD.into()),
            "dodo" => Err(Problem::from(EXTINCT).with_detail("Since 1690.").into()),
            _ => Ok(PlainText(name.0)),
        }
    }
}

#[tokio::test]
async fn own_problem_types_are_documented_and_sent() {
    let (local_hanko, api) = serve(app(AnimalApi), &[]).await;
    let token = local_hanko.sign_in(&ada()).token;
    let free = |name: &str| {
        let request = api.request(Method::DELETE, &format!("/animals/{name}"));
        send(request.bearer_auth(&token))
    };
    let document = api.document().await;
    let responses = &document["paths"]["/animals/{name}"]["delete"]["responses"];
    for (name, problem_type, detail) in [
        ("cat", LOST, "It got lost"),
        ("wolf", WILD, "Keep your distance."),
        ("dodo", EXTINCT, "Since 1690."),
    ] {
        let status = problem_type.status().as_u16();
        let problem = assert_problem(free(name).await, status, problem_type.slug()).await;
        assert_eq!(problem["title"], problem_type.title());
        assert_eq!(problem["detail"], detail);
        let content = &responses[status.to_string()]["content"]["application/problem+json"];
        assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem");
        let example = &content["examples"][problem_type.slug()]["value"];
        assert_eq!(example["type"], problem_type.uri());
        assert_eq!(example["status"], status);
        assert_eq!(example["title"], problem_type.title());
    }
    // Beside those of the types above, in one response.
    let content = &responses["403"]["content"]["application/problem+json"];
    let examples = content["examples"].as_object().unwrap();
    let mut slugs: Vec<&str> = examples.keys().map(String::as_str).collect();
    slugs.sort_unstable();
    assert_eq!(slugs, ["cross-site-request", "lost", "wild"]);
    let response = free("hamster").await;
    assert_eq!(response.text().await.unwrap(), "hamster");
}

#[derive(SecurityScheme)]
#[oai(ty = "api_key", key_name = "key", key_in = "query")]
struct Key(ApiKey);

struct SearchApi;

#[OpenApi]
impl SearchApi {
    #[oai(path = "/search", method = "get", operation_id = "search")]
    async fn search(&self, words: Query<Option<String>>) -> PlainText<String> {
        PlainText(words.0.unwrap_or_else(|| "nothing".to_owned()))
    }

    #[oai(path = "/locked", method = "get", operation_id = "getLocked")]
    async fn locked(&self, key: Key) -> PlainText<String> {
        PlainText(key.0.key)
    }

    #[oai(
        path = "/rooms/:room/seats/:seat",
        method = "get",
        operation_id = "getSeat"
    )]
    async fn seat(&self, room: Path<String>, seat: Path<u32>) -> PlainText<String> {
        PlainText(format!("{} {}", room.0, seat.0))
    }
}

#[tokio::test]
async fn query_reaches_operations_that_read_it() {
    let (_local_hanko, api) = serve(app(SearchApi).data(Word("x")), &[]).await;
    for (path, text) in [
        ("/search", "nothing"),
        ("/search?", "nothing"),
        ("/search?words=two%20words", "two words"),
        ("/locked?key=open", "open"),
        ("/rooms/a/seats/7", "a 7"),
        ("/rooms/a/seats/7?x", "a 7"),
    ] {
        assert_eq!(api.text(path).await, text, "{path}");
    }
    assert_eq!(api.get("/locked").await.status(), 401);
    let problem = api.get("/rooms/a/seats/first").await;
    let problem = assert_problem(problem, 400, "bad-request").await;
    assert!(problem["detail"].as_str().unwrap().contains("`seat`"));
}

#[test]
fn document_has_title_version_description_and_licence() {
    let app = App::new(HelloApi, "hello", "1.2.3")
        .description("Says hello.\n\nTo *everybody*.")
        .license("MIT", "https://opensource.org/license/mit");
    let document = app.document("https://api.example", "mine").unwrap();
    assert_eq!(document.title(), "hello");
    let document = document.as_json();
    assert_eq!(
        document["info"],
        json!({
            "title": "hello",
            "version": "1.2.3",
            "description": format!("Says hello.\n\nTo *everybody*.\n\n{REQUEST_ID_TEXT}"),
            "license": { "name": "MIT", "url": "https://opensource.org/license/mit" },
        })
    );
    assert_eq!(
        document["servers"],
        json!([{ "url": "https://api.example" }])
    );
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["cookie"]["name"], "mine");
}

/// The document of a whole API, and the `Allow` of one path after another.
async fn surface<A: OpenApi + Send + 'static>(
    make: impl Fn() -> A,
) -> (Value, String, Vec<HeaderMap>) {
    let of_app = app(make())
        .document("http://localhost:8000", "hanko")
        .unwrap();
    let of_poem = OpenApiService::new(make(), "any", "1").spec();
    let (_local_hanko, api) = serve(app(make()).data(Word("poem")), &[]).await;
    let mut headers = Vec::new();
    for path in ["/word", "/animals/a", "/nowhere"] {
        let response = send(api.request(Method::PUT, path)).await;
        let mut head = HeaderMap::new();
        head.extend(
            response
                .headers()
                .get("allow")
                .map(|allow| ("allow".parse().ok(), allow.clone())),
        );
        headers.push(head);
        assert_eq!(
            response.status(),
            if path == "/nowhere" { 404 } else { 405 }
        );
    }
    assert_eq!(api.text("/word").await, "poem");
    (of_app.as_json().clone(), of_poem, headers)
}

#[tokio::test]
async fn problems_are_documented_in_any_composition() {
    let whole = surface(|| WithProblems((HelloApi, AnimalApi))).await;
    assert_eq!(
        surface(|| (WithProblems(HelloApi), WithProblems(AnimalApi))).await,
        whole
    );
    assert_eq!(
        surface(|| WithProblems((WithProblems(HelloApi), AnimalApi))).await,
        whole
    );
    assert_eq!(whole.2[0]["allow"], "GET, HEAD");
    assert_eq!(whole.2[1]["allow"], "DELETE");
    assert!(
        whole.1.contains("/problems/missing-credentials"),
        "{}",
        whole.1
    );
}

#[tokio::test]
async fn dev_prints_a_request_for_an_operation_of_the_api() {
    let mut command = example("notes", &[("PORT", "0")]);
    command
        .arg("dev")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut running = Example(command.spawn().unwrap());
    let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let curl = lines.find(|line| line.starts_with("curl ")).unwrap();
    let rest = curl
        .strip_prefix("curl -H 'Authorization: Bearer ")
        .unwrap();
    let (token, url) = rest.split_once("' ").unwrap();
    assert!(
        url.starts_with("http://") && url.ends_with("/notes"),
        "{url}"
    );
    let response = send(client().get(url).bearer_auth(token)).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "[]");
    let added = client().post(url).bearer_auth(token);
    let added = send(added.json(&json!({ "text": "buy milk" }))).await;
    assert_eq!(added.status(), 200);
    let listed = send(client().get(url).bearer_auth(token)).await;
    let listed: Value = listed.json().await.unwrap();
    assert_eq!(listed[0]["text"], "buy milk");
}

#[cfg(feature = "testing")]
#[tokio::test]
async fn app_under_test_is_the_app_that_is_served() {
    use poem_hanko::testing::SignedInRequest;

    let app = hello()
        .at("/plain", get(plain_word))
        .own_operations_under("/internal")
        .configure_hanko(|builder| builder.trusted_origins(["https://app.example".to_owned()]))
        .test_with(&[("HANKO_COOKIE_NAME", "mine"), ("PORT", "0")])
        .await;
    let session = app.sign_in(&ada());
    assert!(session.cookie().starts_with("mine="));
    let client = app.client();
    let response = client.get("/hello").with_session_cookie(&session);
    response.send().await.assert_status_is_ok();
    client.get("/plain").send().await.assert_text("poem").await;
    let response = client.get("/hello").header("origin", "https://app.example");
    let response = response.send().await;
    response.assert_header("access-control-allow-origin", "https://app.example");
    let response = client.get("/internal/livez").send().await;
    response.assert_status_is_ok();
    response.assert_header_exist("x-request-id");
    let response = client.delete("/word").send().await;
    response.assert_header("allow", "GET, HEAD");
    app.end_session(&session).await.unwrap().unwrap();
    let response = client.get("/hello").signed_in(&session).send().await;
    assert_eq!(response.0.status(), 401);
}

#[derive(SecurityScheme)]
#[oai(ty = "api_key", key_name = "key", key_in = "header")]
struct HeaderKey(ApiKey);

struct KeyApi;

#[OpenApi]
impl KeyApi {
    #[oai(path = "/keyed", method = "get", operation_id = "getKeyed")]
    async fn keyed(&self, key: HeaderKey) -> PlainText<String> {
        PlainText(key.0.key)
    }
}

#[test]
fn other_security_schemes_document_no_session_errors() {
    let document = app(KeyApi).document("http://localhost:8000", "hanko");
    let document = document.unwrap();
    let responses = &document.as_json()["paths"]["/keyed"]["get"]["responses"];
    assert!(responses["401"].is_null(), "{responses}");
    assert!(responses["503"].is_object(), "{responses}");
}

#[tokio::test]
async fn own_operations_go_under_plain_paths_only() {
    for prefix in ["/:x", "/{x}", "/*x", "/\u{e9}"] {
        assert_conflict(|| hello().own_operations_under(prefix), &[prefix]).await;
    }
}

#[cfg(feature = "testing")]
#[tokio::test]
async fn app_under_test_is_configured_on_both_sides() {
    use poem_hanko::testing::SignedInRequest;

    let variables = [
        ("HANKO_AUDIENCE", "app.example"),
        ("HANKO_ISSUER", "https://hanko.example"),
    ];
    let app = hello()
        .configure_hanko(|builder| builder.cookie_name("mine"))
        .test_with(&variables)
        .await;
    let session = app.sign_in(&ada());
    let client = app.client();
    let response = client.get("/hello").signed_in(&session).send().await;
    response.assert_status_is_ok();
    let response = client.get("/hello").with_session_cookie(&session);
    response.send().await.assert_status_is_ok();
}

#[tokio::test]
async fn contact_and_external_docs_are_in_the_document() {
    let app = hello()
        .contact("Support", "support@notes.example")
        .external_docs("Guide", "https://notes.example/guide");
    let (_local_hanko, api) = serve(app, &[]).await;
    let document = api.document().await;
    let contact = json!({ "name": "Support", "email": "support@notes.example" });
    assert_eq!(document["info"]["contact"], contact);
    let external_docs = json!({ "description": "Guide", "url": "https://notes.example/guide" });
    assert_eq!(document["externalDocs"], external_docs);

    let app = hello().contact("Support", "https://social.example/@notes");
    let document = app.document("http://localhost:8000", "hanko").unwrap();
    let contact = json!({ "name": "Support", "url": "https://social.example/@notes" });
    assert_eq!(document.as_json()["info"]["contact"], contact);
    assert!(document.as_json().get("externalDocs").is_none());
}

#[tokio::test]
async fn untagged_operations_get_a_tag_and_unused_tags_are_omitted() {
    let (_local_hanko, api) = serve(hello(), &[]).await;
    let document = api.document().await;
    let tags: Vec<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| {
            assert!(tag["description"].is_string(), "{tag}");
            tag["name"].as_str().unwrap()
        })
        .collect();
    assert_eq!(tags, ["hello", "Webhooks", "Health"]);
    assert_eq!(document["paths"]["/hello"]["get"]["tags"], json!(["hello"]));
}
