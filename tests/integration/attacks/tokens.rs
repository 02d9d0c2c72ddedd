//! Attacks on the token as a JWS: algorithm, key, header, encoding, shape, signature and size.

use std::fmt::Write as _;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    rand::SystemRandom,
    signature::{
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaEncoding,
    },
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE},
};
use serde_json::json;

use super::{
    Case,
    issuer::{
        Issuer, KEYS, KID, Members, claims, encode, good_token, header, header_of, seal, sign,
        signing_input,
    },
    keys::HMAC_SECRET,
    rule,
};

pub(super) fn cases(issuer: &Issuer) -> Vec<Case> {
    [
        algorithm_none(),
        algorithms_by_name(),
        public_key_as_secret(),
        other_algorithms(),
        keys_that_come_along(issuer),
        kids(issuer),
        extensions(),
        types(),
        other_serializations(),
        header_members(),
        header_texts(),
        encodings(),
        shapes(),
        signatures(),
        changed_after_signing(),
        sizes(),
    ]
    .concat()
}

fn with_header(header: impl AsRef<[u8]>) -> String {
    sign(header, claims().json())
}

/// A good token in its three segments.
fn segments() -> [String; 3] {
    let token = good_token();
    let segments: Vec<&str> = token.split('.').collect();
    [0, 1, 2].map(|index| segments[index].to_owned())
}

fn with_signature(signature: impl AsRef<[u8]>) -> String {
    let [header, payload, _] = segments();
    format!("{header}.{payload}.{}", encode(signature))
}

/// The signature of [`good_token`]: RS256 is deterministic.
fn good_signature() -> Vec<u8> {
    let [header, payload, _] = segments();
    KEYS.current
        .sign(&RSA_PKCS1_SHA256, format!("{header}.{payload}").as_bytes())
}

/// `alg` "none" in all sixteen casings, without a signature and with a good one.
fn algorithm_none() -> Vec<Case> {
    let mut cases = Vec::new();
    for upper_case in 0..16_u8 {
        let none: String = "none"
            .chars()
            .enumerate()
            .map(|(index, letter)| match upper_case >> index & 1 {
                1 => letter.to_ascii_uppercase(),
                _ => letter,
            })
            .collect();
        let header = header().with("alg", json!(none).to_string()).json();
        cases.push(Case::refused(
            format!("alg {none} without signature"),
            format!("{}.", signing_input(&header, claims().json())),
            rule::COMPACT,
        ));
        cases.push(Case::refused(
            format!("alg {none} with a signature"),
            with_header(header),
            rule::ALGORITHM,
        ));
    }
    cases.push(Case::refused(
        "alg none without the last dot",
        signing_input(header().with("alg", r#""none""#).json(), claims().json()),
        rule::COMPACT,
    ));
    cases.push(Case::refused(
        "alg none and nothing else, with a signature of one byte",
        format!("{}.AA", signing_input(r#"{"alg":"none"}"#, claims().json())),
        rule::ALGORITHM,
    ));
    cases
}

/// Names that are not `RS256`, though the signature is.
fn algorithms_by_name() -> Vec<Case> {
    let named = [
        r#""""#,
        r#""rs256""#,
        r#""Rs256""#,
        r#""RS256 ""#,
        r#"" RS256""#,
        r#""RS256\u0000""#,
        r#""RS256,none""#,
        r#""RS-256""#,
        r#""RS1""#,
        r#""RSA""#,
        r#""RSA-OAEP""#,
        r#""dir""#,
        r#""SHA256withRSA""#,
        r#""http://www.w3.org/2001/04/xmldsig-more#rsa-sha256""#,
        r#""ＲＳ２５６""#,
        "null",
        "256",
        "true",
        r#"["RS256"]"#,
        r#"{"name":"RS256"}"#,
    ]
    .map(|alg| {
        Case::refused(
            format!("alg {alg}"),
            with_header(header().with("alg", alg).json()),
            rule::ALGORITHM,
        )
    });
    let absent = [
        ("no alg", header().without("alg").json()),
        ("an empty header", "{}".to_owned()),
        (
            "alg under a name in upper case",
            header().without("alg").with("ALG", r#""RS256""#).json(),
        ),
        (
            "enc instead of alg",
            header().without("alg").with("enc", r#""RS256""#).json(),
        ),
    ]
    .map(|(name, header)| Case::refused(name, with_header(header), rule::ALGORITHM));
    named.into_iter().chain(absent).collect()
}

/// A verifier that used the token's `alg` would verify an HMAC with a public value as the key.
fn public_key_as_secret() -> Vec<Case> {
    let pem = |label: &str, der: &[u8]| {
        let text = BASE64_STANDARD.encode(der);
        let mut pem = format!("-----BEGIN {label}-----\n");
        for line in text.as_bytes().chunks(64) {
            let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
        }
        let _ = writeln!(pem, "-----END {label}-----");
        pem
    };
    let key = &KEYS.current;
    let spki_pem = pem("PUBLIC KEY", &key.spki());
    let jwk = key.jwk(KID);
    let secrets = [
        ("its SPKI PEM", spki_pem.clone().into_bytes()),
        (
            "its SPKI PEM without the last line end",
            spki_pem.trim_end().as_bytes().to_vec(),
        ),
        (
            "its SPKI PEM with CR LF",
            spki_pem.replace('\n', "\r\n").into_bytes(),
        ),
        (
            "its PKCS #1 PEM",
            pem("RSA PUBLIC KEY", &key.pkcs1()).into_bytes(),
        ),
        ("its SPKI DER", key.spki()),
        ("its PKCS #1 DER", key.pkcs1()),
        ("its n in base64url", encode(key.modulus()).into_bytes()),
        ("its n", key.modulus()),
        ("its JWK", jwk.to_string().into_bytes()),
        (
            "its JWK Set",
            json!({ "keys": [jwk] }).to_string().into_bytes(),
        ),
        ("its kid", KID.as_bytes().to_vec()),
        ("an empty secret", Vec::new()),
        ("the secret of the set's oct key", HMAC_SECRET.to_vec()),
    ];
    let mac = |algorithm, secret: &[u8], signing_input: &str| {
        let key = hmac::Key::new(algorithm, secret);
        let tag = hmac::sign(&key, signing_input.as_bytes());
        format!("{signing_input}.{}", encode(tag))
    };
    let mut cases = Vec::new();
    for (name, secret) in &secrets {
        for (alg, algorithm) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let header = header().with("alg", json!(alg).to_string()).json();
            cases.push(Case::refused(
                format!("{alg} with {name}"),
                mac(algorithm, secret, &signing_input(header, claims().json())),
                rule::ALGORITHM,
            ));
        }
        cases.push(Case::refused(
            format!("RS256 that is an HMAC with {name}"),
            mac(
                hmac::HMAC_SHA256,
                secret,
                &signing_input(header().json(), claims().json()),
            ),
            rule::SIGNATURE,
        ));
    }
    let oct_header = header_of("oct").with("alg", r#""HS256""#).json();
    cases.push(Case::refused(
        "HS256 with the set's oct key under its kid",
        mac(
            hmac::HMAC_SHA256,
            HMAC_SECRET,
            &signing_input(oct_header, claims().json()),
        ),
        rule::ALGORITHM,
    ));
    cases.push(Case::refused(
        "RS256 that is an HMAC with the set's oct key under its kid",
        mac(
            hmac::HMAC_SHA256,
            HMAC_SECRET,
            &signing_input(header_of("oct").json(), claims().json()),
        ),
        rule::UNKNOWN_KEY,
    ));
    cases
}

/// Other signatures by keys of the set, under their own name and under that of RS256.
fn other_algorithms() -> Vec<Case> {
    type Sign = fn(&[u8]) -> Vec<u8>;

    let rsa: [(&str, &'static dyn RsaEncoding); 5] = [
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    let mut cases = Vec::new();
    for (alg, encoding) in rsa {
        let by_current = |header: &Members| {
            let input = signing_input(header.json(), claims().json());
            let signature = KEYS.current.sign(encoding, input.as_bytes());
            format!("{input}.{}", encode(signature))
        };
        cases.push(Case::refused(
            format!("{alg} by the right key"),
            by_current(&header().with("alg", json!(alg).to_string())),
            rule::ALGORITHM,
        ));
        cases.push(Case::refused(
            format!("{alg} by the right key in the name of RS256"),
            by_current(&header()),
            rule::SIGNATURE,
        ));
    }

    let others: [(&str, &str, Sign); 3] = [
        ("ES256", "p256", |message| {
            let signature = KEYS.p256.sign(&SystemRandom::new(), message);
            signature.expect("a signature").as_ref().to_vec()
        }),
        ("ES384", "p384", |message| {
            let signature = KEYS.p384.sign(&SystemRandom::new(), message);
            signature.expect("a signature").as_ref().to_vec()
        }),
        ("EdDSA", "ed25519", |message| {
            KEYS.ed25519.sign(message).as_ref().to_vec()
        }),
    ];
    for (alg, kid, sign) in others {
        let signed = |header: &Members| {
            let input = signing_input(header.json(), claims().json());
            let signature = sign(input.as_bytes());
            format!("{input}.{}", encode(signature))
        };
        let own_header = header_of(kid).with("alg", json!(alg).to_string());
        cases.push(Case::refused(
            format!("{alg} by a key of the set"),
            signed(&own_header),
            rule::ALGORITHM,
        ));
        cases.push(Case::refused(
            format!("{alg} without kid"),
            signed(&own_header.without("kid")),
            rule::ALGORITHM,
        ));
        cases.push(Case::refused(
            format!("{alg} by a key of the set in the name of RS256"),
            signed(&header_of(kid)),
            rule::UNKNOWN_KEY,
        ));
        cases.push(Case::refused(
            format!("{alg} in the name of RS256 without kid"),
            signed(&header().without("kid")),
            rule::SIGNATURE,
        ));
        cases.push(Case::refused(
            format!("{alg} in the name of RS256 and the RSA key"),
            signed(&header()),
            rule::SIGNATURE,
        ));
    }
    cases
}

/// Signed by an attacker whose header contains the key, or its URL.
fn keys_that_come_along(issuer: &Issuer) -> Vec<Case> {
    let trap = issuer.trap_url();
    let own = issuer.url();
    let stranger = KEYS.stranger.jwk(KID);
    let certificate = BASE64_STANDARD.encode(KEYS.stranger.spki());
    let headers = [
        ("jwk", "jwk", stranger.clone()),
        ("jwk in an array", "jwk", json!([stranger])),
        ("keys", "keys", json!([stranger])),
        ("jku", "jku", json!(format!("{trap}/.well-known/jwks.json"))),
        (
            "jku at the issuer",
            "jku",
            json!(format!("{own}/mine.json")),
        ),
        (
            "jku with user info",
            "jku",
            json!(trap.replace("http://", "http://hanko.example@")),
        ),
        ("jku of a file", "jku", json!("file:///dev/zero")),
        ("x5u", "x5u", json!(format!("{trap}/key.pem"))),
        ("x5c", "x5c", json!([certificate])),
        ("x5t", "x5t", json!(encode(digest(&SHA256, b"a")))),
        ("x5t#S256", "x5t#S256", json!(encode(digest(&SHA256, b"a")))),
        ("iss in the header", "iss", json!(trap)),
    ];
    let mut cases = Vec::new();
    for (name, member, value) in headers {
        let signed = |header: &Members| {
            let header = header.with(member, value.to_string());
            seal(
                &KEYS.stranger,
                &signing_input(header.json(), claims().json()),
            )
        };
        cases.push(Case::refused(
            format!("{name} with the kid of a good key"),
            signed(&header()),
            rule::SIGNATURE,
        ));
        cases.push(Case::refused(
            format!("{name} without kid"),
            signed(&header().without("kid")),
            rule::SIGNATURE,
        ));
        cases.push(Case::refused(
            format!("{name} with an unknown kid"),
            signed(&header_of("mine")),
            rule::UNKNOWN_KEY,
        ));
    }
    let input = signing_input(
        header()
            .with("alg", r#""HS256""#)
            .with("jwk", r#"{"kty":"oct","k":"AAAA"}"#)
            .json(),
        claims().json(),
    );
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &[0; 3]),
        input.as_bytes(),
    );
    cases.push(Case::refused(
        "HS256 with a secret in jwk",
        format!("{input}.{}", encode(tag)),
        rule::ALGORITHM,
    ));
    cases
}

/// A `kid` is only compared, never used in another way. The signature is good.
fn kids(issuer: &Issuer) -> Vec<Case> {
    let trap = issuer.trap_url();
    let unknown = [
        ("empty", String::new()),
        ("a space", " ".to_owned()),
        ("with a space after it", format!("{KID} ")),
        ("in upper case", KID.to_uppercase()),
        ("without its last character", KID[..35].to_owned()),
        ("as a prefix", format!("{KID}0")),
        ("twice", format!("{KID},{KID}")),
        ("NUL", "\0".to_owned()),
        ("with NUL after it", format!("{KID}\0")),
        ("a path upwards", "../../../../../../dev/null".to_owned()),
        ("an encoded path", "..%2f..%2fmine.json".to_owned()),
        ("a Windows path", r"..\..\mine.json".to_owned()),
        ("a file URL", "file:///etc/passwd".to_owned()),
        ("the trap's URL", format!("{trap}/mine.json")),
        ("a URL without scheme", trap.replace("http:", "")),
        ("a query", "?keys=mine".to_owned()),
        ("a fragment", "#mine".to_owned()),
        ("SQL", "' UNION SELECT 'AAAA' -- ".to_owned()),
        ("SQL that is true", "' OR '1'='1".to_owned()),
        ("a shell command", "$(curl mine)`id`|id;".to_owned()),
        ("a template", "{{7*7}}${7*7}<%= 7 %>".to_owned()),
        ("a lookup", "${jndi:ldap://localhost/a}".to_owned()),
        ("HTML", "<script>alert(1)</script>".to_owned()),
        (
            "a header",
            "a\r\nX-Injected: 1\r\n\r\nHTTP/1.1 200 OK".to_owned(),
        ),
        (
            "the end of a challenge",
            r#"", error="none", x=""#.to_owned(),
        ),
        ("a prototype", "__proto__".to_owned()),
        ("a wildcard", "*".to_owned()),
        ("a pattern", ".*".to_owned()),
        ("emoji", "🔑".to_owned()),
        ("right to left", "\u{202e}".to_owned()),
        ("10 kB", "k".repeat(10_000)),
    ]
    .map(|(name, kid)| {
        Case::refused(
            format!("kid {name}"),
            with_header(header_of(&kid).json()),
            rule::UNKNOWN_KEY,
        )
    });
    let malformed = ["null", "1", "true", "[]", "{}"]
        .map(str::to_owned)
        .into_iter()
        .chain([json!([KID]).to_string(), json!({ "kid": KID }).to_string()])
        .map(|kid| {
            Case::refused(
                format!("kid the JSON {kid}"),
                with_header(header().with("kid", kid.clone()).json()),
                rule::HEADER,
            )
        });
    unknown.into_iter().chain(malformed).collect()
}

/// Extensions that a verifier must understand, and that are not supported (RFC 7515 section 4.1.11, RFC 7797).
fn extensions() -> Vec<Case> {
    let unencoded = header()
        .with("b64", "false")
        .with("crit", r#"["b64"]"#)
        .json();
    [
        ("crit of exp", header().with("crit", r#"["exp"]"#)),
        ("crit of alg", header().with("crit", r#"["alg"]"#)),
        (
            "crit of an unknown member",
            header()
                .with("crit", r#"["https://hanko.example/v2"]"#)
                .with("https://hanko.example/v2", "true"),
        ),
        (
            "crit of a member that is absent",
            header().with("crit", r#"["x"]"#),
        ),
        ("crit of nothing", header().with("crit", "[]")),
        ("crit null", header().with("crit", "null")),
        ("crit false", header().with("crit", "false")),
        ("crit a string", header().with("crit", r#""exp""#)),
        ("crit an object", header().with("crit", "{}")),
        ("b64 false", header().with("b64", "false")),
        ("b64 true", header().with("b64", "true")),
        ("b64 null", header().with("b64", "null")),
    ]
    .map(|(name, header)| Case::refused(name, with_header(header.json()), rule::EXTENSION))
    .into_iter()
    .chain([
        Case::refused(
            "crit of b64, the payload encoded",
            with_header(&unencoded),
            rule::EXTENSION,
        ),
        Case::refused(
            "crit of b64, the payload as it is",
            seal(
                &KEYS.current,
                &format!(
                    "{}.{}",
                    encode(&unencoded),
                    claims().without("email").json()
                ),
            ),
            rule::EXTENSION,
        ),
    ])
    .collect()
}

fn types() -> Vec<Case> {
    [
        r#""JOSE""#,
        r#""JWE""#,
        r#""JWS""#,
        r#""at+jwt""#,
        r#""application/jwt""#,
        r#""logout+jwt""#,
        r#""secevent+jwt""#,
        r#""dpop+jwt""#,
        r#""JWT ""#,
        r#""""#,
        "null",
        "1",
        "true",
        r#"["JWT"]"#,
        "{}",
    ]
    .map(|typ| {
        Case::refused(
            format!("typ {typ}"),
            with_header(header().with("typ", typ).json()),
            rule::TYPE,
        )
    })
    .to_vec()
}

/// JSON serialization, encryption and nesting.
fn other_serializations() -> Vec<Case> {
    let [header_segment, payload, signature] = segments();
    let flattened = json!({
        "protected": header_segment, "payload": payload, "signature": signature,
    });
    let general = json!({
        "payload": payload,
        "signatures": [{ "protected": header_segment, "signature": signature }],
    });
    let unprotected = json!({
        "payload": payload, "header": { "alg": "RS256", "kid": KID }, "signature": signature,
    });
    let unsigned = format!("{}.", signing_input(r#"{"alg":"none"}"#, claims().json()));
    let jwe_header = header()
        .with("alg", r#""RSA-OAEP-256""#)
        .with("enc", r#""A256GCM""#)
        .with("cty", r#""JWT""#)
        .json();
    let jwe = |key: &[u8]| {
        format!(
            "{}.{}.{}.{}.{}",
            encode(&jwe_header),
            encode(key),
            encode([0; 12]),
            encode(&unsigned),
            encode([0; 16])
        )
    };
    let nested = |payload: &str| sign(header().with("cty", r#""JWT""#).json(), payload);
    vec![
        Case::refused(
            "flattened JSON serialization",
            flattened.to_string(),
            rule::COMPACT,
        ),
        Case::refused(
            "general JSON serialization",
            general.to_string(),
            rule::COMPACT,
        ),
        Case::refused(
            "JSON serialization with an unprotected header",
            unprotected.to_string(),
            rule::COMPACT,
        ),
        Case::refused(
            "JSON serialization in base64url",
            encode(flattened.to_string()),
            rule::COMPACT,
        ),
        Case::refused(
            "a JWE around an unsigned token",
            jwe(&[1; 256]),
            rule::COMPACT,
        ),
        Case::refused("a JWE with an empty encrypted key", jwe(&[]), rule::COMPACT),
        Case::refused(
            "the first three segments of a JWE",
            seal(&KEYS.current, &signing_input(&jwe_header, claims().json())),
            rule::ALGORITHM,
        ),
        Case::refused(
            "a good token nested in a good one",
            nested(&good_token()),
            rule::CLAIMS,
        ),
        Case::refused(
            "a good token nested as a JSON string",
            nested(&json!(good_token()).to_string()),
            rule::CLAIMS,
        ),
        Case::refused("an unsigned token nested", nested(&unsigned), rule::CLAIMS),
        Case::refused(
            "claims encoded twice",
            nested(&encode(claims().json())),
            rule::CLAIMS,
        ),
    ]
}

/// Duplicate members: parsers that use different ones of them read different tokens.
fn header_members() -> Vec<Case> {
    let kid = json!(KID).to_string();
    [
        ("alg twice", header().and("alg", r#""RS256""#)),
        (
            "alg none, then RS256",
            header().with("alg", r#""none""#).and("alg", r#""RS256""#),
        ),
        ("alg RS256, then none", header().and("alg", r#""none""#)),
        (
            "alg once more with an escape",
            header().and(r"\u0061lg", r#""none""#),
        ),
        (
            "alg twice with different escapes",
            header()
                .without("alg")
                .and(r"al\u0067", r#""RS256""#)
                .and(r"\u0061lg", r#""RS256""#),
        ),
        ("kid twice", header().and("kid", &kid)),
        (
            "kid once more, of another key",
            header().and("kid", r#""second""#),
        ),
        (
            "kid once more with an escape",
            header().and(r"\u006Bid", &kid),
        ),
        ("typ twice", header().and("typ", r#""JWT""#)),
        (
            "an unknown member twice",
            header().and("a", "1").and("a", "1"),
        ),
        ("an empty name twice", header().and("", "1").and("", "1")),
        (
            "equal members in jwk",
            header().and("jwk", r#"{"kty":"RSA","kty":"oct"}"#),
        ),
        (
            "equal members deep in an array",
            header().and("a", r#"[[{"b":[{"c":1,"c":1}]}]]"#),
        ),
    ]
    .map(|(name, header)| {
        Case::refused(
            format!("header with {name}"),
            with_header(header.json()),
            rule::HEADER,
        )
    })
    .to_vec()
}

/// Changes to `object` that make it invalid as a JSON object, or nested too deep.
pub(super) fn broken_texts(object: &Members) -> Vec<(&'static str, Vec<u8>)> {
    let json = object.json();
    let with = |value: &str| object.and("a", value).json();
    let raw = |value: &[u8]| {
        let mut text = json.as_bytes()[..json.len() - 1].to_vec();
        text.extend_from_slice(b",\"a\":");
        text.extend_from_slice(value);
        text.push(b'}');
        text
    };
    let utf_16: Vec<u8> = json.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text = |text: String| text.into_bytes();
    vec![
        ("an array", text(format!("[{json}]"))),
        ("a string", text(json!(json).to_string())),
        ("a number", text("1".to_owned())),
        ("null", text("null".to_owned())),
        ("true", text("true".to_owned())),
        ("white space", text(" ".to_owned())),
        ("no JSON", text("alg=RS256".to_owned())),
        (
            "a truncated object",
            text(json[..json.len() - 1].to_owned()),
        ),
        ("a trailing comma", text(json.replace('}', ",}"))),
        ("trailing bytes", text(format!("{json}x"))),
        ("a trailing NUL", text(format!("{json}\0"))),
        ("a leading NUL", text(format!("\0{json}"))),
        ("a second object", text(format!("{json}{json}"))),
        (
            "a second line with an object",
            text(format!("{json}\n{json}")),
        ),
        ("a byte order mark", text(format!("\u{feff}{json}"))),
        ("UTF-16", utf_16),
        (
            "white space that is not JSON's",
            text(format!("\u{a0}{json}")),
        ),
        ("a form feed", text(format!("\x0c{json}"))),
        ("a comment", text(format!("/**/{json}"))),
        ("single quotes", text(json.replace('"', "'"))),
        ("a name without quotes", text(json.replacen('"', "", 2))),
        ("NaN", text(with("NaN"))),
        ("Infinity", text(with("Infinity"))),
        ("a number with a leading zero", text(with("01"))),
        ("a number with a leading plus", text(with("+1"))),
        ("a hexadecimal number", text(with("0x1"))),
        ("a number beyond all bounds", text(with("1e400"))),
        ("an upper-case literal", text(with("True"))),
        ("an unknown escape", text(with(r#""\x41""#))),
        ("a lone high surrogate", text(with(r#""\ud800""#))),
        ("a lone low surrogate", text(with(r#""\udc00""#))),
        ("two high surrogates", text(with(r#""\ud800\ud800""#))),
        ("a line end in a string", text(with("\"\n\""))),
        ("a NUL in a string", text(with("\"\0\""))),
        ("invalid UTF-8", raw(b"\"\xff\"")),
        ("truncated UTF-8", raw(b"\"\xe2\x82\"")),
        ("overlong UTF-8", raw(b"\"\xc0\xaf\"")),
        ("a surrogate in UTF-8", raw(b"\"\xed\xa0\x80\"")),
        (
            "nesting 5,000 deep",
            text(with(&format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)))),
        ),
        (
            "nesting 1,000 deep in objects",
            text(with(&format!(
                "{}1{}",
                r#"{"a":"#.repeat(1_000),
                "}".repeat(1_000)
            ))),
        ),
        ("nesting that does not end", text(with(&"[".repeat(10_000)))),
    ]
}

fn header_texts() -> Vec<Case> {
    broken_texts(&header())
        .into_iter()
        .map(|(name, text)| {
            Case::refused(
                format!("header with {name}"),
                with_header(text),
                rule::HEADER,
            )
        })
        .collect()
}

/// Only canonical base64url without padding is accepted. Changes are made before signing.
fn encodings() -> Vec<Case> {
    // Bytes whose base64 has `-` and `_`, and lengths that leave bits over.
    let odd_claims = claims().with("a", "\"???>>>~~~ÿÿÿ\"");
    let header = header().json();
    let payload = padded_to(odd_claims.json(), 1);
    let header_of_odd_length = padded_to(header.clone(), 1);
    let signature_over = |input: &str| KEYS.current.sign(&RSA_PKCS1_SHA256, input.as_bytes());
    let standard = BASE64_STANDARD_NO_PAD.encode(&payload);
    assert_ne!(
        standard,
        encode(&payload),
        "the alphabets make no difference"
    );
    let input = signing_input(&header, &payload);
    let signature = signature_over(&input);
    let odd = |segment: &str, insert: &str| format!("{}{insert}{}", &segment[..8], &segment[8..]);
    let mut cases: Vec<Case> = [
        (
            "a padded header",
            format!(
                "{}.{}",
                BASE64_URL_SAFE.encode(&header_of_odd_length),
                encode(&payload)
            ),
        ),
        (
            "a padded payload",
            format!("{}.{}", encode(&header), BASE64_URL_SAFE.encode(&payload)),
        ),
        (
            "a payload in the standard alphabet",
            format!("{}.{standard}", encode(&header)),
        ),
        (
            "a header with bits left over",
            format!(
                "{}.{}",
                with_bits_left_over(&header_of_odd_length),
                encode(&payload)
            ),
        ),
        (
            "a payload with bits left over",
            format!("{}.{}", encode(&header), with_bits_left_over(&payload)),
        ),
        (
            "a header with one character more",
            format!(
                "{}A.{}",
                encode(padded_to(header.clone(), 0)),
                encode(&payload)
            ),
        ),
        (
            "a payload with one character more",
            format!(
                "{}.{}A",
                encode(&header),
                encode(padded_to(payload.clone(), 0))
            ),
        ),
        (
            "a space in the header",
            format!("{}.{}", odd(&encode(&header), " "), encode(&payload)),
        ),
        (
            "a space in the payload",
            format!("{}.{}", encode(&header), odd(&encode(&payload), " ")),
        ),
        (
            "a tab in the payload",
            format!("{}.{}", encode(&header), odd(&encode(&payload), "\t")),
        ),
        (
            "padding in the middle",
            format!("{}.{}", encode(&header), odd(&encode(&payload), "=")),
        ),
        (
            "a percent-encoded character",
            format!("{}.{}", encode(&header), odd(&encode(&payload), "%41")),
        ),
        (
            "a letter that is not ASCII",
            format!("{}.{}", encode(&header), odd(&encode(&payload), "é")),
        ),
        (
            "an invisible character",
            format!("{}.{}", encode(&header), odd(&encode(&payload), "\u{200b}")),
        ),
    ]
    .map(|(name, input)| Case::refused(name, seal(&KEYS.current, &input), rule::BASE64URL))
    .to_vec();
    cases.extend(
        [
            ("a padded signature", BASE64_URL_SAFE.encode(&signature)),
            (
                "a signature with too little padding",
                format!("{}=", encode(&signature)),
            ),
            (
                "a signature in the standard alphabet",
                format!("+/{}", &encode(&signature)[2..]),
            ),
            (
                "a signature with bits left over",
                with_bits_left_over(&signature),
            ),
            (
                "a signature in single quotes",
                format!("'{}'", encode(&signature)),
            ),
            (
                "a comma after the signature",
                format!("{},", encode(&signature)),
            ),
            (
                "a semicolon after the signature",
                format!("{};", encode(&signature)),
            ),
            (
                "a fragment after the signature",
                format!("{}#a", encode(&signature)),
            ),
            (
                "white space before the signature",
                format!(" {}", encode(&signature)),
            ),
        ]
        .map(|(name, signature)| {
            Case::refused(name, format!("{input}.{signature}"), rule::BASE64URL)
        }),
    );
    cases
}

/// The JSON text with spaces after it, until its length leaves `remainder` when divided by 3.
fn padded_to(mut json: String, remainder: usize) -> String {
    while json.len() % 3 != remainder {
        json.push(' ');
    }
    json
}

/// base64url that ends in bits which no byte uses, all set. `bytes` must not be divisible into threes.
fn with_bits_left_over(bytes: impl AsRef<[u8]>) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = encode(&bytes);
    let unused_bits = match bytes.as_ref().len() % 3 {
        1 => 0b1111,
        2 => 0b11,
        _ => panic!("no bits are left over"),
    };
    let last = text.pop().expect("a character");
    let value = ALPHABET
        .iter()
        .position(|character| char::from(*character) == last)
        .expect("base64url");
    text.push(char::from(ALPHABET[value | unused_bits]));
    text
}

/// Tokens without exactly three segments, or with empty ones.
fn shapes() -> Vec<Case> {
    let token = good_token();
    let [header, payload, signature] = segments();
    [
        ("nothing", String::new()),
        ("one dot", ".".to_owned()),
        ("two dots", "..".to_owned()),
        ("three dots", "...".to_owned()),
        ("thousands of dots", ".".repeat(16_000)),
        ("thousands of segments", "a.".repeat(8_000)),
        ("one word", "deleted".to_owned()),
        ("the header alone", header.clone()),
        ("no signature", format!("{header}.{payload}")),
        ("an empty signature", format!("{header}.{payload}.")),
        ("an empty payload", format!("{header}..{signature}")),
        ("an empty header", format!(".{payload}.{signature}")),
        ("nothing but a signature", format!("..{signature}")),
        ("nothing but a payload", format!(".{payload}.")),
        ("a fourth segment", format!("{token}.AAAA")),
        ("an empty fourth segment", format!("{token}.")),
        ("an empty first segment", format!(".{token}")),
        (
            "a dot more between segments",
            format!("{header}..{payload}.{signature}"),
        ),
        ("two tokens with a dot", format!("{token}.{token}")),
        ("two tokens with a comma", format!("{token},{token}")),
        ("two tokens with a space", format!("{token} {token}")),
        ("percent-encoded dots", token.replace('.', "%2E")),
        ("full-width dots", token.replace('.', "．")),
        ("the whole token encoded once more", encode(&token)),
        ("a UUID", KID.to_owned()),
        ("null", "null".to_owned()),
        ("undefined", "undefined".to_owned()),
        ("an object of a script", "[object Object]".to_owned()),
    ]
    .map(|(name, token)| Case::refused(format!("token: {name}"), token, rule::COMPACT))
    .into_iter()
    .chain(
        [
            ("in quotes", format!("\"{token}\"")),
            ("in angle brackets", format!("<{token}>")),
            ("with a scheme in it", format!("Bearer {token}")),
        ]
        .map(|(name, token)| Case::refused(format!("token: {name}"), token, rule::BASE64URL)),
    )
    .collect()
}

fn signatures() -> Vec<Case> {
    let good = good_signature();
    let flipped = |index: usize, bit: u8| {
        let mut signature = good.clone();
        signature[index] ^= 1 << bit;
        signature
    };
    let [header_segment, payload, _] = segments();
    let over = |message: &[u8]| KEYS.current.sign(&RSA_PKCS1_SHA256, message);
    let other_token_signature = {
        let input = signing_input(header().json(), claims().with("a", "1").json());
        over(input.as_bytes())
    };
    let input = format!("{header_segment}.{payload}");
    let mut modulus_minus_1 = KEYS.current.modulus();
    modulus_minus_1[255] -= 1;
    let mut rows = vec![
        ("without its last byte".to_owned(), good[..255].to_vec()),
        ("without its first byte".to_owned(), good[1..].to_vec()),
        ("of its first half".to_owned(), good[..128].to_vec()),
        ("of one byte".to_owned(), vec![good[0]]),
        ("with a byte more".to_owned(), [&good[..], &[0]].concat()),
        (
            "with a byte before it".to_owned(),
            [&[0], &good[..]].concat(),
        ),
        ("twice".to_owned(), good.repeat(2)),
        ("backwards".to_owned(), good.iter().rev().copied().collect()),
        ("of 8 KiB".to_owned(), vec![0xff; 8 * 1024]),
        ("of zeros".to_owned(), vec![0; 256]),
        ("of ones".to_owned(), vec![0xff; 256]),
        ("that is 1".to_owned(), [&[0; 255][..], &[1]].concat()),
        ("that is the modulus".to_owned(), KEYS.current.modulus()),
        ("that is the modulus less 1".to_owned(), modulus_minus_1),
        ("of another token".to_owned(), other_token_signature),
        (
            "over the header".to_owned(),
            over(header_segment.as_bytes()),
        ),
        ("over the payload".to_owned(), over(payload.as_bytes())),
        (
            "over the segments without the dot".to_owned(),
            over(format!("{header_segment}{payload}").as_bytes()),
        ),
        (
            "over the claims".to_owned(),
            over(claims().json().as_bytes()),
        ),
        (
            "over the digest".to_owned(),
            over(digest(&SHA256, input.as_bytes()).as_ref()),
        ),
        ("in base64url twice".to_owned(), encode(&good).into_bytes()),
        (
            "in hexadecimal".to_owned(),
            good.iter()
                .flat_map(|byte| format!("{byte:02x}").into_bytes())
                .collect(),
        ),
    ];
    for (index, bit) in [
        (0, 7),
        (0, 0),
        (1, 3),
        (127, 4),
        (128, 0),
        (254, 7),
        (255, 1),
        (255, 0),
    ] {
        rows.push((
            format!("with bit {bit} of byte {index} flipped"),
            flipped(index, bit),
        ));
    }
    rows.into_iter()
        .map(|(name, signature)| {
            Case::refused(
                format!("a signature {name}"),
                with_signature(signature),
                rule::SIGNATURE,
            )
        })
        .collect()
}

fn changed_after_signing() -> Vec<Case> {
    let [header_segment, payload, signature] = segments();
    let payload_of =
        |claims: Members| format!("{header_segment}.{}.{signature}", encode(claims.json()));
    let header_of = |header: Members| format!("{}.{payload}.{signature}", encode(header.json()));
    let sub = r#""00000000-0000-4000-8000-000000000000""#;
    [
        ("another sub", payload_of(claims().with("sub", sub))),
        (
            "a later exp",
            payload_of(claims().with("exp", "253402300799")),
        ),
        ("a claim less", payload_of(claims().without("aud"))),
        (
            "a claim more",
            payload_of(claims().with("role", r#""admin""#)),
        ),
        ("claims in another order", payload_of(claims().reversed())),
        (
            "a space after the claims",
            format!(
                "{header_segment}.{}.{signature}",
                encode(format!("{} ", claims().json()))
            ),
        ),
        (
            "typ in lower case",
            header_of(header().with("typ", r#""jwt""#)),
        ),
        ("a header without kid", header_of(header().without("kid"))),
        (
            "a header with a member more",
            header_of(header().with("a", "1")),
        ),
        ("the segments exchanged, with a good header", {
            let as_payload = encode(header().json());
            format!("{header_segment}.{as_payload}.{signature}")
        }),
    ]
    .map(|(name, token)| {
        Case::refused(
            format!("changed after signing: {name}"),
            token,
            rule::SIGNATURE,
        )
    })
    .to_vec()
}

/// A good token of exactly this many bytes. Base64 text cannot have every length, so the header is padded too.
pub(super) fn of_length(length: usize) -> String {
    for spaces in 0..4 {
        let header = format!("{}{}", header().json(), " ".repeat(spaces));
        let signature_length = 342;
        let payload_length = length - encode(&header).len() - signature_length - 2;
        // A character holds six bits.
        let bytes = payload_length * 6 / 8;
        let json = claims().json();
        let token = sign(header, format!("{json}{}", " ".repeat(bytes - json.len())));
        if token.len() == length {
            return token;
        }
    }
    panic!("no token is {length} bytes long");
}

fn sizes() -> Vec<Case> {
    let limit = 16 * 1024;
    vec![
        Case::refused(
            "a token of 16 KiB and one byte",
            of_length(limit + 1),
            rule::TOO_LARGE,
        ),
        Case::refused("a token of 48 KiB", of_length(48 * 1024), rule::TOO_LARGE),
        Case::refused(
            "16 KiB and one byte of A",
            "A".repeat(limit + 1),
            rule::TOO_LARGE,
        ),
        Case::refused(
            "16 KiB and one byte of dots",
            ".".repeat(limit + 1),
            rule::TOO_LARGE,
        ),
        Case::refused(
            "a header of 13 kB",
            with_header(
                header()
                    .with("a", json!("a".repeat(13_000)).to_string())
                    .json(),
            ),
            rule::TOO_LARGE,
        ),
    ]
}
