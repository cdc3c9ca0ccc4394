//! One customer's account: what it holds, in which order it is listed, and every way in which it can change.
//!
//! Opportunities are many, so each is a few numbers ([`Facts`]) until someone looks at it; its JSON is then kept until an
//! edit. The order of the listing is kept sorted, so a page costs what it shows. The rest are small tables.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::AccountSize;
use super::children::Child;
use super::data::{self, ADDED, Facts, Maker, Rng, Seeded};
use super::eeo::{Answers, Eeo};
use super::overlay::{ChildRecord, Overlay};
use super::paging::{Issued, Position};
use super::posting::OfPosting;

/// The listing's order: stage rank ascending, last advanced first, then the id.
pub(super) type Key = (i64, Reverse<i64>, u128, u32);

/// Where opportunities stand whose stage the account never had.
const UNKNOWN_STAGE_RANK: i64 = 1_000;
/// How many records one turn of churn moves.
const CHURN_MOVES: usize = 3;

/// Parts of the listing that are remembered: more than windows are read at once.
const PARTS: usize = 64;

/// Records that were created, or changed, from one time to another, both included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) updated: bool,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// The records of a span in the listing's order; none when they are most of the account: going through all is as quick.
type Part = (Span, Option<Vec<u32>>);

/// The account. Callers hold its lock for as long as one request takes; nothing in here waits.
pub(super) struct Account {
    pub(super) maker: Maker,
    slots: Vec<Opportunity>,
    by_id: HashMap<Uuid, u32>,
    order: BTreeSet<Key>,
    /// The same by their times, for listings that ask for a part of them.
    by_created: BTreeSet<(i64, u32)>,
    by_updated: BTreeSet<(i64, u32)>,
    /// Parts that were asked for since the order last changed, the latest first.
    parts: VecDeque<Part>,
    persons: Vec<Person>,
    person_by_id: HashMap<String, u32>,
    tables: BTreeMap<&'static str, Table>,
    /// Edited children; all others are made when somebody asks.
    pub(super) overlays: HashMap<(u32, Child), Overlay>,
    /// Edited answers below postings.
    pub(super) posting_edits: HashMap<(OfPosting, String), Value>,
    /// Forgotten when an opportunity comes or gets another creation time.
    pub(super) answers: OnceCell<Answers>,
    pub(super) issued: Issued,
    churn: Option<u32>,
    listings: u32,
    added: u32,
}

/// An opportunity that lives or lived.
pub(super) struct Opportunity {
    pub(super) id: Uuid,
    pub(super) facts: Facts,
    pub(super) seeded: Seeded,
    /// Whose it is now; after a merge of contacts not who it was made for.
    person: u32,
    /// Whether the person was anonymized, which children show too.
    pub(super) blanked: bool,
    pub(super) alive: bool,
    body: Option<Box<Value>>,
    application: Application,
    /// By what is expanded: nothing, applications, contact, both.
    json: [Option<Arc<str>>; 4],
}

/// What became of the one application that an opportunity may have.
enum Application {
    Absent,
    Seeded,
    Edited(Box<Value>),
}

/// Someone with one to three opportunities that share a contact.
struct Person {
    slots: Vec<u32>,
    anonymized: bool,
    body: Option<Box<Value>>,
}

/// A small listing.
pub(super) struct Table {
    rows: BTreeMap<String, Row>,
    /// By `createdAt`, the newest first; otherwise as they came.
    newest_first: bool,
}

/// One row, and its text once somebody asked for it.
pub(super) struct Row {
    number: i64,
    value: Value,
    json: Option<Arc<str>>,
}

impl Account {
    /// Everything that the account starts with. The confidential records come after the others, so sizes count open ones.
    pub(super) fn new(seed: u64, size: &AccountSize, now: i64) -> Self {
        let maker = Maker::new(seed, size, now);
        let confidential = if size.opportunities > 0 { size.opportunities / 100 + 1 } else { 0 };
        let mut account = Self {
            slots: Vec::with_capacity(size.opportunities + confidential),
            by_id: HashMap::new(),
            order: BTreeSet::new(),
            by_created: BTreeSet::new(),
            by_updated: BTreeSet::new(),
            parts: VecDeque::new(),
            persons: Vec::new(),
            person_by_id: HashMap::new(),
            tables: tables(&maker, size),
            overlays: HashMap::new(),
            posting_edits: HashMap::new(),
            answers: OnceCell::new(),
            issued: Issued::default(),
            churn: None,
            listings: 0,
            added: 0,
            maker,
        };
        let mut r = Rng::new(&[seed, 0xacc0]);
        for n in 0..size.opportunities + confidential {
            let serial = u32::try_from(n).unwrap_or(u32::MAX);
            // One in nine is a further opportunity of the person before; nobody has more than three.
            let last = account.persons.len().checked_sub(1);
            let person = match last {
                Some(last) if r.below(9) == 0 && account.persons[last].slots.len() < 3 => last,
                _ => account.persons.len(),
            };
            let person = u32::try_from(person).unwrap_or(0);
            account.insert(serial, person, None, n >= size.opportunities);
        }
        account
    }

    /// Gives a slot to a new opportunity; the person is new too when nobody has that number yet.
    fn insert(&mut self, serial: u32, person: u32, created: Option<i64>, confidential: bool) -> u32 {
        let (mut facts, seeded) = self.maker.facts(serial, person, created);
        facts.confidential = confidential;
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        if self.persons.len() <= person as usize {
            let id = self.maker.contact_id(person).to_string();
            self.person_by_id.insert(id, person);
            self.persons.push(Person { slots: vec![], anonymized: seeded.anonymized, body: None });
        }
        if let Some(person) = self.persons.get_mut(person as usize) {
            person.slots.push(slot);
        }
        let id = self.maker.opportunity_id(serial);
        let application = if seeded.posting.is_some() { Application::Seeded } else { Application::Absent };
        let new = Opportunity {
            id,
            facts,
            seeded,
            person,
            blanked: seeded.anonymized,
            alive: true,
            body: None,
            application,
            json: Default::default(),
        };
        self.by_id.insert(id, slot);
        self.slots.push(new);
        self.enlist(slot);
        self.answers.take();
        slot
    }

    /// Puts a living opportunity into the listing.
    fn enlist(&mut self, slot: u32) {
        let o = self.at(slot);
        let (key, created, updated) = (o.key(slot), o.facts.created, o.facts.updated);
        self.order.insert(key);
        self.by_created.insert((created, slot));
        self.by_updated.extend(updated.map(|at| (at, slot)));
        self.parts.clear();
    }

    /// Takes it out again.
    fn unlist(&mut self, slot: u32) {
        let o = self.at(slot);
        let (key, created, updated) = (o.key(slot), o.facts.created, o.facts.updated);
        self.order.remove(&key);
        self.by_created.remove(&(created, slot));
        if let Some(at) = updated {
            self.by_updated.remove(&(at, slot));
        }
        self.parts.clear();
    }

    /// The living opportunity of that id.
    pub(super) fn find(&self, id: &str) -> Option<u32> {
        let slot = *self.by_id.get(&Uuid::parse_str(id).ok()?)?;
        self.slots.get(slot as usize).filter(|o| o.alive && o.id.to_string() == id).map(|_| slot)
    }

    pub(super) fn at(&self, slot: u32) -> &Opportunity {
        &self.slots[slot as usize]
    }

    /// All that live or lived, by their number.
    pub(super) fn slots(&self) -> &[Opportunity] {
        &self.slots
    }

    /// Remembers which records the span holds, in the listing's order, so that the pages of one part of many do not go through
    /// all of them. Nothing to remember when they are most of the account.
    pub(super) fn narrow(&mut self, span: Span) {
        let known = self.parts.iter().position(|(known, _)| *known == span);
        if let Some(part) = known.and_then(|at| self.parts.remove(at)) {
            self.parts.push_front(part);
            return;
        }
        let times = if span.updated { &self.by_updated } else { &self.by_created };
        let most = self.order.len() / 2;
        let range = (span.from, 0)..=(span.to.max(span.from), u32::MAX);
        let mut slots: Vec<u32> = times.range(range).map(|(_, slot)| *slot).take(most + 1).collect();
        let slots = (slots.len() <= most).then(|| {
            slots.sort_unstable_by_key(|slot| self.at(*slot).key(*slot));
            slots
        });
        self.parts.truncate(PARTS - 1);
        self.parts.push_front((span, slots));
    }

    /// Up to `limit` records from `start` on, and the one after them. `span`: no others are wanted.
    pub(super) fn select(
        &self,
        start: Option<&Position>,
        limit: usize,
        span: Option<Span>,
        wanted: impl Fn(&Opportunity, u32) -> bool,
    ) -> Vec<u32> {
        let from = start.map(|p| {
            let number = |n: usize| p.numbers.get(n).copied().unwrap_or(0);
            let id = Uuid::parse_str(&p.id).map_or(0, |id| id.as_u128());
            (number(0), Reverse(number(1)), id, 0)
        });
        let page = |slots: &mut dyn Iterator<Item = u32>| {
            slots.filter(|slot| wanted(self.at(*slot), *slot)).take(limit + 1).collect()
        };
        if let Some((_, Some(slots))) = self.parts.iter().find(|(known, _)| Some(*known) == span) {
            let first = from.map_or(0, |from| slots.partition_point(|slot| self.at(*slot).key(*slot) < from));
            return page(&mut slots.iter().skip(first).copied());
        }
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        page(&mut self.order.range((from, Bound::Unbounded)).map(|key| key.3))
    }

    /// Where the record stands in the listing, which is what an offset token says.
    pub(super) fn position(&self, slot: u32) -> Position {
        let (rank, advanced, _, _) = self.at(slot).key(slot);
        Position { numbers: vec![rank, advanced.0], id: self.at(slot).id.to_string() }
    }

    /// The record as a plain listing shows it: made anew until its first edit, kept from then on.
    pub(super) fn body(&self, slot: u32) -> Cow<'_, Value> {
        let o = self.at(slot);
        match &o.body {
            Some(body) => Cow::Borrowed(body),
            None => Cow::Owned(self.maker.opportunity(&o.facts, o.seeded)),
        }
    }

    /// Its application, made or kept likewise.
    pub(super) fn application(&self, slot: u32) -> Option<Cow<'_, Value>> {
        let o = self.at(slot);
        match &o.application {
            Application::Absent => None,
            Application::Seeded => self.maker.application(&o.facts, o.seeded).map(Cow::Owned),
            Application::Edited(body) => Some(Cow::Borrowed(body)),
        }
    }

    /// The contact of that id, while an opportunity refers to it.
    pub(super) fn contact(&self, id: &str) -> Option<Cow<'_, Value>> {
        let n = *self.person_by_id.get(id)?;
        let person = self.persons.get(n as usize)?;
        person.slots.iter().any(|slot| self.at(*slot).alive).then_some(())?;
        Some(match &person.body {
            Some(body) => Cow::Borrowed(&**body),
            None => Cow::Owned(self.maker.contact(n, person.anonymized)),
        })
    }

    /// Whether only confidential opportunities refer to the contact.
    pub(super) fn contact_is_confidential(&self, id: &str) -> bool {
        let slots = self.person_by_id.get(id).and_then(|n| self.persons.get(*n as usize)).map(|p| &p.slots);
        slots.is_some_and(|s| s.iter().map(|s| self.at(*s)).filter(|o| o.alive).all(|o| o.facts.confidential))
    }

    /// The record with its application and contact put in place of their ids, as asked.
    pub(super) fn expanded(&self, slot: u32, applications: bool, contact: bool) -> Value {
        let mut body = self.body(slot).into_owned();
        if applications {
            body["applications"] = self.application(slot).map(Cow::into_owned).into_iter().collect();
        }
        if contact && let Some(person) = body["contact"].as_str().and_then(|id| self.contact(id)) {
            let person = person.into_owned();
            body["contact"] = person;
        }
        body
    }

    /// The same as text, kept until an edit.
    pub(super) fn json(&mut self, slot: u32, applications: bool, contact: bool) -> Arc<str> {
        let which = usize::from(applications) + 2 * usize::from(contact);
        if let Some(json) = &self.at(slot).json[which] {
            return json.clone();
        }
        let json: Arc<str> = text(&self.expanded(slot, applications, contact));
        self.slots[slot as usize].json[which] = Some(json.clone());
        json
    }

    /// Makes the texts of the plain listing, which are else made when somebody asks.
    pub(super) fn warm(&mut self) {
        for slot in 0..self.slots.len() {
            self.json(u32::try_from(slot).unwrap_or(u32::MAX), false, false);
        }
    }

    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    pub(super) fn table_mut(&mut self, name: &str) -> Option<&mut Table> {
        self.tables.get_mut(name)
    }

    /// Counts a listing and, when churn is on and it is its turn, moves some records first.
    pub(super) fn before_listing(&mut self, now: i64) {
        self.listings += 1;
        if self.churn.is_some_and(|nth| self.listings.is_multiple_of(nth)) {
            let mut r = Rng::new(&[u64::from(self.listings), 0xc4]);
            for slot in self.some_living(CHURN_MOVES, &mut r) {
                self.advance(slot, now, &mut r);
            }
        }
    }

    /// From now on every so many listings; `None` and zero stop it.
    pub(super) fn set_churn(&mut self, every_nth_request: Option<u32>) {
        self.churn = every_nth_request.filter(|n| *n > 0);
        self.listings = 0;
    }

    // ---- edits

    /// Changes a record as `edit` says and, given a time, bumps `updatedAt` to it (a moment later when it was that already).
    pub(super) fn change(
        &mut self,
        slot: u32,
        now: Option<i64>,
        edit: impl FnOnce(&mut Map<String, Value>, Option<&mut Map<String, Value>>),
    ) {
        let mut body = self.body(slot).into_owned();
        let mut application = self.application(slot).map(Cow::into_owned);
        if let Some(object) = body.as_object_mut() {
            edit(object, application.as_mut().and_then(Value::as_object_mut));
            if let Some(now) = now {
                let after = object.get("updatedAt").and_then(Value::as_i64).map_or(now, |old| now.max(old + 1));
                object.insert("updatedAt".into(), json!(after));
            }
        }
        let facts = self.facts_of(&body);
        let alive = self.at(slot).alive;
        if alive {
            self.unlist(slot);
        }
        if self.at(slot).facts.created != facts.created {
            self.answers.take();
        }
        let o = &mut self.slots[slot as usize];
        o.facts = facts;
        o.application = match application {
            Some(application) if body["applications"].get(0).is_some() => Application::Edited(application.into()),
            _ => Application::Absent,
        };
        o.body = Some(body.into());
        o.json = Default::default();
        if alive {
            self.enlist(slot);
        }
    }

    /// What an edited body says to the listing; the counterpart of [`Maker::facts`].
    fn facts_of(&self, body: &Value) -> Facts {
        // A test may have made a numeric string of a time.
        let time = |name: &str| body[name].as_i64().or_else(|| body[name].as_str()?.parse().ok());
        let stage = self.maker.stages.iter().position(|(id, _)| body["stage"] == id.as_str());
        Facts {
            created: time("createdAt").unwrap_or(0),
            updated: time("updatedAt"),
            advanced: time("lastAdvancedAt"),
            interaction: time("lastInteractionAt"),
            stage: stage.and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX),
            archived_at: body["archived"]["archivedAt"].as_i64(),
            snoozed_until: time("snoozedUntil"),
            confidential: body["confidentiality"] == "confidential",
        }
    }

    /// The living records that a default listing shows, in its order.
    pub(super) fn open(&self) -> impl Iterator<Item = u32> {
        self.order.iter().map(|key| key.3).filter(|slot| !self.at(*slot).facts.confidential)
    }

    /// Some of them, distinct.
    pub(super) fn some_living(&self, n: usize, r: &mut Rng) -> Vec<u32> {
        let mut slots: Vec<u32> = self.open().collect();
        let n = n.min(slots.len());
        for k in 0..n {
            let other = k + r.below(slots.len() - k);
            slots.swap(k, other);
        }
        slots.truncate(n);
        slots
    }

    fn ids(&self, slots: &[u32]) -> Vec<String> {
        slots.iter().map(|slot| self.at(*slot).id.to_string()).collect()
    }

    /// Moves a record to another stage, which changes its place in the listing.
    fn advance(&mut self, slot: u32, now: i64, r: &mut Rng) {
        let old = self.at(slot).facts.stage;
        let count = u32::try_from(self.maker.stages.len()).unwrap_or(1);
        let stage = (old.min(count) + 1 + u32::try_from(r.below(3)).unwrap_or(0)) % count;
        let (id, user) = (self.maker.stage_id(stage).to_owned(), self.maker.some_user(r));
        self.change(slot, Some(now), |body, _| {
            let change = json!({"toStageId": id, "toStageIndex": stage, "updatedAt": now, "userId": user});
            if let Some(changes) = body.get_mut("stageChanges").and_then(Value::as_array_mut) {
                changes.push(change);
            }
            body.insert("stage".into(), json!(id));
            body.insert("lastAdvancedAt".into(), json!(now));
            body.insert("lastInteractionAt".into(), json!(now));
        });
    }

    /// Changes what belongs to one opportunity alone, so that exactly these are bumped (a headline is the contact's).
    pub(super) fn edit(&mut self, n: usize, seed: u64, now: i64) -> Vec<String> {
        let mut r = Rng::new(&[seed, 0xed17]);
        let slots = self.some_living(n, &mut r);
        for slot in &slots {
            let user = self.maker.some_user(&mut r);
            let tag = format!("edited-{}", r.below(1_000_000));
            match r.below(5) {
                0 | 1 => self.advance(*slot, now, &mut r),
                2 => self.change(*slot, Some(now), |body, _| {
                    if let Some(tags) = body.get_mut("tags").and_then(Value::as_array_mut) {
                        tags.push(json!(tag));
                    }
                }),
                3 => self.change(*slot, Some(now), |body, _| {
                    body.insert("owner".into(), user.clone());
                    body.insert("followers".into(), json!([user]));
                    body.insert("lastInteractionAt".into(), json!(now));
                }),
                _ => self.change(*slot, Some(now), |body, _| {
                    body.insert("snoozedUntil".into(), json!(now + 7 * 86_400_000));
                    body.insert("sources".into(), json!([tag]));
                }),
            }
        }
        self.ids(&slots)
    }

    /// Application data have no time of their own: the parent is bumped (reference 4.1.1).
    pub(super) fn edit_application(&mut self, opportunity: &str, now: i64) -> bool {
        let Some(slot) = self.find(opportunity).filter(|slot| self.application(*slot).is_some()) else { return false };
        self.change(slot, Some(now), |_, application| {
            if let Some(application) = application {
                application.insert("company".into(), json!(format!("Edited at {now}")));
                application.insert("comments".into(), json!("edited"));
            }
        });
        true
    }

    /// A contact's data stand on each of the person's opportunities, so all are bumped.
    pub(super) fn edit_contact(&mut self, id: &str, now: i64) -> Vec<String> {
        let headline = json!(format!("Edited at {now}"));
        let phones = json!([{"type": "work", "value": "+351 555 010 999"}]);
        self.change_person(id, now, |object| {
            if object.contains_key("headline") {
                object.insert("headline".into(), headline.clone());
                object.insert("phones".into(), phones.clone());
            }
        })
    }

    /// Applies `edit` to the contact, then to each of the person's living opportunities and their applications.
    fn change_person(&mut self, id: &str, now: i64, edit: impl Fn(&mut Map<String, Value>)) -> Vec<String> {
        let Some(mut contact) = self.contact(id).map(Cow::into_owned) else { return vec![] };
        let Some(n) = self.person_by_id.get(id).copied() else { return vec![] };
        if let Some(object) = contact.as_object_mut() {
            edit(object);
        }
        let person = &mut self.persons[n as usize];
        person.body = Some(contact.into());
        let slots: Vec<u32> = person.slots.clone();
        let slots: Vec<u32> = slots.into_iter().filter(|slot| self.at(*slot).alive).collect();
        for slot in &slots {
            self.change(*slot, Some(now), |body, application| {
                edit(body);
                if let Some(application) = application {
                    edit(application);
                }
            });
        }
        self.ids(&slots)
    }

    /// People stay, with blank fields, in every place that shows them.
    pub(super) fn anonymize(&mut self, opportunity: &str, now: i64) -> bool {
        let Some(slot) = self.find(opportunity) else { return false };
        let contact = self.body(slot)["contact"].as_str().map(str::to_owned);
        let person = self.at(slot).person;
        if contact.is_none_or(|id| self.change_person(&id, now, data::anonymize).is_empty()) {
            return false;
        }
        let slots = self.persons.get(person as usize).map(|person| person.slots.clone()).unwrap_or_default();
        for slot in slots {
            self.slots[slot as usize].blanked = true;
            self.blank_children(slot);
        }
        true
    }

    /// Two contacts turn out to be one person: the opportunities of `from` refer to `into`, show its data and are bumped;
    /// `from` is no longer found. What hangs on the opportunities stays as it is. Returns the ids of those that moved.
    pub(super) fn merge_contacts(&mut self, from: &str, into: &str, now: i64) -> Vec<String> {
        let Some(target) = self.contact(into).map(Cow::into_owned).filter(|_| from != into) else { return vec![] };
        let Some(to) = self.person_by_id.get(into).copied() else { return vec![] };
        let Some(gone) = self.person_by_id.remove(from) else { return vec![] };
        let slots = self.persons.get_mut(gone as usize).map(|p| std::mem::take(&mut p.slots)).unwrap_or_default();
        for slot in &slots {
            let alive = self.at(*slot).alive;
            self.change(*slot, alive.then_some(now), |body, _| {
                body.insert("contact".into(), target["id"].clone());
                body.insert("location".into(), target["location"]["name"].clone());
                for field in ["name", "headline", "emails", "phones", "dataProtection", "isAnonymized"] {
                    body.insert(field.into(), target[field].clone());
                }
                // A part that only contacts show.
                if let Some(parts) = body.get_mut("dataProtection").and_then(Value::as_object_mut) {
                    parts.remove("interviewIntelligence");
                }
            });
            let moved = &mut self.slots[*slot as usize];
            moved.person = to;
            if target["isAnonymized"] == true {
                moved.blanked = true;
                self.blank_children(*slot);
            }
        }
        let alive: Vec<u32> = slots.iter().copied().filter(|slot| self.at(*slot).alive).collect();
        if let Some(person) = self.persons.get_mut(to as usize) {
            person.slots.extend(slots);
        }
        self.ids(&alive)
    }

    /// New opportunities of new people, made now, with serial numbers that no first load used.
    pub(super) fn add(&mut self, n: usize, now: i64) -> Vec<String> {
        let slots: Vec<u32> = (0..n)
            .map(|_| {
                let person = u32::try_from(self.persons.len()).unwrap_or(0);
                let serial = ADDED + self.next_added();
                self.insert(serial, person, Some(now), false)
            })
            .collect();
        self.ids(&slots)
    }

    /// Archives the opportunity and, alike, its application.
    pub(super) fn archive(&mut self, id: &str, now: i64) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let reason = self.maker.some_reason(&mut Rng::new(&[u64::from(slot), 0xa7]));
        let archived = json!({"reason": reason, "archivedAt": now});
        self.change(slot, Some(now), |body, application| {
            body.insert("archived".into(), archived.clone());
            body.insert("lastInteractionAt".into(), json!(now));
            if let Some(application) = application {
                application.insert("archived".into(), archived);
            }
        });
        true
    }

    /// The record and its application leave every listing and enter the tombstone feeds.
    pub(super) fn delete_opportunity(&mut self, id: &str, now: i64) -> bool {
        let Some(slot) = self.find(id) else { return false };
        self.bury_application(slot, now);
        let count = self.table("opportunities_deleted").map_or(0, |t| t.rows.len());
        let by = self.maker.some_user(&mut Rng::new(&[u64::from(slot), 0xde]));
        let row = data::tombstone_of(&self.body(slot), now, &by, count);
        self.unlist(slot);
        self.slots[slot as usize].alive = false;
        self.put("opportunities_deleted", row, now);
        true
    }

    /// Alive again under its old id, newer than its tombstone and without its application.
    pub(super) fn restore_opportunity(&mut self, id: &str, now: i64) -> bool {
        let slot = Uuid::parse_str(id).ok().and_then(|id| self.by_id.get(&id).copied());
        let Some(slot) = slot.filter(|slot| !self.at(*slot).alive) else { return false };
        let deleted = self.table("opportunities_deleted").and_then(|t| t.rows.get(id)).map_or(now, |row| row.number);
        self.change(slot, Some(now.max(deleted + 1)), |body, _| {
            body.insert("applications".into(), json!([]));
        });
        self.slots[slot as usize].alive = true;
        self.enlist(slot);
        true
    }

    /// Deletes by the application's id or its opportunity's.
    pub(super) fn delete_application(&mut self, id: &str, now: i64) -> bool {
        let slot = self.find(id).or_else(|| self.find_application(id));
        let Some(slot) = slot.filter(|slot| self.application(*slot).is_some()) else { return false };
        self.bury_application(slot, now);
        self.change(slot, Some(now), |body, _| {
            body.insert("applications".into(), json!([]));
        });
        true
    }

    /// Writes the tombstone only; what happens to the parent is the caller's business.
    fn bury_application(&mut self, slot: u32, now: i64) {
        let Some(application) = self.application(slot).map(Cow::into_owned) else { return };
        let row = json!({
            "id": application["id"], "deletedAt": now,
            "opportunityId": application["opportunityId"], "postingId": application["posting"],
        });
        self.put("applications_deleted", row, now);
    }

    /// The opportunity that has the application of that id. Looks at all: only edits by application id need it.
    pub(super) fn find_application(&self, id: &str) -> Option<u32> {
        let slot = |o: &Opportunity| self.by_id.get(&o.id).copied();
        let mine = |o: &&Opportunity| {
            o.alive
                && !matches!(o.application, Application::Absent)
                && self.maker.application_id(o.seeded.serial).to_string() == id
        };
        self.slots.iter().find(mine).and_then(slot)
    }

    fn next_added(&mut self) -> u32 {
        self.added += 1;
        self.added
    }

    fn put(&mut self, table: &str, value: Value, number: i64) {
        if let Some(table) = self.tables.get_mut(table) {
            table.put(value, number);
        }
    }

    pub(super) fn add_posting(&mut self, now: i64) -> Option<String> {
        let n = (ADDED + self.next_added()) as usize;
        let row = self.maker.posting(n, Some(now), false);
        let id = row["id"].as_str().map(str::to_owned);
        self.put("postings", row, now);
        id
    }

    /// Applications keep the id of a posting that is gone.
    pub(super) fn delete_posting(&mut self, id: &str, now: i64) -> bool {
        let Some(mut row) = self.tables.get_mut("postings").and_then(|t| t.rows.remove(id)) else { return false };
        row.value["deletedAt"] = json!(now);
        self.put("postings_deleted", row.value, now);
        true
    }

    pub(super) fn add_user(&mut self, now: i64) -> Option<String> {
        let n = (ADDED + self.next_added()) as usize;
        let row = self.maker.user(n, Some(now));
        let id = row["id"].as_str().map(str::to_owned);
        self.put("users", row, now);
        id
    }

    /// Removes a row of a small table without a trace.
    pub(super) fn remove_row(&mut self, table: &str, key: &str) -> bool {
        self.tables.get_mut(table).is_some_and(|t| t.rows.remove(key).is_some())
    }

    /// Changes a row of a small table.
    pub(super) fn edit_row(&mut self, table: &str, key: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> bool {
        let row = self.tables.get_mut(table).and_then(|t| t.rows.get_mut(key));
        let Some(row) = row else { return false };
        row.json = None;
        row.value.as_object_mut().map(edit).is_some()
    }

    /// The row's text changes, and the tag on every opportunity that has it.
    pub(super) fn rename_tag(&mut self, from: &str, to: &str, now: i64) -> bool {
        let Some(table) = self.tables.get_mut("tags") else { return false };
        let Some(mut row) = table.rows.remove(from) else { return false };
        row.value["text"] = json!(to);
        table.put(row.value, row.number);
        let slots: Vec<u32> = self.order.iter().map(|key| key.3).collect();
        for slot in slots {
            let has = self.body(slot)["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == from));
            if has {
                self.change(slot, Some(now), |body, _| {
                    for tag in body.get_mut("tags").and_then(Value::as_array_mut).into_iter().flatten() {
                        if tag == from {
                            *tag = json!(to);
                        }
                    }
                });
            }
        }
        true
    }

    /// Counts drift with every sync of a real account.
    pub(super) fn bump_source_counts(&mut self) {
        for row in self.tables.get_mut("sources").into_iter().flat_map(|t| t.rows.values_mut()) {
            let count = row.value["count"].as_i64().unwrap_or(0);
            row.value["count"] = json!(count + 1);
            row.json = None;
        }
    }

    /// A raw edit: `None` takes the field away. With a time, `updatedAt` is bumped where the record has one.
    pub(super) fn set_field(
        &mut self,
        resource: &str,
        id: &str,
        field: &str,
        value: Option<Value>,
        now: Option<i64>,
    ) -> bool {
        // Keys are what everything is found by; a row without one is a fault's business.
        if field == "id" {
            return false;
        }
        let set = |object: &mut Map<String, Value>| match value {
            Some(value) => {
                object.insert(field.into(), value);
            }
            None => {
                object.remove(field);
            }
        };
        match resource {
            "opportunities" => {
                let Some(slot) = self.find(id) else { return false };
                self.change(slot, now, |body, _| set(body));
            }
            "applications" => {
                let Some(slot) = self.find_application(id) else { return false };
                self.change(slot, now, |_, application| {
                    if let Some(application) = application {
                        set(application);
                    }
                });
            }
            "contacts" => {
                let Some(mut contact) = self.contact(id).map(Cow::into_owned) else { return false };
                let Some(n) = self.person_by_id.get(id).copied() else { return false };
                if let Some(object) = contact.as_object_mut() {
                    set(object);
                }
                let person = &mut self.persons[n as usize];
                person.body = Some(contact.into());
                for slot in person.slots.clone() {
                    self.slots[slot as usize].json = Default::default();
                    if now.is_some() && self.at(slot).alive {
                        self.change(slot, now, |_, _| {});
                    }
                }
            }
            table => {
                return self.edit_row(table, id, |row| {
                    set(row);
                    if let Some(now) = now
                        && row.contains_key("updatedAt")
                    {
                        row.insert("updatedAt".into(), json!(now));
                    }
                });
            }
        }
        true
    }

    /// The stages with their places.
    pub(super) fn disposition_stages(&self) -> Vec<Value> {
        let stages = self.tables.get("stages").map(Table::sorted).unwrap_or_default();
        stages.iter().enumerate().map(|(n, (_, row))| Maker::disposition_stage(&row.value, n)).collect()
    }

    /// A new event at the top of the log.
    pub(super) fn add_audit_event(&mut self, now: i64) -> Option<String> {
        let n = self.next_added();
        let event = self.maker.audit_event(1_000_000 + n as usize, Some(now));
        let id = event["id"].as_str().map(str::to_owned);
        self.put("audit_events", event, now);
        id
    }

    /// Every record of a resource, as the default listing would show it, in its order.
    pub(super) fn dump(&self, resource: &str) -> Option<Vec<Value>> {
        // Of all parents, or as the path says of one.
        let children = match *resource.split('/').collect::<Vec<_>>().as_slice() {
            ["opportunities", id, child] => Child::named(child).and_then(|_| self.children_of(child, id)),
            ["postings", id, of @ ("apply" | "users")] => self.children_of(&format!("posting_{of}"), id),
            ["surveys", "diversity", id] => self.children_of("surveys_diversity", id),
            _ => self.children(resource),
        };
        if let Some(children) = children {
            return Some(children.into_iter().map(ChildRecord::with_parent).collect());
        }
        let eeo = |kind| {
            let rows = self.eeo_rows(kind, None, usize::MAX, &(i64::MIN..=i64::MAX));
            rows.into_iter().map(|(_, row)| row).collect()
        };
        Some(match resource {
            "eeo_responses" | "eeo/responses" => eeo(Eeo::Anonymous),
            "eeo_responses_pii" | "eeo/responses/pii" => eeo(Eeo::Personal),
            "opportunities" => self.open().map(|slot| self.body(slot).into_owned()).collect(),
            "opportunities_expanded" => self.open().map(|slot| self.expanded(slot, true, true)).collect(),
            "applications" => self.open().filter_map(|slot| self.application(slot).map(Cow::into_owned)).collect(),
            "contacts" => {
                let ids: BTreeSet<u32> = self.open().map(|slot| self.at(slot).person).collect();
                let id = |n: &u32| self.maker.contact_id(*n).to_string();
                ids.iter().filter_map(|n| self.contact(&id(n)).map(Cow::into_owned)).collect()
            }
            "disposition_stages" => self.disposition_stages(),
            table => {
                let rows = self.tables.get(&*table.replace('/', "_"))?.sorted();
                let feed = table.ends_with("deleted");
                let open = |row: &&Value| feed || row["confidentiality"] != "confidential";
                rows.into_iter().map(|(_, row)| &row.value).filter(open).cloned().collect()
            }
        })
    }
}

impl Opportunity {
    pub(super) fn has_application(&self) -> bool {
        !matches!(self.application, Application::Absent)
    }

    /// The sort key under the present data; the order holds exactly these.
    fn key(&self, slot: u32) -> Key {
        let rank = if self.facts.stage == u32::MAX { UNKNOWN_STAGE_RANK } else { i64::from(self.facts.stage) };
        (rank, Reverse(self.facts.advanced.unwrap_or(0)), self.id.as_u128(), slot)
    }
}

impl Table {
    /// `time` names the field that rows are ordered by; rows without it keep the order in which they come.
    fn new(newest_first: bool, rows: impl IntoIterator<Item = Value>, time: &str) -> Self {
        let mut table = Self { rows: BTreeMap::new(), newest_first };
        for (n, row) in (0i64..).zip(rows) {
            let number = row[time].as_i64().unwrap_or(n);
            table.put(row, number);
        }
        table
    }

    /// Adds a row under its id, or its text where rows have none.
    fn put(&mut self, value: Value, number: i64) {
        let key = value["id"].as_str().or(value["text"].as_str()).unwrap_or("").to_owned();
        self.rows.insert(key, Row { number, value, json: None });
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.rows.get(key).map(|row| &row.value)
    }

    /// Ascending by this is the listing's order.
    fn sort_key<'a>(&self, number: i64, key: &'a str) -> (i64, &'a str) {
        (if self.newest_first { number.saturating_neg() } else { number }, key)
    }

    fn sorted(&self) -> Vec<(&String, &Row)> {
        let mut rows: Vec<(&String, &Row)> = self.rows.iter().collect();
        rows.sort_by_key(|(key, row)| self.sort_key(row.number, key));
        rows
    }

    /// Up to `limit` keys from `start` on, and the one after them.
    pub(super) fn select(
        &self,
        start: Option<&Position>,
        limit: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<String> {
        let first = start.map(|p| self.sort_key(p.numbers.first().copied().unwrap_or(0), &p.id));
        let rows = self.sorted().into_iter();
        let rows = rows.filter(|(key, row)| first.is_none_or(|first| self.sort_key(row.number, key) >= first));
        rows.filter(|(_, row)| wanted(&row.value)).take(limit + 1).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn position(&self, key: &str) -> Position {
        Position { numbers: vec![self.rows.get(key).map_or(0, |row| row.number)], id: key.into() }
    }

    pub(super) fn json(&mut self, key: &str) -> Option<Arc<str>> {
        let row = self.rows.get_mut(key)?;
        Some(row.json.get_or_insert_with(|| text(&row.value)).clone())
    }
}

/// A record as it goes out.
pub(super) fn text(record: &Value) -> Arc<str> {
    // The keys of a `Value` are strings, so writing one cannot fail.
    serde_json::to_string(record).unwrap_or_default().into()
}

/// The small tables of a new account, by the names that `api` and `dump` use.
fn tables(maker: &Maker, size: &AccountSize) -> BTreeMap<&'static str, Table> {
    let extra = |n: usize| n + usize::from(n > 0);
    let postings = (0..extra(size.postings)).map(|n| maker.posting(n, None, n == size.postings));
    let requisitions = (0..extra(size.requisitions)).map(|n| maker.requisition(n, n == size.requisitions));
    let gone: Vec<(Value, Option<Value>)> = (0..size.deleted).map(|n| maker.gone_opportunity(n)).collect();
    let (gone, gone_applications): (Vec<Value>, Vec<Option<Value>>) = gone.into_iter().unzip();
    let gone_postings = (0..size.deleted.min(3)).map(|n| maker.gone_posting(n));
    BTreeMap::from([
        ("users", Table::new(true, (0..size.users.max(1)).map(|n| maker.user(n, None)), "createdAt")),
        ("postings", Table::new(true, postings, "createdAt")),
        ("requisitions", Table::new(true, requisitions, "createdAt")),
        ("stages", Table::new(false, maker.stage_rows(), "")),
        ("archive_reasons", Table::new(false, maker.reason_rows(), "")),
        ("sources", Table::new(false, maker.source_rows(), "")),
        ("tags", Table::new(false, maker.tag_rows(), "")),
        ("requisition_fields", Table::new(false, maker.requisition_field_rows(), "")),
        ("feedback_templates", Table::new(false, maker.feedback_template_rows(), "")),
        ("form_templates", Table::new(false, maker.form_template_rows(), "")),
        ("webhooks", Table::new(false, maker.webhook_rows(), "")),
        ("audit_events", Table::new(true, maker.audit_event_rows(), "createdAt")),
        ("opportunities_deleted", Table::new(false, gone, "deletedAt")),
        ("applications_deleted", Table::new(false, gone_applications.into_iter().flatten(), "deletedAt")),
        ("postings_deleted", Table::new(false, gone_postings, "deletedAt")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn account(n: usize) -> Account {
        Account::new(3, &AccountSize::new("acme", n), NOW)
    }

    #[test]
    fn a_part_is_what_going_through_all_finds() {
        let mut account = account(300);
        let mut r = Rng::new(&[7]);
        for round in 0..60 {
            match round % 4 {
                1 => drop(account.edit(5, round, NOW + i64::try_from(round).unwrap())),
                2 => drop(account.add(2, NOW + 5)),
                3 => {
                    let id = account.at(u32::try_from(r.below(300)).unwrap()).id.to_string();
                    if !account.delete_opportunity(&id, NOW + 9) {
                        assert!(account.restore_opportunity(&id, NOW + 10));
                    }
                }
                _ => {}
            }
            let times: Vec<i64> = account.slots().iter().map(|o| o.facts.created).collect();
            let (a, b) = (times[r.below(times.len())], times[r.below(times.len())]);
            for updated in [false, true] {
                let span = Span { updated, from: a.min(b), to: a.max(b) };
                let wanted = |o: &Opportunity, _| {
                    let time = if updated { o.facts.updated } else { Some(o.facts.created) };
                    time.is_some_and(|t| (span.from..=span.to).contains(&t))
                };
                account.narrow(span);
                let mut start = None;
                loop {
                    let found = account.select(start.as_ref(), 20, Some(span), wanted);
                    assert_eq!(found, account.select(start.as_ref(), 20, None, wanted));
                    let Some(next) = found.get(20) else { break };
                    start = Some(account.position(*next));
                }
            }
        }
    }

    #[test]
    fn facts_say_what_the_body_says() {
        let account = account(400);
        for slot in 0..400 {
            assert_eq!(account.facts_of(&account.body(slot)), account.at(slot).facts);
        }
    }

    #[test]
    fn equal_options_give_equal_bytes() {
        for resource in ["opportunities_expanded", "users", "postings", "requisitions", "opportunities_deleted", "tags"]
        {
            assert_eq!(account(60).dump(resource), account(60).dump(resource));
        }
        let other = Account::new(4, &AccountSize::new("acme", 60), NOW);
        assert_ne!(other.dump("opportunities"), account(60).dump("opportunities"));
    }

    #[test]
    fn the_oddities_of_the_reference_are_there() {
        let account = account(1000);
        let all = account.dump("opportunities").unwrap();
        assert_eq!(all.len(), 1000);
        let some = |what: &dyn Fn(&Value) -> bool| all.iter().any(what);
        assert!(some(&|o| o["updatedAt"].is_null()));
        assert!(some(&|o| o.get("opportunityLocation").is_none()));
        assert!(some(&|o| o["archived"].is_null()) && some(&|o| o["archived"].is_object()));
        assert!(some(&|o| o["phones"].as_array().unwrap().iter().any(|p| p.get("type").is_none())));
        assert!(some(&|o| o["phones"].as_array().unwrap().iter().any(|p| p.get("type") == Some(&Value::Null))));
        assert!(some(&|o| o["isAnonymized"] == true && o["name"] == ""));
        assert!(some(&|o| o["name"].as_str().is_some_and(|name| !name.is_ascii())));
        assert!(some(&|o| o["stageChanges"].as_array().unwrap().iter().skip(1).any(|c| c.get("userId").is_none())));
        let young = NOW - 2 * 365 * 86_400_000;
        assert!(all.iter().all(|o| !o["updatedAt"].is_null() || o["createdAt"].as_i64() < Some(young)));
        let contacts: BTreeSet<&str> = all.iter().filter_map(|o| o["contact"].as_str()).collect();
        assert!(contacts.len() < 950 && contacts.len() > 700, "{}", contacts.len());
        let requisitions = account.dump("requisitions").unwrap();
        assert!(requisitions.iter().any(|r| r["headcountTotal"] == "unlimited"));
        assert!(requisitions.iter().any(|r| r.get("updatedAt").is_none()));
    }

    #[test]
    fn a_contact_is_the_same_on_each_of_its_opportunities() {
        let mut account = account(300);
        let shared = account.persons.iter().position(|p| p.slots.len() > 1 && !p.anonymized).unwrap();
        let id = account.maker.contact_id(u32::try_from(shared).unwrap()).to_string();
        let bumped = account.edit_contact(&id, NOW);
        assert_eq!(bumped.len(), account.persons[shared].slots.len());
        for opportunity in &bumped {
            let body = account.expanded(account.find(opportunity).unwrap(), true, true);
            assert_eq!(body["headline"], body["contact"]["headline"]);
            assert!(body["updatedAt"].as_i64() >= Some(NOW));
        }
        assert!(account.anonymize(&bumped[0], NOW + 5));
        let body = account.expanded(account.find(&bumped[1]).unwrap(), true, true);
        assert_eq!((&body["name"], &body["contact"]["isAnonymized"]), (&json!(""), &json!(true)));
    }

    #[test]
    fn the_deleted_leave_tombstones_and_may_return() {
        let mut account = account(50);
        let with = account.dump("applications").unwrap()[0]["opportunityId"].as_str().unwrap().to_owned();
        let before = ["opportunities_deleted", "applications_deleted"].map(|t| account.dump(t).unwrap().len());
        assert!(account.delete_opportunity(&with, NOW + 1));
        assert!(!account.delete_opportunity(&with, NOW + 1));
        let after = ["opportunities_deleted", "applications_deleted"].map(|t| account.dump(t).unwrap().len());
        assert_eq!(after, [before[0] + 1, before[1] + 1]);
        assert_eq!(account.dump("opportunities").unwrap().len(), 49);
        assert!(account.restore_opportunity(&with, NOW + 1));
        let body = account.body(account.find(&with).unwrap());
        assert!(body["updatedAt"].as_i64() > Some(NOW + 1));
        assert_eq!(body["applications"], json!([]));
    }

    #[test]
    fn an_edit_moves_the_record_in_the_order() {
        let mut account = account(200);
        let ids = account.edit(40, 9, NOW + 1);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 40);
        assert_eq!(account.order.len(), 203);
        let keys: Vec<Key> = account.order.iter().copied().collect();
        assert!(keys.iter().all(|key| account.at(key.3).key(key.3) == *key));
        let new = account.dump("opportunities").unwrap();
        let bumped = new.iter().filter(|o| o["updatedAt"].as_i64() > Some(NOW)).count();
        assert_eq!(bumped, 40);
    }
}
