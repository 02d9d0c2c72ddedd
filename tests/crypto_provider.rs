//! The library leaves the process-wide crypto provider of `jsonwebtoken` to the program.
//!
//! A binary of its own, because a process can install a provider only once.

use jsonwebtoken::crypto::{CryptoProvider, KeyUtils};
use poem_hanko::{
    Hanko, SessionMode,
    testing::{LocalHanko, Person},
};

/// The provider that `jsonwebtoken` uses if a program enables both backends, or one that cannot do RS256.
static UNUSABLE: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| panic!("the process-wide provider signs"),
    verifier_factory: |_, _| panic!("the process-wide provider verifies"),
    key_utils: KeyUtils::new_unimplemented(),
};

#[tokio::test]
async fn no_process_wide_crypto_provider_is_installed_or_used() {
    sign_in_and_authenticate().await;
    // Fails if a provider was installed, or if the default was chosen because somebody used it.
    UNUSABLE.install_default().expect("no provider so far");
    sign_in_and_authenticate().await;
}

async fn sign_in_and_authenticate() {
    let local_hanko = LocalHanko::builder().start().await.unwrap();
    let hanko = Hanko::builder(local_hanko.hanko_url())
        .session_mode(SessionMode::Stateless)
        .build()
        .unwrap();
    let signed_in = local_hanko.sign_in(&Person::with_email("ada@example.com"));
    hanko.authenticate(&signed_in.token).await.unwrap();
    local_hanko.rotate_key().await.unwrap();
    let signed_in = local_hanko.sign_in(&Person::with_email("bob@example.com"));
    hanko.authenticate(&signed_in.token).await.unwrap();
}
