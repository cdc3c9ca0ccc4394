//! Scopes: from enabled resources to the least read-only list, and the provider's rules for what a person wrote.

use std::collections::BTreeSet;

use super::{ByDefault, Mode, Provider, Resource};
use crate::names::nearest;

/// Why a list of scopes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// More than one application may have.
    #[error(
        "{count} scopes are needed and {provider} allows {max} for one application\nhint: enable fewer resources, or split them over two apps of one tenant, or one app and an API key: `hirelake catalog --scopes` prints how (a tenant read with a key alone says `api_key = true`); needed are {list}"
    )]
    TooMany {
        /// The provider.
        provider: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
        /// All of them.
        list: String,
    },
    /// The provider has no such scope.
    #[error("{provider} has no scope `{scope}`\nhint: {}", match .nearest { Some(n) => format!("did you mean `{n}`?"), None => "`hirelake catalog` lists the scopes that the resources need".to_owned() })]
    Unknown {
        /// The provider.
        provider: String,
        /// As it was written.
        scope: String,
        /// The closest of the provider's own.
        nearest: Option<String>,
    },
}

/// A list that can be registered and requested, and what had to be mended in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    /// Sorted, the offline scope first.
    pub list: Vec<String>,
    /// Sentences for the person who wrote it.
    pub mended: Vec<String>,
}

impl Scopes {
    /// As it goes into the authorize request: separated by exactly one space.
    #[must_use]
    pub fn joined(&self) -> String {
        self.list.join(" ")
    }
}

/// The least scopes that open `resources`, their expands included.
///
/// # Errors
///
/// [`ScopeError::TooMany`].
pub fn needed<'a>(provider: &Provider, resources: impl Iterator<Item = &'a Resource>) -> Result<Scopes, ScopeError> {
    least(provider, resources.flat_map(of))
}

/// These and the offline scope, as they are registered and asked for.
///
/// # Errors
///
/// [`ScopeError::TooMany`].
pub fn least(provider: &Provider, scopes: impl Iterator<Item = String>) -> Result<Scopes, ScopeError> {
    checked(provider, scopes.collect(), Vec::new())
}

/// The scopes of one resource and of what it expands.
pub fn of(resource: &Resource) -> impl Iterator<Item = String> {
    resource.scope.iter().chain(resource.expand.iter().filter_map(|e| e.scope.as_ref())).cloned()
}

/// What one application can read.
#[derive(Debug, Clone, PartialEq)]
pub struct Share<'a> {
    /// In the catalogue's order.
    pub resources: Vec<&'a Resource>,
    /// The least that opens them, the offline scope first.
    pub scopes: Vec<String>,
}

/// Splits `resources` over as few applications as it takes, each within the provider's limit. What others hang on and what is
/// on by default goes into the first as long as there is room, what must be asked for by name last. A table stays with its feed
/// of deletions and with what is taken out of its records: these are the same requests, or concern the same rows.
#[must_use]
pub fn split<'a>(provider: &Provider, resources: &[&'a Resource]) -> Vec<Share<'a>> {
    let head = |r: &'a Resource| {
        let mut head = r;
        while let Mode::Extracted { from: above, .. } | Mode::Tombstones { of: above, .. } = &head.mode {
            match resources.iter().find(|a| a.name == *above) {
                Some(above) => head = above,
                None => break,
            }
        }
        head
    };
    let mut heads: Vec<&Resource> = resources.iter().copied().filter(|r| head(r).name == r.name).collect();
    heads.sort_by_key(|r| match (r.default, &r.mode) {
        (ByDefault::Named, _) => 2,
        (_, Mode::Children { .. }) => 1,
        _ => 0,
    });
    let mut shares: Vec<(BTreeSet<&str>, BTreeSet<String>)> = Vec::new();
    let most = provider.oauth.max_scopes.saturating_sub(1);
    for h in heads {
        let unit = || resources.iter().filter(|r| head(r).name == h.name);
        let scopes: BTreeSet<String> = unit().flat_map(|r| of(r)).collect();
        let together = |s: &BTreeSet<String>| s.union(&scopes).count();
        // Where it costs no scope, else where there is room.
        let place = shares.iter().position(|(_, s)| together(s) == s.len());
        let place = place.or_else(|| shares.iter().position(|(_, s)| together(s) <= most)).unwrap_or(shares.len());
        if place == shares.len() {
            shares.push(Default::default());
        }
        shares[place].0.extend(unit().map(|r| r.name.as_str()));
        shares[place].1.extend(scopes);
    }
    let share = |(names, scopes): (BTreeSet<&str>, BTreeSet<String>)| Share {
        resources: resources.iter().copied().filter(|r| names.contains(r.name.as_str())).collect(),
        scopes: std::iter::once(provider.oauth.offline_scope.clone()).chain(scopes).collect(),
    };
    shares.into_iter().map(share).collect()
}

/// Reads a list as a person wrote it: commas and double spaces are mended, a read beside its write is dropped.
///
/// # Errors
///
/// [`ScopeError`] for an unknown scope or too many.
pub fn parse(provider: &Provider, text: &str) -> Result<Scopes, ScopeError> {
    let mut mended = Vec::new();
    if text.contains(',') {
        mended.push("scopes are separated by commas: using single spaces".to_owned());
    }
    if text.trim() != text || text.contains("  ") {
        mended.push("scopes have spaces too many: using single spaces".to_owned());
    }
    let list: BTreeSet<String> =
        text.split(|c: char| c == ',' || c.is_whitespace()).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let offline = &provider.oauth.offline_scope;
    if !list.contains(offline) {
        mended.push(format!(
            "`{offline}` is not among the scopes: added, because without it no refresh token comes back"
        ));
    }
    for scope in list.iter().filter(|s| s.contains(":write:")) {
        mended.push(format!("`{scope}` allows changes, and nothing is ever changed: `{}` is enough", read_of(scope)));
    }
    for scope in &list {
        if !provider.oauth.scopes.contains(scope) {
            let nearest = nearest(scope, provider.oauth.scopes.iter().map(String::as_str)).map(str::to_owned);
            return Err(ScopeError::Unknown { provider: provider.name.to_string(), scope: scope.clone(), nearest });
        }
    }
    checked(provider, list, mended)
}

fn checked(provider: &Provider, mut list: BTreeSet<String>, mut mended: Vec<String>) -> Result<Scopes, ScopeError> {
    let covered: Vec<String> =
        list.iter().filter(|s| s.contains(":read:") && list.contains(&write_of(s))).cloned().collect();
    for read in covered {
        mended.push(format!("`{read}` stands beside `{}`, which includes it: left out", write_of(&read)));
        list.remove(&read);
    }
    let offline = &provider.oauth.offline_scope;
    list.remove(offline);
    let list: Vec<String> = std::iter::once(offline.clone()).chain(list).collect();
    if list.len() > provider.oauth.max_scopes {
        return Err(ScopeError::TooMany {
            provider: provider.name.to_string(),
            count: list.len(),
            max: provider.oauth.max_scopes,
            list: list.join(" "),
        });
    }
    Ok(Scopes { list, mended })
}

fn write_of(scope: &str) -> String {
    scope.replacen(":read:", ":write:", 1)
}

fn read_of(scope: &str) -> String {
    scope.replacen(":write:", ":read:", 1)
}

/// Whether `granted` (as the token answer lists it) opens `scope`; a write opens its read.
#[must_use]
pub fn opens(granted: &[String], scope: &str) -> bool {
    granted.iter().any(|g| g == scope || read_of(g) == scope)
}

/// The first scope without which no row of `r` is read, itself or what it is taken out of; `None` when it is read.
pub fn lacking<'a>(provider: &'a Provider, r: &'a Resource, granted: impl Fn(&str) -> bool) -> Option<&'a str> {
    let (from, along) = match &r.mode {
        Mode::Extracted { from, field } => {
            let from = provider.resource(from.as_str());
            let expand = from.and_then(|f| f.expand.iter().find(|e| e.name == *field));
            (from, expand.and_then(|e| e.scope.as_deref()))
        }
        _ => (None, None),
    };
    let needed = [from.and_then(|f| f.scope.as_deref()), r.scope.as_deref().or(along)];
    needed.into_iter().flatten().find(|scope| !granted(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_opens_its_read_and_not_the_reverse() {
        let granted = ["notes:write:admin".to_owned(), "users:read:admin".to_owned()];
        assert!(opens(&granted, "notes:read:admin"));
        assert!(opens(&granted, "users:read:admin"));
        assert!(!opens(&granted, "users:write:admin"));
    }

    #[test]
    fn everything_is_split_over_applications_within_the_limit() {
        let provider = crate::catalog::embedded().unwrap();
        let all: Vec<&Resource> = provider.resources.iter().collect();
        let told: Vec<String> = split(&provider, &all)
            .iter()
            .map(|s| {
                let names: Vec<&str> = s.resources.iter().map(|r| r.name.as_str()).collect();
                format!("{} scopes: {}", s.scopes.len(), names.join(" "))
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"), @"
        20 scopes: opportunities applications contacts users postings stages archive_reasons sources tags requisitions opportunities_deleted applications_deleted postings_deleted disposition_stages requisition_fields feedback_templates form_templates audit_events webhooks feedback files file_actions interviews notes posting_forms posting_users file_contents
        9 scopes: offers panels referrals resumes forms eeo_responses eeo_responses_pii surveys_diversity resume_contents offer_contents
        ");
        let shares = split(&provider, &all);
        for share in &shares {
            let needed = needed(&provider, share.resources.iter().copied()).unwrap();
            assert_eq!(needed.list, share.scopes);
            for r in &share.resources {
                if let Mode::Extracted { from: with, .. } | Mode::Tombstones { of: with, .. } = &r.mode {
                    assert!(share.resources.iter().any(|p| p.name == *with), "{} is apart from {with}", r.name);
                }
            }
        }
        assert_eq!(shares.iter().map(|s| s.resources.len()).sum::<usize>(), all.len(), "each is in one");
        // What fits stays together.
        let few: Vec<&Resource> = all.into_iter().take(5).collect();
        assert_eq!(split(&provider, &few).len(), 1);
        assert!(split(&provider, &[]).is_empty());
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["contact:read:admin", "users:read:admin"];
        assert_eq!(nearest("contacts:read:admin", known.into_iter()), Some("contact:read:admin"));
        assert_eq!(nearest("xyz", known.into_iter()), None);
    }
}
