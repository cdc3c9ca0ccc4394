//! The hand behind the scenes: what a customer, or bad luck, does to an account.
//!
//! [`Control`] is for the same process. Over HTTP the same is `POST /_control` with `{"op": "edit", "account": …}` (see
//! [`Op`]'s names), `GET /_control/stats` and `GET /_control/dump/{account}/{resource}`. It is not a part of Lever: no
//! credential, no rate limit, no latency, no faults, and it is not counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::account::Account;
use super::children::Child;
use super::faults::Fault;
use super::files::Storage;
use super::oauth::IssuedGrant;
use super::overlay::{ChildRecord, Touched};
use super::posting::OfPosting;
use super::reply::Reply;
use super::{World, lock};
use crate::clock::Timestamp;

/// What was asked of the sandbox since it started, or since [`Control::reset_stats`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests by route, ids replaced: `GET /v1/opportunities/:id`.
    pub requests: BTreeMap<String, u64>,
    /// The same for each account. A consent page has none yet, nor has a request that was not let in.
    pub per_account: BTreeMap<String, BTreeMap<String, u64>>,
    /// Replies by status; 0 counts connections reset in place of one.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// Requests to object storage that brought a credential, which it must never see.
    pub credentials_at_storage: u64,
    /// Requests refused by an empty bucket (not those refused by a fault).
    pub refused_429: u64,
    /// The first request's arrival.
    pub first_request_at: Option<Timestamp>,
    /// The last request's arrival.
    pub last_request_at: Option<Timestamp>,
}

impl Stats {
    /// Counts a request when it arrives, so that one whose client gave up is counted too.
    pub(super) fn arrived(&mut self, route: &str, account: Option<&str>, now: Timestamp) {
        *self.requests.entry(route.to_owned()).or_default() += 1;
        if let Some(account) = account {
            *self.per_account.entry(account.to_owned()).or_default().entry(route.to_owned()).or_default() += 1;
        }
        self.token_requests += u64::from(route == "POST /oauth/token");
        self.first_request_at.get_or_insert(now);
        self.last_request_at = Some(now);
    }

    /// Counts a reply when it leaves.
    pub(super) fn answered(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// Changes accounts, scripts faults, reads the truth. Cheap to clone; does not keep the sandbox running.
///
/// Methods that name an account or record that does not exist do nothing and say so: `false`, `None`, an empty list.
#[derive(Clone)]
pub struct Control(Arc<World>);

/// The operations of `POST /_control`; each is the method of [`Control`] of the same name.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Op {
    ApiKey {
        account: String,
    },
    RestrictApiKey {
        account: String,
        scopes: String,
    },
    Grant {
        account: String,
        client_id: String,
        scopes: String,
    },
    Edit {
        account: String,
        n: usize,
        #[serde(default)]
        seed: u64,
    },
    EditApplication {
        account: String,
        opportunity: String,
    },
    EditContact {
        account: String,
        contact: String,
    },
    Add {
        account: String,
        n: usize,
    },
    Archive {
        account: String,
        id: String,
    },
    Anonymize {
        account: String,
        id: String,
    },
    DeleteOpportunity {
        account: String,
        id: String,
    },
    RestoreOpportunity {
        account: String,
        id: String,
    },
    DeleteApplication {
        account: String,
        id: String,
    },
    AddPosting {
        account: String,
    },
    EditPosting {
        account: String,
        id: String,
    },
    DeletePosting {
        account: String,
        id: String,
    },
    AddUser {
        account: String,
    },
    AddAuditEvent {
        account: String,
    },
    EditUser {
        account: String,
        id: String,
    },
    DeactivateUser {
        account: String,
        id: String,
    },
    RemoveUser {
        account: String,
        id: String,
    },
    RemoveStage {
        account: String,
        id: String,
    },
    RenameTag {
        account: String,
        from: String,
        to: String,
    },
    EditRequisition {
        account: String,
        id: String,
        bump: bool,
    },
    RemoveRequisition {
        account: String,
        id: String,
    },
    BumpSourceCounts {
        account: String,
    },
    SetField {
        account: String,
        resource: String,
        id: String,
        field: String,
        value: Value,
        #[serde(default)]
        bump: bool,
    },
    RemoveField {
        account: String,
        resource: String,
        id: String,
        field: String,
        #[serde(default)]
        bump: bool,
    },
    /// To one opportunity, or one child each to `n` of them.
    AddChild {
        account: String,
        resource: String,
        #[serde(default)]
        opportunity: Option<String>,
        #[serde(default)]
        n: usize,
        #[serde(default)]
        seed: u64,
    },
    /// One child of one opportunity, or the newest of each of `n`.
    EditChild {
        account: String,
        resource: String,
        #[serde(default)]
        opportunity: Option<String>,
        #[serde(default)]
        id: Option<String>,
        #[serde(default)]
        fields: Option<Map<String, Value>>,
        #[serde(default)]
        bump: Option<bool>,
        #[serde(default)]
        n: usize,
        #[serde(default)]
        seed: u64,
    },
    DeleteChild {
        account: String,
        resource: String,
        #[serde(default)]
        opportunity: Option<String>,
        #[serde(default)]
        id: Option<String>,
        #[serde(default)]
        unlisted: bool,
        #[serde(default)]
        n: usize,
        #[serde(default)]
        seed: u64,
    },
    MergeContacts {
        account: String,
        from: String,
        into: String,
    },
    EditPostingChild {
        account: String,
        resource: String,
        posting: String,
        #[serde(default)]
        fields: Option<Map<String, Value>>,
    },
    RedirectDownloads {
        #[serde(default)]
        every_nth: Option<u32>,
    },
    Fault {
        fault: Fault,
    },
    ClearFaults,
    Revoke {
        account: String,
    },
    ExpireAccessTokens {
        account: String,
    },
    Churn {
        account: String,
        #[serde(default)]
        every_nth_request: Option<u32>,
    },
    ResetStats,
}

impl Control {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self(world)
    }

    /// The account's API key.
    #[must_use]
    pub fn api_key(&self, account: &str) -> Option<String> {
        self.0.api_key(account)
    }

    /// From now on the account's API key may do no more than these scopes (with single spaces) open: Lever's keys have their
    /// permissions endpoint by endpoint.
    pub fn restrict_api_key(&self, account: &str, scopes: &str) {
        lock(&self.0.oauth).restrict_api_key(account, scopes);
    }

    /// A grant without the consent page. Scopes that the client has not registered are dropped, as there.
    #[must_use]
    pub fn grant(&self, account: &str, client_id: &str, scopes: &str) -> Option<IssuedGrant> {
        lock(&self.0.oauth).grant(account, client_id, scopes, self.0.clock.now())
    }

    /// Every record of a resource as the API lists it without confidential access: `opportunities`,
    /// `opportunities_expanded` (with `expand=applications&expand=contact`), `applications`, `contacts`, `users`
    /// (deactivated ones too), `postings`, `stages`, `archive_reasons`, `sources`, `tags`, `requisitions`,
    /// `opportunities/deleted`, `applications/deleted`, `postings/deleted`, `eeo_responses` and `eeo_responses_pii` (of all
    /// times). Those of [`Control::children`] get the parent's id as `opportunityId` or `postingId`; `opportunities/{id}/notes`
    /// and the like, `postings/{id}/apply`, `postings/{id}/users` and `surveys/diversity/{id}` are those of one parent.
    #[must_use]
    pub fn dump(&self, account: &str, resource: &str) -> Option<Vec<Value>> {
        self.0.with(account, |account, _| account.dump(resource)).flatten()
    }

    /// Changes `n` distinct opportunities (stage, tags, owner, snooze, sources) and bumps their `updatedAt`; their ids.
    pub fn edit(&self, account: &str, n: usize, seed: u64) -> Vec<String> {
        self.0.with(account, |account, now| account.edit(n, seed, now)).unwrap_or_default()
    }

    /// Changes the application of an opportunity and bumps the opportunity.
    pub fn edit_application(&self, account: &str, opportunity: &str) -> bool {
        self.0.yes(account, |account, now| account.edit_application(opportunity, now))
    }

    /// Changes a contact, and with it each of the person's opportunities; the ids of those, all bumped.
    pub fn edit_contact(&self, account: &str, contact: &str) -> Vec<String> {
        self.0.with(account, |account, now| account.edit_contact(contact, now)).unwrap_or_default()
    }

    /// Adds opportunities of new people, made now; their ids.
    pub fn add(&self, account: &str, n: usize) -> Vec<String> {
        self.0.with(account, |account, now| account.add(n, now)).unwrap_or_default()
    }

    /// Archives an opportunity and its application.
    pub fn archive(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.archive(id, now))
    }

    /// Blanks the person behind an opportunity: contact, all opportunities, applications. All are bumped.
    pub fn anonymize(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.anonymize(id, now))
    }

    /// Deletes an opportunity and its application; both leave tombstones.
    pub fn delete_opportunity(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.delete_opportunity(id, now))
    }

    /// Brings a deleted opportunity back, newer than its tombstone (which stays) and without its application.
    pub fn restore_opportunity(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.restore_opportunity(id, now))
    }

    /// Deletes an application, named by its own id or its opportunity's, and bumps the opportunity.
    pub fn delete_application(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.delete_application(id, now))
    }

    /// Adds a posting; its id.
    pub fn add_posting(&self, account: &str) -> Option<String> {
        self.0.with(account, Account::add_posting).flatten()
    }

    /// Changes a posting's title and text and bumps it.
    pub fn edit_posting(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| {
            account.edit_row("postings", id, |row| {
                row.insert("text".into(), json!(format!("Edited at {now}")));
                row.insert("updatedAt".into(), json!(now));
            })
        })
    }

    /// Deletes a posting; it leaves a tombstone.
    pub fn delete_posting(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| account.delete_posting(id, now))
    }

    /// Adds a user; the id.
    pub fn add_user(&self, account: &str) -> Option<String> {
        self.0.with(account, Account::add_user).flatten()
    }

    /// Adds an event to the log of the account's settings; returns its id.
    pub fn add_audit_event(&self, account: &str) -> Option<String> {
        self.0.with(account, Account::add_audit_event).flatten()
    }

    /// Changes a user's job title. Users have no `updatedAt`.
    pub fn edit_user(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| {
            account.edit_row("users", id, |row| {
                row.insert("jobTitle".into(), json!(format!("Edited at {now}")));
            })
        })
    }

    /// Deactivates a user.
    pub fn deactivate_user(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, now| {
            account.edit_row("users", id, |row| {
                row.insert("deactivatedAt".into(), json!(now));
            })
        })
    }

    /// Removes a user without a trace.
    pub fn remove_user(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, _| account.remove_row("users", id))
    }

    /// Removes a stage from the list; opportunities keep its id.
    pub fn remove_stage(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, _| account.remove_row("stages", id))
    }

    /// Renames a tag, also on the opportunities that have it, which are bumped.
    pub fn rename_tag(&self, account: &str, from: &str, to: &str) -> bool {
        self.0.yes(account, |account, now| account.rename_tag(from, to, now))
    }

    /// Changes a requisition: its name, bumped, or (as hires do) its `headcountHired`, without a trace in `updatedAt`.
    pub fn edit_requisition(&self, account: &str, id: &str, bump: bool) -> bool {
        self.0.yes(account, |account, now| {
            account.edit_row("requisitions", id, |row| {
                if bump {
                    row.insert("name".into(), json!(format!("Edited at {now}")));
                    row.insert("updatedAt".into(), json!(now));
                } else {
                    let hired = row.get("headcountHired").and_then(Value::as_i64).unwrap_or(0);
                    row.insert("headcountHired".into(), json!(hired + 1));
                }
            })
        })
    }

    /// Removes a requisition; there is no tombstone.
    pub fn remove_requisition(&self, account: &str, id: &str) -> bool {
        self.0.yes(account, |account, _| account.remove_row("requisitions", id))
    }

    /// Counts every source up by one.
    pub fn bump_source_counts(&self, account: &str) {
        self.0.with(account, |account, _| account.bump_source_counts());
    }

    /// Sets a field of a record to anything at all, undeclared fields and misfits included; `updatedAt` follows if `bump`.
    /// Resources as in [`Control::dump`]; rows without an id go by their `text`. A record's `id` cannot be set.
    pub fn set_field(&self, account: &str, resource: &str, id: &str, field: &str, value: Value, bump: bool) -> bool {
        self.0.yes(account, |account, now| account.set_field(resource, id, field, Some(value), bump.then_some(now)))
    }

    /// Takes a field away from a record; otherwise as [`Control::set_field`].
    pub fn remove_field(&self, account: &str, resource: &str, id: &str, field: &str, bump: bool) -> bool {
        self.0.yes(account, |account, now| account.set_field(resource, id, field, None, bump.then_some(now)))
    }

    /// Every record below an opportunity, with its parent: `feedback`, `files`, `file_actions`, `interviews`, `notes`,
    /// `offers`, `panels`, `referrals`, `resumes`, `forms`; and below a posting: `posting_forms` (or `posting_apply`),
    /// `posting_users`, each one record a posting, and `surveys_diversity`. Parents stand in the order of the default listing, the children
    /// of one in the order of theirs; those of confidential opportunities are left out, softly deleted ones are not.
    #[must_use]
    pub fn children(&self, account: &str, resource: &str) -> Option<Vec<ChildRecord>> {
        self.0.with(account, |account, _| account.children(resource)).flatten()
    }

    /// The same of one parent, which may be confidential; `None` when it is not there.
    #[must_use]
    pub fn children_of(&self, account: &str, resource: &str, parent: &str) -> Option<Vec<ChildRecord>> {
        self.0.with(account, |account, _| account.children_of(resource, parent)).flatten()
    }

    /// Adds a child, made now; its id. Feedback, files, interviews, notes and resumes bump the opportunity.
    pub fn add_child(&self, account: &str, resource: &str, opportunity: &str) -> Option<String> {
        let child = Child::named(resource)?;
        self.0.with(account, |account, now| Some(account.add_child(account.find(opportunity)?, child, now))).flatten()
    }

    /// Adds a child to each of `n` distinct opportunities.
    pub fn add_children(&self, account: &str, resource: &str, n: usize, seed: u64) -> Vec<Touched> {
        let Some(child) = Child::named(resource) else { return vec![] };
        self.0.with(account, |account, now| account.add_children(child, n, seed, now)).unwrap_or_default()
    }

    /// Sets fields of a child, or changes without them what people usually change of its kind. Edited notes bump the
    /// opportunity, other children do not, unless `bump` says otherwise.
    pub fn edit_child(
        &self,
        account: &str,
        resource: &str,
        opportunity: &str,
        id: &str,
        fields: Option<&Map<String, Value>>,
        bump: Option<bool>,
    ) -> bool {
        let Some(child) = Child::named(resource) else { return false };
        self.0.yes(account, |account, now| {
            account.find(opportunity).is_some_and(|slot| account.edit_child(slot, child, id, fields, bump, now))
        })
    }

    /// Changes the newest child of each of up to `n` distinct opportunities.
    pub fn edit_children(
        &self,
        account: &str,
        resource: &str,
        n: usize,
        seed: u64,
        bump: Option<bool>,
    ) -> Vec<Touched> {
        self.each_child(account, resource, n, seed, |account, slot, child, id, now| {
            account.edit_child(slot, child, id, None, bump, now)
        })
    }

    /// Deletes a child without bumping the opportunity. Feedback, notes and forms stay listed with `deletedAt`, unless they
    /// are to be `unlisted`: then only the single object shows them. Others are gone.
    pub fn delete_child(&self, account: &str, resource: &str, opportunity: &str, id: &str, unlisted: bool) -> bool {
        let Some(child) = Child::named(resource) else { return false };
        self.0.yes(account, |account, now| {
            account.find(opportunity).is_some_and(|slot| account.delete_child(slot, child, id, unlisted, now))
        })
    }

    /// The child that stands first in the listing.
    fn newest_child(&self, account: &str, resource: &str, opportunity: &str) -> Option<String> {
        let child = Child::named(resource)?;
        let newest = self.0.with(account, |account, _| account.newest_child(account.find(opportunity)?, child));
        newest.flatten()
    }

    /// Deletes the newest child of each of up to `n` distinct opportunities.
    pub fn delete_children(&self, account: &str, resource: &str, n: usize, seed: u64, unlisted: bool) -> Vec<Touched> {
        self.each_child(account, resource, n, seed, |account, slot, child, id, now| {
            account.delete_child(slot, child, id, unlisted, now)
        })
    }

    /// Does something to the newest child of each of some opportunities.
    fn each_child(
        &self,
        account: &str,
        resource: &str,
        n: usize,
        seed: u64,
        act: impl Fn(&mut Account, u32, Child, &str, i64) -> bool,
    ) -> Vec<Touched> {
        let Some(child) = Child::named(resource) else { return vec![] };
        let all = self.0.with(account, |account, now| {
            let chosen = account.some_children(child, n, seed);
            let done = chosen.into_iter().filter(|(slot, id)| act(account, *slot, child, id, now)).collect::<Vec<_>>();
            done.into_iter()
                .map(|(slot, id)| Touched { opportunity: account.at(slot).id.to_string(), id })
                .collect::<Vec<Touched>>()
        });
        all.unwrap_or_default()
    }

    /// Merges two contacts: the opportunities of `from` refer to `into` and are bumped, `from` answers 404 from now on; the
    /// ids of those opportunities.
    pub fn merge_contacts(&self, account: &str, from: &str, into: &str) -> Vec<String> {
        self.0.with(account, |account, now| account.merge_contacts(from, into, now)).unwrap_or_default()
    }

    /// Sets fields of a posting's `posting_forms`, `posting_users` or (its first) `surveys_diversity`, or without them
    /// changes something. The posting is not bumped.
    pub fn edit_posting_child(
        &self,
        account: &str,
        resource: &str,
        posting: &str,
        fields: Option<&Map<String, Value>>,
    ) -> bool {
        let Some(of) = OfPosting::named(resource) else { return false };
        self.0.yes(account, |account, now| account.edit_of_posting(of, posting, fields, now))
    }

    /// From now on every n-th download answers 302 to object storage: another host name of this machine, an address that
    /// is good for a minute, and no credential wanted (see [`Stats::credentials_at_storage`]). `None` or zero ends it.
    pub fn redirect_downloads(&self, every_nth: Option<u32>) {
        *lock(&self.0.storage) = Storage::every(every_nth);
    }

    /// Adds a line to the script of faults.
    pub fn fault(&self, fault: Fault) {
        lock(&self.0.script).add(fault);
    }

    /// Empties the script.
    pub fn clear_faults(&self) {
        lock(&self.0.script).clear();
    }

    /// The Super Admin removes the app: refresh gives `invalid_grant`, access tokens 401. API keys stay.
    pub fn revoke(&self, account: &str) {
        lock(&self.0.oauth).revoke_account(account);
    }

    /// Ends the account's access tokens before their time; refresh tokens live on.
    pub fn expire_access_tokens(&self, account: &str) {
        lock(&self.0.oauth).expire_access(account, self.0.clock.now());
    }

    /// While set, every n-th listing of the account's opportunities first moves some of them to another stage, so that
    /// the listing reorders while it is read. `None` or zero ends it.
    pub fn churn(&self, account: &str, every_nth_request: Option<u32>) {
        self.0.with(account, |account, _| account.set_churn(every_nth_request));
    }

    /// What was asked so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        lock(&self.0.stats).clone()
    }

    /// Counts from zero again.
    pub fn reset_stats(&self) {
        *lock(&self.0.stats) = Stats::default();
    }

    /// What the endpoint answers: the method's return value, null where it has none.
    fn apply(&self, op: Op) -> Value {
        match op {
            Op::ApiKey { account } => json!(self.api_key(&account)),
            Op::RestrictApiKey { account, scopes } => {
                self.restrict_api_key(&account, &scopes);
                Value::Null
            }
            Op::Grant { account, client_id, scopes } => json!(self.grant(&account, &client_id, &scopes)),
            Op::Edit { account, n, seed } => json!(self.edit(&account, n, seed)),
            Op::EditApplication { account, opportunity } => json!(self.edit_application(&account, &opportunity)),
            Op::EditContact { account, contact } => json!(self.edit_contact(&account, &contact)),
            Op::Add { account, n } => json!(self.add(&account, n)),
            Op::Archive { account, id } => json!(self.archive(&account, &id)),
            Op::Anonymize { account, id } => json!(self.anonymize(&account, &id)),
            Op::DeleteOpportunity { account, id } => json!(self.delete_opportunity(&account, &id)),
            Op::RestoreOpportunity { account, id } => json!(self.restore_opportunity(&account, &id)),
            Op::DeleteApplication { account, id } => json!(self.delete_application(&account, &id)),
            Op::AddPosting { account } => json!(self.add_posting(&account)),
            Op::EditPosting { account, id } => json!(self.edit_posting(&account, &id)),
            Op::DeletePosting { account, id } => json!(self.delete_posting(&account, &id)),
            Op::AddUser { account } => json!(self.add_user(&account)),
            Op::AddAuditEvent { account } => json!(self.add_audit_event(&account)),
            Op::EditUser { account, id } => json!(self.edit_user(&account, &id)),
            Op::DeactivateUser { account, id } => json!(self.deactivate_user(&account, &id)),
            Op::RemoveUser { account, id } => json!(self.remove_user(&account, &id)),
            Op::RemoveStage { account, id } => json!(self.remove_stage(&account, &id)),
            Op::RenameTag { account, from, to } => json!(self.rename_tag(&account, &from, &to)),
            Op::EditRequisition { account, id, bump } => json!(self.edit_requisition(&account, &id, bump)),
            Op::RemoveRequisition { account, id } => json!(self.remove_requisition(&account, &id)),
            Op::BumpSourceCounts { account } => json!(self.bump_source_counts(&account)),
            Op::SetField { account, resource, id, field, value, bump } => {
                json!(self.set_field(&account, &resource, &id, &field, value, bump))
            }
            Op::RemoveField { account, resource, id, field, bump } => {
                json!(self.remove_field(&account, &resource, &id, &field, bump))
            }
            Op::AddChild { account, resource, opportunity, n, seed } => match opportunity {
                Some(parent) => {
                    let id = self.add_child(&account, &resource, &parent);
                    touched(parent, id)
                }
                None => json!(self.add_children(&account, &resource, n, seed)),
            },
            Op::EditChild { account, resource, opportunity, id, fields, bump, n, seed } => match opportunity {
                Some(parent) => {
                    let id = id.or_else(|| self.newest_child(&account, &resource, &parent));
                    let edit = |id: &String| self.edit_child(&account, &resource, &parent, id, fields.as_ref(), bump);
                    touched(parent.clone(), id.filter(edit))
                }
                None => json!(self.edit_children(&account, &resource, n, seed, bump)),
            },
            Op::DeleteChild { account, resource, opportunity, id, unlisted, n, seed } => match opportunity {
                Some(parent) => {
                    let id = id.or_else(|| self.newest_child(&account, &resource, &parent));
                    let delete = |id: &String| self.delete_child(&account, &resource, &parent, id, unlisted);
                    touched(parent.clone(), id.filter(delete))
                }
                None => json!(self.delete_children(&account, &resource, n, seed, unlisted)),
            },
            Op::MergeContacts { account, from, into } => json!(self.merge_contacts(&account, &from, &into)),
            Op::EditPostingChild { account, resource, posting, fields } => {
                json!(self.edit_posting_child(&account, &resource, &posting, fields.as_ref()))
            }
            Op::RedirectDownloads { every_nth } => json!(self.redirect_downloads(every_nth)),
            Op::Fault { fault } => json!(self.fault(fault)),
            Op::ClearFaults => json!(self.clear_faults()),
            Op::Revoke { account } => json!(self.revoke(&account)),
            Op::ExpireAccessTokens { account } => json!(self.expire_access_tokens(&account)),
            Op::Churn { account, every_nth_request } => json!(self.churn(&account, every_nth_request)),
            Op::ResetStats => json!(self.reset_stats()),
        }
    }
}

/// What an operation on one child answers.
fn touched(opportunity: String, id: Option<String>) -> Value {
    json!(id.map(|id| Touched { opportunity, id }).into_iter().collect::<Vec<_>>())
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.0.addr).finish()
    }
}

impl World {
    fn api_key(&self, account: &str) -> Option<String> {
        lock(&self.oauth).api_key(account)
    }

    fn with<T>(&self, account: &str, act: impl FnOnce(&mut Account, i64) -> T) -> Option<T> {
        let now = self.clock.now().ms();
        self.accounts.get(account).map(|account| act(&mut lock(account), now))
    }

    fn yes(&self, account: &str, act: impl FnOnce(&mut Account, i64) -> bool) -> bool {
        self.with(account, act).unwrap_or(false)
    }
}

/// The control endpoint. A body must say that it is JSON, which keeps web pages of other origins from sending one.
pub(super) fn http(world: &Arc<World>, method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> Reply {
    let control = Control::new(world.clone());
    let wrong = |status, message: &str| Reply::json(status, json!({"error": message}).to_string());
    let parts: Vec<&str> = path.split('/').collect();
    match (method, parts.as_slice()) {
        ("GET", ["stats"]) => Reply::json(200, json!(control.stats()).to_string()),
        ("GET", ["dump", account, resource @ ..]) => match control.dump(account, &resource.join("/")) {
            Some(rows) => Reply::json(200, json!({"data": rows}).to_string()),
            None => wrong(404, "no such account or resource"),
        },
        ("POST", [""]) => {
            let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
                return wrong(415, "the content type must be application/json");
            }
            match serde_json::from_slice(body) {
                Ok(op) => Reply::json(200, json!({"result": control.apply(op)}).to_string()),
                Err(error) => wrong(400, &error.to_string()),
            }
        }
        _ => wrong(404, "POST /_control, GET /_control/stats, or GET /_control/dump/{account}/{resource}"),
    }
}
