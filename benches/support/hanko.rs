//! A local Hanko for the benchmarks. It signs with RSA 4096, as Hanko does, and runs until it is killed.
//!
//! `bench-hanko FOLDER TOKENS` writes that many session tokens, one a line, to `FOLDER/tokens`, the body of a webhook to
//! `FOLDER/webhook`, and then its URL to `FOLDER/hanko-url`.

use std::{env, error::Error, fs, path::PathBuf, sync::Arc, thread};

use poem_hanko::testing::{LocalHanko, Person};
use serde_json::Value;

/// The `iss` of the tokens, which some peers require.
const ISSUER: &str = "https://hanko.example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(folder), Some(tokens), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: bench-hanko FOLDER TOKENS".into());
    };
    let folder = PathBuf::from(folder);
    let hanko = Arc::new(
        LocalHanko::builder()
            .rsa_4096()
            .issuer(ISSUER)
            .start()
            .await?,
    );
    fs::write(folder.join("tokens"), sign(&hanko, tokens.parse()?)?)?;
    let webhook = hanko.webhook_body("user.update", &Value::Null);
    fs::write(folder.join("webhook"), webhook.to_string())?;
    // Last, and by a rename: if this file exists, all are complete.
    let url = folder.join("hanko-url");
    fs::write(url.with_extension("new"), hanko.url())?;
    fs::rename(url.with_extension("new"), url)?;
    std::future::pending().await
}

/// Signs this many tokens, each for another user, on all cores.
fn sign(hanko: &Arc<LocalHanko>, tokens: usize) -> Result<String, &'static str> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let signers: Vec<_> = (0..threads)
        .map(|thread| {
            let hanko = Arc::clone(hanko);
            thread::spawn(move || {
                (thread..tokens)
                    .step_by(threads)
                    .map(|number| {
                        let person = Person::with_email(format!("person-{number}@example.com"));
                        hanko.sign_in(&person).token + "\n"
                    })
                    .collect::<String>()
            })
        })
        .collect();
    let mut lines = String::new();
    for signer in signers {
        lines += &signer.join().map_err(|_| "a signer panicked")?;
    }
    Ok(lines)
}
