//! The limits that clients of the API and operators notice. `src/edge/limits/tests.rs` tests those that need endpoints which
//! wait or stream, and `tests/limits/run` attacks the program.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use poem_hanko::{Clock, SystemClock, testing::Fault};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use crate::{
    greeting,
    support::{ada, assert_problem, client, config, send, start, start_with, within},
};

fn http2_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .expect("a client")
}

#[tokio::test]
async fn http_2_requests_have_at_most_100_fields() {
    let (_local_hanko, app) = start().await;
    let client = http2_client();
    let get = |fields: usize| {
        let fields = (0..fields).map(|number| (format!("x-{number}"), "1".to_owned()));
        fields.fold(client.get(app.url("/")), |request, (name, value)| {
            request.header(name, value)
        })
    };
    // The client adds `accept`.
    assert_eq!(send(get(99)).await.status(), 200);
    assert_problem(send(get(100)).await, 431, "header-fields-too-large").await;
}

#[tokio::test]
async fn http_2_header_lists_have_at_most_16_kib() {
    let (_local_hanko, app) = start().await;
    let client = http2_client();
    let get = |bytes: usize| {
        let request = client.get(app.url("/"));
        send(request.header("x-filler", "x".repeat(bytes)))
    };
    assert_eq!(get(15 * 1024).await.status(), 200);
    assert_eq!(get(17 * 1024).await.status(), 431);
    // The connection stays open.
    assert_eq!(get(1).await.status(), 200);
}

#[tokio::test]
async fn http_1_requests_have_at_most_100_fields() {
    let (_local_hanko, app) = start().await;
    for (fields, status) in [(99, "200"), (100, "431")] {
        let mut stream = TcpStream::connect(app.address).await.unwrap();
        let fields = "X-Field: 1\r\n".repeat(fields);
        let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut line = [0; 12];
        within(stream.read_exact(&mut line)).await.unwrap();
        assert_eq!(line, format!("HTTP/1.1 {status}").as_bytes());
    }
}

#[tokio::test]
async fn webhooks_have_limits_of_their_own() {
    let variables = [("MAX_REQUEST_BODY", "1KiB"), ("REQUEST_TIMEOUT", "1s")];
    let (local_hanko, app) = start_with(&variables).await;
    let post = |bytes: usize| {
        app.request(reqwest::Method::POST, "/webhooks/hanko")
            .header("content-type", "application/json")
            .body("x".repeat(bytes))
    };
    assert_problem(send(post(256 * 1024)).await, 400, "bad-request").await;
    assert_problem(send(post(256 * 1024 + 1)).await, 413, "content-too-large").await;

    // The time limit of other requests does not apply to one that waits for a key.
    let session = local_hanko.sign_in(&ada());
    let data = local_hanko.session_data(session.session_id).unwrap();
    local_hanko.rotate_key().await.unwrap();
    local_hanko.set_fault(Fault::Hangs);
    let before = local_hanko.key_set_requests();
    let body = local_hanko.webhook_body("session.delete.explicit.logout", &data);
    let request = app
        .request(reqwest::Method::POST, "/webhooks/hanko")
        .json(&body);
    let waiting = tokio::spawn(send(request));
    let asked = async {
        while local_hanko.key_set_requests() == before {
            tokio::task::yield_now().await;
        }
    };
    within(asked).await;
    app.clock.advance(Duration::from_secs(4));
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    local_hanko.set_fault(Fault::None);
    assert_eq!(within(waiting).await.unwrap().status(), 204);
}

#[tokio::test]
async fn sign_in_page_waits_for_its_body_within_limits() {
    let server = greeting::app()
        .bind_dev(config(&[("REQUEST_TIMEOUT", "200ms")]))
        .await
        .unwrap();
    let address = server.address();
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.run(async move {
        let _dropped = stopped.await;
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /dev/sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\nemail=";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    within(stream.read_to_end(&mut response)).await.unwrap();
    let response = String::from_utf8_lossy(&response);
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    assert!(response.contains("/problems/request-timeout"), "{response}");
}

/// The program, which ends with the test, and the address and log of its API.
struct Program {
    child: Child,
    address: String,
    log: Vec<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Starts it by a shell, after `command`.
    fn start(command: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", &format!("{command}; exec \"$0\" serve")])
            .arg(env!("CARGO_BIN_EXE_poem-hanko"))
            .current_dir(folder.path())
            .env_clear()
            .env("PORT", "0")
            .env("HANKO_API_URL", "http://127.0.0.1:9")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let mut address = None;
        let has_limits = |log: &[String]| {
            log.iter()
                .any(|line| line.contains("limits of this process"))
        };
        while address.is_none() || !has_limits(&log) {
            let line = lines.next().expect("it goes on").unwrap();
            let found = line.split("address=").nth(1);
            let found = found.and_then(|rest| rest.split(' ').next());
            address = address.or(found.map(ToOwned::to_owned));
            log.push(line);
        }
        // The pipe is read to the end, so that the program never waits for it.
        std::thread::spawn(move || lines.count());
        Self {
            child,
            address: address.expect("the log names the address"),
            log,
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.unwrap().success());
    }

    async fn status(&self, path: &str) -> u16 {
        let response = client().get(format!("http://{}{path}", self.address));
        send(response).await.status().as_u16()
    }
}

#[tokio::test]
async fn descriptors_are_raised_reserved_and_reported() {
    let program = Program::start("ulimit -Sn 100; ulimit -Hn 300", &[]);
    let limits = program.log.join("\n");
    for part in ["descriptors=300", "reserved=128", "max_connections=172"] {
        assert!(limits.contains(part), "{part}: {limits}");
    }
    // More than the number of descriptors.
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&program.address).await.unwrap());
    }
    assert_eq!(program.status("/livez").await, 200);
    assert_eq!(program.status("/readyz").await, 503);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", program.child.id()));
    let descriptors = descriptors.unwrap().count();
    assert!(descriptors <= 300 - 100, "{descriptors}");
}

#[tokio::test]
async fn second_signal_ends_the_program_at_once() {
    let mut program = Program::start(":", &[("SHUTDOWN_DELAY", "1h")]);
    // From the first response on, it handles signals.
    send(client().get(format!("http://{}/livez", program.address))).await;
    program.terminate();
    let clock = SystemClock::new();
    let drained = async {
        // Until the signal has been received.
        loop {
            let response = client().get(format!("http://{}/livez", program.address));
            if send(response).await.headers().contains_key("connection") {
                return;
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    within(drained).await;
    program.terminate();
    let ended = tokio::task::spawn_blocking(move || program.child.wait());
    let status = within(ended).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(143));
}
