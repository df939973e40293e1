//! The buckets of all keys, in bounded memory.
//!
//! A bucket that is full is as good as none, so only those that are not have to be remembered. Each
//! new key makes the table look at a few more of its places, in turn, and forget the buckets there
//! that are full again: so the table is never much larger than the number of keys that have something
//! to remember. That number is in the hands of clients, so there is a cap on it. Beyond the cap a new
//! key takes the place of the fullest bucket among those that are next in turn, which forgives the
//! least that its key has used up.

use super::rate::{Level, Rate};
use hashbrown::HashTable;
use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

/// The most keys that are remembered at a time.
pub(super) const MAX_KEYS: usize = SHARDS * SHARD_KEYS;
/// The most memory that the table takes for that, in bytes.
#[cfg(test)]
const MAX_BYTES: usize = 42_000_000;

/// The table is in parts with a lock each, so that threads seldom wait for each other. There are as
/// many as it takes for a million keys.
const SHARDS: usize = 74;
/// The most keys of a part. A hash table with 32,768 places is made for twice as many, but cleans up
/// what removals leave behind, instead of growing, only while it is no fuller than that.
const SHARD_KEYS: usize = 14_336;
/// How many places a new key looks at for buckets that are full again.
const LOOKS: usize = 8;

/// Buckets by key.
pub(super) struct Buckets {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    buckets: HashTable<Bucket>,
    /// The place that is looked at next.
    hand: usize,
}

/// A bucket that is not full, or has not been for long.
#[derive(Clone, Copy)]
struct Bucket {
    key: u64,
    /// When it is full again.
    full_at: u64,
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Takes a request out of the bucket of `key`, whose bits are as good as random. A bucket that is
    /// not remembered is full. `now` is in nanoseconds.
    pub(super) fn take(&self, key: u64, rate: Rate, now: u64) -> Level {
        let shard = &self.shards[shard_of(key)];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = shard.buckets.find_mut(key, |bucket| bucket.key == key) {
            return rate.take(&mut bucket.full_at, now);
        }
        let mut bucket = Bucket { key, full_at: now };
        let level = rate.take(&mut bucket.full_at, now);
        shard.remember(bucket, now);
        level
    }

    /// How many keys are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().buckets.len()).sum()
    }

    /// The memory of the table in bytes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let one = |shard: &Mutex<Shard>| {
            size_of::<Mutex<Shard>>() + shard.lock().unwrap().buckets.allocation_size()
        };
        self.shards.iter().map(one).sum()
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("max_keys", &MAX_KEYS).finish_non_exhaustive()
    }
}

/// The part that a key belongs to. It is told from other bits than those that tell its place there.
fn shard_of(key: u64) -> usize {
    let scaled = (key >> 16 & 0xffff_ffff) * SHARDS as u64;
    (scaled >> 32) as usize
}

impl Shard {
    fn remember(&mut self, bucket: Bucket, now: u64) {
        self.forget_full(now);
        if self.buckets.len() >= SHARD_KEYS {
            self.evict();
        }
        self.buckets.insert_unique(bucket.key, bucket, |bucket| bucket.key);
    }

    /// Looks at the next places and forgets the buckets there that are full again.
    fn forget_full(&mut self, now: u64) {
        for _ in 0..LOOKS.min(self.buckets.num_buckets()) {
            let Some(bucket) = self.next() else { continue };
            if bucket.full_at <= now {
                self.forget(bucket.key);
            }
        }
    }

    /// Forgets the fullest of the next buckets. There are some: the part is at its cap.
    fn evict(&mut self) {
        let places = self.buckets.num_buckets();
        let next = (0..places).filter_map(|_| self.next()).take(LOOKS);
        if let Some(fullest) = next.min_by_key(|bucket| bucket.full_at) {
            self.forget(fullest.key);
        }
    }

    /// The bucket at the next place, if there is one.
    fn next(&mut self) -> Option<Bucket> {
        self.hand = (self.hand + 1) % self.buckets.num_buckets().max(1);
        self.buckets.get_bucket(self.hand).copied()
    }

    fn forget(&mut self, key: u64) {
        if let Ok(entry) = self.buckets.find_entry(key, |bucket| bucket.key == key) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    const SECOND: u64 = 1_000_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    /// Keys as the filter makes them: any number, spread over all 64 bits.
    fn key(number: u64) -> u64 {
        let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(requests, per, burst).unwrap()
    }

    #[test]
    fn a_thousand_keys_at_twice_the_rate_get_what_is_theirs() {
        const KEYS: u64 = 1000;
        // Ten a second are allowed, and each key asks twenty times a second, a hundred times in all.
        let pause = SECOND / 20;
        for burst in [1, 10, 40] {
            let buckets = Buckets::new();
            let rate = rate(10, Duration::from_secs(1), burst);
            let mut admitted = vec![0_u64; KEYS as usize];
            for round in 0..100 {
                for number in 0..KEYS {
                    // No two ask at the same moment.
                    let now = round * pause + number * (pause / KEYS);
                    let level = buckets.take(key(number), rate, now);
                    admitted[number as usize] += u64::from(level.admitted);
                }
            }
            // What was in the bucket, and what came back in 4.95 seconds.
            let expected = u64::from(burst) + 49;
            assert!(admitted.iter().all(|count| *count == expected), "{burst}: {admitted:?}");
        }
    }

    #[test]
    fn threads_that_share_a_bucket_get_no_more_out_of_it() {
        let (buckets, rate) = (Buckets::new(), rate(1, HOUR, 1000));
        let admitted: usize = thread::scope(|scope| {
            let take = || (0..500).filter(|_| buckets.take(7, rate, 0).admitted).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn a_million_keys_are_remembered_and_no_more_than_the_cap() {
        let (buckets, rate) = (Buckets::new(), rate(1, HOUR, 1));
        let ask = |number: u64| buckets.take(key(number), rate, 0).admitted;
        assert!((0..1_000_000).all(ask));
        assert_eq!(buckets.len(), 1_000_000);
        assert!(!(0..1_000_000).step_by(97).any(ask), "a key is forgotten below the cap");
        for number in 1_000_000..1_100_000 {
            assert!(ask(number), "a new key has a full bucket");
        }
        assert_eq!(buckets.len(), MAX_KEYS);
        assert!(buckets.bytes() <= MAX_BYTES, "{} bytes", buckets.bytes());
        // What is there is still kept: only as many were forgotten as had to be.
        let kept = (0..1_100_000).step_by(97).filter(|number| !ask(*number)).count();
        let least = MAX_KEYS / 97 * 9 / 10;
        assert!(kept >= least, "{kept} of {least}");
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten_first() {
        let buckets = Buckets::new();
        let (quick, slow) = (rate(1, Duration::from_secs(1), 1), rate(1, HOUR, 1));
        for number in 0..1000 {
            assert!(buckets.take(key(number), slow, 0).admitted);
        }
        // A new key every tenth of a millisecond, of which none matters after a second.
        let mut most = 0;
        for number in 1000..100_000 {
            assert!(buckets.take(key(number), quick, number * 100_000).admitted);
            if number % 1000 == 0 {
                most = most.max(buckets.len());
            }
        }
        assert!(most < 20_000, "{most} keys were remembered, of which 11,000 mattered");
        let now = 100_000 * 100_000;
        assert!((0..1000).all(|number| !buckets.take(key(number), slow, now).admitted));
    }

    #[test]
    fn beyond_the_cap_the_emptiest_buckets_stay() {
        let (buckets, rate) = (Buckets::new(), rate(1, HOUR, 100));
        let drained: Vec<u64> = (0..100).map(key).collect();
        for key in &drained {
            assert_eq!((0..200).filter(|_| buckets.take(*key, rate, 0).admitted).count(), 100);
        }
        // A flood on one part of the table, of four times what it holds.
        let crowded = shard_of(drained[0]);
        let flood = (1000..).map(key).filter(|key| shard_of(*key) == crowded);
        for key in flood.take(4 * SHARD_KEYS) {
            buckets.take(key, rate, 0);
        }
        assert!(buckets.len() <= SHARD_KEYS + drained.len());
        for key in drained {
            assert!(!buckets.take(key, rate, 0).admitted, "a flood of keys empties a full bucket");
        }
    }
}
