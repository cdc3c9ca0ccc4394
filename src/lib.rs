//! Hirelake.
pub mod catalog;
pub mod clock;
pub mod names;
pub mod secret;
