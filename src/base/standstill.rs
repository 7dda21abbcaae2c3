//! Noticing that this process stood still while the world went on: the machine was suspended, or the process was stopped
//! (SIGSTOP, a frozen container).
//!
//! Owns how it is noticed: a clock that goes on meanwhile has moved much further between two looks than the time that was
//! waited. Does not own what follows from it. A virtual machine that is paused by its host is noticed only if the host
//! moves its clocks on.

use std::time::Duration;

use super::Clock;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// What is shorter may be a busy machine, and is not worth a question.
pub const LEAST: Duration = Duration::from_secs(5);

pub struct Standstill {
    clock: Clock,
    looked: Duration,
}

impl Standstill {
    pub fn new(clock: Clock) -> Standstill {
        Standstill { looked: clock.uptime(), clock }
    }

    /// Returns soon after it ended, with about how long it took.
    pub async fn ended(&mut self) -> Duration {
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.clock.uptime();
            let took = now.saturating_sub(self.looked).saturating_sub(TICK);
            self.looked = now;
            if took >= LEAST {
                return took;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::base::clock::Slept;

    #[tokio::test(start_paused = true)]
    async fn only_a_clock_that_goes_on_meanwhile_tells() {
        let slept = Slept::default();
        let (wall, at) = (Timestamp::default(), tokio::time::Instant::now());
        let mut still = Standstill::new(Clock::Simulated { wall, at, slept: slept.clone() });
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, still.ended()).await.is_err(), "it runs");
        slept.add(LEAST - Duration::from_secs(2));
        assert!(tokio::time::timeout(hour, still.ended()).await.is_err(), "it was only slow");
        slept.add(LEAST);
        assert_eq!(tokio::time::timeout(hour, still.ended()).await, Ok(LEAST));
        assert!(tokio::time::timeout(hour, still.ended()).await.is_err(), "it is told once");
    }

    #[test]
    fn the_machine_s_clock_goes_on() {
        let before = Clock::System.uptime();
        std::thread::sleep(Duration::from_millis(2));
        assert!(Clock::System.uptime() > before);
    }
}
