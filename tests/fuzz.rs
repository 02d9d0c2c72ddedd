//! Fuzzes everything that parses untrusted input: tokens, headers and webhooks. Key sets are fuzzed in `src/jose/tests`.
//!
//! Inputs are changed valid tokens, attacks, and random bytes. `jsonwebtoken` checks each token that is accepted. The normal
//! run is short. A long one: `FUZZ_CASES=1000000 PROPTEST_CASES=1000000 cargo test --release --test fuzz -- --nocapture`

use std::{
    collections::HashSet,
    env,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaPublicKeyComponents},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::Jwk};
use poem::{
    Request, Server,
    endpoint::make_sync,
    http::{HeaderName, HeaderValue, Method},
    listener::{Acceptor, Listener, TcpListener},
};
use poem_hanko::{
    AuthenticateError, Hanko, ManualClock, Rejection, Session, SessionMode, authenticate,
    testing::{LocalHanko, Person},
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{TestCaseResult, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// 2026-11-23T12:00:00Z
const NOW: Duration = Duration::from_hours(498_732);

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// One Hanko for all cases, since generating a key takes longer than running a case.
struct World {
    runtime: Runtime,
    signer: LocalHanko,
    hanko: Hanko,
    /// Tokens that are accepted: the seeds, and the only ones of their signing input.
    valid: Vec<String>,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let clock = Arc::new(ManualClock::new(NOW));
        let (signer, hanko) = runtime.block_on(async {
            let signer = LocalHanko::builder()
                .clock(clock.clone())
                .start()
                .await
                .expect("a local Hanko");
            // The tokens are signed without a session at the local Hanko.
            let hanko = Hanko::builder(signer.hanko_url())
                .session_mode(SessionMode::Stateless)
                .token_cache_capacity(0)
                .clock(clock)
                .build();
            let hanko = hanko.expect("a client");
            hanko.wait_for_key_set_fetches(1).await;
            (signer, hanko)
        });
        let ada = Person::with_email("ada@example.com");
        let odd = ada.clone().claim(
            "näme \"\u{0}",
            json!({ "a": [1, 1.5, null, { "b": "\u{10ffff}" }] }),
        );
        let payload = serde_json::to_vec(&signer.claims_of(&ada)).expect("JSON");
        let valid = vec![
            signer.sign_in(&ada).token,
            signer.sign_in(&odd).token,
            signer.sign_raw(br#"{"alg":"RS256"}"#, &payload),
            signer.sign_raw(br#" {"typ":"jwt" ,"alg":"RS256"} "#, &payload),
        ];
        Self {
            runtime,
            signer,
            hanko,
            valid,
        }
    }

    fn verify(&self, token: impl AsRef<[u8]>) -> Result<Session, AuthenticateError> {
        self.runtime.block_on(self.hanko.authenticate(token))
    }

    fn authenticate(&self, request: &Request) -> Result<bool, Rejection> {
        self.runtime
            .block_on(authenticate(request))
            .map(|session| session.is_some())
    }
}

/// Members of a JOSE Header, both valid ones and those of attacks.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let member = prop_oneof![
        Just(r#""alg":"RS256""#.to_owned()),
        Just(format!(r#""kid":"{}""#, WORLD.signer.kid())),
        Just(r#""typ":"JWT""#.to_owned()),
        Just(r#""alg":"none""#.to_owned()),
        Just(r#""alg":"HS256""#.to_owned()),
        Just(r#""kid":null"#.to_owned()),
        Just(r#""crit":["exp"]"#.to_owned()),
        Just(r#""b64":false"#.to_owned()),
        Just(r#""jwk":{"kty":"RSA"}"#.to_owned()),
        Just(r#""jku":"http://127.0.0.1:1/""#.to_owned()),
        ("[a-z]{1,4}", any::<i64>()).prop_map(|(name, value)| format!("\"{name}\":{value}")),
    ];
    prop_oneof![
        proptest::collection::vec(member, 0..6).prop_map(|members| format!(
            "{{{}}}",
            members.join(",")
        )
        .into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

/// A Claims Set with some claims replaced, absent, or written twice, or no Claims Set at all.
fn claims() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("1e999".to_owned()),
        Just("-0".to_owned()),
        Just("\"hanko webhooks\"".to_owned()),
        Just("\"019c0000-0000-7000-8000-000000000000\"".to_owned()),
        Just("[".repeat(200)),
        any::<f64>().prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| number.to_string()),
        (NOW.as_secs() - 60..NOW.as_secs() + 60).prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
    ];
    let name = prop_oneof![
        Just("sub"),
        Just("exp"),
        Just("iat"),
        Just("nbf"),
        Just("aud"),
        Just("iss"),
        Just("session_id"),
        Just("email"),
        Just("username"),
        Just("cnf"),
        Just("evt"),
    ];
    let changes = proptest::collection::vec((name, value), 0..4);
    let drop_replaced = any::<bool>();
    prop_oneof![
        (changes, drop_replaced).prop_map(|(changes, drop_replaced)| {
            let mut claims = WORLD.signer.claims_of(&Person::with_email("a@example.com"));
            if drop_replaced {
                claims.retain(|name, _| changes.iter().all(|(changed, _)| changed != name));
            }
            let members = claims
                .iter()
                .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
            let changes = changes
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}"));
            let members: Vec<String> = members.chain(changes).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        }),
        proptest::collection::vec(any::<u8>(), 0..256),
    ]
}

/// One change to the bytes of a token.
#[derive(Clone, Debug)]
enum Mutation {
    FlipBit(Index, u8),
    Replace(Index, u8),
    Insert(Index, u8),
    Delete(Index),
    Truncate(Index),
    Duplicate(Index),
    SwapSegments(usize, usize),
    SegmentOfAnother(usize, Index),
    Pad(usize),
    ToStandardAlphabet,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(b"AQgw-_+/=. \t\n\0%\"".to_vec()),
    ];
    prop_oneof![
        (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::FlipBit(at, bit)),
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<Index>().prop_map(Mutation::Delete),
        any::<Index>().prop_map(Mutation::Truncate),
        any::<Index>().prop_map(Mutation::Duplicate),
        (0_usize..3, 0_usize..3).prop_map(|(one, other)| Mutation::SwapSegments(one, other)),
        (0_usize..3, any::<Index>()).prop_map(|(at, of)| Mutation::SegmentOfAnother(at, of)),
        (1_usize..4).prop_map(Mutation::Pad),
        Just(Mutation::ToStandardAlphabet),
    ]
}

impl Mutation {
    fn apply(&self, mut token: Vec<u8>) -> Vec<u8> {
        if token.is_empty() {
            return token;
        }
        let length = token.len();
        let segments = || -> Vec<Vec<u8>> {
            let segments = token.split(|byte| *byte == b'.');
            segments.map(<[u8]>::to_vec).collect()
        };
        match self {
            Self::FlipBit(at, bit) => token[at.index(length)] ^= 1 << bit,
            Self::Replace(at, byte) => token[at.index(length)] = *byte,
            Self::Insert(at, byte) => token.insert(at.index(length + 1), *byte),
            Self::Delete(at) => {
                token.remove(at.index(length));
            }
            Self::Truncate(at) => token.truncate(at.index(length)),
            Self::Duplicate(at) => {
                let tail = token[at.index(length)..].to_vec();
                token.extend(tail);
            }
            Self::SwapSegments(one, other) => {
                let mut segments = segments();
                if segments.len() == 3 {
                    segments.swap(*one, *other);
                    token = segments.join(&b'.');
                }
            }
            Self::SegmentOfAnother(at, of) => {
                let mut segments = segments();
                let another = of.get(&WORLD.valid).split('.').nth(*at);
                if let (3, Some(another)) = (segments.len(), another) {
                    segments[*at] = another.as_bytes().to_vec();
                    token = segments.join(&b'.');
                }
            }
            Self::Pad(count) => token.extend(std::iter::repeat_n(b'=', *count)),
            Self::ToStandardAlphabet => {
                for byte in &mut token {
                    *byte = match *byte {
                        b'-' => b'+',
                        b'_' => b'/',
                        byte => byte,
                    };
                }
            }
        }
        token
    }
}

/// Asserts the properties of every accepted token: the key of the set has signed exactly these bytes, and they cannot be
/// encoded in another way.
fn assert_accepted(token: &str, session: &Session) -> TestCaseResult {
    prop_assert!(token.len() <= 16 * 1024);
    let segments: Vec<Vec<u8>> = token
        .split('.')
        .map(|segment| BASE64_URL_SAFE_NO_PAD.decode(segment))
        .collect::<Result<_, _>>()
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    let rewritten: Vec<String> = segments
        .iter()
        .map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
        .collect();
    prop_assert_eq!(rewritten.join("."), token);
    // RS256 is deterministic: signing the same bytes again gives the same token.
    prop_assert_eq!(WORLD.signer.sign_raw(&segments[0], &segments[1]), token);

    let header: Value = serde_json::from_slice(&segments[0]).expect("JSON");
    prop_assert_eq!(&header["alg"], "RS256");
    prop_assert!(header.get("crit").is_none() && header.get("b64").is_none());
    let claims: Value = serde_json::from_slice(&segments[1]).expect("JSON");
    let expires_at = claims["exp"].as_f64().expect("a number");
    prop_assert!(expires_at + 30.0 >= NOW.as_secs_f64());
    for (claim, id) in [
        ("sub", session.user_id().as_uuid()),
        ("session_id", session.id().as_uuid()),
    ] {
        let claim = claims[claim].as_str().expect("a string");
        prop_assert_eq!(uuid::Uuid::parse_str(claim), Ok(id));
    }
    prop_assert_eq!(session.claims::<Value>(), Ok(claims));
    Ok(())
}

fn is_valid(token: &[u8]) -> bool {
    WORLD.valid.iter().any(|valid| valid.as_bytes() == token)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_body_is_a_webhook_but_one_that_hanko_signed(
        body in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..256),
            (any::<String>(), any::<String>()).prop_map(|(token, event)| {
                json!({ "token": token, "event": event }).to_string().into_bytes()
            }),
            (claims(), any::<String>()).prop_map(|(claims, event)| {
                let token = WORLD.signer.sign_raw(br#"{"alg":"RS256"}"#, &claims);
                let event = format!("other than {event}");
                json!({ "token": token, "event": event }).to_string().into_bytes()
            }),
        ]
    ) {
        // Whatever the signed token contains, the event in the request differs from the one in the token.
        prop_assert!(WORLD.runtime.block_on(WORLD.hanko.receive_webhook(&body)).is_err());
        prop_assert_eq!(WORLD.hanko.revocations(), 0);
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in any::<String>()) {
        prop_assert!(WORLD.verify(&text).is_err());
    }

    #[test]
    fn a_mutated_token_is_accepted_only_where_nothing_has_changed(
        seed in any::<Index>(),
        mutations in proptest::collection::vec(mutation(), 1..4),
    ) {
        let mut token = seed.get(&WORLD.valid).clone().into_bytes();
        for mutation in &mutations {
            token = mutation.apply(token);
        }
        let text = String::from_utf8_lossy(&token);
        match WORLD.verify(&token) {
            Ok(session) => {
                prop_assert!(is_valid(&token), "a changed token was accepted: {}", text);
                assert_accepted(&text, &session)?;
            }
            Err(error) => prop_assert!(!is_valid(&token), "a valid token was rejected: {error}"),
        }
    }

    #[test]
    fn a_header_that_was_signed_is_judged_by_its_words(header in header()) {
        let claims = WORLD.signer.claims_of(&Person::with_email("a@example.com"));
        let token = WORLD.signer.sign_raw(&header, Value::Object(claims).to_string().as_bytes());
        if let Ok(session) = WORLD.verify(&token) {
            assert_accepted(&token, &session)?;
        }
    }

    #[test]
    fn claims_that_were_signed_are_judged_by_their_words(claims in claims()) {
        let token = WORLD.signer.sign_raw(br#"{"alg":"RS256"}"#, &claims);
        if let Ok(session) = WORLD.verify(&token) {
            assert_accepted(&token, &session)?;
            // A duplicate member counts as duplicate, whichever value a parser would use.
            let text = String::from_utf8(claims).expect("JSON is text");
            for claim in ["\"sub\":", "\"exp\":", "\"session_id\":"] {
                prop_assert_eq!(text.matches(claim).count(), 1);
            }
        }
    }

    #[test]
    fn headers_are_accepted_only_with_a_valid_token(
        headers in proptest::collection::vec(credential_header(), 0..4),
        method in proptest::sample::select(vec![Method::GET, Method::POST, Method::OPTIONS]),
    ) {
        let mut request = Request::builder().method(method).finish();
        request.set_data(WORLD.hanko.clone());
        for (name, value) in &headers {
            request.headers_mut().append(name, value.clone());
        }
        match WORLD.authenticate(&request) {
            Ok(true) => {
                let values: HashSet<&[u8]> = headers.iter().map(|(_, value)| value.as_bytes()).collect();
                let holds_valid_token = values.iter().any(|value| {
                    WORLD.valid.iter().any(|valid| {
                        value.windows(valid.len()).any(|window| window == valid.as_bytes())
                    })
                });
                prop_assert!(holds_valid_token, "{headers:?}");
                let authorizations = headers.iter().filter(|(name, _)| name == "authorization");
                prop_assert!(authorizations.count() <= 1);
            }
            Ok(false) => {}
            Err(rejection) => prop_assert!(
                matches!(
                    rejection,
                    Rejection::InvalidToken(..)
                        | Rejection::AmbiguousCredentials(_)
                        | Rejection::CrossSiteRequest { .. }
                ),
                "{rejection}"
            ),
        }
    }
}

/// `Authorization`, `Cookie` and `Origin` headers, with tokens, parts of tokens and anything else.
fn credential_header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop_oneof![
        4 => Just("authorization"),
        4 => Just("cookie"),
        1 => Just("origin"),
        1 => Just("sec-fetch-site"),
    ];
    let prefix = proptest::sample::select(vec![
        "",
        "Bearer ",
        "bearer  ",
        "BEARER\t",
        "Bearer",
        "Basic ",
        "hanko=",
        "a=b; hanko=",
        "hanko=\"",
        "hanko =",
        "hanko=; hanko=",
        "; ;",
        "same-origin",
        "null",
    ]);
    let token = prop_oneof![
        any::<Index>().prop_map(|index| index.get(&WORLD.valid).clone().into_bytes()),
        (any::<Index>(), mutation()).prop_map(
            |(index, mutation)| mutation.apply(index.get(&WORLD.valid).clone().into_bytes())
        ),
        proptest::collection::vec(any::<u8>(), 0..32),
    ];
    let suffix = proptest::sample::select(vec!["", " ", "\"", "; theme=dark", ", Bearer x", "\t"]);
    (name, prefix, token, suffix).prop_map(|(name, prefix, token, suffix)| {
        let mut value = [prefix.as_bytes(), &token, suffix.as_bytes()].concat();
        // A filter of whole values would reject more of them than proptest allows in a long run.
        value.retain(|byte| HeaderValue::from_bytes(&[*byte]).is_ok());
        let value = HeaderValue::from_bytes(&value).expect("a header value");
        (HeaderName::from_static(name), value)
    })
}

/// What the oracle and `Hanko` require of `iss` and `aud`.
const ISSUER: &str = "https://hanko.example";
const AUDIENCE: &str = "localhost";
const LEEWAY: u64 = 30;

/// Compares `Hanko` with `jsonwebtoken`, which reads the system clock itself.
struct Oracle {
    runtime: Runtime,
    key_pair: KeyPair,
    hanko: Hanko,
    key: DecodingKey,
    validation: Validation,
}

/// The `kid` of the only key.
const KID: &str = "8f6b1f9c-6f0e-4d43-9f1a-3f1d5a1c0f6e";

static ORACLE: LazyLock<Oracle> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    // Not a `LocalHanko`: it parses its key for each signature, which takes longer than signing.
    let key_pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let components = RsaPublicKeyComponents::<Vec<u8>>::from(key_pair.public_key());
    let encode = |bytes: Vec<u8>| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (encode(components.n), encode(components.e));
    let jwk = json!({ "kty": "RSA", "kid": KID, "alg": "RS256", "use": "sig", "n": n, "e": e });
    let key_set = json!({ "keys": [jwk] }).to_string();
    let hanko = runtime.block_on(async {
        let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await;
        let acceptor = acceptor.expect("a free port");
        let address = acceptor.local_addr()[0].as_socket_addr().copied();
        let url = format!("http://{}", address.expect("an address"));
        let endpoint = make_sync(move |_| key_set.clone());
        tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint));
        let hanko = Hanko::builder(url.parse().expect("a URL"))
            .session_mode(SessionMode::Stateless)
            .token_cache_capacity(0)
            .issuer(ISSUER)
            .audiences([AUDIENCE.to_owned()])
            .leeway(Duration::from_secs(LEEWAY))
            .build();
        let hanko = hanko.expect("a client");
        hanko.wait_for_key_set_fetches(1).await;
        hanko
    });
    let jwk: Jwk = serde_json::from_value(jwk).expect("a JWK");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    Oracle {
        runtime,
        key_pair,
        hanko,
        key: DecodingKey::from_jwk(&jwk).expect("a key"),
        validation,
    }
});

impl Oracle {
    fn sign(&self, header: &str, payload: &str) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let input = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(payload.as_bytes())
        );
        let mut signature = vec![0; self.key_pair.public_modulus_len()];
        self.key_pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                input.as_bytes(),
                &mut signature,
            )
            .expect("a signature");
        format!("{input}.{}", encode(&signature))
    }
}

/// The claims of a valid token, as JSON.
fn valid_claims(now: u64) -> Vec<(&'static str, String)> {
    vec![
        (
            "sub",
            r#""0e6f2f43-54b2-4d2c-9c53-6f1a40f50d2b""#.to_owned(),
        ),
        (
            "session_id",
            r#""7a1c90fe-23b1-4f0e-8b7a-54f9fb2f9d11""#.to_owned(),
        ),
        ("iat", now.to_string()),
        ("exp", (now + 43_200).to_string()),
        ("aud", format!(r#"["{AUDIENCE}"]"#)),
        ("iss", format!("\"{ISSUER}\"")),
        (
            "email",
            r#"{"address":"a@example.com","is_primary":true,"is_verified":false}"#.to_owned(),
        ),
        ("amr", r#"["pwd"]"#.to_owned()),
    ]
}

/// Writes a Claims Set or a header.
fn object<'a>(members: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let members: Vec<String> = members
        .into_iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// How many tokens were accepted by each side.
#[derive(Debug, Default)]
struct Tally {
    both: AtomicU64,
    neither: AtomicU64,
    oracle_only: AtomicU64,
    /// Because of a known limit of the oracle, see [`is_beyond_the_oracle`].
    hanko_only: AtomicU64,
}

/// The value of a claim: JSON, or a time relative to now.
#[derive(Clone, Debug)]
enum ClaimValue {
    Json(String),
    Seconds(i64),
    Fraction(i64, u8),
}

impl ClaimValue {
    fn json(&self, now: u64) -> String {
        match self {
            Self::Json(json) => json.clone(),
            Self::Seconds(seconds) => now.saturating_add_signed(*seconds).to_string(),
            Self::Fraction(seconds, tenths) => {
                format!("{}.{tenths}", now.saturating_add_signed(*seconds))
            }
        }
    }
}

fn claim_change() -> impl Strategy<Value = (&'static str, ClaimValue)> {
    let date = || {
        prop_oneof![
            4 => (-90_i64..90).prop_map(ClaimValue::Seconds),
            1 => (-100_000_i64..100_000).prop_map(ClaimValue::Seconds),
            2 => (-90_i64..90, 0_u8..10).prop_map(|(seconds, tenths)| {
                ClaimValue::Fraction(seconds, tenths)
            }),
            1 => proptest::sample::select(vec![
                "0", "-0", "-1", "1e9", "4e9", "1e10", "1e999", "253402300799", "253402300800",
                "18446744073709551615", "18446744073709551616", "\"4000000000\"", "null", "true",
            ])
            .prop_map(|json| ClaimValue::Json(json.to_owned())),
        ]
    };
    let json = |values: &'static [&'static str]| {
        proptest::sample::select(values).prop_map(|json| ClaimValue::Json(json.to_owned()))
    };
    let any_json = || {
        prop_oneof![
            json(&[
                "null",
                "true",
                "[]",
                "{}",
                "1",
                "[[[{}]]]",
                "{\"a\":1,\"a\":2}"
            ]),
            any::<f64>().prop_map(|number| ClaimValue::Json(number.to_string())),
            any::<String>().prop_map(|text| ClaimValue::Json(Value::from(text).to_string())),
        ]
    };
    prop_oneof![
        3 => date().prop_map(|value| ("exp", value)),
        3 => date().prop_map(|value| ("nbf", value)),
        3 => date().prop_map(|value| ("iat", value)),
        2 => json(&[
            "\"localhost\"", "[\"localhost\"]", "[\"a\",\"localhost\",\"a\"]", "[]", "[\"a\"]", "\"\"",
            "[\"localhost\",1]", "{\"localhost\":1}", "\"Localhost\"", "\"\\u006cocalhost\"", "[[\"localhost\"]]",
        ])
        .prop_map(|value| ("aud", value)),
        2 => json(&[
            "\"https://hanko.example\"", "[\"https://hanko.example\"]", "\"https:\\/\\/hanko.example\"",
            "\"https://hanko.example/\"", "1",
        ])
        .prop_map(|value| ("iss", value)),
        2 => json(&[
            "\"019c0000-0000-7000-8000-000000000000\"", "\"019C0000-0000-7000-8000-00000000000A\"",
            "\"hanko webhooks\"", "\"019c0000000070008000000000000000\"", "null",
        ])
        .prop_map(|value| ("sub", value)),
        6 => (
            proptest::sample::select(vec![
                "role", "amr", "näme", "", "scope", "email", "username", "session_id", "cnf", "data", "jti",
            ]),
            any_json(),
        ),
    ]
}

/// A token and the changes to it, before and after signing.
#[derive(Clone, Debug)]
enum Case {
    Signed {
        header: Vec<String>,
        changes: Vec<(&'static str, ClaimValue)>,
        /// Whether a changed claim is written beside the original one.
        duplicates: bool,
    },
    Mutated(Index, Vec<Mutation>),
}

fn case() -> impl Strategy<Value = Case> {
    let member = proptest::sample::select(vec![
        r#""cty":"JWT""#,
        r#""cty":1"#,
        r#""jku":"http://127.0.0.1:1/""#,
        r#""jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        r#""jwk":"x""#,
        r#""x5c":["AQAB"]"#,
        r#""x5c":"AQAB""#,
        r#""x5u":"https://a.example""#,
        r#""x5t#S256":"a""#,
        r#""x5t":null"#,
        r#""zip":"DEF""#,
        r#""enc":"A256GCM""#,
        r#""nonce":"a""#,
        r#""url":7"#,
        r#""x":{"y":[1,null]}"#,
        r#""crit":["exp"]"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""typ":"jwt""#,
        r#""typ":"at+jwt""#,
        r#""alg":"none""#,
        r#""alg":"RS384""#,
        r#""kid":7"#,
    ]);
    let first = proptest::sample::select(vec![
        r#""alg":"RS256","typ":"JWT","kid":KID"#,
        r#""alg":"RS256","typ":"JWT","kid":KID"#,
        r#""kid":KID, "alg":"RS256""#,
        r#""alg":"RS256""#,
        r#""\u0061lg":"RS256""#,
        r#""alg":"RS256","kid":"other""#,
        r#""typ":"JWT""#,
    ]);
    let header =
        (first, proptest::collection::vec(member, 0..3)).prop_map(|(first, mut members)| {
            members.insert(0, first);
            members.into_iter().map(ToOwned::to_owned).collect()
        });
    let plain = Just(vec![r#""alg":"RS256","typ":"JWT","kid":KID"#.to_owned()]);
    let header = prop_oneof![2 => plain, 1 => header];
    let changes = proptest::collection::vec(claim_change(), 0..4);
    prop_oneof![
        3 => (header, changes, proptest::bool::weighted(0.05)).prop_map(
            |(header, changes, duplicates)| Case::Signed { header, changes, duplicates }
        ),
        1 => (any::<Index>(), proptest::collection::vec(mutation(), 0..3))
            .prop_map(|(seed, mutations)| Case::Mutated(seed, mutations)),
    ]
}

impl Case {
    fn token(&self, seeds: &[String], now: u64) -> Vec<u8> {
        match self {
            Self::Signed {
                header,
                changes,
                duplicates,
            } => {
                let header = format!("{{{}}}", header.join(","));
                let header = header.replace("KID", &format!("\"{KID}\""));
                let mut claims = valid_claims(now);
                let mut changes = changes.clone();
                if !duplicates {
                    let mut names = HashSet::new();
                    changes.retain(|(name, _)| names.insert(*name));
                    claims.retain(|(name, _)| !names.contains(name));
                }
                let changes = changes.iter().map(|(name, value)| (*name, value.json(now)));
                let payload = object(claims.into_iter().chain(changes));
                let token = ORACLE.sign(&header, &payload);
                token.into_bytes()
            }
            Self::Mutated(seed, mutations) => mutations
                .iter()
                .fold(seed.get(seeds).clone().into_bytes(), |token, mutation| {
                    mutation.apply(token)
                }),
        }
    }
}

/// Returns whether the oracle may reject this accepted token for one of its known limits: it requires the RFC's types of
/// header members that are not read here, and rounds `nbf`.
fn is_beyond_the_oracle(token: &[u8]) -> bool {
    const UNREAD: [&str; 11] = [
        "cty", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "enc", "zip", "url", "nonce",
    ];
    let object = |segment: &[u8]| -> serde_json::Map<String, Value> {
        let json = BASE64_URL_SAFE_NO_PAD.decode(segment).expect("base64url");
        serde_json::from_slice(&json).expect("an object")
    };
    let mut segments = token.split(|byte| *byte == b'.');
    let mut header = object(segments.next().unwrap_or_default());
    let claims = object(segments.next().unwrap_or_default());
    let is_header = |header: &serde_json::Map<String, Value>| {
        serde_json::from_value::<jsonwebtoken::Header>(header.clone().into()).is_ok()
    };
    if !is_header(&header) {
        header.retain(|name, _| !UNREAD.contains(&name.as_str()));
        return is_header(&header);
    }
    let not_before = claims.get("nbf").and_then(Value::as_f64);
    not_before.is_some_and(|date| date.fract() != 0.0)
}

fn compare(case: &Case, seeds: &[String], tally: &Tally) -> TestCaseResult {
    let token = case.token(seeds, jsonwebtoken::get_current_timestamp());
    let oracle = || jsonwebtoken::decode::<Value>(&token, &ORACLE.key, &ORACLE.validation);
    let hankos = ORACLE.runtime.block_on(ORACLE.hanko.authenticate(&token));
    let count = match (hankos, oracle()) {
        (Ok(session), Ok(oracle)) => {
            prop_assert_eq!(session.claims::<Value>(), Ok(oracle.claims));
            &tally.both
        }
        (Err(_), Err(_)) => &tally.neither,
        (Err(_), Ok(_)) => &tally.oracle_only,
        (Ok(_), Err(error)) => {
            let text = String::from_utf8_lossy(&token);
            prop_assert!(is_beyond_the_oracle(&token), "{error}: {text}");
            &tally.hanko_only
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "a setting of the test, not of the library"
)]
fn number_of_cases() -> u32 {
    env::var("FUZZ_CASES").map_or(10_000, |cases| cases.parse().expect("a number"))
}

#[test]
fn jsonwebtoken_accepts_every_token_that_is_accepted() {
    const THREADS: u32 = 2;
    let cases = number_of_cases();
    let claims = object(valid_claims(jsonwebtoken::get_current_timestamp()));
    let seeds: Vec<String> = [
        r#"{"alg":"RS256"}"#.to_owned(),
        format!(r#"{{"typ":"JWT","alg":"RS256","kid":"{KID}"}}"#),
    ]
    .iter()
    .map(|header| ORACLE.sign(header, &claims))
    .collect();
    let tally = Tally::default();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut runner = TestRunner::new(ProptestConfig {
                    cases: cases / THREADS,
                    failure_persistence: None,
                    ..ProptestConfig::default()
                });
                if let Err(error) = runner.run(&case(), |case| compare(&case, &seeds, &tally)) {
                    panic!("{error}");
                }
            });
        }
    });
    println!("{cases} tokens: {tally:?}");
    // Enough of the tokens are valid for the comparison to mean something.
    assert!(tally.both.into_inner() * 5 > u64::from(cases));
    assert!(tally.neither.into_inner() * 5 > u64::from(cases));
}
