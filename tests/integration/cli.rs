//! The program, started as users start it.

use std::{
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    revocations::Redis,
    support::{App, ada, client, local_hanko, within},
};
use poem_hanko::{Clock, ManualClock, SystemClock};

/// The program in an empty folder, with these variables and no others.
fn program(folder: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poem-hanko"));
    command
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    program(folder.path(), variables)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A child process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_command_has_help() {
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["dev", "--help"],
        &["openapi", "--help"],
        &["check", "--help"],
        &["healthcheck", "--help"],
        &["--version"],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_argument_is_one_line_and_exit_code_2() {
    for (arguments, says) in [
        (&["--prot"][..], "--prot"),
        (&["server"], "server"),
        (&["openapi", "--format", "xml"], "xml"),
        (&["openapi", "--output"], "--output"),
        (&["dev", "now"], "now"),
        (&["healthcheck", "--alive"], "--alive"),
    ] {
        let output = run(arguments, &[]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.starts_with("error: "), "{message}");
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn serve_without_a_url_says_where_to_find_it() {
    let output = run(&[], &[]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("HANKO_API_URL is not set"), "{message}");
    assert!(message.contains("cargo run -- dev"), "{message}");
}

#[test]
fn all_configuration_errors_are_reported_with_exit_code_2() {
    let output = run(
        &["serve"],
        &[
            ("HANKO_API_URL", "https://u:hunter2@x.example"),
            ("PORT", "x"),
            ("JWT_LEEWAY", "1d"),
        ],
    );
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.lines().count(), 3, "{message}");
    for variable in ["HANKO_API_URL", "PORT", "JWT_LEEWAY"] {
        assert!(message.contains(variable), "{message}");
    }
    assert!(!message.contains("hunter2"), "{message}");
}

// Hanko is served while this test waits for the program.
#[tokio::test(flavor = "multi_thread")]
async fn check_prints_what_would_be_served() {
    let hanko = local_hanko(&ManualClock::new(SystemClock::new().unix_time())).await;
    // It does not listen.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let variables = [
        ("HANKO_API_URL", &*hanko.url()),
        ("PORT", &taken),
        ("PUBLIC_URL", "https://api.example"),
        ("CORS_ALLOWED_ORIGINS", "http://localhost:3000"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
        ("ADMIN_ADDRESS", "127.0.0.1:9"),
        ("SIGN_IN_URL", "https://app.example/sign-in"),
        ("HANKO_ISUER", "hunter2"),
    ];
    let output = run(&["check"], &variables);
    let report = text(&output.stdout);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}{log}");
    for line in [
        "Keys          1 usable",
        "Audience      not checked",
        "Issuer        not checked",
        "Public URL    https://api.example",
        "Proxies       10.0.0.0/8",
        "GET /protected",
        "POST /webhooks/hanko",
        "GET /docs",
        "any method /forward-auth, which redirects browsers without a session to https://app.example/sign-in",
        "127.0.0.1:9, with /metrics, /livez and /readyz",
    ] {
        assert!(
            report.lines().any(|found| found.ends_with(line)),
            "{line}: {report}"
        );
    }
    for part in [
        "Sessions      hybrid",
        "in this process",
        "http://localhost:3000, https://api.example",
        "- HANKO_ISUER is not a variable of this program; did you mean HANKO_ISSUER?",
        "- CORS_ALLOWED_ORIGINS allows http://localhost:3000",
        "- HANKO_AUDIENCE is not set",
        "To test webhooks",
        "Register https://api.example/webhooks/hanko",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(
        !report.contains("hunter2") && !log.contains("hunter2"),
        "{report}{log}"
    );

    let strict = [
        ("HANKO_API_URL", &*hanko.url()),
        ("HANKO_AUDIENCE", "app.example"),
        ("HANKO_ISSUER", "https://issuer.example"),
        ("HANKO_SESSION_MODE", "stateless"),
        ("DOCS", "false"),
    ];
    let report = text(&run(&["check"], &strict).stdout);
    assert!(report.contains("Audience      app.example"), "{report}");
    assert!(report.contains("session.idle_timeout"), "{report}");
    assert!(!report.contains("is not set"), "{report}");
    assert!(!report.contains("/docs"), "{report}");
}

#[test]
fn check_says_what_cannot_be_reached() {
    let output = run(&["check"], &[("HANKO_API_URL", "http://127.0.0.1:1")]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("JWK Set could not be fetched"),
        "{message}"
    );

    let output = run(&["check"], &[("JWT_LEEWAY", "1d")]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("HANKO_API_URL is not set"), "{message}");
    assert!(message.contains("JWT_LEEWAY"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_the_store_cannot_be_reached() {
    let hanko = local_hanko(&ManualClock::new(SystemClock::new().unix_time())).await;
    let variables = [
        ("HANKO_API_URL", &*hanko.url()),
        ("REVOCATION_STORE_URL", "redis://:hunter2@127.0.0.1:1"),
    ];
    let output = run(&["check"], &variables);
    let message = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("redis://***@127.0.0.1:1 could not be read"),
        "{message}"
    );
    assert!(message.contains("1 usable"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_the_store() {
    let Some(redis) = Redis::start() else { return };
    let hanko = local_hanko(&ManualClock::new(SystemClock::new().unix_time())).await;
    let variables = [
        ("HANKO_API_URL", &*hanko.url()),
        ("REVOCATION_STORE_URL", &*redis.url()),
    ];
    let output = run(&["check"], &variables);
    let report = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}");
    let store = report.lines().find(|line| line.starts_with("Revocations"));
    assert!(
        store.is_some_and(|line| line.contains(&*redis.url())),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_probes_the_running_instance() {
    // It is alive but not ready: it has no keys.
    let clock = ManualClock::new(SystemClock::new().unix_time());
    let app = App::start("http://127.0.0.1:1", &clock, &[]);
    app.hanko.wait_for_key_set_fetches(1).await;
    let port = app.address.port().to_string();
    let address = app.address.to_string();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unused_port = unused.local_addr().unwrap().port().to_string();
    drop(unused);
    for (arguments, variables, code, says) in [
        (&[][..], &[("PORT", &*port)][..], 0, "/livez returned 200"),
        (
            &[],
            &[("PORT", &port), ("HOST", "0.0.0.0")],
            0,
            "http://127.0.0.1:",
        ),
        // The probe uses the admin listener, whatever the address of the API is.
        (
            &[],
            &[("PORT", &unused_port), ("ADMIN_ADDRESS", &address)],
            0,
            "/livez returned 200",
        ),
        (
            &["--ready"],
            &[("PORT", &port)],
            1,
            "/readyz returned 503: The JWK Set could not be",
        ),
        (&[], &[("PORT", &unused_port)], 1, "cannot be reached"),
        (
            &[],
            &[("PORT", &port), ("ADMIN_ADDRESS", "localhost:0")],
            1,
            "the port is 0",
        ),
        (&[], &[("PORT", "x")], 1, "PORT"),
        (
            &[],
            &[("PORT", &port), ("ADMIN_ADDRESS", "9000")],
            1,
            "ADMIN_ADDRESS",
        ),
        // Other variables do not matter.
        (&[], &[("PORT", &port), ("JWT_LEEWAY", "1d")], 0, "200"),
    ] {
        let arguments = [&["healthcheck"], arguments].concat();
        let output = run(&arguments, variables);
        let message = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{variables:?}: {message}");
        assert!(message.contains(says), "{variables:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "PORT=80 secret\n").unwrap();
    let broken = program(folder.path(), &[]).arg("healthcheck").output();
    assert_eq!(broken.unwrap().status.code(), Some(1));
}

#[test]
fn empty_variable_does_not_turn_a_check_off() {
    let folder = tempfile::tempdir().unwrap();
    // A program that accepts the configuration ends too, since its port is taken.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let run = |file: &str, variables: &[(&str, &str)]| {
        std::fs::write(folder.path().join(".env"), file).unwrap();
        let output = program(folder.path(), variables)
            .env("HANKO_API_URL", "http://127.0.0.1:1")
            .env("PORT", &taken)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stderr))
    };
    for variable in ["HANKO_AUDIENCE", "HANKO_ISSUER"] {
        for (file, environment) in [
            (format!("{variable}=\n"), None),
            (format!("{variable}=app.example\n"), Some((variable, ""))),
        ] {
            let (code, message) = run(&file, environment.as_slice());
            assert_eq!(code, Some(2), "{message}");
            assert!(
                message.contains(&format!("{variable}=\"\" must not be empty")),
                "{message}"
            );
        }
    }
}

#[test]
fn missing_ca_roots_are_named() {
    let without_roots = [
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/nonexistent"),
        ("PORT", "0"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut serve = program(folder.path(), &without_roots);
    let output = serve
        .env("HANKO_API_URL", "https://hanko.example")
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in [
        "no CA root certificates",
        "ca-certificates",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

/// Whether this line says that the API listens. The local Hanko logs another such line.
fn is_listening(line: &str) -> bool {
    line.contains("listening") && line.contains("address")
}

/// Starts the program and returns it once it logs that it listens.
fn listening(mut command: Command) -> (Running, impl Iterator<Item = String>) {
    let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let log = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let mut log = log.map(Result::unwrap);
    let mut before = Vec::new();
    let found = log.by_ref().any(|line| {
        before.push(line);
        before.last().is_some_and(|line| is_listening(line))
    });
    assert!(found, "{before:?}");
    (running, before.into_iter().chain(log))
}

// Hanko is served while this test waits for a line.
#[tokio::test(flavor = "multi_thread")]
async fn http_on_loopback_needs_no_ca_roots() {
    let folder = tempfile::tempdir().unwrap();
    let hanko = local_hanko(&ManualClock::new(SystemClock::new().unix_time())).await;
    for (argument, url) in [("serve", hanko.url()), ("dev", String::new())] {
        let mut command = program(
            folder.path(),
            &[
                ("SSL_CERT_FILE", "/dev/null"),
                ("SSL_CERT_DIR", "/nonexistent"),
                ("PORT", "0"),
                ("HANKO_API_URL", &url),
            ],
        );
        command.arg(argument).stdout(Stdio::null());
        let (_running, mut log) = listening(command);
        assert!(log.any(|line| line.contains("holding a new JWK Set")));
    }
}

#[test]
fn serve_warns_of_a_loopback_origin_behind_a_public_url() {
    let folder = tempfile::tempdir().unwrap();
    for (public_url, is_warned) in [
        ("https://api.example", true),
        ("http://localhost:8000", false),
    ] {
        let command = program(
            folder.path(),
            &[
                ("PORT", "0"),
                ("HANKO_API_URL", "http://127.0.0.1:1"),
                ("PUBLIC_URL", public_url),
                ("CORS_ALLOWED_ORIGINS", "http://localhost:3000"),
            ],
        );
        let (running, log) = listening(command);
        drop(running);
        let log: Vec<String> = log.collect();
        assert_eq!(
            log.iter()
                .any(|line| line.contains("WARN") && line.contains("CORS_ALLOWED_ORIGINS")),
            is_warned,
            "{log:?}"
        );
    }
}

#[test]
fn misspelt_variable_causes_a_warning_without_its_value() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "MAX_REQUEST=hunter2\n").unwrap();
    for argument in ["serve", "dev"] {
        let mut command = program(
            folder.path(),
            &[
                ("PORT", "0"),
                ("HANKO_API_URL", "http://127.0.0.1:1"),
                ("HANKO_AUDIENCES", "hunter2"),
                ("HANKO_SERVICE_HOST", "10.0.0.7"),
                ("HANKO_PORT_80_TCP", "tcp://10.0.0.7:80"),
            ],
        );
        command.arg(argument).stdout(Stdio::null());
        let (running, log) = listening(command);
        drop(running);
        let log = log.collect::<Vec<_>>().join("\n");
        for (name, meant) in [
            ("HANKO_AUDIENCES", "HANKO_AUDIENCE"),
            ("MAX_REQUEST", "MAX_REQUESTS"),
        ] {
            let said = format!("{name} is not a variable of this program; did you mean {meant}?");
            let found = log
                .lines()
                .any(|line| line.contains("WARN") && line.contains(&said));
            assert!(found, "{log}");
        }
        assert_eq!(log.matches("is not a variable of").count(), 2, "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}

#[test]
fn the_environment_wins_over_the_dotenv_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "HANKO_COOKIE_NAME=from_file\nPUBLIC_URL=https://file.example\n",
    )
    .unwrap();
    let output = program(folder.path(), &[("HANKO_COOKIE_NAME", "from_env")])
        .arg("openapi")
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        document["components"]["securitySchemes"]["cookie"]["name"],
        "from_env"
    );
    assert_eq!(document["servers"][0]["url"], "https://file.example");
}

#[test]
fn a_broken_dotenv_file_is_an_error_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(".env"),
        "HOST=::1\nPORT=80 secret words\n",
    )
    .unwrap();
    let output = program(folder.path(), &[]).arg("openapi").output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(".env"), "{message}");
    assert!(message.contains("HOST"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn openapi_writes_both_files_and_check_guards_them() {
    let folder = tempfile::tempdir().unwrap();
    let openapi = |arguments: &[&str]| {
        program(folder.path(), &[])
            .arg("openapi")
            .args(arguments)
            .output()
            .unwrap()
    };
    assert_eq!(openapi(&["--check"]).status.code(), Some(1));
    // The folder is created.
    assert!(openapi(&["--output", "openapi"]).status.success());
    assert!(openapi(&["--check"]).status.success());

    let yaml = folder.path().join("openapi/openapi.yaml");
    let stale = std::fs::read_to_string(&yaml)
        .unwrap()
        .replace("/protected", "/secret");
    std::fs::write(&yaml, stale).unwrap();
    let output = openapi(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let difference = text(&output.stdout);
    assert!(difference.contains("-  /secret:"), "{difference}");
    assert!(difference.contains("+  /protected:"), "{difference}");
    assert!(openapi(&["--check", "--format", "json"]).status.success());
}

#[test]
fn the_exported_documents_are_current() {
    for (file, format) in [("openapi.json", "json"), ("openapi.yaml", "yaml")] {
        let kept = std::fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("openapi")
                .join(file),
        );
        let output = run(&["openapi", "--format", format], &[]);
        assert!(
            kept.unwrap() == output.stdout,
            "{file} is out of date: `cargo run -- openapi --output openapi` writes it anew"
        );
    }
}

#[test]
fn dev_prints_a_curl_line_that_works_as_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running(
        program(
            folder.path(),
            &[
                ("PORT", "0"),
                // It listens on loopback, whatever the environment says.
                ("HOST", "0.0.0.0"),
                ("HANKO_API_URL", "https://ignored.example"),
                // The printed command must reach the listener of this test.
                ("PUBLIC_URL", "https://elsewhere.example"),
                ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ],
        )
        .arg("dev")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap(),
    );
    let stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut lines = Vec::new();
    for line in stdout.lines() {
        let line = line.unwrap();
        let is_last = line.starts_with("curl ");
        lines.push(line);
        if is_last {
            break;
        }
    }
    let banner = lines.join("\n");
    for part in [
        "/docs",
        "/dev/sign-in",
        "Local Hanko",
        "every http origin on loopback",
    ] {
        assert!(banner.contains(part), "{banner}");
    }

    let curl = lines.pop().unwrap();
    let answer = Command::new("sh")
        .args(["-c", &format!("{curl} --silent --show-error --noproxy '*'")])
        .output()
        .unwrap();
    assert_eq!(
        text(&answer.stdout),
        r#"{"message":"Hello from protected route!"}"#,
        "{}",
        text(&answer.stderr)
    );

    let _ = running.0.kill();
    let mut log = String::new();
    std::io::Read::read_to_string(&mut running.0.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.contains("HOST is not loopback"), "{log}");
    assert!(log.contains("`dev` ignores PUBLIC_URL"), "{log}");
    assert!(log.contains("address=127.0.0.1:"), "{log}");
    assert_eq!(log.matches("not for production").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_a_json_log_is_json() {
    let folder = tempfile::tempdir().unwrap();
    let json = |variables: &[(&str, &str)], arguments: &[&str]| {
        program(folder.path(), variables)
            .env("LOG_FORMAT", "json")
            .args(arguments)
            .output()
            .unwrap()
    };
    let assert_json = |log: &str| {
        assert!(!log.is_empty());
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            for member in ["timestamp", "level", "message", "target", "event"] {
                assert!(line[member].is_string(), "{member}: {line}");
            }
        }
    };
    // Errors in the configuration, and later ones.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    for (variables, code) in [
        (&[("PORT", "x"), ("JWT_LEEWAY", "1d")][..], 2),
        (
            &[("HANKO_API_URL", "http://127.0.0.1:1"), ("PORT", &taken)],
            1,
        ),
        (
            &[
                ("HANKO_API_URL", "https://hanko.example"),
                ("SSL_CERT_FILE", "/dev/null"),
            ],
            1,
        ),
    ] {
        let output = json(variables, &["serve"]);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{log}");
        assert_json(&log);
        assert!(log.contains("ERROR"), "{log}");
    }
    // A whole run, `dev` with its warning and `serve` with the URL of its pages.
    for (argument, said) in [("dev", "not for production"), ("serve", "Swagger UI")] {
        let mut command = program(
            folder.path(),
            &[
                ("LOG_FORMAT", "json"),
                ("PORT", "0"),
                ("HANKO_API_URL", "http://127.0.0.1:1"),
            ],
        );
        command.arg(argument).stdout(Stdio::null());
        let (running, log) = listening(command);
        drop(running);
        let log = log.collect::<Vec<_>>().join("\n");
        assert_json(&log);
        assert!(log.contains(said), "{log}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn closed_standard_error_does_not_end_the_service() {
    let folder = tempfile::tempdir().unwrap();
    // A fixed port, since the log that names a picked one cannot be read.
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = vacant.local_addr().unwrap();
    drop(vacant);
    for argument in ["serve", "dev"] {
        let mut running = Running(
            program(
                folder.path(),
                &[
                    ("PORT", &address.port().to_string()),
                    ("HANKO_API_URL", "http://127.0.0.1:1"),
                ],
            )
            .arg(argument)
            .stdout(Stdio::null())
            .stderr(closed_pipe())
            .spawn()
            .unwrap(),
        );
        until_alive(&mut running, &format!("http://{address}")).await;
        terminate(&running);
        assert_eq!(running.0.wait().unwrap().code(), Some(0), "{argument}");
    }
}

/// Waits until the program responds, and fails if it ends.
async fn until_alive(running: &mut Running, url: &str) {
    let clock = SystemClock::new();
    let client = client();
    while client.get(format!("{url}/livez")).send().await.is_err() {
        assert_eq!(running.0.try_wait().unwrap(), None, "it has ended");
        clock.sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(unix)]
fn terminate(running: &Running) {
    let pid = running.0.id().to_string();
    let status = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(status.unwrap().success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn unread_log_blocks_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let command = program(
        folder.path(),
        &[
            ("PORT", "0"),
            ("HANKO_API_URL", "http://127.0.0.1:1"),
            ("RUST_LOG", "poem_hanko=debug"),
        ],
    );
    let (mut running, log) = listening(command);
    let (address, mut log) = address(log);
    // Each request is one line, and the pipe and the queue hold some ten thousand lines.
    let clients = (0..8).map(|_| {
        let (client, url) = (client(), format!("http://{address}/livez"));
        tokio::spawn(async move {
            for _ in 0..2_500 {
                let response = within(client.get(&url).send()).await.unwrap();
                assert_eq!(response.status(), 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // There is space again as soon as the log is read.
    assert!(log.any(|line| line.contains("dropped log lines") && line.contains("lines=")));
    terminate(&running);
    assert!(log.any(|line| line.contains("stopped")));
    assert_eq!(running.0.wait().unwrap().code(), Some(0));

    // An unread log does not keep the program from ending either.
    let mut command = program(folder.path(), &[("PORT", "0"), ("RUST_LOG", "trace")]);
    command.arg("dev").stdout(Stdio::null());
    let (mut running, log) = listening(command);
    let (address, _unread) = self::address(log);
    until_alive(&mut running, &format!("http://{address}")).await;
    terminate(&running);
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

/// The address that the log names, and the lines after it.
fn address(log: impl Iterator<Item = String>) -> (String, impl Iterator<Item = String>) {
    let mut log = log.skip_while(|line| !is_listening(line));
    let line = log.next().unwrap();
    let address = line.split("address=").nth(1).unwrap();
    let address = address.split(' ').next().unwrap().to_owned();
    (address, log)
}

/// A pipe whose reader is closed.
fn closed_pipe() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn unread_output_blocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("openapi")).unwrap();
    for file in ["openapi/openapi.json", "openapi/openapi.yaml"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    let output = program(folder.path(), &[])
        .args(["openapi", "--check"])
        .stdout(closed_pipe())
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");

    let mut running = Running(
        program(folder.path(), &[("PORT", "0")])
            .arg("dev")
            .stdout(closed_pipe())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let log = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let mut log = log.map(Result::unwrap);
    assert!(log.any(|line| line.contains("listening")));
}

#[cfg(unix)]
#[tokio::test]
async fn serve_verifies_real_requests_and_ends_at_sigterm() {
    let now = SystemClock::new().unix_time();
    let hanko = local_hanko(&ManualClock::new(now)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running(
        program(
            folder.path(),
            &[
                ("PORT", "0"),
                ("HANKO_API_URL", &hanko.url()),
                ("HANKO_AUDIENCE", "localhost"),
                ("CORS_ALLOWED_ORIGINS", "https://app.example"),
                ("LOG_FORMAT", "json"),
            ],
        )
        .stderr(Stdio::piped())
        .spawn()
        .unwrap(),
    );
    let mut log = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let (address, start) = log
        .by_ref()
        .find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
            let address = line["address"].as_str()?.to_owned();
            Some((address, line))
        })
        .expect("the log names the address");
    for (field, value) in [
        ("event", Value::from("listening")),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("mode", "hybrid".into()),
        ("audience", "localhost".into()),
        ("issuer", "unchecked".into()),
        ("store", "in this process".into()),
        ("max_requests", 4096.into()),
        ("max_request_body", (256 * 1024).into()),
        ("request_timeout", "30s".into()),
    ] {
        assert_eq!(start[field], value, "{field}: {start}");
    }
    let origins = start["origins"].as_str().unwrap();
    assert!(
        origins.starts_with("https://app.example, http://localhost:"),
        "{origins}"
    );
    assert!(start["max_connections"].is_number(), "{start}");
    let token = hanko.sign_in(&ada()).token;
    let response = client()
        .get(format!("http://{address}/protected"))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);

    let pid = running.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let rest: Vec<String> = log.map(Result::unwrap).collect();
    assert!(rest.iter().any(|line| line.contains("stopped")), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("lost")), "{rest:?}");
}

/// At the first signal as well as at the second, which ends the process at once.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_are_lost_at_the_end_are_reported() {
    let system_clock = SystemClock::new();
    for (delay, code) in [("0s", 0), ("10m", 143)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut running, log) = listening(program(
            folder.path(),
            &[
                ("PORT", "0"),
                // There are no keys to verify a webhook with.
                ("HANKO_API_URL", "http://127.0.0.1:1"),
                ("SHUTDOWN_DELAY", delay),
            ],
        ));
        let (address, mut log) = address(log);
        let hanko = local_hanko(&ManualClock::new(system_clock.unix_time())).await;
        let session = hanko.sign_in(&ada());
        let data = hanko.session_data(session.session_id).unwrap();
        let body = hanko.webhook_body("session.delete.explicit.logout", &data);
        let request = client().post(format!("http://{address}/webhooks/hanko"));
        let response = within(request.json(&body).send()).await.unwrap();
        assert_eq!(response.status(), 202);

        terminate(&running);
        assert!(log.any(|line| line.contains("received a signal")));
        // The process may not yet be listening for the second signal.
        let status = within(async {
            loop {
                if let Some(status) = running.0.try_wait().unwrap() {
                    return status;
                }
                if code != 0 {
                    terminate(&running);
                }
                system_clock.sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(status.code(), Some(code));
        let lost: Vec<String> = log.filter(|line| line.contains("are lost")).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        for part in ["WARN", "unverified=1", "undelivered=0"] {
            assert!(lost[0].contains(part), "{}", lost[0]);
        }
    }
}
