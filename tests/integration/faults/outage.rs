//! Hanko cannot be reached.

use std::time::Duration;

use poem_hanko::FetchError;
use serde_json::Value;

use crate::support::send;

use super::{MAX_AGE, REFRESH_IS_DUE, RETRY_IS_DUE, Scene};

#[tokio::test]
async fn service_recovers_if_hanko_is_down_at_startup() {
    let mut scene = Scene::down().await;
    let token = scene.token();
    scene.is_alive_but_not_ready().await;
    scene.cannot_judge(&token).await;
    assert!(matches!(scene.last_error(), Some(FetchError::Transport(_))));

    scene.publish();
    scene.endpoint.come_up();
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(2).await;
    scene.accepts(&token).await;
    assert_eq!(scene.last_error(), None);
}

#[tokio::test]
async fn requests_without_credentials_are_401_while_there_are_no_keys() {
    let scene = Scene::down().await;
    assert_eq!(scene.status("/protected").await, 401);
    scene.refuses("not.a.token").await;
}

#[tokio::test]
async fn attempts_go_on_through_a_long_outage() {
    let mut scene = Scene::down().await;
    for fetches in 2..=20 {
        scene.app.clock.advance(RETRY_IS_DUE);
        scene.fetches(fetches).await;
    }
    scene.cannot_judge(&scene.token()).await;
    scene.publish();
    scene.endpoint.come_up();
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(21).await;
    scene.accepts(&scene.token()).await;
}

#[tokio::test]
async fn the_pause_between_attempts_grows() {
    let scene = Scene::down().await;
    // 500 ms, 1 s, 2 s and 4 s, each with 5% for jitter either way.
    let mut fetches = 1;
    for pause in [500, 1000, 2000, 4000].map(Duration::from_millis) {
        scene.app.clock.advance(pause.mul_f64(0.94));
        scene.is_alive_but_not_ready().await;
        assert_eq!(scene.app.hanko.key_set_status().fetches, fetches);
        scene.app.clock.advance(pause.mul_f64(0.12));
        fetches += 1;
        scene.fetches(fetches).await;
    }
}

#[tokio::test]
async fn hanko_down_later_refuses_nobody() {
    let mut scene = Scene::healthy().await;
    let token = scene.token();
    scene.endpoint.go_down().await;
    scene.app.clock.advance(REFRESH_IS_DUE);
    scene.fetches(2).await;
    scene.accepts(&token).await;
    assert!(matches!(scene.last_error(), Some(FetchError::Transport(_))));
    assert!(!scene.app.hanko.key_set_status().is_stale);

    scene.app.clock.advance(MAX_AGE);
    scene.fetches(3).await;
    assert!(scene.app.hanko.key_set_status().is_stale);
    let readiness: Value = send(scene.app.get("/readyz")).await.json().await.unwrap();
    assert_eq!(readiness["key_set_is_stale"], true);
    assert_eq!(
        readiness["key_set_error"],
        "The JWK Set could not be fetched."
    );
    scene.accepts(&token).await;
    scene.accepts(&scene.token()).await;

    scene.endpoint.come_up();
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(4).await;
    scene.accepts(&token).await;
    assert!(!scene.app.hanko.key_set_status().is_stale);
    assert_eq!(scene.last_error(), None);
}

#[tokio::test]
async fn stale_keys_serve_until_max_stale_and_not_a_second_longer() {
    let mut scene = Scene::healthy_with(&[("JWKS_MAX_STALE", "2h")]).await;
    let token = scene.token();
    scene.endpoint.go_down().await;
    scene.app.clock.advance(Duration::from_hours(2));
    scene.fetches(2).await;
    scene.accepts(&token).await;

    scene.app.clock.advance(Duration::from_secs(1));
    scene.is_alive_but_not_ready().await;
    scene.cannot_judge(&token).await;
    assert_eq!(scene.app.hanko.key_set_status().usable_keys, 0);

    scene.fetches(3).await;
    scene.endpoint.come_up();
    scene.app.clock.advance(RETRY_IS_DUE);
    scene.fetches(4).await;
    scene.accepts(&token).await;
}
