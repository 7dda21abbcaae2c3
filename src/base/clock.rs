//! Wall time and monotonic time, both from one place, so that a simulation can turn the hands.
//!
//! Monotonic time is tokio's: in a runtime whose time is paused it moves only when everything waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    Simulated { wall: Timestamp, at: tokio::time::Instant },
}

impl Clock {
    /// Is this a real machine, where blocking calls belong on threads of their own?
    pub fn is_real(&self) -> bool {
        matches!(self, Clock::System)
    }

    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => Timestamp::from_system(SystemTime::now()),
            Clock::Simulated { wall, at } => Timestamp::from_system(wall.to_system() + at.elapsed()),
        }
    }
}

/// Seconds since 1970 of a time as HTTP's Date says it (`Sun, 06 Nov 1994 08:49:37 GMT`); other forms are obsolete.
pub fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year) =
        (day.parse::<i64>().ok()?, year.parse::<i64>().ok().filter(|year| (1970..10_000).contains(year))?);
    let parts: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = parts[..] else { return None };
    // Days before the first of March of that year, counted in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
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
