//! `concurrency_limit`: how many requests at a time.

use super::key::Key;
use crate::filter::{Answer, Filter, Flow, Request, Result, SettingsError, Setup, settings::Count};
use hashbrown::{HashTable, hash_table::Entry};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The table is in parts with a lock each, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// A part that has room for this many keys is not made smaller.
const SMALL: usize = 64;

/// How many requests there may be at a time. What is beyond is answered with 503.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// How many of the same key may be under way at a time.
    max: Count,
    /// What requests have in common that count together.
    #[serde(default = "by_route")]
    key: Key,
}

fn by_route() -> Key {
    Key::Route
}

/// Admits requests while there are fewer than `max` of their key.
pub(super) struct ConcurrencyLimit {
    max: u32,
    key: Key,
    places: Arc<Places>,
}

impl Filter for ConcurrencyLimit {
    const NAME: &'static str = "concurrency_limit";
    type Settings = Settings;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self { max: *settings.max, key: settings.key, places: Places::new() })
    }

    /// Requests that came before a reload still count.
    fn adopt(&mut self, predecessor: &Self) {
        if self.key == predecessor.key {
            self.places = Arc::clone(&predecessor.places);
        }
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let key = self.key.of(request, &self.places.seed);
        let Some(place) = self.places.take(key, self.max) else {
            return Ok(Answer::new(StatusCode::SERVICE_UNAVAILABLE).into());
        };
        // It is dropped with the request, however that ends.
        request.keep(place);
        Ok(Flow::Continue)
    }
}

/// How many requests of each key are under way. A key without any takes no room.
struct Places {
    shards: [Mutex<HashTable<Taken>>; SHARDS],
    /// What makes keys of values.
    seed: RandomState,
}

/// A key with the requests that are under way.
struct Taken {
    key: u64,
    count: u32,
}

/// The place of one request, which is free again when this is dropped.
struct Place {
    places: Arc<Places>,
    key: u64,
}

impl Places {
    fn new() -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), seed: RandomState::new() })
    }

    /// Takes a place of `key`, whose bits are as good as random, if fewer than `max` are taken.
    fn take(self: &Arc<Self>, key: u64, max: u32) -> Option<Place> {
        let mut shard = self.shard(key);
        match shard.entry(key, |taken| taken.key == key, |taken| taken.key) {
            Entry::Occupied(entry) if entry.get().count >= max => return None,
            Entry::Occupied(mut entry) => entry.get_mut().count += 1,
            Entry::Vacant(entry) => {
                entry.insert(Taken { key, count: 1 });
            }
        }
        Some(Place { places: Arc::clone(self), key })
    }

    fn free(&self, key: u64) {
        let mut shard = self.shard(key);
        let Ok(mut entry) = shard.find_entry(key, |taken| taken.key == key) else { return };
        entry.get_mut().count -= 1;
        if entry.get().count > 0 {
            return;
        }
        entry.remove();
        // What many keys at a time have taken up is given back once there are few.
        let (keys, room) = (shard.len(), shard.capacity());
        if room > SMALL && keys < room / 8 {
            shard.shrink_to(room / 4, |taken| taken.key);
        }
    }

    /// The part that a key belongs to. It is told from other bits than those that tell its place
    /// there.
    fn shard(&self, key: u64) -> MutexGuard<'_, HashTable<Taken>> {
        let shard = &self.shards[(key >> 40) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.free(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{
        Chain, Facts, Incoming, Instance, Passage, Progress, Reading, Shown, settings::NoSettings,
    };
    use http::HeaderValue;
    use pingora::http::RequestHeader;
    use std::{hash::BuildHasher, path::Path, thread, time::Instant};

    fn keys(places: &Places) -> usize {
        places.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn bytes(places: &Places) -> usize {
        places.shards.iter().map(|shard| shard.lock().unwrap().allocation_size()).sum()
    }

    #[test]
    fn each_key_has_its_places_and_gives_them_back() {
        let places = Places::new();
        let held: Vec<_> = (0..3).map_while(|_| places.take(1, 3)).collect();
        assert_eq!(held.len(), 3);
        assert!(places.take(1, 3).is_none());
        assert!(places.take(2, 3).is_some());
        assert!(places.take(1, 4).is_some(), "a higher limit has room at once");
        drop(held);
        assert_eq!(keys(&places), 0);
        assert!(places.take(1, 1).is_some());
    }

    #[test]
    fn memory_is_that_of_the_requests_under_way() {
        let places = Places::new();
        let key = |number: u64| places.seed.hash_one(number);
        let held: Vec<_> = (0..100_000).map(|number| places.take(key(number), 1)).collect();
        assert_eq!(keys(&places), 100_000);
        let most = bytes(&places);
        assert!(most < 10_000_000, "{most} bytes");
        drop(held);
        let left = bytes(&places);
        assert!(keys(&places) == 0 && left < most / 20, "{left} of {most} bytes");
        for number in 0..100_000 {
            assert!(places.take(key(number), 1).is_some());
        }
        assert!(bytes(&places) <= left, "keys that come and go take room");
    }

    #[test]
    fn threads_never_have_more_than_there_are() {
        let places = Places::new();
        let most = thread::scope(|scope| {
            let run = || {
                let once = |_| places.take(7, 3).map(|place| count(&place));
                (0..20_000).filter_map(once).max()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).max()
        });
        assert!(most.is_some_and(|most| most <= 3), "{most:?}");
        assert_eq!(keys(&places), 0);
    }

    fn limit(max: u32, key: Key) -> ConcurrencyLimit {
        let settings = Settings { max: Count(max), key };
        ConcurrencyLimit::new(settings, &mut Setup::new(Path::new("/"), &[])).unwrap()
    }

    #[test]
    fn requests_from_before_a_reload_still_count() {
        let old = limit(1, Key::Route);
        let place = old.places.take(7, old.max).unwrap();
        let mut new = limit(2, Key::Route);
        new.adopt(&old);
        let second = new.places.take(7, new.max);
        assert!(second.is_some() && new.places.take(7, new.max).is_none());
        drop(place);
        assert!(new.places.take(7, new.max).is_some());
        let mut other = limit(1, Key::ClientIp);
        other.adopt(&old);
        assert!(other.places.take(7, other.max).is_some(), "they are of other keys");
    }

    /// A filter behind the limit that fails as badly as one can.
    struct Panics;

    impl Filter for Panics {
        const NAME: &'static str = "panics";
        type Settings = NoSettings;

        fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
            Ok(Self)
        }

        async fn on_request(&self, _: &mut Request<'_>) -> Result {
            panic!("as it must")
        }
    }

    struct Arrived(RequestHeader);

    impl Incoming for Arrived {
        fn head(&self) -> &RequestHeader {
            &self.0
        }

        fn head_mut(&mut self) -> &mut RequestHeader {
            &mut self.0
        }

        fn read_body(&mut self, _: usize) -> Reading<'_> {
            Box::pin(async { Ok(None) })
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_later_filter_gives_the_place_back() {
        let limit = limit(1, Key::Route);
        let places = Arc::clone(&limit.places);
        let instance = |filter| Instance {
            filter,
            pools: Vec::new(),
            files: Vec::new(),
            settings: Shown::default(),
        };
        let chain = Chain::new(vec![instance(Box::new(limit)), instance(Box::new(Panics))]);
        for _ in 0..3 {
            let (mut rewritten, mut progress) = (None, Progress::default());
            let facts = Facts {
                client_ip: None,
                scheme: "http",
                tls: None,
                listener: "web",
                route: "api",
                request_id: &HeaderValue::from_static("id"),
                received: Instant::now(),
            };
            let mut passage = Passage {
                chain: &chain,
                facts,
                progress: &mut progress,
                rewritten: &mut rewritten,
                pool: None,
                backend: None,
                tries: 0,
            };
            let mut arrived = Arrived(RequestHeader::build("GET", b"/", None).unwrap());
            let stop = passage.request(&mut arrived).await;
            assert!(format!("{stop:?}").contains("FilterPanic"), "{stop:?}");
            assert_eq!(keys(&places), 1, "it is held as long as the request is there");
            drop(progress);
            assert_eq!(keys(&places), 0);
        }
    }

    fn count(place: &Place) -> u32 {
        let shard = place.places.shard(place.key);
        shard.find(place.key, |taken| taken.key == place.key).unwrap().count
    }
}
