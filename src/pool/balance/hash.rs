//! The hashing policies: equal keys go to equal backends.
//!
//! Both keep every active member in their table, usable or not. A key whose member may not be picked
//! goes on to the next in the table, so that a member that goes out moves its own keys and no others,
//! and they come back when it does.

use super::{
    Allowed, Ask, Member, Scoring, Used,
    p2c::{Cost, TwoChoices},
};
use crate::model::{Balance, BalancePolicy, with_client_bytes};
use rand::RngCore;
use std::{net::IpAddr, sync::Arc};
use twox_hash::XxHash3_64;

/// Points on the ring for each unit of weight, as in ketama.
const POINTS: u64 = 160;
/// The most points on a ring, which take 16 MB; the points of a unit shrink for pools that would exceed
/// it.
const MAX_POINTS: u64 = 1_000_000;
/// The size of a Maglev table: the smaller of the two that the paper proposes. It must be prime.
const TABLE: u64 = 65_537;

/// How far along the table a key looks for a member before it makes sure that there is one.
const NEAR: usize = 64;

/// A hash of `bytes`, the same in every process: what a request's key is made of.
pub fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The key of a client's address; of IPv6, that of its network.
pub fn hash_address(address: IpAddr) -> u64 {
    with_client_bytes(address, hash)
}

/// A hashing policy over one set of members.
pub(in crate::pool) struct Hashed {
    table: Arc<Table>,
    bounded_load: Option<f64>,
    /// The weight of all members that are picked from, but for those that are coming back.
    full_weight: f64,
    /// The indices of those, of which more counts as time passes.
    coming_back: Box<[usize]>,
    /// For requests without a key.
    keyless: TwoChoices,
}

/// What a table is made of; equal contents make equal tables.
type Contents = Vec<(String, u32)>;

struct Table {
    contents: Contents,
    /// What one unit of weight is.
    unit: u32,
    slots: Slots,
}

enum Slots {
    /// Points in order, each with the index of its member.
    Ring(Box<[(u64, u32)]>),
    /// The index of a member for each hash modulo the table's size.
    Maglev(Box<[u32]>),
}

impl Hashed {
    pub(super) fn new(
        balance: &Balance,
        members: &[Arc<Member>],
        used: &Used<'_>,
        before: Option<&Self>,
    ) -> Self {
        let contents: Contents =
            members.iter().map(|member| (member.key().to_owned(), member.weight())).collect();
        // Health changes alone leave the table as it is, and it is costly to make.
        let same = before
            .filter(|before| before.table.contents == contents && before.table.unit == used.unit);
        let table = same.map_or_else(
            || Arc::new(Table::new(balance.policy, contents, used.unit)),
            |before| before.table.clone(),
        );
        let in_use = (0..members.len()).filter(|&index| (used.which)(&members[index]));
        let (coming_back, in_full): (Vec<usize>, Vec<usize>) =
            in_use.partition(|&index| members[index].share(used.slow_start, used.now) < 1.0);
        Self {
            table,
            bounded_load: balance.bounded_load,
            full_weight: in_full.iter().map(|&index| f64::from(members[index].weight())).sum(),
            coming_back: coming_back.into(),
            keyless: TwoChoices::new(members, Cost::InFlight),
        }
    }

    pub(super) fn next(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<usize> {
        let Some(key) = ask.key else { return self.keyless.next(members, ask, allowed, rng) };
        let walk = |fits: Allowed<'_>| self.table.first(key, members, fits);
        let Some(bound) = self.bounded_load else { return walk(allowed) };
        // Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): a member
        // takes no more than its share of the requests in flight, the new one included, times the
        // bound, rounded up. While it comes back its share is smaller.
        let per_weight = bound * (ask.in_flight + 1) as f64 / self.weight_in_use(members, ask);
        let bounded = |member: &Member| {
            let most = (per_weight * weight_of(member, ask)).ceil();
            allowed(member) && (member.state().in_flight() as f64) < most
        };
        // With everybody at the bound, which can only be for a moment, the bound gives way.
        walk(&bounded).or_else(|| walk(allowed))
    }

    /// The weight that shares are of: of the members that are picked from. With those that are out the
    /// others would meet their bounds before they had all of the load.
    fn weight_in_use(&self, members: &[Arc<Member>], ask: &Ask<'_>) -> f64 {
        let coming_back = self.coming_back.iter().map(|&index| weight_of(&members[index], ask));
        self.full_weight + coming_back.sum::<f64>()
    }

    /// What the scores say.
    pub(super) fn scoring(&self, ask: &Ask<'_>) -> Scoring {
        if ask.key.is_some() { Scoring::Order } else { self.keyless.scoring() }
    }

    /// The place of each member in the order of the key, from 1 on; what is compared where there is
    /// none.
    pub(super) fn scores(&self, members: &[Arc<Member>], ask: &Ask<'_>) -> Vec<f64> {
        let Some(key) = ask.key else {
            return members.iter().map(|member| self.keyless.score(member, ask)).collect();
        };
        let mut places = vec![0_u32; members.len()];
        let mut place = 0;
        for index in self.table.walk(key) {
            if places[index] == 0 {
                place += 1;
                places[index] = place;
            }
            if place as usize == members.len() {
                break;
            }
        }
        places.into_iter().map(f64::from).collect()
    }
}

/// How much of the weight of `member` counts now.
fn weight_of(member: &Member, ask: &Ask<'_>) -> f64 {
    f64::from(member.weight()) * ask.share(member)
}

impl Table {
    fn new(policy: BalancePolicy, contents: Contents, unit: u32) -> Self {
        let slots = match policy {
            BalancePolicy::Maglev => Slots::Maglev(maglev(&contents)),
            _ => Slots::Ring(ring(&contents, unit)),
        };
        Self { contents, unit, slots }
    }

    /// The index of the first member that `key` meets and that fits. Where none does, as when all are
    /// full, that is found out by a look at the members, of which there are few, and not by going
    /// once around: an overloaded pool has no time for that.
    fn first(&self, key: u64, members: &[Arc<Member>], fits: Allowed<'_>) -> Option<usize> {
        let mut slots = self.walk(key);
        let near = slots.by_ref().take(NEAR).find(|&index| fits(&members[index]));
        if near.is_some() || !members.iter().any(|member| fits(member)) {
            return near;
        }
        slots.find(|&index| fits(&members[index]))
    }

    /// The indices of members in the order in which `key` meets them, once around.
    fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let (start, length) = match &self.slots {
            Slots::Ring(points) => (points.partition_point(|point| point.0 < key), points.len()),
            Slots::Maglev(table) => ((key % TABLE) as usize, table.len()),
        };
        (start..length).chain(0..start.min(length)).map(move |slot| match &self.slots {
            Slots::Ring(points) => points[slot].1 as usize,
            Slots::Maglev(table) => table[slot] as usize,
        })
    }
}

/// A consistent-hash ring (Karger et al., 1997) with ketama's number of points.
fn ring(contents: &Contents, unit: u32) -> Box<[(u64, u32)]> {
    let total: u64 = contents.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let unit = u64::from(unit.max(1));
    let points_of = |weight: u32| {
        let wanted = u64::from(weight) * POINTS / unit;
        let scaled = u64::from(weight) * MAX_POINTS / total.max(1);
        if total * POINTS / unit <= MAX_POINTS { wanted.max(1) } else { scaled.max(1) }
    };
    let mut points: Vec<(u64, u32)> = Vec::new();
    for (index, (key, weight)) in contents.iter().enumerate() {
        let point = |number: u64| (hash(format!("{key}#{number}").as_bytes()), index as u32);
        points.extend((0..points_of(*weight)).map(point));
    }
    points.sort_unstable();
    points.into()
}

/// A Maglev table (Eisenbud et al., NSDI 2016, section 3.4): members take turns, in proportion to
/// weight, to claim the next free slot of their own permutation of the table.
fn maglev(contents: &Contents) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let mut table = vec![FREE; TABLE as usize];
    let heaviest = contents.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    if heaviest == 0 {
        return Box::default();
    }
    let mut permutations: Vec<Permutation> =
        contents.iter().map(|(key, _)| Permutation::new(key)).collect();
    let mut turns = vec![0.0_f64; contents.len()];
    let mut free = TABLE;
    while free > 0 {
        for (index, (_, weight)) in contents.iter().enumerate() {
            turns[index] += f64::from(*weight) / f64::from(heaviest);
            if turns[index] < 1.0 || free == 0 {
                continue;
            }
            turns[index] -= 1.0;
            let slot = permutations[index].next_free(&table, FREE);
            table[slot] = index as u32;
            free -= 1;
        }
    }
    table.into()
}

/// A member's order of preference among the slots.
struct Permutation {
    offset: u64,
    skip: u64,
    next: u64,
}

impl Permutation {
    fn new(key: &str) -> Self {
        let offset = XxHash3_64::oneshot_with_seed(1, key.as_bytes()) % TABLE;
        let skip = XxHash3_64::oneshot_with_seed(2, key.as_bytes()) % (TABLE - 1) + 1;
        Self { offset, skip, next: 0 }
    }

    /// The next slot in the order that is free. There is one: the caller counts them.
    fn next_free(&mut self, table: &[u32], free: u32) -> usize {
        loop {
            let slot = ((self.offset + self.next * self.skip) % TABLE) as usize;
            self.next += 1;
            if table[slot] == free {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        Time, Tried,
        balance::tests::{ask, everyone, numbered, rng},
    };
    use std::time::Duration;

    const KEYS: u64 = 100_000;

    fn members(count: usize) -> Vec<Arc<Member>> {
        (0..count).map(|i| numbered(&format!("10.0.0.{i}:80"), 1, i)).collect()
    }

    fn hashed(balance: &Balance, members: &[Arc<Member>], before: Option<&Hashed>) -> Hashed {
        Hashed::new(balance, members, &everyone(), before)
    }

    fn assign(policy: BalancePolicy, members: &[Arc<Member>]) -> Vec<usize> {
        let hashed = hashed(&Balance::of(policy), members, None);
        let (tried, mut rng) = (Tried::default(), rng());
        let pick = |key: u64| {
            let ask = Ask { key: Some(hash(&key.to_le_bytes())), ..ask(&tried) };
            let index = hashed.next(members, &ask, &|_| true, &mut rng).unwrap();
            members[index].order()
        };
        (0..KEYS).map(pick).collect()
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let hash = |text: &str| hash_address(text.parse().unwrap());
        assert_eq!(hash("2001:db8:0:1::1"), hash("2001:db8:0:1:ffff::2"));
        assert_ne!(hash("2001:db8:0:1::1"), hash("2001:db8:0:2::1"));
        assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
    }

    #[test]
    fn the_fullest_is_near_the_mean() {
        for (policy, most) in [(BalancePolicy::Maglev, 1.1), (BalancePolicy::RingHash, 1.25)] {
            for count in [3, 10, 50] {
                let members = members(count);
                let mut keys = vec![0_u64; count];
                for index in assign(policy, &members) {
                    keys[index] += 1;
                }
                let fullest = *keys.iter().max().unwrap() as f64 * count as f64 / KEYS as f64;
                assert!(fullest <= most, "{policy} of {count}: {fullest}");
            }
        }
    }

    #[test]
    fn removing_one_of_n_moves_little_more_than_its_share() {
        for policy in [BalancePolicy::Maglev, BalancePolicy::RingHash] {
            let all = members(10);
            let before = assign(policy, &all);
            for gone in [0, 4, 9] {
                let mut left = all.clone();
                left.remove(gone);
                let after = assign(policy, &left);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                let share = moved as f64 / KEYS as f64;
                assert!(share <= 0.1 + 0.05, "{policy} without {gone}: {share}");
            }
        }
    }

    #[test]
    fn one_that_is_out_moves_only_its_own_keys() {
        let (all, tried, mut rng) = (members(10), Tried::default(), rng());
        for policy in [BalancePolicy::Maglev, BalancePolicy::RingHash] {
            let hashed = hashed(&Balance::of(policy), &all, None);
            for key in 0..10_000_u64 {
                let ask = Ask { key: Some(hash(&key.to_le_bytes())), ..ask(&tried) };
                let before = hashed.next(&all, &ask, &|_| true, &mut rng).unwrap();
                let after = hashed.next(&all, &ask, &|member| member.order() != 3, &mut rng);
                let expected = if before == 3 { after != Some(3) } else { after == Some(before) };
                assert!(expected, "{policy}");
            }
        }
    }

    #[test]
    fn weights_are_kept() {
        let members = [numbered("a", 1, 0), numbered("b", 3, 1), numbered("c", 6, 2)];
        for policy in [BalancePolicy::Maglev, BalancePolicy::RingHash] {
            let mut keys = [0_u64; 3];
            for index in assign(policy, &members) {
                keys[index] += 1;
            }
            for (count, weight) in keys.iter().zip([1, 3, 6]) {
                let share = *count as f64 * 10.0 / (KEYS * weight) as f64;
                assert!((0.85..1.15).contains(&share), "{policy}: {keys:?}");
            }
        }
    }

    #[test]
    fn weights_count_by_what_they_have_in_common() {
        let points = |weights: [u32; 2], unit| {
            let contents =
                weights.iter().enumerate().map(|(at, it)| (at.to_string(), *it)).collect();
            let ring = ring(&contents, unit);
            [0, 1].map(|member| ring.iter().filter(|point| point.1 == member).count())
        };
        assert_eq!(points([1, 3], 1), [160, 480]);
        assert_eq!(points([100, 300], 100), [160, 480]);
        // One whose weight was set at run time.
        assert_eq!(points([100, 150], 100), [160, 240]);
        let huge = points([65_535, 1], 1);
        assert!(huge[0] <= 1_000_000 && huge[1] >= 1, "{huge:?}");
    }

    #[test]
    fn a_hot_key_overflows_at_the_bound() {
        let all = members(4);
        let balance = Balance { bounded_load: Some(1.5), ..Balance::of(BalancePolicy::RingHash) };
        let hashed = hashed(&balance, &all, None);
        let (tried, mut rng) = (Tried::default(), rng());
        for in_flight in 0..100 {
            let ask = Ask { key: Some(7), in_flight, ..ask(&tried) };
            let index = hashed.next(&all, &ask, &|_| true, &mut rng).unwrap();
            all[index].state().try_begin(None);
        }
        let most = all.iter().map(|member| member.state().in_flight()).max().unwrap();
        assert!((25..=38).contains(&most), "{most} of 100 on one of four");
    }

    /// How many of a hundred requests with one key the member has that has the most, at a bound of 150%.
    fn most_of_a_hundred(members: &[Arc<Member>], used: &Used<'_>, now: Time) -> usize {
        let balance = Balance { bounded_load: Some(1.5), ..Balance::of(BalancePolicy::RingHash) };
        let hashed = Hashed::new(&balance, members, used, None);
        let (tried, mut rng) = (Tried::default(), rng());
        for in_flight in 0..100 {
            let slow_start = used.slow_start;
            let ask = Ask { key: Some(7), in_flight, slow_start, now, ..ask(&tried) };
            let index = hashed.next(members, &ask, used.which, &mut rng).unwrap();
            assert!(members[index].state().try_begin(None));
        }
        members.iter().map(|member| member.state().in_flight()).max().unwrap()
    }

    #[test]
    fn those_that_are_out_have_no_share_of_the_bound() {
        let all = members(3);
        let used = Used { which: &|it| it.order() != 1, ..everyone() };
        // Half more than its half; a third for the one that is out would make it just a half.
        assert_eq!(most_of_a_hundred(&all, &used, Time::ZERO), 75);
    }

    #[test]
    fn one_that_comes_back_has_more_of_a_share_as_time_passes() {
        let second = |seconds| Time::ZERO.after(Duration::from_secs(seconds));
        for (now, most) in [(1, 72), (101, 50)] {
            let all = members(3);
            // Not one that the key is for.
            let last = hashed(&Balance::of(BalancePolicy::RingHash), &all, None);
            let tried = Tried::default();
            let ask = Ask { key: Some(7), ..ask(&tried) };
            let first = last.next(&all, &ask, &|_| true, &mut rng()).unwrap();
            all[(first + 1) % 3].state().set_came_back(second(1));
            let used = Used { slow_start: Duration::from_secs(100), now: second(1), ..everyone() };
            assert_eq!(most_of_a_hundred(&all, &used, second(now)), most, "{now} s");
        }
    }

    #[test]
    fn the_table_is_kept_while_the_members_are_the_same() {
        let all = members(3);
        let balance = Balance::of(BalancePolicy::Maglev);
        let first = hashed(&balance, &all, None);
        let second = hashed(&balance, &all, Some(&first));
        assert!(Arc::ptr_eq(&first.table, &second.table));
        let third = hashed(&balance, &all[1..], Some(&second));
        assert!(!Arc::ptr_eq(&first.table, &third.table));
    }
}
