//! The keys of the file, one row each.
//!
//! A row says everything about its key: name, kind of value, default, text and the field that it
//! sets ([`section`](super::section)). Reading, the shipped file, the schema, what is in effect,
//! `explain` and the reference are made of the rows. A new key is
//!
//! 1. its row here,
//! 2. its field, with the default, in the settings that the section is for,
//! 3. its use;
//!
//! and `readygate config default > proxy.toml` and `readygate config reference >
//! docs/configuration.md` write both files again.

mod http;
mod listener;
mod process;
mod route;
mod session;
mod shipped;

pub use self::shipped::default_file;
pub(super) use self::{
    http::HTTP,
    listener::{ADDITIONAL, LISTEN, LISTEN_TLS},
    process::{ADMIN, DRAIN, LIMITS, LOG, RELOAD, TOP},
    route::{CONNECT, RETRY, ROUTE, TLS},
    session::{BREAKER, CLOSE_CODES, GATE, HOLD, MESSAGE, TUNNEL},
};
use super::section::{Concerns, Section};

/// One part of the shipped file.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Section(&'static Section),
    /// Lines between sections.
    Text(&'static str),
}

/// The shipped file, in order.
pub(super) static PARTS: &[Part] = &[
    Part::Text(include_str!("keys/preamble.toml")),
    Part::Section(&TOP.section),
    Part::Section(&LISTEN.section),
    Part::Section(&LISTEN_TLS.section),
    Part::Section(&ADDITIONAL.section),
    Part::Section(&ADMIN.section),
    Part::Section(&LOG.section),
    Part::Section(&LIMITS.section),
    Part::Section(&DRAIN.section),
    Part::Section(&RELOAD.section),
    Part::Section(&ROUTE.section),
    Part::Section(&CONNECT.section),
    Part::Section(&RETRY.section),
    Part::Section(&GATE.section),
    Part::Section(&MESSAGE.section),
    Part::Section(&HOLD.section),
    Part::Section(&TUNNEL.section),
    Part::Section(&HTTP.section),
    Part::Section(&BREAKER.section),
    Part::Section(&CLOSE_CODES),
    Part::Text(include_str!("keys/examples.toml")),
    Part::Section(&TLS.section),
];

/// Returns the sections in the order of the shipped file.
pub(super) fn sections() -> impl Iterator<Item = &'static Section> {
    PARTS.iter().filter_map(|part| match part {
        Part::Section(section) => Some(*section),
        Part::Text(_) => None,
    })
}

/// Returns which requests the key `name`, such as `route[0].gate.timeout`, concerns.
#[must_use]
pub fn concerns(name: &str) -> Concerns {
    let name = without_numbers(name);
    let (table, key) = name.rsplit_once('.').unwrap_or(("", &name));
    let section = sections().find(|section| section.name == table);
    let row = section.and_then(|section| section.rows.iter().find(|row| row.name == key));
    let of_section = section.map(|section| section.concerns);
    row.and_then(|row| row.concerns)
        .or(of_section)
        .unwrap_or_default()
}

/// The name of a key with `[]` for the number of each table in a list.
fn without_numbers(name: &str) -> String {
    let parts = name.split(['[', ']']).enumerate();
    let parts = parts.map(|(index, part)| if index % 2 == 0 { part } else { "[]" });
    parts.collect()
}
