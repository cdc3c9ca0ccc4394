//! Whether a new credential is of the account whose rows the lake holds, where no account's id says so: an API key says
//! nothing about its account, and not every token does.
//!
//! What the lake holds comes from whoever may read it. One page of a listing is asked for with the new credential: records
//! that both know show that the account is the same, and where there are none it is another one. Where nothing can be
//! compared (no such table in the lake yet, no permission to list it) nothing is known, and it is said so.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use super::connect::Refused;
use super::{Auth, AuthError, CredentialKind, Grant, Tokens};
use crate::catalog::{Paging, Resource};
use crate::http::{self, Budget, Call, Credential, Gate, Judged, Meaning, Method, Priority};
use crate::names::Tenant;
use crate::state::{Commit, CommitKind};

/// Records of one tenant that are in the lake, by their ids: listings that can be asked for in one page, the best first.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Each with its ids. Only those that no other account can have belong here ([`is_unique`]).
    pub listings: Vec<(Resource, BTreeSet<String>)>,
}

/// Whether no two accounts can have this id: a UUID. Others (`lead-new`, the text of a tag) may be the same everywhere.
#[must_use]
pub fn is_unique(id: &str) -> bool {
    Uuid::try_parse(id).is_ok()
}

/// What a comparison shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Likeness {
    Same,
    Other {
        /// The listing in which nothing is shared.
        listing: String,
    },
    Unknown,
}

impl Auth {
    /// The same, knowing what the lake holds of the one tenant that is to be connected.
    #[must_use]
    pub fn knowing(self, known: Known) -> Self {
        Self { known: Some(known), ..self }
    }

    /// Refuses a credential of another account than that whose rows the lake holds, and one of which that cannot be told
    /// while it is of another kind than the last. Only for where no account's id says it. With `force` it is only said.
    pub(super) async fn compare(
        &self,
        tenant: &Tenant,
        last: Option<&Grant>,
        kind: CredentialKind,
        tokens: &Tokens,
        force: bool,
    ) -> Result<(), AuthError> {
        if !self.has_rows(tenant).await? {
            return Ok(());
        }
        match self.likeness(tenant, kind, tokens).await {
            Likeness::Same => Ok(()),
            Likeness::Other { listing } if force => {
                tracing::warn!(%tenant, listing, "what this credential sees and what the lake holds have no record in common: two accounts will be mixed in it");
                Ok(())
            }
            Likeness::Other { listing } => Err(Self::connect_error(
                tenant,
                Refused::WrongAccount,
                format!(
                    "none of the {listing} that the new credential sees is in the lake, so it is of another account"
                ),
                format!(
                    "give the credential of the right account, or use another tenant name; `hirelake disconnect {tenant} --erase-lake` makes room for another account, and --force mixes both"
                ),
            )),
            // A key in a key's place, a consent in a consent's: nothing speaks against it.
            Likeness::Unknown if force || last.is_some_and(|l| l.kind == kind) => Ok(()),
            Likeness::Unknown => Err(Self::connect_error(
                tenant,
                Refused::AccountUnknown,
                "the lake holds rows of this tenant, and whether the new credential is of the same account cannot be told",
                format!(
                    "make sure that it is, then use --force; `hirelake connect {tenant}` with a credential that may list users compares them with the lake"
                ),
            )),
        }
    }

    async fn has_rows(&self, tenant: &Tenant) -> Result<bool, AuthError> {
        for resource in self.state.committed_resources(tenant).await? {
            let last = self.state.commits(tenant, &resource).last::<Commit>().await?;
            if last.is_some_and(|l| l.body.kind != CommitKind::Erased && l.body.rows() > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first listing that says something decides.
    async fn likeness(&self, tenant: &Tenant, kind: CredentialKind, tokens: &Tokens) -> Likeness {
        let credential = match kind {
            CredentialKind::OAuth => Credential::Bearer(tokens.access.clone()),
            CredentialKind::ApiKey => Credential::ApiKey(tokens.access.clone()),
        };
        let gate = Gate::new(self.clock, self.config.tenant(tenant).rate);
        for (listing, ids) in self.known.iter().flat_map(|k| &k.listings) {
            let seen = self.first_page(tenant, &gate, &credential, listing).await;
            if seen.iter().any(|id| ids.contains(id)) {
                return Likeness::Same;
            }
            if !seen.is_empty() && !ids.is_empty() {
                return Likeness::Other { listing: listing.name.to_string() };
            }
        }
        Likeness::Unknown
    }

    /// Unique ids on the first page of a listing; none where it cannot be read.
    async fn first_page(
        &self,
        tenant: &Tenant,
        gate: &Gate,
        credential: &Credential,
        listing: &Resource,
    ) -> Vec<String> {
        let endpoints = self.config.endpoints(tenant);
        let mut url = endpoints.api_base.clone();
        url.set_path(&format!("{}{}", endpoints.api_base.path().trim_end_matches('/'), listing.path));
        let mut query = listing.query.clone();
        if let Paging::Token { limit_param, limit, .. } = &listing.paging {
            query.push((limit_param.clone(), limit.to_string()));
        }
        let call = Call {
            method: Method::Get,
            url: &url,
            query: &query,
            credential: Some(credential),
            hosts: &endpoints.hosts,
            priority: Priority(0),
            elsewhere: false,
        };
        let answer = self.client.send(gate, &Budget::PEEK, &call, Judged::Take).await;
        let answer = answer.ok().filter(|a| http::meaning(a.status) == Meaning::Fine);
        let Some(body) = answer.and_then(|a| serde_json::from_slice::<Value>(&a.body).ok()) else {
            tracing::debug!(%tenant, listing = %listing.name, "it cannot be read, so nothing can be compared in it");
            return Vec::new();
        };
        let field = listing.key.first().and_then(|k| listing.columns.iter().find(|c| c.name == *k));
        let Some(field) = field.map(|c| c.source.as_str()) else { return Vec::new() };
        let records = listing.records.split('.').fold(&body, |at, key| &at[key]);
        let ids = records.as_array().into_iter().flatten().filter_map(|record| record[field].as_str());
        ids.filter(|id| is_unique(id)).map(str::to_owned).collect()
    }
}
