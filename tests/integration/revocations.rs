//! The contract of every revocation store, and the additional behaviour of the one in Redis for replicas.

mod cluster;
mod startup;

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use poem_hanko::{
    AuthenticateError, Clock, EndReason, Hanko, ManualClock, MemoryStore, RedisStore, Revocation,
    RevocationStore, Session, Sleep, SystemClock, Target, WebhookError, testing::LocalHanko,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    START, ada, assert_problem, client, hanko_builder, local_hanko, report, send, start_with,
    token_cache_capacity, within,
};

const LOGOUT: &str = "session.delete.explicit.logout";

/// Set to 1, it makes the tests that need a `redis-server` fail without one. Otherwise they are skipped there.
const REQUIRE_REDIS: &str = "POEM_HANKO_REQUIRE_REDIS";

/// A `redis-server` in a new folder, which ends with the test.
pub(crate) struct Redis {
    folder: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    server: Option<Child>,
}

/// Returns a port on loopback on which nothing listens.
pub(crate) fn vacant_port() -> u16 {
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    vacant.local_addr().unwrap().port()
}

impl Redis {
    /// Returns `None`, with the reason reported, if there is no `redis-server` and none is required.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same, with further arguments of `redis-server`.
    fn start_with(arguments: &[&str]) -> Option<Self> {
        if let Err(error) = Command::new("redis-server").arg("--version").output() {
            let is_required = std::env::var_os(REQUIRE_REDIS).is_some_and(|value| value == "1");
            assert!(
                !is_required,
                "redis-server cannot be run ({error}), and {REQUIRE_REDIS}=1"
            );
            report(&format!(
                "skipped: a test with Redis, because redis-server cannot be run ({error})"
            ));
            return None;
        }
        let mut redis = Self {
            folder: tempfile::tempdir().unwrap(),
            port: vacant_port(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            server: None,
        };
        redis.run();
        Some(redis)
    }

    fn run(&mut self) {
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(server);
    }

    /// Kills the server, and so deletes its data: nothing is persisted.
    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Changes the configuration of the running server.
    fn set(&self, name: &str, value: &str) {
        self.tell(&["config", "set", name, value]);
    }

    /// Sends a command to the running server.
    fn tell(&self, command: &[&str]) {
        self.ask(command);
    }

    /// The same, with the reply.
    fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-e", "-p", &self.port.to_string()])
            .args(command)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the condition is true, and fails after a long time.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let clock = SystemClock::new();
    for _ in 0..3000 {
        if is_so().await {
            return;
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come true that {what}");
}

fn hanko(
    local_hanko: &LocalHanko,
    clock: &Arc<dyn Clock>,
    store: Arc<dyn RevocationStore>,
) -> Hanko {
    hanko_builder(local_hanko.hanko_url())
        .clock(Arc::clone(clock))
        .revocation_store(store)
        .build()
        .unwrap()
}

async fn authenticate(hanko: &Hanko, token: &str) -> Result<Session, AuthenticateError> {
    hanko.authenticate(token).await
}

async fn log_out(
    hanko: &Hanko,
    local_hanko: &LocalHanko,
    session: uuid::Uuid,
) -> Result<(), WebhookError> {
    let data = local_hanko.session_data(session).unwrap();
    tell(hanko, &local_hanko.webhook_body(LOGOUT, &data)).await
}

async fn tell(hanko: &Hanko, body: &Value) -> Result<(), WebhookError> {
    hanko
        .receive_webhook(body.to_string().as_bytes())
        .await
        .map(|_event| ())
}

/// The contract of any store.
async fn keeps_its_promises(store: Arc<dyn RevocationStore>, clock: &ManualClock) {
    let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let local_hanko = local_hanko(clock).await;
    let hanko = hanko(&local_hanko, &shared_clock, Arc::clone(&store));
    until("the store is ready", async || store.is_ready()).await;
    assert!(store.is_empty());

    // A session.
    let person = ada();
    let session = local_hanko.sign_in(&person);
    let other = local_hanko.sign_in(&person);
    log_out(&hanko, &local_hanko, session.session_id)
        .await
        .unwrap();
    log_out(&hanko, &local_hanko, session.session_id)
        .await
        .unwrap();
    assert_eq!(store.len(), 1);
    assert_eq!(
        authenticate(&hanko, &session.token).await.unwrap_err(),
        AuthenticateError::SessionEnded
    );
    assert!(authenticate(&hanko, &other.token).await.is_ok());

    // A user, up to a moment.
    tell(
        &hanko,
        &local_hanko.webhook_body("user.delete", &json!({ "id": person.id().as_uuid() })),
    )
    .await
    .unwrap();
    assert!(authenticate(&hanko, &other.token).await.is_err());
    clock.advance(Duration::from_secs(1));
    let later = local_hanko.sign_in(&person);
    assert!(authenticate(&hanko, &later.token).await.is_ok());

    // An earlier time for the same user, received later, changes nothing.
    let claims = json!({
        "sub": "hanko webhooks", "iat": clock.unix_time().as_secs() - 100, "exp": clock.unix_time().as_secs() + 200,
        "evt": "user.delete", "data": { "id": person.id().as_uuid() },
    });
    let token = local_hanko.sign_claims(claims.as_object().unwrap());
    tell(&hanko, &json!({ "token": token, "event": "user.delete" }))
        .await
        .unwrap();
    assert!(authenticate(&hanko, &other.token).await.is_err());

    // Nothing is dropped while a token could be valid, and something is afterwards.
    let lasting = local_hanko.sign_in(&ada());
    log_out(&hanko, &local_hanko, lasting.session_id)
        .await
        .unwrap();
    clock.advance(Duration::from_hours(12) + Duration::from_secs(29));
    let fresh = local_hanko.sign_in(&ada());
    log_out(&hanko, &local_hanko, fresh.session_id)
        .await
        .unwrap();
    assert_eq!(
        authenticate(&hanko, &lasting.token).await.unwrap_err(),
        AuthenticateError::SessionEnded
    );
    clock.advance(Duration::from_secs(2));
    let fresher = local_hanko.sign_in(&ada());
    log_out(&hanko, &local_hanko, fresher.session_id)
        .await
        .unwrap();
    // The user, and the last two sessions.
    assert_eq!(store.len(), 3);
}

#[tokio::test]
async fn the_store_in_memory_keeps_its_promises() {
    let clock = ManualClock::new(START);
    let store = Arc::new(MemoryStore::new(Arc::new(clock.clone())));
    keeps_its_promises(store, &clock).await;
}

/// A clock whose time the test sets, but which waits in real time, for a server that is really down.
#[derive(Debug)]
struct RealSleeps(ManualClock);

impl Clock for RealSleeps {
    fn unix_time(&self) -> Duration {
        self.0.unix_time()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        SystemClock::new().sleep(duration)
    }
}

/// Skips each pause between attempts and records it. Timeouts of two seconds never end.
#[derive(Debug)]
struct NotedPauses {
    clock: ManualClock,
    pauses: Mutex<Vec<Duration>>,
}

impl Clock for NotedPauses {
    fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        if duration == Duration::from_secs(2) {
            return Box::pin(std::future::pending());
        }
        self.pauses.lock().unwrap().push(duration);
        Box::pin(tokio::task::yield_now())
    }
}

#[tokio::test]
async fn attempts_to_reach_redis_back_off() {
    let clock = Arc::new(NotedPauses {
        clock: ManualClock::new(START),
        pauses: Mutex::default(),
    });
    // Nothing listens there.
    let store = RedisStore::start("redis://127.0.0.1:1", Arc::clone(&clock) as _).unwrap();
    let pauses = within(async {
        loop {
            let pauses = clock.pauses.lock().unwrap().clone();
            if pauses.len() >= 40 {
                return pauses;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!store.is_ready());
    for (index, pause) in pauses.iter().enumerate() {
        let longest = [500, 1000, 2000, 4000].get(index).unwrap_or(&5000);
        let range = longest / 2..=*longest;
        assert!(range.contains(&pause.as_millis()), "{index}: {pause:?}");
    }
    // Replicas that lost the store together do not return together.
    let distinct: HashSet<_> = pauses[4..].iter().collect();
    assert!(distinct.len() > 30, "{pauses:?}");
}

#[tokio::test]
async fn the_store_in_redis_keeps_its_promises() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let sleeps = Arc::new(RealSleeps(clock.clone()));
    let store = Arc::new(RedisStore::start(&redis.url(), sleeps).unwrap());
    keeps_its_promises(store, &clock).await;
}

/// Returns a clock that is not behind that of Redis, because Redis drops entries whose expiry is in its past.
fn clock_not_behind() -> ManualClock {
    ManualClock::new(START.max(SystemClock::new().unix_time()))
}

fn session_revocation(id: Uuid, until: Duration) -> Revocation {
    Revocation {
        target: Target::Session(id.into()),
        until: until.into(),
    }
}

fn user_revocation(id: Uuid, issued_until: Duration, until: Duration) -> Revocation {
    Revocation {
        target: Target::User {
            id: id.into(),
            issued_until: issued_until.into(),
        },
        until: until.into(),
    }
}

/// A store at this Redis that has read all its entries.
async fn filled_store(redis: &Redis, clock: &ManualClock) -> RedisStore {
    let sleeps = Arc::new(RealSleeps(clock.clone()));
    let store = RedisStore::start(&redis.url(), sleeps).unwrap();
    until("the store is ready", async || store.is_ready()).await;
    store
}

#[tokio::test]
async fn weaker_revocation_weakens_nothing_in_later_replicas() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let now = clock.unix_time();
    let first = filled_store(&redis, &clock).await;
    let second = filled_store(&redis, &clock).await;
    let (session, user) = (Uuid::new_v4(), Uuid::new_v4());
    let hour = Duration::from_hours(1);
    let earlier = now.saturating_sub(hour);
    for (store, revocation) in [
        (&first, session_revocation(session, now + 3 * hour)),
        (&second, session_revocation(session, now + hour)),
        (&first, user_revocation(user, now, now + 3 * hour)),
        (&second, user_revocation(user, earlier, now + 3 * hour)),
    ] {
        store.revoke(revocation).await.unwrap();
    }
    let third = filled_store(&redis, &clock).await;
    clock.advance(2 * hour);
    // Removes the expired entries.
    for store in [&first, &third] {
        store
            .revoke(session_revocation(Uuid::new_v4(), now + 4 * hour))
            .await
            .unwrap();
    }
    let fourth = filled_store(&redis, &clock).await;
    let stranger = Uuid::new_v4();
    for store in [&first, &third, &fourth] {
        assert!(store.is_revoked(session.into(), stranger.into(), Some(now.into())));
        assert!(store.is_revoked(stranger.into(), user.into(), Some(now.into())));
        assert!(!store.is_revoked(stranger.into(), stranger.into(), Some(now.into())));
    }
}

#[tokio::test]
async fn unwritten_revocation_is_written_once_redis_accepts_it() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let now = clock.unix_time();
    let store = filled_store(&redis, &clock).await;
    let replica = filled_store(&redis, &clock).await;
    let (session, user) = (Uuid::new_v4(), Uuid::new_v4());
    let knows =
        |store: &RedisStore| store.is_revoked(session.into(), user.into(), Some(now.into()));

    // It responds and keeps its subscribers, but stores nothing.
    redis.set("maxmemory", "1");
    let until_then = now + Duration::from_hours(1);
    assert!(
        store
            .revoke(session_revocation(session, until_then))
            .await
            .is_err()
    );
    assert!(knows(&store));
    assert!(!knows(&replica));

    redis.set("maxmemory", "0");
    until("the replica is told", async || knows(&replica)).await;
    assert!(knows(&filled_store(&redis, &clock).await));
}

#[tokio::test]
async fn a_connection_that_redis_has_closed_costs_no_webhook() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let now = clock.unix_time();
    let store = filled_store(&redis, &clock).await;
    let end = now + Duration::from_hours(1);
    for _ in 0..5 {
        // All connections but those of subscribers, as Redis does with idle ones.
        redis.tell(&["client", "kill", "type", "normal"]);
        store
            .revoke(session_revocation(Uuid::new_v4(), end))
            .await
            .unwrap();
    }
    assert_eq!(filled_store(&redis, &clock).await.len(), 5);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_keeps_nobody_from_the_others() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let now = clock.unix_time();
    let store = filled_store(&redis, &clock).await;
    store
        .revoke(session_revocation(
            Uuid::new_v4(),
            now + Duration::from_hours(1),
        ))
        .await
        .unwrap();
    redis.tell(&[
        "eval",
        r"redis.call('set', 'poem-hanko:revoked:\xff', '')",
        "0",
    ]);
    redis.tell(&["set", "poem-hanko:revoked:session:x", ""]);
    assert_eq!(filled_store(&redis, &clock).await.len(), 1);
}

#[tokio::test]
async fn published_end_in_the_far_future_is_written_back() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let now = clock.unix_time();
    let store = filled_store(&redis, &clock).await;
    let (session, user, stranger) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let last = u64::MAX;
    for revocation in [
        format!("session:{session}:{last}"),
        format!("user:{user}:{last}:{last}"),
    ] {
        redis.tell(&[
            "publish",
            "poem-hanko:revoked",
            &format!("poem-hanko:revoked:{revocation}"),
        ]);
    }
    let holds_both = |store: &RedisStore| {
        store.is_revoked(session.into(), stranger.into(), Some(now.into()))
            && store.is_revoked(stranger.into(), user.into(), Some(now.into()))
    };
    until("the messages have arrived", async || holds_both(&store)).await;
    // When a replica subscribes again, it compares its entries with Redis, and writes back those that Redis lacks.
    redis.tell(&["client", "kill", "type", "pubsub"]);
    until("Redis holds them", async || redis.ask(&["dbsize"]) == "2").await;
    assert!(holds_both(&filled_store(&redis, &clock).await));
}

#[tokio::test]
async fn every_session_is_rejected_until_revocations_are_known() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    // Nothing listens there.
    let store =
        Arc::new(RedisStore::start("redis://127.0.0.1:1", Arc::new(clock.clone())).unwrap());
    let shared_clock: Arc<dyn Clock> = Arc::new(clock);
    let hanko = hanko(&local_hanko, &shared_clock, store);
    hanko.wait_for_key_set_fetches(1).await;
    assert!(!hanko.is_ready());
    let session = local_hanko.sign_in(&ada());
    assert_eq!(
        authenticate(&hanko, &session.token).await.unwrap_err(),
        AuthenticateError::RevocationsUnknown
    );
}

#[tokio::test]
async fn readiness_distinguishes_unknown_revocations_and_missing_keys() {
    let (_local_hanko, app) = start_with(&[("REVOCATION_STORE_URL", "redis://127.0.0.1:1")]).await;
    let response = send(app.get("/readyz")).await;
    let problem = assert_problem(response, 503, "authentication-unavailable").await;
    assert_eq!(problem["detail"], "The revocations are not mirrored yet.");
}

/// A process of the program that ends with the test.
struct Replica {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Replica {
    fn start(hanko_url: &str, redis_url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_poem-hanko"))
            .current_dir(folder.path())
            .env_clear()
            .envs([
                ("PORT", "0"),
                ("HANKO_API_URL", hanko_url),
                ("REVOCATION_STORE_URL", redis_url),
                ("LOG_FORMAT", "json"),
            ])
            .envs(
                token_cache_capacity()
                    .map(|capacity| ("TOKEN_CACHE_CAPACITY", capacity.to_string())),
            )
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut lines = log.lines();
        let address = lines
            .by_ref()
            .find_map(|line| {
                let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
                Some(line["address"].as_str()?.to_owned())
            })
            .expect("the log names the address");
        // A full pipe would stop the process.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            url: format!("http://{address}"),
            client: client(),
        }
    }

    async fn status(&self, path: &str, token: &str) -> u16 {
        let response = self
            .client
            .get(format!("{}{path}", self.url))
            .bearer_auth(token);
        send(response).await.status().as_u16()
    }

    async fn is_ready(&self) -> bool {
        self.status("/readyz", "").await == 200
    }

    async fn webhook(&self, body: &Value) -> u16 {
        let request = self
            .client
            .post(format!("{}/webhooks/hanko", self.url))
            .json(body);
        send(request).await.status().as_u16()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Real time, since other processes use it.
async fn real_hanko() -> LocalHanko {
    LocalHanko::builder().start().await.unwrap()
}

async fn all_ready(replicas: &[Replica]) {
    for replica in replicas {
        until("a replica is ready", async || replica.is_ready().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_is_enforced_in_all_replicas_and_survives_restarts() {
    const SESSIONS: usize = 100;

    let Some(mut redis) = Redis::start() else {
        return;
    };
    let local_hanko = real_hanko().await;
    // One person has all these sessions and two more.
    local_hanko.set_session_limit(SESSIONS + 2);
    let start = || Replica::start(&local_hanko.url(), &redis.url());
    let mut replicas = vec![start(), start(), start()];
    all_ready(&replicas).await;

    let person = ada();
    let clock = SystemClock::new();
    let mut ended = Vec::new();
    let mut delays = Vec::new();
    for index in 0..SESSIONS {
        let session = local_hanko.sign_in(&person);
        for replica in &replicas {
            assert_eq!(replica.status("/protected", &session.token).await, 200);
        }
        let data = local_hanko.session_data(session.session_id).unwrap();
        let body = local_hanko.webhook_body(LOGOUT, &data);
        let told = &replicas[index % replicas.len()];
        assert_eq!(told.webhook(&body).await, 204);
        let answered_at = clock.monotonic();
        assert_eq!(told.status("/protected", &session.token).await, 401);
        for replica in &replicas {
            until("a replica refuses the session", async || {
                replica.status("/protected", &session.token).await == 401
            })
            .await;
        }
        delays.push(clock.monotonic().saturating_sub(answered_at));
        ended.push(session.token);
    }
    delays.sort_unstable();
    report(&format!(
        "enforced in all replicas after: median {:?}, 90% {:?}, most {:?}",
        delays[SESSIONS / 2],
        delays[SESSIONS * 9 / 10],
        delays[SESSIONS - 1],
    ));
    assert!(
        delays[SESSIONS / 2] < Duration::from_millis(250),
        "{delays:?}"
    );

    let live = local_hanko.sign_in(&person).token;
    let assert_all_enforced = async |replicas: &[Replica]| {
        for replica in replicas {
            for token in &ended {
                assert_eq!(replica.status("/protected", token).await, 401);
            }
            assert_eq!(replica.status("/protected", &live).await, 200);
        }
    };

    // A restarted replica has read all revocations before it is ready.
    for index in 0..replicas.len() {
        replicas[index] = start();
        all_ready(&replicas[index..=index]).await;
        assert_all_enforced(&replicas[index..=index]).await;
    }

    // While Redis is down, the mirrors are enforced, and a webhook takes effect in the replica that receives it. Hanko does not repeat it.
    redis.kill();
    assert_all_enforced(&replicas).await;
    let session = local_hanko.sign_in(&person);
    let data = local_hanko.session_data(session.session_id).unwrap();
    let body = local_hanko.webhook_body(LOGOUT, &data);
    assert_eq!(replicas[0].webhook(&body).await, 204);
    assert_eq!(replicas[0].status("/protected", &session.token).await, 401);

    // Redis restarts empty, and the replicas write their revocations again.
    redis.run();
    until("the other replicas know", async || {
        let mut refused = 0;
        for replica in &replicas {
            refused += u32::from(replica.status("/protected", &session.token).await == 401);
        }
        refused as usize == replicas.len()
    })
    .await;
    ended.push(session.token);
    until("Redis has everything again", async || {
        let fresh = Replica::start(&local_hanko.url(), &redis.url());
        all_ready(std::slice::from_ref(&fresh)).await;
        let mut refused = 0;
        for token in &ended {
            refused += u32::from(fresh.status("/protected", token).await == 401);
        }
        refused as usize == ended.len()
    })
    .await;
}

#[tokio::test]
async fn a_webhook_at_one_replica_ends_streams_at_another() {
    let Some(redis) = Redis::start() else { return };
    let clock = clock_not_behind();
    let shared_clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let local_hanko = local_hanko(&clock).await;
    let [first, second] = [
        filled_store(&redis, &clock).await,
        filled_store(&redis, &clock).await,
    ]
    .map(|store| hanko(&local_hanko, &shared_clock, Arc::new(store)));

    let person = ada();
    let [ended, deleted, other] =
        [&ada(), &person, &ada()].map(|person| local_hanko.sign_in(person));
    let mut streams = Vec::new();
    for session in [&ended, &deleted, &other] {
        let session = authenticate(&second, &session.token).await.unwrap();
        streams.push(tokio::spawn(session.ended()));
    }
    let [of_ended, of_deleted, of_other] = streams.try_into().unwrap();
    // They wait once they have been polled.
    tokio::task::yield_now().await;

    log_out(&first, &local_hanko, ended.session_id)
        .await
        .unwrap();
    assert_eq!(within(of_ended).await.unwrap(), EndReason::Revoked);
    assert!(!of_deleted.is_finished());
    let deletion = local_hanko.webhook_body("user.delete", &json!({ "id": person.id().as_uuid() }));
    tell(&first, &deletion).await.unwrap();
    assert_eq!(within(of_deleted).await.unwrap(), EndReason::Revoked);
    assert!(!of_other.is_finished());
}
