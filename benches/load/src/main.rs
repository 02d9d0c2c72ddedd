//! A load generator for one HTTP/1.1 server on loopback: as fast as the server responds, or at a constant rate.
//!
//! At a constant rate, the moment when a request is due does not depend on the server. If all connections are busy, the
//! request waits; its latency counts from the moment when it was due. So a slow response also shows in the latency of the
//! requests that it delayed (no "coordinated omission"). wrk has no constant rate, and oha cannot send tokens in turn. One
//! thread, epoll, no allocation for a request. With `--spin` it never sleeps.

use std::{
    collections::VecDeque,
    env, fmt,
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroU64,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

const USAGE: &str = "usage:
  load request ADDRESS PATH --connections N (--seconds S | --requests N) [--rate PER_SECOND]
               [--tokens FILE [--first N] [--skip N]] [--spin]
      prints a line once connected, and then the results as one JSON object

      --rate 0, the default, is as fast as the server responds
      --tokens  one token a line, sent in turn; --first N sends only the first N of them; --skip N starts after N of them
      --spin    polls for responses without a pause instead of sleeping until one arrives, and so keeps a core busy: in a
                virtual machine, waking a sleeping client costs the server an interrupt through the hypervisor for each
                response
  load answer
      prints its address and sends the same response to every request: to find the limit of the generator itself";

/// After this many new connections, the generator waits until the server has accepted them: half of the backlog of std and
/// tokio. Connections that overflow the backlog would wait for seconds.
const BATCH: usize = 64;

/// How long open requests may take after the end of the measurement.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, rest)) if command == "request" => request(rest),
        Some((command, [])) if command == "answer" => answer(),
        Some((command, [])) if command == "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Plan {
    connections: usize,
    /// Requests per second; 0: as fast as the server responds.
    rate: f64,
    duration: Duration,
    max_requests: u64,
    /// Whether to poll for responses without a pause instead of sleeping until one arrives.
    spins: bool,
}

fn request(arguments: &[String]) -> Outcome<()> {
    let [address, path, options @ ..] = arguments else {
        return Err(USAGE.into());
    };
    let address: SocketAddr = address.parse()?;
    if !address.ip().is_loopback() {
        return Err("the address must be on loopback".into());
    }
    let options = Options::parse(options)?;
    let plan = Plan {
        connections: options.get("connections")?.ok_or(USAGE)?,
        rate: options.get("rate")?.unwrap_or(0.0),
        duration: Duration::from_secs_f64(options.get("seconds")?.unwrap_or(600.0)),
        max_requests: options.get("requests")?.unwrap_or(u64::MAX),
        spins: options.spins,
    };
    let mut heads = match options.get::<String>("tokens")? {
        Some(file) => BufReader::new(File::open(file)?)
            .lines()
            .take(options.get("first")?.unwrap_or(usize::MAX))
            .map(|token| Ok(head(address, path, Some(&token?))))
            .collect::<io::Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    if heads.is_empty() {
        heads.push(head(address, path, None));
    }
    // Otherwise, the kernel may delay a wake-up by up to 50 µs.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let skipped: usize = options.get("skip")?.unwrap_or(0);
    let mut run = Run::connect(address, &heads, &plan)?;
    run.next_head = skipped % heads.len();
    println!("connected");
    run.run()
}

fn head(address: SocketAddr, path: &str, token: Option<&str>) -> Vec<u8> {
    let authorization = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n").into_bytes()
}

struct Options<'a> {
    values: Vec<(&'a str, &'a str)>,
    spins: bool,
}

impl<'a> Options<'a> {
    fn parse(arguments: &'a [String]) -> Outcome<Self> {
        let known = [
            "connections",
            "seconds",
            "requests",
            "rate",
            "tokens",
            "first",
            "skip",
        ];
        let (flags, rest): (Vec<&String>, Vec<&String>) =
            arguments.iter().partition(|argument| *argument == "--spin");
        let pairs = rest.chunks(2).map(|pair| match pair {
            [name, value] => name
                .strip_prefix("--")
                .filter(|name| known.contains(name))
                .map(|name| (name, value.as_str())),
            _ => None,
        });
        Ok(Self {
            values: pairs.collect::<Option<_>>().ok_or(USAGE)?,
            spins: !flags.is_empty(),
        })
    }

    fn get<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Outcome<Option<T>> {
        self.values
            .iter()
            .find(|(option, _)| *option == name)
            .map(|(_, value)| {
                value
                    .parse()
                    .map_err(|error| format!("--{name}: {error}").into())
            })
            .transpose()
    }
}

struct Connection {
    stream: TcpStream,
    /// When the open request was due.
    due: Option<Instant>,
    /// The part of its response that has been read.
    answer: Vec<u8>,
}

struct Run<'a> {
    plan: &'a Plan,
    heads: &'a [Vec<u8>],
    epoll: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    next_head: usize,
    /// Requests sent.
    sent: u64,
    failures: u64,
    latencies: Vec<u32>,
}

impl<'a> Run<'a> {
    fn connect(address: SocketAddr, heads: &'a [Vec<u8>], plan: &'a Plan) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for index in 0..plan.connections {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            if index % BATCH == BATCH - 1 {
                wait_for_answer(&mut stream, &heads[0])?;
            }
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            connections.push(Connection {
                stream,
                due: None,
                answer: Vec::new(),
            });
        }
        Ok(Self {
            plan,
            heads,
            epoll,
            idle: (0..connections.len()).collect(),
            connections,
            next_head: 0,
            sent: 0,
            failures: 0,
            latencies: Vec::new(),
        })
    }

    /// Sends the requests, and prints the results while the connections are still open.
    fn run(mut self) -> Outcome<()> {
        let start = Instant::now();
        let end = start + self.plan.duration;
        let interval = (self.plan.rate > 0.0).then(|| 1.0 / self.plan.rate);
        let mut events = Vec::with_capacity(1024);
        let mut last_answer = start;
        let mut answered_in_time = 0;
        loop {
            let now = Instant::now();
            let mut next_due = None;
            while self.sent < self.plan.max_requests && !self.idle.is_empty() {
                let due = interval.map_or(now, |interval| {
                    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
                    let offset = Duration::from_secs_f64(self.sent as f64 * interval);
                    start + offset
                });
                if due >= end || now >= end && interval.is_none() {
                    break;
                }
                if due > now {
                    next_due = Some(due);
                    break;
                }
                self.send(due)?;
            }
            let is_over = now >= end || self.sent >= self.plan.max_requests;
            if is_over && self.idle.len() == self.connections.len() || now >= end + LAST_ANSWERS {
                break;
            }
            let until = next_due.unwrap_or(if is_over {
                end.max(now) + LAST_ANSWERS
            } else {
                end
            });
            let pause = if self.plan.spins {
                Duration::ZERO
            } else {
                until.saturating_duration_since(now)
            };
            let timeout = Timespec::try_from(pause)?;
            events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout))?;
            for event in &events {
                let index = usize::try_from(event.data.u64())?;
                if self.receive(index)? {
                    last_answer = Instant::now();
                    if last_answer <= end {
                        answered_in_time = self.latencies.len() as u64;
                    }
                }
            }
        }
        self.failures += (self.connections.len() - self.idle.len()) as u64;
        let measured = last_answer.min(end) - start;
        println!("{}", Summary::new(&mut self, answered_in_time, measured));
        Ok(())
    }

    fn send(&mut self, due: Instant) -> Outcome<()> {
        let Some(index) = self.idle.pop_front() else {
            return Ok(());
        };
        let connection = &mut self.connections[index];
        // A head of a kilobyte always fits into the send buffer of an idle connection.
        connection.stream.write_all(&self.heads[self.next_head])?;
        connection.due = Some(due);
        self.next_head = (self.next_head + 1) % self.heads.len();
        self.sent += 1;
        Ok(())
    }

    /// Reads from a connection. Returns whether its response is complete.
    fn receive(&mut self, index: usize) -> Outcome<bool> {
        let connection = &mut self.connections[index];
        let mut buffer = [0; 4096];
        let read = match connection.stream.read(&mut buffer) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let status = if connection.answer.is_empty()
            && let Some(status) = complete_answer(read)
        {
            status
        } else {
            connection.answer.extend_from_slice(read);
            let Some(status) = complete_answer(&connection.answer) else {
                return Ok(false);
            };
            connection.answer.clear();
            status
        };
        let due = connection
            .due
            .take()
            .ok_or("a response without a request")?;
        let latency = due.elapsed().as_nanos() / 100;
        self.latencies
            .push(u32::try_from(latency).unwrap_or(u32::MAX));
        self.failures += u64::from(status != *b"200");
        self.idle.push_back(index);
        Ok(true)
    }
}

fn wait_for_answer(stream: &mut TcpStream, head: &[u8]) -> io::Result<()> {
    stream.write_all(head)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while complete_answer(&answer).is_none() {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(())
}

/// Returns the status of a response that is complete. The length of its body must be given by `Content-Length`.
fn complete_answer(octets: &[u8]) -> Option<[u8; 3]> {
    let head_length = octets.windows(4).position(|octets| octets == b"\r\n\r\n")? + 4;
    let mut lines = octets[..head_length].split(|octet| *octet == b'\n');
    let status = lines.next()?.get(9..12)?.try_into().ok()?;
    let length: usize = lines
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then_some(value)
        })
        .and_then(|value| str::from_utf8(value).ok()?.trim().parse().ok())?;
    (octets.len() >= head_length + length).then_some(status)
}

struct Summary {
    requests: u64,
    failures: u64,
    seconds: f64,
    per_second: f64,
    /// p50, p90, p99, p99.9 and the longest, in microseconds.
    latencies: [f64; 5],
}

impl Summary {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
    fn new(run: &mut Run<'_>, answered_in_time: u64, measured: Duration) -> Self {
        run.latencies.sort_unstable();
        let at = |permille: usize| {
            let last = run.latencies.len().saturating_sub(1);
            let index = (run.latencies.len() * permille / 1000).min(last);
            f64::from(run.latencies.get(index).copied().unwrap_or(0)) / 10.0
        };
        let seconds = measured.as_secs_f64();
        Self {
            requests: run.latencies.len() as u64,
            failures: run.failures,
            seconds,
            per_second: answered_in_time as f64 / seconds,
            latencies: [at(500), at(900), at(990), at(999), at(1000)],
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] = self.latencies;
        write!(
            formatter,
            r#"{{"requests":{},"failures":{},"seconds":{:.3},"per_second":{:.1},"p50_us":{p50},"p90_us":{p90},"p99_us":{p99},"p999_us":{p999},"max_us":{max}}}"#,
            self.requests, self.failures, self.seconds, self.per_second
        )
    }
}

/// Responds to every request on any number of connections, in one thread and without parsing it.
fn answer() -> Outcome<()> {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"message\":\"Poem x Hanko!\"}";
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    let mut buffer = [0; 4096];
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let key = usize::try_from(event.data.u64())?;
            if key == 0 {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                connections.push(Some(stream));
                let data = epoll::EventData::new_u64(connections.len() as u64);
                let stream = connections
                    .last()
                    .and_then(Option::as_ref)
                    .ok_or("pushed")?;
                epoll::add(&epoll, stream, data, epoll::EventFlags::IN)?;
                continue;
            }
            let Some(stream) = &mut connections[key - 1] else {
                continue;
            };
            let ended = match stream.read(&mut buffer) {
                Ok(0) => true,
                // The generator sends a head in one piece, and never two at once.
                Ok(read) if buffer[..read].ends_with(b"\r\n\r\n") => {
                    stream.write_all(ANSWER).is_err()
                }
                Ok(_) => false,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if ended {
                connections[key - 1] = None;
            }
        }
    }
}
