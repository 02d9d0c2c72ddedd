//! Keys are refreshed before they go stale, and no request waits for it.

use std::{sync::Arc, time::Duration};

use poem_hanko::{FetchError, FetchPolicy, HankoUrl, PlainHttp};
use serde_json::Value;

use super::{
    COOLDOWN, MAX_AGE, REFRESH_IS_DUE, RETRY_IS_DUE, Scene, TIMEOUT,
    key_endpoint::{Answer, Gate},
};
use crate::support::{hanko_builder, within};

/// Asserts that a set sent with these headers is fresh for `lifetime`: not fetched again before 0.8 of it less 5%
/// have passed, and by 0.8 of it plus 5%.
#[track_caller]
fn assert_lifetime(hanko: &Scene, headers: &str, lifetime: Duration) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let headers = headers.to_owned();
    async move {
        let scene = hanko.another(|key_set| Answer::key_set_with(key_set, &headers));
        scene.fetches(1).await;
        scene.app.clock.advance(lifetime.mul_f64(0.75));
        scene.accepts(&scene.token()).await;
        assert_eq!(scene.endpoint.requests(), 1, "{caller}: too early");
        scene.app.clock.advance(lifetime.mul_f64(0.1));
        scene.endpoint.wait_for_requests(2).await;
        assert!(!scene.app.hanko.key_set_status().is_stale, "{caller}");
        scene.fetches(2).await;

        scene.endpoint.answer(Answer::Silence);
        scene.app.clock.advance(lifetime);
        assert!(!scene.app.hanko.key_set_status().is_stale, "{caller}");
        scene.app.clock.advance(Duration::from_millis(1));
        assert!(scene.app.hanko.key_set_status().is_stale, "{caller}");
    }
}

#[tokio::test]
async fn max_age_is_the_freshness_lifetime() {
    let hanko = Scene::healthy().await;
    assert_lifetime(
        &hanko,
        "Cache-Control: max-age=120\r\n",
        Duration::from_mins(2),
    )
    .await;
    assert_lifetime(
        &hanko,
        "Cache-Control: public, max-age=300, must-revalidate\r\n",
        Duration::from_mins(5),
    )
    .await;
}

#[tokio::test]
async fn max_age_is_bounded_from_above() {
    let hanko = Scene::healthy().await;
    for max_age in ["601", "31536000", "18446744073709551615"] {
        assert_lifetime(
            &hanko,
            &format!("Cache-Control: max-age={max_age}\r\n"),
            MAX_AGE,
        )
        .await;
    }
}

#[tokio::test]
async fn a_short_max_age_does_not_turn_into_a_flood_of_fetches() {
    let hanko = Scene::healthy().await;
    for max_age in ["0", "1", "29"] {
        assert_lifetime(
            &hanko,
            &format!("Cache-Control: max-age={max_age}\r\n"),
            COOLDOWN,
        )
        .await;
    }
}

#[tokio::test]
async fn a_configured_max_age_below_the_cooldown_holds() {
    let scene = Scene::healthy_with(&[("JWKS_CACHE_MAX_AGE", "10s")]).await;
    // 0.8 of it, and 5% of that for jitter.
    scene.app.clock.advance(Duration::from_millis(8500));
    scene.fetches(2).await;
    assert!(!scene.app.hanko.key_set_status().is_stale);
}

#[tokio::test]
async fn no_configuration_turns_into_a_flood_of_fetches() {
    let variables = [("JWKS_CACHE_MAX_AGE", "1ms"), ("JWKS_COOLDOWN", "1ms")];
    let endpoint = |key_set: &Value| Answer::key_set_with(key_set, "Cache-Control: max-age=0\r\n");
    let scene = Scene::start_with(endpoint, &variables).await;
    scene.fetches(1).await;
    let token = scene.token();
    for fetches in 1..=3 {
        // 500 ms less 5% for jitter.
        for _ in 0..19 {
            scene.app.clock.advance(Duration::from_millis(25));
            scene.accepts(&token).await;
            assert_eq!(scene.endpoint.requests(), fetches);
        }
        scene.app.clock.advance(Duration::from_millis(50));
        scene.fetches(fetches + 1).await;
    }
}

#[tokio::test]
async fn no_set_is_fresh_when_it_is_too_old_to_be_used() {
    let policy = FetchPolicy {
        max_stale: Duration::from_mins(1),
        ..FetchPolicy::default()
    };
    let scene = Scene::healthy().await;
    let tenant = HankoUrl::parse(&scene.endpoint.url(), PlainHttp::LoopbackOnly);
    let hanko = hanko_builder(tenant.expect("a loopback URL"))
        .clock(Arc::new(scene.app.clock.clone()))
        .fetch_policy(policy)
        .build()
        .expect("a client");
    within(hanko.wait_for_key_set_fetches(1)).await;
    // In total longer than keys may be used without a refresh, but they are refreshed in time.
    for fetches in 2..=4 {
        // 0.8 of the minute, and 5% of that for jitter.
        scene.app.clock.advance(Duration::from_secs(51));
        within(hanko.wait_for_key_set_fetches(fetches)).await;
        assert!(!hanko.key_set_status().is_stale);
        assert!(hanko.authenticate(&scene.token()).await.is_ok());
    }
}

#[tokio::test]
async fn without_a_readable_max_age_the_configured_one_holds() {
    let hanko = Scene::healthy().await;
    for headers in [
        "",
        "Cache-Control: no-store\r\n",
        "Cache-Control: max-age=\r\n",
        "Cache-Control: max-age=-1\r\n",
        "Cache-Control: max-age=soon\r\n",
        "Cache-Control: max-age=99999999999999999999999999\r\n",
    ] {
        assert_lifetime(&hanko, headers, MAX_AGE).await;
    }
}

#[tokio::test]
async fn no_request_waits_for_a_refresh() {
    let scene = Scene::healthy().await;
    let token = scene.token();
    let gate = Gate::closed();
    scene
        .endpoint
        .answer(Answer::key_set(&scene.local_hanko.key_set()).behind(&gate));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.endpoint.wait_for_requests(2).await;
    for _ in 0..20 {
        scene.accepts(&token).await;
        scene.accepts(&scene.token()).await;
    }
    let status = scene.app.hanko.key_set_status();
    assert_eq!(status.fetches, 1, "the refresh is still held open");
    assert!(!status.is_stale);
    gate.open();
    scene.fetches(2).await;
    assert_eq!(
        scene.app.hanko.key_set_status().age,
        Some(Duration::ZERO),
        "the refreshed set is the held one"
    );
}

#[tokio::test]
async fn a_key_removed_from_the_set_is_refused_from_that_moment() {
    let scene = Scene::healthy().await;
    let old = scene.token();
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.publish();
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    let new = scene.token();
    scene.accepts(&old).await;
    scene.accepts(&new).await;

    scene.local_hanko.retire_old_keys();
    scene.publish();
    scene.accepts(&old).await;
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(3).await;
    scene.refuses(&old).await;
    scene.accepts(&new).await;
}

#[tokio::test]
async fn a_key_stays_removed_through_an_outage() {
    let mut scene = Scene::healthy().await;
    let old = scene.token();
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.local_hanko.retire_old_keys();
    scene.publish();
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    scene.endpoint.go_down().await;
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(3).await;
    // The last fetch has failed, so its key may be a new one.
    scene.cannot_judge(&old).await;
    scene.accepts(&scene.token()).await;
}

#[tokio::test]
async fn other_key_material_under_the_same_kid_replaces_the_old() {
    let scene = Scene::healthy().await;
    let old = scene.token();
    let kid = scene.local_hanko.kid();
    scene.local_hanko.rotate_key().await.expect("a key");
    scene.local_hanko.retire_old_keys();
    let mut key_set = scene.local_hanko.key_set();
    key_set["keys"][0]["kid"] = kid.into();
    scene.endpoint.answer(Answer::key_set(&key_set));
    scene.accepts(&old).await;
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    scene.refuses(&old).await;
    assert_eq!(scene.endpoint.requests(), 2, "the kid is a known one");
}

#[tokio::test]
async fn an_older_answer_never_overwrites_a_newer_one() {
    let scene = Scene::healthy().await;
    let old = scene.token();
    let gate = Gate::closed();
    let older = scene.local_hanko.key_set();
    scene.endpoint.answer(Answer::key_set(&older).behind(&gate));
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.endpoint.wait_for_requests(2).await;
    scene.app.clock.advance(TIMEOUT);
    scene.fetches(2).await;
    assert_eq!(scene.last_error(), Some(FetchError::Timeout(TIMEOUT)));

    scene.local_hanko.rotate_key().await.expect("a key");
    scene.local_hanko.retire_old_keys();
    scene.publish();
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(3).await;
    gate.open();
    for _ in 0..20 {
        scene.accepts(&scene.token()).await;
        scene.refuses(&old).await;
    }
}
