use std::time::Duration;

use poem_hanko::SessionMode;

use super::Scene;
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
