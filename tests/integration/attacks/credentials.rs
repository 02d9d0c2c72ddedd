//! Requests whose credentials are missing, too many, in the wrong place or wrongly encoded.

use super::{
    Case, Expected, Service,
    issuer::{claims, good_token, header, sign},
    rule,
};

const MISSING: Expected = Expected::MissingCredentials;
const AMBIGUOUS: Expected = Expected::AmbiguousCredentials;

pub(super) fn cases() -> Vec<Case> {
    let token = &good_token();
    [
        none(token),
        schemes(token),
        cookies(token),
        together(token),
        several(token),
        non_text_bytes(token),
        heads(token),
    ]
    .concat()
}

fn invalid(rule: &str) -> Expected {
    Expected::InvalidToken(rule.to_owned())
}

/// A token in any other place is not a credential.
fn none(token: &str) -> Vec<Case> {
    let elsewhere = [
        "Proxy-Authorization",
        "X-Authorization",
        "X-Forwarded-Authorization",
        "X-Original-Authorization",
        "Authentication",
        "Authorization2",
        "X-Auth-Token",
        "X-Session-Token",
        "Hanko",
    ]
    .map(|name| {
        Case::headers(
            format!("a token in {name}"),
            [(name, format!("Bearer {token}"))],
            MISSING,
        )
    });
    let cookie_elsewhere = ["Set-Cookie", "Cookie2", "X-Cookie"].map(|name| {
        Case::headers(
            format!("a cookie in {name}"),
            [(name, format!("hanko={token}"))],
            MISSING,
        )
    });
    let in_the_target = ["access_token", "token", "hanko", "Authorization"].map(|name| {
        Case::request(
            format!("a token in the query as {name}"),
            Service::Plain,
            &format!("GET /protected?{name}={token} HTTP/1.1"),
            [("Accept", "*/*")],
            MISSING,
        )
    });
    let identity = [
        "X-Hanko-User-Id",
        "X-User-Id",
        "X-Forwarded-User",
        "Remote-User",
    ]
    .map(|name| {
        Case::headers(
            format!("an identity in {name}"),
            [(name, "6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11")],
            MISSING,
        )
    });
    let user_info = Case::request(
        "a token as user info of the target",
        Service::Plain,
        &format!("GET http://hanko:{token}@api.example/protected HTTP/1.1"),
        [("Accept", "*/*")],
        MISSING,
    );
    elsewhere
        .into_iter()
        .chain(cookie_elsewhere)
        .chain(in_the_target)
        .chain(identity)
        .chain([
            user_info,
            Case::headers("nothing", [("Accept", "*/*")], MISSING),
            Case::request(
                "nothing, for the session itself",
                Service::Plain,
                "GET /me HTTP/1.1",
                [("Accept", "*/*")],
                MISSING,
            ),
            Case::request(
                "a body with a token",
                Service::Plain,
                "GET /protected HTTP/1.1",
                [
                    (
                        "Content-Type",
                        "application/x-www-form-urlencoded".to_owned(),
                    ),
                    ("Content-Length", (token.len() + 13).to_string()),
                    ("Accept", "*/*".to_owned()),
                ],
                MISSING,
            )
            .followed_by(&format!("access_token={token}")),
            Case::request(
                "a trailer with a token",
                Service::Plain,
                "GET /protected HTTP/1.1",
                [
                    ("Transfer-Encoding", "chunked"),
                    ("Trailer", "Authorization"),
                ],
                MISSING,
            )
            .followed_by(&format!("0\r\nAuthorization: Bearer {token}\r\n\r\n")),
        ])
        .collect()
}

/// Other contents of an `Authorization` header.
fn schemes(token: &str) -> Vec<Case> {
    let other = [
        "Basic",
        "Digest",
        "DPoP",
        "MAC",
        "Negotiate",
        "Token",
        "JWT",
        "Bearer2",
        "Bear",
        "earer",
        "Hanko",
        "X-Bearer",
    ]
    .map(|scheme| {
        (
            format!("the scheme {scheme}"),
            format!("{scheme} {token}"),
            MISSING,
        )
    });
    let rows = [
        ("an empty header", String::new(), MISSING),
        ("a token without scheme", token.to_owned(), MISSING),
        ("a token after a space", format!(" {token}"), MISSING),
        ("no space after Bearer", format!("Bearer{token}"), MISSING),
        ("a quoted scheme", format!("\"Bearer\" {token}"), MISSING),
        (
            "Bearer with a line before it",
            format!("_Bearer {token}"),
            MISSING,
        ),
        (
            "a percent-encoded space",
            format!("Bearer%20{token}"),
            MISSING,
        ),
        ("Bearer after a comma", format!(", Bearer {token}"), MISSING),
        (
            "Bearer after Basic",
            format!("Basic YTpi, Bearer {token}"),
            MISSING,
        ),
        (
            "Bearer in homoglyphs",
            format!("B\u{435}arer {token}"),
            MISSING,
        ),
        (
            "Bearer in full width",
            format!("\u{ff22}earer {token}"),
            MISSING,
        ),
        (
            "Bearer and nothing",
            "Bearer".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "bearer and nothing",
            "bearer".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "Bearer and spaces",
            "Bearer     ".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "Bearer and a tab",
            format!("Bearer\t{token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer, a space and a tab",
            format!("Bearer \t{token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer and a no-break space",
            format!("Bearer\u{a0}{token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer and an equals sign",
            format!("Bearer={token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer and a colon",
            format!("Bearer: {token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer and a comma",
            format!("Bearer, {token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer with a parameter",
            format!("Bearer token=\"{token}\""),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer with a realm",
            format!("Bearer realm=\"a\", {token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer with a parameter after the token",
            format!("Bearer {token}, realm=\"a\""),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer twice",
            format!("Bearer Bearer {token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "Bearer and Basic in one line",
            format!("Bearer {token}, Basic YTpi"),
            invalid(rule::BASE64URL),
        ),
        (
            "two Bearer tokens in one line",
            format!("Bearer {token}, Bearer {token}"),
            invalid(rule::COMPACT),
        ),
        (
            "a challenge instead of a token",
            "Bearer error=\"none\"".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "a challenge with a second challenge",
            "Bearer a\", Basic realm=\"mine".to_owned(),
            invalid(rule::COMPACT),
        ),
    ]
    .map(|(name, value, expected)| (name.to_owned(), value, expected));
    other
        .into_iter()
        .chain(rows)
        .map(|(name, value, expected)| {
            Case::headers(
                format!("Authorization: {name}"),
                [("Authorization", value)],
                expected,
            )
        })
        .collect()
}

fn cookies(token: &str) -> Vec<Case> {
    let expired = sign(header().json(), claims().with("exp", "1").json());
    [
        ("an empty one", "hanko=".to_owned(), MISSING),
        (
            "an empty one among others",
            "a=b; hanko=; c=d".to_owned(),
            MISSING,
        ),
        ("a name alone", "hanko".to_owned(), MISSING),
        ("a value alone", token.to_owned(), MISSING),
        ("no name", format!("={token}"), MISSING),
        ("nothing", String::new(), MISSING),
        ("the name in upper case", format!("HANKO={token}"), MISSING),
        (
            "the name with a prefix",
            format!("__Host-hanko={token}"),
            MISSING,
        ),
        ("a name that ends in it", format!("xhanko={token}"), MISSING),
        (
            "a name that begins with it",
            format!("hanko2={token}"),
            MISSING,
        ),
        ("the name in quotes", format!("\"hanko\"={token}"), MISSING),
        (
            "the name percent-encoded",
            format!("%68anko={token}"),
            MISSING,
        ),
        ("inside another value", format!("a=hanko={token}"), MISSING),
        ("after a comma", format!("a=b, hanko={token}"), MISSING),
        (
            "a quoted nothing",
            "hanko=\"\"".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "a lone quote",
            "hanko=\"".to_owned(),
            invalid(rule::COMPACT),
        ),
        (
            "one quote before",
            format!("hanko=\"{token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "one quote after",
            format!("hanko={token}\""),
            invalid(rule::BASE64URL),
        ),
        (
            "two pairs of quotes",
            format!("hanko=\"\"{token}\"\""),
            invalid(rule::BASE64URL),
        ),
        (
            "single quotes",
            format!("hanko='{token}'"),
            invalid(rule::BASE64URL),
        ),
        (
            "a scheme in it",
            format!("hanko=Bearer {token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "an equals sign before",
            format!("hanko=={token}"),
            invalid(rule::BASE64URL),
        ),
        (
            "percent-encoded",
            format!("hanko={}", token.replace('.', "%2E")),
            invalid(rule::COMPACT),
        ),
        (
            "a semicolon inside",
            format!("hanko={}", token.replacen('.', ";.", 1)),
            invalid(rule::COMPACT),
        ),
        (
            "a space inside",
            format!("hanko={}", token.replacen('.', " .", 1)),
            invalid(rule::BASE64URL),
        ),
        (
            "an expired token",
            format!("hanko={expired}"),
            invalid(rule::EXPIRED),
        ),
        (
            "an expired token in quotes",
            format!("hanko=\"{expired}\""),
            invalid(rule::EXPIRED),
        ),
        (
            "one in UTF-8",
            "hanko=ä.ö.ü".to_owned(),
            invalid(rule::BASE64URL),
        ),
    ]
    .map(|(name, value, expected)| {
        Case::headers(format!("Cookie: {name}"), [("Cookie", value)], expected)
    })
    .into_iter()
    .chain([
        Case::request(
            "the default cookie where it was renamed",
            Service::RenamedCookie,
            "GET /protected HTTP/1.1",
            [("Cookie", format!("hanko={token}"))],
            MISSING,
        ),
        Case::request(
            "the renamed cookie twice",
            Service::RenamedCookie,
            "GET /protected HTTP/1.1",
            [(
                "Cookie",
                format!("__Host-session={token}; __Host-session=a"),
            )],
            AMBIGUOUS,
        ),
    ])
    .collect()
}

/// A good cookie is not used instead of a bad Bearer token.
fn together(token: &str) -> Vec<Case> {
    let expired = sign(header().json(), claims().with("exp", "1").json());
    [
        ("nothing", "Bearer".to_owned(), rule::COMPACT),
        ("a word", "Bearer undefined".to_owned(), rule::COMPACT),
        (
            "an expired token",
            format!("Bearer {expired}"),
            rule::EXPIRED,
        ),
        (
            "a longer token",
            format!("bearer {token}A"),
            rule::SIGNATURE,
        ),
        ("a tab", format!("Bearer\t{token}"), rule::BASE64URL),
        (
            "two tokens",
            format!("Bearer {token} {token}"),
            rule::COMPACT,
        ),
    ]
    .map(|(name, value, rule)| {
        Case::headers(
            format!("a good cookie beside Bearer with {name}"),
            [
                ("Cookie", format!("hanko={token}")),
                ("Authorization", value),
            ],
            invalid(rule),
        )
    })
    .to_vec()
}

/// Several credentials are ambiguous.
fn several(token: &str) -> Vec<Case> {
    let bearer = || ("Authorization", format!("Bearer {token}"));
    let authorization = |value: &str| ("Authorization", value.to_owned());
    let cookie = |value: String| ("Cookie", value);
    let good = format!("hanko={token}");
    [
        ("the same Bearer token twice", vec![bearer(), bearer()]),
        (
            "a good and a bad Bearer token",
            vec![bearer(), authorization("Bearer a")],
        ),
        (
            "a bad and a good Bearer token",
            vec![authorization("Bearer a"), bearer()],
        ),
        (
            "Basic and Bearer",
            vec![authorization("Basic YTpi"), bearer()],
        ),
        (
            "Bearer and Basic",
            vec![bearer(), authorization("Basic YTpi")],
        ),
        (
            "an empty Authorization and Bearer",
            vec![authorization(""), bearer()],
        ),
        (
            "Bearer and an empty Authorization",
            vec![bearer(), authorization("")],
        ),
        (
            "two Authorization headers in different case",
            vec![bearer(), ("AUTHORIZATION", format!("Bearer {token}"))],
        ),
        (
            "two Authorization headers apart",
            vec![bearer(), ("Accept", "*/*".to_owned()), bearer()],
        ),
        (
            "two empty Authorization headers",
            vec![authorization(""), authorization("")],
        ),
        (
            "two Basic headers and a good cookie",
            vec![
                authorization("Basic YTpi"),
                authorization("Basic YTpi"),
                cookie(good.clone()),
            ],
        ),
        (
            "the same cookie twice",
            vec![cookie(format!("{good}; {good}"))],
        ),
        (
            "a good and a bad cookie",
            vec![cookie(format!("{good}; hanko=a"))],
        ),
        (
            "a bad and a good cookie",
            vec![cookie(format!("hanko=a; {good}"))],
        ),
        (
            "an empty and a good cookie",
            vec![cookie(format!("hanko=; {good}"))],
        ),
        (
            "a good and an empty cookie",
            vec![cookie(format!("{good}; hanko="))],
        ),
        (
            "two empty cookies",
            vec![cookie("hanko=; hanko=".to_owned())],
        ),
        (
            "a cookie and one with a space",
            vec![cookie(format!("{good}; hanko =a"))],
        ),
        (
            "a bare and a quoted cookie",
            vec![cookie(format!("{good}; hanko=\"{token}\""))],
        ),
        (
            "cookies in two headers",
            vec![cookie(good.clone()), cookie(good.clone())],
        ),
        (
            "cookies in two headers, among others",
            vec![
                cookie(format!("a=b; {good}")),
                cookie("c=d; hanko=a; e=f".to_owned()),
            ],
        ),
        (
            "a hundred cookies",
            vec![cookie(format!("{good}; {}", "hanko=a; ".repeat(99)))],
        ),
    ]
    .map(|(name, headers)| Case::headers(format!("several: {name}"), headers, AMBIGUOUS))
    .to_vec()
}

/// Bytes that are not text.
fn non_text_bytes(token: &str) -> Vec<Case> {
    let bytes = |before: &str, middle: &[u8], after: &str| {
        [before.as_bytes(), middle, after.as_bytes()].concat()
    };
    let authorization = [
        (
            "ISO 8859-1 after the token",
            bytes(&format!("Bearer {token}"), b"\xe4", ""),
            rule::COMPACT,
        ),
        (
            "ISO 8859-1 before the token",
            bytes("Bearer ", b"\xa0", token),
            rule::COMPACT,
        ),
        (
            "a byte of 0xFF",
            bytes("Bearer ", b"\xff", ""),
            rule::COMPACT,
        ),
        (
            "a broken emoji",
            bytes("Bearer ", b"\xf0\x9f\x98", token),
            rule::COMPACT,
        ),
        (
            "a byte order mark",
            bytes("Bearer ", "\u{feff}".as_bytes(), token),
            rule::BASE64URL,
        ),
        (
            "a zero-width space",
            bytes("Bearer ", "\u{200b}".as_bytes(), token),
            rule::BASE64URL,
        ),
        (
            "a next line",
            bytes("Bearer ", "\u{85}".as_bytes(), token),
            rule::BASE64URL,
        ),
    ]
    .map(|(name, value, rule)| {
        Case::headers(
            format!("bytes: {name}"),
            [("Authorization", value)],
            invalid(rule),
        )
    });
    let cookie = [
        (
            "ISO 8859-1 in the cookie",
            bytes("hanko=", b"\xe4", token),
            invalid(rule::COMPACT),
        ),
        (
            "ISO 8859-1 in the cookie's name",
            bytes("", b"\xe4", &format!("hanko={token}")),
            MISSING,
        ),
        (
            "an ideographic space in the cookie's name",
            bytes("", "\u{3000}".as_bytes(), &format!("hanko={token}")),
            MISSING,
        ),
    ]
    .map(|(name, value, expected)| {
        Case::headers(format!("bytes: {name}"), [("Cookie", value)], expected)
    });
    // The HTTP parser rejects these before they reach the API.
    let control = [0x00, 0x01, 0x07, 0x08, 0x0b, 0x0c, 0x1b, 0x1f, 0x7f].map(|byte: u8| {
        Case::headers(
            format!("bytes: 0x{byte:02x} in the token"),
            [(
                "Authorization",
                bytes(&format!("Bearer {token}"), &[byte], "a"),
            )],
            Expected::UnreadableHead(400),
        )
    });
    let control_in_cookie = [0x00, 0x0b, 0x7f].map(|byte: u8| {
        Case::headers(
            format!("bytes: 0x{byte:02x} in the cookie"),
            [("Cookie", bytes("hanko=", &[byte], token))],
            Expected::UnreadableHead(400),
        )
    });
    authorization
        .into_iter()
        .chain(cookie)
        .chain(control)
        .chain(control_in_cookie)
        .collect()
}

/// Heads that are not HTTP, or too large.
fn heads(token: &str) -> Vec<Case> {
    let bearer = format!("Bearer {token}");
    let mut endless = b"GET /protected HTTP/1.1\r\nAuthorization: Bearer ".to_vec();
    endless.resize(64 * 1024, b'a');
    let many = std::iter::repeat_n(("X-Padding", "a".to_owned()), 200);
    vec![
        Case::headers(
            "head: a folded line",
            [("Authorization", format!("Bearer\r\n {token}"))],
            Expected::UnreadableHead(400),
        ),
        Case::headers(
            "head: a space before the colon",
            [("Authorization ", bearer.clone())],
            Expected::UnreadableHead(400),
        ),
        Case::headers(
            "head: a carriage return in the token",
            [("Authorization", format!("Bearer \r{token}"))],
            Expected::UnreadableHead(400),
        ),
        Case::headers(
            "head: a name that is not ASCII",
            [("Authoriz\u{430}tion", bearer.clone())],
            Expected::UnreadableHead(400),
        ),
        Case::headers(
            "head: 200 headers",
            many.chain([("Authorization", bearer)]),
            Expected::UnreadableHead(431),
        ),
        Case {
            sent: super::Sent::Request(endless),
            ..Case::headers(
                "head: a token without end",
                [("Accept", "*/*")],
                Expected::UnreadableHead(431),
            )
        },
    ]
}
