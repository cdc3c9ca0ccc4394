//! One binary, a module a behaviour, one harness. Tests run on tokio's paused clock with the real client, the real sandbox and
//! real loopback sockets.

#![expect(unreachable_pub, reason = "a test binary exports nothing; `pub` says what the harness offers")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod crash_recovery;
mod harness;
mod incremental;
mod kill;
mod lake;
mod layout;
mod lookups;
mod tombstones;
mod windows;
