//! A store that cannot work is an error at startup; one that is unavailable is not.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use poem_hanko::{RedisStore, RedisStoreError, RevocationStore, SystemClock};

use super::{RealSleeps, Redis, clock_not_behind, until, vacant_port};

/// The outcome of the first attempt to use the Redis at this URL.
async fn check(url: &str) -> Result<(), RedisStoreError> {
    let store = RedisStore::start(url, Arc::new(RealSleeps(clock_not_behind()))).unwrap();
    let outcome = store.check().await;
    assert!(outcome.is_ok() || !store.is_ready());
    outcome
}

/// A `redis-server` that responds.
async fn redis(arguments: &[&str]) -> Option<Redis> {
    let redis = Redis::start_with(arguments)?;
    until("the server listens", async || {
        TcpStream::connect(("127.0.0.1", redis.port)).is_ok()
    })
    .await;
    Some(redis)
}

#[tokio::test]
async fn wrong_or_missing_password_is_an_error_at_startup() {
    let Some(redis) = redis(&["--requirepass", "right"]).await else {
        return;
    };
    let at = |user: &str| format!("redis://{user}127.0.0.1:{}", redis.port);
    for user in ["", ":wrong@", "nobody:right@", ":%20@"] {
        assert_eq!(
            check(&at(user)).await,
            Err(RedisStoreError::Credentials),
            "{user}"
        );
    }
    assert_eq!(check(&at(":right@")).await, Ok(()));
}

#[tokio::test]
async fn password_that_redis_does_not_have_is_an_error() {
    let Some(redis) = redis(&[]).await else {
        return;
    };
    let url = format!("redis://:any@127.0.0.1:{}", redis.port);
    assert_eq!(check(&url).await, Err(RedisStoreError::Credentials));
}

#[tokio::test]
async fn each_missing_permission_is_an_error_at_startup() {
    const NEEDED: [&str; 9] = [
        "~poem-hanko:revoked:*",
        "&poem-hanko:revoked",
        "+set",
        "+publish",
        "+multi",
        "+exec",
        "+scan",
        "+subscribe",
        "+ping",
    ];

    let Some(redis) = redis(&[]).await else {
        return;
    };
    let url = format!("redis://app:secret@127.0.0.1:{}", redis.port);
    let allow = |rules: &[&str]| {
        let user = [&["acl", "setuser", "app", "reset", "on", ">secret"], rules].concat();
        redis.tell(&user);
    };
    for missing in NEEDED {
        let rules: Vec<_> = NEEDED.into_iter().filter(|rule| *rule != missing).collect();
        allow(&rules);
        assert_eq!(
            check(&url).await,
            Err(RedisStoreError::Permissions),
            "{missing}"
        );
    }
    // These permissions are enough, and the message names them.
    allow(&NEEDED);
    let store = RedisStore::start(&url, Arc::new(RealSleeps(clock_not_behind()))).unwrap();
    assert_eq!(store.check().await, Ok(()));
    until("the store is ready", async || store.is_ready()).await;
    let message = RedisStoreError::Permissions.to_string();
    for rule in NEEDED {
        assert!(message.contains(rule), "{rule}");
    }
}

#[tokio::test]
async fn read_only_replica_is_an_error_at_startup() {
    let Some(primary) = redis(&[]).await else {
        return;
    };
    let port = primary.port.to_string();
    let replica = redis(&["--replicaof", "127.0.0.1", &port]).await.unwrap();
    until("the replica has loaded", async || {
        replica
            .ask(&["info", "replication"])
            .contains("master_link_status:up")
    })
    .await;
    assert_eq!(check(&replica.url()).await, Err(RedisStoreError::ReadOnly));
}

#[tokio::test]
async fn missing_database_is_an_error_at_startup() {
    let Some(redis) = redis(&["--databases", "2"]).await else {
        return;
    };
    let cluster = self::redis(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &vacant_port().to_string(),
    ])
    .await
    .unwrap();
    for url in [format!("{}/2", redis.url()), format!("{}/1", cluster.url())] {
        assert_eq!(check(&url).await, Err(RedisStoreError::Database), "{url}");
    }
    assert_eq!(check(&format!("{}/1", redis.url())).await, Ok(()));
}

#[tokio::test]
async fn cluster_with_missing_slots_is_an_error_at_startup() {
    let bus_port = vacant_port().to_string();
    let Some(node) = redis(&["--cluster-enabled", "yes", "--cluster-port", &bus_port]).await else {
        return;
    };
    assert_eq!(check(&node.url()).await, Err(RedisStoreError::SlotsMissing));
    node.tell(&["cluster", "addslotsrange", "0", "16382"]);
    assert_eq!(check(&node.url()).await, Err(RedisStoreError::SlotsMissing));
    node.tell(&["cluster", "addslotsrange", "16383", "16383"]);
    assert_eq!(check(&node.url()).await, Ok(()));
}

#[tokio::test]
async fn cluster_user_without_permissions_is_an_error() {
    let bus_port = vacant_port().to_string();
    let Some(node) = redis(&["--cluster-enabled", "yes", "--cluster-port", &bus_port]).await else {
        return;
    };
    node.tell(&["cluster", "addslotsrange", "0", "16383"]);
    let url = format!("redis://app:secret@127.0.0.1:{}", node.port);
    let rules = "acl setuser app reset on >secret ~poem-hanko:revoked:* &poem-hanko:revoked +set +publish +multi +exec \
                 +scan +subscribe +ping";
    let rules: Vec<_> = rules.split_whitespace().collect();
    node.tell(&rules);
    assert_eq!(check(&url).await, Err(RedisStoreError::Permissions));
    node.tell(&[rules.as_slice(), &["+cluster|slots", "+cluster|nodes"]].concat());
    let store = RedisStore::start(&url, Arc::new(RealSleeps(clock_not_behind()))).unwrap();
    until("the store is ready", async || store.is_ready()).await;
}

#[tokio::test]
async fn server_that_lacks_a_command_is_an_error_at_startup() {
    let Some(redis) = redis(&["--rename-command", "SCAN", ""]).await else {
        return;
    };
    assert_eq!(check(&redis.url()).await, Err(RedisStoreError::TooOld));
}

#[tokio::test]
async fn sentinel_is_an_error_at_startup() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sentinel.conf");
    fs::write(&file, "").unwrap();
    // The first argument of `redis-server` is its configuration file, so it is started here directly.
    let Some(mut sentinel) = Redis::start() else {
        return;
    };
    sentinel.kill();
    let server = Command::new("redis-server")
        .arg(&file)
        .args([
            "--sentinel",
            "--bind",
            "127.0.0.1",
            "--port",
            &sentinel.port.to_string(),
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    sentinel.server = Some(server);
    until("the sentinel listens", async || {
        TcpStream::connect(("127.0.0.1", sentinel.port)).is_ok()
    })
    .await;
    assert_eq!(check(&sentinel.url()).await, Err(RedisStoreError::Sentinel));
}

#[tokio::test]
async fn redis_with_too_many_clients_is_only_unavailable() {
    let Some(redis) = redis(&["--requirepass", "right"]).await else {
        return;
    };
    let mut admin = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    let mut tell = |command: &str| {
        admin
            .write_all(format!("{command}\r\n").as_bytes())
            .unwrap();
        let mut reply = [0; 5];
        admin.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+OK\r\n", "{command}");
    };
    tell("AUTH right");
    tell("CONFIG SET maxclients 1");
    let url = format!("redis://:right@127.0.0.1:{}", redis.port);
    let store = RedisStore::start(&url, Arc::new(RealSleeps(clock_not_behind()))).unwrap();
    assert_eq!(store.check().await, Ok(()));
    assert!(!store.is_ready());
    tell("CONFIG SET maxclients 100");
    until("the store is ready", async || store.is_ready()).await;
}

/// Runs `serve` until it exits.
fn serve(store_url: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_poem-hanko"))
        .current_dir(folder.path())
        .env_clear()
        .envs([
            ("PORT", "0"),
            // Nothing listens there.
            ("HANKO_API_URL", "http://127.0.0.1:1"),
            ("REVOCATION_STORE_URL", store_url),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test]
async fn serve_ends_with_1_if_the_store_cannot_work() {
    let Some(redis) = redis(&["--requirepass", "right"]).await else {
        return;
    };
    let url = format!("redis://:mistaken-secret@127.0.0.1:{}", redis.port);
    let output = tokio::task::spawn_blocking(move || serve(&url))
        .await
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.contains("REVOCATION_STORE_URL is a Redis that rejects the user name or password"),
        "{log}"
    );
    assert!(!log.contains("mistaken-secret"), "{log}");
}

#[tokio::test]
async fn check_of_an_absent_redis_succeeds() {
    let store = RedisStore::start("redis://127.0.0.1:1", Arc::new(SystemClock::new())).unwrap();
    assert_eq!(store.check().await, Ok(()));
    assert!(!store.is_ready());
}
