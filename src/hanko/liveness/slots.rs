//! A bounded number of slots for validation requests. Requests that a caller waits for go before those in the background.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// The slots for validation requests.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    /// The tickets that wait, in the order of their numbers.
    urgent: BTreeMap<u64, Arc<Ticket>>,
    background: BTreeMap<u64, Arc<Ticket>>,
    last_number: u64,
}

/// A validation request that waits for a slot.
#[derive(Debug)]
pub(super) struct Ticket {
    position: Mutex<Position>,
    granted: Notify,
}

/// Locked after [`Slots`], if both are.
#[derive(Debug)]
struct Position {
    /// Since when a caller waits for the response.
    urgent_since: Option<Duration>,
    /// Its number in a queue while it waits there.
    number: Option<u64>,
}

impl Ticket {
    /// Creates the ticket of a request whose response a caller waits for since `urgent_since`, or of one in the background.
    pub(super) fn new(urgent_since: Option<Duration>) -> Self {
        Self {
            position: Mutex::new(Position {
                urgent_since,
                number: None,
            }),
            granted: Notify::new(),
        }
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn urgent_since(&self) -> Option<Duration> {
        self.position().urgent_since
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.urgent_since().is_some()
    }
}

/// A slot. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl State {
    fn enqueue(&mut self, ticket: &Arc<Ticket>) {
        self.last_number += 1;
        let mut position = ticket.position();
        position.number = Some(self.last_number);
        let queue = match position.urgent_since {
            Some(_) => &mut self.urgent,
            None => &mut self.background,
        };
        queue.insert(self.last_number, Arc::clone(ticket));
    }

    /// Removes a ticket from its queue, and returns whether it was in one.
    fn remove(&mut self, ticket: &Ticket) -> bool {
        let Some(number) = ticket.position().number.take() else {
            return false;
        };
        self.urgent.remove(&number).is_some() || self.background.remove(&number).is_some()
    }
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        Self(Mutex::new(State {
            free: slots,
            urgent: BTreeMap::new(),
            background: BTreeMap::new(),
            last_number: 0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot. The future may be dropped at any time.
    pub(super) async fn acquire<'a>(&'a self, ticket: &Arc<Ticket>) -> Slot<'a> {
        {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Slot(self);
            }
            state.enqueue(ticket);
        }
        let mut waiting = Waiting {
            slots: self,
            ticket: Some(ticket),
        };
        ticket.granted.notified().await;
        waiting.ticket = None;
        Slot(self)
    }

    /// Moves a ticket before those in the background, because a caller waits for its response since `now`.
    pub(super) fn make_urgent(&self, ticket: &Arc<Ticket>, now: Duration) {
        let mut state = self.state();
        if ticket.position().urgent_since.replace(now).is_none() && state.remove(ticket) {
            state.enqueue(ticket);
        }
    }

    fn release(&self) {
        let mut state = self.state();
        let next = state
            .urgent
            .pop_first()
            .or_else(|| state.background.pop_first());
        match next {
            Some((_, ticket)) => {
                ticket.position().number = None;
                ticket.granted.notify_one();
            }
            None => state.free += 1,
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Stops waiting for a slot when the future is dropped.
struct Waiting<'a> {
    slots: &'a Slots,
    ticket: Option<&'a Arc<Ticket>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let was_waiting = self.slots.state().remove(ticket);
        if !was_waiting {
            // It had been granted a slot that it did not take.
            self.slots.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    type Acquiring<'a> = Pin<Box<dyn Future<Output = Slot<'a>> + 'a>>;

    const NOW: Duration = Duration::ZERO;

    fn background() -> Arc<Ticket> {
        Arc::new(Ticket::new(None))
    }

    fn poll<'a>(future: &mut Acquiring<'a>) -> Option<Slot<'a>> {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    #[test]
    fn urgent_tickets_go_first_and_each_queue_in_order() {
        let slots = Slots::new(1);
        let tickets: [Arc<Ticket>; 4] = std::array::from_fn(|_| background());
        let holder = background();
        let held = poll(&mut (Box::pin(slots.acquire(&holder)) as Acquiring<'_>));
        slots.make_urgent(&tickets[2], NOW);
        let mut waiting: Vec<Acquiring<'_>> = Vec::new();
        for ticket in &tickets {
            let mut future: Acquiring<'_> = Box::pin(slots.acquire(ticket));
            assert!(poll(&mut future).is_none());
            waiting.push(future);
        }
        // The last one was in the background, and now a caller waits for it.
        slots.make_urgent(&tickets[3], NOW);
        drop(held);
        for expected in [2, 3, 0, 1] {
            let state = slots.state();
            let waits = |index: usize| tickets[index].position().number.is_some();
            let still_waiting = (0..tickets.len()).filter(|index| waits(*index)).count();
            assert_eq!(still_waiting, state.urgent.len() + state.background.len());
            assert!(!waits(expected), "{expected}");
            drop(state);
            drop(poll(&mut waiting[expected]).expect("a slot"));
        }
        assert_eq!(slots.state().free, 1);
    }

    #[test]
    fn a_dropped_future_gives_its_slot_back() {
        let slots = Slots::new(1);
        let holder = background();
        let held = poll(&mut (Box::pin(slots.acquire(&holder)) as Acquiring<'_>)).unwrap();
        let (first, second) = (background(), background());
        let mut abandoned: Acquiring<'_> = Box::pin(slots.acquire(&first));
        let mut granted: Acquiring<'_> = Box::pin(slots.acquire(&second));
        assert!(poll(&mut abandoned).is_none());
        assert!(poll(&mut granted).is_none());
        drop(held);
        // It has been granted a slot that it never took.
        drop(abandoned);
        let slot = poll(&mut granted).expect("the slot is passed on");
        drop(slot);
        assert_eq!(slots.state().free, 1);
    }

    #[test]
    fn tickets_that_gave_up_leave_nothing_behind() {
        let slots = Slots::new(1);
        let holder = background();
        let _held = poll(&mut (Box::pin(slots.acquire(&holder)) as Acquiring<'_>)).unwrap();
        for _ in 0..100 {
            let ticket = background();
            let mut future: Acquiring<'_> = Box::pin(slots.acquire(&ticket));
            assert!(poll(&mut future).is_none());
            slots.make_urgent(&ticket, NOW);
        }
        assert!(slots.state().urgent.is_empty() && slots.state().background.is_empty());
    }
}
