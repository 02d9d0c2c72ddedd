//! Many clients at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{RwLock, watch},
    task::JoinSet,
};

use super::{
    COOLDOWN, REFRESH_IS_DUE, Scene,
    key_endpoint::{Answer, Gate},
    unknown_kid::token_of,
};
use crate::support::{client, report, within};

const CLIENTS: usize = 50;

/// The state of a token's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// In the set that Hanko serves.
    Published,
    /// Withdrawn by Hanko; the service may notice it at any moment.
    Withdrawn,
    /// No longer in the set of the service.
    Removed,
}

/// The state that the clients of a rotation under load share.
#[derive(Default)]
struct Rotation {
    /// The tokens that are sent. Each request holds a read lock, so that only the keys of the service change meanwhile.
    tokens: RwLock<Vec<(String, Key)>>,
    turn: AtomicUsize,
    answered: watch::Sender<u64>,
    answers: Mutex<HashMap<(Key, u16), u64>>,
}

impl Rotation {
    async fn add(&self, token: String) {
        self.tokens.write().await.push((token, Key::Published));
    }

    async fn say_of_old_keys(&self, key: Key) {
        let mut tokens = self.tokens.write().await;
        let last = tokens.len() - 1;
        for token in &mut tokens[..last] {
            token.1 = key;
        }
    }

    async fn forget_old_keys(&self) {
        let mut tokens = self.tokens.write().await;
        let last = tokens.len() - 1;
        tokens.drain(..last);
    }

    /// Waits until this many more requests have got a response.
    async fn wait_for_more(&self, requests: u64) {
        let mut answered = self.answered.subscribe();
        let goal = *answered.borrow() + requests;
        within(answered.wait_for(|answered| *answered >= goal))
            .await
            .expect("clients");
    }

    /// Sends the tokens in turn until it is cancelled.
    async fn send_for_ever(&self, url: &str) {
        let client = client();
        loop {
            let tokens = self.tokens.read().await;
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (token, key) = &tokens[turn % tokens.len()];
            let response = client.get(url).bearer_auth(token).send().await;
            let status = response.expect("an answer").status().as_u16();
            match key {
                Key::Published => assert_eq!(status, 200, "a valid token was refused"),
                Key::Withdrawn => assert!(matches!(status, 200 | 401), "{status}"),
                Key::Removed => assert_eq!(status, 401, "the key is gone from the set"),
            }
            *self
                .answers
                .lock()
                .expect("no panic")
                .entry((*key, status))
                .or_default() += 1;
            self.answered.send_modify(|answered| *answered += 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_under_load_rejects_only_tokens_of_removed_keys() {
    const ROTATIONS: u64 = 4;
    let scene = Scene::healthy().await;
    let rotation = Arc::new(Rotation::default());
    rotation.add(scene.token()).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let rotation = Arc::clone(&rotation);
        let url = scene.app.url("/protected");
        clients.spawn(async move { rotation.send_for_ever(&url).await });
    }

    let load = async {
        let mut fetches = 1;
        rotation.wait_for_more(500).await;
        for _ in 0..ROTATIONS {
            // A new key is published and signs from now on. The service does not know it yet.
            scene.local_hanko.rotate_key().await.expect("a key");
            scene.publish();
            rotation.add(scene.token()).await;
            rotation.wait_for_more(500).await;
            fetches += 1;
            assert_eq!(scene.endpoint.requests(), fetches, "one fetch for all");

            // The old key is withdrawn, which the next refresh notices.
            rotation.say_of_old_keys(Key::Withdrawn).await;
            scene.local_hanko.retire_old_keys();
            scene.publish();
            rotation.wait_for_more(200).await;
            assert_eq!(scene.endpoint.requests(), fetches);
            scene.app.clock.advance(REFRESH_IS_DUE);
            fetches += 1;
            scene.fetches(fetches).await;
            rotation.say_of_old_keys(Key::Removed).await;
            rotation.wait_for_more(500).await;
            // The removed key has caused one fetch.
            fetches += 1;
            assert_eq!(scene.endpoint.requests(), fetches);

            rotation.forget_old_keys().await;
            scene.app.clock.advance(COOLDOWN);
        }
    };
    tokio::select! {
        () = load => {}
        Some(ended) = clients.join_next() => panic!("a client ended: {ended:?}"),
    }

    let answers = rotation.answers.lock().expect("no panic");
    let count = |key, status| answers.get(&(key, status)).copied().unwrap_or_default();
    assert!(count(Key::Published, 200) > 2000, "{answers:?}");
    assert!(count(Key::Removed, 401) > 500, "{answers:?}");
    report(&format!(
        "rotation under load: {CLIENTS} clients sent {} requests over {ROTATIONS} rotations: {answers:?}",
        *rotation.answered.borrow()
    ));
}

/// Sends tokens with this many different unknown kids over kept connections, and asserts the response to each.
async fn send_unknown_kids(scene: &Scene, kids: std::ops::Range<u64>, expected: u16) {
    let next = Arc::new(AtomicU64::new(kids.start));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let next = Arc::clone(&next);
        let url = scene.app.url("/protected");
        let client = client();
        clients.spawn(async move {
            loop {
                let kid = next.fetch_add(1, Ordering::Relaxed);
                if kid >= kids.end {
                    return;
                }
                let token = token_of(&format!("unknown-{kid}"));
                let response = client.get(&url).bearer_auth(token).send().await;
                assert_eq!(response.expect("an answer").status(), expected);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_thousand_unknown_kids_cause_one_fetch_in_a_cooldown() {
    let scene = Scene::healthy().await;
    send_unknown_kids(&scene, 0..5000, 401).await;
    assert_eq!(scene.endpoint.requests(), 2);
    scene.accepts(&scene.token()).await;
    for cooldown in 1..=3 {
        scene.app.clock.advance(COOLDOWN);
        let first = 5000 + cooldown * 100;
        send_unknown_kids(&scene, first..first + 100, 401).await;
        assert_eq!(scene.endpoint.requests(), 2 + cooldown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_thousand_unknown_kids_cause_one_failed_fetch() {
    let scene = Scene::healthy().await;
    let failure = Answer::status("500 Internal Server Error", "", "");
    scene.endpoint.answer(failure);
    let token = scene.token();
    send_unknown_kids(&scene, 0..5000, 503).await;
    assert_eq!(scene.endpoint.requests(), 2);
    scene.accepts(&token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_first_requests_cause_one_fetch_and_all_succeed() {
    let gate = Gate::closed();
    let scene = Scene::start(|key_set| Answer::key_set(key_set).behind(&gate)).await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = TcpStream::connect(scene.app.address)
            .await
            .expect("the API");
        let token = scene.token();
        let request = format!(
            "GET /protected HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.expect("the API");
        clients.push(client);
    }
    scene.endpoint.wait_for_requests(1).await;
    scene.is_alive_but_not_ready().await;
    gate.open();
    for mut client in clients {
        let mut response = String::new();
        within(client.read_to_string(&mut response))
            .await
            .expect("an answer");
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
    assert_eq!(scene.endpoint.requests(), 1);
}
