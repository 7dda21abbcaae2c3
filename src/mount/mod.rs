//! Wiring and life cycle: what is joined to what, how a mount begins and ends, the control socket, status.

pub mod drive;
