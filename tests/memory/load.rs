//! Sends untrusted input to the real server, and measures its memory. Run it with `tests/memory/run`.

#![allow(
    clippy::disallowed_methods,
    reason = "it measures a real program in real time, and gives up where that hangs"
)]

use std::{
    env, fs,
    net::SocketAddr,
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem_hanko::testing::{LocalHanko, Person};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much the resident set may grow.
const MAX_GROWTH_KIB: u64 = 20 * 1024;
const BAD_TOKENS: u64 = 1_000_000;
const ENDLESS_BODIES: u64 = 20;
const CONNECTIONS: u64 = 32;
/// How many requests are sent on a connection before their responses are read.
const BATCH: u64 = 10;
const TIME_LIMIT: Duration = Duration::from_mins(15);

#[tokio::main]
async fn main() -> ExitCode {
    match time::timeout(TIME_LIMIT, measure()).await {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => {
            eprintln!("the resident set grew by more than {MAX_GROWTH_KIB} KiB");
            ExitCode::FAILURE
        }
        Ok(Err(error)) => {
            eprintln!("not measured: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("not measured: it took longer than {TIME_LIMIT:?}");
            ExitCode::FAILURE
        }
    }
}

/// The endpoint that the server fetches its keys from.
#[derive(Default)]
struct Endpoint {
    is_endless: AtomicBool,
    endless_bodies_cut: AtomicU64,
}

async fn measure() -> Result<bool, Failure> {
    let program = env::args()
        .nth(1)
        .ok_or("the path of the server is missing")?;
    let bad_tokens = match env::args().nth(2) {
        Some(count) => count.parse()?,
        None => BAD_TOKENS,
    };
    let hanko = LocalHanko::builder().start().await?;
    let endpoint = Arc::new(Endpoint::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let key_set = hanko.key_set().to_string();
    tokio::spawn(serve_keys(listener, key_set, Arc::clone(&endpoint)));

    let (server, address) = start_server(&program, &url).await?;
    let pid = server.id().ok_or("the server has ended")?;
    let good = hanko.sign_in(&Person::with_email("ada@example.com")).token;
    let kid = hanko.kid();
    // From now on, the server has the threads, connections and buffers that every load needs.
    let warm_up = {
        let good = good.clone();
        flood(address, 5000, 200, move |_| good.clone())
    };
    warm_up.await?;
    let before = report("after 5,000 good requests", pid)?;

    endpoint.is_endless.store(true, Ordering::SeqCst);
    let mut ticks = time::interval(Duration::from_millis(150));
    let mut client = BufReader::new(TcpStream::connect(address).await?);
    let mut unknown: u64 = 0;
    while endpoint.endless_bodies_cut.load(Ordering::SeqCst) < ENDLESS_BODIES {
        ticks.tick().await;
        unknown += 1;
        let token = bad_token(&kid, unknown * 4);
        client.write_all(&request(&token, unknown)).await?;
        read_status(&mut client).await?;
    }
    let after_bodies = report(&format!("after {ENDLESS_BODIES} endless key sets"), pid)?;

    endpoint.is_endless.store(false, Ordering::SeqCst);
    // After the next cooldown, the good set is fetched again: only then is a token with an unknown key rejected with 401.
    loop {
        ticks.tick().await;
        unknown += 1;
        let token = bad_token(&kid, unknown * 4);
        client.write_all(&request(&token, unknown)).await?;
        if read_status(&mut client).await? == 401 {
            break;
        }
    }
    let started = time::Instant::now();
    let first = 1 << 32;
    flood(address, bad_tokens, 401, move |number| {
        bad_token(&kid, first + number)
    })
    .await?;
    println!(
        "{bad_tokens} distinct bad tokens refused with 401 in {:.1?}",
        started.elapsed()
    );
    let after_flood = report(&format!("after {bad_tokens} bad tokens"), pid)?;

    flood(address, 1000, 200, move |_| good.clone()).await?;
    drop(server);
    Ok([after_bodies, after_flood]
        .iter()
        .all(|after| after.saturating_sub(before) <= MAX_GROWTH_KIB))
}

/// Starts the server without the environment of this process, and waits until it is ready.
async fn start_server(program: &str, url: &str) -> Result<(Child, SocketAddr), Failure> {
    let program = fs::canonicalize(program)?;
    let mut server = Command::new(program)
        .arg("serve")
        .env_clear()
        // The endpoint serves keys and validates no sessions.
        .env("HANKO_SESSION_MODE", "stateless")
        .env("HANKO_API_URL", url)
        .env("PORT", "0")
        .env("JWKS_COOLDOWN", "100ms")
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
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if let Some(address) = address {
            break address;
        }
    };
    // The pipe is read to the end, so that the server never waits for it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let mut ticks = time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        let mut client = BufReader::new(TcpStream::connect(address).await?);
        client
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        if read_status(&mut client).await? == 200 {
            return Ok((server, address));
        }
    }
}

/// Sends requests over kept connections, each with the token of its number, and checks the status of every response.
async fn flood(
    address: SocketAddr,
    requests: u64,
    expected: u16,
    token: impl Fn(u64) -> String + Clone + Send + 'static,
) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let next = Arc::clone(&next);
        let token = token.clone();
        connections.spawn(async move {
            let mut stream = BufReader::new(TcpStream::connect(address).await?);
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                let batch = first..requests.min(first + BATCH);
                if batch.is_empty() {
                    return Ok::<_, Failure>(());
                }
                let mut bytes = Vec::new();
                for number in batch.clone() {
                    bytes.extend(request(&token(number), number));
                }
                stream.write_all(&bytes).await?;
                for number in batch {
                    let status = read_status(&mut stream).await?;
                    if status != expected {
                        return Err(format!("request {number} was answered {status}").into());
                    }
                }
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

fn request(token: &str, number: u64) -> Vec<u8> {
    let credential = if number.is_multiple_of(2) {
        format!("Authorization: Bearer {token}")
    } else {
        format!("Cookie: hanko={token}")
    };
    format!("GET /protected HTTP/1.1\r\nHost: localhost\r\n{credential}\r\n\r\n").into_bytes()
}

/// A token that differs from that of every other number: with an unknown key, a forged signature, unsigned, or no token
/// at all.
fn bad_token(kid: &str, number: u64) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signature = "A".repeat(342);
    let payload = encode(&format!(r#"{{"sub":"{number}","exp":9999999999}}"#));
    match number % 4 {
        0 => {
            let header = encode(&format!(r#"{{"alg":"RS256","kid":"unknown-{number}"}}"#));
            format!("{header}.{payload}.{signature}")
        }
        1 => {
            let header = encode(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#));
            format!("{header}.{payload}.{signature}")
        }
        2 => format!("{}.{payload}.{signature}", encode(r#"{"alg":"none"}"#)),
        _ => format!("nothing-{number}"),
    }
}

/// Reads one response to its end and returns its status.
async fn read_status(stream: &mut BufReader<TcpStream>) -> Result<u16, Failure> {
    let mut status = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err("the server closed a connection".into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if status.is_none() {
            status = Some(line.split(' ').nth(1).unwrap_or_default().parse()?);
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        } else if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    status.ok_or_else(|| "an answer without status".into())
}

async fn serve_keys(listener: TcpListener, key_set: String, endpoint: Arc<Endpoint>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let key_set = key_set.clone();
        let endpoint = Arc::clone(&endpoint);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            if endpoint.is_endless.load(Ordering::SeqCst) {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[")
                    .await?;
                while stream.write_all(&[b' '; 8 * 1024]).await.is_ok() {}
                endpoint.endless_bodies_cut.fetch_add(1, Ordering::SeqCst);
            } else {
                let length = key_set.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{key_set}"
                );
                stream.write_all(answer.as_bytes()).await?;
            }
            Ok::<_, std::io::Error>(())
        });
    }
}

/// Prints and returns the resident set size of a process, in KiB.
fn report(when: &str, pid: u32) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .ok_or("no VmRSS")?
        .trim()
        .parse()?;
    println!("VmRSS {when}: {rss} KiB");
    Ok(rss)
}
