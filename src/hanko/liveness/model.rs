//! Explores every order of requests, answers, webhooks, key rotations, outages and retries, with the rules of [`record`] and
//! the steps of [`Hanko::authenticate`](crate::Hanko::authenticate), and checks the guarantees of each mode.
//!
//! [`record`]: super::record

use std::{collections::HashSet, time::Duration};

use super::{
    SessionMode, SessionPolicy,
    record::{Answer, Decision, NEVER, Nanos, Record, nanos},
};

const TICK: Duration = Duration::from_secs(1);
/// In ticks.
const TTL: u64 = 2;
const MAX_STALE: u64 = 4;
/// The ticks after which a validation request fails, including its time in the queue and the confirmation of a negative
/// answer.
const VALIDATION: u64 = 1;
/// The jitter that shortens each interval the most.
const JITTER: f64 = 1.0;
/// The tick at which the exploration ends.
const HORIZON: u64 = 7;

fn at(tick: u64) -> Nanos {
    nanos(TICK * u32::try_from(tick).unwrap())
}

fn policy(mode: SessionMode) -> SessionPolicy {
    SessionPolicy {
        mode,
        cache_ttl: TICK * u32::try_from(TTL).unwrap(),
        max_stale: TICK * u32::try_from(MAX_STALE).unwrap(),
        ..SessionPolicy::default()
    }
}

/// An open validation request.
#[expect(clippy::struct_excessive_bools, reason = "each says what has happened")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    asked_at: u64,
    /// Hanko's decision, if it has been made. The answer has not arrived yet.
    found: Option<bool>,
    /// A negative answer has arrived, and waits for its confirmation.
    is_arrived: bool,
    /// A request waits for it.
    has_waiter: bool,
    /// It was sent for a request that accepts no other answer, as `Hanko::authenticate_live` does.
    is_live: bool,
    /// Hanko was not up at some time since it was sent.
    saw_outage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Hanko {
    Up,
    /// Hanko says that every session is invalid, and its keys cannot be fetched.
    DatabaseDown,
    /// Every request fails.
    Down,
}

#[expect(clippy::struct_excessive_bools, reason = "each says what has happened")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u64,
    record: Option<Record>,
    open: Option<Open>,
    hanko: Hanko,
    ended_at: Option<u64>,
    /// Hanko was up ever since the session ended.
    is_guaranteed: bool,
    /// Every tick since the session ended had a request.
    is_steady: bool,
    /// The session is revoked, or its key has left the JWK Set. A request checks both in the same two places.
    is_refused: bool,
    was_used_in_this_tick: bool,
    /// When the validation request of Hanko's last positive answer was sent.
    confirmed_at: Option<u64>,
    /// An active session is rejected, because Hanko's database came back between a wrong negative answer and the fetch of the
    /// keys. It is accepted again when Hanko is asked again.
    is_misled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Tick,
    Request,
    LiveRequest,
    HankoDecides,
    AnswerArrives,
    NegativeAnswerIsConfirmed,
    ValidationFails,
    SessionEnds,
    WebhookArrives,
    KeyIsWithdrawn,
    HankoBecomes(Hanko),
}

const EVENTS: [Event; 13] = [
    Event::Tick,
    Event::Request,
    Event::LiveRequest,
    Event::HankoDecides,
    Event::AnswerArrives,
    Event::NegativeAnswerIsConfirmed,
    Event::ValidationFails,
    Event::SessionEnds,
    Event::WebhookArrives,
    Event::KeyIsWithdrawn,
    Event::HankoBecomes(Hanko::Up),
    Event::HankoBecomes(Hanko::DatabaseDown),
    Event::HankoBecomes(Hanko::Down),
];

struct Model {
    policy: SessionPolicy,
    accepted: u64,
    rejected: u64,
}

impl Model {
    /// Returns the state after an event; `None` if it cannot happen.
    fn after(&mut self, state: &State, event: Event) -> Option<State> {
        // No later event can make a refused session accepted.
        if state.is_refused && state.open.is_none_or(|open| !open.has_waiter) {
            return None;
        }
        let mut next = state.clone();
        match event {
            Event::Tick => {
                // A request must end before time passes its limit.
                let is_overdue = state
                    .open
                    .is_some_and(|open| state.now >= open.asked_at + VALIDATION);
                if state.now == HORIZON || is_overdue {
                    return None;
                }
                next.is_steady &= state.was_used_in_this_tick;
                next.was_used_in_this_tick = false;
                next.now += 1;
            }
            Event::Request => {
                if state.was_used_in_this_tick && state.open.is_none() {
                    return None;
                }
                next.was_used_in_this_tick = true;
                self.request(&mut next);
            }
            Event::LiveRequest => {
                // Not modelled while another is open: it would be sent after that one.
                if state.open.is_some() {
                    return None;
                }
                next.open = Some(Open {
                    asked_at: state.now,
                    found: None,
                    is_arrived: false,
                    has_waiter: true,
                    is_live: true,
                    saw_outage: state.hanko != Hanko::Up,
                });
            }
            Event::HankoDecides => {
                let open = next.open.as_mut().filter(|open| open.found.is_none())?;
                open.found = match state.hanko {
                    Hanko::Up => Some(state.ended_at.is_none()),
                    Hanko::DatabaseDown => Some(false),
                    Hanko::Down => return None,
                };
            }
            Event::AnswerArrives => {
                let open = next.open.as_mut().filter(|open| !open.is_arrived)?;
                if open.found? {
                    self.conclude(&mut next, Some(true));
                } else {
                    open.is_arrived = true;
                }
            }
            Event::NegativeAnswerIsConfirmed => {
                state.open.filter(|open| open.is_arrived)?;
                match state.hanko {
                    Hanko::Up => self.conclude(&mut next, Some(false)),
                    Hanko::DatabaseDown | Hanko::Down => self.conclude(&mut next, None),
                }
            }
            Event::ValidationFails => {
                // A request fails only if Hanko was not up for all of its time.
                state.open.filter(|open| open.saw_outage)?;
                self.conclude(&mut next, None);
            }
            Event::SessionEnds => {
                if state.ended_at.is_some() || state.hanko != Hanko::Up {
                    return None;
                }
                next.ended_at = Some(state.now);
                next.is_guaranteed = true;
                // If there was no request before in this tick, the tick counts as one without a request.
                next.is_steady = state.was_used_in_this_tick;
            }
            Event::WebhookArrives => {
                state.ended_at?;
                next.is_refused = true;
            }
            Event::KeyIsWithdrawn => next.is_refused = true,
            Event::HankoBecomes(hanko) => {
                if state.hanko == hanko || (state.hanko != Hanko::Up && hanko != Hanko::Up) {
                    return None;
                }
                next.hanko = hanko;
                next.is_guaranteed = false;
                if let Some(open) = &mut next.open {
                    open.saw_outage = true;
                }
            }
        }
        Some(next)
    }

    /// Runs the steps of `Hanko::authenticate`.
    fn request(&mut self, state: &mut State) {
        if state.is_refused {
            return;
        }
        let decision = state.record.map_or_else(
            || Record::decide_without(self.policy.mode),
            |record| record.decide(at(state.now)),
        );
        match decision {
            Decision::Accept => self.accept(state),
            Decision::Reject => self.reject(state),
            Decision::AcceptAndRefresh | Decision::RejectAndRefresh => {
                if let Some(record) = state
                    .record
                    .and_then(|record| record.refreshing(at(state.now)))
                {
                    state.record = Some(record);
                    Self::ask(state, false);
                }
                if decision == Decision::AcceptAndRefresh {
                    self.accept(state);
                } else {
                    self.reject(state);
                }
            }
            Decision::Wait => {
                assert_ne!(self.policy.mode, SessionMode::Stateless, "no request waits");
                Self::ask(state, true);
            }
        }
    }

    fn ask(state: &mut State, has_waiter: bool) {
        match &mut state.open {
            Some(open) => open.has_waiter |= has_waiter,
            None => {
                state.open = Some(Open {
                    asked_at: state.now,
                    found: None,
                    is_arrived: false,
                    has_waiter,
                    is_live: false,
                    saw_outage: state.hanko != Hanko::Up,
                });
            }
        }
    }

    /// Runs the steps of `Shared::conclude`, and then those of a waiting request.
    fn conclude(&mut self, state: &mut State, outcome: Option<bool>) {
        let Some(open) = state.open.take() else {
            return;
        };
        let previous = state.record;
        state.record = match outcome {
            Some(is_alive) => {
                let answer = Answer {
                    is_alive,
                    asked_at: at(open.asked_at),
                    ends_at: NEVER,
                    idle_ends_at: NEVER,
                    is_renewal: true,
                };
                if is_alive {
                    state.confirmed_at = Some(open.asked_at);
                }
                state.is_misled = !is_alive && state.ended_at.is_none();
                assert!(!state.is_misled || open.saw_outage, "{state:?}");
                Some(Record::answered(
                    previous.as_ref(),
                    &answer,
                    &self.policy,
                    JITTER,
                ))
            }
            None => previous.map(|record| {
                record.failed(at(open.asked_at), at(state.now), &self.policy, JITTER)
            }),
        };
        if !open.has_waiter || state.is_refused {
            return;
        }
        let is_usable = |record: Record| record.is_usable_after_failure(at(state.now));
        match outcome {
            Some(true) => self.accept(state),
            Some(false) => self.reject(state),
            None if !open.is_live && state.record.is_some_and(is_usable) => self.accept(state),
            None => {}
        }
    }

    /// Checks that a session may be accepted now.
    fn accept(&mut self, state: &State) {
        self.accepted += 1;
        assert!(!state.is_refused, "{state:?}");
        assert!(
            state.record.is_none_or(|record| record.is_alive()),
            "{state:?}"
        );
        if self.policy.mode != SessionMode::Stateless {
            let confirmed_at = state.confirmed_at.expect("confirmed once");
            let bound = match self.policy.mode {
                SessionMode::Stateful => TTL + VALIDATION,
                _ => MAX_STALE + VALIDATION,
            };
            assert!(state.now <= confirmed_at + bound, "{state:?}");
            if let Some(ended_at) = state.ended_at.filter(|_| state.is_guaranteed) {
                let ages = match self.policy.mode {
                    SessionMode::Hybrid if !state.is_steady => 2 * TTL,
                    // With one request per tick, a due refresh is noticed up to a tick late.
                    SessionMode::Hybrid => TTL + 1,
                    SessionMode::Stateful | SessionMode::Stateless => TTL,
                };
                assert!(state.now <= ended_at + ages + VALIDATION, "{state:?}");
            }
        }
    }

    /// Checks that a session may be rejected now.
    fn reject(&mut self, state: &State) {
        self.rejected += 1;
        assert!(
            state.ended_at.is_some() || state.is_misled,
            "an active session: {state:?}"
        );
    }
}

/// Explores all states that can be reached, and returns their number.
fn explore(mode: SessionMode) -> (usize, Model) {
    let mut model = Model {
        policy: policy(mode),
        accepted: 0,
        rejected: 0,
    };
    let start = State {
        now: 0,
        record: None,
        open: None,
        hanko: Hanko::Up,
        ended_at: None,
        is_guaranteed: false,
        is_steady: false,
        is_refused: false,
        was_used_in_this_tick: false,
        confirmed_at: None,
        is_misled: false,
    };
    let mut seen = HashSet::from([start.clone()]);
    let mut unexplored = vec![start];
    while let Some(state) = unexplored.pop() {
        for event in EVENTS {
            if let Some(next) = model.after(&state, event)
                && seen.insert(next.clone())
            {
                unexplored.push(next);
            }
        }
    }
    (seen.len(), model)
}

#[test]
fn no_order_of_events_breaks_a_guarantee() {
    for mode in [
        SessionMode::Stateless,
        SessionMode::Hybrid,
        SessionMode::Stateful,
    ] {
        let (states, model) = explore(mode);
        println!(
            "{mode:?}: {states} states, {} accepted, {} rejected",
            model.accepted, model.rejected
        );
        assert!(model.accepted > 1000, "{mode:?}");
        assert!(model.rejected > 1000, "{mode:?}");
    }
}
