//! One binary, a module a behaviour, one harness. Tests run on tokio's paused clock with the real client, the real sandbox and
//! real loopback sockets.

#![expect(unreachable_pub, reason = "a test binary exports nothing; `pub` says what the harness offers")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod architecture;
mod bad_input;
mod budget;
mod catalog;
mod check;
mod children;
mod cli;
mod connect_flow;
mod connect_page;
mod crash_recovery;
mod disconnect;
mod drift;
mod faults;
mod grants_survive;
mod harness;
mod incremental;
mod keepalive;
mod kill;
mod lake;
mod late;
mod layout;
mod least_privilege;
mod lookups;
mod paging;
mod parts;
mod privacy;
mod program;
mod rate_limit;
mod real;
mod registration;
mod requests;
mod secrets_unprinted;
mod signals;
mod supply;
mod tenants_apart;
mod token_refresh;
mod tombstones;
mod vault;
mod verify;
mod windows;
