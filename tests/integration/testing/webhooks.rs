//! The webhooks of the local Hanko.

use std::{sync::Arc, time::Duration};

use poem_hanko::testing::{DeliveryError, LocalHanko};
use serde_json::json;
use uuid::Uuid;

use super::{builder, is_active, local_hanko, receiver::Receiver};
use crate::support::{ada, within};

const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn webhooks_are_sent_one_at_a_time_in_order() {
    let (builder, _clock) = builder();
    let local_hanko = builder.session_limit(1).start().await.unwrap();
    let receiver = Receiver::silent();
    local_hanko.send_webhooks_to(&receiver.url);
    let person = ada();
    // Signing in waits for no webhook.
    let sessions: Vec<Uuid> = (0..5)
        .map(|_| local_hanko.sign_in(&person).session_id)
        .collect();
    for count in 1..=4 {
        receiver.wait_for(count).await;
        assert_eq!(receiver.received().len(), count);
        receiver.respond(1);
    }
    within(local_hanko.wait_for_webhooks()).await;
    let expected: Vec<(String, String)> = sessions[..4]
        .iter()
        .map(|id| ("session.delete.passive.limit".to_owned(), id.to_string()))
        .collect();
    assert_eq!(receiver.summary(), expected);
    assert_eq!(receiver.most_at_once(), 1);
    // With nothing to send, there is nothing to wait for.
    within(local_hanko.wait_for_webhooks()).await;
}

#[tokio::test]
async fn a_webhook_is_never_sent_again() {
    let (local_hanko, _clock) = local_hanko().await;
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    let mut ended = Vec::new();
    for status in [400, 404, 500, 503, 204, 200] {
        receiver.set_status(status);
        let session = local_hanko.sign_in(&ada()).session_id;
        let outcome = local_hanko.end_session(session).await;
        match outcome {
            Ok(outcome) => assert!(status < 400 && outcome.is_some(), "{status}"),
            Err(DeliveryError::Status(actual)) => assert_eq!(actual, status),
            Err(error) => panic!("{status}: {error}"),
        }
        assert_eq!(local_hanko.session_data(session), None);
        ended.push(session.to_string());
    }
    let subjects: Vec<String> = receiver.summary().into_iter().map(|(_, id)| id).collect();
    assert_eq!(subjects, ended);
}

#[tokio::test]
async fn a_webhook_without_a_response_times_out() {
    let (local_hanko, clock) = local_hanko().await;
    let local_hanko = Arc::new(local_hanko);
    let receiver = Receiver::silent();
    local_hanko.send_webhooks_to(&receiver.url);
    let [first, second] = [(); 2].map(|()| local_hanko.sign_in(&ada()).session_id);
    let end = |session: Uuid| {
        let local_hanko = Arc::clone(&local_hanko);
        tokio::spawn(async move { local_hanko.end_session(session).await })
    };
    let timed_out = end(first);
    receiver.wait_for(1).await;
    let delivered = end(second);
    clock.advance(TIMEOUT.checked_sub(Duration::from_millis(1)).unwrap());
    // A round trip, during which the worker would have given up.
    let other = local_hanko.sign_in(&ada());
    assert!(is_active(&local_hanko, &other.token).await);
    assert!(!timed_out.is_finished());
    clock.advance(Duration::from_millis(1));
    let error = within(timed_out).await.unwrap().unwrap_err();
    assert!(matches!(error, DeliveryError::TimedOut), "{error:?}");

    // The next one is sent, and the first is not repeated.
    receiver.wait_for(2).await;
    receiver.respond(2);
    within(delivered).await.unwrap().unwrap();
    let subjects: Vec<String> = receiver.summary().into_iter().map(|(_, id)| id).collect();
    assert_eq!(subjects, [first.to_string(), second.to_string()]);
}

#[tokio::test]
async fn an_unreachable_receiver_is_an_error() {
    let (local_hanko, _clock) = local_hanko().await;
    for url in ["http://127.0.0.1:1/", "nonsense"] {
        local_hanko.send_webhooks_to(url);
        let session = local_hanko.sign_in(&ada()).session_id;
        let error = local_hanko.end_session(session).await.unwrap_err();
        assert!(
            matches!(error, DeliveryError::Unreachable(_)),
            "{url}: {error:?}"
        );
    }
    assert!(local_hanko.delete_user(Uuid::new_v4()).await.is_err());
}

/// Makes everything happen that has an event, and returns the names of those that were received.
async fn events_of(local_hanko: &LocalHanko, receiver: &Receiver) -> Vec<String> {
    let person = ada();
    local_hanko.set_session_limit(2);
    let by_flow = local_hanko.sign_in(&person).session_id;
    local_hanko.end_session(by_flow).await.unwrap();
    let by_admin = local_hanko.create_session(&person).session_id;
    local_hanko.revoke_session(by_admin).await.unwrap();
    for _ in 0..3 {
        local_hanko.sign_in(&person);
    }
    local_hanko.delete_user(&person).await.unwrap();
    // What does not exist has no events.
    assert!(local_hanko.end_session(by_flow).await.unwrap().is_none());
    assert!(local_hanko.revoke_session(by_flow).await.unwrap().is_none());
    within(local_hanko.wait_for_webhooks()).await;
    receiver
        .summary()
        .into_iter()
        .map(|(event, _)| event)
        .collect()
}

#[tokio::test]
async fn events_are_selected_by_prefix() {
    const LOGOUT: &str = "session.delete.explicit.logout";
    const REVOKE: &str = "session.delete.admin.revoke";
    const LIMIT: &str = "session.delete.passive.limit";
    const BY_FLOW: &str = "session.create.flow";
    const BY_ADMIN: &str = "session.create.admin";
    const USER: &str = "user.delete";

    // The default.
    let (hanko, _clock) = local_hanko().await;
    let receiver = Receiver::start();
    hanko.send_webhooks_to(&receiver.url);
    assert_eq!(
        events_of(&hanko, &receiver).await,
        [LOGOUT, REVOKE, LIMIT, USER]
    );

    let cases: [(&[&str], &[&str]); 5] = [
        // Hanko up to v3.0.4 has no others.
        (&["user"], &[USER]),
        (
            &["session"],
            &[
                BY_FLOW, LOGOUT, BY_ADMIN, REVOKE, BY_FLOW, BY_FLOW, LIMIT, BY_FLOW,
            ],
        ),
        (&["session.create.admin"], &[BY_ADMIN]),
        (&["session.delete.explicit", "user.del"], &[LOGOUT, USER]),
        (&[], &[]),
    ];
    for (events, expected) in cases {
        let (builder, _clock) = builder();
        let at_start = builder.webhook_events(events).start().await.unwrap();
        let (at_run_time, _clock) = local_hanko().await;
        at_run_time.set_webhook_events(events);
        for hanko in [at_start, at_run_time] {
            let receiver = Receiver::start();
            hanko.send_webhooks_to(&receiver.url);
            assert_eq!(events_of(&hanko, &receiver).await, expected, "{events:?}");
        }
    }
}

#[tokio::test]
async fn stopped_webhooks_are_not_sent() {
    let (local_hanko, _clock) = local_hanko().await;
    let receiver = Receiver::silent();
    local_hanko.send_webhooks_to(&receiver.url);
    local_hanko.set_session_limit(1);
    let person = ada();
    for _ in 0..2 {
        local_hanko.sign_in(&person);
    }
    // Queued webhooks are still sent.
    local_hanko.stop_webhooks();
    receiver.respond(usize::MAX >> 4);
    assert_eq!(events_of(&local_hanko, &receiver).await.len(), 1);

    local_hanko.send_webhooks_to(&receiver.url);
    local_hanko.delete_user(&person).await.unwrap();
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_deleted_user_is_described_as_last_signed_in() {
    let (local_hanko, clock) = local_hanko().await;
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    let person = ada().unverified_email("ada@example.com");
    let before = local_hanko.sign_in(&person);
    clock.advance(Duration::from_mins(1));
    let person = person.verified_email("ada@example.com");
    let after = local_hanko.create_session(&person);
    local_hanko.delete_user(&person).await.unwrap();
    for session in [before, after] {
        assert_eq!(local_hanko.session_data(session.session_id), None);
    }

    let mut data = receiver.received()[0].claims()["data"].clone();
    for id in ["/emails/0/id", "/username/id"] {
        let id = data.pointer_mut(id).unwrap().take();
        id.as_str().unwrap().parse::<Uuid>().unwrap();
    }
    let (first, last) = ("2026-11-23T12:00:00Z", "2026-11-23T12:01:00Z");
    assert_eq!(
        data,
        json!({
            "id": person.id().as_uuid(),
            "emails": [{
                "id": null,
                "address": "ada@example.com",
                "is_verified": true,
                "is_primary": true,
                "created_at": first,
                "updated_at": last,
            }],
            "username": { "id": null, "username": "ada", "created_at": first, "updated_at": first },
            "created_at": first,
            "updated_at": first,
        })
    );

    // Of a user that never signed in, only the id is known.
    let unknown = Uuid::new_v4();
    local_hanko.delete_user(unknown).await.unwrap();
    let data = receiver.received()[1].claims()["data"].clone();
    assert_eq!(
        data,
        json!({ "id": unknown, "created_at": last, "updated_at": last })
    );
}

#[tokio::test]
async fn webhooks_about_a_session_describe_it_as_it_was() {
    let (local_hanko, _clock) = local_hanko().await;
    let receiver = Receiver::start();
    local_hanko.send_webhooks_to(&receiver.url);
    let session = local_hanko.sign_in(&ada());
    let data = local_hanko.session_data(session.session_id).unwrap();
    assert!(data["user_agent"].is_string() && data["ip_address"].is_string());
    local_hanko
        .revoke_session(session.session_id)
        .await
        .unwrap();
    assert_eq!(receiver.received()[0].claims()["data"], data);
}
