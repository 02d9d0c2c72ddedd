//! Signs session tokens for `benches/many`, with RSA 2048 and of 1,300 bytes, as long as Hanko's are.
//!
//! `bench-sign FOLDER TOKENS` writes that many tokens, one a line, to `FOLDER/tokens`, each of a session of its own, and then
//! the JWK Set to `FOLDER/jwks.json`. The tokens are valid for 30 days. Not by the local Hanko, which parses its key for each
//! signature: that takes three times as long.

use std::{
    env,
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    error::Unspecified,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use uuid::Uuid;

const LENGTH: usize = 1300;
const LIFESPAN: Duration = Duration::from_hours(30 * 24);

/// The parts of all tokens.
struct Tokens {
    key: RsaKeyPair,
    header: String,
    now: u64,
    padding: String,
}

impl Tokens {
    fn sign(&self) -> Result<String, Unspecified> {
        let claims = json!({
            "sub": Uuid::new_v4(),
            "session_id": Uuid::new_v4(),
            "iat": self.now,
            "exp": self.now + LIFESPAN.as_secs(),
            "aud": ["localhost"],
            "email": { "address": "ada@example.com", "is_primary": true, "is_verified": true },
            "padding": self.padding,
        });
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        let mut token = format!("{}.{claims}", self.header);
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(folder), Some(number), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: bench-sign FOLDER TOKENS".into());
    };
    let (folder, number): (PathBuf, usize) = (folder.into(), number.parse()?);
    let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let encode = |component: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(component);
    let key_set = json!({ "keys": [{
        "kty": "RSA",
        "kid": "bench",
        "use": "sig",
        "alg": "RS256",
        "n": encode(key.public_key().modulus().big_endian_without_leading_zero()),
        "e": encode(key.public_key().exponent().big_endian_without_leading_zero()),
    }] });
    let mut tokens = Tokens {
        key,
        header: encode(br#"{"alg":"RS256","kid":"bench","typ":"JWT"}"#),
        now: SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
        padding: String::new(),
    };
    // Three bytes of a claim are four of the token.
    tokens.padding = "x".repeat((LENGTH - tokens.sign()?.len()) * 3 / 4);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut lines = BufWriter::new(File::create(folder.join("tokens"))?);
    let sign = |thread: usize| -> Result<String, Unspecified> {
        let signed = (thread..number).step_by(threads).map(|_| tokens.sign());
        signed.map(|token| Ok(token? + "\n")).collect()
    };
    let sign = &sign;
    thread::scope(|scope| {
        let signers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || sign(thread)))
            .collect();
        for signer in signers {
            let signed = signer.join().map_err(|_| "a signer panicked")??;
            lines.write_all(signed.as_bytes())?;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    lines.flush()?;
    // Last: if this file exists, all tokens are written.
    fs::write(folder.join("jwks.json"), key_set.to_string())?;
    Ok(())
}
