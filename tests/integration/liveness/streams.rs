//! `Session::ended`: a stream ends with its session.

use std::{sync::Arc, time::Duration};

use poem_hanko::{
    EndReason, Session, SessionMode, SessionPolicy,
    testing::{Fault, SESSION_LIFESPAN, SignedIn},
};
use tokio::task::JoinHandle;

use super::{SECOND, Scene, TTL};
use crate::support::{ada, within};

async fn open(scene: &Scene, session: &SignedIn) -> (Session, JoinHandle<EndReason>) {
    let session = scene.hanko.authenticate(&session.token).await.unwrap();
    let ended = tokio::spawn(session.ended());
    // The session is watched once the future has been polled.
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    (session, ended)
}

async fn reason(stream: JoinHandle<EndReason>) -> EndReason {
    within(stream).await.unwrap()
}

/// Lets time pass until the stream has ended, and returns why and after how many seconds.
async fn passing(scene: &Scene, stream: JoinHandle<EndReason>) -> (EndReason, u32) {
    let mut seconds = 0;
    while !stream.is_finished() {
        assert!(seconds < 100_000, "it never ends");
        scene.pass(SECOND).await;
        seconds += 1;
        scene.validations().await;
    }
    (stream.await.unwrap(), seconds)
}

#[tokio::test]
async fn a_webhook_ends_the_streams_of_its_session_alone() {
    for mode in [
        SessionMode::Stateless,
        SessionMode::Hybrid,
        SessionMode::Stateful,
    ] {
        let scene = Scene::new(mode).await;
        let [ended, other] = std::array::from_fn(|_| scene.local_hanko.sign_in(&ada()));
        let streams = [open(&scene, &ended).await.1, open(&scene, &ended).await.1];
        let (_, other) = open(&scene, &other).await;
        let data = scene.local_hanko.session_data(ended.session_id).unwrap();
        let body = scene
            .local_hanko
            .webhook_body("session.delete", &data)
            .to_string();
        scene.hanko.receive_webhook(body.as_bytes()).await.unwrap();
        for stream in streams {
            assert_eq!(reason(stream).await, EndReason::Revoked, "{mode:?}");
        }
        assert!(!other.is_finished());
    }
}

#[tokio::test]
async fn the_deletion_of_a_user_ends_all_their_streams() {
    let scene = Scene::new(SessionMode::Stateless).await;
    let person = ada();
    let [first, second] = std::array::from_fn(|_| scene.local_hanko.sign_in(&person));
    let other = scene.local_hanko.sign_in(&ada());
    let (_, first) = open(&scene, &first).await;
    let (_, second) = open(&scene, &second).await;
    let (_, other) = open(&scene, &other).await;
    let data = serde_json::json!({ "id": person.id().as_uuid() });
    let body = scene
        .local_hanko
        .webhook_body("user.delete", &data)
        .to_string();
    scene.hanko.receive_webhook(body.as_bytes()).await.unwrap();
    assert_eq!(reason(first).await, EndReason::Revoked);
    assert_eq!(reason(second).await, EndReason::Revoked);
    assert!(!other.is_finished());
}

#[tokio::test]
async fn without_webhooks_the_end_is_found_within_the_ttl() {
    for mode in [SessionMode::Hybrid, SessionMode::Stateful] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        let (_, stream) = open(&scene, &session).await;
        scene.pass(Duration::from_secs(100)).await;
        assert!(!stream.is_finished());
        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
        let (reason, seconds) = passing(&scene, stream).await;
        assert_eq!(reason, EndReason::FoundEnded);
        assert!(seconds <= 31, "{mode:?}: {seconds} s");
    }
}

#[tokio::test]
async fn an_open_stream_is_validated_once_per_ttl_by_get() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(open(&scene, &session).await.1);
    }
    assert_eq!(scene.validations().await, 1);
    for second in 0..300 {
        scene.pass(SECOND).await;
        let by_get = scene.local_hanko.validate_requests_by_get();
        assert!(by_get <= second / 30 + 1, "{by_get} after {second} s");
        scene.validations().await;
    }
    assert!(scene.local_hanko.validate_requests_by_get() >= 9);
    assert_eq!(
        scene.local_hanko.validate_requests() - scene.local_hanko.validate_requests_by_get(),
        1
    );
    // No stream waits any more.
    for stream in streams {
        stream.abort();
        let _ = stream.await;
    }
    let sent = scene.validations().await;
    scene.pass(Duration::from_mins(2)).await;
    assert_eq!(scene.validations().await, sent);
}

#[tokio::test]
async fn an_open_stream_does_not_keep_an_idle_session() {
    let scene = Scene::with(SessionMode::Hybrid, |builder| {
        builder.idle_timeout(Duration::from_mins(5))
    })
    .await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    let (reason, seconds) = passing(&scene, stream).await;
    assert_eq!(reason, EndReason::FoundEnded);
    assert!((300..=331).contains(&seconds), "{seconds} s");
}

#[tokio::test]
async fn requests_beside_a_stream_renew_the_idle_timeout() {
    let scene = Scene::with(SessionMode::Hybrid, |builder| {
        builder.idle_timeout(Duration::from_secs(70))
    })
    .await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    for second in 0..300 {
        if second % 20 == 0 {
            assert_eq!(scene.status(&session).await, 200, "after {second} s");
        }
        scene.pass(SECOND).await;
        scene.validations().await;
    }
    assert!(!stream.is_finished());
}

#[tokio::test]
async fn a_token_that_expires_ends_its_streams() {
    for mode in [SessionMode::Stateless, SessionMode::Hybrid] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        let (_, stream) = open(&scene, &session).await;
        if mode == SessionMode::Stateless {
            scene
                .clock
                .advance(SESSION_LIFESPAN + Duration::from_secs(29));
            scene.pass(Duration::from_millis(900)).await;
            assert!(!stream.is_finished());
            scene.pass(SECOND).await;
            assert_eq!(reason(stream).await, EndReason::Expired);
        } else {
            scene
                .clock
                .advance(SESSION_LIFESPAN + Duration::from_secs(31));
            assert_eq!(reason(stream).await, EndReason::Expired);
        }
    }
}

#[tokio::test]
async fn a_withdrawn_key_ends_the_streams_of_its_tokens() {
    let scene = Scene::new(SessionMode::Stateless).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    scene.local_hanko.rotate_key().await.unwrap();
    scene.local_hanko.retire_old_keys();
    // The unknown `kid` causes a fetch of the keys.
    let of_new_key = scene.local_hanko.sign_in(&ada());
    let (_, other) = open(&scene, &of_new_key).await;
    assert_eq!(reason(stream).await, EndReason::KeyWithdrawn);
    assert!(!other.is_finished());
}

#[tokio::test]
async fn a_stream_ends_when_hanko_is_silent_for_max_stale() {
    for fault in [Fault::InternalError, Fault::DatabaseDown] {
        let scene = Scene::new(SessionMode::Hybrid).await;
        let session = scene.local_hanko.sign_in(&ada());
        let (_, stream) = open(&scene, &session).await;
        scene.local_hanko.set_fault(fault);
        let (reason, seconds) = passing(&scene, stream).await;
        assert_eq!(reason, EndReason::Unverifiable);
        assert!((599..=601).contains(&seconds), "{seconds} s");
    }
}

#[tokio::test]
async fn a_stream_survives_an_outage_of_hanko() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    scene.local_hanko.set_fault(Fault::DatabaseDown);
    scene.pass(Duration::from_mins(9)).await;
    scene.local_hanko.set_fault(Fault::None);
    scene.pass(Duration::from_mins(9)).await;
    assert!(!stream.is_finished());
}

#[tokio::test]
async fn an_ended_session_ends_a_stream_at_once() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (authenticated, stream) = open(&scene, &session).await;
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    assert!(scene.hanko.authenticate_live(&session.token).await.is_err());
    assert_eq!(reason(stream).await, EndReason::FoundEnded);
    // This includes a stream that starts after the end is known.
    assert_eq!(within(authenticated.ended()).await, EndReason::FoundEnded);
}

#[tokio::test]
async fn without_a_ttl_a_stream_is_validated_once_a_second() {
    let policy = SessionPolicy {
        mode: SessionMode::Stateful,
        cache_ttl: Duration::ZERO,
        ..SessionPolicy::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    for _ in 0..30 {
        scene.pass(SECOND).await;
        scene.validations().await;
    }
    let by_get = scene.local_hanko.validate_requests_by_get();
    assert!((15..=31).contains(&by_get), "{by_get}");
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    let (reason, seconds) = passing(&scene, stream).await;
    assert_eq!(reason, EndReason::FoundEnded);
    assert!(seconds <= 2, "{seconds}");
}

#[tokio::test]
async fn streams_end_when_their_watcher_is_dropped() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    let Scene { hanko, .. } = scene;
    drop(hanko);
    assert_eq!(reason(stream).await, EndReason::Unverifiable);
}

#[tokio::test]
async fn every_stream_sees_the_first_reason() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let session = Arc::new(scene.hanko.authenticate(&session.token).await.unwrap());
    let streams: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(Session::clone(&session).ended()))
        .collect();
    tokio::task::yield_now().await;
    scene.clock.advance(TTL);
    let data = scene
        .local_hanko
        .session_data(session.id().as_uuid())
        .unwrap();
    let body = scene
        .local_hanko
        .webhook_body("session.delete", &data)
        .to_string();
    scene.hanko.receive_webhook(body.as_bytes()).await.unwrap();
    for stream in streams {
        assert_eq!(reason(stream).await, EndReason::Revoked);
    }
}

#[tokio::test]
async fn a_stream_continues_the_age_of_the_answer() {
    for mode in [SessionMode::Stateful, SessionMode::Hybrid] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        assert_eq!(scene.status(&session).await, 200);
        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
        scene.pass(Duration::from_secs(26)).await;
        let (_, stream) = open(&scene, &session).await;
        let (reason, seconds) = passing(&scene, stream).await;
        assert_eq!(reason, EndReason::FoundEnded);
        assert!(seconds <= 6, "{mode:?}: {seconds} s");
    }
}

#[tokio::test]
async fn a_stateful_stream_is_validated_before_it_gives_up() {
    let policy = SessionPolicy {
        mode: SessionMode::Stateful,
        cache_ttl: Duration::from_mins(10),
        ..SessionPolicy::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let session = scene.local_hanko.sign_in(&ada());
    let (_, stream) = open(&scene, &session).await;
    for _ in 0..25 {
        scene.pass(Duration::from_mins(1)).await;
        scene.validations().await;
    }
    assert!(!stream.is_finished());
    assert_eq!(scene.local_hanko.validate_requests_by_get(), 2);
}
