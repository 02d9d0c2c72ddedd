//! A guard accepts exactly the claims that a straightforward check of the JSON accepts.

use std::sync::LazyLock;

use poem::{Request, http::Uri};
use poem_hanko::{
    AnyOf, Fresh, Guard, Passkey, Rejection, Requirement, SecondFactor, StrongSignIn,
    VerifiedEmail, require,
};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::{Scene, ada};

static WORLD: LazyLock<(Runtime, Scene)> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let scene = runtime.block_on(Scene::new());
    (runtime, scene)
});

guards! {
    IsAdmin = Requirement::claim("role").equals("admin");
    IsThree = Requirement::claim("role").equals_number(3.0);
    IsHalf = Requirement::claim("role").equals_number(0.5);
    IsTrue = Requirement::claim("role").equals_bool(true);
    HasAny = Requirement::claim("role").contains_any(&["admin", "user"]);
    HasAll = Requirement::claim("role").contains_all(&["admin", "user"]);
    ScopeAny = Requirement::scope("role").contains_any(&["admin", "user"]);
    ScopeAll = Requirement::scope("role").contains_all(&["admin", "user"]);
    Nested = Requirement::claim("/org/role").equals("admin");
    Element = Requirement::claim("/role/0").equals("admin");
    Address = Requirement::claim("/email/address").equals("ada@example.com");
}

/// Strings that the guards look for, and similar ones.
fn text() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "admin",
        "user",
        "Admin",
        "admin ",
        " admin",
        "admin user",
        "user admin",
        "admin  user",
        "admin\tuser",
        "admin\u{a0}user",
        "admin,user",
        "administrator",
        "\u{430}dmin",
        "adm\u{131}n",
        "admin\u{0}",
        "ADMIN",
        "3",
        "3.0",
        "true",
        "",
        "null",
        "[\"admin\"]",
        "ａｄｍｉｎ",
        "a\u{301}dmin",
    ]);
    prop_oneof![8 => known.prop_map(ToOwned::to_owned), 1 => any::<String>()]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        proptest::sample::select(vec![
            json!(3),
            json!(3.0),
            json!(-3),
            json!(4),
            json!(0.5),
            json!(0),
            json!(-0.0),
            json!(3.000_000_000_000_001),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1e300),
            json!(9_007_199_254_740_993_u64),
        ]),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::from),
        2 => number(),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            1 => proptest::collection::vec((text(), inner), 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The claims of a session token, some of them of any type.
fn claims() -> impl Strategy<Value = Map<String, Value>> {
    let custom = || proptest::option::of(value());
    let verified = proptest::option::of(any::<bool>());
    let amr = proptest::option::of(prop_oneof![
        2 => proptest::collection::vec(
            proptest::sample::select(vec!["pwd", "totp", "security_key", "passkey", "otp", "TOTP", "ext:passkey"]),
            0..3,
        )
        .prop_map(Value::from),
        1 => proptest::sample::select(vec!["totp", "passkey"]).prop_map(Value::from),
        1 => value(),
    ]);
    (custom(), custom(), amr, verified, 0..600_u64).prop_map(|(role, org, amr, verified, age)| {
        let (_, scene) = &*WORLD;
        let mut claims = scene.local_hanko.claims_of(&ada());
        for (name, value) in [("role", role), ("amr", amr)] {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value);
            }
        }
        if let Some(org) = org {
            claims.insert("org".to_owned(), json!({ "role": org }));
        }
        match verified {
            Some(verified) => claims["email"]["is_verified"] = verified.into(),
            None => drop(claims.remove("email")),
        }
        let now = claims["iat"].as_u64().expect("a number");
        // Not near the limit, because the clock advances during the test.
        let age = if (295..=305).contains(&age) { 290 } else { age };
        claims["iat"] = (now - age).into();
        claims.insert("age".to_owned(), age.into());
        claims
    })
}

type Reading = fn(&Map<String, Value>) -> bool;

/// The elements, if the value is an array of strings only.
fn elements(value: Option<&Value>) -> Option<Vec<String>> {
    serde_json::from_value(value?.clone()).ok()
}

fn scopes(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(text.split(' ').map(ToOwned::to_owned).collect()),
        other => elements(Some(other)),
    }
}

fn has(values: Option<Vec<String>>, wanted: &[&str]) -> usize {
    let values = values.unwrap_or_default();
    wanted
        .iter()
        .filter(|wanted| values.iter().any(|value| value == *wanted))
        .count()
}

const METHODS: [&str; 3] = ["totp", "security_key", "passkey"];

async fn decide<G: Guard>(request: &Request) -> Result<(), Rejection> {
    require::<G>(request).await.map(drop)
}

#[test]
fn guards_accept_what_a_direct_reading_accepts() {
    macro_rules! check {
        ($claims:expr, $request:expr, $($guard:ty: $reading:expr;)*) => {
            $({
                let reading: Reading = $reading;
                let expected = reading($claims);
                match decide::<$guard>($request).await {
                    Ok(()) => prop_assert!(expected, "{} accepts {:?}", stringify!($guard), $claims),
                    Err(Rejection::GuardNotMet(..)) => {
                        prop_assert!(!expected, "{} rejects {:?}", stringify!($guard), $claims);
                    }
                    Err(other) => return Err(TestCaseError::fail(format!("{other} for {:?}", $claims))),
                }
            })*
        };
    }
    let (runtime, scene) = &*WORLD;
    TestRunner::default()
        .run(&claims(), |claims| {
            let token = scene.local_hanko.sign_claims(&claims);
            let request = Request::builder()
                .uri(Uri::from_static("/"))
                .header("authorization", format!("Bearer {token}"))
                .finish();
            let mut request = request;
            request.set_data(scene.hanko.clone());
            let request = &request;
            runtime.block_on(async {
                check! { &claims, request,
                    IsAdmin: |claims| claims.get("role") == Some(&json!("admin"));
                    IsThree: |claims| matches!(claims.get("role").map(Value::to_string).as_deref(), Some("3" | "3.0"));
                    IsHalf: |claims| claims.get("role") == Some(&json!(0.5));
                    IsTrue: |claims| claims.get("role") == Some(&json!(true));
                    HasAny: |claims| has(elements(claims.get("role")), &["admin", "user"]) > 0;
                    HasAll: |claims| has(elements(claims.get("role")), &["admin", "user"]) == 2;
                    ScopeAny: |claims| has(scopes(claims.get("role")), &["admin", "user"]) > 0;
                    ScopeAll: |claims| has(scopes(claims.get("role")), &["admin", "user"]) == 2;
                    Nested: |claims| claims.get("org").is_some_and(|org| org["role"] == "admin");
                    Element: |claims| {
                        let role = claims.get("role");
                        role.is_some_and(|role| role[0] == "admin" || role["0"] == "admin")
                    };
                    Address: |claims| claims.contains_key("email");
                    VerifiedEmail: |claims| {
                        claims.get("email").is_some_and(|email| email["is_verified"] == true)
                    };
                    Fresh<300>: |claims| claims["age"].as_u64() <= Some(300);
                    SecondFactor: |claims| has(elements(claims.get("amr")), &METHODS[..2]) > 0;
                    Passkey: |claims| has(elements(claims.get("amr")), &METHODS[2..]) > 0;
                    StrongSignIn: |claims| has(elements(claims.get("amr")), &METHODS) > 0;
                    (IsAdmin, Fresh<300>): |claims| {
                        claims.get("role") == Some(&json!("admin")) && claims["age"].as_u64() <= Some(300)
                    };
                    AnyOf<(IsAdmin, VerifiedEmail)>: |claims| {
                        claims.get("role") == Some(&json!("admin"))
                            || claims.get("email").is_some_and(|email| email["is_verified"] == true)
                    };
                }
                Ok(())
            })
        })
        .unwrap();
}
