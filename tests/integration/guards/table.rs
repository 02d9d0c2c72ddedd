//! Every guard with every kind of token: which are accepted, and how the others are rejected.

use std::{collections::BTreeSet, marker::PhantomData, sync::Arc, time::Duration};

use poem::{EndpointExt, IntoEndpoint, Route, endpoint::BoxEndpoint, test::TestClient};
use poem_hanko::{
    AnyOf, Fresh, Guard, HankoAuth, HankoBuilder, Live, ManualClock, Passkey, ProblemType, Require,
    Requirement, SecondFactor, SessionMode, StrongSignIn, VerifiedEmail, require,
    testing::{Fault, LocalHanko, Person},
};
use poem_openapi::{OpenApi, OpenApiService, payload::PlainText};
use serde_json::json;

use super::{Seen, ada, get};
use crate::support::{START, hanko_builder};

const UPGRADE: ProblemType = ProblemType::new("/problems/upgrade", 402, "Another plan is needed");

guards! {
    Admin = Requirement::claim("role").equals("admin");
    Level = Requirement::claim("level").equals_number(3.0);
    Beta = Requirement::claim("/flags/beta").equals_bool(true);
    Editor = Requirement::claim("/org/permissions").contains_any(&["edit", "own"]);
    Owner = Requirement::claim("/org/permissions").contains_all(&["edit", "own"]);
    Reader = Requirement::scope("scope").contains_any(&["notes:read", "notes:write"]);
    Writer = Requirement::scope("scope").contains_all(&["notes:read", "notes:write"]);
    Staff = Requirement::that("an address at acme.example", |session| {
        session.email().is_some_and(|email| email.address.ends_with("@acme.example"))
    });
    Paying = Requirement::claim("plan").equals("pro").with_problem(UPGRADE);
    Dotted = Requirement::claim("https://acme.example/role").equals("admin");
}

struct Api<G>(PhantomData<fn() -> G>);

#[OpenApi]
#[allow(clippy::unused_async, reason = "Poem requires async handlers")]
impl<G: Guard> Api<G> {
    #[oai(path = "/", method = "get")]
    async fn guarded(&self, _auth: HankoAuth<G>) -> PlainText<&'static str> {
        PlainText("welcome")
    }
}

/// The three ways to guard an endpoint.
fn ways<G: Guard>() -> [BoxEndpoint<'static>; 3] {
    let by_function = poem::endpoint::make(|request| async move {
        require::<G>(&request).await?;
        Ok::<_, poem::Error>("welcome")
    });
    let by_middleware = poem::endpoint::make_sync(|_| "welcome").with(Require::<G>::new());
    [
        OpenApiService::new(Api::<G>(PhantomData), "guarded", "1.0")
            .into_endpoint()
            .map_to_response()
            .boxed(),
        by_function.map_to_response().boxed(),
        by_middleware.map_to_response().boxed(),
    ]
}

/// A guard, and its rejection.
struct Row {
    name: &'static str,
    ways: [BoxEndpoint<'static>; 3],
    rejection: Seen,
}

fn row<G: Guard>(
    name: &'static str,
    status: u16,
    slug: &str,
    requires: &str,
    challenge: &str,
) -> Row {
    Row {
        name,
        ways: ways::<G>(),
        rejection: Seen {
            status,
            slug: Some(slug.to_owned()),
            challenge: (!challenge.is_empty()).then(|| {
                let (code, parameter) = challenge.split_once(' ').unwrap_or((challenge, ""));
                format!(
                    r#"Bearer error="{code}", error_description="requires {requires}"{parameter}"#
                )
            }),
            detail: Some(format!(
                "Requires {requires}. The Bearer token was examined."
            )),
        },
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    let permission = |name, ways: [BoxEndpoint<'static>; 3], requires: &str, parameter: &str| Row {
        ways,
        ..row::<()>(
            name,
            403,
            "insufficient-permission",
            requires,
            &format!("insufficient_scope {parameter}"),
        )
    };
    let sign_in = |name, ways: [BoxEndpoint<'static>; 3], requires: &str, parameter: &str| Row {
        ways,
        ..row::<()>(
            name,
            401,
            "sign-in-too-old",
            requires,
            &format!("insufficient_user_authentication {parameter}"),
        )
    };
    let fresh = "a sign-in within the last 300 seconds";
    let max_age = r#", max_age="300""#;
    let admin = "the claim `role` to be `admin`";
    vec![
        permission(
            "verified",
            ways::<VerifiedEmail>(),
            "a verified e-mail address",
            "",
        ),
        sign_in("fresh", ways::<Fresh<300>>(), fresh, max_age),
        sign_in(
            "second",
            ways::<SecondFactor>(),
            "a sign-in with a second factor",
            "",
        ),
        sign_in("passkey", ways::<Passkey>(), "a sign-in with a passkey", ""),
        sign_in(
            "strong",
            ways::<StrongSignIn>(),
            "a sign-in with a passkey or a second factor",
            "",
        ),
        permission("admin", ways::<Admin>(), admin, ""),
        permission(
            "level",
            ways::<Level>(),
            "the claim `level` to be the number 3",
            "",
        ),
        permission(
            "beta",
            ways::<Beta>(),
            "the claim `/flags/beta` to be true",
            "",
        ),
        permission(
            "editor",
            ways::<Editor>(),
            "the claim `/org/permissions` to contain `edit` or `own`",
            "",
        ),
        permission(
            "owner",
            ways::<Owner>(),
            "the claim `/org/permissions` to contain `edit` and `own`",
            "",
        ),
        permission(
            "reader",
            ways::<Reader>(),
            "the claim `scope` to contain the scopes `notes:read` or `notes:write`",
            "",
        ),
        permission(
            "writer",
            ways::<Writer>(),
            "the claim `scope` to contain the scopes `notes:read` and `notes:write`",
            r#", scope="notes:read notes:write""#,
        ),
        permission("staff", ways::<Staff>(), "an address at acme.example", ""),
        Row {
            ways: ways::<Paying>(),
            ..row::<()>("paying", 402, "upgrade", "the claim `plan` to be `pro`", "")
        },
        permission(
            "dotted",
            ways::<Dotted>(),
            "the claim `https://acme.example/role` to be `admin`",
            "",
        ),
        sign_in(
            "admin or fresh",
            ways::<AnyOf<(Admin, Fresh<300>)>>(),
            &format!("{admin}, or {fresh}"),
            max_age,
        ),
        permission(
            "admin or verified",
            ways::<AnyOf<(Admin, VerifiedEmail)>>(),
            &format!("{admin}, or a verified e-mail address"),
            "",
        ),
    ]
}

/// Tokens, and the guards that accept them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn tokens() -> Vec<(&'static str, Person, Vec<&'static str>)> {
    let base = || Person::default().without_email();
    let old = || base().signed_in_ago(Duration::from_secs(301));
    vec![
        ("nothing", old(), vec![]),
        ("a fresh sign-in", base(), vec!["fresh", "admin or fresh"]),
        (
            "a sign-in at the limit",
            base().signed_in_ago(Duration::from_mins(5)),
            vec!["fresh", "admin or fresh"],
        ),
        (
            "a verified address",
            ada().signed_in_ago(Duration::from_secs(301)),
            vec!["verified", "admin or verified"],
        ),
        (
            "an unverified address",
            old().unverified_email("ada@example.com"),
            vec![],
        ),
        (
            "an unverified address at acme",
            old().unverified_email("ada@acme.example"),
            vec!["staff"],
        ),
        ("a password", old().amr(["pwd"]), vec![]),
        (
            "a passcode and a provider",
            old().amr(["otp", "ext:google"]),
            vec![],
        ),
        ("totp", old().amr(["pwd", "totp"]), vec!["second", "strong"]),
        (
            "a security key",
            old().amr(["pwd", "security_key"]),
            vec!["second", "strong"],
        ),
        // A registration, which asks for no second factor.
        (
            "a passkey and a password",
            old().amr(["pwd", "passkey"]),
            vec!["passkey", "strong"],
        ),
        (
            "a role",
            old().claim("role", "admin"),
            vec!["admin", "admin or fresh", "admin or verified"],
        ),
        (
            "a role in another case",
            old().claim("role", "Admin"),
            vec![],
        ),
        (
            "a role in an array",
            old().claim("role", json!(["admin"])),
            vec![],
        ),
        (
            "a role as a member",
            old().claim("role", json!({ "admin": true })),
            vec![],
        ),
        (
            "several roles in a string",
            old().claim("role", "admin user"),
            vec![],
        ),
        ("a role with a space", old().claim("role", "admin "), vec![]),
        (
            "a Cyrillic role",
            old().claim("role", "\u{430}dmin"),
            vec![],
        ),
        (
            "a role under another name",
            old().claim("Role", "admin"),
            vec![],
        ),
        (
            "a pointer as a name",
            old().claim("/flags/beta", true),
            vec![],
        ),
        (
            "a name with dots",
            old().claim("https://acme.example/role", "admin"),
            vec!["dotted"],
        ),
        ("an integer", old().claim("level", 3), vec!["level"]),
        (
            "a number with a fraction of zero",
            old().claim("level", 3.0),
            vec!["level"],
        ),
        ("a greater number", old().claim("level", 4), vec![]),
        ("a number as text", old().claim("level", "3"), vec![]),
        (
            "a Boolean",
            old().claim("flags", json!({ "beta": true })),
            vec!["beta"],
        ),
        (
            "the other Boolean",
            old().claim("flags", json!({ "beta": false })),
            vec![],
        ),
        (
            "a Boolean as text",
            old().claim("flags", json!({ "beta": "true" })),
            vec![],
        ),
        (
            "a Boolean as a number",
            old().claim("flags", json!({ "beta": 1 })),
            vec![],
        ),
        (
            "one permission",
            old().claim("org", json!({ "permissions": ["edit"] })),
            vec!["editor"],
        ),
        (
            "all permissions",
            old().claim("org", json!({ "permissions": ["own", "see", "edit"] })),
            vec!["editor", "owner"],
        ),
        (
            "no permission",
            old().claim("org", json!({ "permissions": [] })),
            vec![],
        ),
        (
            "a permission as text",
            old().claim("org", json!({ "permissions": "edit" })),
            vec![],
        ),
        (
            "a permission beside a number",
            old().claim("org", json!({ "permissions": ["edit", "own", 1] })),
            vec![],
        ),
        (
            "a longer permission",
            old().claim("org", json!({ "permissions": ["editor"] })),
            vec![],
        ),
        (
            "one scope",
            old().claim("scope", "openid notes:read"),
            vec!["reader"],
        ),
        (
            "all scopes",
            old().claim("scope", "notes:write notes:read"),
            vec!["reader", "writer"],
        ),
        (
            "scopes in an array",
            old().claim("scope", json!(["notes:write", "notes:read"])),
            vec!["reader", "writer"],
        ),
        (
            "scopes in one element",
            old().claim("scope", json!(["notes:write notes:read"])),
            vec![],
        ),
        (
            "scopes after a tab",
            old().claim("scope", "openid\tnotes:read"),
            vec![],
        ),
        (
            "a longer scope",
            old().claim("scope", "notes:reader"),
            vec![],
        ),
        ("a plan", old().claim("plan", "pro"), vec!["paying"]),
        ("null", old().claim("role", serde_json::Value::Null), vec![]),
    ]
}

async fn local_hanko(clock: &ManualClock) -> (LocalHanko, HankoBuilder) {
    let local_hanko = LocalHanko::builder()
        .clock(Arc::new(clock.clone()))
        .start()
        .await
        .unwrap();
    let builder = hanko_builder(local_hanko.hanko_url()).clock(Arc::new(clock.clone()));
    (local_hanko, builder)
}

#[tokio::test]
async fn guards_accept_exactly_what_they_require() {
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let rows = rows();
    let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
    let clients: Vec<(&str, Seen, Vec<TestClient<_>>)> = rows
        .into_iter()
        .map(|row| {
            let ways = row.ways.map(|way| TestClient::new(way.data(hanko.clone())));
            (row.name, row.rejection, Vec::from(ways))
        })
        .collect();
    let mut decisions = 0;
    for (token, person, accepting) in tokens() {
        assert!(accepting.iter().all(|name| names.contains(name)), "{token}");
        let session = local_hanko.sign_in(&person);
        for (name, rejection, ways) in &clients {
            for client in ways {
                let seen = get(client, "/", &session.token).await;
                if accepting.contains(name) {
                    assert_eq!(seen.status, 200, "{name} with {token}: {seen:?}");
                } else {
                    assert_eq!(&seen, rejection, "{name} with {token}");
                }
                decisions += 1;
            }
        }
    }
    println!("{decisions} decisions");
}

#[tokio::test]
async fn tokens_of_the_admin_api_lack_a_sign_in() {
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let session = local_hanko.create_session(&ada().amr(["pwd", "totp", "passkey"]));
    for ways in [
        ways::<SecondFactor>(),
        ways::<Passkey>(),
        ways::<StrongSignIn>(),
    ] {
        for way in ways {
            let client = TestClient::new(way.data(hanko.clone()));
            assert_eq!(get(&client, "/", &session.token).await.status, 401);
        }
    }
}

#[tokio::test]
async fn fresh_sign_in_grows_old() {
    let clock = ManualClock::new(START);
    let (local_hanko, builder) = local_hanko(&clock).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let session = local_hanko.sign_in(&ada());
    let [way, ..] = ways::<Fresh<300>>();
    let client = TestClient::new(way.data(hanko.clone()));
    clock.advance(Duration::from_mins(5));
    assert_eq!(get(&client, "/", &session.token).await.status, 200);
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&client, "/", &session.token).await.status, 401);
}

#[tokio::test]
async fn challenge_of_any_names_no_single_way() {
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let old = ada()
        .unverified_email("a@b.c")
        .signed_in_ago(Duration::from_hours(1));
    let token = local_hanko.sign_in(&old).token;
    let challenge = async |[way, ..]: [BoxEndpoint<'static>; 3]| {
        let client = TestClient::new(way.data(hanko.clone()));
        get(&client, "/", &token).await.challenge.unwrap()
    };
    let scopes = challenge(ways::<AnyOf<(Writer, VerifiedEmail)>>()).await;
    assert!(!scopes.contains(" scope="), "{scopes}");
    let ages = challenge(ways::<AnyOf<(Fresh<60>, Fresh<300>)>>()).await;
    assert!(ages.ends_with(r#", max_age="300""#), "{ages}");
}

#[tokio::test]
async fn numbers_compare_by_value_however_they_are_written() {
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let [way, ..] = ways::<Level>();
    let client = TestClient::new(way.data(hanko.clone()));
    let claims = serde_json::to_string(&local_hanko.claims_of(&ada())).unwrap();
    let header = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, local_hanko.kid());
    for (number, status) in [
        ("3", 200),
        ("3.0", 200),
        ("3e0", 200),
        ("30e-1", 200),
        ("3.0000001", 403),
        ("-3", 403),
        ("18446744073709551619", 403),
        ("9007199254740993", 403),
        // A number that does not fit into a double, and a duplicate claim: no such token is accepted.
        ("1e400", 401),
        ("2,\"level\":3", 401),
    ] {
        let payload = claims.replacen('{', &format!(r#"{{"level":{number},"#), 1);
        let token = local_hanko.sign_raw(header.as_bytes(), payload.as_bytes());
        assert_eq!(get(&client, "/", &token).await.status, status, "{number}");
    }
}

#[tokio::test]
async fn unusual_issue_dates_are_no_fresh_sign_in() {
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let [way, ..] = ways::<Fresh<300>>();
    let client = TestClient::new(way.data(hanko.clone()));
    let now = START.as_secs_f64();
    for (iat, status) in [
        (json!(now - 299.5), 200),
        (json!(now - 300.5), 401),
        // Within the leeway.
        (json!(now + 10.0), 200),
        (json!(now + 60.0), 401),
        (json!(null), 401),
        (json!(now.to_string()), 401),
    ] {
        let mut claims = local_hanko.claims_of(&ada());
        claims.insert("iat".to_owned(), iat.clone());
        let token = local_hanko.sign_claims(&claims);
        assert_eq!(get(&client, "/", &token).await.status, status, "{iat}");
        claims.remove("iat");
        let token = local_hanko.sign_claims(&claims);
        assert_eq!(get(&client, "/", &token).await.status, 401, "no iat");
    }
}

#[tokio::test]
async fn unauthenticated_session_meets_no_guard() {
    guards! {
        Anybody = Requirement::that("nothing", |_| true);
    }
    let (local_hanko, builder) = local_hanko(&ManualClock::new(START)).await;
    let hanko = builder.build().unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let ended = local_hanko.sign_in(&ada());
    local_hanko.send_webhooks_to_hanko(&hanko);
    local_hanko.end_session(ended.session_id).await.unwrap();
    for way in ways::<Anybody>()
        .into_iter()
        .chain(ways::<AnyOf<(Anybody, Live)>>())
    {
        let client = TestClient::new(way.data(hanko.clone()));
        for token in [
            ended.token.clone(),
            local_hanko.expired_token(&ada()),
            local_hanko.forged_token(&ada()),
            local_hanko.foreign_token(&ada()),
            local_hanko.token_of_wrong_kind(),
            String::new(),
        ] {
            let seen = get(&client, "/", &token).await;
            assert_eq!(
                (seen.status, seen.slug.as_deref()),
                (401, Some("invalid-token"))
            );
        }
        let response = client.get("/").send().await;
        let seen = super::seen(response.0).await;
        assert_eq!(seen.slug.as_deref(), Some("missing-credentials"));
    }
}

#[tokio::test]
async fn live_asks_hanko_only_if_it_decides() {
    // A negative answer is confirmed by a fetch of the keys, at most once per second of the clock.
    let local_hanko = LocalHanko::builder().start().await.unwrap();
    let hanko = hanko_builder(local_hanko.hanko_url())
        .session_mode(SessionMode::Stateless)
        .build()
        .unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let admin = local_hanko.sign_in(&ada().claim("role", "admin"));
    let user = local_hanko.sign_in(&ada());
    let endpoint = Route::new()
        .at(
            "/both",
            poem::endpoint::make_sync(|_| "welcome").with(Require::<(Live, Admin)>::new()),
        )
        .at(
            "/either",
            poem::endpoint::make_sync(|_| "welcome").with(Require::<AnyOf<(Live, Admin)>>::new()),
        );
    let client = TestClient::new(endpoint.data(hanko.clone()));
    let status = async |path: &str, token: &str| get(&client, path, token).await.status;

    assert_eq!(status("/either", &admin.token).await, 200);
    assert_eq!(local_hanko.validate_requests(), 0);
    assert_eq!(status("/either", &user.token).await, 200);
    assert_eq!(status("/both", &admin.token).await, 200);
    assert_eq!(status("/both", &user.token).await, 403);
    assert_eq!(local_hanko.validate_requests(), 3);

    local_hanko.set_fault(Fault::InternalError);
    assert_eq!(status("/either", &admin.token).await, 200);
    assert_eq!(status("/either", &user.token).await, 503);
    assert_eq!(status("/both", &admin.token).await, 503);
    local_hanko.set_fault(Fault::None);

    for session in [&admin, &user] {
        // No webhook is sent, so only Hanko knows.
        local_hanko.end_session(session.session_id).await.unwrap();
    }
    assert_eq!(status("/either", &user.token).await, 401);
    assert_eq!(status("/both", &admin.token).await, 401);
}
