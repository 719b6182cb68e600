//! A bounded map: the oldest entry makes room for the next one.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash, Hasher, RandomState},
};

/// Hash of the parts of one entry, keyed with a secret: a client cannot craft parts that collide
/// with another client's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RecentKey(u64);

/// Factory of [`RecentKey`]s; keys of different factories are unrelated.
#[derive(Debug, Default)]
pub(crate) struct Keys(RandomState);

impl Keys {
    /// Returns the key for the parts that `feed` passes to the hash.
    pub(crate) fn of(&self, feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> RecentKey {
        let mut hasher = self.0.build_hasher();
        // Hashed with its length, so that two parts never equal their concatenation.
        feed(&mut |part| part.hash(&mut hasher));
        RecentKey(hasher.finish())
    }
}

/// Map with at most `max_entries` entries.
#[derive(Debug)]
pub(crate) struct RecentMap<V> {
    max_entries: usize,
    /// Values, with their position in `order`.
    entries: HashMap<RecentKey, (u64, V)>,
    order: BTreeMap<u64, RecentKey>,
    next: u64,
}

impl<V> RecentMap<V> {
    pub(crate) fn new(max_entries: usize) -> Self {
        Self {
            max_entries,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: RecentKey) -> Option<&V> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    /// Returns the value for `key` and makes it the newest entry.
    pub(crate) fn recall(&mut self, key: RecentKey) -> Option<&mut V> {
        let (place, value) = self.entries.get_mut(&key)?;
        self.order.remove(place);
        *place = self.next;
        self.order.insert(self.next, key);
        self.next += 1;
        Some(value)
    }

    /// Inserts `value` as the newest entry; drops the oldest one when there is no room.
    pub(crate) fn note(&mut self, key: RecentKey, value: V) {
        let place = self.next;
        self.next += 1;
        if let Some((former, _)) = self.entries.insert(key, (place, value)) {
            self.order.remove(&former);
        }
        self.order.insert(place, key);
        if self.len() > self.max_entries {
            self.forget_oldest_if(|_| true);
        }
    }

    pub(crate) fn forget(&mut self, key: RecentKey) {
        if let Some((place, _)) = self.entries.remove(&key) {
            self.order.remove(&place);
        }
    }

    /// Removes the oldest entry if `is_over` returns true for it; returns whether it did.
    pub(crate) fn forget_oldest_if(&mut self, is_over: impl FnOnce(&V) -> bool) -> bool {
        let Some((_, &key)) = self.order.first_key_value() else {
            return false;
        };
        let is_over = self.get(key).is_none_or(is_over);
        if is_over {
            self.forget(key);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let mut recent = RecentMap::new(3);
        for number in [1, 2, 3, 1, 4] {
            recent.note(RecentKey(number), number);
        }

        let known: Vec<_> = (1..=4)
            .filter(|it| recent.get(RecentKey(*it)).is_some())
            .collect();
        assert_eq!(known, [1, 3, 4]);
        assert_eq!((recent.len(), recent.order.len()), (3, 3));
    }

    #[test]
    fn a_recalled_entry_is_the_newest() {
        let mut recent = RecentMap::new(2);
        for number in [1, 2] {
            recent.note(RecentKey(number), number);
        }

        assert_eq!(recent.recall(RecentKey(1)), Some(&mut 1));
        assert_eq!(recent.recall(RecentKey(7)), None);
        recent.note(RecentKey(3), 3);

        assert_eq!(recent.get(RecentKey(2)), None);
        assert_eq!((recent.len(), recent.order.len()), (2, 2));
    }

    #[test]
    fn a_forgotten_entry_leaves_nothing_behind() {
        let mut recent = RecentMap::new(2);
        for number in 1..=2 {
            recent.note(RecentKey(number), number);
        }

        recent.forget(RecentKey(2));
        recent.forget(RecentKey(7));
        assert!(!recent.forget_oldest_if(|value| *value != 1));
        assert!(recent.forget_oldest_if(|value| *value == 1));
        assert!(!recent.forget_oldest_if(|_| true));

        assert_eq!((recent.len(), recent.order.len()), (0, 0));
    }

    #[test]
    fn parts_and_keys_of_two_factories_differ() {
        let keys = Keys::default();
        let key = |parts: &[&str]| keys.of(|feed| parts.iter().for_each(|it| feed(it.as_bytes())));

        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", "b"]), key(&["a", "b", ""]));
        assert_ne!(keys.of(|_| {}), Keys::default().of(|_| {}));
    }
}
