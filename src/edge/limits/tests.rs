//! Tests the limits through connections of clients, on endpoints that wait, stream and upgrade.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use poem::{
    Body, EndpointExt, IntoResponse, Request, Response,
    endpoint::make,
    http::{StatusCode, header},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::{Limits, RequestLimits, SMALL_BODY};
use crate::{
    app::Config,
    clock::{Clock, ManualClock},
    edge::Pages,
    edge::{EdgeCore, Endpoints, Operations},
    hanko::{Hanko, HankoUrl, PlainHttp},
    operations::{HealthApi, MeApi, WebhooksApi},
    server::{Listener, listen},
};

/// A server with its own endpoints, and a clock that the test advances.
struct TestServer {
    clock: ManualClock,
    limits: Arc<Limits>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl TestServer {
    fn start(variables: &[(&str, &str)]) -> Self {
        let config = Config::of_variables(variables);
        let clock = ManualClock::new(Duration::from_hours(500_000));
        let tenant = HankoUrl::parse("http://127.0.0.1:9", PlainHttp::LoopbackOnly).expect("a URL");
        let hanko = Hanko::builder(tenant)
            .clock(Arc::new(clock.clone()))
            .build()
            .expect("a client");
        let operations = (MeApi, WebhooksApi, HealthApi);
        let edge = EdgeCore::new(
            hanko,
            Operations::new(Endpoints::of(operations)).expect("no conflict"),
            pages(),
        );
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.address();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let limits = Arc::new(Limits::new(
            config.http.limits(),
            config.http.max_connections,
            shared,
        ));
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move {
                let stopped = async {
                    let _dropped = stopped.await;
                };
                listen::serve(listener, edge, limits, &config.http, stopped).await;
            }
        });
        Self {
            clock,
            limits,
            address,
            stop: Some(stop),
            served,
        }
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("a listener");
        Client(stream)
    }

    /// Connects and waits until the server has accepted the connection.
    async fn join(&self) -> Client {
        let before = self.limits.connections.count();
        let client = self.connect().await;
        until(|| self.limits.connections.count() > before).await;
        client
    }

    /// Connects, sends a request and reads its response.
    async fn request(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.response().await
    }

    fn stalled(&self) -> usize {
        let stalled = super::lock(&self.limits.stalled);
        stalled.small.exchanges.len() + stalled.large.exchanges.len()
    }

    fn unread(&self) -> usize {
        super::lock(&self.limits.unread).responses.len()
    }

    fn in_flight(&self) -> usize {
        self.limits.requests.load(super::Ordering::Relaxed)
    }

    fn memory(&self) -> usize {
        self.limits.memory.load(super::Ordering::Relaxed)
    }

    /// Opens an HTTP/2 connection whose streams have a window of `window` bytes.
    async fn connect_http2(&self, window: u32) -> Client {
        let mut client = self.connect().await;
        client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut setting = vec![0, 4];
        setting.extend(window.to_be_bytes());
        client.send_frame(SETTINGS, 0, 0, &setting).await;
        client
    }

    async fn all_stalled(&self, count: usize) {
        until(|| self.stalled() == count).await;
    }

    /// Advances the clock far enough for two sweeps, of which the second closes what is late.
    async fn sweep(&self) {
        for _ in 0..3 {
            settle().await;
            self.clock.advance(Duration::from_secs(1));
        }
        settle().await;
    }
}

/// Lets all tasks that can run do so, and the I/O driver.
async fn settle() {
    for _ in 0..300 {
        tokio::task::yield_now().await;
    }
}

/// Waits until a condition is true, without advancing the clock.
#[track_caller]
fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..1_000_000 {
            if condition() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{caller}: the condition never became true");
    }
}

fn pages() -> Pages {
    let length = || {
        make(|mut request: Request| async move {
            let bytes = request.take_body().into_bytes().await?;
            Ok::<_, poem::Error>(bytes.len().to_string())
        })
    };
    let limits = RequestLimits::new()
        .max_body(64 * 1024)
        .timeout(Duration::from_mins(2));
    Pages::default()
        .at("/quick", make(|_| async { "quick" }))
        .at("/length", length())
        .at("/large", length().with(limits))
        .at(
            "/never",
            make(|_| std::future::pending::<poem::Result<Response>>()),
        )
        .at(
            "/urgent",
            make(|_| std::future::pending::<poem::Result<Response>>())
                .with(RequestLimits::new().urgent()),
        )
        .at(
            "/holds",
            make(|mut request: Request| async move {
                let _bytes = request.take_body().into_bytes().await?;
                std::future::pending::<poem::Result<Response>>().await
            }),
        )
        .at("/huge", make(|_| async { vec![b'x'; LARGE_RESPONSE] }))
        .at("/ignores", make(|_| async { StatusCode::NO_CONTENT }))
        .at(
            "/stream",
            make(|_| async {
                let first = stream::once(async { Ok::<_, std::io::Error>("first") });
                Body::from_bytes_stream(first.chain(stream::pending())).into_response()
            }),
        )
        .at(
            "/stored",
            make(|_| async { "stored".with_header(header::CACHE_CONTROL, "max-age=60") }),
        )
        .at(
            "/upgrade",
            make(|request: Request| async move {
                let upgrade = request.take_upgrade()?;
                tokio::spawn(async move {
                    if let Ok(mut upgraded) = upgrade.await {
                        let mut buffer = [0; 64];
                        while let Ok(length @ 1..) = upgraded.read(&mut buffer).await {
                            if upgraded.write_all(&buffer[..length]).await.is_err() {
                                break;
                            }
                        }
                    }
                });
                let response = Response::builder()
                    .status(StatusCode::SWITCHING_PROTOCOLS)
                    .header(header::CONNECTION, "upgrade")
                    .header(header::UPGRADE, "echo");
                Ok::<_, poem::Error>(response.finish())
            }),
        )
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// The flags of a request without a body.
const END_STREAM_AND_HEADERS: u8 = 0x5;

const LARGE_RESPONSE: usize = 1024 * 1024;

struct Client(TcpStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0
            .write_all(text.as_bytes())
            .await
            .expect("an open connection");
    }

    async fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short payload");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.expect("an open connection");
    }

    /// Sends a request by HTTP/2, without a body.
    async fn get_http2(&mut self, stream: u32, path: &str) {
        // An empty table, `GET` and `http` of the static one, then `:path` and `:authority` as literals.
        let mut block = vec![0x20, 0x82, 0x86, 0x04];
        block.push(u8::try_from(path.len()).expect("a short path"));
        block.extend(path.as_bytes());
        block.extend([0x01, 1, b'a']);
        self.send_frame(HEADERS, END_STREAM_AND_HEADERS, stream, &block)
            .await;
    }

    /// Reads frames until one of this kind, and returns its stream.
    async fn frame(&mut self, kind: u8) -> u32 {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, found, _, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.expect("a payload");
            if found == kind {
                return u32::from_be_bytes(stream);
            }
        }
    }

    async fn get(&mut self, path: &str) -> String {
        self.send(&get(path)).await;
        self.response().await
    }

    /// Reads a head, and the body of the length that it names.
    async fn response(&mut self) -> String {
        let mut text = String::new();
        let mut wanted = usize::MAX;
        while text.len() < wanted {
            let mut buffer = [0; 4096];
            let length = self.0.read(&mut buffer).await.expect("an open connection");
            assert!(length > 0, "the connection was closed after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..length]).expect("text"));
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                let length = field(head, "content-length").map(str::parse::<usize>);
                wanted = head.len() + 4 + length.map_or(0, |length| length.expect("a length"));
            }
        }
        text
    }

    /// Whether the server has closed the connection.
    async fn is_closed(&mut self) -> bool {
        settle().await;
        let mut buffer = [0; 4096];
        loop {
            match self.0.try_read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }

    async fn closes(&mut self) {
        let mut rest = Vec::new();
        let _reset = self.0.read_to_end(&mut rest).await;
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, length: usize, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[track_caller]
fn assert_problem(response: &str, status: u16, slug: &str) {
    assert!(
        response.starts_with(&format!("HTTP/1.1 {status} ")),
        "{response}"
    );
    assert!(
        response.contains(&format!(r#""type":"/problems/{slug}""#)),
        "{response}"
    );
    assert!(response.contains("x-request-id: "), "{response}");
}

#[track_caller]
fn assert_ok(response: &str) {
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[tokio::test]
async fn larger_body_is_rejected_before_and_while_it_arrives() {
    let server = TestServer::start(&[("MAX_REQUEST_BODY", "10B")]);
    assert_ok(&server.request(&post("/length", 10, "0123456789")).await);
    let announced = server.request(&post("/length", 11, "")).await;
    assert_problem(&announced, 413, "content-too-large");
    let chunked = "POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = server
        .request(&format!("{chunked}8\r\n01234567\r\n8\r\n01234567\r\n"))
        .await;
    assert_problem(&chunks, 413, "content-too-large");
}

#[tokio::test]
async fn operation_sets_its_own_limits() {
    let server = TestServer::start(&[("MAX_REQUEST_BODY", "10B")]);
    let body = "x".repeat(64 * 1024);
    let response = server.request(&post("/large", body.len(), &body)).await;
    assert!(response.ends_with("65536"), "{response}");
    let response = server.request(&post("/large", body.len() + 1, &body)).await;
    assert_problem(&response, 413, "content-too-large");

    let mut slow = server.connect().await;
    slow.send(&post("/large", 2, "1")).await;
    server.all_stalled(1).await;
    server.clock.advance(Duration::from_secs(119));
    settle().await;
    slow.send("2").await;
    assert!(slow.response().await.ends_with("\r\n\r\n2"));
    slow.send(&post("/large", 2, "1")).await;
    server.all_stalled(1).await;
    server.clock.advance(Duration::from_mins(2));
    assert_problem(&slow.response().await, 408, "request-timeout");
}

#[tokio::test]
async fn late_body_is_408_and_late_handler_503() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "5s")]);
    let mut body = server.connect().await;
    body.send(&post("/length", 2, "1")).await;
    server.all_stalled(1).await;
    let mut handler = server.connect().await;
    handler.send(&get("/never")).await;
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 2).await;
    settle().await;
    server.clock.advance(Duration::from_secs(5));
    assert_problem(&body.response().await, 408, "request-timeout");
    let response = handler.response().await;
    assert_problem(&response, 503, "handler-timeout");
    assert_eq!(field(&response, "retry-after"), Some("1"));
}

#[tokio::test]
async fn head_and_handler_share_one_time() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "5s")]);
    let mut client = server.join().await;
    client.send("GET /never HTTP/1.1\r\n").await;
    settle().await;
    server.clock.advance(Duration::from_secs(4));
    client.send("Host: localhost\r\n\r\n").await;
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 1).await;
    settle().await;
    server.clock.advance(Duration::from_secs(1));
    assert_problem(&client.response().await, 503, "handler-timeout");
}

#[tokio::test]
async fn time_begins_with_the_request_and_not_before() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "5s")]);
    let mut client = server.join().await;
    server.clock.advance(Duration::from_secs(4));
    client.send(&get("/never")).await;
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 1).await;
    settle().await;
    server.clock.advance(Duration::from_secs(4));
    settle().await;
    assert_eq!(server.limits.requests.load(super::Ordering::Relaxed), 1);
    server.clock.advance(Duration::from_secs(1));
    assert_problem(&client.response().await, 503, "handler-timeout");
}

#[tokio::test]
async fn http_1_1_needs_exactly_one_host() {
    let server = TestServer::start(&[]);
    for head in [
        "GET /quick HTTP/1.1\r\n\r\n",
        "GET /quick HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /quick HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ] {
        assert_problem(&server.request(head).await, 400, "bad-request");
    }
    assert_ok(&server.request(&get("/quick")).await);
    let old = server.request("GET /quick HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
}

#[tokio::test]
async fn head_is_bounded_in_any_number_of_writes() {
    let server = TestServer::start(&[]);
    let of_length = |length: usize| {
        let frame = "GET /quick HTTP/1.1\r\nHost: localhost\r\nX: \r\n\r\n".len();
        let filler = "x".repeat(length - frame);
        format!("GET /quick HTTP/1.1\r\nHost: localhost\r\nX: {filler}\r\n\r\n")
    };
    for kib in [1, 60, 64] {
        assert_ok(&server.request(&of_length(kib * 1024)).await);
    }
    for length in [64 * 1024 + 1, 70_000, 100_000] {
        let mut client = server.connect().await;
        // The server may close while it is being written.
        let _reset = client.0.write_all(of_length(length).as_bytes()).await;
        let mut response = Vec::new();
        let _reset = client.0.read_to_end(&mut response).await;
        let response = String::from_utf8_lossy(&response);
        assert!(
            response.is_empty() || response.starts_with("HTTP/1.1 431 "),
            "{length}: {response}"
        );
    }
}

#[tokio::test]
async fn pause_between_requests_may_last_75_seconds() {
    let server = TestServer::start(&[]);
    let mut client = server.connect().await;
    assert_ok(&client.get("/quick").await);
    server.clock.advance(Duration::from_secs(70));
    server.sweep().await;
    assert_ok(&client.get("/quick").await);
    server.clock.advance(Duration::from_secs(75));
    server.sweep().await;
    client.closes().await;
}

#[tokio::test]
async fn head_of_one_byte_a_second_ends() {
    let server = TestServer::start(&[]);
    let mut client = server.connect().await;
    assert_ok(&client.get("/quick").await);
    server.clock.advance(Duration::from_secs(40));
    let mut seconds = 0;
    while !client.is_closed().await {
        client.send("G").await;
        settle().await;
        server.clock.advance(Duration::from_secs(1));
        seconds += 1;
    }
    assert!((30..=33).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn idle_connections_are_closed_first_then_incomplete_ones() {
    let server = TestServer::start(&[("MAX_CONNECTIONS", "5")]);
    let tick = || server.clock.advance(Duration::from_secs(1));
    let mut stalled_head = server.join().await;
    stalled_head.send("GET").await;
    settle().await;
    tick();
    let mut first_idle = server.join().await;
    assert_ok(&first_idle.get("/quick").await);
    tick();
    let mut second_idle = server.join().await;
    assert_ok(&second_idle.get("/quick").await);
    tick();
    let mut stalled_body = server.join().await;
    stalled_body.send(&post("/length", 9, "1")).await;
    server.all_stalled(1).await;
    tick();
    let mut running = server.join().await;
    running.send(&get("/never")).await;
    settle().await;
    tick();

    // Each new one keeps its place, since its handler is running.
    let mut newcomers = Vec::new();
    for victim in [
        &mut first_idle,
        &mut second_idle,
        &mut stalled_head,
        &mut stalled_body,
    ] {
        let mut newcomer = server.connect().await;
        newcomer.send(&get("/never")).await;
        victim.closes().await;
        newcomers.push(newcomer);
        settle().await;
        tick();
    }
    assert_eq!(server.limits.connections.count(), 5);
    let mut waiting = server.connect().await;
    waiting.send(&get("/quick")).await;
    settle().await;
    server.clock.advance(Duration::from_millis(100));
    for client in newcomers.iter_mut().chain([&mut running]) {
        assert!(!client.is_closed().await);
    }
    drop(newcomers.pop());
    // Its handler ends at the timeout, not now: a client may close only its sending half.
    server.clock.advance(Duration::from_secs(30));
    assert_ok(&waiting.response().await);
}

#[tokio::test]
async fn stalled_bodies_leave_room_for_others() {
    let server = TestServer::start(&[("MAX_REQUESTS", "3")]);
    let mut stalled = Vec::new();
    for count in 1..=3 {
        let mut client = server.connect().await;
        client.send(&post("/length", 9, "1")).await;
        server.all_stalled(count).await;
        stalled.push(client);
    }
    // After another byte, the first one is the least behind.
    stalled[0].send("2").await;
    settle().await;
    assert_ok(&server.request(&post("/length", 2, "12")).await);
    assert_problem(&stalled[1].response().await, 408, "request-timeout");
    assert_eq!(server.stalled(), 2);
    for mut client in [stalled.swap_remove(2), stalled.swap_remove(0)] {
        client.send("12345678").await;
        assert_ok(&client.response().await);
    }
}

#[tokio::test]
async fn request_without_room_is_503() {
    let server = TestServer::start(&[("MAX_REQUESTS", "2")]);
    let mut running = Vec::new();
    for _ in 0..2 {
        let mut client = server.join().await;
        client.send(&get("/never")).await;
        running.push(client);
    }
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 2).await;
    let response = server.request(&get("/quick")).await;
    assert_problem(&response, 503, "overloaded");
    assert_eq!(field(&response, "retry-after"), Some("1"));
    settle().await;
    server.clock.advance(Duration::from_secs(30));
    for client in &mut running {
        assert_problem(&client.response().await, 503, "handler-timeout");
    }
    assert_ok(&server.request(&get("/quick")).await);
}

#[tokio::test]
async fn memory_is_shared_and_small_bodies_have_room() {
    let server = TestServer::start(&[("MAX_REQUEST_BODY", "1GiB"), ("MAX_CONNECTIONS", "100")]);
    let piece = 256 * 1024;
    let mut stalled = Vec::new();
    for count in 1..=super::MEMORY / piece + 8 {
        let mut client = server.connect().await;
        client
            .send(&post("/length", piece, &"x".repeat(piece - 1)))
            .await;
        let _ = count;
        stalled.push(client);
        settle().await;
    }
    settle().await;
    let used = server.limits.memory.load(super::Ordering::Relaxed);
    assert!(used <= super::MEMORY, "{used}");
    let small = "x".repeat(SMALL_BODY);
    assert_ok(&server.request(&post("/length", small.len(), &small)).await);
    drop(stalled);
    server.clock.advance(Duration::from_secs(30));
    until(|| server.limits.memory.load(super::Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn streams_and_upgrades_use_half_of_the_connections() {
    let server = TestServer::start(&[("MAX_CONNECTIONS", "4"), ("SHUTDOWN_GRACE", "5s")]);
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut streaming = server.connect().await;
    assert!(
        streaming
            .get("/stream")
            .await
            .contains("transfer-encoding: chunked")
    );
    let mut upgraded = server.connect().await;
    upgraded.send(upgrade).await;
    assert!(upgraded.response().await.starts_with("HTTP/1.1 101 "));
    for request in [get("/stream"), upgrade.to_owned()] {
        let response = server.request(&request).await;
        assert_problem(&response, 503, "overloaded");
        assert_eq!(field(&response, "upgrade"), None);
    }
    // Neither is closed to make room or by the limit of a pause.
    server.clock.advance(Duration::from_secs(100));
    server.sweep().await;
    for _ in 0..4 {
        assert_ok(&server.request(&get("/quick")).await);
    }
    upgraded.send("echo").await;
    let mut echo = [0; 4];
    upgraded.0.read_exact(&mut echo).await.expect("an echo");
    assert_eq!(&echo, b"echo");
    // When one ends, another may begin.
    drop(streaming);
    until(|| server.limits.connections.count() == 1).await;
    let mut second = server.connect().await;
    second.send(upgrade).await;
    assert!(second.response().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn shutdown_closes_upgraded_connections_after_the_grace() {
    let mut server = TestServer::start(&[("SHUTDOWN_GRACE", "5s")]);
    let mut upgraded = server.connect().await;
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    upgraded.send(upgrade).await;
    assert!(upgraded.response().await.starts_with("HTTP/1.1 101 "));
    let mut running = server.connect().await;
    running.send(&get("/never")).await;
    settle().await;
    drop(server.stop.take());
    settle().await;
    assert!(!upgraded.is_closed().await);
    assert!(!running.is_closed().await);
    assert!(!server.served.is_finished());
    server.clock.advance(Duration::from_secs(5));
    upgraded.closes().await;
    running.closes().await;
    server.served.await.expect("no panic");
    assert_eq!(server.limits.connections.count(), 0);
}

#[tokio::test]
async fn shutdown_drains_http_2_and_ends_its_streams() {
    let mut server = TestServer::start(&[("SHUTDOWN_GRACE", "5s")]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let url = |path: &str| format!("http://{}{path}", server.address);
    let quick = client.get(url("/quick")).send().await.expect("a response");
    assert_eq!(quick.status(), StatusCode::OK);
    let never = tokio::spawn(client.get(url("/never")).send());
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 1).await;
    drop(server.stop.take());
    settle().await;
    assert!(!server.served.is_finished());
    server.clock.advance(Duration::from_secs(5));
    assert!(never.await.expect("no panic").is_err());
    server.served.await.expect("no panic");
    assert_eq!(server.limits.requests.load(super::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn idle_http_2_connection_ends_with_goaway_at_shutdown() {
    const GOAWAY: u8 = 7;
    let mut server = TestServer::start(&[]);
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    client.0.write_all(&empty_settings).await.expect("open");
    settle().await;
    drop(server.stop.take());
    let mut kinds = Vec::new();
    while !kinds.contains(&GOAWAY) {
        let mut head = [0; 9];
        client.0.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; usize::from(head[2])];
        client.0.read_exact(&mut payload).await.expect("a payload");
        kinds.push(head[3]);
    }
    drop(client);
    server.served.await.expect("no panic");
}

#[tokio::test]
async fn listener_stays_open_for_the_delay() {
    let mut server = TestServer::start(&[("SHUTDOWN_DELAY", "3s")]);
    let mut kept = server.connect().await;
    assert_eq!(field(&kept.get("/quick").await, "connection"), None);
    drop(server.stop.take());
    until(|| server.limits.is_draining()).await;
    let response = kept.get("/quick").await;
    assert_ok(&response);
    assert_eq!(field(&response, "connection"), Some("close"));
    kept.closes().await;
    let mut idle = server.join().await;
    let response = server.request(&get("/readyz")).await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("shutting down"), "{response}");
    settle().await;
    server.clock.advance(Duration::from_secs(3));
    idle.closes().await;
    server.served.await.expect("no panic");
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// When the shutdown starts, the kernel has established the connection and the server has not accepted it.
#[tokio::test]
async fn queued_connection_is_served_in_the_shutdown() {
    // It is random whether the server sees the connection or the shutdown first.
    for _ in 0..20 {
        let mut server = TestServer::start(&[]);
        assert_ok(&server.request(&get("/quick")).await);
        let mut client = std::net::TcpStream::connect(server.address).expect("a listener");
        std::io::Write::write_all(&mut client, get("/quick").as_bytes()).expect("room");
        client.set_nonblocking(true).expect("a socket");
        drop(server.stop.take());
        let mut client = TcpStream::from_std(client).expect("a runtime");
        let mut response = String::new();
        client
            .read_to_string(&mut response)
            .await
            .expect("a response");
        assert_ok(&response);
        server.served.await.expect("no panic");
    }
}

#[tokio::test]
async fn stored_responses_vary_by_origin() {
    let server = TestServer::start(&[]);
    let response = server.request(&get("/stored")).await;
    assert_eq!(field(&response, "vary"), Some("origin"));
    assert_eq!(field(&server.request(&get("/quick")).await, "vary"), None);
}

#[tokio::test]
async fn unread_body_does_not_keep_a_request_in_flight() {
    let server = TestServer::start(&[]);
    let mut client = server.connect().await;
    client.send(&post("/ignores", 100_000, "x")).await;
    assert!(client.response().await.starts_with("HTTP/1.1 204 "));
    until(|| server.limits.requests.load(super::Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn every_rejection_has_the_headers_of_a_response() {
    let server = TestServer::start(&[("MAX_REQUEST_BODY", "1B")]);
    let rejections: HashMap<&str, String> = HashMap::from([
        ("host", "GET /quick HTTP/1.1\r\n\r\n".to_owned()),
        ("body", post("/length", 2, "")),
    ]);
    for (name, request) in rejections {
        let response = server.request(&request).await;
        for header in ["x-request-id", "x-content-type-options", "cache-control"] {
            assert!(field(&response, header).is_some(), "{name}: {response}");
        }
    }
}

#[tokio::test]
async fn unread_http_2_response_is_not_in_flight_and_is_reset() {
    let server = TestServer::start(&[("REQUEST_TIMEOUT", "2m")]);
    let mut client = server.connect_http2(0).await;
    client.get_http2(1, "/never").await;
    until(|| server.in_flight() == 1).await;
    for stream in [3, 5, 7] {
        client.get_http2(stream, "/quick").await;
    }
    until(|| server.unread() == 3).await;
    assert_eq!(server.in_flight(), 1);
    assert!(server.memory() > 0);
    // The client reads one in time.
    client.send_frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 5]).await;
    until(|| server.unread() == 2).await;
    server.clock.advance(Duration::from_secs(29));
    settle().await;
    assert_eq!(server.unread(), 2);
    server.clock.advance(Duration::from_secs(1));
    settle().await;
    let mut reset = [
        client.frame(RST_STREAM).await,
        client.frame(RST_STREAM).await,
    ];
    reset.sort_unstable();
    assert_eq!(reset, [3, 7]);
    assert_eq!((server.unread(), server.memory()), (0, 0));
    // The connection stays open, and its handler goes on.
    assert_eq!(server.limits.connections.count(), 1);
}

#[tokio::test]
async fn unread_rest_of_a_response_closes_its_connection() {
    let server = TestServer::start(&[]);
    let mut client = server.connect_http2(1).await;
    client.get_http2(1, "/quick").await;
    // h2 has taken the response, but cannot send all of it.
    until(|| server.unread() == 1).await;
    client.send_frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 2]).await;
    settle().await;
    assert_eq!(server.unread(), 1);
    server.clock.advance(Duration::from_secs(30));
    client.closes().await;
    until(|| server.unread() == 0).await;
}

#[tokio::test]
async fn slow_reader_keeps_its_response_while_it_reads() {
    let server = TestServer::start(&[]);
    let mut client = server.connect_http2(0).await;
    client.get_http2(1, "/huge").await;
    until(|| server.unread() == 1).await;
    client
        .send_frame(WINDOW_UPDATE, 0, 0, &[0, 0x20, 0, 0])
        .await;
    for _ in 0..LARGE_RESPONSE / 32_768 {
        server.clock.advance(Duration::from_secs(20));
        settle().await;
        client
            .send_frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0x80, 0])
            .await;
        let mut received = 0;
        while received < 32_768 {
            let mut bytes = [0; 4096];
            received += client.0.read(&mut bytes).await.expect("an open connection");
        }
        settle().await;
    }
    until(|| server.unread() == 0).await;
    assert_eq!(server.limits.connections.count(), 1);
}

#[tokio::test]
async fn unread_responses_have_a_bound_over_all_connections() {
    let server = TestServer::start(&[]);
    let mut clients = Vec::new();
    for connection in 0..super::MAX_UNREAD / 100 + 2 {
        let mut client = server.connect_http2(0).await;
        // Keeps the connection from being closed.
        client.get_http2(1, "/never").await;
        for stream in 1..100 {
            client.get_http2(2 * stream + 1, "/quick").await;
        }
        clients.push(client);
        until(|| server.unread() >= ((connection + 1) * 99).min(super::MAX_UNREAD)).await;
        assert!(server.unread() <= super::MAX_UNREAD);
    }
    // The oldest were reset.
    clients[0].frame(RST_STREAM).await;
    // The requests of the last connection have ended, too.
    until(|| server.in_flight() == clients.len()).await;
    assert_ok(&server.request(&get("/quick")).await);
}

#[tokio::test]
async fn unread_responses_share_the_memory() {
    let server = TestServer::start(&[]);
    let mut clients = Vec::new();
    for _ in 0..super::MEMORY / LARGE_RESPONSE + 5 {
        let mut client = server.connect_http2(0).await;
        client.get_http2(1, "/huge").await;
        settle().await;
        clients.push(client);
    }
    until(|| server.in_flight() == 0).await;
    settle().await;
    assert!(server.memory() <= super::MEMORY, "{}", server.memory());
    clients[0].frame(RST_STREAM).await;
    let small = "x".repeat(SMALL_BODY);
    assert_ok(&server.request(&post("/length", small.len(), &small)).await);
}

#[tokio::test]
async fn handlers_that_wait_leave_places_for_others() {
    let server = TestServer::start(&[("MAX_REQUESTS", "16")]);
    let mut waiting = Vec::new();
    for count in 1..=14 {
        let mut client = server.join().await;
        client.send(&get("/never")).await;
        until(|| server.in_flight() == count).await;
        waiting.push(client);
    }
    settle().await;
    assert_problem(&server.request(&get("/never")).await, 503, "overloaded");
    assert_ok(&server.request(&get("/quick")).await);
    // A body may be late.
    let mut late = server.connect().await;
    late.send(&post("/length", 2, "1")).await;
    server.all_stalled(1).await;
    late.send("2").await;
    assert_ok(&late.response().await);
    let mut urgent = server.connect().await;
    urgent.send(&get("/urgent")).await;
    until(|| server.in_flight() == 15).await;
    settle().await;
    assert!(!urgent.is_closed().await);
    assert_eq!(server.in_flight(), 15);
}

#[tokio::test]
async fn memory_of_running_handlers_drops_no_late_bodies() {
    let server = TestServer::start(&[]);
    let mut late = server.connect().await;
    late.send(&post("/length", 2, "1")).await;
    let mut late_large = server.connect().await;
    let half = SMALL_BODY * 4;
    late_large
        .send(&post("/length", half + 1, &"x".repeat(half)))
        .await;
    server.all_stalled(2).await;
    let body = "x".repeat(200 * 1024);
    let mut holders = Vec::new();
    loop {
        let mut client = server.connect().await;
        client.send(&post("/holds", body.len(), &body)).await;
        settle().await;
        holders.push(client);
        if holders.len() > super::MEMORY / (2 * body.len()) + 2 {
            break;
        }
    }
    let rejected = holders.last_mut().expect("a client");
    assert_problem(&rejected.response().await, 503, "overloaded");
    assert!(server.memory() <= super::MEMORY, "{}", server.memory());
    assert!(server.stalled() >= 1);
    late.send("2").await;
    assert_ok(&late.response().await);
    let small = "x".repeat(SMALL_BODY);
    assert_ok(&server.request(&post("/length", small.len(), &small)).await);
}

#[tokio::test]
async fn copy_of_a_collected_body_is_accounted_for() {
    let server = TestServer::start(&[]);
    let length = 4 * SMALL_BODY;
    let mut client = server.connect().await;
    client
        .send(&post("/holds", length, &"x".repeat(length)))
        .await;
    until(|| server.memory() == 2 * length).await;
}

#[tokio::test]
async fn slow_bodies_are_dropped_before_those_just_started() {
    let server = TestServer::start(&[("MAX_REQUESTS", "3")]);
    let mut dripping = Vec::new();
    for count in 1..=2 {
        let mut client = server.connect().await;
        client.send(&post("/length", 9, "1")).await;
        server.all_stalled(count).await;
        dripping.push(client);
    }
    server.clock.advance(Duration::from_secs(10));
    let mut late = server.connect().await;
    late.send(&post("/length", 2, "1")).await;
    server.all_stalled(3).await;
    server.clock.advance(Duration::from_secs(1));
    for client in &mut dripping {
        client.send("2").await;
        settle().await;
    }
    let mut running = Vec::new();
    for client in &mut dripping {
        assert_ok(&server.request(&post("/length", 2, "12")).await);
        let mut next = server.connect().await;
        next.send(&get("/never")).await;
        assert_problem(&client.response().await, 408, "request-timeout");
        running.push(next);
    }
    late.send("2").await;
    assert_ok(&late.response().await);
}

#[tokio::test]
async fn each_connection_has_one_of_the_reserved_places() {
    let server = TestServer::start(&[("MAX_REQUESTS", "16")]);
    let mut waiting = Vec::new();
    for count in 1..=14 {
        let mut client = server.join().await;
        client.send(&get("/never")).await;
        until(|| server.in_flight() == count).await;
        waiting.push(client);
    }
    let mut streams = server.connect_http2(0).await;
    streams.get_http2(1, "/urgent").await;
    until(|| server.in_flight() == 15).await;
    streams.get_http2(3, "/urgent").await;
    // The rejection is a response that the client does not read.
    until(|| server.unread() == 1).await;
    assert_eq!(server.in_flight(), 15);
    assert_ok(&server.request(&get("/quick")).await);
}

#[tokio::test]
async fn connection_is_not_closed_before_it_tries_to_read() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Duration::ZERO));
    let config = Config::of_variables(&[]);
    let limits = Arc::new(Limits::new(config.http.limits(), 2, Arc::clone(&clock)));
    let ticket = limits.connections.admit(&limits).await;
    let closes = || limits.connections.close_first(super::Need::Place, &clock);
    assert!(closes().is_none());
    ticket.connection.note_read_attempt();
    assert!(closes().is_some());
}
