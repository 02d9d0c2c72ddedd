//! Measures the parts of a request one by one: `cargo bench --bench parts`.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use divan::{Bencher, black_box};
use futures_util::FutureExt;
use poem::{
    Request,
    http::header::{AUTHORIZATION, COOKIE},
};
use poem_hanko::{
    FetchPolicy, Hanko, HankoBuilder, ManualClock, MemoryStore, NumericDate, Revocation,
    RevocationStore, SessionId, SessionMode, Target, UserId,
    testing::{LocalHanko, Person},
};
use tokio::runtime::{self, Runtime};
use uuid::Uuid;

// The allocator of the program.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // First: later, the store could reuse freed memory, and the resident memory would not grow.
    bytes_per_revocation();
    divan::main();
}

/// Prints the memory that a revocation occupies. Linux only.
fn bytes_per_revocation() {
    let before = resident_bytes();
    let store = store_of(MANY);
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let bytes = after.saturating_sub(before) / store.len() as u64;
        println!(
            "{bytes} bytes of memory for each of {} revocations",
            store.len()
        );
    }
}

/// `VmRSS` of this process.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

const MANY: u64 = 1_000_000;

/// Returns a store with this many revocations.
fn store_of(revocations: u64) -> MemoryStore {
    let store = MemoryStore::new(Arc::new(ManualClock::new(Duration::ZERO)));
    for number in 0..revocations {
        let revocation = Revocation {
            target: Target::Session(session(number)),
            until: NumericDate::from(Duration::from_secs(1 + number % 43_200)),
        };
        // The store in memory does not wait.
        drop(store.revoke(revocation));
    }
    store
}

/// Returns an id that looks as random as those of Hanko.
fn session(number: u64) -> SessionId {
    let mixed = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    SessionId::from(Uuid::from_u128(mixed))
}

/// The lookup of revocations, which every request does.
#[divan::bench(args = [0, 10_000, MANY], min_time = 1)]
fn revocation_lookup(bencher: Bencher<'_, '_>, revocations: u64) {
    let store = store_of(revocations);
    let user = UserId::from(Uuid::from_u128(1));
    let alive = session(MANY + 1);
    assert!(!store.is_revoked(alive, user, None));
    bencher.bench_local(|| store.is_revoked(black_box(alive), user, None));
}

fn runtime() -> Runtime {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Starts a local Hanko with RSA 2048 or 4096.
fn local_hanko(runtime: &Runtime, bits: usize) -> LocalHanko {
    let builder = match bits {
        4096 => LocalHanko::builder().rsa_4096(),
        _ => LocalHanko::builder(),
    };
    runtime.block_on(builder.start()).expect("a local Hanko")
}

fn token(local_hanko: &LocalHanko) -> String {
    local_hanko
        .sign_in(&Person::with_email("ada@example.com"))
        .token
}

/// Returns a `Hanko` with default settings that has fetched the keys.
fn hanko(runtime: &Runtime, local_hanko: &LocalHanko) -> Hanko {
    hanko_with(runtime, local_hanko, |builder| builder)
}

fn hanko_with(
    runtime: &Runtime,
    local_hanko: &LocalHanko,
    settings: impl FnOnce(HankoBuilder) -> HankoBuilder,
) -> Hanko {
    let _runtime = runtime.enter();
    let hanko = settings(Hanko::builder(local_hanko.hanko_url()))
        .build()
        .expect("an HTTP client");
    runtime.block_on(hanko.wait_for_key_set_fetches(1));
    hanko
}

/// Returns the output of a future that does not wait, without the cost of a runtime.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing to wait for")
}

/// Authenticating a request whose token of 1,300 bytes, the size of Hanko's, is cached: the difference is where it is found.
#[divan::bench(args = ["bearer", "cookie among ten"], min_time = 1)]
fn credentials(bencher: Bencher<'_, '_>, place: &str) {
    let runtime = runtime();
    let local_hanko = local_hanko(&runtime, 4096);
    let hanko = hanko(&runtime, &local_hanko);
    let ada = Person::with_email("ada@example.com");
    let unpadded = local_hanko.sign_in(&ada).token.len();
    // Three bytes of a claim are four of the token.
    let padding = "x".repeat((1300 - unpadded) * 3 / 4);
    let token = local_hanko.sign_in(&ada.claim("padding", padding)).token;
    let mut request = if place == "bearer" {
        Request::builder().header(AUTHORIZATION, format!("Bearer {token}"))
    } else {
        let mut cookies: Vec<String> = (0..9)
            .map(|number| format!("other-{number}=0123456789abcdef0123456789"))
            .collect();
        cookies.insert(5, format!("hanko={token}"));
        Request::builder().header(COOKIE, cookies.join("; "))
    }
    .finish();
    request.set_data(hanko);
    let first = runtime.block_on(poem_hanko::authenticate(&request));
    assert!(matches!(first, Ok(Some(_))));
    let _context = runtime.enter();
    let authenticate = || at_once(poem_hanko::authenticate(black_box(&request)));
    bencher.bench_local(authenticate);
}

/// Authenticating a token that is not cached.
#[divan::bench(args = [2048, 4096], min_time = 1)]
fn verify_cold(bencher: Bencher<'_, '_>, bits: usize) {
    let runtime = runtime();
    let local_hanko = local_hanko(&runtime, bits);
    let hanko = hanko_with(&runtime, &local_hanko, |builder| {
        builder
            .session_mode(SessionMode::Stateless)
            .token_cache_capacity(0)
    });
    let token = token(&local_hanko);
    let first = runtime.block_on(hanko.authenticate(&token));
    first.expect("a good token");
    let _context = runtime.enter();
    let authenticate = || at_once(hanko.authenticate(black_box(&token)));
    bencher.bench_local(authenticate);
}

/// The signature alone, by aws-lc with a parsed key: the least that [`verify_cold`] can take.
#[divan::bench(args = [2048, 4096], min_time = 1)]
fn verify_signature(bencher: Bencher<'_, '_>, bits: usize) {
    let local_hanko = local_hanko(&runtime(), bits);
    let token = token(&local_hanko);
    let (signing_input, signature) = token.rsplit_once('.').expect("a JWS");
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).expect("base64url");
    let signature = decode(signature);
    let jwk = &local_hanko.key_set()["keys"][0];
    let component = |name: &str| decode(jwk[name].as_str().expect("a component"));
    let key = RsaPublicKeyComponents {
        n: component("n"),
        e: component("e"),
    }
    .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
    .expect("a key");
    let verify = || key.verify_sig(black_box(signing_input.as_bytes()), &signature);
    verify().expect("a good signature");
    bencher.bench_local(verify);
}

/// Authenticating a cached token.
#[divan::bench(args = [2048, 4096], min_time = 1)]
fn verify_warm(bencher: Bencher<'_, '_>, bits: usize) {
    let runtime = runtime();
    let local_hanko = local_hanko(&runtime, bits);
    let hanko = hanko(&runtime, &local_hanko);
    let token = token(&local_hanko);
    let first = runtime.block_on(hanko.authenticate(&token));
    first.expect("a good token");
    let _context = runtime.enter();
    let authenticate = || at_once(hanko.authenticate(black_box(&token)));
    bencher.bench_local(authenticate);
}

/// Authenticating a cached token while the key set is being swapped as fast as it can be fetched, or left alone.
#[divan::bench(args = ["left alone", "being swapped"], threads = [1, 2], min_time = 1)]
fn key_set_swap(bencher: Bencher<'_, '_>, state: &str) {
    let runtime = runtime();
    let clock = ManualClock::new(Duration::from_hours(498_732));
    let local_hanko = LocalHanko::builder().clock(Arc::new(clock.clone()));
    let local_hanko = runtime
        .block_on(local_hanko.start())
        .expect("a local Hanko");
    let max_age = Duration::from_secs(1);
    let hanko = hanko_with(&runtime, &local_hanko, |builder| {
        builder
            .session_mode(SessionMode::Stateless)
            // The token must not expire, although each fetch advances the clock.
            .leeway(Duration::from_hours(1_000_000))
            .fetch_policy(FetchPolicy {
                max_age,
                cooldown: max_age,
                ..FetchPolicy::default()
            })
            .clock(Arc::new(clock.clone()))
    });
    let token = token(&local_hanko);
    runtime
        .block_on(hanko.authenticate(&token))
        .expect("a good token");
    let swapper = (state == "being swapped").then(|| {
        let hanko = hanko.clone();
        runtime.spawn(async move {
            for fetches in 2.. {
                clock.advance(max_age);
                hanko.wait_for_key_set_fetches(fetches).await;
            }
        })
    });
    bencher.bench(|| at_once(hanko.authenticate(black_box(&token))));
    if let Some(swapper) = swapper {
        swapper.abort();
    }
}
