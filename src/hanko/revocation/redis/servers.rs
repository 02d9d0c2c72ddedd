//! The servers behind the URL: a single Redis, or all primaries of a Redis Cluster.
//!
//! In a cluster, each primary is subscribed to and scanned on its own connections. A revocation is published at the primary
//! that stores it, so a replica of this service that is connected to all primaries misses none while the nodes are cut off
//! from each other.

use std::{collections::HashMap, time::Duration};

use futures_util::{
    StreamExt, TryStreamExt,
    future::try_join_all,
    stream::{self, BoxStream, SelectAll},
};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, ExistenceCheck,
    IntoConnectionInfo, Pipeline, RedisError, RedisResult, ServerErrorKind, SetExpiry, SetOptions,
    Value,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, PubSubSink},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr},
};
use uuid::Uuid;

use super::{
    entry::{PREFIX, key, whole_seconds},
    failure::{Failure, RedisStoreError},
};
use crate::{
    clock::Clock,
    hanko::{
        id::SessionId,
        revocation::{Revocation, Target},
    },
    jose::NumericDate,
};

/// Bounds the response time of a webhook while Redis hangs: Hanko waits 10 s.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of keys requested or written at once.
const SCAN_BATCH: usize = 1000;
/// Number of revocations written to a cluster at the same time.
const CLUSTER_WRITES: usize = 64;
/// Number of slots of every Redis Cluster.
const SLOTS: usize = 16_384;
/// Attempts to follow a slot to its new owner, within [`COMMAND_TIMEOUT`].
const CLUSTER_RETRIES: u32 = 3;
/// Pauses between these attempts, in milliseconds.
const CLUSTER_RETRY_PAUSE: (u64, u64) = (10, 200);

/// Fails if Redis takes longer than [`COMMAND_TIMEOUT`].
async fn in_time<T>(
    clock: &dyn Clock,
    response: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    tokio::select! {
        response = response => response,
        () = clock.sleep(COMMAND_TIMEOUT) => {
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
        }
    }
}

/// One server that holds revocations.
#[derive(Clone)]
struct Node(Client);

/// A connection for commands to one server.
struct NodeConnection(MultiplexedConnection);

impl Node {
    fn new(info: ConnectionInfo) -> RedisResult<Self> {
        Client::open(info).map(Self)
    }

    fn info(&self) -> &ConnectionInfo {
        self.0.get_connection_info()
    }

    async fn connect(&self) -> Result<NodeConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        match self
            .0
            .get_multiplexed_async_connection_with_config(&config)
            .await
        {
            Ok(connection) => Ok(NodeConnection(connection)),
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(self.explain_authentication(error, &config).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends AUTH itself, because the Redis client hides whether the password is wrong or Redis has too many clients.
    async fn explain_authentication(
        &self,
        error: RedisError,
        config: &AsyncConnectionConfig,
    ) -> Failure {
        let settings = self.info().redis_settings();
        let mut command = redis::cmd("AUTH");
        if let Some(username) = settings.username() {
            command.arg(username);
        }
        command.arg(settings.password().unwrap_or_default());
        let anonymous = redis::RedisConnectionInfo::default();
        let info = self.info().clone().set_redis_settings(anonymous);
        let reply: RedisResult<()> = async {
            let mut connection = Client::open(info)?
                .get_multiplexed_async_connection_with_config(config)
                .await?;
            command.query_async(&mut connection).await
        }
        .await;
        match reply.map_err(Failure::from) {
            Err(Failure::Unusable(reason)) => Failure::Unusable(reason),
            _ => Failure::Unavailable(error),
        }
    }
}

impl NodeConnection {
    /// Returns `standalone`, `cluster` or `sentinel`.
    ///
    /// `HELLO` needs no permission. A server without `HELLO` is not in a cluster of a supported version.
    async fn mode(&mut self) -> Result<String, Failure> {
        let hello: RedisResult<HashMap<String, Value>> =
            redis::cmd("HELLO").query_async(&mut self.0).await;
        match hello {
            Ok(mut fields) => Ok(fields
                .remove("mode")
                .and_then(|mode| redis::from_redis_value(mode).ok())
                .unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => {
                Ok(String::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the primaries of the cluster, by host and port.
    async fn primaries(&mut self) -> Result<Vec<(String, u16)>, Failure> {
        type Range = (usize, usize, Vec<Value>);

        let ranges: Vec<Vec<Value>> = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(&mut self.0)
            .await?;
        let mut primaries = Vec::new();
        let mut owned = 0;
        for range in ranges {
            let (first, last, primary): Range =
                redis::from_redis_value(Value::Array(range.into_iter().take(3).collect()))
                    .map_err(RedisError::from)?;
            owned += (last + 1).saturating_sub(first);
            let mut primary = primary.into_iter();
            let host: Option<String> = primary
                .next()
                .map(redis::from_redis_value)
                .transpose()
                .map_err(RedisError::from)?
                .flatten();
            let port: u16 = primary
                .next()
                .map(redis::from_redis_value)
                .transpose()
                .map_err(RedisError::from)?
                .unwrap_or_default();
            let primary = (host.unwrap_or_default(), port);
            if !primaries.contains(&primary) {
                primaries.push(primary);
            }
        }
        if owned < SLOTS {
            return Err(Failure::Unusable(RedisStoreError::SlotsMissing));
        }
        Ok(primaries)
    }

    /// Returns the slots of this node of a cluster, including those that are moving (`[slot->-node]`).
    async fn slots(&mut self) -> Result<String, Failure> {
        /// Node id, address, flags, primary, ping, pong, epoch and link state.
        const FIELDS_BEFORE_SLOTS: usize = 8;

        let nodes: String = redis::cmd("CLUSTER")
            .arg("NODES")
            .query_async(&mut self.0)
            .await?;
        let own = nodes
            .lines()
            .find(|line| line.contains("myself"))
            .unwrap_or_default();
        let slots: Vec<_> = own.split(' ').skip(FIELDS_BEFORE_SLOTS).collect();
        Ok(slots.join(" "))
    }

    async fn scan(&mut self, cursor: u64, count: usize) -> Result<(u64, Vec<Vec<u8>>), Failure> {
        Ok(redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{PREFIX}:*"))
            .arg("COUNT")
            .arg(count)
            .query_async(&mut self.0)
            .await?)
    }

    /// Runs each command that is needed, without an effect: writes a key only if it exists, which it never does, and
    /// publishes a revocation that is over.
    async fn try_out(&mut self) -> Result<(), Failure> {
        let none = Revocation {
            target: Target::Session(SessionId::from(Uuid::nil())),
            until: NumericDate::from(Duration::ZERO),
        };
        let key = key(&none);
        let mut set = redis::cmd("SET");
        let expiry = SetExpiry::EXAT(whole_seconds(NumericDate::LAST));
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::XX)
            .with_expiration(expiry);
        set.arg(&key).arg("").arg(options);
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(PREFIX).arg(&key);
        // One after another: the Redis client cannot tell that MULTI itself failed in a transaction.
        let mut is_aborted = false;
        for command in [redis::cmd("MULTI"), set, publish] {
            let tried: RedisResult<Value> = command.query_async(&mut self.0).await;
            match tried {
                Ok(_) => {}
                Err(error) if is_about_slots(&error) => is_aborted = true,
                Err(error) => return Err(error.into()),
            }
        }
        let executed: RedisResult<Value> = redis::cmd("EXEC").query_async(&mut self.0).await;
        match executed.map_err(Failure::from) {
            Err(Failure::Unavailable(_)) if is_aborted => {}
            outcome => drop(outcome?),
        }
        self.scan(0, 1).await?;
        Ok(())
    }
}

/// Returns whether the error only means that the node does not serve the slot, or not now.
fn is_about_slots(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};

    error.clone().into_server_errors().is_some_and(|replies| {
        replies
            .iter()
            .all(|(_, reply)| matches!(reply.kind(), Some(Ask | ClusterDown | Moved | TryAgain)))
    })
}

/// Writes revocations to the servers that store them, and reconnects to a server that was down.
#[derive(Clone)]
pub(super) enum Writer {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Writer {
    /// Returns a writer to the server of the URL, which connects when it is used.
    pub(super) fn lazy(info: ConnectionInfo) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_number_of_retries(1);
        ConnectionManager::new_lazy_with_config(Client::open(info)?, config).map(Self::Single)
    }

    async fn cluster(nodes: &[Node], clock: &dyn Clock) -> RedisResult<Self> {
        let (shortest, longest) = CLUSTER_RETRY_PAUSE;
        let client = ClusterClientBuilder::new(nodes.iter().map(|node| node.info().clone()))
            .connection_timeout(COMMAND_TIMEOUT)
            .response_timeout(COMMAND_TIMEOUT)
            .overall_response_timeout(Some(COMMAND_TIMEOUT))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(shortest)
            .max_retry_wait(longest)
            .build()?;
        in_time(clock, client.get_async_connection())
            .await
            .map(Self::Cluster)
    }

    /// Stores and publishes revocations. Writing one twice does no harm.
    pub(super) async fn write(&self, revocations: &[Revocation]) -> RedisResult<()> {
        match self {
            Self::Single(connection) => {
                let mut connection = connection.clone();
                for batch in revocations.chunks(SCAN_BATCH) {
                    write_transaction(&mut connection, batch).await?;
                }
                Ok(())
            }
            Self::Cluster(connection) => {
                stream::iter(revocations.to_vec())
                    .map(|revocation| write_to_owner(connection.clone(), revocation))
                    .buffer_unordered(CLUSTER_WRITES)
                    .try_collect()
                    .await
            }
        }
    }
}

fn add_write(pipeline: &mut Pipeline, revocation: &Revocation) -> String {
    let key = key(revocation);
    let expiry =
        SetOptions::default().with_expiration(SetExpiry::EXAT(whole_seconds(revocation.until)));
    pipeline.set_options(&key, "", expiry).ignore();
    pipeline.publish(PREFIX, &key).ignore();
    key
}

/// Writes revocations in one transaction. Tries again once if the connection was closed while idle, which is noticed only
/// when it is used.
async fn write_transaction(
    connection: &mut ConnectionManager,
    revocations: &[Revocation],
) -> RedisResult<()> {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for revocation in revocations {
        add_write(&mut transaction, revocation);
    }
    let first: RedisResult<()> = transaction.query_async(connection).await;
    match first {
        Err(error)
            if error.is_connection_dropped() || error.is_io_error() && !error.is_timeout() =>
        {
            transaction.query_async(connection).await
        }
        outcome => outcome,
    }
}

/// Writes a revocation to the owner of its slot, and publishes it there.
///
/// No transaction: the Redis client does not follow a moved slot within one.
async fn write_to_owner(
    mut connection: ClusterConnection,
    revocation: Revocation,
) -> RedisResult<()> {
    let mut commands = redis::pipe();
    let key = add_write(&mut commands, &revocation);
    let count = commands.len();
    let owner = SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master));
    for reply in connection.route_pipeline(commands, 0, count, owner).await? {
        reply.extract_error()?;
    }
    Ok(())
}

/// The messages published at all servers. `None` means that a server has closed the connection.
type Messages = SelectAll<BoxStream<'static, Option<Vec<u8>>>>;

/// Subscriptions to the channel at all servers.
#[derive(Default)]
pub(super) struct Subscriptions {
    sinks: Vec<PubSubSink>,
    messages: Messages,
}

impl Subscriptions {
    /// Returns the next message, or `None` if a server has closed the connection. Never completes without a connection.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        match self.messages.next().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }

    /// Fails if one of the connections is broken, which may go unnoticed while nothing is published.
    pub(super) async fn ping(&mut self, clock: &dyn Clock) -> RedisResult<()> {
        let mut pings = Vec::new();
        for sink in &mut self.sinks {
            // The reply to a missing permission is a value, not an error.
            pings.push(in_time(clock, async {
                sink.ping::<Value>().await?.extract_error()
            }));
        }
        try_join_all(pings).await.map(drop)
    }
}

/// All servers that hold revocations.
pub(super) struct Servers {
    nodes: Vec<Node>,
    is_cluster: bool,
}

impl PartialEq for Servers {
    fn eq(&self, other: &Self) -> bool {
        self.is_cluster == other.is_cluster && self.addresses().eq(other.addresses())
    }
}

impl Servers {
    /// Returns the server of the URL, which may be any node of a cluster.
    pub(super) fn of_url(url: &str) -> RedisResult<Self> {
        Ok(Self {
            nodes: vec![Node::new(url.into_connection_info()?)?],
            is_cluster: false,
        })
    }

    /// Returns the address of the first server.
    pub(super) fn address(&self) -> &ConnectionAddr {
        self.nodes[0].info().addr()
    }

    fn addresses(&self) -> impl Iterator<Item = &ConnectionAddr> {
        self.nodes.iter().map(|node| node.info().addr())
    }

    /// Returns a writer to the only server, which connects when it is used.
    pub(super) fn lazy_writer(&self) -> RedisResult<Writer> {
        Writer::lazy(self.nodes[0].info().clone())
    }

    /// Asks the first of these servers that responds which servers there are now.
    pub(super) async fn discover(&self, known: Option<&Self>) -> Result<Self, Failure> {
        let known = known.into_iter().flat_map(|known| &known.nodes);
        let mut first_failure = None;
        for node in self.nodes.iter().chain(known) {
            match Self::all_known_to(node).await {
                Ok(servers) => return Ok(servers),
                // The failure of the server in the URL comes first and explains most.
                Err(failure) => first_failure = first_failure.or(Some(failure)),
            }
        }
        Err(first_failure.expect("there is a node in the URL"))
    }

    async fn all_known_to(node: &Node) -> Result<Self, Failure> {
        let mut connection = node.connect().await?;
        let nodes = match connection.mode().await?.as_str() {
            "sentinel" => return Err(Failure::Unusable(RedisStoreError::Sentinel)),
            "cluster" => connection
                .primaries()
                .await?
                .into_iter()
                .map(|(host, port)| Node::new(at(node.info(), host, port)))
                .collect::<RedisResult<_>>()?,
            _ => {
                return Ok(Self {
                    nodes: vec![node.clone()],
                    is_cluster: false,
                });
            }
        };
        let mut servers = Self {
            nodes,
            is_cluster: true,
        };
        // Redis lists them by slot, which changes when slots move.
        servers
            .nodes
            .sort_by_key(|node| node.info().addr().to_string());
        Ok(servers)
    }

    async fn connect(&self) -> Result<Vec<NodeConnection>, Failure> {
        let mut connections = Vec::new();
        for node in &self.nodes {
            connections.push(node.connect());
        }
        try_join_all(connections).await
    }

    /// Fails if one of the servers does not allow the commands that are needed.
    pub(super) async fn try_out(&self) -> Result<(), Failure> {
        for mut connection in self.connect().await? {
            connection.try_out().await?;
        }
        Ok(())
    }

    /// Returns a writer to these servers, or `None` for a single server, which has the lazy writer.
    pub(super) async fn writer(&self, clock: &dyn Clock) -> RedisResult<Option<Writer>> {
        if self.is_cluster {
            Writer::cluster(&self.nodes, clock).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Subscribes to the channel at all servers.
    pub(super) async fn subscribe(&self, clock: &dyn Clock) -> RedisResult<Subscriptions> {
        let mut connections = Vec::new();
        for node in &self.nodes {
            connections.push(in_time(clock, async {
                let mut connection = node.0.get_async_pubsub().await?;
                connection.subscribe(PREFIX).await?;
                Ok(connection)
            }));
        }
        let mut subscriptions = Subscriptions::default();
        for connection in try_join_all(connections).await? {
            let (sink, messages) = connection.split();
            let messages = messages
                .map(|message| Some(message.get_payload_bytes().to_vec()))
                .chain(stream::iter([None]));
            subscriptions.sinks.push(sink);
            subscriptions.messages.push(messages.boxed());
        }
        subscriptions.ping(clock).await?;
        Ok(subscriptions)
    }

    /// Calls `found` for each key at all servers, for some keys more than once.
    pub(super) async fn scan(&self, found: &mut (dyn FnMut(&[u8]) + Send)) -> Result<(), Failure> {
        let mut connections = self.connect().await?;
        let before = self.slots(&mut connections).await?;
        scan_all(&mut connections, found).await?;
        let after = self.slots(&mut connections).await?;
        let is_moving = before != after || after.iter().any(|slots| slots.contains('['));
        if is_moving {
            // A key that moved past the first scan stays where it is during the second.
            scan_all(&mut connections, found).await?;
        }
        Ok(())
    }

    async fn slots(&self, connections: &mut [NodeConnection]) -> Result<Vec<String>, Failure> {
        if !self.is_cluster {
            return Ok(Vec::new());
        }
        let mut slots = Vec::new();
        for connection in connections {
            slots.push(connection.slots());
        }
        try_join_all(slots).await
    }
}

async fn scan_all(
    connections: &mut [NodeConnection],
    found: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(), Failure> {
    for connection in connections {
        let mut cursor = 0;
        loop {
            let (next, keys) = connection.scan(cursor, SCAN_BATCH).await?;
            for key in &keys {
                found(key);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Returns how to connect to another node of the cluster. An empty host means that of the node that named it.
fn at(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let mut address = info.addr().clone();
    match &mut address {
        ConnectionAddr::Tcp(own_host, own_port)
        | ConnectionAddr::TcpTls {
            host: own_host,
            port: own_port,
            ..
        } => {
            if !host.is_empty() {
                *own_host = host;
            }
            *own_port = port;
        }
        // The URL names a Unix socket, but the nodes of a cluster are named by host and port.
        _ => address = ConnectionAddr::Tcp(host, port),
    }
    info.clone().set_addr(address)
}
