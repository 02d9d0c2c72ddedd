//! Requests that must be accepted.

use serde_json::json;

use super::{
    AUDIENCE, Case, Expected, ISSUER, OTHER_AUDIENCE, Service,
    issuer::{
        HALF_KID, Issuer, KEYS, SECOND_KID, TWIN_KID, claims, good_token, header, header_of, now,
        seal, sign, signing_input,
    },
    tokens::of_length,
};

pub(super) fn cases(issuer: &Issuer) -> Vec<Case> {
    [
        headers(issuer),
        keys(),
        claim_sets(),
        times(),
        configured(),
        credentials(),
    ]
    .concat()
}

fn with_header(header: impl AsRef<[u8]>) -> String {
    sign(header, claims().json())
}

fn with_claims(claims: impl AsRef<[u8]>) -> String {
    sign(header().json(), claims)
}

fn headers(issuer: &Issuer) -> Vec<Case> {
    let trap = issuer.trap_url();
    let stranger = KEYS.stranger.jwk("stranger").to_string();
    let reference = |member: &str, value: &str| with_header(header().with(member, value).json());
    [
        ("the header as Hanko writes it", good_token()),
        (
            "header without typ",
            with_header(header().without("typ").json()),
        ),
        ("typ in lower case", reference("typ", r#""jwt""#)),
        ("typ in mixed case", reference("typ", r#""JwT""#)),
        (
            "header without kid",
            with_header(header().without("kid").json()),
        ),
        (
            "header with alg alone",
            with_header(header().without("kid").without("typ").json()),
        ),
        (
            "header in another order",
            with_header(header().reversed().json()),
        ),
        (
            "header with white space",
            with_header(header().spaced(" \t\r\n")),
        ),
        (
            "header with escaped names and values",
            with_header(
                header()
                    .without("alg")
                    .with(r"\u0061lg", r#""RS25\u0036""#)
                    .json(),
            ),
        ),
        (
            "header with an unknown member",
            reference("https://hanko.example/build", r#"{"a":[1,null]}"#),
        ),
        ("header with cty", reference("cty", r#""JWT""#)),
        (
            "jku is not followed",
            reference("jku", &json!(format!("{trap}/jwks.json")).to_string()),
        ),
        (
            "x5u is not followed",
            reference("x5u", &json!(format!("{trap}/key.pem")).to_string()),
        ),
        (
            "jwk of another key is not used",
            reference("jwk", &stranger),
        ),
        (
            "x5c of nothing is not used",
            reference("x5c", r#"["AAAA"]"#),
        ),
    ]
    .map(|(name, token)| Case::accepted(name, token))
    .to_vec()
}

fn keys() -> Vec<Case> {
    let signed = |key, kid| seal(key, &signing_input(header_of(kid).json(), claims().json()));
    [
        (
            "an RSA 4096 key whose JWK has neither alg nor use",
            signed(&KEYS.second, SECOND_KID),
        ),
        (
            "the second key without kid",
            seal(
                &KEYS.second,
                &signing_input(header().without("kid").json(), claims().json()),
            ),
        ),
        (
            "the first of two keys of one kid",
            signed(&KEYS.current, TWIN_KID),
        ),
        (
            "the second of two keys of one kid",
            signed(&KEYS.second, TWIN_KID),
        ),
        (
            "the usable one of two keys of one kid",
            signed(&KEYS.second, HALF_KID),
        ),
        (
            "a key for signing and verifying",
            signed(&KEYS.second, "key_ops"),
        ),
        (
            "a kid like an ARN",
            signed(
                &KEYS.second,
                "arn:aws:kms:eu-central-1:111122223333:key/1234abcd",
            ),
        ),
    ]
    .map(|(name, token)| Case::accepted(name, token))
    .to_vec()
}

fn claim_sets() -> Vec<Case> {
    let nested = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    [
        ("claims with white space", claims().spaced("\r\n\t ")),
        ("claims in another order", claims().reversed().json()),
        (
            "an escaped claim name",
            claims()
                .without("session_id")
                .with(
                    r"s\u0065ssion_id",
                    r#""1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22""#,
                )
                .json(),
        ),
        ("no iat", claims().without("iat").json()),
        ("no aud", claims().without("aud").json()),
        ("an empty aud", claims().with("aud", "[]").json()),
        (
            "aud a string",
            claims().with("aud", r#""localhost""#).json(),
        ),
        (
            "aud of many",
            claims().with("aud", r#"["a","b",""]"#).json(),
        ),
        (
            "iss that nobody asked for",
            claims().with("iss", r#""https://any""#).json(),
        ),
        ("no email", claims().without("email").json()),
        (
            "an unverified e-mail address",
            claims()
                .with(
                    "email",
                    r#"{"address":"ada@example.com","is_primary":false,"is_verified":false}"#,
                )
                .json(),
        ),
        (
            "an e-mail address with more members",
            claims()
                .with(
                    "email",
                    r#"{"address":"a@b","is_primary":true,"is_verified":true,"since":1}"#,
                )
                .json(),
        ),
        ("no username", claims().without("username").json()),
        (
            "a username of emoji",
            claims().with("username", r#""\ud83d\ude00 😀""#).json(),
        ),
        ("no custom claims", claims().without("plan").json()),
        ("jti", claims().with("jti", r#""1""#).json()),
        (
            "custom claims named like those of a webhook token",
            claims().with("evt", r#""user""#).with("data", "{}").json(),
        ),
        (
            "equal names in different objects",
            claims().with("a", r#"[{"exp":1},{"exp":2}]"#).json(),
        ),
        (
            "a custom claim 100 levels deep",
            claims().with("a", nested).json(),
        ),
        (
            "sub in upper case",
            claims()
                .with("sub", r#""6C6C1D5E-9E1A-4F0E-8D53-0D2F6F8F5A11""#)
                .json(),
        ),
        (
            "sub a UUID of version 7",
            claims()
                .with("sub", r#""019ab0c1-7d2e-7c4f-8a3b-1c2d3e4f5a6b""#)
                .json(),
        ),
    ]
    .map(|(name, claims)| Case::accepted(name, with_claims(claims)))
    .into_iter()
    .chain([Case::accepted("a token of 16 KiB", of_length(16 * 1024))])
    .collect()
}

/// The leeway is 30 seconds.
fn times() -> Vec<Case> {
    let now = now();
    [
        (
            "exp in the last second of the leeway",
            "exp",
            (now - 29).to_string(),
        ),
        (
            "exp in the last fraction of the leeway",
            "exp",
            format!("{}.001", now - 30),
        ),
        ("exp with a fraction", "exp", format!("{}.75", now + 60)),
        ("exp with an exponent", "exp", "1.8e9".to_owned()),
        (
            "exp at the end of the year 9999",
            "exp",
            "253402300799".to_owned(),
        ),
        ("nbf now", "nbf", now.to_string()),
        ("nbf 0", "nbf", "0".to_owned()),
        (
            "nbf in the last second of the leeway",
            "nbf",
            (now + 30).to_string(),
        ),
        (
            "iat in the last second of the leeway",
            "iat",
            (now + 30).to_string(),
        ),
        ("iat with a fraction", "iat", format!("{now}.5")),
        ("iat 0", "iat", "0".to_owned()),
    ]
    .map(|(name, claim, value)| {
        Case::accepted(name, with_claims(claims().with(claim, value).json()))
    })
    .to_vec()
}

fn configured() -> Vec<Case> {
    let aud = |value: String| with_claims(claims().with("aud", value).json());
    [
        (
            "the audience as a string",
            Service::Audience,
            aud(json!(AUDIENCE).to_string()),
        ),
        (
            "the audience in an array",
            Service::Audience,
            aud(json!([AUDIENCE]).to_string()),
        ),
        (
            "the audience among others",
            Service::Audience,
            aud(json!(["a", AUDIENCE, "b"]).to_string()),
        ),
        (
            "the other audience",
            Service::Audience,
            aud(json!([OTHER_AUDIENCE]).to_string()),
        ),
        (
            "the issuer",
            Service::Issuer,
            with_claims(claims().with("iss", json!(ISSUER).to_string()).json()),
        ),
        ("a renamed cookie", Service::RenamedCookie, good_token()),
    ]
    .map(|(name, service, token)| Case::accepted(name, token).at(service))
    .to_vec()
}

fn credentials() -> Vec<Case> {
    let token = &good_token();
    let bad = &with_claims(claims().with("exp", "1").json());
    let bearer = ["bearer", "BEARER", "bEaReR"].map(|scheme| {
        Case::headers(
            format!("the scheme written {scheme}"),
            [("Authorization", format!("{scheme} {token}"))],
            Expected::Accepted,
        )
    });
    let authorization = [
        ("several spaces after Bearer", format!("Bearer    {token}")),
        ("spaces after the token", format!("Bearer {token}   ")),
    ]
    .map(|(name, value)| Case::headers(name, [("Authorization", value)], Expected::Accepted));
    let cookie = [
        ("a quoted cookie", format!("hanko=\"{token}\"")),
        (
            "the cookie between others",
            format!("a=b; hanko={token}; c=d=e"),
        ),
        ("no space between cookies", format!("a=b;hanko={token};c")),
        (
            "white space around the cookie",
            format!("  hanko = {token}  ; "),
        ),
        (
            "cookies whose names differ in case",
            format!("Hanko={bad}; HANKO={bad}; hanko={token}"),
        ),
        (
            "cookies whose names contain it",
            format!("xhanko={bad}; hanko={token}; hanko2={bad}; __Host-hanko={bad}"),
        ),
        (
            "attributes after the cookie",
            format!("hanko={token}; Path=/"),
        ),
        (
            "a cookie that is not text beside it",
            format!("a=\u{fffd}é; hanko={token}"),
        ),
    ]
    .map(|(name, value)| Case::headers(name, [("Cookie", value)], Expected::Accepted));
    let several = [
        (
            "a good Bearer token and a bad cookie",
            vec![
                ("Authorization", format!("Bearer {token}")),
                ("Cookie", format!("hanko={bad}")),
            ],
        ),
        (
            "a good Bearer token and two cookies",
            vec![
                ("Authorization", format!("Bearer {token}")),
                ("Cookie", format!("hanko={bad}; hanko={token}")),
            ],
        ),
        (
            "Basic and a good cookie",
            vec![
                ("Authorization", "Basic YTpi".to_owned()),
                ("Cookie", format!("hanko={token}")),
            ],
        ),
        (
            "an empty Authorization and a good cookie",
            vec![
                ("Authorization", String::new()),
                ("Cookie", format!("hanko={token}")),
            ],
        ),
        (
            "a scheme that begins like Bearer and a good cookie",
            vec![
                ("Authorization", format!("Bearer-2 {bad}")),
                ("Cookie", format!("hanko={token}")),
            ],
        ),
        (
            "cookies over two headers",
            vec![
                ("Cookie", "a=b".to_owned()),
                ("Cookie", format!("c=d; hanko={token}")),
            ],
        ),
        (
            "a cookie from another site, on a safe method",
            vec![
                ("Cookie", format!("hanko={token}")),
                ("Sec-Fetch-Site", "cross-site".to_owned()),
                ("Origin", "https://evil.example".to_owned()),
            ],
        ),
    ]
    .map(|(name, headers)| Case::headers(name, headers, Expected::Accepted));
    let odd_requests = [
        "GET /me HTTP/1.1",
        "GET /protected HTTP/1.0",
        "GET /protected?a=b HTTP/1.1",
    ]
    .map(|line| {
        Case::request(
            line,
            Service::Plain,
            line,
            [("AUTHORIZATION", format!("Bearer {token}"))],
            Expected::Accepted,
        )
    });
    bearer
        .into_iter()
        .chain(authorization)
        .chain(cookie)
        .chain(several)
        .chain(odd_requests)
        .chain(unsafe_methods(token))
        .collect()
}

/// At an embedder's routes that change something.
fn unsafe_methods(token: &str) -> Vec<Case> {
    let cookie = ("Cookie", format!("hanko={token}"));
    let bearer = ("Authorization", format!("Bearer {token}"));
    let from = |name, value: &str| (name, value.to_owned());
    let site = |value| from("Sec-Fetch-Site", value);
    let origin = |value| from("Origin", value);
    let post = |path: &str| format!("POST {path} HTTP/1.1");
    [
        ("a cookie from no browser", vec![cookie.clone()]),
        (
            "a cookie from the same origin",
            vec![
                cookie.clone(),
                site("same-origin"),
                origin("https://api.example"),
            ],
        ),
        (
            "a cookie that the user sent",
            vec![cookie.clone(), site("none")],
        ),
        (
            "a cookie from a trusted origin",
            vec![cookie.clone(), origin("https://app.example")],
        ),
        (
            "a cookie from a trusted origin of the same site",
            vec![
                cookie.clone(),
                site("same-site"),
                origin("https://app.example"),
            ],
        ),
        (
            "a Bearer token from another site",
            vec![
                bearer.clone(),
                site("cross-site"),
                origin("https://evil.example"),
            ],
        ),
        (
            "a Bearer token and a cookie from another site",
            vec![bearer, cookie, origin("null")],
        ),
    ]
    .into_iter()
    .flat_map(|(name, headers)| {
        ["/required", "/optional"].map(|path| {
            Case::request(
                format!("{name} to {path}"),
                Service::Embedded,
                &post(path),
                headers.clone(),
                Expected::Accepted,
            )
        })
    })
    .chain(
        [
            ("no credential at all", vec![]),
            (
                "a scheme that is none of ours",
                vec![("Authorization", "Basic YTpi".to_owned())],
            ),
            ("an empty cookie", vec![("Cookie", "hanko=".to_owned())]),
        ]
        .map(|(name, mut headers)| {
            headers.push(site("cross-site"));
            headers.push(origin("https://evil.example"));
            Case::request(
                format!("{name} to /optional, from another site"),
                Service::Embedded,
                &post("/optional"),
                headers,
                Expected::Accepted,
            )
        }),
    )
    .collect()
}
