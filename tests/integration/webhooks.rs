//! Hanko sends each webhook once: none is lost.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use poem_hanko::{
    Clock, Event, Hanko, LogFormat, ManualClock, MemoryStore, NumericDate, Receipt, Revocation,
    RevocationStore, Revoking, SessionId, StoreUnavailable, TelemetryConfig, TokenError, UserId,
    WebhookError, log_subscriber,
    testing::{Fault, LocalHanko, SignedIn},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    App, Log, START, ada, hanko_builder, listen, local_hanko, send, start, within,
};

const LOGOUT: &str = "session.delete.explicit.logout";
const SECOND: Duration = Duration::from_secs(1);

fn logout_body(local_hanko: &LocalHanko, session: &SignedIn) -> Value {
    let data = local_hanko.session_data(session.session_id).unwrap();
    local_hanko.webhook_body(LOGOUT, &data)
}

/// A webhook that looks like Hanko's and is signed by an unknown key.
async fn forged(clock: &ManualClock) -> Value {
    let stranger = local_hanko(clock).await;
    let session = stranger.sign_in(&ada());
    logout_body(&stranger, &session)
}

async fn post(app: &App, body: &Value) -> u16 {
    let request = app.request(Method::POST, "/webhooks/hanko").json(body);
    send(request).await.status().as_u16()
}

/// The time that has passed since the test began.
fn elapsed(clock: &ManualClock) -> Duration {
    clock.unix_time().saturating_sub(START)
}

/// Advances the clock by a second whenever all tasks wait, until `future` is ready.
async fn passing<T>(clock: &ManualClock, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    within(async {
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = pause() => clock.advance(SECOND),
            }
        }
    })
    .await
}

/// Lets other tasks and the network progress for a moment.
async fn pause() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_webhook_of_a_new_key_is_verified_at_once() {
    let (local_hanko, app) = start().await;
    // A session token with an unknown `kid` has used up the fetch that session tokens may cause.
    let stranger = crate::support::local_hanko(&app.clock).await;
    let unknown = stranger.sign_in(&ada());
    assert_eq!(
        app.get_with_bearer("/protected", &unknown.token)
            .await
            .status(),
        401
    );
    assert_eq!(local_hanko.key_set_requests(), 2);

    let session = local_hanko.sign_in(&ada());
    local_hanko.rotate_key().await.unwrap();
    assert_eq!(post(&app, &logout_body(&local_hanko, &session)).await, 204);
    assert_eq!(local_hanko.key_set_requests(), 3);
    assert_eq!(
        app.get_with_bearer("/protected", &session.token)
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn forged_webhooks_cause_one_fetch_in_two_seconds() {
    let (local_hanko, app) = start().await;
    let body = forged(&app.clock).await;
    assert_eq!(post(&app, &body).await, 401);
    assert_eq!(local_hanko.key_set_requests(), 2);
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let request = app.request(Method::POST, "/webhooks/hanko").json(&body);
            tokio::spawn(send(request))
        })
        .collect();
    pause().await;
    app.clock.advance(SECOND);
    pause().await;
    assert_eq!(local_hanko.key_set_requests(), 2);
    for response in waiting {
        let response = passing(&app.clock, response).await.unwrap();
        assert_eq!(response.status(), 401);
    }
    let elapsed = elapsed(&app.clock);
    let fetches = local_hanko.key_set_requests() - 2;
    assert!(
        (1..=elapsed.as_secs() / 2).contains(&fetches),
        "{fetches} in {elapsed:?}"
    );
}

#[tokio::test]
async fn an_implausible_webhook_causes_no_fetch() {
    let (local_hanko, app) = start().await;
    let stranger = crate::support::local_hanko(&app.clock).await;
    let now = START.as_secs();
    let plausible = json!({
        "sub": "hanko webhooks", "iat": now, "exp": now + 300, "evt": LOGOUT, "data": {},
    });
    for (member, value) in [
        ("sub", json!("someone else")),
        ("exp", json!(now - 31)),
        ("exp", json!(now + 86_400)),
        ("iat", json!(now + 3600)),
        ("evt", json!("session.delete")),
    ] {
        let mut claims = plausible.as_object().unwrap().clone();
        claims.insert(member.to_owned(), value);
        let body = json!({ "token": stranger.sign_claims(&claims), "event": LOGOUT });
        assert_eq!(post(&app, &body).await, 401, "{member}");
    }
    assert_eq!(local_hanko.key_set_requests(), 1);
}

#[tokio::test]
async fn a_webhook_without_keys_is_held_and_applied_later() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    local_hanko.set_fault(Fault::DatabaseDown);
    let app = App::start(&local_hanko.url(), &clock, &[]);
    app.hanko.wait_for_key_set_fetches(1).await;
    let session = local_hanko.sign_in(&ada());
    assert_eq!(post(&app, &logout_body(&local_hanko, &session)).await, 202);
    let forged = forged(&clock).await;
    assert_eq!(passing(&clock, post(&app, &forged)).await, 202);
    assert_eq!(app.hanko.webhook_status().held, 2);

    // The outage lasts longer than the webhook's token is valid.
    for _ in 0..60 {
        clock.advance(Duration::from_secs(10));
        pause().await;
    }
    assert_eq!(app.hanko.webhook_status().held, 2);
    local_hanko.set_fault(Fault::None);
    let is_done = async {
        while app.hanko.webhook_status().held > 0 {
            tokio::task::yield_now().await;
        }
    };
    passing(&clock, is_done).await;
    until(|| app.hanko.webhook_status().rejected == 1).await;
    let status = app.hanko.webhook_status();
    assert_eq!(
        (status.accepted, status.rejected, status.dropped),
        (1, 1, 0)
    );
    assert_eq!(
        app.get_with_bearer("/protected", &session.token)
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn a_new_key_during_an_outage_of_the_keys_is_held() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.rotate_key().await.unwrap();
    local_hanko.set_fault(Fault::DatabaseDown);
    assert_eq!(post(&app, &logout_body(&local_hanko, &session)).await, 202);
    local_hanko.set_fault(Fault::None);
    let is_done = async {
        while app.hanko.revocations() == 0 {
            tokio::task::yield_now().await;
        }
    };
    passing(&app.clock, is_done).await;
    assert_eq!(
        app.get_with_bearer("/protected", &session.token)
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn a_webhook_is_held_when_the_keys_take_too_long() {
    let (local_hanko, app) = start().await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.rotate_key().await.unwrap();
    local_hanko.set_fault(Fault::Hangs);
    let body = logout_body(&local_hanko, &session);
    let status = passing(&app.clock, post(&app, &body)).await;
    assert_eq!(status, 202);
    let elapsed = elapsed(&app.clock);
    assert!(elapsed <= Duration::from_secs(8), "{elapsed:?}");
    local_hanko.set_fault(Fault::None);
    let is_done = async {
        while app.hanko.revocations() == 0 {
            tokio::task::yield_now().await;
        }
    };
    passing(&app.clock, is_done).await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_counted() {
    let (_local_hanko, app) = start().await;
    let post = |content_type: &'static str, body: Vec<u8>| {
        let request = app.request(Method::POST, "/webhooks/hanko");
        send(request.header("content-type", content_type).body(body))
    };
    assert_eq!(post("text/plain", b"{}".to_vec()).await.status(), 415);
    assert_eq!(app.hanko.webhook_status().rejected, 1);
    let large = vec![b' '; 300 * 1024];
    assert_eq!(post("application/json", large).await.status(), 413);
    assert_eq!(app.hanko.webhook_status().rejected, 2);
    assert_eq!(post("application/json", b"{}".to_vec()).await.status(), 400);
    assert_eq!(app.hanko.webhook_status().rejected, 3);
}

#[tokio::test]
async fn a_webhook_that_waits_survives_its_client() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.rotate_key().await.unwrap();
    local_hanko.set_fault(Fault::Hangs);
    let body = logout_body(&local_hanko, &session).to_string();
    let waiting = tokio::spawn({
        let hanko = hanko.clone();
        async move { hanko.receive_webhook(body.as_bytes()).await.map(drop) }
    });
    until(|| local_hanko.key_set_requests() == 2).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    local_hanko.set_fault(Fault::None);
    until(|| hanko.revocations() == 1).await;
}

#[tokio::test]
async fn a_large_body_is_not_held() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    local_hanko.set_fault(Fault::DatabaseDown);
    let app = App::start(&local_hanko.url(), &clock, &[]);
    app.hanko.wait_for_key_set_fetches(1).await;
    let body = local_hanko.webhook_body("email.send", &json!({ "body": "x".repeat(20_000) }));
    assert_eq!(post(&app, &body).await, 503);
    assert_eq!(app.hanko.webhook_status().held, 0);
}

#[tokio::test]
async fn a_flood_of_held_bodies_leaves_room_for_others() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    local_hanko.set_fault(Fault::DatabaseDown);
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock.clone()))
        .build()
        .unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    let stranger = crate::support::local_hanko(&clock).await;
    let padding = json!({ "padding": "x".repeat(11_000) });
    let attacker = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let mut refused = 0;
    for _ in 0..1200 {
        let flood = stranger.webhook_body(LOGOUT, &padding).to_string();
        let receipt = passing(
            &clock,
            hanko.receive_webhook_from(flood.as_bytes(), attacker),
        )
        .await;
        match receipt {
            Ok(Receipt::Held) => {}
            Err(WebhookError::KeySet(_)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "{:?}", hanko.webhook_status());
    let client = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
    for _ in 0..20 {
        let session = local_hanko.sign_in(&ada());
        let genuine = logout_body(&local_hanko, &session).to_string();
        let receipt = passing(
            &clock,
            hanko.receive_webhook_from(genuine.as_bytes(), client),
        )
        .await;
        assert!(matches!(receipt, Ok(Receipt::Held)), "{receipt:?}");
    }
    assert!(hanko.webhook_status().dropped > 0);
    local_hanko.set_fault(Fault::None);
    let is_done = async {
        while hanko.revocations() < 20 {
            tokio::task::yield_now().await;
        }
    };
    passing(&clock, is_done).await;
}

#[tokio::test]
async fn held_webhooks_are_counted_by_client_behind_a_proxy() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    local_hanko.set_fault(Fault::DatabaseDown);
    let app = App::start(
        &local_hanko.url(),
        &clock,
        &[("TRUSTED_PROXIES", "127.0.0.1")],
    );
    app.hanko.wait_for_key_set_fetches(1).await;
    let stranger = crate::support::local_hanko(&clock).await;
    let padding = json!({ "padding": "x".repeat(11_000) });
    // All requests come from the proxy.
    let from = async |client: &str, body: &Value| {
        let request = app.request(Method::POST, "/webhooks/hanko").json(body);
        let request = request.header("x-forwarded-for", client);
        passing(&clock, send(request)).await.status().as_u16()
    };
    // Until this client's share is used up.
    let refused = loop {
        let flood = stranger.webhook_body(LOGOUT, &padding);
        match from("192.0.2.1", &flood).await {
            202 => {}
            status => break status,
        }
    };
    assert_eq!(refused, 503);
    let session = local_hanko.sign_in(&ada());
    let mut data = local_hanko.session_data(session.session_id).unwrap();
    data["padding"] = padding["padding"].clone();
    let genuine = local_hanko.webhook_body(LOGOUT, &data);
    let held = app.hanko.webhook_status().held;
    assert_eq!(from("198.51.100.1", &genuine).await, 202);
    let status = app.hanko.webhook_status();
    assert!(status.dropped > 0 && status.held <= held, "{status:?}");
}

/// A store that enforces revocations in this process and reports that it could not write them.
#[derive(Debug)]
struct Failing(MemoryStore);

impl RevocationStore for Failing {
    fn is_revoked(&self, session: SessionId, user: UserId, issued_at: Option<NumericDate>) -> bool {
        self.0.is_revoked(session, user, issued_at)
    }

    fn revoke(&self, revocation: Revocation) -> Revoking<'_> {
        drop(self.0.revoke(revocation));
        Box::pin(std::future::ready(Err(StoreUnavailable("away".to_owned()))))
    }

    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Revocation> {
        self.0.subscribe()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[tokio::test]
async fn a_revocation_that_the_store_did_not_take_is_enforced() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock.clone()))
        .revocation_store(Arc::new(Failing(MemoryStore::new(Arc::new(clock)))))
        .build()
        .unwrap();
    let session = local_hanko.sign_in(&ada());
    assert!(hanko.authenticate(&session.token).await.is_ok());
    let body = logout_body(&local_hanko, &session).to_string();
    let receipt = hanko.receive_webhook(body.as_bytes()).await;
    assert!(matches!(receipt, Ok(Receipt::Verified(_))));
    assert!(hanko.authenticate(&session.token).await.is_err());
}

/// A `Hanko` whose listener is `listener`.
async fn listening<F, Fut>(clock: &ManualClock, listener: F) -> (LocalHanko, Hanko)
where
    F: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let local_hanko = local_hanko(clock).await;
    let hanko = hanko_builder(local_hanko.hanko_url())
        .clock(Arc::new(clock.clone()))
        .on_event(listener)
        .build()
        .unwrap();
    hanko.wait_for_key_set_fetches(1).await;
    (local_hanko, hanko)
}

async fn receive(hanko: &Hanko, body: &Value) -> Event {
    match hanko.receive_webhook(body.to_string().as_bytes()).await {
        Ok(Receipt::Verified(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn failed_listener_receives_its_event_again() {
    let clock = ManualClock::new(START);
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let (local_hanko, hanko) = listening(&clock, {
        let attempts = Arc::clone(&attempts);
        move |event| {
            let count = {
                let mut attempts = attempts.lock().unwrap();
                attempts.push(event.id().to_owned());
                attempts.len()
            };
            async move {
                match count {
                    1 => Err("not now".to_owned()),
                    2 => panic!("on purpose"),
                    _ => Ok(()),
                }
            }
        }
    })
    .await;
    let body = local_hanko.webhook_body("user.update", &json!({ "id": ada().id().as_uuid() }));
    let event = receive(&hanko, &body).await;
    let is_done = async {
        while attempts.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    passing(&clock, is_done).await;
    // The id is that of the token, whenever and however often it is received.
    assert!(attempts.lock().unwrap().iter().all(|id| id == event.id()));
    assert_eq!(receive(&hanko, &body).await.id(), event.id());
    let other = local_hanko.webhook_body("user.update", &json!({}));
    assert_ne!(receive(&hanko, &other).await.id(), event.id());
    assert_eq!(hanko.webhook_status().given_up, 0);
}

#[tokio::test]
async fn an_event_is_given_up_after_ten_minutes() {
    let clock = ManualClock::new(START);
    let attempts = Arc::new(AtomicU32::new(0));
    let (local_hanko, hanko) = listening(&clock, {
        let attempts = Arc::clone(&attempts);
        move |_| {
            attempts.fetch_add(1, SeqCst);
            async { Err("never".to_owned()) }
        }
    })
    .await;
    let body = local_hanko.webhook_body("user.update", &json!({}));
    receive(&hanko, &body).await;
    let is_done = async {
        while hanko.webhook_status().given_up == 0 {
            tokio::task::yield_now().await;
        }
    };
    passing(&clock, is_done).await;
    let elapsed = elapsed(&clock);
    assert!((540..=615).contains(&elapsed.as_secs()), "{elapsed:?}");
    assert!((10..=30).contains(&attempts.load(SeqCst)));
}

#[tokio::test]
async fn losses_at_the_end_are_reported_once() {
    let log = Log::default();
    let config = TelemetryConfig {
        format: LogFormat::Text,
        filter: "warn".to_owned(),
    };
    let _guard = listen(log_subscriber(&config, log.maker()));
    let lost = || {
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains("are lost"));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let clock = ManualClock::new(START);
    let heard = Arc::new(AtomicU32::new(0));
    let (local_hanko, hanko) = listening(&clock, {
        let heard = Arc::clone(&heard);
        move |_| {
            let is_first = heard.fetch_add(1, SeqCst) == 0;
            async move {
                if !is_first {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
    })
    .await;
    let body = local_hanko.webhook_body("user.update", &json!({ "id": ada().id() }));
    receive(&hanko, &body).await;
    until(|| heard.load(SeqCst) == 1).await;
    pause().await;
    // The listener has received this one, so it is not lost.
    // One event that the listener is handling, and one in the queue.
    receive(&hanko, &body).await;
    receive(&hanko, &body).await;
    until(|| heard.load(SeqCst) == 2).await;
    let session = local_hanko.sign_in(&ada());
    local_hanko.rotate_key().await.unwrap();
    local_hanko.set_fault(Fault::DatabaseDown);
    let held = logout_body(&local_hanko, &session).to_string();
    let receipt = passing(&clock, hanko.receive_webhook(held.as_bytes())).await;
    assert!(matches!(receipt, Ok(Receipt::Held)), "{receipt:?}");
    drop(hanko.clone());
    assert!(lost().is_empty(), "{}", log.text());
    drop(hanko);
    let lines = lost();
    assert_eq!(lines.len(), 1, "{}", log.text());
    for part in ["WARN", "unverified=1", "undelivered=2"] {
        assert!(lines[0].contains(part), "{}", lines[0]);
    }
}

#[tokio::test]
async fn a_listener_that_hangs_delays_no_webhook() {
    let clock = ManualClock::new(START);
    let (local_hanko, hanko) = listening(&clock, |_| std::future::pending()).await;
    let body = local_hanko.webhook_body("user.update", &json!({}));
    for _ in 0..1000 {
        receive(&hanko, &body).await;
    }
    assert_eq!(hanko.webhook_status().given_up, 0);
    receive(&hanko, &body).await;
    // It is still accepted, but no listener will receive it.
    assert_eq!(hanko.webhook_status().given_up, 1);
    assert_eq!(hanko.webhook_status().accepted, 1001);
}

#[tokio::test]
async fn every_listener_gets_every_event() {
    let clock = ManualClock::new(START);
    let local_hanko = local_hanko(&clock).await;
    let heard = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    let mut builder = hanko_builder(local_hanko.hanko_url()).clock(Arc::new(clock));
    for heard in &heard {
        let heard = Arc::clone(heard);
        builder = builder.on_event(move |_| {
            heard.fetch_add(1, SeqCst);
            async { Ok::<_, String>(()) }
        });
    }
    let hanko = builder.build().unwrap();
    let body = local_hanko.webhook_body("user.update", &json!({}));
    receive(&hanko, &body).await;
    until(|| heard.iter().all(|heard| heard.load(SeqCst) == 1)).await;
}

/// A key rotation while session tokens and forged webhooks with unknown `kid`s flood in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_during_a_flood_loses_no_webhook() {
    let (local_hanko, app) = start().await;
    let app = Arc::new(app);
    local_hanko.set_session_limit(100);
    let person = ada();
    let sessions: Vec<SignedIn> = (0..50).map(|_| local_hanko.sign_in(&person)).collect();
    let forged = forged(&app.clock).await;
    let unknown = {
        let stranger = crate::support::local_hanko(&app.clock).await;
        stranger.sign_in(&ada()).token
    };
    let attackers: Vec<_> = (0..8)
        .map(|number| {
            let (app, forged, unknown) = (Arc::clone(&app), forged.clone(), unknown.clone());
            tokio::spawn(async move {
                loop {
                    if number % 2 == 0 {
                        post(&app, &forged).await;
                    } else {
                        app.get_with_bearer("/protected", &unknown).await;
                    }
                }
            })
        })
        .collect();
    let ticking = tokio::spawn({
        let clock = app.clock.clone();
        async move {
            loop {
                pause().await;
                clock.advance(Duration::from_millis(100));
            }
        }
    });
    for (index, session) in sessions.iter().enumerate() {
        if index % 10 == 0 {
            local_hanko.rotate_key().await.unwrap();
        }
        let status = post(&app, &logout_body(&local_hanko, session)).await;
        assert!(matches!(status, 202 | 204), "{index}: {status}");
    }
    until(|| app.hanko.revocations() == 50).await;
    ticking.abort();
    for attacker in attackers {
        attacker.abort();
    }
    for session in &sessions {
        let error = app.hanko.authenticate(&session.token).await.unwrap_err();
        assert!(error.retry_after().is_none(), "{error}");
        assert_ne!(error, TokenError::UnknownKey.into());
    }
}
