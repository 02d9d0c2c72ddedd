//! `examples/streams.rs` under load: 1,000 open streams of 500 sessions, half of which end by webhook.
//!
//! Each stream needs a descriptor in the server and one in the client, so these are processes of their own, whose soft limit
//! is raised to the hard limit. The local Hanko is in the process of the test.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use poem_hanko::{
    Clock, SystemClock,
    testing::{LocalHanko, Person},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::JoinSet,
};

const SESSIONS: usize = 500;
const ENDED: usize = 250;
/// A generous bound for a busy machine; the figures are printed.
const BOUND: Duration = Duration::from_secs(1);
/// How long to wait for a condition before the test fails.
const PATIENCE: Duration = Duration::from_mins(2);
/// The address of the server, for the process of [`clients`].
const SERVER: &str = "POEM_HANKO_TEST_STREAMS_SERVER";
/// How many streams are opened at the same time.
const OPENED_AT_ONCE: usize = 50;

/// Writes a line that libtest does not capture.
fn report(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command with as many descriptors as this user may have.
fn with_descriptors(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#])
        .arg(program);
    command
}

/// Starts the example and returns its URL.
fn start_server(hanko_url: &str) -> (Process, String) {
    // target/debug/deps/streams-… is this test.
    let test = std::env::current_exe().unwrap();
    let example = test
        .parent()
        .and_then(|deps| deps.parent())
        .unwrap()
        .join("examples/streams");
    assert!(
        example.exists(),
        "{} is missing: `cargo test` builds it unless told which targets to test; then run `cargo build --example streams`",
        example.display()
    );
    let mut process = with_descriptors(example)
        .env_clear()
        .envs([("HANKO_API_URL", hanko_url), ("PORT", "0")])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let url = log.by_ref().find_map(|line| {
        let line = line.unwrap();
        let (_, fields) = line.split_once(r#"event="listening""#)?;
        let (_, rest) = fields.split_once(" address=")?;
        let address = rest.split(' ').next()?;
        Some(format!("http://{address}"))
    });
    // Keeps the pipe open, without the need to read it.
    std::mem::forget(log);
    (Process(process), url.expect("it listens"))
}

/// The report of the process of [`clients`] about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Opened,
    Heartbeat,
    /// The server has sent the reason and closed the stream at this time since 1970-01-01T00:00:00Z.
    Closed(Duration),
}

impl Report {
    fn send(self, stream: usize) {
        match self {
            Self::Opened => report(&format!("opened {stream}")),
            Self::Heartbeat => report(&format!("heartbeat {stream}")),
            Self::Closed(at) => report(&format!("closed {stream} {}", at.as_micros())),
        }
    }

    fn parse(line: &str) -> Option<(usize, Self)> {
        let mut words = line.split(' ');
        let (name, stream) = (words.next()?, words.next()?.parse().ok()?);
        let seen = match name {
            "opened" => Self::Opened,
            "heartbeat" => Self::Heartbeat,
            "closed" => Self::Closed(Duration::from_micros(words.next()?.parse().ok()?)),
            _ => return None,
        };
        Some((stream, seen))
    }
}

/// The process that keeps the streams open: one with SSE for each session, then as many with a
/// WebSocket.
struct Clients {
    reports: mpsc::UnboundedReceiver<(usize, Report)>,
    _process: Process,
}

impl Clients {
    fn start<'a>(server: &str, tokens: impl Iterator<Item = &'a str>) -> Self {
        let mut process = with_descriptors(std::env::current_exe().unwrap())
            .args(["--exact", "clients", "--ignored", "--nocapture"])
            .env(SERVER, server)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (sender, reports) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                match Report::parse(&line) {
                    Some(seen) => drop(sender.send(seen)),
                    None => report(&format!("the clients: {line}")),
                }
            }
        });
        for token in tokens {
            writeln!(stdin, "{token}").unwrap();
        }
        Self {
            reports,
            _process: Process(process),
        }
    }

    async fn next(&mut self) -> (usize, Report) {
        within(self.reports.recv())
            .await
            .expect("the clients have ended")
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test that would hang must fail, whatever its clock says"
)]
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it never came about")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_closes_the_streams_of_its_session_alone() {
    let clock = SystemClock::new();
    let local_hanko = LocalHanko::builder().start().await.unwrap();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|number| {
            local_hanko.sign_in(&Person::with_email(format!("person-{number}@example.com")))
        })
        .collect();
    let (_server, url) = start_server(&local_hanko.url());
    local_hanko.send_webhooks_to(format!("{url}/webhooks/hanko"));
    let mut clients = Clients::start(&url, sessions.iter().map(|session| session.token.as_str()));
    let mut opened = 0;
    while opened < 2 * SESSIONS {
        let (stream, seen) = clients.next().await;
        assert!(!matches!(seen, Report::Closed(_)), "{stream} was closed");
        opened += usize::from(seen == Report::Opened);
    }

    let mut responses = HashMap::new();
    // Every other session.
    for number in (0..SESSIONS).step_by(SESSIONS / ENDED) {
        let ended = local_hanko.end_session(sessions[number].session_id).await;
        responses.insert(number, clock.unix_time());
        ended.unwrap().unwrap();
    }
    let mut delays = Vec::new();
    while delays.len() < 2 * responses.len() {
        let (stream, seen) = clients.next().await;
        if let Report::Closed(at) = seen {
            let responded_at = responses
                .get(&(stream % SESSIONS))
                .expect("only streams of ended sessions are closed");
            delays.push(at.saturating_sub(*responded_at));
        }
    }
    delays.sort_unstable();
    let [median, p99, most] = [50, 99, 100].map(|share| delays[(delays.len() - 1) * share / 100]);
    report(&format!(
        "closed after the response to the webhook: median {median:?}, 99% {p99:?}, most {most:?}"
    ));
    assert!(p99 <= BOUND, "{p99:?}");

    // Reports from now on were made after the last of these streams was closed.
    let mut heartbeats: HashMap<usize, u32> = HashMap::new();
    while heartbeats.values().filter(|count| **count >= 2).count() < 2 * (SESSIONS - ENDED) {
        let (stream, seen) = clients.next().await;
        assert_eq!(seen, Report::Heartbeat, "of {stream}");
        *heartbeats.entry(stream).or_default() += 1;
    }
    assert!(
        heartbeats
            .keys()
            .all(|stream| !responses.contains_key(&(stream % SESSIONS)))
    );
}

/// Keeps the streams of the sessions open whose tokens are the lines of standard input, and reports their messages.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process of the clients, which the other test starts"]
async fn clients() {
    let Some(server) = std::env::var_os(SERVER) else {
        return;
    };
    let server = server.into_string().unwrap();
    let tokens: Vec<String> = io::stdin().lines().map(Result::unwrap).collect();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let opening = Arc::new(Semaphore::new(OPENED_AT_ONCE));
    let mut streams = JoinSet::new();
    for (number, token) in tokens.iter().chain(&tokens).enumerate() {
        let (server, token) = (server.clone(), token.clone());
        let (http, opening) = (http.clone(), Arc::clone(&opening));
        let is_events = number < tokens.len();
        streams.spawn(async move {
            let stream = Stream::new(number, opening.acquire().await.unwrap());
            if is_events {
                follow_events(&http, &server, &token, stream).await;
            } else {
                follow_socket(&server, &token, stream).await.unwrap();
            }
        });
    }
    streams.join_all().await;
}

/// A stream as its client sees it.
struct Stream<'a> {
    number: usize,
    /// Held until the first message has arrived.
    opening: Option<SemaphorePermit<'a>>,
    has_ended: bool,
}

impl<'a> Stream<'a> {
    fn new(number: usize, opening: SemaphorePermit<'a>) -> Self {
        Self {
            number,
            opening: Some(opening),
            has_ended: false,
        }
    }

    fn receive(&mut self, json: &str) {
        let message: serde_json::Value = serde_json::from_str(json).unwrap();
        let is_first = self.opening.take().is_some();
        match message["kind"].as_str() {
            Some("opened") if is_first => Report::Opened.send(self.number),
            Some("heartbeat") if !is_first => Report::Heartbeat.send(self.number),
            Some("ended") => {
                assert_eq!(message["reason"], "the session was revoked");
                self.has_ended = true;
            }
            _ => panic!("unexpected: {json}"),
        }
    }

    fn close(&self) {
        let now = SystemClock::new().unix_time();
        assert!(
            self.has_ended,
            "{} was closed without a reason",
            self.number
        );
        Report::Closed(now).send(self.number);
    }
}

async fn follow_events(http: &reqwest::Client, server: &str, token: &str, mut stream: Stream<'_>) {
    let request = http.get(format!("{server}/events")).bearer_auth(token);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = str::from_utf8(&line).unwrap();
            if let Some(data) = line.strip_prefix("data: ") {
                stream.receive(data);
            }
        }
    }
    stream.close();
}

/// A WebSocket client that only reads, so that it needs no mask (RFC 6455 section 5.3).
async fn follow_socket(server: &str, token: &str, mut stream: Stream<'_>) -> io::Result<()> {
    let host = server.strip_prefix("http://").unwrap();
    let mut socket = tokio::io::BufReader::new(TcpStream::connect(host).await?);
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line);
    }
    assert!(
        lines.first().is_some_and(|line| line.contains(" 101 ")),
        "{lines:?}"
    );
    let mut is_closing = false;
    while let Ok(head) = socket.read_u8().await {
        let length = match socket.read_u8().await? {
            126 => usize::from(socket.read_u16().await?),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await?;
        match head {
            0x81 => stream.receive(str::from_utf8(&payload).unwrap()),
            0x88 => {
                // 1008, "policy violation", and the reason.
                assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                is_closing = true;
            }
            _ => panic!("unexpected frame {head:#x}"),
        }
    }
    assert!(is_closing, "{} was cut off", stream.number);
    stream.close();
    Ok(())
}
