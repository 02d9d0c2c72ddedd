//! Explores every order of requests, answers, webhooks, key rotations, outages and retries, on the rules of [`record`] and
//! in the steps of [`Hanko::authenticate`](crate::Hanko::authenticate), and checks what each mode guarantees.
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
/// A validation request, with its place in the queue and the confirmation of a negative answer, fails after so many ticks.
const VALIDATION: u64 = 1;
/// The most that an interval is shortened by.
const JITTER: f64 = 1.0;
/// The exploration ends here.
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
    /// What Hanko has found, if it has looked: its answer is on its way.
    found: Option<bool>,
    /// A negative answer has arrived at this time, and waits for its confirmation.
    is_arrived: bool,
    /// A request waits for it.
    has_waiter: bool,
    /// It was sent for a request that uses only its answer, as `Hanko::authenticate_live` does.
    is_live: bool,
    /// Hanko was down at some time since it was sent.
    saw_outage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Hanko {
    Up,
    /// Every session is "not valid", and the keys cannot be fetched.
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
    /// Hanko has answered, and no tick has passed without a request, ever since the session ended.
    is_guaranteed: bool,
    is_steady: bool,
    /// The session is revoked, or its key has left the JWK Set: a request checks both in the same two places.
    is_refused: bool,
    was_used_in_this_tick: bool,
    /// When the request was sent that Hanko last answered positively.
    confirmed_at: Option<u64>,
    /// Hanko's database came back between a negative answer that it could not know better and the fetch of the keys, so
    /// that an active session is rejected. It is when Hanko is asked again.
    is_misled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Tick,
    Request,
    LiveRequest,
    HankoLooks,
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
    Event::HankoLooks,
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
    /// The state after an event; `None` if it cannot happen.
    fn after(&mut self, state: &State, event: Event) -> Option<State> {
        // Nothing that comes later can let a refused session in.
        if state.is_refused && state.open.is_none_or(|open| !open.has_waiter) {
            return None;
        }
        let mut next = state.clone();
        match event {
            Event::Tick => {
                // Time does not pass over the end of a request.
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
                // Never while another is open: it would be the next one then.
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
            Event::HankoLooks => {
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
                // While Hanko answers, a request fails only where Hanko did not answer before.
                state.open.filter(|open| open.saw_outage)?;
                self.conclude(&mut next, None);
            }
            Event::SessionEnds => {
                if state.ended_at.is_some() || state.hanko != Hanko::Up {
                    return None;
                }
                next.ended_at = Some(state.now);
                next.is_guaranteed = true;
                // Without a request before, this tick counts as one without a request.
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

    /// The steps of `Hanko::authenticate`.
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

    /// The steps of `Shared::conclude`, and then those of a request that waits.
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
                    // A request in each tick notices a tick late that the answer is due.
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

/// Explores all states that can be reached, and returns how many there are.
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
