//! Hirelake.
pub mod auth;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod extract;
pub mod http;
pub mod load;
pub mod names;
pub mod plan;
pub mod report;
pub mod secret;
pub mod state;
pub mod store;
pub mod sync;
pub mod transform;
