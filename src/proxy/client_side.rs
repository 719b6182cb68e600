//! The client's side of one request.

use std::{cell::Cell, rc::Rc, sync::Arc};

use super::binding::Binding;
use crate::{
    client_addr::Client, headers::framing::responses::Interim, transport::backlog::Backlog,
};

/// The client's side of one request.
#[derive(Clone, Copy)]
pub struct Downstream<'a> {
    /// The client, as far as its proxy is trusted to name it.
    pub client: Client,
    /// Set when the bytes of its body turn out to be badly framed (HTTP/1.1).
    pub is_body_broken: Option<&'a Rc<Cell<bool>>>,
    /// Returns whether the client has left; called while the request is held or waits to be sent
    /// again.
    pub is_gone: &'a dyn Fn() -> bool,
    /// Called when the request becomes held or ceases to be; a held one ends when the client
    /// closes its write side (HTTP/1.1).
    pub set_held: &'a dyn Fn(bool),
    /// Passes on a `1xx` response whose headers are already filtered.
    pub send_interim: &'a dyn Fn(&Interim),
    /// Unread streams of the client's connection, if the request is a stream of one (HTTP/2).
    pub backlog: Option<&'a Arc<Backlog>>,
    /// Upstream connections bound to the client's connection (HTTP/1.1).
    pub binding: Option<&'a Rc<Binding>>,
}
