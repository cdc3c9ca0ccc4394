//! Which exit code an error means: one function, in one place.

use super::SyncError;
use crate::auth::connect::Refused;
use crate::auth::{AuthError, TokenError};
use crate::extract::ExtractError;
use crate::http::{Cause, Symptom};
use crate::load::LoadError;
use crate::report::ExitCode;
use crate::state::StateError;

/// The exit code of an error.
#[must_use]
pub fn code(error: &SyncError) -> ExitCode {
    match error {
        SyncError::Config(_) | SyncError::Layout { .. } => ExitCode::Configuration,
        SyncError::Auth(e) => auth(e),
        SyncError::Extract(e) => match e {
            ExtractError::Auth(e) => auth(e),
            ExtractError::WrongHost { .. } => ExitCode::Configuration,
            ExtractError::Refused { symptom: Symptom::Intercepted, .. } => ExitCode::Provider,
            ExtractError::Forbidden { .. }
            | ExtractError::NotFound { .. }
            | ExtractError::Refused { .. }
            | ExtractError::Paging { .. } => ExitCode::Partial,
        },
        SyncError::Load(e) => match e {
            LoadError::Lease { source, .. } => state(source),
            LoadError::Shape { .. } | LoadError::Layout { .. } => ExitCode::Configuration,
            LoadError::Batch { .. } | LoadError::Died { .. } => ExitCode::Bug,
            LoadError::Store { .. } | LoadError::Io { .. } | LoadError::Arrow { .. } | LoadError::Parquet { .. } => {
                ExitCode::Storage
            }
        },
        SyncError::State(e) => state(e),
        SyncError::Store(_) | SyncError::LakeGone { .. } => ExitCode::Storage,
        SyncError::Vault(_) => ExitCode::Configuration,
        SyncError::NotGranted { .. }
        | SyncError::Hidden { .. }
        | SyncError::MassDelete { .. }
        | SyncError::Unfound { .. }
        | SyncError::Frozen { .. }
        | SyncError::Parents { .. } => ExitCode::Partial,
        // The tenant is not busy: most of it was read.
        SyncError::Part { source, .. } => match code(source) {
            ExitCode::Busy => ExitCode::Partial,
            of_the_part => of_the_part,
        },
        SyncError::Died { .. } | SyncError::Rows { .. } => ExitCode::Bug,
    }
}

/// The exit code of a failed authorization.
pub(super) fn auth(error: &AuthError) -> ExitCode {
    match error {
        AuthError::NotConnected { .. }
        | AuthError::Dead { .. }
        | AuthError::Unauthorized { .. }
        | AuthError::OtherAccount { .. } => ExitCode::Reconnect,
        AuthError::Connect { kind, .. } => match kind {
            Refused::Denied
            | Refused::StateMismatch
            | Refused::NoCode
            | Refused::CodeRefused
            | Refused::SeedRefused
            | Refused::WrongAccount
            | Refused::AccountTaken
            | Refused::NobodyCame => ExitCode::Reconnect,
            Refused::Callback
            | Refused::Request
            | Refused::Client
            | Refused::Audience
            | Refused::NoRefreshToken
            | Refused::AccountUnknown
            | Refused::OtherKind => ExitCode::Configuration,
            Refused::Unavailable => ExitCode::Provider,
        },
        AuthError::Refresh { source, .. } => refusal(source),
        AuthError::Stopped { .. } => ExitCode::Stopped,
        AuthError::Unsaved { .. } => ExitCode::Storage,
        AuthError::AppSuspected { .. }
        | AuthError::OtherApp { .. }
        | AuthError::Vault { .. }
        | AuthError::Shut { .. }
        | AuthError::Pseudonyms { .. }
        | AuthError::Config(_) => ExitCode::Configuration,
        AuthError::Http(e) => unanswered(&e.cause),
        AuthError::State(e) => state(e),
    }
}

/// The exit code of a token endpoint's refusal.
#[must_use]
pub fn refusal(error: &TokenError) -> ExitCode {
    match error {
        TokenError::InvalidGrant => ExitCode::Reconnect,
        TokenError::WrongSecret | TokenError::UnknownClient | TokenError::ClientNotAllowed | TokenError::Refused(_) => {
            ExitCode::Configuration
        }
        TokenError::Unreachable(_) | TokenError::Throttled | TokenError::Unanswered(_) => ExitCode::Provider,
        TokenError::Malformed => ExitCode::Bug,
    }
}

/// The exit code of a request that met this.
#[must_use]
pub fn unanswered(cause: &Cause) -> ExitCode {
    match cause {
        Cause::PlainHttp | Cause::RedirectOutside { .. } | Cause::RedirectLoop => ExitCode::Configuration,
        _ => ExitCode::Provider,
    }
}

/// The exit code of a failed state.
pub(super) fn state(error: &StateError) -> ExitCode {
    match error {
        StateError::Busy { .. } | StateError::Lost { .. } | StateError::LeaseLost { .. } => ExitCode::Busy,
        StateError::Store(_) | StateError::Corrupt { .. } => ExitCode::Storage,
    }
}
