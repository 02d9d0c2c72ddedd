//! The memory of open streams: 10,000 futures of `Session::ended` that wait.
//!
//! ```sh
//! cargo bench --bench streams
//! ```
//!
//! Prints the bytes per stream in addition to its connection, for 10,000 streams of 1,000 and of 10,000 sessions, and fails
//! if that is 1 KiB or more. Linux only: it reads the resident set size. Each case runs in its own process, because the set
//! would not grow if freed memory were reused.
//!
//! A handler holds its session anyway, so the bytes of a session with its token are printed separately. The token cache is off,
//! so each token is in memory once, as for streams whose tokens have left the cache.

use std::{
    env, fs,
    process::{Command, ExitCode},
    task::{Context, Waker},
};

use poem_hanko::{
    Hanko, Session,
    testing::{LocalHanko, Person},
};

const STREAMS: usize = 10_000;
const SESSIONS: [usize; 2] = [1_000, 10_000];
const MAX_BYTES_PER_STREAM: usize = 1024;
/// This many sessions are used first, so that clients and connections have allocated their memory.
const WARM_UP: usize = 200;

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next());
    line.and_then(|kib| kib.parse::<usize>().ok())
        .expect("a size in KiB")
        * 1024
}

async fn authenticate(hanko: &Hanko, tokens: &[String]) -> Vec<Session> {
    let mut sessions = Vec::with_capacity(tokens.len());
    for token in tokens {
        sessions.push(hanko.authenticate(token).await.expect("an active session"));
    }
    sessions
}

/// Prints the memory of one case, and returns the bytes per stream.
async fn measure(sessions: usize) -> usize {
    let local_hanko = LocalHanko::builder().start().await.expect("a free port");
    let hanko = Hanko::builder(local_hanko.hanko_url())
        .token_cache_capacity(0)
        .build()
        .expect("the default policy is valid");
    let tokens: Vec<String> = (0..sessions + WARM_UP)
        .map(|number| {
            let person = Person::with_email(format!("person-{number}@example.com"));
            local_hanko.sign_in(&person).token
        })
        .collect();
    let (warm_up, tokens) = tokens.split_at(WARM_UP);
    let used = authenticate(&hanko, warm_up).await;

    let before = resident_bytes();
    let sessions = authenticate(&hanko, tokens).await;
    let authenticated = resident_bytes();
    let mut streams: Vec<_> = (0..STREAMS)
        .map(|number| Box::pin(sessions[number % sessions.len()].ended()))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for stream in &mut streams {
        assert!(stream.as_mut().poll(&mut context).is_pending());
    }
    // Lets the task run that watches over the streams.
    tokio::task::yield_now().await;
    let waiting = resident_bytes();
    drop(used);

    let per_stream = (waiting - authenticated) / STREAMS;
    let per_session = (authenticated - before) / sessions.len();
    println!(
        "{STREAMS} streams of {} sessions: {per_stream} bytes per stream; {per_session} bytes per session with its token",
        sessions.len()
    );
    per_stream
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    if let Some(sessions) = arguments.find_map(|argument| argument.parse().ok()) {
        let bytes = measure(sessions).await;
        return ExitCode::from(u8::from(bytes >= MAX_BYTES_PER_STREAM));
    }
    let mut is_good = true;
    for sessions in SESSIONS {
        let program = env::current_exe().expect("this program");
        let status = Command::new(program).arg(sessions.to_string()).status();
        is_good &= status.expect("it can be started").success();
    }
    ExitCode::from(u8::from(!is_good))
}
