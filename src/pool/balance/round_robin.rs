//! Round robin: each member in turn, in proportion to weight.

use super::{Ask, Member};
use crate::model::common_divisor;
use pingora_load_balancing::{
    Backend, Extensions,
    selection::{BackendIter, BackendSelection, SelectionAlgorithm, weighted::Weighted},
};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The most turns a weighted rotation holds. Weights whose sum is larger are scaled down to it,
/// which moves a share by at most one turn in this many.
const MAX_TURNS: u64 = 65_536;
/// The most steps spent on making a rotation by the exact method, whose cost is turns x members.
const MAX_EXACT_STEPS: u64 = 1 << 22;

/// Round robin over one set of members.
pub(in crate::pool) enum RoundRobin {
    /// Equal weights: Pingora's selection, which `Turns` makes a rotation.
    Equal(Arc<Weighted<Turns>>),
    /// Unequal weights: a rotation computed beforehand, walked by a shared counter. Pingora's
    /// repeats a backend `weight` times in a row, which sends bursts to the heavy ones.
    Weighted { rotation: Box<[u32]>, turn: AtomicUsize },
}

/// Whose turn it is. Pingora's own counter does the same, but cannot be looked at without taking a
/// turn.
pub(in crate::pool) struct Turns(AtomicUsize);

/// What Pingora passes on to `Turns` of a pick that takes its turn. One that only looks passes on
/// how many turns ahead.
const TAKE: &[u8] = b"";

impl SelectionAlgorithm for Turns {
    fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn next(&self, key: &[u8]) -> u64 {
        let turn = match key.try_into() {
            Ok(ahead) => self.0.load(Relaxed).wrapping_add(usize::from_le_bytes(ahead)),
            Err(_) => self.0.fetch_add(1, Relaxed),
        };
        turn as u64
    }
}

/// A member's index in the tier, carried through Pingora's selector in the backend's extensions.
#[derive(Clone, Copy)]
struct Index(usize);

impl RoundRobin {
    /// The turns begin where those of the rotation `before` would have gone on, with whoever is left of
    /// its members.
    pub(super) fn new(members: &[Arc<Member>], before: Option<(&Self, &[Arc<Member>])>) -> Self {
        let new = Self::from_the_start(members);
        if let Some((before, had)) = before {
            new.go_on_from(members, before, had);
        }
        new
    }

    fn from_the_start(members: &[Arc<Member>]) -> Self {
        let first = members.first().map(|member| member.weight());
        let equal = members.iter().all(|member| Some(member.weight()) == first);
        // Pingora's rotation counts its backends in 16 bits.
        if equal && members.len() < usize::from(u16::MAX) {
            return Self::Equal(Arc::new(pingora_rotation(members)));
        }
        let weights: Vec<u64> = members.iter().map(|m| u64::from(m.weight())).collect();
        Self::Weighted { rotation: rotation(&weights), turn: AtomicUsize::new(0) }
    }

    fn go_on_from(&self, members: &[Arc<Member>], before: &Self, had: &[Arc<Member>]) {
        if let (Self::Weighted { rotation, turn }, Self::Weighted { rotation: old, turn: at }) =
            (self, before)
        {
            // As far into this rotation as that one was in its own.
            let at = at.load(Relaxed) % old.len().max(1);
            return turn.store(at * rotation.len() / old.len().max(1), Relaxed);
        }
        let places: HashMap<usize, usize> =
            members.iter().enumerate().map(|(place, member)| (member.id(), place)).collect();
        // The member whose turn it would be, or the first after it that is still there.
        let place = |index: usize| places.get(&had.get(index)?.id()).copied();
        let Some(due) = had.iter().find_map(|_| place(before.take())) else { return };
        match self {
            Self::Equal(_) => {
                // Whose turn it is cannot be set behind Pingora's selector: those before it are taken.
                let ahead = (0..members.len()).position(|ahead| self.look(ahead) == due);
                for _ in 0..ahead.unwrap_or(0) {
                    self.take();
                }
            }
            Self::Weighted { rotation, turn } => {
                let at = rotation.iter().position(|&index| index as usize == due);
                turn.store(at.unwrap_or(0), Relaxed);
            }
        }
    }

    /// Whose turn is next: it is taken, unless `ask` only looks.
    pub(super) fn next(&self, ask: &Ask<'_>) -> usize {
        ask.looks_ahead().map_or_else(|| self.take(), |ahead| self.look(ahead))
    }

    /// Whose turn it is, which is taken.
    fn take(&self) -> usize {
        match self {
            Self::Equal(selector) => propose(selector, TAKE),
            Self::Weighted { rotation, turn } => nth(rotation, turn.fetch_add(1, Relaxed)),
        }
    }

    /// Whose turn it is so many turns after the next. None is taken.
    fn look(&self, ahead: usize) -> usize {
        match self {
            Self::Equal(selector) => propose(selector, &ahead.to_le_bytes()),
            Self::Weighted { rotation, turn } => {
                nth(rotation, turn.load(Relaxed).wrapping_add(ahead))
            }
        }
    }
}

fn nth(rotation: &[u32], turn: usize) -> usize {
    rotation.get(turn % rotation.len().max(1)).map_or(0, |&index| index as usize)
}

/// The index of what Pingora's selector proposes first.
fn propose(selector: &Arc<Weighted<Turns>>, key: &[u8]) -> usize {
    let mut turns = selector.iter(key);
    turns.next().and_then(|backend| backend.ext.get::<Index>()).map_or(0, |index| index.0)
}

/// Pingora's selector over `members`. It orders backends by address, and two addresses of a pool
/// are never equal, so it keeps every member.
fn pingora_rotation(members: &[Arc<Member>]) -> Weighted<Turns> {
    let selectable = |(index, member): (usize, &Arc<Member>)| {
        let mut ext = Extensions::new();
        ext.insert(Index(index));
        Backend { addr: member.address().clone(), weight: 1, ext }
    };
    let backends: BTreeSet<Backend> = members.iter().enumerate().map(selectable).collect();
    Weighted::build(&backends)
}

/// One round of turns in which each member occurs in proportion to its weight, spread as evenly as
/// the weights allow.
fn rotation(weights: &[u64]) -> Box<[u32]> {
    let weights = reduced(weights);
    let turns: u64 = weights.iter().sum();
    if turns * weights.len() as u64 <= MAX_EXACT_STEPS {
        smooth(&weights, turns)
    } else {
        strided(&weights, turns)
    }
}

/// The weights divided by what they have in common, and scaled down if their sum is too large; a
/// positive weight stays positive.
fn reduced(weights: &[u64]) -> Vec<u64> {
    let common = weights.iter().copied().fold(0, common_divisor).max(1);
    let total: u64 = weights.iter().map(|weight| weight / common).sum();
    let scaled = |weight: &u64| {
        let weight = weight / common;
        if total <= MAX_TURNS { weight } else { (weight * MAX_TURNS / total).max(1) }
    };
    weights.iter().map(scaled).collect()
}

/// The smooth weighted round robin of nginx (Igor Sysoev, 2012): in each turn every member gains its
/// weight, the one that has most goes next and pays the total.
fn smooth(weights: &[u64], turns: u64) -> Box<[u32]> {
    let total = i64::try_from(turns).expect("at most MAX_TURNS plus one for each member");
    let mut gained = vec![0_i64; weights.len()];
    let turn = |_| {
        let mut best = 0;
        for (index, weight) in weights.iter().enumerate() {
            gained[index] += i64::try_from(*weight).expect("at most the sum of all");
            if gained[index] > gained[best] {
                best = index;
            }
        }
        gained[best] -= total;
        best as u32
    };
    (0..turns).map(turn).collect()
}

/// Stride scheduling (Waldspurger and Weihl, 1995) for sets too large for [`smooth`]: each member
/// comes up every `1 / weight` of a round. Starting points follow the golden ratio, so that members
/// of equal weight do not come up together.
fn strided(weights: &[u64], turns: u64) -> Box<[u32]> {
    const SCALE: u64 = 1 << 40;
    const GOLDEN: u64 = 679_535_556_991; // SCALE times the golden ratio's fraction
    let stride = |weight: u64| SCALE / weight.max(1);
    let start = |(index, weight): (usize, &u64)| {
        let phase = (index as u64).wrapping_mul(GOLDEN) % SCALE;
        Reverse((
            (u128::from(stride(*weight)) * u128::from(phase) / u128::from(SCALE)) as u64,
            index,
        ))
    };
    let mut due: BinaryHeap<_> =
        weights.iter().enumerate().filter(|(_, weight)| **weight > 0).map(start).collect();
    let turn = |_| {
        let Reverse((at, index)) = due.pop()?;
        due.push(Reverse((at + stride(weights[index]), index)));
        Some(index as u32)
    };
    (0..turns).filter_map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        Tried,
        balance::tests::{ask, member, numbered},
    };
    use std::cell::Cell;

    fn picks(members: &[Arc<Member>], count: usize) -> String {
        names(&RoundRobin::new(members, None), members, count)
    }

    fn names(policy: &RoundRobin, members: &[Arc<Member>], count: usize) -> String {
        let tried = Tried::default();
        let pick = |_| {
            let seen = looked(policy, 1)[0];
            let next = policy.next(&ask(&tried));
            assert_eq!(seen, next, "what was looked at is what is picked");
            members[next].name().as_str().to_owned()
        };
        (0..count).map(pick).collect()
    }

    /// Whose turns are next, without taking them.
    fn looked(policy: &RoundRobin, count: usize) -> Vec<usize> {
        let (tried, looked) = (Tried::default(), Cell::new(0));
        let ask = Ask { look: Some(&looked), ..ask(&tried) };
        (0..count).map(|_| policy.next(&ask)).collect()
    }

    #[test]
    fn equal_weights_rotate_strictly() {
        let members = [numbered("A", 1, 0), numbered("B", 1, 1), numbered("C", 1, 2)];
        assert_eq!(picks(&members, 9), "ABCABCABC");
    }

    #[test]
    fn looking_ahead_sees_the_turns_to_come_and_takes_none() {
        for weights in [[1, 1, 1], [5, 1, 1]] {
            let members: Vec<_> =
                weights.iter().zip(0..).map(|(w, at)| numbered("m", *w, at)).collect();
            let (policy, tried) = (RoundRobin::new(&members, None), Tried::default());
            policy.next(&ask(&tried));
            let (seen, again) = (looked(&policy, 10), looked(&policy, 10));
            assert_eq!(seen, again);
            let picked: Vec<_> = (0..10).map(|_| policy.next(&ask(&tried))).collect();
            assert_eq!(seen, picked);
        }
    }

    #[test]
    fn the_turns_go_on_where_they_were_when_members_come_and_go() {
        let [a, b, c, d] =
            [("A", 0), ("B", 1), ("C", 2), ("D", 3)].map(|(name, at)| numbered(name, 1, at));
        let abc = [a.clone(), b.clone(), c.clone()];
        for (taken, after, expected) in [
            (2, vec![a.clone(), b.clone(), c.clone()], "CABC"),
            (1, vec![a.clone(), c.clone()], "CACA"),
            (2, vec![a.clone(), b.clone()], "ABAB"),
            (1, vec![a.clone(), b.clone(), c.clone(), d.clone()], "BCDA"),
            (1, vec![d.clone()], "DDDD"),
            (1, Vec::new(), ""),
        ] {
            let before = RoundRobin::new(&abc, None);
            assert_eq!(names(&before, &abc, taken), "ABC"[..taken]);
            let now = RoundRobin::new(&after, Some((&before, &abc)));
            assert_eq!(names(&now, &after, expected.len()), expected);
        }
    }

    #[test]
    fn unequal_turns_go_on_as_far_into_the_round() {
        let heavy = [member("A", 5), member("B", 1), member("C", 1)];
        let (mut policy, mut picked) = (RoundRobin::new(&heavy, None), String::new());
        for _ in 0..7 {
            picked += &names(&policy, &heavy, 1);
            policy = RoundRobin::new(&heavy, Some((&policy, &heavy)));
        }
        assert_eq!(picked, "AABACAA");
    }

    #[test]
    fn unequal_weights_are_spread_as_in_nginx() {
        let members = [member("A", 5), member("B", 1), member("C", 1)];
        assert_eq!(picks(&members, 14), "AABACAAAABACAA");
    }

    #[test]
    fn every_window_of_a_round_is_near_its_share() {
        let weights = [5, 1, 1];
        let doubled: Vec<u32> = rotation(&weights).iter().copied().cycle().take(21).collect();
        for window in doubled.windows(7) {
            for (index, weight) in weights.iter().enumerate() {
                let times = window.iter().filter(|turn| **turn as usize == index).count() as u64;
                assert!(times.abs_diff(*weight) <= 1, "{window:?}");
            }
        }
    }

    #[test]
    fn large_sets_keep_their_shares() {
        let weights: Vec<u64> = (0..1000).map(|index| 1 + index % 97).collect();
        let total: u64 = weights.iter().sum();
        let turns = rotation(&weights);
        assert_eq!(turns.len() as u64, total);
        let mut times = vec![0_u64; weights.len()];
        turns.iter().for_each(|index| times[*index as usize] += 1);
        for (index, weight) in weights.iter().enumerate() {
            assert!(times[index].abs_diff(*weight) <= 1, "{index}: {} for {weight}", times[index]);
        }
    }

    #[test]
    fn huge_weights_are_scaled_and_none_is_lost() {
        let turns = rotation(&[65_535, 65_534, 1]);
        assert!(turns.len() as u64 <= MAX_TURNS + 3);
        assert!(turns.contains(&2));
    }
}
