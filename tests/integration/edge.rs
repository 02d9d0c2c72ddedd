//! An `Edge` around the Poem routes of an application.

#![allow(
    clippy::unused_async,
    reason = "Poem wants async handlers, whether they wait or not"
)]

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, stream};
use poem::{
    Body, EndpointExt, Request, Response, Route, Server, get, handler,
    http::{HeaderMap, Method, StatusCode, header},
    listener::{Acceptor, Listener, TcpListener},
    post,
    test::{TestClient, TestResponse},
    web::{Data, websocket::WebSocket},
};
use poem_hanko::{
    Edge, EdgeEndpoint, Hanko, ManualClock, RequestLimits, RouteTable, WithProblems, require,
    testing::LocalHanko, webhook_endpoint,
};
use poem_openapi::{OpenApi, OpenApiService, param::Path, payload::PlainText};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::support::{Example, START, ada, client, example, local_hanko, send, within};

const TRUSTED: &str = "https://app.example";
const UNTRUSTED: &str = "https://evil.example";

/// The parts of an embedder's app: a Hanko at which users sign in, and the verifier of their sessions.
struct Embedder {
    local_hanko: LocalHanko,
    clock: ManualClock,
    hanko: Hanko,
}

impl Embedder {
    async fn new() -> Self {
        let clock = ManualClock::new(START);
        let local_hanko = local_hanko(&clock).await;
        let hanko = Hanko::builder(local_hanko.hanko_url())
            .clock(Arc::new(clock.clone()))
            .trusted_origins([TRUSTED.to_owned()])
            .build()
            .unwrap();
        hanko.wait_for_key_set_fetches(1).await;
        Self {
            local_hanko,
            clock,
            hanko,
        }
    }

    fn edge(&self) -> Edge {
        Edge::new(&self.hanko)
    }

    /// A client of all routes below, inside this edge.
    fn client(edge: &Edge) -> TestClient<EdgeEndpoint> {
        TestClient::new(routes().with(edge.clone()))
    }
}

#[handler]
async fn whoami(request: &Request) -> poem::Result<String> {
    let session = require::<()>(request).await?;
    Ok(session.user_id().to_string())
}

#[handler]
async fn length(body: Vec<u8>) -> String {
    body.len().to_string()
}

#[handler]
async fn panicking() -> &'static str {
    panic!("internal text");
}

#[handler]
async fn failing() -> poem::Result<()> {
    Err(poem::Error::from_string(
        "internal text",
        StatusCode::IM_A_TEAPOT,
    ))
}

#[handler]
async fn cached() -> Response {
    Response::builder()
        .header(header::CACHE_CONTROL, "public, max-age=60")
        .body("cached")
}

/// Signals that it has started, and never ends.
#[handler]
async fn endless(begun: Data<&mpsc::UnboundedSender<()>>) -> &'static str {
    begun.send(()).unwrap();
    std::future::pending().await
}

#[handler]
async fn echo(request: &Request, socket: WebSocket) -> poem::Result<Response> {
    require::<()>(request).await?;
    let upgraded = socket.on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.next().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    });
    Ok(poem::IntoResponse::into_response(upgraded))
}

fn routes() -> Route {
    let large = RequestLimits::new().max_body(200);
    Route::new()
        .at("/whoami", get(whoami).post(whoami))
        .at("/length", post(length))
        .at("/large", post(length).with(large))
        .at("/panic", get(panicking))
        .at("/fails", get(failing))
        .at("/cached", get(cached))
        .at("/socket", get(echo))
        .at("/webhooks/hanko", webhook_endpoint())
}

/// Asserts that a response is this problem, and returns its headers and its document.
async fn problem(response: TestResponse, status: u16, slug: &str) -> (HeaderMap, Value) {
    let (head, body) = response.0.into_parts();
    let text = body.into_string().await.unwrap();
    assert_eq!(head.status, status, "{text}");
    assert_eq!(head.headers["content-type"], "application/problem+json");
    assert!(!text.contains("internal text"), "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    let kind = match slug {
        "about:blank" => slug.to_owned(),
        slug => format!("/problems/{slug}"),
    };
    assert_eq!(document["type"], kind, "{text}");
    assert_eq!(document["status"], status);
    (head.headers, document)
}

/// A body that signals when it is read, and never arrives.
fn endless_body() -> (Body, mpsc::UnboundedReceiver<()>) {
    let (sender, waited_for) = mpsc::unbounded_channel();
    let stream = stream::poll_fn(move |_| {
        // The receiver is gone in tests that do not need the signal.
        let _ = sender.send(());
        Poll::<Option<Result<Vec<u8>, std::io::Error>>>::Pending
    });
    (Body::from_bytes_stream(stream), waited_for)
}

#[tokio::test]
async fn edge_gives_handlers_the_hanko() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    let person = ada();
    let token = embedder.local_hanko.sign_in(&person).token;
    let request = client
        .get("/whoami")
        .header("authorization", format!("Bearer {token}"));
    let response = request.send().await;
    response.assert_status_is_ok();
    response.assert_text(person.id().to_string()).await;
    let response = client.get("/whoami").send().await;
    let (headers, _) = problem(response, 401, "missing-credentials").await;
    assert!(headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn body_is_bounded_and_an_operation_raises_its_bound() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge().max_body(100));
    let post = |path: &str, bytes: usize| client.post(path).body("x".repeat(bytes)).send();
    for (path, bytes) in [("/length", 100), ("/large", 101), ("/large", 200)] {
        let response = post(path, bytes).await;
        response.assert_status_is_ok();
        response.assert_text(bytes.to_string()).await;
    }
    for (path, bytes) in [("/length", 101), ("/large", 201)] {
        problem(post(path, bytes).await, 413, "content-too-large").await;
    }
    let pieces = stream::iter(["x"; 101]).map(Ok::<_, std::io::Error>);
    let streamed = client.post("/length").body(Body::from_bytes_stream(pieces));
    problem(streamed.send().await, 413, "content-too-large").await;
}

#[tokio::test]
async fn late_body_is_408() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge().timeout(Duration::from_secs(5)));
    let (body, mut waited_for) = endless_body();
    let (response, ()) = tokio::join!(within(client.post("/length").body(body).send()), async {
        within(waited_for.recv()).await.unwrap();
        embedder.clock.advance(Duration::from_secs(5));
    });
    problem(response, 408, "request-timeout").await;
}

#[tokio::test]
async fn late_handler_is_503_and_may_be_retried() {
    let embedder = Embedder::new().await;
    let (begun, mut has_begun) = mpsc::unbounded_channel::<()>();
    let long = RequestLimits::new().timeout(Duration::from_mins(1));
    let app = Route::new()
        .at("/endless", get(endless))
        .at("/longer", get(endless).with(long))
        .data(begun)
        .with(embedder.edge().timeout(Duration::from_secs(5)));
    let client = TestClient::new(app);
    let (response, ()) = tokio::join!(within(client.get("/endless").send()), async {
        within(has_begun.recv()).await.unwrap();
        embedder.clock.advance(Duration::from_secs(5));
    });
    let (headers, _) = problem(response, 503, "handler-timeout").await;
    assert!(headers.contains_key("retry-after"));

    let mut longer = Box::pin(client.get("/longer").send());
    for (seconds, is_over) in [(5, false), (54, false), (1, true)] {
        assert!(futures_util::poll!(&mut longer).is_pending());
        embedder.clock.advance(Duration::from_secs(seconds));
        let is_ready = matches!(futures_util::poll!(&mut longer), Poll::Ready(_));
        assert_eq!(is_ready, is_over, "{seconds}");
    }
}

#[tokio::test]
async fn one_request_too_many_is_503() {
    let embedder = Embedder::new().await;
    let (begun, mut has_begun) = mpsc::unbounded_channel::<()>();
    let app = Route::new()
        .at("/endless", get(endless))
        .at("/cached", get(cached))
        .data(begun)
        .with(embedder.edge().max_requests(1));
    let client = TestClient::new(app);
    let mut waiting = Box::pin(client.get("/endless").send());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    has_begun.try_recv().expect("it has begun");
    let response = within(client.get("/cached").send()).await;
    let (headers, _) = problem(response, 503, "overloaded").await;
    assert!(headers.contains_key("retry-after"));
    drop(waiting);
    client.get("/cached").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn errors_and_panics_are_problems_without_their_text() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    for (path, status, slug) in [
        ("/panic", 500, "internal-error"),
        ("/fails", 418, "about:blank"),
        ("/nowhere", 404, "not-found"),
    ] {
        let (headers, _) = problem(client.get(path).send().await, status, slug).await;
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(headers.contains_key("x-request-id"));
    }
    let response = client.delete("/whoami").send().await;
    problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn request_id_is_kept_if_well_formed() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    let id = async |sent: Option<&str>| {
        let mut request = client.get("/cached");
        if let Some(id) = sent {
            request = request.header("x-request-id", id);
        }
        let response = request.send().await.0;
        assert_eq!(response.headers().get_all("x-request-id").iter().count(), 1);
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let longest = "a".repeat(64);
    for kept in ["abc-DEF_1.2", &longest] {
        assert_eq!(id(Some(kept)).await, kept);
    }
    let mut new = vec![id(None).await, id(None).await];
    for replaced in ["", "a b", "a\u{9}b", "<script>", &"a".repeat(65)] {
        new.push(id(Some(replaced)).await);
    }
    for id in &new {
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
    }
    let count = new.len();
    new.sort_unstable();
    new.dedup();
    assert_eq!(new.len(), count);
}

#[tokio::test]
async fn preflight_is_answered_for_trusted_origins_alone() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    for (origin, is_allowed) in [(TRUSTED, true), (UNTRUSTED, false), ("null", false)] {
        let request = client
            .request(Method::OPTIONS, "/whoami")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization");
        let response = request.send().await.0;
        let headers = response.headers();
        assert!(response.status().is_success(), "{origin}");
        let allowed = headers.get("access-control-allow-origin");
        assert_eq!(allowed.is_some(), is_allowed, "{origin}");
        assert!(headers["vary"].to_str().unwrap().contains("origin"));
        if is_allowed {
            assert_eq!(allowed.unwrap(), origin);
            assert_eq!(headers["access-control-allow-credentials"], "true");
            let methods = headers["access-control-allow-methods"].to_str().unwrap();
            assert!(methods.contains("POST") && methods.contains("DELETE"));
            let names = headers["access-control-allow-headers"].to_str().unwrap();
            assert!(names.contains("authorization"), "{names}");
        }
    }
}

#[tokio::test]
async fn trusted_pages_may_read_errors_too() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    for path in ["/cached", "/whoami", "/panic", "/nowhere"] {
        for (origin, is_allowed) in [(TRUSTED, true), (UNTRUSTED, false)] {
            let response = client.get(path).header("origin", origin).send().await.0;
            let allowed = response.headers().get("access-control-allow-origin");
            assert_eq!(allowed.is_some(), is_allowed, "{path} {origin}");
            let vary = response.headers()["vary"].to_str().unwrap();
            assert!(vary.contains("origin"), "{path} {origin}: {vary}");
        }
    }
}

#[tokio::test]
async fn response_that_a_cache_stores_varies_by_origin() {
    let embedder = Embedder::new().await;
    let client = Embedder::client(&embedder.edge());
    let stored = client.get("/cached").send().await.0;
    assert_eq!(stored.headers()["cache-control"], "public, max-age=60");
    assert_eq!(stored.headers()["vary"], "origin");
    let not_stored = client.get("/whoami").send().await.0;
    assert_eq!(not_stored.headers()["cache-control"], "no-store");
    assert_eq!(not_stored.headers().get("vary"), None);
}

struct RoomApi;

#[OpenApi]
impl RoomApi {
    #[oai(
        path = "/rooms/:room/seats/:seat",
        method = "get",
        operation_id = "getSeat"
    )]
    async fn seat(&self, room: Path<String>, seat: Path<u32>) -> PlainText<String> {
        PlainText(format!("{} {}", room.0, seat.0))
    }
}

struct BookingApi;

#[OpenApi]
impl BookingApi {
    #[oai(
        path = "/rooms/:room/seats/:seat",
        method = "put",
        operation_id = "bookSeat"
    )]
    async fn book(&self, room: Path<String>, seat: Path<u32>) -> PlainText<String> {
        PlainText(format!("booked {} {}", room.0, seat.0))
    }
}

#[tokio::test]
async fn route_table_gives_allow_and_names_the_parameter() {
    let embedder = Embedder::new().await;
    let api = (WithProblems(RoomApi), WithProblems(BookingApi));
    let routes = RouteTable::of(&api).unwrap();
    let service = OpenApiService::new(api, "rooms", "1.0");
    let app = Route::new()
        .nest("/", service)
        .with(embedder.edge().routes(routes));
    let client = TestClient::new(app);
    let path = "/rooms/a/seats/7";
    client.get(path).send().await.assert_text("a 7").await;
    client
        .put(path)
        .send()
        .await
        .assert_text("booked a 7")
        .await;
    let response = client.delete(path).send().await;
    let (headers, _) = problem(response, 405, "method-not-allowed").await;
    assert_eq!(headers["allow"], "GET, HEAD, PUT");
    let response = client.get("/rooms/a/seats/first").send().await;
    let (_, document) = problem(response, 400, "bad-request").await;
    let detail = document["detail"].as_str().unwrap();
    assert!(
        detail.contains("`seat`") && !detail.contains("first"),
        "{detail}"
    );
}

/// Serves routes inside an edge with Poem's own server.
async fn serve(app: EdgeEndpoint) -> SocketAddr {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await;
    let acceptor = acceptor.unwrap();
    let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
    tokio::spawn(Server::new_with_acceptor(acceptor).run(app));
    address
}

#[tokio::test]
async fn webhook_endpoint_verifies_and_applies() {
    let embedder = Embedder::new().await;
    let address = serve(routes().with(embedder.edge())).await;
    let url = format!("http://{address}/webhooks/hanko");
    let local_hanko = &embedder.local_hanko;
    let session = local_hanko.sign_in(&ada());
    let status = async || {
        let request = client().get(format!("http://{address}/whoami"));
        send(request.bearer_auth(&session.token)).await.status()
    };
    assert_eq!(status().await, 200);

    let data = local_hanko.session_data(&session).unwrap();
    let mut forged = local_hanko.webhook_body("session.delete.explicit.logout", &data);
    let token = forged["token"].as_str().unwrap();
    let (signed, _) = token.rsplit_once('.').unwrap();
    forged["token"] = format!("{signed}.AAAA").into();
    let response = send(client().post(&url).json(&forged)).await;
    assert_eq!(response.status(), 401);
    assert_eq!(status().await, 200);

    local_hanko.send_webhooks_to(&url);
    local_hanko.end_session(&session).await.unwrap().unwrap();
    assert_eq!(status().await, 401);
    assert_eq!(local_hanko.validate_requests(), 1);
    assert_eq!(send(client().get(&url)).await.status(), 405);
}

#[tokio::test]
async fn webhook_endpoint_has_limits_of_its_own() {
    let embedder = Embedder::new().await;
    let second = Duration::from_secs(1);
    let post = async |client: &TestClient<EdgeEndpoint>, body: Body| {
        let request = client.post("/webhooks/hanko");
        let request = request.content_type("application/json").body(body);
        request.send().await
    };
    let narrow = Embedder::client(&embedder.edge().max_body(10).timeout(second));
    let wide = Embedder::client(&embedder.edge().max_body(1 << 20).timeout(99 * second));
    let largest = "x".repeat(256 * 1024);
    let too_large = "x".repeat(256 * 1024 + 1);
    for client in [&narrow, &wide] {
        // It is read, and is not a webhook.
        problem(
            post(client, largest.clone().into()).await,
            400,
            "bad-request",
        )
        .await;
        let response = post(client, too_large.clone().into()).await;
        problem(response, 413, "content-too-large").await;

        let (body, _waited_for) = endless_body();
        let mut late = Box::pin(post(client, body));
        assert!(futures_util::poll!(&mut late).is_pending());
        embedder.clock.advance(11 * second);
        assert!(futures_util::poll!(&mut late).is_pending());
        embedder.clock.advance(second);
        problem(within(late).await, 408, "request-timeout").await;
    }
}

/// Asks for a WebSocket, and returns the head of the response and the connection.
async fn upgrade(address: SocketAddr, headers: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

#[tokio::test]
async fn websocket_works_inside_the_edge() {
    let embedder = Embedder::new().await;
    let address = serve(routes().with(embedder.edge())).await;
    let token = embedder.local_hanko.sign_in(&ada()).token;
    let bearer = format!("authorization: Bearer {token}\r\n");
    let (head, mut socket) = upgrade(address, &bearer).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The accept value of RFC 6455 section 1.3.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    // A text frame, with a mask of zeros (RFC 6455 section 5.2).
    let frame = [&[0x81, 0x85, 0, 0, 0, 0][..], b"hello"].concat();
    socket.write_all(&frame).await.unwrap();
    let mut echoed = [0; 7];
    within(socket.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(echoed, *b"\x81\x05hello");
}

#[tokio::test]
async fn cookie_opens_no_websocket_for_another_site() {
    let embedder = Embedder::new().await;
    let address = serve(routes().with(embedder.edge())).await;
    let token = embedder.local_hanko.sign_in(&ada()).token;
    for (credentials, origin, status) in [
        ("cookie: hanko=", TRUSTED, "101"),
        ("cookie: hanko=", UNTRUSTED, "403"),
        ("cookie: hanko=", "null", "403"),
        ("authorization: Bearer ", UNTRUSTED, "101"),
    ] {
        let headers = format!("{credentials}{token}\r\norigin: {origin}\r\n");
        let (head, _socket) = upgrade(address, &headers).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            head.starts_with(&expected),
            "{credentials} {origin}: {head}"
        );
        let is_problem = head.contains("application/problem+json");
        assert_eq!(is_problem, status == "403", "{head}");
    }
}

#[tokio::test]
async fn plain_poem_example_ends_sessions_by_webhook() {
    let local_hanko = LocalHanko::builder().start().await.unwrap();
    let url = local_hanko.url();
    let mut command = example("plain_poem", &[("HANKO_API_URL", &url), ("PORT", "0")]);
    let mut running = Example(command.stdout(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(running.0.stdout.take().unwrap()).lines();
    // Keeps reading, because the example keeps writing.
    let (sender, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in log.map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let address = loop {
        let line = within(lines.recv()).await.expect("it listens");
        if let Some((_, address)) = line.split_once("socket://") {
            break address.to_owned();
        }
    };
    local_hanko.send_webhooks_to(format!("http://{address}/webhooks/hanko"));
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let hello = || client().get(format!("http://{address}/hello"));
    let response = send(hello().bearer_auth(&session.token)).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert_eq!(text, format!("Hello, {}!", person.id()));
    assert_eq!(send(hello()).await.status(), 401);
    let asked = local_hanko.validate_requests();
    local_hanko.end_session(&session).await.unwrap().unwrap();
    let response = send(hello().bearer_auth(&session.token)).await;
    assert_eq!(response.status(), 401);
    // Only the webhook has ended it.
    assert_eq!(local_hanko.validate_requests(), asked);
}
