use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use poem_hanko::{AuthenticateError, SessionMode, ValidationError, testing::Person};

use super::{BEFORE_REFRESH, Scene, TTL};
use crate::support::{ada, report, within};

const SESSIONS: usize = 10_000;
const AT_ONCE: usize = 64;

/// Hanko answers 840 validation requests per second: 64 of them take 76 ms.
const DELAY: Duration = Duration::from_millis(76);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_10_000_new_sessions_passes_in_turn() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let mut held = scene.local_hanko.hold_validations();
    let requests: Vec<_> = (0..SESSIONS)
        .map(|_| scene.local_hanko.sign_in(&ada()))
        .map(|session| {
            let hanko = scene.hanko.clone();
            tokio::spawn(async move { hanko.authenticate(&session.token).await })
        })
        .collect();
    let mut elapsed = Duration::ZERO;
    for first in (0..SESSIONS).step_by(AT_ONCE) {
        within(held.wait_for(AT_ONCE.min(SESSIONS - first))).await;
        scene.clock.advance(DELAY);
        elapsed += DELAY;
        let next = scene.local_hanko.hold_validations();
        held.release();
        held = next;
    }
    for request in requests {
        let outcome = within(request).await.unwrap();
        outcome.expect("every session is active");
    }
    assert!(scene.local_hanko.most_validations_at_once() <= AT_ONCE);
    assert_eq!(scene.local_hanko.validate_requests(), SESSIONS as u64);
    report(&format!(
        "{SESSIONS} new sessions waited for at most {elapsed:?} of Hanko's time"
    ));
}

/// How many requests of one user may wait for Hanko at the same time.
const MAX_WAITING_PER_USER: usize = 256;

#[tokio::test]
async fn one_user_cannot_occupy_every_place_for_requests() {
    for (is_live, mode) in [
        (false, SessionMode::Hybrid),
        (false, SessionMode::Stateful),
        (true, SessionMode::Stateless),
    ] {
        let scene = Scene::new(mode).await;
        let user = ada();
        // The sessions of one user count together.
        let sessions = [
            scene.local_hanko.sign_in(&user),
            scene.local_hanko.sign_in(&user),
        ];
        let authenticate = async |token: &str| {
            let outcome = if is_live {
                scene.hanko.authenticate_live(token).await
            } else {
                scene.hanko.authenticate(token).await
            };
            outcome.map(drop)
        };
        for session in &sessions {
            assert_eq!(authenticate(&session.token).await, Ok(()));
        }
        // Neither session is decided from memory any more, although both were confirmed.
        scene.pass(TTL + BEFORE_REFRESH + TTL).await;
        let held = scene.local_hanko.hold_validations();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..MAX_WAITING_PER_USER)
            .map(|number| Box::pin(authenticate(&sessions[number % 2].token)))
            .collect();
        for request in &mut waiting {
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
        let refused = AuthenticateError::Validation(ValidationError::Overloaded);
        for session in &sessions {
            let outcome = within(authenticate(&session.token)).await;
            assert_eq!(outcome, Err(refused.clone()), "{mode:?}");
        }
        // Another user is not affected, and a request that gives up no longer counts.
        let other = scene
            .local_hanko
            .sign_in(&Person::with_email("grace@example.com"));
        let mut of_another = pin!(authenticate(&other.token));
        assert!(of_another.as_mut().poll(&mut context).is_pending());
        waiting.pop();
        let mut again = pin!(authenticate(&sessions[0].token));
        assert!(again.as_mut().poll(&mut context).is_pending());

        held.release();
        for request in waiting {
            assert_eq!(within(request).await, Ok(()), "{mode:?}");
        }
        assert_eq!(within(of_another).await, Ok(()));
        assert_eq!(within(again).await, Ok(()));
    }
}
