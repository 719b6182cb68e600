//! Classification of client messages while they are held.

use crate::matcher::{Matcher, Sample};

/// Order of the flush, and of shedding from a full queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Flushed last, shed first.
    Low,
    /// Messages that no rule matches.
    #[default]
    Normal,
    /// Before `normal`.
    High,
    /// Flushed first, never shed.
    Critical,
}

impl Priority {
    /// Every priority, the lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// State from which on a message may be sent upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// Once the upstream has accepted the client's credentials.
    Authenticated,
    /// Once the intermediate message has matched.
    ServicesReady,
    /// Once the gate is open.
    #[default]
    Ready,
}

/// Treatment of one kind of client message.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Matchers, any of which makes the rule apply.
    pub matchers: Vec<Matcher>,
    /// The message's priority.
    pub priority: Priority,
    /// State from which on the message may be sent upstream.
    pub release: Release,
}

/// Result of the rules for one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Priority at the flush.
    pub priority: Priority,
    /// State from which on the message may be sent upstream.
    pub release: Release,
}

/// Message rules of a route, in order: the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Rules in the order of the file.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Returns whether there are no rules, so that no message needs to be inspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether any rule releases messages before the given state.
    #[must_use]
    pub fn release_before(&self, release: Release) -> bool {
        self.0.iter().any(|rule| rule.release < release)
    }

    /// Returns the class that the first matching rule assigns, or the default class.
    #[must_use]
    pub fn classify(&self, sample: &Sample<'_>) -> Class {
        self.0
            .iter()
            .find(|rule| rule.matchers.iter().any(|matcher| matcher.matches(sample)))
            .map_or_else(Class::default, |rule| Class {
                priority: rule.priority,
                release: rule.release,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Matcher {
        Matcher::Text(text.to_owned())
    }

    fn classify(rules: &Rules, payload: &str) -> Class {
        rules.classify(&Sample {
            is_text: true,
            payload: payload.as_bytes(),
            is_whole: true,
        })
    }

    #[test]
    fn the_first_rule_with_a_matcher_that_matches_decides() {
        let rule = |matchers, priority| Rule {
            matchers,
            priority,
            release: Release::Authenticated,
        };
        let rules = Rules::new(vec![
            rule(vec![text("a"), text("b")], Priority::Low),
            rule(vec![text("b"), text("c")], Priority::Critical),
        ]);

        assert_eq!(classify(&rules, "b").priority, Priority::Low);
        assert_eq!(classify(&rules, "c").priority, Priority::Critical);
        assert_eq!(classify(&rules, "c").release, Release::Authenticated);
        assert_eq!(classify(&rules, "d"), Class::default());
    }

    #[test]
    fn without_a_rule_a_message_is_normal_and_held_until_ready() {
        let class = classify(&Rules::default(), "anything");

        assert_eq!(class.priority, Priority::Normal);
        assert_eq!(class.release, Release::Ready);
    }

    #[test]
    fn priorities_and_releases_are_in_order() {
        assert!(Priority::Low < Priority::Normal && Priority::High < Priority::Critical);
        assert!(Release::Authenticated < Release::ServicesReady);
        assert!(Release::ServicesReady < Release::Ready);
    }
}
