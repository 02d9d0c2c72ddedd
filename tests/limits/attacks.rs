//! Attacks the real server, and checks its memory and the responses to a normal client. Run it with `tests/limits/run`.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures a real program in real time, and gives up when that hangs"
)]

use std::{
    env, fs,
    net::SocketAddr,
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem_hanko::testing::{Fault, LocalHanko, Person};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{self, Instant},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much the resident set may grow, besides the memory of open connections.
const MAX_GROWTH: usize = 96_000_000;
/// How much it may grow for each open connection.
const MAX_PER_CONNECTION: usize = 15_000;
/// The time within which a normal client gets its response.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an attack lasts.
const WATCH: Duration = Duration::from_secs(2);
/// How long an attack lasts that makes handlers wait for Hanko: longer than each of them waits.
const LONG_WATCH: Duration = Duration::from_secs(12);
/// How many descriptors an attacker needs besides those of its connections.
const RESERVED: usize = 50;
const STALLED_BODY: usize = 262_144;
const GENUINE_WEBHOOKS: usize = 100;

/// What an attacker does with each of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// 100 streams of 1,900 indexed fields of one byte each.
    Fields,
    /// 100 streams of as many indexed fields as a header list may hold.
    AllowedFields,
    /// 100 streams without a body that was announced.
    Streams,
    /// Entries of the dynamic table, each of which keeps the buffer of a frame alive.
    Table,
    /// The same, in a table that was emptied and immediately enlarged again.
    EnlargedTable,
    /// A header block that does not end.
    OpenBlock,
    /// Small data frames that no handler reads.
    SmallData,
    /// Responses that are never read.
    Unread,
    /// No bytes at all.
    Silent,
    /// A head of 60 KiB that does not end.
    Heads,
    /// Bodies that lack one byte, continually replaced.
    Bodies,
    /// One request on each connection, which is then kept.
    KeptAlive,
    /// Responses that are never read, beside one handler that waits: a forged webhook.
    UnreadAndWaiting,
    /// Responses of which one byte is read, and sockets of which nothing is read.
    UnreadRest,
    /// Tokens of an unknown key, while Hanko's key endpoint hangs.
    UnknownKeys,
    /// Forged webhooks of 196 KB, while Hanko's key endpoint hangs.
    LargeForged,
    /// Forged webhooks that can be held, while Hanko's key endpoint hangs.
    SmallForged,
    /// Small bodies of one byte each 200 ms.
    Dripping,
    /// `UnreadAndWaiting`, `UnknownKeys`, `LargeForged`, `SmallForged` and `Dripping`, a fifth of the connections each.
    Mixed,
}

impl Attack {
    /// The attacks in a mixed attack.
    const MIX: [Self; 5] = [
        Self::UnreadAndWaiting,
        Self::UnknownKeys,
        Self::LargeForged,
        Self::SmallForged,
        Self::Dripping,
    ];

    /// Returns the attack of the connection with this number.
    fn of_connection(self, number: usize) -> Self {
        match self {
            Self::Mixed => Self::MIX[number % Self::MIX.len()],
            other => other,
        }
    }

    /// Whether Hanko hangs during the attack.
    fn needs_hanging_hanko(self) -> bool {
        self == Self::Mixed || Self::MIX.contains(&self)
    }

    /// Whether a connection that has ended is replaced by the next.
    fn continues(self) -> bool {
        matches!(self, Self::Bodies | Self::Silent | Self::Heads) || Self::MIX.contains(&self)
    }
}

/// The attacks, each with the limit of descriptors of the server and the number of connections; zero: as many as the hard
/// limit of descriptors allows.
const ATTACKS: [(Attack, Option<usize>, usize); 22] = [
    (Attack::Fields, None, 100),
    (Attack::AllowedFields, None, 250),
    (Attack::Streams, None, 1000),
    (Attack::Table, None, 250),
    (Attack::EnlargedTable, None, 250),
    (Attack::OpenBlock, None, 1000),
    (Attack::SmallData, None, 250),
    (Attack::Unread, None, 250),
    (Attack::Bodies, None, 256),
    (Attack::Bodies, None, 5000),
    (Attack::Heads, None, 5000),
    (Attack::Silent, Some(256), 1000),
    (Attack::Silent, None, 0),
    (Attack::KeptAlive, None, 10_000),
    (Attack::UnreadAndWaiting, None, 250),
    (Attack::UnreadRest, None, 250),
    (Attack::UnknownKeys, None, 6000),
    (Attack::LargeForged, None, 300),
    (Attack::SmallForged, None, 5000),
    (Attack::Dripping, None, 5000),
    (Attack::Mixed, None, 1250),
    (Attack::Mixed, None, 10_000),
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match &arguments[..] {
        [command, attack, address, connections] if command == "attack" => {
            attack_alone(attack, address, connections).await
        }
        [program, only @ ..] => measure_all(program, only).await,
        [] => Err("the path of the server is missing".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure_all(program: &str, only: &[String]) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for (attack, descriptors, connections) in ATTACKS {
        let name = format!("{attack:?}");
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        if let Err(error) = measure(program, attack, descriptors, connections).await {
            println!("  FAILED: {error}");
            failures.push(name);
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failures.join(", ")).into())
}

/// Runs one attack against a new server.
async fn measure(
    program: &str,
    attack: Attack,
    descriptors: Option<usize>,
    connections: usize,
) -> Result<(), Failure> {
    let hanko = LocalHanko::builder().start().await?;
    let (server, address, admin) = start_server(program, &hanko.url(), descriptors).await?;
    let pid = server.id().ok_or("the server has ended")?;
    let token = hanko.sign_in(&Person::with_email("ada@example.com")).token;
    for _ in 0..20 {
        normal_client(address, &token).await?;
    }
    let before = resident_bytes(pid)?;

    if attack.needs_hanging_hanko() {
        hanko.set_fault(Fault::Hangs);
    }
    let limit = hard_limit()?;
    let connections = if connections == 0 {
        limit - RESERVED
    } else {
        connections.min(limit - RESERVED)
    };
    let mut attacker = start_attacker(attack, address, connections, limit)?;
    let mut lines = BufReader::new(attacker.stdout.take().ok_or("no standard output")?).lines();
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = tokio::spawn(watch(address, admin, token.clone(), Arc::clone(&is_over)));
    let watch_time = if attack.needs_hanging_hanko() {
        LONG_WATCH
    } else {
        WATCH
    };
    let hanko = Arc::new(hanko);
    let webhooks = tokio::spawn(send_webhooks(Arc::clone(&hanko), address, watch_time));
    // The attacker prints when all its connections have been made or refused.
    let started = Instant::now();
    let mut peak = (0, 0);
    let mut is_attacking = false;
    let mut until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let open = open_sockets(pid)?;
        let growth = resident_bytes(pid)?.saturating_sub(before);
        if growth > peak.0 {
            peak = (growth, open);
        }
        if growth > MAX_GROWTH + open * MAX_PER_CONNECTION {
            return Err(format!("{growth} bytes for {open} connections").into());
        }
        let line = time::timeout(Duration::from_millis(50), lines.next_line());
        if !is_attacking && matches!(line.await, Ok(Ok(Some(_)))) {
            is_attacking = true;
            until = Instant::now() + watch_time;
        } else if is_attacking {
            time::sleep(Duration::from_millis(50)).await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let (requests, slowest) = clients.await??;
    let accepted = webhooks.await??;
    attacker.kill().await?;
    time::sleep(Duration::from_millis(300)).await;
    let after = resident_bytes(pid)?.saturating_sub(before);
    println!(
        "{attack:?}: {connections} connections{}, {:.1} s: grew by {:.1} MB with {} open, {:.1} MB left at the end; \
         {requests} normal requests, the slowest in {slowest:?}; {accepted} of {GENUINE_WEBHOOKS} webhooks accepted",
        descriptors.map_or_else(String::new, |limit| format!(" (ulimit -n {limit})")),
        started.elapsed().as_secs_f64(),
        megabytes(peak.0),
        peak.1,
        megabytes(after),
    );
    drop(server);
    if accepted < GENUINE_WEBHOOKS {
        return Err("a genuine webhook was rejected".into());
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "only printed")]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn hard_limit() -> Result<usize, Failure> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .ok_or("no limit of descriptors")?;
    let hard = line.split_whitespace().nth(4).ok_or("no hard limit")?;
    Ok(hard.parse().unwrap_or(100_000))
}

fn start_attacker(
    attack: Attack,
    address: SocketAddr,
    connections: usize,
    limit: usize,
) -> Result<Child, Failure> {
    let program = env::current_exe()?;
    let attacker = Command::new("sh")
        .args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(limit.to_string())
        .arg(program)
        .args(["attack", &format!("{attack:?}"), &address.to_string()])
        .arg(connections.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    Ok(attacker)
}

/// One new connection a second for each of the probe, the protected route and the metrics. Returns how many there were, and the longest
/// time that one took.
async fn watch(
    address: SocketAddr,
    admin: SocketAddr,
    token: String,
    is_over: Arc<AtomicBool>,
) -> Result<(usize, Duration), Failure> {
    let mut ticks = time::interval(Duration::from_secs(1));
    let mut slowest = Duration::ZERO;
    let mut requests = 0;
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let started = Instant::now();
        normal_client(address, &token).await?;
        slowest = slowest.max(started.elapsed());
        requests += 2;
        let scrape = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let status = time::timeout(PATIENCE, request(admin, scrape))
            .await
            .map_err(|_| "the admin listener did not respond within two seconds")??;
        if status != 200 {
            return Err(format!("the admin listener responded with {status}").into());
        }
    }
    Ok((requests, slowest))
}

async fn normal_client(address: SocketAddr, token: &str) -> Result<(), Failure> {
    for head in [
        "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        format!(
            "GET /protected HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        ),
    ] {
        let request = request(address, head.as_bytes());
        let status = time::timeout(PATIENCE, request)
            .await
            .map_err(|_| "a normal client waited for more than two seconds")??;
        if status != 200 {
            return Err(format!("a normal client got {status}").into());
        }
    }
    Ok(())
}

/// Sends webhooks as Hanko does, and returns how many got a 2xx response.
async fn send_webhooks(
    hanko: Arc<LocalHanko>,
    address: SocketAddr,
    during: Duration,
) -> Result<usize, Failure> {
    let accepted = Arc::new(AtomicUsize::new(0));
    let mut ticks = time::interval(during / 100);
    for _ in 0..GENUINE_WEBHOOKS {
        ticks.tick().await;
        let session = hanko.sign_in(&Person::with_email("ada@example.com"));
        let data = hanko.session_data(session.session_id).ok_or("no session")?;
        let body = hanko.webhook_body("session.delete", &data).to_string();
        let head = format!(
            "POST /webhooks/hanko HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let status = time::timeout(Duration::from_secs(10), request(address, head.as_bytes()));
        match status.await {
            Ok(Ok(200..300)) => {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            outcome => println!("  a genuine webhook was rejected: {outcome:?}"),
        }
    }
    Ok(accepted.load(Ordering::Relaxed))
}

/// Sends one request on a connection of its own and returns the status of its response.
async fn request(address: SocketAddr, bytes: &[u8]) -> Result<u16, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(std::str::from_utf8(&head[9..])?.parse()?)
}

fn resident_bytes(pid: u32) -> Result<usize, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: usize = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS")?
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

fn open_sockets(pid: u32) -> Result<usize, Failure> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Starts the server without the environment of this process, and waits until it is ready.
async fn start_server(
    program: &str,
    url: &str,
    descriptors: Option<usize>,
) -> Result<(Child, SocketAddr, SocketAddr), Failure> {
    let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let limit = descriptors.map_or_else(
        || "ulimit -Sn 1024".to_owned(),
        |limit| format!("ulimit -n {limit}"),
    );
    let mut server = Command::new("sh")
        .args(["-c", &format!("{limit}; exec \"$1\" serve"), "sh"])
        .arg(fs::canonicalize(program)?)
        .env_clear()
        .env("HANKO_API_URL", url)
        .env("PORT", "0")
        .env("ADMIN_ADDRESS", admin.to_string())
        // In this mode, only keys are requested from Hanko, whatever the default mode is.
        .env("HANKO_SESSION_MODE", "stateless")
        .env(
            "RUST_LOG",
            "info,h2=error,poem_hanko::sampling=error,poem_hanko::jose=error",
        )
        .current_dir(env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stderr = server.stderr.take().ok_or("no standard error")?;
    let mut lines = BufReader::new(stderr).lines();
    let address = loop {
        let line = lines.next_line().await?.ok_or("the server did not start")?;
        let address = line
            .split_once("address=")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            .filter(|address| *address != admin);
        if let Some(address) = address {
            break address;
        }
    };
    // The pipe is read to the end, so that the server never waits for it.
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("WARN") || line.contains("ERROR") {
                println!("  {line}");
            }
        }
    });
    loop {
        let probe = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        if request(address, probe).await? == 200 {
            return Ok((server, address, admin));
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Attacks until it is killed.
async fn attack_alone(attack: &str, address: &str, connections: &str) -> Result<(), Failure> {
    let (attack, ..) = ATTACKS
        .into_iter()
        .find(|(known, ..)| format!("{known:?}") == attack)
        .ok_or("no such attack")?;
    let address: SocketAddr = address.parse()?;
    let connections: usize = connections.parse()?;
    let ready = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    for number in 0..connections {
        let ready = Arc::clone(&ready);
        let attack = attack.of_connection(number);
        running.spawn(async move {
            let mut is_ready = false;
            loop {
                // The server may close a connection at any time; the next one replaces it.
                let _closed = attack_once(attack, address, || {
                    if !std::mem::replace(&mut is_ready, true) {
                        ready.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .await;
                if !attack.continues() {
                    return;
                }
                time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let started = Instant::now();
    while ready.load(Ordering::Relaxed) < connections && started.elapsed() < Duration::from_secs(3)
    {
        time::sleep(Duration::from_millis(20)).await;
    }
    println!("ready");
    std::future::pending().await
}

async fn attack_once(
    attack: Attack,
    address: SocketAddr,
    mut is_ready: impl FnMut(),
) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = stream.split();
    let bytes = opening(attack);
    let write = async {
        for part in bytes.chunks(64 * 1024) {
            writer.write_all(part).await?;
        }
        is_ready();
        if matches!(attack, Attack::SmallData) {
            let frame = data_frame(1, b"x");
            let frames = frame.repeat(1000);
            for _ in 0..65 {
                writer.write_all(&frames).await?;
            }
        }
        if matches!(attack, Attack::Dripping) {
            loop {
                time::sleep(Duration::from_millis(200)).await;
                writer.write_all(b" ").await?;
            }
        }
        std::future::pending::<Result<(), Failure>>().await
    };
    let read = async {
        if matches!(attack, Attack::Unread | Attack::UnreadRest) {
            return std::future::pending::<Result<(), Failure>>().await;
        }
        let mut buffer = vec![0; 4096];
        while reader.read(&mut buffer).await? > 0 {}
        Ok(())
    };
    tokio::select! {
        outcome = write => outcome,
        outcome = read => outcome,
    }
}

/// Returns the bytes that an attack sends at the start of each connection.
fn opening(attack: Attack) -> Vec<u8> {
    match attack {
        Attack::Silent | Attack::Mixed => Vec::new(),
        Attack::Heads => {
            let filler = "x".repeat(60 * 1024);
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {filler}").into_bytes()
        }
        Attack::Bodies => {
            let head = format!(
                "POST /webhooks/hanko HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {STALLED_BODY}\r\n\r\n"
            );
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + STALLED_BODY - 1, b' ');
            bytes
        }
        Attack::KeptAlive => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        Attack::Fields => http2(100, |_| headers(1900, true, Vec::new())),
        Attack::AllowedFields => http2(100, |_| headers(450, true, Vec::new())),
        Attack::Streams | Attack::SmallData => http2(100, |_| headers(0, true, Vec::new())),
        Attack::Table => http2(100, |stream| {
            // An entry of the table, and a literal without indexing that fills the frame.
            let mut rest = vec![0x40, 2, b'a' + stream % 26, b'b', 0, 0x00, 1, b'f', 0x7F];
            // 15,000 in the encoding of RFC 7541 section 5.1.
            rest.extend([0x99, 0x74]);
            rest.resize(rest.len() + 15_000, b'x');
            headers(0, true, rest)
        }),
        Attack::EnlargedTable => http2(100, |stream| {
            let mut block = Vec::new();
            if stream == 0 {
                // Sizes 0 and 4096.
                block.extend([0x20, 0x3F, 0xE1, 0x1F]);
            }
            // `HEAD`, and a path that is an entry of the table: h2 keeps its buffer, but copies other values.
            literal(&mut block, 2, b"HEAD");
            block.extend([0x86, 0x44, 1, b'/']);
            literal(&mut block, 1, b"localhost");
            block.extend([0x00, 1, b'f', 0x7F, 0x99, 0x74]);
            block.resize(block.len() + 15_000, b'x');
            (block, 0x5)
        }),
        Attack::OpenBlock => http2(1, |_| headers(450, false, Vec::new())),
        Attack::Unread => http2(100, |_| {
            let mut block = vec![0x82, 0x86];
            literal(&mut block, 4, b"/docs");
            literal(&mut block, 1, b"localhost");
            (block, 0x5)
        }),
        Attack::UnreadAndWaiting => {
            let body = forged_webhook(1000);
            let mut bytes = http2(95, |stream| {
                if stream == 94 {
                    return headers(0, true, Vec::new());
                }
                get_block(b"/livez")
            });
            bytes.extend(frame(0, 1, 94 * 2 + 1, body.as_bytes()));
            bytes
        }
        Attack::UnreadRest => {
            let mut bytes = http2(100, |_| get_block(b"/openapi.json"));
            // A window of one byte for each stream, and an unlimited one for the connection.
            let begin = PREFACE.len() + 9;
            bytes[begin..begin + 6].copy_from_slice(&[0, 4, 0, 0, 0, 1]);
            bytes.extend(frame(8, 0, 0, &[0x7F, 0, 0, 0]));
            for stream in 50..100 {
                bytes.extend(frame(8, 0, stream * 2 + 1, &[0x7F, 0, 0, 0]));
            }
            bytes
        }
        Attack::UnknownKeys => {
            let now = unix_time();
            let token = forged(&json!({
                "sub": "2b8a2a3e-5d1c-4f0a-9f5e-0d3c1f7b6a11",
                "session_id": "7d0f6b1c-3c55-4b0e-8a55-5f4a2c9e1d22",
                "iat": now, "exp": now + 3600,
            }));
            format!("GET /protected HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
                .into_bytes()
        }
        Attack::LargeForged => post_webhook(&forged_webhook(196_000), 0),
        Attack::SmallForged => post_webhook(&forged_webhook(15_000), 0),
        Attack::Dripping => post_webhook("", 1000),
    }
}

fn post_webhook(body: &str, missing: usize) -> Vec<u8> {
    format!(
        "POST /webhooks/hanko HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len() + missing
    )
    .into_bytes()
}

fn unix_time() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A token with an unknown key.
fn forged(claims: &serde_json::Value) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({ "alg": "RS256", "kid": "nobody knows it", "typ": "JWT" }).to_string();
    [
        encode(header.as_bytes()),
        encode(claims.to_string().as_bytes()),
        encode(&[7; 256]),
    ]
    .join(".")
}

/// The body of a webhook that looks like Hanko's, about this many bytes long.
fn forged_webhook(bytes: usize) -> String {
    let now = unix_time();
    let event = "session.delete.explicit.logout";
    let token = forged(&json!({
        "sub": "hanko webhooks", "evt": event, "iat": now, "exp": now + 300,
        "data": { "filler": "x".repeat(bytes * 3 / 4 - 500) },
    }));
    json!({ "token": token, "event": event }).to_string()
}

/// The block of a `GET`, and its flags.
fn get_block(path: &[u8]) -> (Vec<u8>, u8) {
    // An empty table, `GET`, `http`.
    let mut block = vec![0x20, 0x82, 0x86];
    literal(&mut block, 4, path);
    literal(&mut block, 1, b"localhost");
    (block, 0x5)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The preface, and this many streams. `headers` returns the block and flags of each.
fn http2(streams: u8, headers: impl Fn(u8) -> (Vec<u8>, u8)) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    // No window for responses.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for stream in 0..streams {
        let (block, flags) = headers(stream);
        bytes.extend(frame(1, flags, u32::from(stream) * 2 + 1, &block));
    }
    bytes
}

/// The block of a `POST /webhooks/hanko` with this many indexed fields of one byte, and its flags: a body follows.
fn headers(fields: usize, ends: bool, rest: Vec<u8>) -> (Vec<u8>, u8) {
    let mut block = vec![0x83, 0x86];
    literal(&mut block, 4, b"/webhooks/hanko");
    literal(&mut block, 1, b"localhost");
    // content-type is number 31 of the static table.
    block.extend([0x0F, 0x10, 16]);
    block.extend(b"application/json");
    if fields > 0 {
        block.extend([0x40, 1, b'a', 0]);
        block.resize(block.len() + fields, 0xBE);
    }
    block.extend(rest);
    (block, if ends { 0x4 } else { 0 })
}

/// A literal field without indexing, whose name is in the static table.
fn literal(block: &mut Vec<u8>, name: u8, value: &[u8]) {
    block.push(name);
    block.push(u8::try_from(value.len()).unwrap_or_default());
    block.extend(value);
}

fn data_frame(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(0, 0, stream, payload)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
