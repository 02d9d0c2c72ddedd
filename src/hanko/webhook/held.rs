//! Webhooks that cannot be verified yet. Hanko sends each only once.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::jose::NumericDate;

/// Larger bodies are not held. Those that end a session are below 2 KiB.
pub(super) const MAX_HELD_BODY_BYTES: usize = 16 * 1024;
/// What all held bodies may occupy together.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
/// What a held body occupies beside its own bytes.
const OVERHEAD_BYTES: usize = 256;

/// A webhook that waits to be verified.
#[derive(Debug)]
pub(super) struct HeldWebhook {
    pub(super) body: Box<[u8]>,
    /// The times in its token are checked as of its arrival.
    pub(super) arrived_at: NumericDate,
    client: Option<IpAddr>,
    number: u64,
}

impl HeldWebhook {
    fn size(&self) -> usize {
        self.body.len() + OVERHEAD_BYTES
    }
}

/// What became of a webhook that was to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Held,
    /// It is held, and this many others were dropped for it.
    HeldInstead(usize),
    /// There is no room for it: its client holds most of it already.
    NoRoom,
}

/// The webhooks that wait.
#[derive(Debug, Default)]
pub(super) struct HeldWebhooks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In the order of their arrival.
    webhooks: VecDeque<HeldWebhook>,
    bytes: usize,
    bytes_by_client: HashMap<Option<IpAddr>, usize>,
    last_number: u64,
    /// Whether a task waits for keys to verify them with.
    has_task: bool,
}

impl State {
    fn remove(&mut self, index: usize) -> Option<HeldWebhook> {
        let webhook = self.webhooks.remove(index)?;
        self.bytes -= webhook.size();
        if let Some(bytes) = self.bytes_by_client.get_mut(&webhook.client) {
            *bytes -= webhook.size();
            if *bytes == 0 {
                self.bytes_by_client.remove(&webhook.client);
            }
        }
        Some(webhook)
    }
}

impl HeldWebhooks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a body of at most [`MAX_HELD_BODY_BYTES`]. If there is no room, the newest body of the client address that
    /// holds most is dropped.
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
            client: client.map(network_of),
            number: state.last_number,
        };
        let number = webhook.number;
        state.bytes += webhook.size();
        *state.bytes_by_client.entry(webhook.client).or_default() += webhook.size();
        state.webhooks.push_back(webhook);
        let mut dropped = 0;
        while state.bytes > MAX_HELD_BYTES {
            let largest = state
                .bytes_by_client
                .iter()
                .max_by_key(|(_, bytes)| **bytes)
                .map(|(client, _)| *client);
            let newest = state
                .webhooks
                .iter()
                .rposition(|webhook| Some(webhook.client) == largest);
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

    /// Whether the caller is to start the task: nobody has, and a webhook waits. The task has to call
    /// [`end_task`](Self::end_task).
    pub(super) fn begin_task(&self) -> bool {
        let mut state = self.state();
        !state.webhooks.is_empty() && !std::mem::replace(&mut state.has_task, true)
    }

    /// Whether the task may end, because no webhook waits.
    pub(super) fn end_task(&self) -> bool {
        let mut state = self.state();
        state.has_task = !state.webhooks.is_empty();
        !state.has_task
    }

    /// The number of the newest webhook so far.
    pub(super) fn last_number(&self) -> u64 {
        self.state().last_number
    }

    /// Takes the oldest webhook, if its number is at most `last`.
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

/// Whoever has one address of an IPv6 network usually has its /64.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
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
    fn a_full_store_drops_the_newest_of_whoever_holds_most() {
        let held = HeldWebhooks::default();
        let body = vec![b'x'; MAX_HELD_BODY_BYTES];
        assert_eq!(held.hold(b"first", NOW, Some(client(2))), Holding::Held);
        let mut number = 1;
        while held.hold(&body, NOW, Some(client(1))) == Holding::Held {
            number += 1;
        }
        assert!(held.state().bytes <= MAX_HELD_BYTES);
        assert_eq!(held.len(), number);
        // The flood does not make room for itself, but for others.
        assert_eq!(held.hold(&body, NOW, Some(client(1))), Holding::NoRoom);
        assert_eq!(
            held.hold(&body, NOW, Some(client(3))),
            Holding::HeldInstead(1)
        );
        assert_eq!(&*held.take(u64::MAX).unwrap().body, b"first");
        let newest = held.state().webhooks.back().unwrap().client;
        assert_eq!(newest, Some(client(3)));
    }

    #[test]
    fn what_is_taken_makes_room() {
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
        assert!(held.state().bytes_by_client.is_empty());
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
