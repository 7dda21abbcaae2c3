//! A drive as a service: profiles, what systemd hears, signals, the units, fstab.
//!
//! Apart from `systemd` no systemd runs here: `manager` is a stand-in for its side of sd_notify(3), a socket that listens, and a process that
//! is started as the unit would start it. The units themselves go through systemd-analyze.
//!
//! | file | what it holds |
//! |---|---|
//! | `manager` | the stand-in, and a service started by it |
//! | `life` | ready, status, watchdog, reload, drain, exit codes, signals |
//! | `doctor`, `manuals` | what doctor finds; the manuals beside --help |
//! | `fstab` | fstab and mount(8), in a mount namespace of its own |
//! | `metrics` | numbers over the control socket and HTTP, and the dashboard |
//! | `systemd` | the same under a real systemd, where one can be run |
//! | `units` | systemd-analyze, and the system calls that the unit permits |

#[path = "../common/mod.rs"]
mod common;
mod doctor;
mod fstab;
mod life;
mod manager;
mod manuals;
mod metrics;
#[path = "../stores/server/mod.rs"]
mod server;
mod systemd;
mod units;
