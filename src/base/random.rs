//! Random bytes: from the kernel at each use, never from a generator in the process, so that a restored or forked
//! process cannot repeat a nonce. Only a simulation, which must be repeatable, brings its own source.

use std::fmt;
use std::sync::Arc;

/// A source of random bytes for a simulation.
pub trait Source: Send + Sync {
    fn fill(&self, out: &mut [u8]);
}

#[derive(Clone)]
pub enum Random {
    Kernel,
    Simulated(Arc<dyn Source>),
}

impl Random {
    /// Fills `out`. A kernel that has no random bytes is no place to encrypt anything: that ends the process.
    pub fn fill(&self, out: &mut [u8]) {
        match self {
            Random::Kernel => getrandom::fill(out).expect("the kernel gives no random bytes"),
            Random::Simulated(source) => source.fill(out),
        }
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Random::Kernel => "Random::Kernel",
            Random::Simulated(_) => "Random::Simulated",
        })
    }
}
