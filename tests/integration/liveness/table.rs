//! Each session mode in each situation.

use std::time::Duration;

use poem_hanko::{
    SessionMode::{self, Hybrid, Stateful, Stateless},
    testing::{Fault, SignedIn},
};

use super::{BEFORE_REFRESH, SECOND, Scene, TTL};
use crate::support::ada;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    Alive,
    EndedWithWebhook,
    EndedWithoutWebhook,
    HankoDown,
    DatabaseDown,
    UnexpectedResponse,
    /// Our process restarts after the session has ended with a webhook.
    Restart,
}
use Situation::{
    Alive, DatabaseDown, EndedWithWebhook, EndedWithoutWebhook, HankoDown, Restart,
    UnexpectedResponse,
};

/// A status, and how many validation requests were sent for it.
type Seen = (u16, u64);

/// The outcomes of requests after the situation has begun.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// A session that was used just before.
    at_once: Seen,
    /// The same session, when Hanko's answer about it is no longer fresh.
    due: Seen,
    /// The next request of that session, after the validation that the previous request caused.
    next: Seen,
    /// Another session that was used before the situation began, and has since been idle for more than twice the TTL.
    idle: Seen,
    /// Another session that is used for the first time.
    new: Seen,
}

/// Begins a situation for this session.
async fn begin(scene: &mut Scene, situation: Situation, session: &SignedIn) {
    match situation {
        Alive => {}
        EndedWithWebhook | Restart => {
            let data = scene.local_hanko.session_data(session.session_id).unwrap();
            let body = scene
                .local_hanko
                .webhook_body("session.delete.explicit.logout", &data);
            end(scene, session).await;
            let event = scene
                .hanko
                .receive_webhook(body.to_string().as_bytes())
                .await;
            assert!(event.is_ok());
            if situation == Restart {
                scene.restart().await;
            }
        }
        EndedWithoutWebhook => end(scene, session).await,
        HankoDown => scene.local_hanko.set_fault(Fault::InternalError),
        DatabaseDown => scene.local_hanko.set_fault(Fault::DatabaseDown),
        UnexpectedResponse => scene.local_hanko.set_fault(Fault::UnexpectedResponse),
    }
}

async fn end(scene: &Scene, session: &SignedIn) {
    let ended = scene.local_hanko.end_session(session.session_id).await;
    assert!(ended.unwrap().is_some());
}

async fn see(scene: &Scene, session: &SignedIn) -> Seen {
    let before = scene.validations().await;
    let status = scene.status(session).await;
    (status, scene.validations().await - before)
}

async fn observe(mode: SessionMode, situation: Situation) -> Row {
    let used = {
        let mut scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        assert_eq!(scene.status(&session).await, 200);
        begin(&mut scene, situation, &session).await;
        scene.clock.advance(BEFORE_REFRESH);
        let at_once = see(&scene, &session).await;
        scene.clock.advance(TTL.saturating_sub(BEFORE_REFRESH));
        let due = see(&scene, &session).await;
        scene.clock.advance(SECOND);
        (at_once, due, see(&scene, &session).await)
    };
    let mut scene = Scene::new(mode).await;
    let idle = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&idle).await, 200);
    begin(&mut scene, situation, &idle).await;
    scene.clock.advance(2 * TTL + SECOND);
    let idle = see(&scene, &idle).await;
    scene.clock.advance(SECOND);
    let new = match situation {
        Alive | HankoDown | DatabaseDown | UnexpectedResponse => scene.local_hanko.sign_in(&ada()),
        EndedWithWebhook | EndedWithoutWebhook | Restart => {
            let session = scene.local_hanko.sign_in(&ada());
            begin(&mut scene, situation, &session).await;
            session
        }
    };
    Row {
        at_once: used.0,
        due: used.1,
        next: used.2,
        idle,
        new: see(&scene, &new).await,
    }
}

macro_rules! rows {
    ($($name:ident: $mode:ident, $situation:ident => $at_once:expr, $due:expr, $next:expr, $idle:expr, $new:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let row = Row {
                    at_once: $at_once,
                    due: $due,
                    next: $next,
                    idle: $idle,
                    new: $new,
                };
                assert_eq!(observe($mode, $situation).await, row);
            }
        )*
    };
}

rows! {
    // at once, due, next, idle, new
    stateless_alive: Stateless, Alive => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);
    stateless_webhook: Stateless, EndedWithWebhook => (401, 0), (401, 0), (401, 0), (401, 0), (401, 0);
    stateless_no_webhook: Stateless, EndedWithoutWebhook => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);
    stateless_hanko_down: Stateless, HankoDown => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);
    stateless_database_down: Stateless, DatabaseDown => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);
    stateless_unexpected: Stateless, UnexpectedResponse => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);
    // The store in memory has lost the revocation.
    stateless_restart: Stateless, Restart => (200, 0), (200, 0), (200, 0), (200, 0), (200, 0);

    hybrid_alive: Hybrid, Alive => (200, 0), (200, 1), (200, 0), (200, 1), (200, 1);
    hybrid_webhook: Hybrid, EndedWithWebhook => (401, 0), (401, 0), (401, 0), (401, 0), (401, 0);
    hybrid_no_webhook: Hybrid, EndedWithoutWebhook => (200, 0), (200, 1), (401, 0), (401, 1), (401, 1);
    hybrid_hanko_down: Hybrid, HankoDown => (200, 0), (200, 1), (200, 0), (200, 1), (503, 1);
    hybrid_database_down: Hybrid, DatabaseDown => (200, 0), (200, 1), (200, 0), (200, 1), (503, 1);
    hybrid_unexpected: Hybrid, UnexpectedResponse => (200, 0), (200, 1), (200, 0), (200, 1), (503, 1);
    hybrid_restart: Hybrid, Restart => (401, 1), (401, 0), (401, 0), (401, 1), (401, 1);

    stateful_alive: Stateful, Alive => (200, 0), (200, 1), (200, 0), (200, 1), (200, 1);
    stateful_webhook: Stateful, EndedWithWebhook => (401, 0), (401, 0), (401, 0), (401, 0), (401, 0);
    stateful_no_webhook: Stateful, EndedWithoutWebhook => (200, 0), (401, 1), (401, 0), (401, 1), (401, 1);
    stateful_hanko_down: Stateful, HankoDown => (200, 0), (503, 1), (503, 1), (503, 1), (503, 1);
    stateful_database_down: Stateful, DatabaseDown => (200, 0), (503, 1), (503, 1), (503, 1), (503, 1);
    stateful_unexpected: Stateful, UnexpectedResponse => (200, 0), (503, 1), (503, 1), (503, 1), (503, 1);
    stateful_restart: Stateful, Restart => (401, 1), (401, 0), (401, 0), (401, 1), (401, 1);
}

/// A timeout long enough for a background request to stay open during the whole test.
const PATIENCE: Duration = Duration::from_hours(1);

/// The situation "Hanko is slow": its responses are held back.
async fn slow(mode: SessionMode) -> (Scene, SignedIn) {
    let policy = poem_hanko::SessionPolicy {
        mode,
        validation_timeout: PATIENCE,
        ..Default::default()
    };
    let scene = Scene::with_policy(policy, |builder| builder).await;
    let session = scene.local_hanko.sign_in(&ada());
    assert_eq!(scene.status(&session).await, 200);
    (scene, session)
}

#[tokio::test]
async fn stateless_requests_do_not_notice_a_slow_hanko() {
    let (scene, session) = slow(Stateless).await;
    let _held = scene.local_hanko.hold_validations();
    scene.clock.advance(3 * TTL);
    assert_eq!(see(&scene, &session).await, (200, 0));
}

#[tokio::test]
async fn hybrid_requests_do_not_wait_for_a_slow_refresh() {
    let (scene, session) = slow(Hybrid).await;
    let held = scene.local_hanko.hold_validations();
    scene.clock.advance(TTL);
    assert_eq!(scene.status(&session).await, 200);
    held.wait_for(1).await;
    // Twice the TTL and more have passed, and the request is still open.
    for _ in 0..4 {
        scene.clock.advance(TTL);
        assert_eq!(scene.status(&session).await, 200);
    }
    assert_eq!(scene.local_hanko.validate_requests(), 2);
    end(&scene, &session).await;
    // What Hanko found before the session ended arrives now, and is as old as its request.
    held.release();
    scene.settle().await;
    assert_eq!(scene.status(&session).await, 401);
    assert_eq!(scene.validations().await, 3);
}

#[tokio::test]
async fn a_new_session_waits_for_a_slow_hanko_in_hybrid() {
    let (scene, _) = slow(Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let held = scene.local_hanko.hold_validations();
    let request = tokio::spawn({
        let (hanko, token) = (scene.hanko.clone(), session.token.clone());
        async move { hanko.authenticate(&token).await }
    });
    held.wait_for(1).await;
    assert!(!request.is_finished());
    held.release();
    assert!(request.await.unwrap().is_ok());
}

#[tokio::test]
async fn stateful_requests_wait_for_a_slow_hanko() {
    let (scene, session) = slow(Stateful).await;
    scene.clock.advance(TTL);
    let held = scene.local_hanko.hold_validations();
    let request = tokio::spawn({
        let (hanko, token) = (scene.hanko.clone(), session.token.clone());
        async move { hanko.authenticate(&token).await }
    });
    held.wait_for(1).await;
    assert!(!request.is_finished());
    held.release();
    assert!(request.await.unwrap().is_ok());
}
