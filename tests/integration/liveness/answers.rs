//! What Hanko's answers decide, and for how long.

use std::{sync::Arc, time::Duration};

use poem_hanko::{
    AuthenticateError, SessionMode, SessionPolicy, SessionPolicyError, ValidationError,
    testing::{Fault, Person, SESSION_LIFESPAN},
};

use super::{SECOND, Scene, TTL};
use crate::support::{Log, ada, listen, within};

#[tokio::test]
async fn known_sessions_continue_for_max_stale_and_no_longer() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene.local_hanko.set_fault(Fault::InternalError);
    for elapsed in 1..600 {
        scene.clock.advance(SECOND);
        assert_eq!(scene.status(&session).await, 200, "after {elapsed} s");
        scene.validations().await;
    }
    scene.clock.advance(SECOND);
    assert_eq!(scene.status(&session).await, 503);
    // A third of the TTL lies between two attempts, less the jitter.
    let validations = scene.validations().await;
    assert!((50..90).contains(&validations), "{validations}");
    scene.local_hanko.set_fault(Fault::None);
    assert_eq!(scene.status(&session).await, 200);
}

#[tokio::test]
async fn an_idle_session_is_not_accepted_on_an_old_failure() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene.local_hanko.set_fault(Fault::InternalError);
    scene.clock.advance(TTL);
    assert_eq!(scene.status(&session).await, 200);
    scene.settle().await;
    scene.local_hanko.set_fault(Fault::None);
    scene.clock.advance(Duration::from_mins(3));
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    scene.clock.advance(2 * TTL);
    // Twelve minutes have not passed, but Hanko has answered since.
    assert_eq!(scene.status(&session).await, 401);
}

#[tokio::test]
async fn a_session_in_use_that_ends_is_found_within_the_ttl() {
    for admin in [false, true] {
        let scene = Scene::new(SessionMode::Hybrid).await;
        let session = scene.local_hanko.sign_in(&ada());
        for second in 0..95 {
            if second == 40 {
                let id = session.session_id;
                let ended = if admin {
                    scene.local_hanko.revoke_session(id).await
                } else {
                    scene.local_hanko.end_session(id).await
                };
                ended.unwrap();
            }
            let status = scene.status(&session).await;
            scene.validations().await;
            match second {
                0..=39 => assert_eq!(status, 200, "after {second} s"),
                40..=70 => {}
                _ => assert_eq!(status, 401, "after {second} s"),
            }
            scene.clock.advance(SECOND);
        }
    }
}

#[tokio::test]
async fn the_oldest_of_too_many_sessions_is_found() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let person = ada();
    let oldest = scene.local_hanko.sign_in(&person);
    assert_eq!(scene.status(&oldest).await, 200);
    for _ in 0..5 {
        scene.clock.advance(SECOND);
        scene.local_hanko.sign_in(&person);
    }
    scene.clock.advance(TTL);
    assert_eq!(scene.status(&oldest).await, 200);
    scene.settle().await;
    assert_eq!(scene.status(&oldest).await, 401);
}

#[tokio::test]
async fn a_confirmed_end_is_kept_for_the_ttl_and_asked_again() {
    for mode in [SessionMode::Hybrid, SessionMode::Stateful] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
        assert_eq!(scene.status(&session).await, 401);
        scene.clock.advance(TTL.saturating_sub(SECOND));
        assert_eq!(scene.status(&session).await, 401);
        assert_eq!(scene.validations().await, 1);
        scene.clock.advance(SECOND);
        assert_eq!(scene.status(&session).await, 401);
        assert_eq!(scene.validations().await, 2);
    }
}

#[tokio::test]
async fn a_negative_answer_needs_keys_fetched_after_it() {
    for mode in [SessionMode::Hybrid, SessionMode::Stateful] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        scene.local_hanko.set_fault(Fault::DatabaseDown);
        let fetches = scene.local_hanko.key_set_requests();
        let error = scene.hanko.authenticate(&session.token).await.unwrap_err();
        assert_eq!(
            error,
            AuthenticateError::Validation(ValidationError::Unconfirmed)
        );
        assert_eq!(scene.local_hanko.key_set_requests(), fetches + 1);
        scene.local_hanko.set_fault(Fault::None);
        assert_eq!(scene.status(&session).await, 200);
    }
}

#[tokio::test]
async fn confirmations_share_one_fetch_per_second() {
    let scene = Scene::with(SessionMode::Hybrid, |builder| builder.session_limit(1000)).await;
    let sessions: Vec<_> = (0..50).map(|_| scene.local_hanko.sign_in(&ada())).collect();
    for session in &sessions {
        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
    }
    let before = scene.local_hanko.key_set_requests();
    let requests: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (hanko, token) = (scene.hanko.clone(), session.token.clone());
            tokio::spawn(async move { hanko.authenticate(&token).await.map(drop) })
        })
        .collect();
    within(scene.local_hanko.wait_for_validate_requests(50)).await;
    for request in requests {
        while !request.is_finished() {
            scene.pass(SECOND).await;
        }
        assert_eq!(
            request.await.unwrap().unwrap_err(),
            AuthenticateError::SessionEnded
        );
    }
    let fetches = scene.local_hanko.key_set_requests() - before;
    assert!((1..=3).contains(&fetches), "{fetches}");
}

#[tokio::test]
async fn requests_of_a_session_that_is_due_cause_one_validation() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene.clock.advance(TTL);
    let held = scene.local_hanko.hold_validations();
    for _ in 0..200 {
        assert_eq!(scene.status(&session).await, 200);
    }
    held.wait_for(1).await;
    held.release();
    scene.settle().await;
    assert_eq!(scene.local_hanko.validate_requests(), 2);
}

#[tokio::test]
async fn retry_after_postpones_what_nobody_waits_for() {
    for fault in [
        Fault::TooManyRequests {
            retry_after: Some(Duration::from_secs(25)),
        },
        Fault::Unavailable {
            retry_after: Some(Duration::from_secs(25)),
        },
    ] {
        let scene = Scene::new(SessionMode::Hybrid).await;
        let [first, second] = std::array::from_fn(|_| scene.local_hanko.sign_in(&ada()));
        assert_eq!(scene.status(&first).await, 200);
        assert_eq!(scene.status(&second).await, 200);
        scene.clock.advance(TTL);
        scene.local_hanko.set_fault(fault);
        assert_eq!(scene.status(&first).await, 200);
        scene.settle().await;
        scene.clock.advance(Duration::from_secs(24));
        // Neither this session nor another causes a request before that time.
        assert_eq!(scene.status(&first).await, 200);
        assert_eq!(scene.status(&second).await, 200);
        assert_eq!(scene.validations().await, 3);
        // A request that has to wait for Hanko is sent all the same.
        let new = scene.local_hanko.sign_in(&ada());
        assert_eq!(scene.status(&new).await, 503);
        scene.local_hanko.set_fault(Fault::None);
        scene.clock.advance(Duration::from_secs(25));
        assert_eq!(scene.status(&first).await, 200);
        scene.settle().await;
    }
}

#[tokio::test]
async fn a_session_in_use_never_becomes_idle_at_hanko() {
    for (mode, idle_timeout) in [
        (SessionMode::Hybrid, 60),
        (SessionMode::Hybrid, 10),
        (SessionMode::Stateful, 60),
        (SessionMode::Stateful, 10),
    ] {
        let scene = Scene::with(mode, |builder| {
            builder.idle_timeout(Duration::from_secs(idle_timeout))
        })
        .await;
        let session = scene.local_hanko.sign_in(&ada());
        for second in 0..200 {
            assert_eq!(
                scene.status(&session).await,
                200,
                "{mode:?}, {idle_timeout} s, after {second} s"
            );
            scene.validations().await;
            scene.clock.advance(SECOND);
        }
        // Unused, it ends.
        scene.clock.advance(Duration::from_secs(idle_timeout + 1));
        assert_eq!(scene.status(&session).await, 401, "{mode:?}");
    }
}

#[tokio::test]
async fn no_answer_outlives_the_idle_timeout_at_hanko() {
    let scene = Scene::with(SessionMode::Hybrid, |builder| {
        builder.idle_timeout(Duration::from_secs(20))
    })
    .await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene.clock.advance(Duration::from_secs(21));
    // Hanko is asked although the answer is younger than the TTL.
    assert_eq!(scene.status(&session).await, 401);
    assert_eq!(scene.validations().await, 2);
}

#[tokio::test]
async fn stateless_does_not_renew_the_idle_timeout() {
    let scene = Scene::with(SessionMode::Stateless, |builder| {
        builder.idle_timeout(Duration::from_secs(20))
    })
    .await;
    let session = scene.local_hanko.sign_in(&ada());
    for _ in 0..30 {
        assert_eq!(scene.status(&session).await, 200);
        scene.clock.advance(SECOND);
    }
    assert_eq!(scene.local_hanko.validate_requests(), 0);
    // A request that asks Hanko finds that the session has ended.
    let ended = scene.hanko.authenticate_live(&session.token).await;
    assert_eq!(ended.unwrap_err(), AuthenticateError::SessionEnded);
}

#[tokio::test]
async fn a_session_that_was_dropped_for_room_is_asked_about_again() {
    let policy = SessionPolicy {
        mode: SessionMode::Hybrid,
        capacity: 20,
        ..SessionPolicy::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let sessions: Vec<_> = (0..40).map(|_| scene.local_hanko.sign_in(&ada())).collect();
    for session in &sessions {
        assert_eq!(scene.status(session).await, 200);
        scene.clock.advance(SECOND / 8);
    }
    assert!(scene.hanko.validation_status().known_sessions <= 20);
    assert_eq!(scene.status(&sessions[39]).await, 200);
    assert_eq!(scene.validations().await, 40);
    assert_eq!(scene.status(&sessions[0]).await, 200);
    assert_eq!(scene.validations().await, 41);
}

#[tokio::test]
async fn contradictory_policies_are_build_errors() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let build = |policy: SessionPolicy| {
        crate::support::hanko_builder(scene.local_hanko.hanko_url())
            .clock(Arc::new(scene.clock.clone()))
            .session_policy(policy)
            .build()
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let hybrid = SessionPolicy {
        mode: SessionMode::Hybrid,
        ..SessionPolicy::default()
    };
    for (policy, expected) in [
        (
            SessionPolicy {
                cache_ttl: Duration::ZERO,
                ..hybrid.clone()
            },
            SessionPolicyError::ZeroCacheTtl,
        ),
        (
            SessionPolicy {
                max_stale: Duration::from_secs(59),
                ..hybrid.clone()
            },
            SessionPolicyError::ShortMaxStale,
        ),
        (
            SessionPolicy {
                capacity: 0,
                ..hybrid.clone()
            },
            SessionPolicyError::ZeroCapacity,
        ),
    ] {
        assert_eq!(build(policy), Err(expected.to_string()));
    }
    assert_eq!(
        build(SessionPolicy {
            max_stale: Duration::from_mins(1),
            ..hybrid
        }),
        Ok(())
    );
}

/// Ends sessions that are in use, with and without a webhook, and returns the log.
#[tokio::test]
async fn ends_without_a_webhook_are_counted_and_warned_of_once() {
    let log = Log::default();
    let _guard = listen(tracing_subscriber::fmt().with_writer(log.clone()).finish());
    let scene = Scene::new(SessionMode::Stateful).await;
    let count = |text: &str| log.text().matches(text).count();
    for ended in 1..=5 {
        let session = scene.local_hanko.sign_in(&ada());
        assert_eq!(scene.status(&session).await, 200);
        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
        scene.clock.advance(TTL);
        assert_eq!(scene.status(&session).await, 401);
        let counted = async {
            while scene.hanko.validation_status().found_ended < ended {
                scene.pass(SECOND).await;
            }
        };
        within(counted).await;
        let warnings = count("webhooks about ended sessions seem not to arrive");
        assert_eq!(warnings, usize::from(ended >= 3), "after {ended}");
    }
    assert_eq!(count("found that a session has ended at Hanko"), 5);
}

#[tokio::test]
async fn an_end_whose_webhook_follows_is_not_counted() {
    let scene = Scene::new(SessionMode::Stateful).await;
    let session = scene
        .local_hanko
        .sign_in(&Person::with_email("ada@example.com"));
    assert_eq!(scene.status(&session).await, 200);
    let data = scene.local_hanko.session_data(session.session_id).unwrap();
    let body = scene
        .local_hanko
        .webhook_body("session.delete.explicit.logout", &data);
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    scene.clock.advance(TTL);
    assert_eq!(scene.status(&session).await, 401);
    scene.pass(Duration::from_secs(9)).await;
    scene
        .hanko
        .receive_webhook(body.to_string().as_bytes())
        .await
        .unwrap();
    scene.pass(Duration::from_mins(1)).await;
    assert_eq!(scene.hanko.validation_status().found_ended, 0);
}

#[tokio::test]
async fn a_session_that_ended_before_the_start_is_not_counted() {
    let mut scene = Scene::new(SessionMode::Stateful).await;
    let session = scene.local_hanko.sign_in(&ada());
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    scene.clock.advance(SECOND);
    scene.restart().await;
    assert_eq!(scene.status(&session).await, 401);
    scene.pass(Duration::from_mins(1)).await;
    assert_eq!(scene.hanko.validation_status().found_ended, 0);
}

#[tokio::test]
async fn readiness_shows_whether_hanko_responds() {
    use poem_hanko::ManualClock;

    use crate::support::{App, START, local_hanko, send};

    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let component = async |app: &App, name: &str| {
        let response = send(app.get("/readyz")).await;
        let status = response.status().as_u16();
        let body: serde_json::Value = response.json().await.unwrap();
        (
            status,
            body["components"][name]["status"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    };
    let stateless = App::start(&local_hanko.url(), &clock, &[]);
    stateless.hanko.wait_for_key_set_fetches(1).await;
    assert_eq!(component(&stateless, "hanko").await, (200, "unused".into()));
    assert_eq!(
        component(&stateless, "revocation_store").await,
        (200, "unused".into())
    );

    let hybrid = App::start(
        &local_hanko.url(),
        &clock,
        &[("HANKO_SESSION_MODE", "hybrid")],
    );
    hybrid.hanko.wait_for_key_set_fetches(1).await;
    assert_eq!(component(&hybrid, "hanko").await, (200, "ok".into()));
    local_hanko.set_fault(Fault::InternalError);
    let session = local_hanko.sign_in(&ada());
    let get = || hybrid.get_with_bearer("/protected", &session.token);
    assert_eq!(get().await.status(), 503);
    assert_eq!(component(&hybrid, "hanko").await, (200, "degraded".into()));
    assert_eq!(component(&hybrid, "keys").await, (200, "ok".into()));
    local_hanko.set_fault(Fault::None);
    assert_eq!(get().await.status(), 200);
    assert_eq!(component(&hybrid, "hanko").await, (200, "ok".into()));

    let url = local_hanko.url();
    drop(local_hanko);
    let without_keys = App::start(&url, &clock, &[]);
    without_keys.hanko.wait_for_key_set_fetches(1).await;
    assert_eq!(
        component(&without_keys, "keys").await,
        (503, "unavailable".into())
    );
}

/// A negative answer from the time of the outage must not be confirmed by a fetch after it.
#[tokio::test]
async fn recovery_of_the_database_rejects_no_active_session() {
    for mode in [SessionMode::Hybrid, SessionMode::Stateful] {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        let other = scene.local_hanko.sign_in(&ada());
        scene.local_hanko.set_fault(Fault::DatabaseDown);
        // Uses up the second's fetch, which fails.
        assert_eq!(scene.status(&other).await, 503);
        let fetches = scene.local_hanko.key_set_requests();
        let sent = scene.local_hanko.validate_requests();
        let (hanko, token) = (scene.hanko.clone(), session.token.clone());
        let request = tokio::spawn(async move { hanko.authenticate(token).await });
        within(scene.local_hanko.wait_for_validate_requests(sent + 1)).await;
        // The answer has arrived when its confirmation waits for the next second.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(scene.local_hanko.key_set_requests(), fetches);
        scene.local_hanko.set_fault(Fault::None);
        scene.pass(SECOND).await;
        assert!(within(request).await.unwrap().is_ok(), "{mode:?}");
        assert_eq!(scene.status(&session).await, 200);
    }
}

#[tokio::test]
async fn a_token_that_expires_is_no_end_without_a_webhook() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    // Within the leeway that is allowed here, but not at Hanko.
    scene.clock.advance(SESSION_LIFESPAN + SECOND);
    assert_eq!(scene.status(&session).await, 401);
    scene.pass(Duration::from_mins(1)).await;
    assert_eq!(scene.hanko.validation_status().found_ended, 0);
}

#[tokio::test]
async fn an_end_is_counted_once_without_a_ttl() {
    let policy = SessionPolicy {
        mode: SessionMode::Stateful,
        cache_ttl: Duration::ZERO,
        ..SessionPolicy::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    for _ in 0..5 {
        scene.clock.advance(2 * SECOND);
        assert_eq!(scene.status(&session).await, 401);
    }
    scene.pass(Duration::from_mins(1)).await;
    assert_eq!(scene.hanko.validation_status().found_ended, 1);
}

#[tokio::test]
async fn known_sessions_do_not_wait_while_hanko_hangs() {
    let policy = SessionPolicy {
        mode: SessionMode::Hybrid,
        cache_ttl: 2 * SECOND,
        ..SessionPolicy::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    scene.local_hanko.set_fault(Fault::Hangs);
    for second in 1..60 {
        scene.pass(SECOND).await;
        let request = scene.hanko.authenticate(&session.token);
        let outcome = futures_util::FutureExt::now_or_never(request);
        assert!(matches!(outcome, Some(Ok(_))), "after {second} s");
    }
}
