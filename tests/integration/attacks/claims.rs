//! Tokens signed by the right key whose claims are not those of a session, or not valid now, or not meant for this service.

use serde_json::json;

use super::{
    AUDIENCE, Case, ISSUER, Service,
    issuer::{Members, claims, header, now, sign},
    rule,
    tokens::broken_texts,
};

pub(super) fn cases() -> Vec<Case> {
    [
        absent(),
        malformed_dates(),
        wrong_times(),
        wrong_types(),
        ids(),
        members(),
        texts(),
        other_kinds(),
        audiences(),
        issuers(),
    ]
    .concat()
}

fn signed(claims: &Members) -> String {
    sign(header().json(), claims.json())
}

fn absent() -> Vec<Case> {
    let now = now();
    [
        ("no exp", claims().without("exp"), "exp"),
        ("no sub", claims().without("sub"), "sub"),
        (
            "no session_id",
            claims().without("session_id"),
            "session_id",
        ),
        (
            "exp in upper case",
            claims().without("exp").with("EXP", (now + 60).to_string()),
            "exp",
        ),
        (
            "exp with a space",
            claims().without("exp").with("exp ", (now + 60).to_string()),
            "exp",
        ),
        (
            "exp with an escaped NUL",
            claims()
                .without("exp")
                .with(r"exp\u0000", (now + 60).to_string()),
            "exp",
        ),
        (
            "exp inside another claim",
            claims()
                .without("exp")
                .with("session", json!({ "exp": now + 60 }).to_string()),
            "exp",
        ),
        ("no claim at all", Members::new([]), "exp"),
        (
            "nothing but exp",
            Members::new([]).with("exp", (now + 60).to_string()),
            "sub",
        ),
        (
            "session_id in another style",
            claims()
                .without("session_id")
                .with("sessionId", r#""1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22""#),
            "session_id",
        ),
    ]
    .map(|(name, claims, claim)| Case::refused(name, signed(&claims), rule::lacks(claim)))
    .to_vec()
}

fn malformed_dates() -> Vec<Case> {
    let mut cases = Vec::new();
    for claim in ["exp", "nbf", "iat"] {
        for value in [
            "null",
            "true",
            "\"\"",
            r#""1795500000""#,
            r#""2026-11-23T13:00:00Z""#,
            r#""NaN""#,
            r#""Infinity""#,
            "[]",
            "[1795500000]",
            "{}",
            "-1",
            "-0.5",
            "-1e308",
            "1e308",
            "1e18",
            // Milliseconds.
            "1795435200000",
            "253402300800",
            "253402300799.5",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
        ] {
            cases.push(Case::refused(
                format!("{claim} {value}"),
                signed(&claims().with(claim, value)),
                rule::malformed(claim),
            ));
        }
        // These are no JSON, or no number that a parser can hold.
        for value in [
            "1e400",
            "-1e400",
            "NaN",
            "-Infinity",
            "1_000",
            "1.",
            ".5",
            "0b1",
        ] {
            cases.push(Case::refused(
                format!("{claim} {value}"),
                signed(&claims().with(claim, value)),
                rule::CLAIMS,
            ));
        }
    }
    cases
}

/// The leeway is 30 seconds.
fn wrong_times() -> Vec<Case> {
    let now = now();
    [
        ("exp", (now - 30).to_string(), rule::EXPIRED),
        ("exp", (now - 31).to_string(), rule::EXPIRED),
        ("exp", format!("{}.999", now - 31), rule::EXPIRED),
        ("exp", "0".to_owned(), rule::EXPIRED),
        ("exp", "-0.0".to_owned(), rule::EXPIRED),
        ("exp", "1e-7".to_owned(), rule::EXPIRED),
        ("exp", "1".to_owned(), rule::EXPIRED),
        ("nbf", (now + 31).to_string(), rule::NOT_YET_VALID),
        ("nbf", format!("{}.001", now + 30), rule::NOT_YET_VALID),
        ("nbf", "253402300799".to_owned(), rule::NOT_YET_VALID),
        ("iat", (now + 31).to_string(), rule::ISSUED_IN_THE_FUTURE),
        (
            "iat",
            format!("{}.001", now + 30),
            rule::ISSUED_IN_THE_FUTURE,
        ),
    ]
    .map(|(claim, value, rule)| {
        Case::refused(
            format!("{claim} {value} at {now}"),
            signed(&claims().with(claim, value)),
            rule,
        )
    })
    .to_vec()
}

fn wrong_types() -> Vec<Case> {
    let not_a_string = ["null", "1", "false", "[]", r#"["a"]"#, "{}"];
    let not_an_email = [
        "null",
        "1",
        "true",
        r#""ada@example.com""#,
        "[]",
        r#"["ada@example.com",true,true]"#,
        "{}",
        r#"{"address":"a@b"}"#,
        r#"{"address":"a@b","is_primary":true}"#,
        r#"{"address":"a@b","is_primary":true,"is_verified":null}"#,
        r#"{"address":"a@b","is_primary":true,"is_verified":"true"}"#,
        r#"{"address":"a@b","is_primary":1,"is_verified":true}"#,
        r#"{"address":null,"is_primary":true,"is_verified":true}"#,
        r#"{"address":["a@b"],"is_primary":true,"is_verified":true}"#,
    ];
    let not_an_audience = [
        "null",
        "1",
        "true",
        "{}",
        r#"{"0":"localhost"}"#,
        "[1]",
        "[null]",
        r#"["localhost",1]"#,
        r#"["localhost",null]"#,
        r#"[["localhost"]]"#,
        r#"[{"aud":"localhost"}]"#,
    ];
    [
        ("sub", &not_a_string[..]),
        ("session_id", &not_a_string),
        ("username", &not_a_string),
        ("iss", &not_a_string),
        ("email", &not_an_email),
        ("aud", &not_an_audience),
    ]
    .into_iter()
    .flat_map(|(claim, values)| {
        values.iter().map(move |value| {
            Case::refused(
                format!("{claim} {value}"),
                signed(&claims().with(claim, *value)),
                rule::malformed(claim),
            )
        })
    })
    .collect()
}

/// A UUID is written in one way (RFC 9562 section 4).
fn ids() -> Vec<Case> {
    let uuid = "6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11";
    let values = [
        ("empty", String::new()),
        ("a word", "admin".to_owned()),
        ("a number as a string", "1".to_owned()),
        ("a UUID without hyphens", uuid.replace('-', "")),
        ("a UUID in braces", format!("{{{uuid}}}")),
        ("a UUID as a URN", format!("urn:uuid:{uuid}")),
        ("a UUID and a space", format!("{uuid} ")),
        ("a UUID and a line end", format!("{uuid}\n")),
        ("a UUID and a NUL", format!("{uuid}\0")),
        ("a UUID and a digit", format!("{uuid}1")),
        ("a UUID less a digit", uuid[..35].to_owned()),
        ("36 characters that are no UUID", uuid.replace('c', "g")),
        (
            "36 characters with hyphens elsewhere",
            "6c6c1d5e9-e1a-4f0e-8d53-0d2f6f8f5a11".to_owned(),
        ),
        (
            "36 bytes with full-width digits",
            "６c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11".to_owned(),
        ),
        ("an e-mail address", "ada@example.com".to_owned()),
        ("SQL", "' OR '1'='1".to_owned()),
    ];
    let mut cases = Vec::new();
    for claim in ["sub", "session_id"] {
        for (name, value) in &values {
            cases.push(Case::refused(
                format!("{claim} {name}"),
                signed(&claims().with(claim, json!(value).to_string())),
                rule::malformed(claim),
            ));
        }
    }
    cases
}

/// Members that occur twice, and a proof of possession that nobody can check.
fn members() -> Vec<Case> {
    let now = now();
    let session_id = r#""1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22""#;
    let twice = [
        (
            "exp twice",
            claims().and("exp", &(now + 43_200).to_string()),
        ),
        (
            "exp past, then to come",
            claims()
                .with("exp", "1")
                .and("exp", &(now + 60).to_string()),
        ),
        ("exp to come, then past", claims().and("exp", "1")),
        (
            "exp once more with an escape",
            claims().and(r"e\u0078p", "1"),
        ),
        (
            "sub twice",
            claims().and("sub", r#""6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11""#),
        ),
        (
            "sub once more with an escape",
            claims().and(r"\u0073ub", r#""hanko webhooks""#),
        ),
        ("session_id twice", claims().and("session_id", session_id)),
        (
            "session_id once more with an escape",
            claims().and(r"session\u005Fid", session_id),
        ),
        ("aud twice", claims().and("aud", r#"["localhost"]"#)),
        (
            "iss twice",
            claims().and("iss", r#""a""#).and("iss", r#""a""#),
        ),
        (
            "email.address twice",
            claims().with(
                "email",
                r#"{"address":"a@b","address":"c@d","is_primary":true,"is_verified":true}"#,
            ),
        ),
        ("a custom claim twice", claims().and("plan", "1")),
        (
            "a member of a custom claim twice",
            claims().with("plan", r#"{"name":1,"name":1}"#),
        ),
        (
            "a member in an array twice",
            claims().with("plan", r#"[1,[{"a":1,"\u0061":1}]]"#),
        ),
        ("an empty name twice", claims().and("", "1").and("", "1")),
    ]
    .map(|(name, claims)| {
        Case::refused(format!("claims with {name}"), signed(&claims), rule::CLAIMS)
    });
    let bound = [
        r#"{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#,
        r#"{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}"#,
        r#"{"jwk":{"kty":"RSA"}}"#,
        r#"{"kid":"second"}"#,
        "{}",
        "null",
        r#""""#,
        "[]",
    ]
    .map(|cnf| {
        Case::refused(
            format!("cnf {cnf}"),
            signed(&claims().with("cnf", cnf)),
            rule::KEY_BOUND,
        )
    });
    twice.into_iter().chain(bound).collect()
}

fn texts() -> Vec<Case> {
    broken_texts(&claims())
        .into_iter()
        .map(|(name, text)| {
            Case::refused(
                format!("claims with {name}"),
                sign(header().json(), text),
                rule::CLAIMS,
            )
        })
        .collect()
}

/// Other tokens that are, or could be, signed with the keys of the sessions.
fn other_kinds() -> Vec<Case> {
    let now = now();
    let webhook = Members::new([
        ("sub", r#""hanko webhooks""#),
        ("aud", r#"["localhost"]"#),
        ("evt", r#""session.delete""#),
        (
            "data",
            r#"{"id":"1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22","user_id":"6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11"}"#,
        ),
    ])
    .with("iat", now.to_string())
    .with("exp", (now + 300).to_string());
    let session_id = r#""1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22""#;
    let sub = r#""6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11""#;
    [
        (
            "a webhook token",
            webhook.clone(),
            rule::lacks("session_id"),
        ),
        (
            "a webhook token with a session_id",
            webhook.with("session_id", session_id),
            rule::malformed("sub"),
        ),
        (
            "a webhook token with the sub of a user",
            webhook.with("sub", sub),
            rule::lacks("session_id"),
        ),
        (
            "a webhook token whose data is that of a session token",
            webhook.with("data", claims().json()),
            rule::lacks("session_id"),
        ),
        (
            "an ID token",
            claims()
                .without("session_id")
                .with("nonce", r#""n-0S6_WzA2Mj""#)
                .with("iss", r#""https://hanko.example""#),
            rule::lacks("session_id"),
        ),
        (
            "a token of a machine",
            claims().with("sub", r#""client@clients""#),
            rule::malformed("sub"),
        ),
        (
            "the answer of /sessions/validate",
            Members::new([
                ("is_valid", "true"),
                ("subject", sub),
                ("session_id", session_id),
            ])
            .with("expiration_time", r#""2026-11-23T20:00:00Z""#),
            rule::lacks("exp"),
        ),
    ]
    .map(|(name, claims, rule)| Case::refused(name, signed(&claims), rule))
    .to_vec()
}

fn audiences() -> Vec<Case> {
    let wrong = [
        json!(""),
        json!("localhost"),
        json!(["localhost"]),
        json!(["", ""]),
        json!(["*"]),
        json!(format!("{AUDIENCE} ")),
        json!(format!("{AUDIENCE}/")),
        json!(format!("{AUDIENCE}\0")),
        json!(format!("{AUDIENCE}.evil.example")),
        json!(format!("https://{AUDIENCE}")),
        json!(format!("x{AUDIENCE}")),
        json!(&AUDIENCE[1..]),
        json!(AUDIENCE.to_uppercase()),
        json!(format!("localhost,{AUDIENCE}")),
        json!(format!("localhost {AUDIENCE}")),
        // An array that was encoded once more, as a string.
        json!(json!([AUDIENCE]).to_string()),
    ]
    .map(|aud| {
        (
            format!("aud {aud}"),
            claims().with("aud", aud.to_string()),
            rule::AUDIENCE.to_owned(),
        )
    });
    let absent = [
        (
            "no aud".to_owned(),
            claims().without("aud"),
            rule::lacks("aud"),
        ),
        (
            "aud []".to_owned(),
            claims().with("aud", "[]"),
            rule::lacks("aud"),
        ),
        (
            "azp instead of aud".to_owned(),
            claims()
                .without("aud")
                .with("azp", json!(AUDIENCE).to_string()),
            rule::lacks("aud"),
        ),
    ];
    let malformed = [
        json!(null),
        json!(1),
        json!(true),
        json!({ "aud": AUDIENCE }),
        json!({ "0": AUDIENCE }),
        json!([AUDIENCE, 1]),
        json!([AUDIENCE, null]),
        json!([[AUDIENCE]]),
        json!([{ "aud": AUDIENCE }]),
    ]
    .map(|aud| {
        (
            format!("aud {aud}"),
            claims().with("aud", aud.to_string()),
            rule::malformed("aud"),
        )
    });
    wrong
        .into_iter()
        .chain(absent)
        .chain(malformed)
        .map(|(name, claims, rule)| {
            Case::refused(
                format!("where an audience is configured: {name}"),
                signed(&claims),
                rule,
            )
            .at(Service::Audience)
        })
        .collect()
}

fn issuers() -> Vec<Case> {
    let wrong = [
        String::new(),
        "https://evil.example".to_owned(),
        format!("{ISSUER}/"),
        format!("{ISSUER}.evil.example"),
        format!("{ISSUER}@evil.example"),
        format!("{ISSUER}:443"),
        format!("{ISSUER} "),
        format!("{ISSUER}\0"),
        ISSUER.to_uppercase(),
        ISSUER.replace("https", "http"),
        ISSUER.replace("https://", ""),
        ISSUER[..ISSUER.len() - 1].to_owned(),
    ]
    .map(|iss| {
        let iss = json!(iss).to_string();
        (
            format!("iss {iss}"),
            claims().with("iss", iss),
            rule::ISSUER.to_owned(),
        )
    });
    let malformed = [
        json!(null),
        json!(1),
        json!(true),
        json!([ISSUER]),
        json!({ "iss": ISSUER }),
    ]
    .map(|iss| {
        (
            format!("iss {iss}"),
            claims().with("iss", iss.to_string()),
            rule::malformed("iss"),
        )
    });
    let absent = [(
        "no iss".to_owned(),
        claims().without("iss"),
        rule::lacks("iss"),
    )];
    wrong
        .into_iter()
        .chain(malformed)
        .chain(absent)
        .map(|(name, claims, rule)| {
            Case::refused(
                format!("where an issuer is configured: {name}"),
                signed(&claims),
                rule,
            )
            .at(Service::Issuer)
        })
        .collect()
}
