//! An issuer whose private keys the tests have, so that they can sign anything, and a trap for requests to other URLs.

use std::sync::{
    Arc, LazyLock, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaEncoding,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem::{
    Response, Server,
    endpoint::make_sync,
    listener::{Acceptor, TcpAcceptor},
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use crate::support::START;

/// The `kid` of [`Keys::current`].
pub(super) const KID: &str = "8f6b1f9c-6f0e-4d43-9f1a-3f1d5a1c0f6e";
/// The `kid` of [`Keys::second`], whose JWK has neither `alg` nor `use`.
pub(super) const SECOND_KID: &str = "second";
/// Two keys have this `kid`: [`Keys::current`] and [`Keys::second`].
pub(super) const TWIN_KID: &str = "twin";
/// Two keys have this `kid`: [`Keys::second`], and [`Keys::stranger`] for encryption.
pub(super) const HALF_KID: &str = "half";

/// An RSA key.
pub(super) struct RsaKey(rsa::KeyPair);

impl RsaKey {
    pub(super) fn generate(size: KeySize) -> Self {
        Self(rsa::KeyPair::generate(size).expect("a key"))
    }

    pub(super) fn sign(&self, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(encoding, &SystemRandom::new(), message, &mut signature)
            .expect("a signature");
        signature
    }

    /// `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
    pub(super) fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().expect("DER");
        der.as_ref().to_vec()
    }

    /// `RSAPublicKey` (RFC 8017 appendix A.1.1).
    pub(super) fn pkcs1(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// The bytes of `n`. In `RSAPublicKey` only the exponent comes after them: 65537, in five bytes of DER.
    pub(super) fn modulus(&self) -> Vec<u8> {
        let der = self.pkcs1();
        let end = der.len() - 5;
        der[end - self.0.public_modulus_len()..end].to_vec()
    }

    /// Its public JWK with only the members that it must have.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        json!({ "kty": "RSA", "kid": kid, "n": encode(self.modulus()), "e": "AQAB" })
    }
}

/// Generated once for all tests. Nobody changes them.
pub(super) struct Keys {
    /// Signs the sessions.
    pub(super) current: RsaKey,
    /// Also in the set, with the length of Hanko's keys.
    pub(super) second: RsaKey,
    /// The attacker's. The set has it in many forms, none of which may verify.
    pub(super) stranger: RsaKey,
    pub(super) p256: EcdsaKeyPair,
    pub(super) p384: EcdsaKeyPair,
    pub(super) ed25519: Ed25519KeyPair,
}

pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    current: RsaKey::generate(KeySize::Rsa2048),
    second: RsaKey::generate(KeySize::Rsa4096),
    stranger: RsaKey::generate(KeySize::Rsa2048),
    p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
    p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"),
    ed25519: Ed25519KeyPair::generate().expect("a key"),
});

/// The text of a JSON object, so that a row can make it invalid: names and values are JSON text.
#[derive(Clone)]
pub(super) struct Members(Vec<(String, String)>);

impl Members {
    pub(super) fn new<const N: usize>(members: [(&str, &str); N]) -> Self {
        Self(
            members
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        )
    }

    /// The same with another value for `name`, at the end if it was not there.
    pub(super) fn with(&self, name: &str, value: impl Into<String>) -> Self {
        let mut members = self.clone();
        match members.0.iter_mut().find(|(member, _)| member == name) {
            Some((_, old)) => *old = value.into(),
            None => members.0.push((name.to_owned(), value.into())),
        }
        members
    }

    /// The same with one more member, even if there is one of that name.
    pub(super) fn and(&self, name: &str, value: &str) -> Self {
        let mut members = self.clone();
        members.0.push((name.to_owned(), value.to_owned()));
        members
    }

    pub(super) fn without(&self, name: &str) -> Self {
        let mut members = self.clone();
        members.0.retain(|(member, _)| member != name);
        members
    }

    pub(super) fn reversed(&self) -> Self {
        Self(self.0.iter().rev().cloned().collect())
    }

    /// The JSON text with `space` wherever white space is allowed.
    pub(super) fn spaced(&self, space: &str) -> String {
        let members: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
            .collect();
        format!("{space}{{{}}}{space}", members.join(","))
    }

    pub(super) fn json(&self) -> String {
        self.spaced("")
    }
}

/// The header of Hanko's tokens.
pub(super) fn header() -> Members {
    header_of(KID)
}

pub(super) fn header_of(kid: &str) -> Members {
    Members::new([("alg", r#""RS256""#), ("typ", r#""JWT""#)]).and("kid", &json!(kid).to_string())
}

/// The claims of a session token that is good at [`START`].
pub(super) fn claims() -> Members {
    let now = now();
    Members::new([
        ("sub", r#""6c6c1d5e-9e1a-4f0e-8d53-0d2f6f8f5a11""#),
        ("session_id", r#""1b2f2c52-54f6-4a0b-9a52-5b8f6f1f7c22""#),
        ("aud", r#"["localhost"]"#),
        (
            "email",
            r#"{"address":"ada@example.com","is_primary":true,"is_verified":true}"#,
        ),
        ("username", r#""ada""#),
        ("plan", r#"{"name":"pro","seats":[1,2]}"#),
    ])
    .with("iat", now.to_string())
    .with("exp", (now + 43_200).to_string())
}

/// The time of the test clock.
pub(super) fn now() -> u64 {
    START.as_secs()
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The two segments that are signed.
pub(super) fn signing_input(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    format!("{}.{}", encode(header), encode(payload))
}

/// Signs the input, whatever it is, with RS256.
pub(super) fn seal(key: &RsaKey, signing_input: &str) -> String {
    let signature = key.sign(&RSA_PKCS1_SHA256, signing_input.as_bytes());
    format!("{signing_input}.{}", encode(signature))
}

/// Signs any bytes with the current key.
pub(super) fn sign(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
    seal(&KEYS.current, &signing_input(header, payload))
}

/// A session token that is good.
pub(super) fn good_token() -> String {
    sign(header().json(), claims().json())
}

/// A key endpoint, and a trap that nobody must connect to.
pub(super) struct Issuer {
    url: String,
    key_set: Arc<Mutex<Value>>,
    requested_paths: Arc<Mutex<Vec<String>>>,
    trap_url: String,
    trap_connections: Arc<AtomicUsize>,
}

impl Issuer {
    pub(super) async fn start() -> Self {
        let key_set = Arc::new(Mutex::new(super::keys::key_set()));
        let requested_paths = Arc::new(Mutex::new(Vec::new()));
        let (served, paths) = (Arc::clone(&key_set), Arc::clone(&requested_paths));
        let endpoint = make_sync(move |request| {
            let target = request.uri().path_and_query().map(ToString::to_string);
            paths.lock().unwrap().push(target.unwrap_or_default());
            Response::builder().body(served.lock().unwrap().to_string())
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let acceptor = TcpAcceptor::from_std(listener).expect("a listener");
        let address = acceptor.local_addr()[0].clone();
        let url = format!("http://{}", address.as_socket_addr().expect("an address"));
        tokio::spawn(Server::new_with_acceptor(acceptor).run(endpoint));

        let trap = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let trap_url = format!("http://{}", trap.local_addr().expect("an address"));
        let trap_connections = Arc::new(AtomicUsize::new(0));
        let connections = Arc::clone(&trap_connections);
        tokio::spawn(async move {
            while trap.accept().await.is_ok() {
                connections.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            url,
            key_set,
            requested_paths,
            trap_url,
            trap_connections,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn trap_url(&self) -> &str {
        &self.trap_url
    }

    pub(super) fn trap_connections(&self) -> usize {
        self.trap_connections.load(Ordering::SeqCst)
    }

    /// Connects to the trap and returns when the connection has been counted.
    pub(super) async fn walk_into_the_trap(&self) {
        let address = self.trap_url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let _end = stream.read_to_end(&mut Vec::new()).await;
    }

    pub(super) fn requested_paths(&self) -> Vec<String> {
        self.requested_paths.lock().unwrap().clone()
    }

    pub(super) fn publish(&self, keys: &[Value]) {
        *self.key_set.lock().unwrap() = json!({ "keys": keys });
    }
}
