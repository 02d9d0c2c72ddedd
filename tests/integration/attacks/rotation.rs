//! How a rotation and the passing of time change the outcome for tokens that were good.

use std::time::Duration;

use poem_hanko::{Clock, ManualClock};

use super::{
    Issuer,
    issuer::{KEYS, KID, claims, good_token, header, now, seal, sign, signing_input},
};
use crate::support::{App, START, assert_problem, header as response_header};

async fn start(issuer: &Issuer) -> App {
    let app = App::start(issuer.url(), &ManualClock::new(START), &[]);
    app.hanko.wait_for_key_set_fetches(1).await;
    app
}

#[track_caller]
fn assert_accepted(app: &App, token: &str) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let response = app.get_with_bearer("/protected", token).await;
        assert_eq!(response.status(), 200, "{caller}");
    }
}

#[track_caller]
fn assert_refused(app: &App, token: &str, rule: &str) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let response = app.get_with_bearer("/protected", token).await;
        assert_eq!(
            response_header(&response, "www-authenticate").as_deref(),
            Some(&*format!(
                r#"Bearer error="invalid_token", error_description="{rule}""#
            )),
            "{caller}"
        );
        assert_problem(response, 401, "invalid-token").await;
    }
}

#[tokio::test]
async fn new_key_material_under_an_old_kid_replaces_the_old() {
    let issuer = Issuer::start().await;
    let app = start(&issuer).await;
    let old = good_token();
    let new = seal(
        &KEYS.second,
        &signing_input(header().json(), claims().json()),
    );
    assert_accepted(&app, &old).await;
    assert_refused(&app, &new, super::rule::SIGNATURE).await;

    issuer.publish(&[KEYS.second.jwk(KID)]);
    app.clock.advance(Duration::from_mins(9));
    app.hanko.wait_for_key_set_fetches(2).await;
    assert_refused(&app, &old, super::rule::SIGNATURE).await;
    assert_accepted(&app, &new).await;
}

#[tokio::test]
async fn a_key_that_turns_into_one_for_encryption_verifies_no_longer() {
    let issuer = Issuer::start().await;
    let app = start(&issuer).await;
    assert_accepted(&app, &good_token()).await;

    let mut for_encryption = KEYS.current.jwk(KID);
    for_encryption["use"] = "enc".into();
    issuer.publish(&[for_encryption, KEYS.second.jwk("second")]);
    app.clock.advance(Duration::from_mins(9));
    app.hanko.wait_for_key_set_fetches(2).await;
    assert_refused(&app, &good_token(), super::rule::UNKNOWN_KEY).await;
}

#[tokio::test]
async fn token_without_kid_is_rejected_once_its_key_leaves() {
    let issuer = Issuer::start().await;
    let app = start(&issuer).await;
    let token = sign(header().without("kid").json(), claims().json());
    assert_accepted(&app, &token).await;

    issuer.publish(&[KEYS.second.jwk("second")]);
    app.clock.advance(Duration::from_mins(9));
    app.hanko.wait_for_key_set_fetches(2).await;
    assert_refused(&app, &token, super::rule::SIGNATURE).await;
}

#[tokio::test]
async fn a_token_that_was_accepted_expires_to_the_second() {
    let issuer = Issuer::start().await;
    let app = start(&issuer).await;
    let lifetime = 60;
    let leeway = 30;
    let token = sign(
        header().json(),
        claims().with("exp", (now() + lifetime).to_string()).json(),
    );
    assert_accepted(&app, &token).await;
    app.clock
        .advance(Duration::from_secs(lifetime + leeway - 1));
    assert_accepted(&app, &token).await;
    app.clock.advance(Duration::from_secs(1));
    assert_refused(&app, &token, super::rule::EXPIRED).await;
}

#[tokio::test]
async fn a_token_that_was_refused_becomes_valid_to_the_second() {
    let issuer = Issuer::start().await;
    let app = start(&issuer).await;
    let leeway = 30;
    for (claim, rule) in [
        ("nbf", super::rule::NOT_YET_VALID),
        ("iat", super::rule::ISSUED_IN_THE_FUTURE),
    ] {
        let begins_at = app.clock.unix_time().as_secs() + leeway + 10;
        let token = sign(
            header().json(),
            claims().with(claim, begins_at.to_string()).json(),
        );
        app.clock.advance(Duration::from_secs(9));
        assert_refused(&app, &token, rule).await;
        app.clock.advance(Duration::from_secs(1));
        assert_accepted(&app, &token).await;
    }
}
