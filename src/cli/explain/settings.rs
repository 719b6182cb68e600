//! The settings that are in effect for one route, and which of them have been told.

use std::{cell::RefCell, collections::BTreeSet};

use crate::config_file::{Concerns, Config, concerns};

/// The settings of a route and of the process, of which each that is asked for counts as told.
pub(super) struct Settings {
    /// Each key with its value as a file has it, in order.
    all: Vec<(String, String)>,
    /// The keys of the route begin with this.
    route: String,
    told: RefCell<BTreeSet<String>>,
}

impl Settings {
    /// Those of the route at `index`.
    pub(super) fn new(config: &Config, index: usize) -> Self {
        Self {
            all: config.effective.written(),
            route: format!("route[{index}]."),
            told: RefCell::default(),
        }
    }

    /// A setting of the route.
    pub(super) fn of(&self, key: &str) -> String {
        self.value(&format!("{}{key}", self.route))
    }

    /// One that is `nothing` where it is `""`.
    pub(super) fn of_or(&self, key: &str, nothing: &str) -> String {
        self.value_or(&format!("{}{key}", self.route), nothing)
    }

    /// A limit that there may be or not.
    pub(super) fn value(&self, key: &str) -> String {
        self.value_or(key, "no limit")
    }

    /// Words and numbers as they are, and what is `""` as `nothing`.
    fn value_or(&self, key: &str, nothing: &str) -> String {
        let written = self.written(key).unwrap_or_default();
        let bare = written
            .strip_prefix('"')
            .and_then(|it| it.strip_suffix('"'));
        match bare {
            Some("") => nothing.to_owned(),
            Some(bare) if !bare.contains('"') => bare.to_owned(),
            _ => written.to_owned(),
        }
    }

    fn written(&self, key: &str) -> Option<&str> {
        self.told.borrow_mut().insert(key.to_owned());
        let (_, written) = self.all.iter().find(|(known, _)| known == key)?;
        Some(written)
    }

    /// The rule for some messages.
    pub(super) fn rule(&self, index: usize) -> Option<String> {
        let rule = format!("message[{index}].");
        let matching = self.written(&format!("{}{rule}match", self.route))?;
        let of = |key: &str| self.of(&format!("{rule}{key}"));
        let (priority, release) = (of("priority"), of("release"));
        Some(format!("{matching}: {priority}, held until {release}"))
    }

    /// As which code a client is closed for each status with which the upstream refuses.
    pub(super) fn close_codes(&self) -> String {
        let codes = self.rest(&format!("{}close_codes.", self.route), |_| true);
        codes
            .iter()
            .flat_map(|code| [code.as_str(), ", "])
            .collect()
    }

    /// What has not been told of the route and bears on these requests, as a file has it.
    pub(super) fn rest_of_route(&self, these: Concerns) -> Vec<String> {
        // The scope of the route says these.
        let is_scope = |name: &str| {
            let key = name.strip_prefix(&self.route);
            key.is_some_and(|key| ["host", "path"].contains(&key))
        };
        self.rest(&self.route, |name| {
            !is_scope(name) && concerns(name) == these
        })
    }

    /// The same of the table of the process that is called `table`.
    pub(super) fn rest_of(&self, table: &str) -> Vec<String> {
        self.rest(&format!("{table}."), |_| true)
    }

    fn rest(&self, table: &str, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let mut told = self.told.borrow_mut();
        let mut rest = Vec::new();
        for (name, written) in &self.all {
            let key = name.strip_prefix(table);
            if let Some(key) = key.filter(|_| is_meant(name))
                && told.insert(name.clone())
            {
                rest.push(format!("{key} = {written}"));
            }
        }
        rest
    }
}
