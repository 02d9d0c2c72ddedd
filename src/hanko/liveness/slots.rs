//! A bounded number of places, those who wait for a response before those in the background.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// Places for validation requests.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    urgent: VecDeque<Arc<Ticket>>,
    background: VecDeque<Arc<Ticket>>,
}

/// A validation request that waits for a place.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// Somebody waits for the response.
    is_urgent: AtomicBool,
    /// It is in a queue, or was. Changed only under the lock of [`Slots`], as is `is_settled`.
    is_queued: AtomicBool,
    /// It has a place, or does not want one any more.
    is_settled: AtomicBool,
    granted: Notify,
}

impl Ticket {
    pub(super) fn new(is_urgent: bool) -> Self {
        Self {
            is_urgent: AtomicBool::new(is_urgent),
            ..Self::default()
        }
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent.load(Ordering::Relaxed)
    }
}

/// A place, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(super) fn new(places: usize) -> Self {
        Self(Mutex::new(State {
            free: places,
            urgent: VecDeque::new(),
            background: VecDeque::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. The future may be dropped at any time.
    pub(super) async fn acquire(&self, ticket: &Arc<Ticket>) -> Slot<'_> {
        {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                ticket.is_settled.store(true, Ordering::Relaxed);
                return Slot(self);
            }
            let queue = if ticket.is_urgent() {
                &mut state.urgent
            } else {
                &mut state.background
            };
            queue.push_back(Arc::clone(ticket));
            ticket.is_queued.store(true, Ordering::Relaxed);
        }
        let mut waiting = Waiting {
            slots: self,
            ticket: Some(ticket),
        };
        ticket.granted.notified().await;
        waiting.ticket = None;
        Slot(self)
    }

    /// Lets a ticket that waits go before those in the background: somebody waits for its response now.
    pub(super) fn make_urgent(&self, ticket: &Arc<Ticket>) {
        let mut state = self.state();
        let was_urgent = ticket.is_urgent.swap(true, Ordering::Relaxed);
        let is_waiting =
            ticket.is_queued.load(Ordering::Relaxed) && !ticket.is_settled.load(Ordering::Relaxed);
        if !was_urgent && is_waiting {
            // Its entry in the other queue is skipped once it is settled.
            state.urgent.push_back(Arc::clone(ticket));
        }
    }

    fn release(&self) {
        let mut state = self.state();
        while let Some(ticket) = state
            .urgent
            .pop_front()
            .or_else(|| state.background.pop_front())
        {
            if !ticket.is_settled.swap(true, Ordering::Relaxed) {
                ticket.granted.notify_one();
                return;
            }
        }
        state.free += 1;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Gives up waiting when the future is dropped.
struct Waiting<'a> {
    slots: &'a Slots,
    ticket: Option<&'a Arc<Ticket>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let state = self.slots.state();
        let was_granted = ticket.is_settled.swap(true, Ordering::Relaxed);
        drop(state);
        if was_granted {
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
        let tickets: [Arc<Ticket>; 4] = std::array::from_fn(|_| Arc::default());
        let holder = Arc::default();
        let held = poll(&mut (Box::pin(slots.acquire(&holder)) as Acquiring<'_>));
        slots.make_urgent(&tickets[2]);
        let mut waiting: Vec<Acquiring<'_>> = Vec::new();
        for ticket in &tickets {
            let mut future: Acquiring<'_> = Box::pin(slots.acquire(ticket));
            assert!(poll(&mut future).is_none());
            waiting.push(future);
        }
        // The last one was in the background, and somebody has begun to wait for it.
        slots.make_urgent(&tickets[3]);
        drop(held);
        let mut done = Vec::new();
        for expected in [2, 3, 0, 1] {
            let ready: Vec<usize> = (0..tickets.len())
                .filter(|index| !done.contains(index))
                .filter(|index| tickets[*index].is_settled.load(Ordering::Relaxed))
                .collect();
            assert_eq!(ready, [expected]);
            drop(poll(&mut waiting[expected]).expect("a place"));
            done.push(expected);
        }
        assert_eq!(slots.state().free, 1);
    }

    #[test]
    fn a_dropped_future_gives_its_place_back() {
        let slots = Slots::new(1);
        let holder = Arc::default();
        let held = poll(&mut (Box::pin(slots.acquire(&holder)) as Acquiring<'_>)).unwrap();
        let (first, second) = (Arc::default(), Arc::default());
        let mut abandoned: Acquiring<'_> = Box::pin(slots.acquire(&first));
        let mut granted: Acquiring<'_> = Box::pin(slots.acquire(&second));
        assert!(poll(&mut abandoned).is_none());
        assert!(poll(&mut granted).is_none());
        drop(held);
        // It has been granted a place that it never took.
        drop(abandoned);
        let slot = poll(&mut granted).expect("the place is passed on");
        drop(slot);
        assert_eq!(slots.state().free, 1);
    }
}
