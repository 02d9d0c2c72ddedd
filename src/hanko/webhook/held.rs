//! Webhooks that cannot be verified yet. They are held, because Hanko sends each only once.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::jose::NumericDate;

/// The largest body that is held. The webhooks that end a session are below 2 KiB.
pub(super) const MAX_HELD_BODY_BYTES: usize = 16 * 1024;
/// The bytes that all held bodies may occupy together.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
/// The bytes that a held body occupies in addition to its own.
const OVERHEAD_BYTES: usize = 256;

/// A webhook that waits to be verified.
#[derive(Debug)]
pub(super) struct HeldWebhook {
    pub(super) body: Box<[u8]>,
    /// The time at which the times in its token are checked.
    pub(super) arrived_at: NumericDate,
    source: Source,
    number: u64,
}

/// The networks that a client is counted by. All clients without a known address are one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    /// The largest network that one customer of a provider usually has: the /48 of an IPv6 address, or an IPv4 address.
    site: Option<IpAddr>,
    /// The largest network that one machine usually has: the /64 of an IPv6 address, or an IPv4 address.
    network: Option<IpAddr>,
}

impl Source {
    fn of(client: Option<IpAddr>) -> Self {
        Self {
            site: client.map(|client| network_of(client, 48)),
            network: client.map(|client| network_of(client, 64)),
        }
    }
}

/// The bytes that the bodies of a site occupy.
#[derive(Debug, Default)]
struct Site {
    bytes: usize,
    bytes_by_network: HashMap<Option<IpAddr>, usize>,
}

impl HeldWebhook {
    fn size(&self) -> usize {
        self.body.len() + OVERHEAD_BYTES
    }
}

/// The outcome of [`HeldWebhooks::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Held,
    /// The webhook is held, and this many others were dropped to make room.
    HeldInstead(usize),
    /// There is no room, because its client holds most.
    NoRoom,
}

/// The webhooks that wait to be verified.
#[derive(Debug, Default)]
pub(super) struct HeldWebhooks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In the order of arrival.
    webhooks: VecDeque<HeldWebhook>,
    bytes: usize,
    sites: HashMap<Option<IpAddr>, Site>,
    last_number: u64,
    /// Whether a task is running that waits for keys to verify them.
    has_task: bool,
}

impl State {
    fn push(&mut self, webhook: HeldWebhook) {
        let (bytes, source) = (webhook.size(), webhook.source);
        self.bytes += bytes;
        let site = self.sites.entry(source.site).or_default();
        site.bytes += bytes;
        *site.bytes_by_network.entry(source.network).or_default() += bytes;
        self.webhooks.push_back(webhook);
    }

    fn remove(&mut self, index: usize) -> Option<HeldWebhook> {
        let webhook = self.webhooks.remove(index)?;
        let (bytes, source) = (webhook.size(), webhook.source);
        self.bytes -= bytes;
        if let Some(site) = self.sites.get_mut(&source.site) {
            site.bytes -= bytes;
            if let Some(of_network) = site.bytes_by_network.get_mut(&source.network) {
                *of_network -= bytes;
                if *of_network == 0 {
                    site.bytes_by_network.remove(&source.network);
                }
            }
            if site.bytes == 0 {
                self.sites.remove(&source.site);
            }
        }
        Some(webhook)
    }

    /// Returns the network that holds most within the site that holds most.
    fn largest(&self) -> Option<Source> {
        let (site, networks) = self.sites.iter().max_by_key(|(_, site)| site.bytes)?;
        let (network, _) = networks
            .bytes_by_network
            .iter()
            .max_by_key(|(_, bytes)| **bytes)?;
        Some(Source {
            site: *site,
            network: *network,
        })
    }
}

impl HeldWebhooks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a body of at most [`MAX_HELD_BODY_BYTES`]. If there is no room, the newest body of the client address that
    /// holds most is dropped.
    ///
    /// IPv6 addresses are counted by /48, and within it by /64: a client with one address usually has its /64, and may have
    /// its /48. If only the /48 counted, another client in the network of Hanko's provider could displace Hanko's webhooks.
    pub(super) fn hold(
        &self,
        body: &[u8],
        arrived_at: NumericDate,
        client: Option<IpAddr>,
    ) -> Holding {
        let mut state = self.state();
        state.last_number += 1;
        let webhook = HeldWebhook {
            body: body.into(),
            arrived_at,
            source: Source::of(client),
            number: state.last_number,
        };
        let number = webhook.number;
        state.push(webhook);
        let mut dropped = 0;
        while state.bytes > MAX_HELD_BYTES {
            let largest = state.largest();
            let newest = state
                .webhooks
                .iter()
                .rposition(|webhook| Some(webhook.source) == largest);
            let Some(webhook) = newest.and_then(|index| state.remove(index)) else {
                break;
            };
            if webhook.number == number {
                return Holding::NoRoom;
            }
            dropped += 1;
        }
        match dropped {
            0 => Holding::Held,
            dropped => Holding::HeldInstead(dropped),
        }
    }

    /// Returns whether the caller must start the task: a webhook waits, and no task is running. The task must call
    /// [`end_task`](Self::end_task).
    pub(super) fn begin_task(&self) -> bool {
        let mut state = self.state();
        !state.webhooks.is_empty() && !std::mem::replace(&mut state.has_task, true)
    }

    /// Returns whether the task may end, because no webhook waits.
    pub(super) fn end_task(&self) -> bool {
        let mut state = self.state();
        state.has_task = !state.webhooks.is_empty();
        !state.has_task
    }

    /// Returns the number of the newest webhook so far.
    pub(super) fn last_number(&self) -> u64 {
        self.state().last_number
    }

    /// Removes and returns the oldest webhook, if its number is at most `last`.
    pub(super) fn take(&self, last: u64) -> Option<HeldWebhook> {
        let mut state = self.state();
        state
            .webhooks
            .front()
            .is_some_and(|webhook| webhook.number <= last)
            .then(|| state.remove(0))
            .flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.state().webhooks.len()
    }
}

/// Returns an IPv6 address with all but its first bits cleared, or an IPv4 address as it is.
fn network_of(client: IpAddr, prefix_bits: u32) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - prefix_bits);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: NumericDate = NumericDate::LAST;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn a_full_store_drops_the_newest_of_the_client_with_most() {
        let held = HeldWebhooks::default();
        let body = vec![b'x'; MAX_HELD_BODY_BYTES];
        assert_eq!(held.hold(b"first", NOW, Some(client(2))), Holding::Held);
        let mut number = 1;
        while held.hold(&body, NOW, Some(client(1))) == Holding::Held {
            number += 1;
        }
        assert!(held.state().bytes <= MAX_HELD_BYTES);
        assert_eq!(held.len(), number);
        // The flood displaces no webhook, and others displace it.
        assert_eq!(held.hold(&body, NOW, Some(client(1))), Holding::NoRoom);
        assert_eq!(
            held.hold(&body, NOW, Some(client(3))),
            Holding::HeldInstead(1)
        );
        assert_eq!(&*held.take(u64::MAX).unwrap().body, b"first");
        let newest = held.state().webhooks.back().unwrap().source;
        assert_eq!(newest, Source::of(Some(client(3))));
    }

    #[test]
    fn taken_webhooks_make_room() {
        let held = HeldWebhooks::default();
        for number in 0..100_u8 {
            held.hold(
                &[number],
                NumericDate::from(Duration::from_secs(number.into())),
                Some(client(number % 3)),
            );
        }
        let last = held.last_number();
        held.hold(b"later", NOW, None);
        for number in 0..100 {
            assert_eq!(&*held.take(last).unwrap().body, [number]);
        }
        assert!(held.take(last).is_none());
        assert!(!held.end_task());
        assert!(held.take(u64::MAX).is_some());
        assert!(held.end_task());
        assert_eq!(held.state().bytes, 0);
        assert!(held.state().sites.is_empty());
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let network = |text: &str, bits| network_of(text.parse().unwrap(), bits).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2:3:4:5:6", 48), "2001:db8:1::");
        for bits in [48, 64] {
            assert_eq!(network("::ffff:192.0.2.1", bits), "192.0.2.1");
        }
    }

    /// Fills the store with bodies from 600 networks (/64) of one site (/48).
    fn flood_of_one_site(held: &HeldWebhooks) {
        let body = vec![b'x'; MAX_HELD_BODY_BYTES];
        for number in 0..2 * MAX_HELD_BYTES / MAX_HELD_BODY_BYTES {
            let subnet = u16::try_from(number % 600).unwrap();
            let address = Ipv6Addr::new(0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1);
            held.hold(&body, NOW, Some(address.into()));
        }
    }

    #[test]
    fn a_flood_from_many_subnets_leaves_room_for_others() {
        let held = HeldWebhooks::default();
        flood_of_one_site(&held);
        // Each of the subnets holds less than this client.
        let hanko = Some(client(1));
        for _ in 0..100 {
            let holding = held.hold(&[b'x'; MAX_HELD_BODY_BYTES], NOW, hanko);
            assert!(matches!(holding, Holding::HeldInstead(1)), "{holding:?}");
        }
        flood_of_one_site(&held);
        let state = held.state();
        let kept = state.webhooks.iter();
        let kept = kept.filter(|webhook| webhook.source == Source::of(hanko));
        assert_eq!(kept.count(), 100);
    }

    #[test]
    fn two_networks_of_one_site_are_counted_apart() {
        let held = HeldWebhooks::default();
        let body = vec![b'x'; MAX_HELD_BODY_BYTES];
        let address = |subnet| Some(Ipv6Addr::new(0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1).into());
        while held.hold(&body, NOW, address(1)) == Holding::Held {}
        for _ in 0..100 {
            let holding = held.hold(&body, NOW, address(2));
            assert!(matches!(holding, Holding::HeldInstead(1)), "{holding:?}");
        }
        assert_eq!(held.hold(&body, NOW, address(1)), Holding::NoRoom);
    }
}
