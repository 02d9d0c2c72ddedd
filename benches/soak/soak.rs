//! A soak test: uses sessions that end without a webhook, while Hanko fails now and then. See `benches/soak/run`.
//!
//! Every response is checked:
//!
//! - An active session gets 200. No outage is as long as `SESSION_MAX_STALE`, and all sessions were used before the first.
//! - An ended session does not get 200 later than twice `SESSION_CACHE_TTL` plus one validation request after its end. This
//!   is guaranteed while Hanko responds, so the time starts again at the end of an outage. Hanko works for longer than that
//!   between two outages.
//! - An ended session that got 401 does not get 200 again.

use std::{
    env,
    error::Error,
    fmt, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use poem_hanko::{
    Clock, SystemClock,
    testing::{Fault, LocalHanko, Person},
};
use reqwest::StatusCode;
use tokio::task::JoinSet;
use uuid::Uuid;

const CLIENTS: usize = 50;
const SESSIONS: usize = 2000;
/// One session out of this many is used rarely, with pauses of up to [`RARE_PAUSE`] times the cache TTL.
const RARE: usize = 4;
const RARE_PAUSE: u32 = 5;
/// A session in steady use is used this often, or four times in a cache TTL if that is more often.
const STEADY_PAUSE: Duration = Duration::from_secs(4);

/// The longest time of one validation request: 15 s in the queue, `SESSION_VALIDATION_TIMEOUT`, and the fetch of the JWK Set
/// that confirms a negative answer, which waits up to 1 s to be sent and ends after `JWKS_TIMEOUT`. If the answer cannot be
/// confirmed at once, Hanko is asked a second time, which takes milliseconds.
const VALIDATION: Duration = Duration::from_secs(15 + 5 + 1 + 5);
/// Longer than a response may take: a request waits for one validation request.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(1);
/// A request takes longer than this if it waits for a Hanko that hangs.
const WAITED: Duration = Duration::from_secs(4);

const FAULTS: [Fault; 3] = [Fault::Down, Fault::Hangs, Fault::DatabaseDown];
/// The lengths of the outages, in tenths of the cache TTL. In each round, each fault gets another length.
const OUTAGES: [u32; 3] = [5, 15, 30];

const PROGRESS: Duration = Duration::from_secs(30);
/// How many wrong decisions are printed in full.
const PRINTED: u64 = 20;

struct Arguments {
    program: String,
    duration: Duration,
    ttl: Duration,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut parsed = Self {
            program: arguments.next()?,
            duration: Duration::from_mins(10),
            ttl: Duration::from_secs(30),
        };
        while let Some(name) = arguments.next() {
            let seconds = Duration::from_secs(arguments.next()?.parse().ok()?);
            match name.as_str() {
                "--duration" => parsed.duration = seconds,
                "--ttl" if !seconds.is_zero() => parsed.ttl = seconds,
                _ => return None,
            }
        }
        Some(parsed)
    }
}

/// The running program. It is killed when this is dropped.
struct Program {
    process: Child,
    url: String,
    has_panicked: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Program {
    /// Starts it with the default settings, except the cache TTL. Its log is written to `log`.
    fn start(
        program: &str,
        hanko_url: &str,
        ttl: Duration,
        log: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(fs::canonicalize(program)?)
            .arg("serve")
            .current_dir(folder.path())
            .env_clear()
            .env("PORT", "0")
            .env("HANKO_API_URL", hanko_url)
            .env("LOG_FORMAT", "json")
            .env("SESSION_CACHE_TTL", format!("{}s", ttl.as_secs()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = process.stderr.take().ok_or("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut log = fs::File::create(log)?;
        let mut address = None;
        while address.is_none() {
            let line = lines.next().ok_or("the program has ended")??;
            writeln!(log, "{line}")?;
            address = serde_json::from_str::<serde_json::Value>(&line)
                .ok()
                .and_then(|line| Some(line["address"].as_str()?.to_owned()));
        }
        let has_panicked = Arc::new(AtomicBool::new(false));
        let panicked = Arc::clone(&has_panicked);
        // A full pipe would stop the process.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("panicked at") {
                    panicked.store(true, Ordering::Relaxed);
                }
                let _ = writeln!(log, "{line}");
            }
        });
        Ok(Self {
            process,
            url: format!("http://{}/protected", address.unwrap_or_default()),
            has_panicked,
            _folder: folder,
        })
    }

    /// The resident set size in KiB.
    fn resident(&self) -> u64 {
        fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The beginning and end of each outage of Hanko, on the monotonic clock.
#[derive(Default)]
struct Outages(Vec<(Duration, Option<Duration>)>);

impl Outages {
    fn begin(&mut self, now: Duration) {
        self.0.push((now, None));
    }

    fn end(&mut self, now: Duration) {
        if let Some((_, end)) = self.0.last_mut() {
            *end = Some(now);
        }
    }

    /// Whether there was an outage at any moment from `from` to `to`.
    fn overlap(&self, from: Duration, to: Duration) -> bool {
        self.0
            .iter()
            .any(|(begin, end)| *begin <= to && end.is_none_or(|end| end >= from))
    }

    /// How long Hanko has responded between two moments, and how long before the second one without an outage.
    fn answering(&self, from: Duration, to: Duration) -> (Duration, Duration) {
        let mut total = to.saturating_sub(from);
        let mut since = from;
        for (begin, end) in &self.0 {
            let (begin, end) = ((*begin).max(from), end.unwrap_or(to).min(to));
            total = total.saturating_sub(end.saturating_sub(begin));
            if end > begin {
                since = since.max(end);
            }
        }
        (total, to.saturating_sub(since))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Hanko is ending it.
    Ending,
    Ended {
        at: Duration,
    },
}

struct Session {
    number: usize,
    token: String,
    id: Uuid,
    state: Mutex<State>,
}

impl Session {
    fn is_rare(&self) -> bool {
        self.number % RARE == RARE - 1
    }

    /// Half of the sessions end, both of those in steady use and of those used rarely.
    fn is_to_end(&self) -> bool {
        (self.number / RARE).is_multiple_of(2)
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[derive(Clone, Default)]
struct Totals {
    requests: u64,
    accepted: u64,
    rejected: u64,
    unavailable: u64,
    wrong: u64,
    ended: u64,
    found: u64,
    /// Requests of active sessions in steady use that took longer than [`WAITED`].
    waited: u64,
    /// Of those sessions, the response times in milliseconds.
    times: Vec<u32>,
    /// The longest time after its end in which a session still got 200: since the last outage, and over all the time in which
    /// Hanko responded.
    latest: Duration,
    latest_in_all: Duration,
}

impl Totals {
    fn quantile(&mut self, share: usize) -> u32 {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * share / 1000).copied().unwrap_or(0)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} requests: {} x 200, {} x 401, {} x 503; {} sessions ended, {} found ended; {} wrong decisions",
            self.requests,
            self.accepted,
            self.rejected,
            self.unavailable,
            self.ended,
            self.found,
            self.wrong
        )
    }
}

struct Soak {
    clock: SystemClock,
    url: String,
    ttl: Duration,
    outages: Mutex<Outages>,
    totals: Mutex<Totals>,
}

impl Soak {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time within which an ended session must be rejected.
    fn bound(&self) -> Duration {
        self.ttl * 2 + VALIDATION
    }

    /// Uses a session until the task is aborted.
    async fn use_session(self: Arc<Self>, client: reqwest::Client, session: Arc<Session>) {
        let pause = if session.is_rare() {
            self.ttl * RARE_PAUSE
        } else {
            STEADY_PAUSE.min(self.ttl / 4) * 2
        };
        let mut was_rejected = false;
        loop {
            self.clock.sleep(pause.mul_f64(fastrand::f64())).await;
            was_rejected |= self.request(&client, &session, was_rejected).await;
        }
    }

    /// Sends one request and checks its response. Returns whether it was a 401.
    async fn request(
        &self,
        client: &reqwest::Client,
        session: &Session,
        was_rejected: bool,
    ) -> bool {
        let sent_at = self.clock.monotonic();
        let response = client.get(&self.url).bearer_auth(&session.token).send();
        let outcome = response.await.map(|response| response.status());
        let received_at = self.clock.monotonic();
        let state = session.state();
        let took = received_at.saturating_sub(sent_at);
        let wrong = match (&outcome, state) {
            (Ok(StatusCode::OK), State::Ended { .. }) if was_rejected => {
                Some("200 after a 401".to_owned())
            }
            (Ok(StatusCode::OK), State::Ended { at }) => self.check_late(at, sent_at, received_at),
            (Ok(StatusCode::OK), _)
            | (
                Ok(StatusCode::UNAUTHORIZED | StatusCode::SERVICE_UNAVAILABLE),
                State::Ending | State::Ended { .. },
            ) => None,
            (Ok(status), State::Active) => Some(format!("{status} of an active session")),
            (Ok(status), _) => Some(format!("{status} of an ended session")),
            (Err(error), _) => Some(format!("no response: {error:?}")),
        };
        let mut totals = self.totals();
        totals.requests += 1;
        let is_rejected = outcome
            .as_ref()
            .is_ok_and(|status| *status == StatusCode::UNAUTHORIZED);
        match outcome {
            Ok(StatusCode::OK) => totals.accepted += 1,
            Ok(StatusCode::UNAUTHORIZED) => totals.rejected += 1,
            Ok(StatusCode::SERVICE_UNAVAILABLE) => totals.unavailable += 1,
            _ => {}
        }
        if is_rejected && !was_rejected {
            totals.found += 1;
        }
        if state == State::Active && !session.is_rare() {
            totals.waited += u64::from(took > WAITED);
            totals
                .times
                .push(u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
        }
        if let Some(wrong) = wrong {
            totals.wrong += 1;
            if totals.wrong <= PRINTED {
                let number = session.number;
                println!(
                    "WRONG: {wrong} (session {number}, sent at {sent_at:.1?}, after {took:.1?})"
                );
            }
        }
        is_rejected
    }

    /// Checks that a session that had ended `at` this time was not accepted too late.
    fn check_late(&self, at: Duration, sent_at: Duration, received_at: Duration) -> Option<String> {
        let outages = self.outages();
        if sent_at <= at || outages.overlap(sent_at, received_at) {
            return None;
        }
        let (in_all, since) = outages.answering(at, sent_at);
        drop(outages);
        let mut totals = self.totals();
        totals.latest = totals.latest.max(since);
        totals.latest_in_all = totals.latest_in_all.max(in_all);
        (since > self.bound()).then(|| {
            format!(
                "200 of a session that ended at {at:.1?}, {since:.1?} after Hanko answered again"
            )
        })
    }

    /// Sets one fault of Hanko after the other, until the future is dropped.
    async fn fail(&self, hanko: &LocalHanko) {
        for outage in 0.. {
            self.clock
                .sleep(self.bound() + Duration::from_secs(5))
                .await;
            let fault = FAULTS[outage % FAULTS.len()];
            let length = OUTAGES[(outage + outage / FAULTS.len()) % OUTAGES.len()];
            let length = self.ttl * length / 10;
            println!("[{:.0?}] {fault:?} for {length:?}", self.clock.monotonic());
            self.outages().begin(self.clock.monotonic());
            hanko.set_fault(fault);
            self.clock.sleep(length).await;
            hanko.set_fault(Fault::None);
            self.outages().end(self.clock.monotonic());
            println!("[{:.0?}] Hanko answers again", self.clock.monotonic());
        }
    }

    /// Ends half of the sessions, spread over the run.
    async fn end_sessions(&self, hanko: &LocalHanko, sessions: &[Arc<Session>], over: Duration) {
        let mut to_end: Vec<_> = sessions
            .iter()
            .filter(|session| session.is_to_end())
            .collect();
        fastrand::shuffle(&mut to_end);
        let pause = over / u32::try_from(to_end.len().max(1)).unwrap_or(u32::MAX);
        for session in to_end {
            self.clock.sleep(pause).await;
            session.set(State::Ending);
            let ended = hanko.end_session(session.id).await;
            assert!(matches!(ended, Ok(Some(()))), "the session exists");
            session.set(State::Ended {
                at: self.clock.monotonic(),
            });
            self.totals().ended += 1;
        }
    }

    async fn report(&self) {
        loop {
            self.clock.sleep(PROGRESS).await;
            let totals = self.totals().clone();
            println!("[{:.0?}] {totals}", self.clock.monotonic());
        }
    }
}

fn sign_in(hanko: &LocalHanko) -> Vec<Arc<Session>> {
    (0..SESSIONS)
        .map(|number| {
            let person = Person::with_email(format!("person-{number}@example.com"));
            let signed_in = hanko.sign_in(&person);
            Arc::new(Session {
                number,
                token: signed_in.token,
                id: signed_in.session_id,
                state: Mutex::new(State::Active),
            })
        })
        .collect()
}

fn clients() -> Result<Vec<reqwest::Client>, reqwest::Error> {
    let client = |_| {
        reqwest::Client::builder()
            .no_proxy()
            .timeout(CLIENT_TIMEOUT)
            .build()
    };
    (0..CLIENTS).map(client).collect()
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse(env::args().skip(1))
        .ok_or("usage: soak PROGRAM [--duration SECONDS] [--ttl SECONDS]")?;
    // No URL for webhooks: Hanko sends none.
    let hanko = LocalHanko::builder().start().await?;
    let log = env::temp_dir().join(format!("poem-hanko-soak-{}.log", std::process::id()));
    let program = Program::start(&arguments.program, &hanko.url(), arguments.ttl, &log)?;
    let soak = Arc::new(Soak {
        clock: SystemClock::new(),
        url: program.url.clone(),
        ttl: arguments.ttl,
        outages: Mutex::default(),
        totals: Mutex::default(),
    });
    println!(
        "{SESSIONS} sessions of {CLIENTS} clients for {:?}, SESSION_CACHE_TTL {:?}: an ended session is rejected within {:?}",
        arguments.duration,
        arguments.ttl,
        soak.bound()
    );
    println!("the log of the program is in {}", log.display());
    let sessions = sign_in(&hanko);
    let clients = clients()?;

    let mut first = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (soak, client) = (Arc::clone(&soak), client.clone());
        let sessions: Vec<_> = sessions
            .iter()
            .skip(number)
            .step_by(CLIENTS)
            .cloned()
            .collect();
        first.spawn(async move {
            for session in sessions {
                soak.request(&client, &session, false).await;
            }
        });
    }
    first.join_all().await;
    let resident = program.resident();
    println!(
        "[{:.0?}] every session was used once: {}",
        soak.clock.monotonic(),
        soak.totals()
    );
    // The first request of a session waits for Hanko, as it may.
    soak.totals().times.clear();
    soak.totals().waited = 0;

    let mut users = JoinSet::new();
    for session in &sessions {
        let client = clients[session.number % CLIENTS].clone();
        users.spawn(Arc::clone(&soak).use_session(client, Arc::clone(session)));
    }
    tokio::select! {
        () = soak.clock.sleep(arguments.duration) => {}
        () = soak.fail(&hanko) => {}
        () = soak.report() => {}
        // All of them have ended when a tenth of the run is left.
        () = async {
            soak.end_sessions(&hanko, &sessions, arguments.duration.mul_f64(0.9)).await;
            std::future::pending::<()>().await;
        } => {}
    }
    users.shutdown().await;

    let mut totals = soak.totals();
    println!("[{:.0?}] {totals}", soak.clock.monotonic());
    println!(
        "active sessions in steady use: {} requests, median {} ms, 99% {} ms, 99.9% {} ms, slowest {} ms; {} took more than {WAITED:?}",
        totals.times.len(),
        totals.quantile(500),
        totals.quantile(990),
        totals.quantile(999),
        totals.quantile(1000),
        totals.waited,
    );
    println!(
        "an ended session was last accepted {:.1?} after its end or the last outage ({:.1?} over all time in which Hanko answered), of {:?} guaranteed",
        totals.latest,
        totals.latest_in_all,
        soak.bound()
    );
    println!(
        "{} outages; {} validation requests arrived, at most {} at once; resident set {resident} KiB at first, {} KiB at last",
        soak.outages().0.len(),
        hanko.validate_requests(),
        hanko.most_validations_at_once(),
        program.resident()
    );
    let is_good = totals.wrong == 0 && !program.has_panicked.load(Ordering::Relaxed);
    println!(
        "{}",
        if is_good {
            "No wrong decision."
        } else {
            "FAILED"
        }
    );
    Ok(ExitCode::from(u8::from(!is_good)))
}
