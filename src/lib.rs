//! Hirelake keeps OAuth grants alive for many customer accounts of an applicant-tracking system, pages through what their
//! scopes allow at the provider's rate limit, and keeps a lake of Parquet partitions that always says what the account says.
//!
//! The sixty-second tour, in the order of the data's path:
//!
//! - [`config`] and [`catalog`]: what to do, and what the provider offers, both as checked values.
//! - [`auth`]: may we call for this tenant? It opens a grant, keeps it fresh and never loses it.
//! - [`plan`]: what is due, from the catalogue and the last commit.
//! - [`http`] and [`extract`]: one polite request; a window as a stream of pages.
//! - [`transform`]: a page of JSON to a typed `RecordBatch`, nothing lost.
//! - [`load`]: batches to partitions, merged and replaced whole.
//! - [`state`] and [`store`]: what is known, as numbered create-only entries; a URL as an object store.
//! - [`sync`]: the whole job on one page. [`report`] and [`status`]: what happened, and how everything stands.
//! - [`adopt`] and [`infer`]: catalogue lines for what drifted, and for what nobody has declared yet.
//! - [`check`]: the doctor; what all of them rely on, looked at before they do.
//! - [`verify`]: the lake read back and judged, and searched for who was erased.
//! - [`connect`]: the page on which customers connect by themselves.
//! - [`keepalive`] and [`disconnect`]: a grant is refreshed before its idle limit, and let go when it is no longer wanted.
//! - [`sandbox`] and [`demo`]: a pretend provider, and the whole path in a minute.
//! - `fuzz`: what holds of everything that comes from outside; only tests and the fuzzer build it.

pub mod cli;

pub mod config;

pub mod catalog;

pub mod auth;

pub mod plan;

pub mod http;

pub mod extract;

pub mod transform;

pub mod load;

pub mod state;

pub mod store;

pub mod adopt;

pub mod infer;

pub mod sync;

pub mod report;

pub mod status;

pub mod check;

pub mod verify;

pub mod connect;

pub mod keepalive;

pub mod disconnect;

pub mod sandbox;

pub mod demo;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub mod clock;
pub mod names;
pub mod secret;
