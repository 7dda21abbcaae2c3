//! Ids, positions, sizes, clock, random bytes and the local disk: what every room stands on and what imports no room.

pub mod clock;
pub mod disk;
pub mod ids;
pub mod plants;
pub mod random;
pub mod sizes;
pub mod standstill;
pub mod watch;

pub use clock::{Clock, Timestamp};
pub use ids::{Epoch, ExtentId, FileId, Ino, ObjectId, Position, Sequence, VaultId};
pub use random::Random;
