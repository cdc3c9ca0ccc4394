//! Hirelake.
pub mod auth;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod http;
pub mod names;
pub mod secret;
pub mod state;
pub mod store;
