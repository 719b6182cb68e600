//! The settings in effect for one route, and which of them have been shown.

use std::{cell::RefCell, collections::BTreeSet};

use crate::config_file::{Concerns, Config, concerns};

/// Settings of a route and of the process; each one that is read counts as shown.
pub(super) struct Settings {
    /// Keys with their values in the form of the configuration file, in order.
    all: Vec<(String, String)>,
    /// Prefix of the route's keys.
    route: String,
    told: RefCell<BTreeSet<String>>,
}

impl Settings {
    /// Takes the settings of the route at `index` as the ones to explain.
    pub(super) fn new(config: &Config, index: usize) -> Self {
        Self {
            all: config.effective.written(),
            route: format!("route[{index}]."),
            told: RefCell::default(),
        }
    }

    /// Returns a setting of the route.
    pub(super) fn of(&self, key: &str) -> String {
        self.value(&format!("{}{key}", self.route))
    }

    /// Returns a setting of the route, or `nothing` in place of `""`.
    pub(super) fn of_or(&self, key: &str, nothing: &str) -> String {
        self.value_or(&format!("{}{key}", self.route), nothing)
    }

    /// Returns a limit of the process, or `no limit` in place of `""`.
    pub(super) fn value(&self, key: &str) -> String {
        self.value_or(key, "no limit")
    }

    /// Returns words and numbers without quotes, and `nothing` in place of `""`.
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

    /// Describes the message rule at `index`.
    pub(super) fn rule(&self, index: usize) -> Option<String> {
        let rule = format!("message[{index}].");
        let matching = self.written(&format!("{}{rule}match", self.route))?;
        let of = |key: &str| self.of(&format!("{rule}{key}"));
        let (priority, release) = (of("priority"), of("release"));
        Some(format!("{matching}: {priority}, held until {release}"))
    }

    /// Lists the close codes for the statuses with which an upstream may reject the handshake.
    pub(super) fn close_codes(&self) -> String {
        let codes = self.rest(&format!("{}close_codes.", self.route), |_| true);
        codes
            .iter()
            .flat_map(|code| [code.as_str(), ", "])
            .collect()
    }

    /// Lists the route's settings that concern these requests and have not been shown.
    pub(super) fn rest_of_route(&self, these: Concerns) -> Vec<String> {
        // `scope` has shown these.
        let is_scope = |name: &str| {
            let key = name.strip_prefix(&self.route);
            key.is_some_and(|key| ["host", "path"].contains(&key))
        };
        self.rest(&self.route, |name| {
            !is_scope(name) && concerns(name) == these
        })
    }

    /// Lists the settings of the process's table `table` that have not been shown.
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
