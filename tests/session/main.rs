//! Whole sessions between in-memory pipes, on a paused clock.

mod backlog;
mod budget;
mod closing_handshake;
mod compression;
mod confirmed;
mod ending;
mod frames;
mod gate_pings;
mod hold;
mod killed;
mod large_frames;
mod linger;
mod out_of_order;
mod overflow;
mod pongs;
mod property;
mod restarts;
mod scene;
mod sockets;
mod streams;
mod support;
mod watch;
mod withheld;
