//! `HankoAuth<Live>`: Hanko is asked now.

use poem::{EndpointExt, Route, test::TestClient};
use poem_hanko::{AuthenticateError, HankoAuth, Live, SessionMode, WithProblems, testing::Fault};
use poem_openapi::{OpenApi, OpenApiService, payload::PlainText};

use super::{SECOND, Scene, TTL};
use crate::support::{ada, within};

const MODES: [SessionMode; 3] = [
    SessionMode::Stateless,
    SessionMode::Hybrid,
    SessionMode::Stateful,
];

#[tokio::test]
async fn live_asks_hanko_each_time_and_every_request_learns() {
    for mode in MODES {
        let scene = Scene::new(mode).await;
        let session = scene.local_hanko.sign_in(&ada());
        for asked in 1..=3 {
            let outcome = scene.hanko.authenticate_live(&session.token).await;
            assert!(outcome.is_ok(), "{mode:?}");
            assert_eq!(scene.validations().await, asked, "{mode:?}");
        }
        // The answer counts for other requests.
        assert_eq!(scene.status(&session).await, 200);
        assert_eq!(scene.validations().await, 3, "{mode:?}");

        scene
            .local_hanko
            .end_session(session.session_id)
            .await
            .unwrap();
        let outcome = scene.hanko.authenticate_live(&session.token).await;
        assert_eq!(outcome.unwrap_err(), AuthenticateError::SessionEnded);
        assert_eq!(scene.status(&session).await, 401, "{mode:?}");
        assert_eq!(scene.validations().await, 4, "{mode:?}");
    }
}

#[tokio::test]
async fn an_end_found_in_stateless_stays_and_is_looked_at_again() {
    let scene = Scene::new(SessionMode::Stateless).await;
    let session = scene.local_hanko.sign_in(&ada());
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    assert!(scene.hanko.authenticate_live(&session.token).await.is_err());
    for asked in 1..4 {
        scene.clock.advance(TTL.saturating_sub(SECOND));
        assert_eq!(scene.status(&session).await, 401);
        assert_eq!(scene.validations().await, asked);
        scene.clock.advance(SECOND);
        // No request waits for it.
        assert_eq!(scene.status(&session).await, 401);
        scene.settle().await;
    }
}

#[tokio::test]
async fn without_an_answer_nothing_older_counts() {
    for mode in MODES {
        for fault in [Fault::InternalError, Fault::DatabaseDown] {
            let scene = Scene::new(mode).await;
            let session = scene.local_hanko.sign_in(&ada());
            assert_eq!(scene.status(&session).await, 200);
            scene.local_hanko.set_fault(fault);
            let outcome = scene.hanko.authenticate_live(&session.token).await;
            assert!(
                matches!(outcome, Err(AuthenticateError::Validation(_))),
                "{mode:?} {fault:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_older_open_request_does_not_count() {
    let scene = Scene::new(SessionMode::Hybrid).await;
    let session = scene.local_hanko.sign_in(&ada());
    let held = scene.local_hanko.hold_validations();
    let call = |live: bool| {
        let (hanko, token) = (scene.hanko.clone(), session.token.clone());
        tokio::spawn(async move {
            if live {
                hanko.authenticate_live(&token).await.map(drop)
            } else {
                hanko.authenticate(&token).await.map(drop)
            }
        })
    };
    // Hanko has found the session active, and its response is on its way.
    let ordinary = call(false);
    held.wait_for(1).await;
    let live = call(true);
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    held.release();
    assert_eq!(within(ordinary).await.unwrap(), Ok(()));
    assert_eq!(
        within(live).await.unwrap(),
        Err(AuthenticateError::SessionEnded)
    );
    assert_eq!(scene.local_hanko.validate_requests(), 2);
    assert_eq!(scene.local_hanko.most_validations_at_once(), 1);
}

struct Api;

#[expect(clippy::unused_async, reason = "Poem requires async handlers")]
#[OpenApi]
impl Api {
    /// Pay
    #[oai(path = "/pay", method = "post", operation_id = "pay")]
    async fn pay(&self, auth: HankoAuth<Live>) -> PlainText<String> {
        PlainText(auth.user_id().to_string())
    }
}

#[tokio::test]
async fn the_extractor_asks_and_documents_both_schemes() {
    let scene = Scene::new(SessionMode::Stateless).await;
    let session = scene.local_hanko.sign_in(&ada());
    let service = OpenApiService::new(WithProblems(Api), "pay", "1.0");
    let document: serde_json::Value = serde_json::from_str(&service.spec()).unwrap();
    assert_eq!(
        document["paths"]["/pay"]["post"]["security"],
        serde_json::json!([{ "bearer": [] }, { "cookie": [] }])
    );
    let client = TestClient::new(Route::new().nest("/", service).data(scene.hanko.clone()));
    client.post("/pay").send().await.assert_status(http(401));
    let pay = || {
        client
            .post("/pay")
            .header("authorization", format!("Bearer {}", session.token))
            .send()
    };
    pay().await.assert_status_is_ok();
    scene
        .local_hanko
        .end_session(session.session_id)
        .await
        .unwrap();
    pay().await.assert_status(http(401));
    assert_eq!(scene.local_hanko.validate_requests(), 2);
}

fn http(status: u16) -> poem::http::StatusCode {
    status.try_into().unwrap()
}
