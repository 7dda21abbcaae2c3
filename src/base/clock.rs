//! Wall time and monotonic time, both from one place, so that a simulation can turn the hands.
//!
//! Monotonic time is tokio's: in a runtime whose time is paused it moves only when everything waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A point in time as POSIX tells it: seconds since 1970, and nanoseconds (below 1e9) after that second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

impl Timestamp {
    pub fn from_system(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Timestamp { secs: -(before.as_secs() as i64), nanos: 0 },
                    n => Timestamp { secs: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }

    pub fn to_system(self) -> SystemTime {
        let nanos = Duration::from_nanos(self.nanos.into());
        if self.secs >= 0 {
            UNIX_EPOCH + Duration::from_secs(self.secs as u64) + nanos
        } else {
            UNIX_EPOCH - Duration::from_secs(self.secs.unsigned_abs()) + nanos
        }
    }
}

/// Where wall time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A simulation: this wall time at that instant, and on from there with tokio's (paused) time.
    /// It can be said to have slept for a while, in which tokio's time stood still.
    Simulated { wall: Timestamp, at: tokio::time::Instant, slept: Slept },
}

/// How long a simulated machine was suspended.
#[derive(Clone, Debug, Default)]
pub struct Slept(Arc<AtomicU64>);

impl Slept {
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

impl Clock {
    /// Is this a real machine, where blocking calls belong on threads of their own?
    pub fn is_real(&self) -> bool {
        matches!(self, Clock::System)
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp::from_system(SystemTime::now()),
            Clock::Simulated { wall, .. } => Timestamp::from_system(wall.to_system() + self.uptime()),
        }
    }

    /// Since some time before; goes on while the machine is suspended or this process stopped, and nobody sets it.
    pub fn uptime(&self) -> Duration {
        match self {
            Clock::System => {
                let now = clock_gettime(ClockId::Boottime);
                Duration::new(now.tv_sec.max(0) as u64, now.tv_nsec as u32)
            }
            Clock::Simulated { at, slept, .. } => at.elapsed() + slept.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_before_1970_survive_the_way_through_system_time() {
        for stamp in [(0, 0), (-1, 999_999_999), (-1, 0), (-5, 1), (12, 345)] {
            let stamp = Timestamp { secs: stamp.0, nanos: stamp.1 };
            assert_eq!(Timestamp::from_system(stamp.to_system()), stamp);
        }
    }
}
