//! The program with a collector: a receiver on loopback that decodes OTLP requests.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind, status::StatusCode as OtlpStatus},
};
use poem::{
    Body, Endpoint, EndpointExt, Request, Response, Route, Server,
    endpoint::make,
    http::{HeaderMap, StatusCode},
    listener::{Acceptor, TcpAcceptor},
};
use poem_hanko::{Clock, SystemClock, testing::LocalHanko};
use prost::Message;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

use super::{Seen, only};
use crate::{
    revocations::{Redis, vacant_port},
    support::{ada, client, send, within},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// Serves an endpoint on loopback until the test ends.
async fn serve(endpoint: impl Endpoint + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
    assert_eq!(acceptor.local_addr().len(), 1);
    tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint));
    address
}

/// The spans that a collector has received.
#[derive(Clone, Debug, Default)]
struct Received {
    spans: Vec<Seen>,
    resource: Vec<(String, String)>,
    headers: HeaderMap,
}

struct Collector {
    url: String,
    received: watch::Receiver<Received>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, received) = watch::channel(Received::default());
        let take = make(move |request: Request| {
            let sender = sender.clone();
            async move {
                let headers = request.headers().clone();
                let body = request.into_body().into_bytes().await.unwrap();
                let export = ExportTraceServiceRequest::decode(&*body).unwrap();
                sender.send_modify(|received| received.add(&export, headers));
                Ok::<_, poem::Error>(StatusCode::OK)
            }
        });
        let address = serve(Route::new().at("/v1/traces", take)).await;
        Self {
            url: format!("http://{address}"),
            received,
        }
    }

    /// Waits until there are spans of all these names, and returns all.
    async fn until(&mut self, names: &[&str]) -> Vec<Seen> {
        let received = within(self.received.wait_for(|received| {
            let is_there = |name: &&str| received.spans.iter().any(|span| span.name == **name);
            names.iter().all(is_there)
        }));
        received.await.unwrap().spans.clone()
    }
}

impl Received {
    fn add(&mut self, export: &ExportTraceServiceRequest, headers: HeaderMap) {
        self.headers = headers;
        for resource in &export.resource_spans {
            self.resource = attributes(&resource.resource.as_ref().unwrap().attributes);
            let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
            self.spans.extend(spans.map(seen));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15];
    let letter = |digit| char::from_digit(u32::from(digit), 16).expect("a digit");
    bytes.iter().flat_map(digits).map(letter).collect()
}

fn attributes(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        Any::BoolValue(value) => Some(value.to_string()),
        _ => None,
    };
    attributes
        .iter()
        .map(|attribute| {
            let value = text(attribute).unwrap_or_else(|| panic!("{attribute:?}"));
            (attribute.key.clone(), value)
        })
        .collect()
}

fn seen(span: &Span) -> Seen {
    assert!(span.events.is_empty(), "lines of the log: {span:?}");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    Seen {
        name: span.name.clone(),
        kind: match span.kind() {
            SpanKind::Server => "server",
            SpanKind::Client => "client",
            SpanKind::Internal => "internal",
            other => panic!("{other:?}"),
        },
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span
            .links
            .iter()
            .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
            .collect(),
        attributes: attributes(&span.attributes).into_iter().collect(),
        is_error: span
            .status
            .as_ref()
            .is_some_and(|status| status.code() == OtlpStatus::Error),
    }
}

/// The `traceparent` of each request that Hanko has received, by method and path.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Passes requests on to the local Hanko, and records their `traceparent`.
async fn hanko_noting(local_hanko: &LocalHanko, asked: &Asked) -> String {
    let (target, asked) = (local_hanko.url(), Arc::clone(asked));
    let pass_on = make(move |request: Request| {
        let (target, asked) = (target.clone(), Arc::clone(&asked));
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let parent = request.header("traceparent").map(ToOwned::to_owned);
            asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((format!("{method} {path}"), parent));
            let mut passed_on = client().request(method, format!("{target}{path}"));
            for name in ["authorization", "content-type"] {
                if let Some(value) = request.header(name) {
                    passed_on = passed_on.header(name, value);
                }
            }
            let body = request.into_body().into_bytes().await.unwrap();
            let response = send(passed_on.body(body)).await;
            let status = response.status();
            let body = response.bytes().await.unwrap();
            Ok::<_, poem::Error>(Response::builder().status(status).body(Body::from(body)))
        }
    });
    let address = serve(Route::new().nest("/", pass_on.boxed())).await;
    format!("http://{address}")
}

fn asked_with(asked: &Asked, request: &str) -> Vec<Option<String>> {
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked
        .iter()
        .filter(|(name, _)| name == request)
        .map(|(_, parent)| parent.clone())
        .collect()
}

/// The program, and its log as JSON.
struct Program {
    child: Child,
    url: String,
    log: Arc<Mutex<Vec<Value>>>,
    _folder: tempfile::TempDir,
}

impl Program {
    async fn start(hanko: &str, variables: &[(&str, &str)], in_file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".env"), in_file).unwrap();
        let mut child = program(folder.path(), hanko, variables)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (address, mut listening) = watch::channel(None);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or(line.into());
                if line["event"] == "listening" {
                    address.send_replace(line["address"].as_str().map(ToOwned::to_owned));
                }
                written
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        let mut program = Self {
            child,
            url: String::new(),
            log,
            _folder: folder,
        };
        let address = within(listening.wait_for(Option::is_some)).await;
        let address = address
            .unwrap_or_else(|_| panic!("it has ended: {:?}", program.log()))
            .clone();
        program.url = format!("http://{}", address.unwrap());
        program
    }

    fn get(&self, path: &str, token: &str) -> reqwest::RequestBuilder {
        client()
            .get(format!("{}{path}", self.url))
            .bearer_auth(token)
    }

    fn log(&self) -> Vec<Value> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn lines(&self, event: &str) -> Vec<Value> {
        let mut lines = self.log();
        lines.retain(|line| line["event"] == event);
        lines
    }

    async fn until_logged(&self, event: &str) -> Value {
        within(async {
            loop {
                if let Some(line) = self.lines(event).pop() {
                    return line;
                }
                SystemClock::new().sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Ends it by SIGTERM, and returns how long that took.
    async fn stop(mut self) -> Duration {
        let clock = SystemClock::new();
        let began_at = clock.monotonic();
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.unwrap().success());
        within(async {
            while self.child.try_wait().unwrap().is_none() {
                clock.sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        clock.monotonic().saturating_sub(began_at)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(folder: &Path, hanko: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poem-hanko"));
    command
        .current_dir(folder)
        .env_clear()
        .envs([
            ("HANKO_API_URL", hanko),
            ("PORT", "0"),
            ("LOG_FORMAT", "json"),
            ("ACCESS_LOG", "true"),
        ])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The variables that send spans to the collector soon after they have ended.
fn exported_to(collector: &Collector) -> [(&str, &str); 2] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ]
}

const TRUSTED: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.1");

async fn local_hanko() -> LocalHanko {
    LocalHanko::builder()
        .start()
        .await
        .expect("the local Hanko starts")
}

#[tokio::test]
async fn request_verification_and_validation_are_one_trace() {
    let local_hanko = local_hanko().await;
    let asked = Asked::default();
    let hanko = hanko_noting(&local_hanko, &asked).await;
    let mut collector = Collector::start().await;
    let mut variables = exported_to(&collector).to_vec();
    // The log says nothing below a warning, and the spans are exported all the same.
    variables.extend([TRUSTED, ("RUST_LOG", "warn,poem_hanko=info")]);
    variables.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"));
    let program = Program::start(&hanko, &variables, "").await;
    let session = local_hanko.sign_in(&ada());
    let request = program
        .get("/protected?password=hunter2", &session.token)
        .header("traceparent", traceparent("01"))
        .header("x-request-id", "from-the-proxy");
    assert_eq!(send(request).await.status(), 200);
    let spans = collector
        .until(&["GET /protected", "POST /sessions/validate"])
        .await;

    let of_request = only(&spans, "GET /protected");
    assert_eq!(of_request.kind, "server");
    assert_eq!((&*of_request.trace, &*of_request.parent), (TRACE, PARENT));
    of_request.assert_attributes(&[
        ("http.request.method", "GET"),
        ("http.route", "/protected"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("request_id", "from-the-proxy"),
    ]);
    let authenticated = only(&spans, "authenticate");
    let validation = only(&spans, "validate session");
    let sent = only(&spans, "POST /sessions/validate");
    for (child, parent) in [
        (authenticated, of_request),
        (validation, authenticated),
        (sent, validation),
    ] {
        assert_eq!((&child.parent, &*child.trace), (&parent.id, TRACE));
    }
    authenticated.assert_attributes(&[("hanko.outcome", "accepted")]);
    validation.assert_attributes(&[("hanko.outcome", "active")]);
    let (url, port) = (
        format!("{hanko}/sessions/validate"),
        hanko.rsplit(':').next().unwrap().to_owned(),
    );
    sent.assert_attributes(&[
        ("http.request.method", "POST"),
        ("url.template", "/sessions/validate"),
        ("url.full", &url),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("http.response.status_code", "200"),
    ]);
    assert_eq!(
        asked_with(&asked, "POST /sessions/validate"),
        [Some(format!("00-{TRACE}-{}-01", sent.id))]
    );
    // No request caused the fetch of the keys.
    let fetch = only(&spans, "GET /.well-known/jwks.json");
    assert!(fetch.parent.is_empty() && fetch.links.is_empty());
    assert_eq!(
        asked_with(&asked, "GET /.well-known/jwks.json"),
        [Some(format!("00-{}-{}-01", fetch.trace, fetch.id))]
    );
    let line = program.until_logged("access").await;
    assert_eq!(line["trace_id"], TRACE, "{line}");

    let received = collector.received.borrow().clone();
    assert_eq!(received.headers["x-tenant"], "blue");
    assert_eq!(received.headers["content-type"], "application/x-protobuf");
    // The export itself is in no trace.
    assert!(!received.headers.contains_key("traceparent"));
    let service = ("service.name".to_owned(), "poem-hanko".to_owned());
    assert!(
        received.resource.contains(&service),
        "{:?}",
        received.resource
    );
    let all = format!("{received:?}");
    for secret in session.token.split('.').chain(["hunter2", "ada@"]) {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
}

#[tokio::test]
async fn only_well_formed_callers_behind_trusted_proxies_count() {
    let local_hanko = local_hanko().await;
    for (trusted, header) in [
        ("10.0.0.0/8", traceparent("01")),
        ("", traceparent("01")),
        ("127.0.0.1", traceparent("01") + "-more"),
        ("127.0.0.1", traceparent("01").to_uppercase()),
    ] {
        let mut collector = Collector::start().await;
        let mut variables = exported_to(&collector).to_vec();
        variables.push(("TRUSTED_PROXIES", trusted));
        let program = Program::start(&local_hanko.url(), &variables, "").await;
        let request = program.get("/", "").header("traceparent", &header);
        assert_eq!(send(request).await.status(), 200);
        let spans = collector.until(&["GET /"]).await;
        let span = only(&spans, "GET /");
        assert!(span.parent.is_empty(), "{trusted} {header}: {span:?}");
        assert_ne!(span.trace, TRACE, "{trusted} {header}");
    }
}

#[tokio::test]
async fn unsampled_trace_is_passed_on_and_not_exported() {
    let local_hanko = local_hanko().await;
    let asked = Asked::default();
    let hanko = hanko_noting(&local_hanko, &asked).await;
    let mut collector = Collector::start().await;
    let mut variables = exported_to(&collector).to_vec();
    variables.push(TRUSTED);
    let program = Program::start(&hanko, &variables, "").await;
    let token = local_hanko.sign_in(&ada()).token;
    let unsampled = program
        .get("/protected", &token)
        .header("traceparent", traceparent("00"));
    assert_eq!(send(unsampled).await.status(), 200);
    let line = program.until_logged("access").await;
    assert_eq!(line["trace_id"], Value::Null, "{line}");
    // A sampled trace follows.
    assert_eq!(send(program.get("/me", &token)).await.status(), 200);
    let spans = collector.until(&["GET /me"]).await;
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:#?}");
    let passed_on = asked_with(&asked, "POST /sessions/validate");
    let [Some(passed_on)] = &passed_on[..] else {
        panic!("{passed_on:?}");
    };
    assert!(passed_on.starts_with(&format!("00-{TRACE}-")) && passed_on.ends_with("-00"));
}

#[tokio::test]
async fn no_span_contains_client_input() {
    let local_hanko = local_hanko().await;
    let mut collector = Collector::start().await;
    let program = Program::start(&local_hanko.url(), &exported_to(&collector), "").await;
    let forged = "eyJhbGciOiJSUzI1NiJ9.hunter2.AAAA";
    let requests = [
        program.get("/hunter2/eyJ", forged),
        program.get("/protected", forged),
        client().request("HUNTER2".parse().unwrap(), format!("{}/me", program.url)),
    ];
    for request in requests {
        let request = request
            .header("cookie", "hanko=hunter2")
            .header("x-request-id", "hunter2 hunter2")
            .header("user-agent", "hunter2");
        assert!(send(request).await.status().is_client_error());
    }
    let spans = collector
        .until(&["GET", "GET /protected", "HTTP /me"])
        .await;
    only(&spans, "GET /protected").assert_attributes_except_ids(&[
        ("http.request.method", "GET"),
        ("http.route", "/protected"),
        ("http.response.status_code", "401"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
    ]);
    let reasons: Vec<_> = spans
        .iter()
        .filter_map(|span| span.attributes.get("hanko.reason"))
        .collect();
    assert_eq!(reasons, ["not-base64url"], "{spans:#?}");
    let all = format!("{spans:?}");
    assert!(
        !all.contains("hunter2") && !all.contains("HUNTER2"),
        "{all}"
    );
    assert!(!all.contains("eyJ"), "{all}");
}

#[tokio::test]
async fn unavailable_hanko_is_an_error_of_its_spans() {
    let local_hanko = local_hanko().await;
    let mut collector = Collector::start().await;
    let program = Program::start(&local_hanko.url(), &exported_to(&collector), "").await;
    let token = local_hanko.sign_in(&ada()).token;
    let _keys = collector.until(&["GET /.well-known/jwks.json"]).await;
    local_hanko.set_fault(poem_hanko::testing::Fault::InternalError);
    assert_eq!(send(program.get("/protected", &token)).await.status(), 503);
    let spans = collector
        .until(&["GET /protected", "POST /sessions/validate"])
        .await;
    for (name, error) in [
        ("GET /protected", Some("503")),
        ("authenticate", None),
        ("validate session", Some("status")),
        ("POST /sessions/validate", Some("status")),
    ] {
        let span = only(&spans, name);
        assert!(span.is_error, "{span:?}");
        let found = span.attributes.get("error.type").map(String::as_str);
        assert_eq!(found, error, "{span:?}");
    }
}

#[tokio::test]
async fn revocation_is_stored_in_the_trace_of_its_webhook() {
    let Some(redis) = Redis::start() else { return };
    let local_hanko = local_hanko().await;
    let mut collector = Collector::start().await;
    let url = redis.url();
    let mut variables = exported_to(&collector).to_vec();
    variables.push(("REVOCATION_STORE_URL", &url));
    let program = Program::start(&local_hanko.url(), &variables, "").await;
    let spans = collector
        .until(&["SCAN", "SUBSCRIBE", "GET /.well-known/jwks.json"])
        .await;
    assert!(only(&spans, "SCAN").parent.is_empty());
    let session = local_hanko.sign_in(&ada());
    let data = local_hanko.session_data(session.session_id).unwrap();
    let webhook = client()
        .post(format!("{}/webhooks/hanko", program.url))
        .json(&local_hanko.webhook_body("session.delete", &data));
    assert_eq!(send(webhook).await.status(), 204);
    let spans = collector.until(&["SET", "POST /webhooks/hanko"]).await;
    let (stored, webhook) = (only(&spans, "SET"), only(&spans, "POST /webhooks/hanko"));
    assert_eq!(
        (&stored.parent, &stored.trace),
        (&webhook.id, &webhook.trace)
    );
    let port = url.rsplit(':').next().unwrap();
    stored.assert_attributes(&[
        ("db.system.name", "redis"),
        ("db.operation.name", "SET"),
        ("server.address", "127.0.0.1"),
        ("server.port", port),
    ]);
}

#[tokio::test]
async fn last_spans_are_exported_at_the_end() {
    let local_hanko = local_hanko().await;
    let mut collector = Collector::start().await;
    let endpoint = format!("{}/v1/traces", collector.url);
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_SERVICE_NAME", "notes"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ];
    let program = Program::start(&local_hanko.url(), &variables, "").await;
    assert_eq!(send(program.get("/", "")).await.status(), 200);
    assert!(collector.received.borrow().spans.is_empty());
    program.stop().await;
    only(&collector.until(&["GET /"]).await, "GET /");
    let resource = collector.received.borrow().resource.clone();
    for (name, value) in [
        ("service.name", "notes"),
        ("deployment.environment.name", "test"),
    ] {
        let expected = (name.to_owned(), value.to_owned());
        assert!(resource.contains(&expected), "{resource:?}");
    }
}

#[tokio::test]
async fn missing_collector_changes_nothing() {
    let local_hanko = local_hanko().await;
    // Accepts connections and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for port in [vacant_port(), silent.local_addr().unwrap().port()] {
        let endpoint = format!("http://u:hunter2@127.0.0.1:{port}");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("SHUTDOWN_GRACE", "1s"),
        ];
        let program = Program::start(&local_hanko.url(), &variables, "").await;
        let token = local_hanko.sign_in(&ada()).token;
        for _ in 0..20 {
            assert_eq!(send(program.get("/protected", &token)).await.status(), 200);
        }
        let line = program.until_logged("traces_not_exported").await;
        assert_eq!(line["level"], "WARN", "{line}");
        for _ in 0..20 {
            assert_eq!(send(program.get("/protected", &token)).await.status(), 200);
        }
        assert_eq!(program.lines("traces_not_exported").len(), 1);
        let log = format!("{:?}", program.log());
        assert!(!log.contains("hunter2"), "{log}");
        let took = program.stop().await;
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test]
async fn variables_of_opentelemetry_in_the_file_are_ignored() {
    let local_hanko = local_hanko().await;
    let collector = Collector::start().await;
    let in_file = format!(
        "OTEL_EXPORTER_OTLP_ENDPOINT={}\nOTEL_BSP_SCHEDULE_DELAY=10\n",
        collector.url
    );
    let program = Program::start(&local_hanko.url(), &[], &in_file).await;
    assert_eq!(send(program.get("/", "")).await.status(), 200);
    let names: Vec<Value> = program
        .lines("otel_variable_ignored")
        .iter()
        .map(|line| line["variable"].clone())
        .collect();
    assert_eq!(
        names,
        ["OTEL_BSP_SCHEDULE_DELAY", "OTEL_EXPORTER_OTLP_ENDPOINT"]
    );
    let line = program.until_logged("access").await;
    assert_eq!(line["trace_id"], Value::Null, "{line}");
    program.stop().await;
    assert!(collector.received.borrow().spans.is_empty());
}

#[tokio::test]
async fn traces_can_be_turned_off() {
    let local_hanko = local_hanko().await;
    for off in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let collector = Collector::start().await;
        let mut variables = exported_to(&collector).to_vec();
        variables.push(off);
        let program = Program::start(&local_hanko.url(), &variables, "").await;
        assert_eq!(send(program.get("/", "")).await.status(), 200);
        program.stop().await;
        assert!(collector.received.borrow().spans.is_empty(), "{off:?}");
    }
}

#[test]
fn wrong_endpoint_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318/hunter2@")];
    let output = program(folder.path(), "http://127.0.0.1:1", &variables)
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn check_reports_traces() {
    let local_hanko = local_hanko().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "OTEL_SERVICE_NAME=x\n").unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let mut check = program(folder.path(), &local_hanko.url(), &variables);
    check.arg("check").stdout(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || check.output());
    let output = within(output).await.unwrap().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(
        report.contains("Traces        exported by OTLP"),
        "{report}"
    );
    for warning in [
        "OTEL_SERVICE_NAME in .env",
        "OTEL_EXPORTER_OTLP_PROTOCOL is ignored",
    ] {
        assert!(report.contains(warning), "{warning}: {report}");
    }
}

#[tokio::test]
async fn spans_are_not_in_the_log() {
    let local_hanko = local_hanko().await;
    let mut collector = Collector::start().await;
    let mut variables = exported_to(&collector).to_vec();
    variables.push(("RUST_LOG", "trace"));
    let program = Program::start(&local_hanko.url(), &variables, "").await;
    let token = local_hanko.sign_in(&ada()).token;
    assert_eq!(send(program.get("/protected", &token)).await.status(), 200);
    // The line of the level debug is within a span that is for the log alone.
    let spans = collector.until(&["GET /protected", "authenticate"]).await;
    let authenticated = only(&spans, "authenticate");
    assert_eq!(authenticated.parent, only(&spans, "GET /protected").id);
    let line = program.until_logged("responded").await;
    assert_eq!(line["span"]["name"], "request", "{line}");

    // Not even if a filter names them.
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url),
        ("RUST_LOG", "info,poem_hanko::trace=trace"),
        ("ACCESS_LOG", "false"),
    ];
    let program = Program::start(&local_hanko.url(), &variables, "").await;
    assert_eq!(send(program.get("/protected", "x")).await.status(), 401);
    let line = program.until_logged("request_rejected").await;
    assert_eq!(line["spans"], Value::Null, "{line}");
}
