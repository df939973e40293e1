//! Counting requests by method and status.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a method is counted as, in the order in which they are counted. The last is every other: a
/// client may send any word.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// The classes of statuses: those from 100 to 199, and so on to 999.
const CLASSES: usize = 9;
const STATUSES: usize = 100;

/// Requests by method and status. Counters are made when they are first needed, a hundred at a time,
/// and from then on found by number, without a lock.
#[derive(Debug, Default)]
pub struct Requests {
    methods: [OnceLock<Box<Classes>>; METHODS.len()],
}

type Classes = [OnceLock<Box<[AtomicU64; STATUSES]>>; CLASSES];

impl Requests {
    /// Counts a request.
    pub fn count(&self, method: &str, status: u16) {
        let classes = self.methods[number(method)].get_or_init(Box::default);
        // Statuses have three digits; one that had not would be counted with its neighbours.
        let status = usize::from(status).clamp(100, 999) - 100;
        let counters = classes[status / STATUSES]
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        counters[status % STATUSES].fetch_add(1, Relaxed);
    }

    /// The methods and statuses that were counted, and how often.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, usize, u64)> {
        let methods = METHODS.into_iter().zip(&self.methods);
        let classes = methods.filter_map(|(method, classes)| Some((method, classes.get()?)));
        classes.flat_map(|(method, classes)| {
            let counters = classes.iter().enumerate().filter_map(|(at, it)| Some((at, it.get()?)));
            counters.flat_map(move |(class, counters)| {
                let counts = counters.iter().map(|counter| counter.load(Relaxed)).enumerate();
                let seen = counts.filter(|(_, count)| *count > 0);
                seen.map(move |(at, count)| (method, (class + 1) * STATUSES + at, count))
            })
        })
    }
}

fn number(method: &str) -> usize {
    match method {
        "GET" => 0,
        "HEAD" => 1,
        "POST" => 2,
        "PUT" => 3,
        "DELETE" => 4,
        "CONNECT" => 5,
        "OPTIONS" => 6,
        "TRACE" => 7,
        "PATCH" => 8,
        _ => METHODS.len() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_their_numbers() {
        for (at, method) in METHODS.into_iter().enumerate() {
            assert_eq!(number(method), at, "{method}");
        }
        for unknown in ["", "-", "get", "BREW", "GETT"] {
            assert_eq!(METHODS[number(unknown)], "other", "{unknown}");
        }
    }

    #[test]
    fn every_status_has_its_counter() {
        let requests = Requests::default();
        for status in 100..=999 {
            (0..status).for_each(|_| requests.count("POST", status));
        }
        requests.count("BREW", 418);
        let counts: Vec<_> = requests.counts().collect();
        let posts = (100..=999).map(|status| ("POST", status, status as u64));
        assert_eq!(counts, posts.chain([("other", 418, 1)]).collect::<Vec<_>>());
    }
}
