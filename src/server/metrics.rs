//! The metrics for Prometheus: reads the counters of the library at each scrape.

mod families;
mod process;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};
use url::Url;

use self::families::Family;
use crate::{
    app::dropped_log_lines,
    edge::limits::Limits,
    hanko::{Hanko, StoreStatus},
    metrics::{
        Authentication, BUCKETS, CacheLookup, Closed, DurationCounts, FetchOutcome, UnknownKid,
        ValidationOutcome,
    },
    operations::{Checks, component_statuses},
};

/// A callback that returns metrics of an application in Prometheus' text format.
pub(crate) type WriteMetrics = Box<dyn Fn() -> String + Send + Sync>;

pub(crate) use prometheus_text::CONTENT_TYPE;

/// The sources of a server's metrics.
#[derive(Debug)]
pub(crate) struct Observed {
    /// The tenants whose sessions are authenticated; the first is that of the server.
    pub(crate) hankos: Vec<Hanko>,
    /// The application's own readiness checks.
    pub(crate) checks: Checks,
    /// The application's own metrics.
    pub(crate) application: Application,
}

/// The callbacks that return an application's own metrics.
#[derive(Default)]
pub(crate) struct Application(pub(crate) Vec<WriteMetrics>);

impl fmt::Debug for Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Application")
            .finish_non_exhaustive()
    }
}

/// The metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    application: Application,
}

impl Metrics {
    pub(crate) fn new(observed: Observed, limits: Arc<Limits>) -> Self {
        let tenants = tenants(&observed.hankos);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exported {
            hankos: tenants.into_iter().zip(observed.hankos).collect(),
            checks: observed.checks,
            limits,
        }));
        Self {
            registry,
            application: observed.application,
        }
    }

    /// Returns all metrics in Prometheus' text format. Reads files of the kernel, so it may block for some milliseconds.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, &self.registry);
        for write in &self.application.0 {
            text.push_str(&write());
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }
}

/// Returns the label `tenant` of each Hanko: none if there is only one, otherwise the path of its URL, or its host.
fn tenants(hankos: &[Hanko]) -> Vec<Option<String>> {
    if hankos.len() < 2 {
        return vec![None; hankos.len()];
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    hankos
        .iter()
        .map(|hanko| {
            let url = Url::parse(hanko.url().as_str()).ok();
            let path = url.as_ref().map_or("", |url| url.path().trim_matches('/'));
            let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
            let name = if path.is_empty() { host } else { path };
            let count = seen.entry(name.to_owned()).or_default();
            *count += 1;
            // Two may have the same URL, with different settings.
            Some(if *count == 1 {
                name.to_owned()
            } else {
                format!("{name}-{count}")
            })
        })
        .collect()
}

/// Exports everything that is counted.
#[derive(Debug)]
struct Exported {
    /// Each with its label `tenant`.
    hankos: Vec<(Option<String>, Hanko)>,
    checks: Checks,
    limits: Arc<Limits>,
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::default();
        self.http(&mut scrape);
        for (tenant, hanko) in &self.hankos {
            scrape.tenant.clone_from(tenant);
            authentication(&mut scrape, hanko);
            keys(&mut scrape, hanko);
            validation(&mut scrape, hanko);
            webhooks(&mut scrape, hanko);
            revocations(&mut scrape, hanko);
        }
        scrape.tenant = None;
        self.readiness(&mut scrape);
        scrape.add(&families::LOG_LINES_DROPPED, &[], dropped_log_lines());
        process::add(&mut scrape);
        scrape.encode(&mut encoder)
    }
}

impl Exported {
    fn http(&self, scrape: &mut Scrape) {
        for of_route in self
            .limits
            .http()
            .into_iter()
            .flat_map(crate::metrics::HttpCounts::get)
        {
            let (method, route) = (of_route.method.name(), of_route.route);
            for (status, count) in of_route.statuses {
                scrape.add(&families::HTTP_REQUESTS, &[method, route, &status], count);
            }
            let durations = of_route.durations;
            scrape.add(
                &families::HTTP_REQUEST_DURATION,
                &[method, route],
                durations,
            );
        }
        let connections = &self.limits.connections;
        scrape.add(
            &families::HTTP_REQUESTS_IN_FLIGHT,
            &[],
            self.limits.in_flight(),
        );
        scrape.add(&families::HTTP_CONNECTIONS, &[], connections.count());
        scrape.add(&families::HTTP_CONNECTIONS_LIMIT, &[], connections.max());
        for reason in Closed::ALL {
            let count = connections.closed_for(*reason);
            scrape.add(&families::HTTP_CONNECTIONS_CLOSED, &[reason.name()], count);
        }
    }

    fn readiness(&self, scrape: &mut Scrape) {
        let is_serving = !self.limits.is_draining();
        scrape.add(&families::READY, &["server"], is_serving);
        for (name, status) in self.checks.statuses() {
            scrape.add(&families::READY, &[&name], status.is_ready());
            scrape.add(&families::DEGRADED, &[&name], status.is_degraded());
        }
    }
}

fn authentication(scrape: &mut Scrape, hanko: &Hanko) {
    let mode = hanko.session_policy().mode.name();
    scrape.add(
        &families::BUILD_INFO,
        &[env!("CARGO_PKG_VERSION"), mode],
        true,
    );
    for (component, status) in component_statuses(hanko) {
        scrape.add(&families::READY, &[component], status.is_ready());
        scrape.add(&families::DEGRADED, &[component], status.is_degraded());
    }
    let counts = hanko.counts();
    for outcome in Authentication::ALL {
        let labels = [outcome.outcome(), outcome.name()];
        let count = counts.authentications(*outcome);
        scrape.add(&families::AUTHENTICATIONS, &labels, count);
    }
    for (guard, count) in counts.guard_rejections() {
        scrape.add(&families::GUARD_REJECTIONS, &[guard], count);
    }
    for found in CacheLookup::ALL {
        let count = counts.cache_lookups(*found);
        scrape.add(&families::TOKEN_CACHE_LOOKUPS, &[found.name()], count);
    }
    scrape.add(&families::TOKEN_CACHE_ENTRIES, &[], hanko.cached_tokens());
}

fn keys(scrape: &mut Scrape, hanko: &Hanko) {
    let status = hanko.key_set_status();
    scrape.add(&families::JWKS_KEYS, &[], status.usable_keys);
    scrape.add(&families::JWKS_STALE, &[], status.is_stale);
    let now = hanko.clock().unix_time();
    let succeeded_at = status.age.map(|age| now.saturating_sub(age));
    scrape.add(
        &families::JWKS_LAST_SUCCESS,
        &[],
        succeeded_at.unwrap_or_default(),
    );
    let lifetime = hanko.key_set_lifetime().unwrap_or_default();
    scrape.add(&families::JWKS_LIFETIME, &[], lifetime);
    let counts = hanko.fetch_counts();
    for outcome in FetchOutcome::ALL {
        let count = counts.fetches(*outcome);
        scrape.add(&families::JWKS_FETCHES, &[outcome.name()], count);
    }
    scrape.add(&families::JWKS_FETCH_DURATION, &[], counts.durations.get());
    for action in UnknownKid::ALL {
        let count = counts.unknown_kids(*action);
        scrape.add(&families::JWKS_UNKNOWN_KID, &[action.name()], count);
    }
}

fn validation(scrape: &mut Scrape, hanko: &Hanko) {
    let counts = hanko.validation_counts();
    for outcome in ValidationOutcome::ALL {
        let count = counts.validations(*outcome);
        scrape.add(&families::SESSION_VALIDATIONS, &[outcome.name()], count);
    }
    let durations = counts.durations.get();
    scrape.add(&families::SESSION_VALIDATION_DURATION, &[], durations);
    let status = hanko.validation_status();
    scrape.add(
        &families::SESSION_VALIDATIONS_IN_FLIGHT,
        &[],
        status.in_flight,
    );
    scrape.add(&families::SESSIONS_FOUND_ENDED, &[], status.found_ended);
    scrape.add(&families::SESSIONS_KNOWN, &[], status.known_sessions);
}

fn webhooks(scrape: &mut Scrape, hanko: &Hanko) {
    let counts = hanko.webhook_counts();
    for (event, outcome, count) in counts.by_event() {
        scrape.add(&families::WEBHOOKS, &[event, outcome.name()], count);
    }
    let last = counts.last_verified_at().unwrap_or_default();
    scrape.add(&families::WEBHOOK_LAST, &[], last);
    scrape.add(&families::WEBHOOKS_HELD, &[], hanko.webhook_status().held);
    let failures = counts.unstored_revocations();
    scrape.add(&families::STORE_WRITE_FAILURES, &[], failures);
}

fn revocations(scrape: &mut Scrape, hanko: &Hanko) {
    scrape.add(&families::REVOCATIONS, &[], hanko.revocations());
    // Without a shared store, there is nothing that could be down.
    let is_up = matches!(
        hanko.revocation_store_status(),
        StoreStatus::Ok | StoreStatus::Unshared
    );
    scrape.add(&families::STORE_UP, &[], is_up);
    let last_sync = hanko.last_store_sync().unwrap_or_default();
    scrape.add(&families::STORE_LAST_SYNC, &[], last_sync);
}

/// The value of one series.
#[derive(Clone, Debug)]
enum Value {
    Integer(u64),
    Float(f64),
    Durations(Box<DurationCounts>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Integer(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(u64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// Converts to seconds, the unit of Prometheus.
impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Float(value.as_secs_f64())
    }
}

impl From<DurationCounts> for Value {
    fn from(value: DurationCounts) -> Self {
        Self::Durations(Box::new(value))
    }
}

/// The labels of one series.
type Labels = Vec<(&'static str, String)>;

/// The series of one family.
type FamilySeries = (&'static Family, Vec<(Labels, Value)>);

/// The series of one scrape, by family.
#[derive(Default)]
struct Scrape {
    tenant: Option<String>,
    series: BTreeMap<&'static str, FamilySeries>,
}

impl Scrape {
    /// Adds a series with these values of the family's labels.
    fn add(&mut self, family: &'static Family, values: &[&str], value: impl Into<Value>) {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        let tenant = self.tenant.iter().map(|tenant| ("tenant", tenant.clone()));
        let values = values.iter().map(|value| (*value).to_owned());
        let labels = tenant.chain(family.labels.iter().copied().zip(values));
        let (_, series) = self
            .series
            .entry(family.name)
            .or_insert_with(|| (family, Vec::new()));
        series.push((labels.collect(), value.into()));
    }

    fn encode(self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (family, series) in self.series.into_values() {
            let (name, kind) = (family.name, family.kind);
            let mut encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in series {
                let mut encoder = encoder.encode_family(&labels)?;
                match (kind, value) {
                    (MetricType::Counter, Value::Integer(value)) => {
                        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                    }
                    (MetricType::Counter, Value::Float(value)) => {
                        encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
                    }
                    (_, Value::Integer(value)) => encoder.encode_gauge(&value)?,
                    (_, Value::Float(value)) => encoder.encode_gauge(&value)?,
                    (_, Value::Durations(durations)) => {
                        let sum = durations.sum.as_secs_f64();
                        let buckets = buckets(&durations);
                        let count = durations.count();
                        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the upper bound of each bucket in seconds, with its count.
fn buckets(durations: &DurationCounts) -> Vec<(f64, u64)> {
    let bounds = BUCKETS
        .iter()
        .map(|bound| Duration::from_micros(*bound).as_secs_f64());
    bounds
        .chain([f64::INFINITY])
        .zip(durations.counts)
        .collect()
}

#[cfg(test)]
mod tests;
