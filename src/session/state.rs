//! The twelve states of a session and the one table of their transitions.
