//! Changed and random JWK Sets.

use std::{sync::LazyLock, time::Duration};

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::KEYS;
use crate::jose::{
    Claims, ClaimsRules, KeySet, KeySetDocument, Members, NumericDate, RegisteredClaims,
    TokenError, UnverifiedToken,
};

/// 2026-11-23T12:00:00Z
const NOW: Duration = Duration::from_hours(498_732);

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| json!({ "keys": [KEYS.good_jwk()] }).to_string());

static KEY_SET: LazyLock<KeySet> = LazyLock::new(|| {
    KeySetDocument::parse(DOCUMENT.as_bytes())
        .expect("a JWK Set")
        .key_set
});

/// Without `kid`, so that every key of a set is tried.
static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let claims = json!({ "exp": NOW.as_secs() + 60 }).to_string();
    KEYS.sign(br#"{"alg":"RS256"}"#, claims.as_bytes())
});

/// Claims of any kind of token.
struct Any;

impl Claims for Any {
    const NAMES: &[&'static str] = &[];

    fn from_claims(_: &RegisteredClaims, _: Members) -> Result<Self, TokenError> {
        Ok(Self)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_key_set_holds_only_keys_that_may_verify(
        at in any::<Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..8),
        removed in 0_usize..8,
    ) {
        let mut document = DOCUMENT.clone().into_bytes();
        let at = at.index(document.len());
        let end = (at + removed).min(document.len());
        document.splice(at..end, bytes);
        if let Some(parsed) = KeySetDocument::parse(&document) {
            let value: Value = serde_json::from_slice(&document).expect("JSON");
            let listed = value["keys"].as_array().expect("an array").len();
            prop_assert_eq!(parsed.key_set.len() + parsed.skipped.len(), listed);
            // No other key verifies what the good key signed.
            let token = UnverifiedToken::parse(&TOKEN).expect("a token");
            if let Ok(payload) = token.verify_signature(&parsed.key_set) {
                let rules = ClaimsRules::default();
                let verified = payload.validate::<Any>(&rules, NumericDate::from(NOW));
                let verified = verified.expect("valid claims");
                prop_assert!(KEY_SET.contains(verified.signed_by()));
            }
        }
    }

    #[test]
    fn random_bytes_are_parsed_as_a_key_set_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        if let Some(parsed) = KeySetDocument::parse(&bytes) {
            prop_assert!(parsed.key_set.is_empty());
        }
    }
}
