//! `bench-verify SECONDS` verifies RSA 4096 signatures of 1,000 bytes with aws-lc for so long, and prints how many per second.

use std::{
    env,
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};

/// About as long as what Hanko signs.
const SIGNED: [u8; 1000] = [b'e'; 1000];

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn main() -> Result<(), Box<dyn Error>> {
    let seconds = env::args().nth(1).ok_or("usage: bench-verify SECONDS")?;
    let least = Duration::from_secs(seconds.parse()?);
    let key = RsaKeyPair::generate(KeySize::Rsa4096)?;
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, &SIGNED, &mut signature)?;
    let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref())?;
    let start = Instant::now();
    let mut verifications = 0;
    let elapsed = loop {
        key.verify_sig(black_box(&SIGNED), black_box(&signature))?;
        verifications += 1;
        let elapsed = start.elapsed();
        if elapsed >= least {
            break elapsed;
        }
    };
    println!("{:.0}", f64::from(verifications) / elapsed.as_secs_f64());
    Ok(())
}
