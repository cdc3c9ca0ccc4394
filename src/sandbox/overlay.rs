//! What was edited of the children: laid over what `children` makes, and the only memory they take.
//!
//! A parent without an entry here has exactly the children it was made with. Numbers at and above that count belong to
//! children that were added. Listings show the newest first, so that one which is added while a listing is read is missed
//! by it, as with the other listings of the account.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::account::Account;
use super::children::{self, Child, Parent};
use super::data::Rng;
use super::posting::OfPosting;

/// One kind of children of one opportunity, as far as it is not as it was made.
#[derive(Default)]
pub(super) struct Overlay {
    /// Added and edited rows, whole.
    rows: BTreeMap<usize, Value>,
    gone: BTreeSet<usize>,
    /// Softly deleted ones that listings no longer show.
    unlisted: BTreeSet<usize>,
    added: usize,
}

/// A child that the control endpoint changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// The opportunity.
    pub opportunity: String,
    /// The child.
    pub id: String,
}

/// A record that the API shows below another one.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRecord {
    /// The id of the opportunity, or of the posting.
    pub parent_id: String,
    /// When that was created, in epoch milliseconds.
    pub parent_created_at: i64,
    /// What the parent's id is called in records that have it: `opportunityId` or `postingId`.
    pub parent_field: &'static str,
    /// The record as the listing shows it.
    pub record: Value,
}

impl ChildRecord {
    /// The record with the parent's id in it.
    #[must_use]
    pub fn with_parent(mut self) -> Value {
        self.record[self.parent_field] = self.parent_id.into();
        self.record
    }
}

impl Account {
    /// The opportunity as children are made from it.
    fn parent(&self, slot: u32) -> Parent<'_> {
        let o = self.at(slot);
        Parent::new(&self.maker, o.seeded, o.facts.created)
    }

    fn overlay(&self, slot: u32, child: Child) -> Option<&Overlay> {
        self.overlays.get(&(slot, child))
    }

    /// Numbers below this are or were in use.
    fn child_end(&self, parent: &Parent<'_>, slot: u32, child: Child) -> usize {
        parent.count(child) + self.overlay(slot, child).map_or(0, |o| o.added)
    }

    /// The n-th child, unless it is gone.
    fn child_at<'a>(&'a self, parent: &Parent<'_>, slot: u32, child: Child, n: usize) -> Option<Cow<'a, Value>> {
        if let Some(overlay) = self.overlay(slot, child) {
            if overlay.gone.contains(&n) {
                return None;
            }
            if let Some(row) = overlay.rows.get(&n) {
                return Some(Cow::Borrowed(row));
            }
        }
        let blanked = self.at(slot).blanked;
        if n >= parent.count(child) || (blanked && child.goes_with_the_name()) {
            return None;
        }
        let mut row = parent.child(child, n, None);
        if blanked {
            children::blank(child, &mut row);
        }
        Some(Cow::Owned(row))
    }

    /// Up to `limit` rows and the one after them, the newest first, from the number `start` on.
    pub(super) fn child_rows(
        &self,
        slot: u32,
        child: Child,
        start: Option<usize>,
        limit: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<(usize, Value)> {
        let parent = self.parent(slot);
        let end = self.child_end(&parent, slot, child).min(start.map_or(usize::MAX, |n| n.saturating_add(1)));
        let overlay = self.overlay(slot, child);
        let listed = |n: &usize| overlay.is_none_or(|overlay| !overlay.unlisted.contains(n));
        let rows = (0..end).rev().filter(listed);
        let rows = rows.filter_map(|n| Some((n, self.child_at(&parent, slot, child, n)?.into_owned())));
        rows.filter(|(_, row)| wanted(row)).take(limit.saturating_add(1)).collect()
    }

    /// The child's number, by its id.
    fn child_number(&self, parent: &Parent<'_>, slot: u32, child: Child, id: &str) -> Option<usize> {
        let edited = self.overlay(slot, child).and_then(|o| o.rows.iter().find(|(_, row)| row["id"] == id));
        let made = || (0..parent.count(child)).find(|n| parent.child_id(child, *n) == id);
        edited.map(|(n, _)| *n).or_else(made)
    }

    /// One child, softly deleted ones included.
    pub(super) fn child(&self, slot: u32, child: Child, id: &str) -> Option<Value> {
        let parent = self.parent(slot);
        let n = self.child_number(&parent, slot, child, id)?;
        self.child_at(&parent, slot, child, n).map(Cow::into_owned)
    }

    /// Whether the listing answers 404 in place of being empty, which it does of some opportunities without a resume.
    pub(super) fn answers_404(&self, slot: u32, child: Child) -> bool {
        child == Child::Resumes
            && self.at(slot).seeded.serial.is_multiple_of(3)
            && self.child_rows(slot, child, None, 0, |_| true).is_empty()
    }

    /// The children of one opportunity, as its listing shows them.
    fn child_records(&self, slot: u32, child: Child) -> impl Iterator<Item = ChildRecord> + use<> {
        let o = self.at(slot);
        let (parent_id, parent_created_at) = (o.id.to_string(), o.facts.created);
        self.child_rows(slot, child, None, usize::MAX, |_| true).into_iter().map(move |(_, record)| ChildRecord {
            parent_id: parent_id.clone(),
            parent_created_at,
            parent_field: "opportunityId",
            record,
        })
    }

    /// Every child of a resource below the parents of a default listing, whose order is the listing's.
    pub(super) fn children(&self, resource: &str) -> Option<Vec<ChildRecord>> {
        let of_posting = || OfPosting::named(resource).map(|of| self.all_of_postings(of));
        let all = |child| self.open().flat_map(|slot| self.child_records(slot, child)).collect();
        Child::named(resource).map(all).or_else(of_posting)
    }

    /// Those of one parent, which may be confidential.
    pub(super) fn children_of(&self, resource: &str, parent: &str) -> Option<Vec<ChildRecord>> {
        match (Child::named(resource), OfPosting::named(resource)) {
            (Some(child), _) => Some(self.child_records(self.find(parent)?, child).collect()),
            (_, Some(of)) => Some(self.of_one_posting(of, self.table("postings")?.get(parent)?).collect()),
            _ => None,
        }
    }

    // ---- edits

    fn overlay_mut(&mut self, slot: u32, child: Child) -> &mut Overlay {
        self.overlays.entry((slot, child)).or_default()
    }

    /// Puts a new row on top of the listing.
    fn put_child(&mut self, slot: u32, child: Child, make: impl FnOnce(&Parent<'_>, usize) -> Value) -> String {
        let parent = self.parent(slot);
        let n = self.child_end(&parent, slot, child);
        let row = make(&parent, n);
        let id = row["id"].as_str().unwrap_or("").to_owned();
        let overlay = self.overlay_mut(slot, child);
        overlay.rows.insert(n, row);
        overlay.added += 1;
        id
    }

    /// Adds a child, made now. What goes with it comes too: an interview's panel, the record of a file's arrival.
    pub(super) fn add_child(&mut self, slot: u32, child: Child, now: i64) -> String {
        let id = self.put_child(slot, child, |parent, n| parent.child(child, n, Some(now)));
        match child {
            Child::Interviews => {
                let panel = self.put_child(slot, Child::Panels, |parent, n| parent.child(Child::Panels, n, Some(now)));
                self.set_child(slot, child, &id, |row| {
                    row.insert("panel".into(), json!(panel));
                });
                self.follow_in_panel(slot, &panel);
            }
            Child::Files => self.record_file_action(slot, "file-added", now),
            Child::Resumes => self.record_file_action(slot, "resume-imported", now),
            _ => {}
        }
        if child.interacts() {
            // `updatedAt` was seen a millisecond behind.
            self.change(slot, Some(now + 1), |body, _| {
                body.insert("lastInteractionAt".into(), json!(now));
            });
        }
        id
    }

    fn record_file_action(&mut self, slot: u32, kind: &str, now: i64) {
        self.put_child(slot, Child::FileActions, |parent, n| {
            let mut row = parent.child(Child::FileActions, n, Some(now));
            row["type"] = json!(kind);
            row["occurredAt"] = json!(now);
            row["createdAt"] = json!(now + 5);
            row
        });
    }

    /// Changes a child in place.
    fn set_child(&mut self, slot: u32, child: Child, id: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> bool {
        let parent = self.parent(slot);
        let Some(n) = self.child_number(&parent, slot, child, id) else { return false };
        let Some(mut row) = self.child_at(&parent, slot, child, n).map(Cow::into_owned) else { return false };
        if let Some(object) = row.as_object_mut() {
            edit(object);
        }
        row["id"] = json!(id);
        self.overlay_mut(slot, child).rows.insert(n, row);
        true
    }

    /// Changes a child: the given fields, or else what people usually change of its kind. The
    /// opportunity is bumped by an edited note only, unless `bump` says otherwise.
    pub(super) fn edit_child(
        &mut self,
        slot: u32,
        child: Child,
        id: &str,
        fields: Option<&Map<String, Value>>,
        bump: Option<bool>,
        now: i64,
    ) -> bool {
        let edited = self.set_child(slot, child, id, |row| match fields {
            Some(fields) => row.extend(fields.clone()),
            None => usual_edit(child, row, now),
        });
        if !edited {
            return false;
        }
        if child == Child::Interviews
            && let Some(panel) = self.child(slot, child, id).and_then(|row| row["panel"].as_str().map(str::to_owned))
        {
            self.follow_in_panel(slot, &panel);
        }
        if bump.unwrap_or(child == Child::Notes) {
            self.change(slot, Some(now), |_, _| {});
        }
        true
    }

    /// Deletes a child; the opportunity is not bumped. Feedback, notes and forms stay in the listing with `deletedAt`, or
    /// leave it when they are `unlisted` (then only the single object shows them); others vanish.
    pub(super) fn delete_child(&mut self, slot: u32, child: Child, id: &str, unlisted: bool, now: i64) -> bool {
        let Some(row) = self.child(slot, child, id) else { return false };
        let parent = self.parent(slot);
        let Some(n) = self.child_number(&parent, slot, child, id) else { return false };
        if child.deleted_softly() {
            self.set_child(slot, child, id, |row| {
                row.insert("deletedAt".into(), json!(now));
            });
            if unlisted {
                self.overlay_mut(slot, child).unlisted.insert(n);
            }
            return true;
        }
        let overlay = self.overlay_mut(slot, child);
        overlay.rows.remove(&n);
        overlay.gone.insert(n);
        match (child, row["panel"].as_str()) {
            (Child::Interviews, Some(panel)) => self.follow_in_panel(slot, panel),
            (Child::Files | Child::Resumes, _) => self.record_file_action(slot, "file-remove", now),
            (Child::Panels, _) => {
                for part in row["interviews"].as_array().into_iter().flatten() {
                    if let Some(n) = part["id"]
                        .as_str()
                        .and_then(|id| self.child_number(&self.parent(slot), slot, Child::Interviews, id))
                    {
                        let overlay = self.overlay_mut(slot, Child::Interviews);
                        overlay.rows.remove(&n);
                        overlay.gone.insert(n);
                    }
                }
            }
            _ => {}
        }
        true
    }

    /// Brings a panel's copy of its interviews up to date; a panel that has none left is deleted.
    fn follow_in_panel(&mut self, slot: u32, panel: &str) {
        let mut interviews = self.child_rows(slot, Child::Interviews, None, usize::MAX, |row| row["panel"] == panel);
        interviews.reverse();
        if interviews.is_empty() {
            self.delete_child(slot, Child::Panels, panel, false, 0);
            return;
        }
        let parts: Vec<Value> = interviews.iter().map(|(_, row)| children::panel_part(row)).collect();
        self.set_child(slot, Child::Panels, panel, |row| {
            row.insert("interviews".into(), parts.into());
        });
    }

    /// What anonymization does to the children of one opportunity; see [`Child::goes_with_the_name`].
    pub(super) fn blank_children(&mut self, slot: u32) {
        for child in Child::ALL {
            let Some(overlay) = self.overlays.get_mut(&(slot, child)) else { continue };
            if child.goes_with_the_name() {
                overlay.rows.clear();
            } else {
                overlay.rows.values_mut().for_each(|row| children::blank(child, row));
            }
        }
    }

    /// Adds a child to each of `n` distinct opportunities.
    pub(super) fn add_children(&mut self, child: Child, n: usize, seed: u64, now: i64) -> Vec<Touched> {
        let slots = self.some_living(n, &mut Rng::new(&[seed, 0xadd, child as u64]));
        let mut touched = Vec::new();
        for slot in slots {
            let id = self.add_child(slot, child, now);
            touched.push(Touched { opportunity: self.at(slot).id.to_string(), id });
        }
        touched
    }

    /// The first of the listing that is not deleted.
    pub(super) fn newest_child(&self, slot: u32, child: Child) -> Option<String> {
        let rows = self.child_rows(slot, child, None, 0, |row| row["deletedAt"].is_null());
        rows.first().and_then(|(_, row)| row["id"].as_str().map(str::to_owned))
    }

    /// Up to `n` children of distinct opportunities, the newest of each.
    pub(super) fn some_children(&self, child: Child, n: usize, seed: u64) -> Vec<(u32, String)> {
        let slots = self.some_living(usize::MAX, &mut Rng::new(&[seed, 0x5e1, child as u64]));
        slots.into_iter().filter_map(|slot| Some((slot, self.newest_child(slot, child)?))).take(n).collect()
    }
}

/// What people change of a child that exists.
fn usual_edit(child: Child, row: &mut Map<String, Value>, now: i64) {
    let words = json!(format!("Edited at {now}"));
    match child {
        Child::Feedback => {
            row.insert("instructions".into(), words);
            row.insert("completedAt".into(), json!(now));
            row.insert("updatedAt".into(), json!(now));
        }
        Child::Notes => {
            if let Some(field) = row.get_mut("fields").and_then(|fields| fields.get_mut(0)) {
                field["value"] = words;
            }
        }
        Child::Interviews => {
            row.insert("date".into(), json!(now + 86_400_000));
            row.insert("location".into(), words);
        }
        Child::Panels => {
            row.insert("note".into(), words);
        }
        Child::Offers => {
            row.insert("status".into(), json!("approved"));
            row.insert("approvedAt".into(), json!(now));
        }
        Child::Referrals | Child::Forms => {
            row.insert("instructions".into(), words);
            row.insert("completedAt".into(), json!(now));
        }
        Child::Files => {
            row.insert("name".into(), words);
            row.insert("status".into(), json!("processed"));
        }
        Child::Resumes => {
            row.insert("parsedData".into(), json!({"positions": [{"org": words, "title": null}], "schools": []}));
        }
        Child::FileActions => {
            row.insert("meta".into(), json!({"fileName": words}));
        }
    }
}
