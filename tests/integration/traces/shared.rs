//! Requests to Hanko that several callers share. The spans are those of any subscriber of `tracing`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::poll;
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use poem_hanko::{Hanko, ManualClock, SessionMode, testing::LocalHanko};
use tracing::{Instrument, subscriber::DefaultGuard};
use tracing_subscriber::layer::SubscriberExt;

use super::{Seen, only};
use crate::support::{START, ada, hanko_builder, listen, local_hanko, within};

/// Keeps the exported spans.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>);

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kept")
    }
}

impl Kept {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn seen(span: &SpanData) -> Seen {
    let hex = |id: &dyn fmt::Display| id.to_string();
    let parent = hex(&span.parent_span_id);
    Seen {
        name: span.name.to_string(),
        kind: match span.span_kind {
            SpanKind::Client => "client",
            SpanKind::Server => "server",
            _ => "internal",
        },
        trace: hex(&span.span_context.trace_id()),
        id: hex(&span.span_context.span_id()),
        parent: if parent.bytes().all(|byte| byte == b'0') {
            String::new()
        } else {
            parent
        },
        links: span
            .links
            .iter()
            .map(|link| {
                (
                    hex(&link.span_context.trace_id()),
                    hex(&link.span_context.span_id()),
                )
            })
            .collect(),
        attributes: span
            .attributes
            .iter()
            .map(|attribute| (attribute.key.to_string(), attribute.value.to_string()))
            .collect(),
        is_error: matches!(span.status, Status::Error { .. }),
    }
}

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(batch.iter().map(seen));
        Ok(())
    }
}

struct Scene {
    local_hanko: LocalHanko,
    hanko: Hanko,
    clock: ManualClock,
    kept: Kept,
    _guard: DefaultGuard,
}

impl Scene {
    async fn new() -> Self {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let guard = listen(tracing_subscriber::registry().with(layer));
        let clock = ManualClock::new(START);
        let local_hanko = local_hanko(&clock).await;
        let hanko = hanko_builder(local_hanko.hanko_url())
            .session_mode(SessionMode::Hybrid)
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap();
        hanko.wait_for_key_set_fetches(1).await;
        let _fetch = kept.take();
        Self {
            local_hanko,
            hanko,
            clock,
            kept,
            _guard: guard,
        }
    }

    fn token(&self) -> String {
        self.local_hanko.sign_in(&ada()).token
    }

    async fn until_validated(&self, validations: u64) {
        within(async {
            while self.hanko.validation_status().validations < validations
                || self.hanko.validation_status().in_flight > 0
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Runs a future in a span of this name, like a request of the application. The span ends with the future.
macro_rules! caller {
    ($name:literal, $future:expr) => {
        Box::pin($future.instrument(tracing::info_span!($name)))
    };
}

#[tokio::test]
async fn validation_for_one_request_is_in_its_trace() {
    let scene = Scene::new().await;
    let token = scene.token();
    let request = scene.hanko.authenticate(&token);
    assert!(within(caller!("a", request)).await.is_ok());
    let spans = scene.kept.take();
    let a = only(&spans, "a");
    let authenticated = only(&spans, "authenticate");
    let validation = only(&spans, "validate session");
    let sent = only(&spans, "POST /sessions/validate");
    assert_eq!(authenticated.parent, a.id);
    assert_eq!(validation.parent, authenticated.id);
    assert_eq!(sent.parent, validation.id);
    assert_eq!((sent.kind, validation.kind), ("client", "internal"));
    for span in &spans {
        assert_eq!(span.trace, a.trace);
        assert!(span.links.is_empty() && !span.is_error, "{span:?}");
    }
}

#[tokio::test]
async fn shared_validation_has_a_trace_of_its_own() {
    let scene = Scene::new().await;
    let token = scene.token();
    let held = scene.local_hanko.hold_validations();
    let mut first = caller!("first", scene.hanko.authenticate(&token));
    assert!(poll!(&mut first).is_pending());
    scene.local_hanko.wait_for_validate_requests(1).await;
    // Neither may use the request that was sent before, so both share the next one.
    let mut second = caller!("second", scene.hanko.authenticate_live(&token));
    let mut third = caller!("third", scene.hanko.authenticate_live(&token));
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut third).is_pending());
    drop(held);
    let (first, second, third) = within(async { tokio::join!(first, second, third) }).await;
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    let spans = scene.kept.take();
    let authentication_of = |name: &str| {
        let caller = only(&spans, name);
        let mut children = spans.iter().filter(|span| span.parent == caller.id);
        children.next().expect("an authentication")
    };
    let validations: Vec<&Seen> = spans
        .iter()
        .filter(|span| span.name == "validate session")
        .collect();
    let [of_first, shared] = validations[..] else {
        panic!("{validations:#?}");
    };
    assert_eq!(of_first.parent, authentication_of("first").id);
    assert!(shared.parent.is_empty(), "{shared:?}");
    assert_eq!(shared.links.len(), 2, "{shared:?}");
    for name in ["second", "third"] {
        assert!(shared.links_to(authentication_of(name)), "{name}");
        assert_ne!(shared.trace, only(&spans, name).trace);
    }
    assert_eq!(
        spans.iter().filter(|span| span.parent == shared.id).count(),
        1
    );
}

#[tokio::test]
async fn request_that_joins_a_sent_validation_is_linked_to_it() {
    let scene = Scene::new().await;
    let token = scene.token();
    let held = scene.local_hanko.hold_validations();
    let mut first = caller!("first", scene.hanko.authenticate(&token));
    assert!(poll!(&mut first).is_pending());
    scene.local_hanko.wait_for_validate_requests(1).await;
    let mut second = caller!("second", scene.hanko.authenticate(&token));
    assert!(poll!(&mut second).is_pending());
    drop(held);
    let (first, second) = within(async { tokio::join!(first, second) }).await;
    assert!(first.is_ok() && second.is_ok());
    let spans = scene.kept.take();
    let validation = only(&spans, "validate session");
    assert_eq!(validation.trace, only(&spans, "first").trace);
    let second = only(&spans, "second");
    let joined = spans.iter().find(|span| span.parent == second.id).unwrap();
    assert!(validation.links_to(joined), "{validation:?}");
    assert!(joined.links_to(validation), "{joined:?}");
}

#[tokio::test]
async fn background_validation_is_linked_to_its_request() {
    let scene = Scene::new().await;
    let token = scene.token();
    assert!(within(scene.hanko.authenticate(&token)).await.is_ok());
    scene.until_validated(1).await;
    let _first = scene.kept.take();
    scene.clock.advance(Duration::from_secs(40));
    let request = scene.hanko.authenticate(&token);
    assert!(within(caller!("request", request)).await.is_ok());
    scene.until_validated(2).await;
    let spans = scene.kept.take();
    let validation = only(&spans, "validate session");
    assert!(validation.parent.is_empty(), "{validation:?}");
    assert_eq!(validation.links.len(), 1);
    assert!(validation.links_to(only(&spans, "authenticate")));
    let sent = only(&spans, "POST /sessions/validate");
    assert_eq!(sent.trace, validation.trace);
}

#[tokio::test]
async fn fetch_for_an_unknown_key_is_linked_to_those_who_wait() {
    let scene = Scene::new().await;
    let old = scene.token();
    assert!(within(scene.hanko.authenticate(&old)).await.is_ok());
    scene.local_hanko.rotate_key().await.unwrap();
    let [first, second] = [scene.token(), scene.token()];
    let _before = scene.kept.take();
    let mut one = caller!("one", scene.hanko.authenticate(&first));
    let mut other = caller!("other", scene.hanko.authenticate(&second));
    assert!(poll!(&mut one).is_pending());
    assert!(poll!(&mut other).is_pending());
    let (one, other) = within(async { tokio::join!(one, other) }).await;
    assert!(one.is_ok() && other.is_ok());
    let spans = scene.kept.take();
    let fetch = only(&spans, "GET /.well-known/jwks.json");
    assert!(fetch.parent.is_empty(), "{fetch:?}");
    assert_eq!(fetch.links.len(), 2, "{fetch:?}");

    // A request for one caller is a part of its trace.
    scene.clock.advance(Duration::from_secs(31));
    scene.local_hanko.rotate_key().await.unwrap();
    let token = scene.token();
    let request = scene.hanko.authenticate(&token);
    assert!(within(caller!("alone", request)).await.is_ok());
    let spans = scene.kept.take();
    let fetch = only(&spans, "GET /.well-known/jwks.json");
    assert_eq!(fetch.parent, only(&spans, "authenticate").id);
}

#[tokio::test]
async fn ended_session_is_confirmed_in_the_same_trace() {
    let scene = Scene::new().await;
    let session = scene.local_hanko.sign_in(&ada());
    let ended = scene.local_hanko.end_session(session.session_id).await;
    ended.unwrap();
    let request = scene.hanko.authenticate(&session.token);
    assert!(within(caller!("request", request)).await.is_err());
    let spans = scene.kept.take();
    let validation = only(&spans, "validate session");
    let fetch = only(&spans, "GET /.well-known/jwks.json");
    assert_eq!(fetch.parent, validation.id);
    validation.assert_attributes(&[("hanko.outcome", "ended")]);
    only(&spans, "authenticate").assert_attributes(&[
        ("hanko.outcome", "rejected"),
        ("hanko.reason", "session-ended"),
    ]);
}
