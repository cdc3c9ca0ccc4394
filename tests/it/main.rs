//! One binary, a module a behaviour, one harness. Tests run on tokio's paused clock with the real client, the real sandbox and
//! real loopback sockets.

#![expect(unreachable_pub, reason = "a test binary exports nothing; `pub` says what the harness offers")]

mod connect_flow;
mod harness;
mod incremental;
mod secrets_unprinted;
mod tenants_apart;
mod token_refresh;
