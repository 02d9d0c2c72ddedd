//! Requests by method, route and status.

use std::sync::{LazyLock, OnceLock};

use poem::http::{self, StatusCode};

use super::{Counters, DurationCounts, Durations, PerThread, labels};
use std::time::Duration;

labels! {
    /// A method with a label of its own, or `Other`: a client may send any text.
    pub(crate) enum Method {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
        Delete = "DELETE",
        Options = "OPTIONS",
        Trace = "TRACE",
        Other = "other",
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::PATCH => Self::Patch,
            http::Method::DELETE => Self::Delete,
            http::Method::OPTIONS => Self::Options,
            http::Method::TRACE => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// The number of the route of a request that was not routed.
pub(crate) const UNMATCHED: usize = 0;

/// The statuses that are counted separately: those that have a name. An application may respond with any other.
static STATUSES: LazyLock<Statuses> = LazyLock::new(Statuses::new);
/// Larger than the number of statuses that have a name.
const MAX_STATUSES: usize = 96;

struct Statuses {
    codes: Vec<u16>,
    /// The index of a status in `codes`, or the length of `codes` if it has no name.
    numbers: [u8; 1000],
}

impl Statuses {
    fn new() -> Self {
        let has_name = |code: &u16| {
            StatusCode::from_u16(*code).is_ok_and(|status| status.canonical_reason().is_some())
        };
        let codes: Vec<u16> = (100..1000)
            .filter(has_name)
            .take(MAX_STATUSES - 1)
            .collect();
        let mut numbers = [u8::try_from(codes.len()).unwrap_or(u8::MAX); 1000];
        for (number, code) in (0..).zip(&codes) {
            numbers[usize::from(*code)] = number;
        }
        Self { codes, numbers }
    }

    fn number(&self, status: StatusCode) -> usize {
        let number = self.numbers.get(usize::from(status.as_u16()));
        number.map_or(self.codes.len(), |number| usize::from(*number))
    }

    /// Returns the label of each number.
    fn names(&self) -> impl Iterator<Item = String> {
        let codes = self.codes.iter().map(ToString::to_string);
        codes.chain(["other".to_owned()])
    }
}

#[derive(Debug, Default)]
struct RequestCounts {
    statuses: Counters<MAX_STATUSES>,
    durations: Durations,
}

/// The counts of one thread, by route and method. Those of a pair are allocated at its first request: most pairs never occur.
type ByRoute = Box<[OnceLock<Box<RequestCounts>>]>;

/// Counts the requests of a server.
#[derive(Debug)]
pub(crate) struct HttpCounts {
    /// By number. The first is that of [`UNMATCHED`].
    routes: Vec<String>,
    threads: PerThread<ByRoute>,
}

/// The requests with one method and route.
#[derive(Debug)]
pub(crate) struct RouteCount<'a> {
    pub(crate) method: Method,
    pub(crate) route: &'a str,
    /// By status; without those that did not occur.
    pub(crate) statuses: Vec<(String, u64)>,
    pub(crate) durations: DurationCounts,
}

impl HttpCounts {
    /// Counts requests for these routes; the number of each is one more than its index.
    pub(crate) fn new(routes: impl IntoIterator<Item = String>) -> Self {
        let unmatched = std::iter::once("unmatched".to_owned());
        let routes: Vec<String> = unmatched.chain(routes).collect();
        let pairs = routes.len() * Method::COUNT;
        Self {
            routes,
            threads: PerThread::new(|| (0..pairs).map(|_| OnceLock::new()).collect()),
        }
    }

    /// Counts a request whose response took `duration`.
    pub(crate) fn add(&self, method: Method, route: usize, status: StatusCode, duration: Duration) {
        let route = if route < self.routes.len() {
            route
        } else {
            UNMATCHED
        };
        let number = route * Method::COUNT + method as usize;
        if let Some(counts) = self.threads.here().get(number) {
            let counts = counts.get_or_init(Box::default);
            counts.statuses.add(STATUSES.number(status));
            counts.durations.record(duration);
        }
    }

    /// Returns the requests of each method and route that occurred.
    pub(crate) fn get(&self) -> Vec<RouteCount<'_>> {
        let mut found = Vec::new();
        for (route, name) in self.routes.iter().enumerate() {
            for method in Method::ALL {
                let number = route * Method::COUNT + *method as usize;
                let threads: Vec<&RequestCounts> = self
                    .threads
                    .iter()
                    .filter_map(|counts| counts.get(number)?.get())
                    .map(|counts| &**counts)
                    .collect();
                if threads.is_empty() {
                    continue;
                }
                let mut durations = DurationCounts::default();
                for counts in &threads {
                    durations.add(&counts.durations.get());
                }
                let statuses = STATUSES
                    .names()
                    .enumerate()
                    .map(|(number, name)| {
                        let counts = threads.iter().map(|counts| counts.statuses.get(number));
                        (name, counts.sum())
                    })
                    .filter(|(_, count)| *count > 0)
                    .collect();
                found.push(RouteCount {
                    method: *method,
                    route: name,
                    statuses,
                    durations,
                });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(counts: &HttpCounts) -> Vec<(&str, &str, String, u64)> {
        counts
            .get()
            .into_iter()
            .flat_map(|of_route| {
                let method = of_route.method.name();
                let statuses = of_route.statuses.into_iter();
                statuses.map(move |(status, count)| (method, of_route.route, status, count))
            })
            .collect()
    }

    #[test]
    fn statuses_without_a_name_are_other() {
        let counts = HttpCounts::new(["/things/{id}".to_owned()]);
        for code in [100, 200, 404, 511, 299, 599, 999] {
            let status = StatusCode::from_u16(code).expect("a status");
            counts.add(Method::Get, 1, status, Duration::ZERO);
        }
        let expected = ["100", "200", "404", "511", "other"];
        let found = statuses(&counts);
        let names: Vec<&str> = found.iter().map(|(_, _, status, _)| &**status).collect();
        assert_eq!(names, expected);
        assert_eq!(found.last().map(|(.., count)| *count), Some(3));
    }

    #[test]
    fn requests_are_counted_by_method_and_route() {
        let counts = HttpCounts::new(["/a".to_owned(), "/b".to_owned()]);
        let custom = http::Method::from_bytes(b"eyJhbGciOi").expect("a method");
        for (method, route) in [
            (Method::Get, 1),
            (Method::Get, 1),
            (Method::Post, 2),
            (Method::from(&custom), UNMATCHED),
            (Method::Put, 3),
        ] {
            counts.add(method, route, StatusCode::OK, Duration::from_millis(2));
        }
        let ok = || "200".to_owned();
        let expected = [
            ("PUT", "unmatched", ok(), 1),
            ("other", "unmatched", ok(), 1),
            ("GET", "/a", ok(), 2),
            ("POST", "/b", ok(), 1),
        ];
        assert_eq!(statuses(&counts), expected);
        let of_a = &counts.get()[2];
        assert_eq!(of_a.durations.count(), 2);
        assert_eq!(of_a.durations.sum, Duration::from_millis(4));
    }
}
