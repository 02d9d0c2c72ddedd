//! The store in a Redis Cluster of three primaries, started here.

use std::{sync::Arc, time::Duration};

use poem_hanko::{
    Clock, ManualClock, RedisStore, Revocation, RevocationStore, StoreStatus, Target,
};
use uuid::Uuid;

use super::{
    LOGOUT, RealSleeps, Redis, Replica, all_ready, clock_not_behind, real_hanko,
    session_revocation, until, user_revocation, vacant_port,
};
use crate::support::ada;

const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;

/// The nodes of a cluster. The slots are spread evenly over the first three.
struct Cluster {
    nodes: Vec<Redis>,
    bus_ports: Vec<u16>,
}

impl Cluster {
    async fn start() -> Option<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            bus_ports: Vec::new(),
        };
        for index in 0..PRIMARIES {
            let node = cluster.add_node()?;
            node.reaches().await;
            let first = (SLOTS * index).div_ceil(PRIMARIES).to_string();
            let last = ((SLOTS * (index + 1)).div_ceil(PRIMARIES) - 1).to_string();
            node.tell(&["cluster", "addslotsrange", &first, &last]);
            node.tell(&["cluster", "set-config-epoch", &(index + 1).to_string()]);
        }
        for index in 1..PRIMARIES {
            cluster.meet(index);
        }
        cluster.agrees(PRIMARIES).await;
        Some(cluster)
    }

    fn add_node(&mut self) -> Option<&Redis> {
        let bus_port = vacant_port();
        let node = Redis::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus_port.to_string(),
            "--cluster-node-timeout",
            "1000",
            // As some operators configure it, so that the other nodes stay available.
            "--cluster-require-full-coverage",
            "no",
            "--repl-ping-replica-period",
            "1",
        ])?;
        self.bus_ports.push(bus_port);
        self.nodes.push(node);
        self.nodes.last()
    }

    fn meet(&self, index: usize) {
        let (port, bus_port) = (self.nodes[index].port, self.bus_ports[index]);
        self.nodes[0].tell(&[
            "cluster",
            "meet",
            "127.0.0.1",
            &port.to_string(),
            &bus_port.to_string(),
        ]);
    }

    /// Waits until all running nodes know each other and the owner of each slot.
    async fn agrees(&self, nodes: usize) {
        for node in &self.nodes {
            until("the nodes agree", async || {
                let info = node.ask(&["cluster", "info"]);
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains(&format!("cluster_known_nodes:{nodes}"))
                    && !node.ask(&["cluster", "nodes"]).contains("handshake")
            })
            .await;
        }
    }

    fn url(&self, index: usize) -> String {
        self.nodes[index].url()
    }

    fn id(&self, index: usize) -> String {
        self.nodes[index].ask(&["cluster", "myid"])
    }

    /// The numbers of keys on the primaries.
    fn sizes(&self) -> Vec<usize> {
        let size = |node: &Redis| node.ask(&["dbsize"]).parse().unwrap();
        self.nodes[..PRIMARIES].iter().map(size).collect()
    }

    async fn filled_store(&self, index: usize, clock: &ManualClock) -> RedisStore {
        super::filled_store(&self.nodes[index], clock).await
    }
}

impl Redis {
    async fn reaches(&self) {
        until("the node listens", async || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        })
        .await;
    }
}

/// The slot of a key, by the CRC-16 of the Redis Cluster specification.
fn slot(key: &str) -> usize {
    let crc = key.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ (if crc & 0x8000 == 0 { 0 } else { 0x1021 })
        })
    });
    usize::from(crc) % SLOTS
}

/// A session whose revocation is kept in a slot of this primary.
fn session_at(index: usize, end: Duration) -> Revocation {
    session_in(end, |slot| slot * PRIMARIES / SLOTS == index).0
}

/// A session whose revocation is kept in such a slot, and its key.
fn session_in(end: Duration, is_wanted: impl Fn(usize) -> bool) -> (Revocation, String) {
    loop {
        let id = Uuid::new_v4();
        let key = format!("poem-hanko:revoked:session:{id}:{}", end.as_secs());
        if is_wanted(slot(&key)) {
            return (session_revocation(id, end), key);
        }
    }
}

fn knows(store: &RedisStore, revocation: &Revocation) -> bool {
    let stranger = Uuid::new_v4();
    match revocation.target {
        Target::Session(id) => store.is_revoked(id, stranger.into(), None),
        Target::User { id, .. } => store.is_revoked(stranger.into(), id, None),
    }
}

/// An end in whole seconds, as keys have it.
fn in_an_hour(clock: &ManualClock) -> Duration {
    Duration::from_secs(clock.unix_time().as_secs() + 3600)
}

#[tokio::test]
async fn cluster_passes_each_revocation_to_each_replica() {
    const EACH: usize = 30;

    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let clock = clock_not_behind();
    let end = in_an_hour(&clock);
    let stores = [
        cluster.filled_store(0, &clock).await,
        cluster.filled_store(2, &clock).await,
    ];
    let mut revocations = Vec::new();
    for index in 0..2 * EACH {
        let id = Uuid::new_v4();
        let revocation = if index % 2 == 0 {
            session_revocation(id, end)
        } else {
            user_revocation(id, end, end)
        };
        stores[index % stores.len()]
            .revoke(revocation)
            .await
            .unwrap();
        revocations.push(revocation);
    }
    for store in &stores {
        until("the other replica knows them all", async || {
            revocations
                .iter()
                .all(|revocation| knows(store, revocation))
        })
        .await;
        assert_eq!(store.status(), StoreStatus::Ok);
    }
    let sizes = cluster.sizes();
    assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), revocations.len());
    // A replica that starts later, at any node.
    for index in 0..PRIMARIES {
        assert_eq!(
            cluster.filled_store(index, &clock).await.len(),
            revocations.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_enforced_by_replicas_at_other_nodes() {
    const SESSIONS: usize = 12;

    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let local_hanko = real_hanko().await;
    local_hanko.set_session_limit(SESSIONS + 1);
    let replicas: Vec<_> = (0..PRIMARIES)
        .map(|index| Replica::start(&local_hanko.url(), &cluster.url(index)))
        .collect();
    all_ready(&replicas).await;
    let person = ada();
    for index in 0..SESSIONS {
        let session = local_hanko.sign_in(&person);
        let data = local_hanko.session_data(session.session_id).unwrap();
        let body = local_hanko.webhook_body(LOGOUT, &data);
        assert_eq!(replicas[index % replicas.len()].webhook(&body).await, 204);
        for replica in &replicas {
            until("the replica rejects the session", async || {
                replica.status("/protected", &session.token).await == 401
            })
            .await;
        }
    }
    assert_eq!(cluster.sizes().iter().sum::<usize>(), SESSIONS);
}

#[tokio::test]
async fn cluster_node_that_lost_its_keys_gets_them_back() {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    let clock = clock_not_behind();
    let end = in_an_hour(&clock);
    let store = cluster.filled_store(0, &clock).await;
    let mut written = 0;
    for index in [0, 1, 1, 1, 2] {
        store.revoke(session_at(index, end)).await.unwrap();
        written += 1;
    }
    assert_eq!(cluster.sizes(), [1, 3, 1]);
    cluster.nodes[1].kill();
    cluster.nodes[1].run();
    cluster.nodes[1].reaches().await;
    until("the node has its keys again", async || {
        cluster.sizes() == [1, 3, 1]
    })
    .await;
    assert_eq!(cluster.filled_store(1, &clock).await.len(), written);
}

#[tokio::test]
async fn slot_that_moves_keeps_and_takes_revocations() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let clock = clock_not_behind();
    let end = in_an_hour(&clock);
    let store = cluster.filled_store(0, &clock).await;
    let other = cluster.filled_store(2, &clock).await;
    let (before, key) = session_in(end, |slot| slot < SLOTS / PRIMARIES);
    let moving = slot(&key);
    let [during, after, late] = [(); 3].map(|()| session_in(end, |slot| slot == moving).0);
    store.revoke(before).await.unwrap();

    let moving = moving.to_string();
    let [source, target] = [cluster.id(0), cluster.id(1)];
    cluster.nodes[1].tell(&["cluster", "setslot", &moving, "importing", &source]);
    cluster.nodes[0].tell(&["cluster", "setslot", &moving, "migrating", &target]);
    store.revoke(during).await.unwrap();
    let target_port = cluster.nodes[1].port.to_string();
    cluster.nodes[0].tell(&["migrate", "127.0.0.1", &target_port, &key, "0", "1000"]);
    // One node has a part of the slot, the other the rest.
    store.revoke(after).await.unwrap();
    assert_eq!(cluster.filled_store(0, &clock).await.len(), 3);
    for node in [1, 0, 2] {
        cluster.nodes[node].tell(&["cluster", "setslot", &moving, "node", &target]);
    }
    store.revoke(late).await.unwrap();
    for revocation in [before, during, after, late] {
        until("the other replica knows", async || {
            knows(&other, &revocation)
        })
        .await;
    }
    assert_eq!(cluster.sizes(), [0, 4, 0]);
    assert_eq!(cluster.filled_store(2, &clock).await.len(), 4);
}

#[tokio::test]
async fn cluster_without_a_node_degrades_and_catches_up() {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    let clock = clock_not_behind();
    let end = in_an_hour(&clock);
    let store = cluster.filled_store(0, &clock).await;
    let other = cluster.filled_store(2, &clock).await;
    cluster.nodes[1].kill();
    for store in [&store, &other] {
        until("the store is degraded", async || {
            store.status() == StoreStatus::Degraded
        })
        .await;
    }

    // A revocation for that node is enforced in the replica that receives it; the others still reach every replica.
    let [lost, kept] = [1, 0].map(|index| session_at(index, end));
    store.revoke(lost).await.unwrap_err();
    assert!(knows(&store, &lost));
    store.revoke(kept).await.unwrap();
    until("the other replica knows", async || knows(&other, &kept)).await;

    // A replica that starts now does not know the revocations on that node.
    let late = RedisStore::start(&cluster.url(0), Arc::new(RealSleeps(clock.clone()))).unwrap();
    assert_eq!(late.check().await, Ok(()));
    assert!(!late.is_ready());

    cluster.nodes[1].run();
    for store in [&store, &other, &late] {
        until("everybody knows", async || {
            store.status() == StoreStatus::Ok && knows(store, &lost) && knows(store, &kept)
        })
        .await;
    }
    assert_eq!(cluster.sizes(), [1, 1, 0]);
}

#[tokio::test]
async fn promoted_replica_of_a_node_takes_revocations() {
    let Some(mut cluster) = Cluster::start().await else {
        return;
    };
    cluster.add_node().unwrap().reaches().await;
    cluster.meet(PRIMARIES);
    cluster.agrees(PRIMARIES + 1).await;
    let primary = cluster.id(0);
    let replica = &cluster.nodes[PRIMARIES];
    replica.tell(&["cluster", "replicate", &primary]);
    until("the replica follows its primary", async || {
        replica
            .ask(&["info", "replication"])
            .contains("master_link_status:up")
    })
    .await;
    let clock = clock_not_behind();
    let end = in_an_hour(&clock);
    // The URL names the node that will be lost.
    let store = cluster.filled_store(0, &clock).await;
    let [first, second] = [(); 2].map(|()| session_at(0, end));
    store.revoke(first).await.unwrap();
    until("it is replicated", async || {
        cluster.nodes[PRIMARIES].ask(&["dbsize"]) == "1"
    })
    .await;

    cluster.nodes[0].kill();
    cluster.nodes[PRIMARIES].tell(&["cluster", "failover", "takeover"]);
    until("the store works again", async || {
        store.status() == StoreStatus::Ok
            && cluster.nodes[PRIMARIES]
                .ask(&["role"])
                .starts_with("master")
    })
    .await;
    store.revoke(second).await.unwrap();
    let other = cluster.filled_store(2, &clock).await;
    for revocation in [first, second] {
        assert!(knows(&other, &revocation));
    }
}
