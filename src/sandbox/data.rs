//! Invented records, in the wire shape of the reference's section 4 and with its oddities.
//!
//! Everything is a function of (seed, account, sizes, the clock's start), so that equal options give equal bytes. Large
//! things are made in two steps: [`Facts`] (what listings sort and filter by) at the start, bodies when first asked for.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::AccountSize;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
/// Nothing happened in an account in so long before the start, so that an increment shows what was done since.
const QUIET: i64 = 2 * 60 * MINUTE;
const YEAR: i64 = 365 * DAY;
/// Records older than this may lack `updatedAt`, as those made before Lever introduced it do.
const UPDATED_AT_SINCE: i64 = 2 * YEAR;
/// Moves between stages that a lengthened record has at most, beside its own.
const MOST_MOVES: i64 = 12;
/// Serial numbers from here on belong to things deleted before the sandbox started.
const GONE: u32 = 1 << 30;
/// Added records (control endpoint) take serial numbers from here on.
pub(super) const ADDED: u32 = 1 << 29;

/// What a serial number counts; keeps the streams of random numbers apart.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Person = 1,
    Opportunity,
    OpportunityBody,
    Application,
    User,
    Posting,
    Requisition,
    Stage,
    Reason,
    Id,
    Count,
    Gone,
    Event,
    Child,
    Apply,
    Lengthened,
}

/// SplitMix64: small, quick, and the same in every version of every crate.
#[derive(Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seeds: &[u64]) -> Self {
        let mut rng = Self(0x1ee7_1a4e);
        for seed in seeds {
            rng.0 = rng.next() ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        rng
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; zero when `n` is zero.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % n).unwrap_or(0)
    }

    /// True in so many of a hundred cases.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// From `low` to `high`, both included; `low` when they are the wrong way round.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high.saturating_sub(low)).unwrap_or(0) + 1;
        low.saturating_add(i64::try_from(self.next() % span).unwrap_or(0))
    }

    pub(super) fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.get(self.below(words.len())).copied().unwrap_or("")
    }

    /// One of the ids, or null when there are none.
    fn id_of(&mut self, ids: &[String]) -> Value {
        ids.get(self.below(ids.len())).map_or(Value::Null, |id| json!(id))
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        let wide = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(wide.to_be_bytes()).into_uuid()
    }
}

/// What listings of opportunities sort and filter by; the body agrees with it (a test holds that).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) created: i64,
    pub(super) updated: Option<i64>,
    pub(super) advanced: Option<i64>,
    pub(super) interaction: Option<i64>,
    /// Position in the account's first list of stages; `u32::MAX` for one that was never there.
    pub(super) stage: u32,
    pub(super) archived_at: Option<i64>,
    pub(super) snoozed_until: Option<i64>,
    pub(super) confidential: bool,
}

/// What only the generator needs to know of an opportunity beside its facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded {
    pub(super) serial: u32,
    pub(super) person: u32,
    pub(super) anonymized: bool,
    reason: u32,
    /// The posting applied to; none for a lead without an application.
    pub(super) posting: Option<u32>,
}

/// What an application copies from its posting at the time of applying.
struct PostingRef {
    id: String,
    title: String,
    location: String,
    owner: Value,
    manager: Value,
}

/// One account's generator: what the records refer to, and how to make one.
pub(super) struct Maker {
    seed: u64,
    pub(super) account: String,
    pub(super) account_id: Uuid,
    pub(super) now: i64,
    pub(super) years: i64,
    users: Vec<String>,
    postings: Vec<PostingRef>,
    requisitions: Vec<(String, String)>,
    pub(super) stages: Vec<(String, &'static str)>,
    reasons: Vec<(String, &'static str, &'static str, &'static str)>,
    record_bytes: usize,
}

impl Maker {
    /// Fixes every id that records refer to. Later edits do not come back here: a body not yet made is made as of the start.
    pub(super) fn new(seed: u64, size: &AccountSize, now: i64) -> Self {
        let mut seed = seed;
        for byte in size.name.bytes() {
            seed = Rng::new(&[seed, u64::from(byte)]).next();
        }
        let mut maker = Self {
            seed,
            account: size.name.clone(),
            account_id: Rng::new(&[seed, 0]).uuid(),
            now,
            years: i64::from(size.years.max(1)),
            users: Vec::new(),
            postings: Vec::new(),
            requisitions: Vec::new(),
            stages: Vec::new(),
            reasons: Vec::new(),
            record_bytes: size.record_bytes,
        };
        maker.stages = STAGES
            .iter()
            .enumerate()
            .map(|(n, (slug, text))| (if slug.is_empty() { maker.id(Kind::Stage, n) } else { (*slug).into() }, *text))
            .collect();
        maker.reasons = REASONS
            .iter()
            .enumerate()
            .map(|(n, (text, status, kind))| (maker.id(Kind::Reason, n), *text, *status, *kind))
            .collect();
        maker.users = (0..size.users.max(1)).map(|n| maker.id(Kind::User, n)).collect();
        maker.requisitions = (0..size.requisitions)
            .map(|n| (maker.id(Kind::Requisition, n), format!("{}-{}", CODES[n % CODES.len()], 100 + n)))
            .collect();
        maker.postings = (0..size.postings)
            .map(|n| {
                let mut r = maker.rng(Kind::Posting, n);
                PostingRef {
                    id: maker.id(Kind::Posting, n),
                    title: r.pick(TITLES).into(),
                    location: r.pick(CITIES).into(),
                    owner: if r.chance(90) { r.id_of(&maker.users) } else { Value::Null },
                    manager: if r.chance(60) { r.id_of(&maker.users) } else { Value::Null },
                }
            })
            .collect();
        maker
    }

    pub(super) fn rng(&self, kind: Kind, n: usize) -> Rng {
        Rng::new(&[self.seed, kind as u64, u64::try_from(n).unwrap_or(u64::MAX)])
    }

    /// The n-th id of a kind.
    pub(super) fn id(&self, kind: Kind, n: usize) -> String {
        Rng::new(&[self.seed, Kind::Id as u64, kind as u64, n as u64]).uuid().to_string()
    }

    pub(super) fn opportunity_id(&self, serial: u32) -> Uuid {
        Rng::new(&[self.seed, Kind::Id as u64, Kind::Opportunity as u64, u64::from(serial)]).uuid()
    }

    pub(super) fn application_id(&self, serial: u32) -> Uuid {
        Rng::new(&[self.seed, Kind::Id as u64, Kind::Application as u64, u64::from(serial)]).uuid()
    }

    /// The stream of one child's numbers; `of` tells the kinds of children apart.
    pub(super) fn child_rng(&self, of: u64, serial: u32, n: u64) -> Rng {
        Rng::new(&[self.seed, Kind::Child as u64, of, u64::from(serial), n])
    }

    pub(super) fn contact_id(&self, person: u32) -> Uuid {
        Rng::new(&[self.seed, Kind::Id as u64, Kind::Person as u64, u64::from(person)]).uuid()
    }

    /// An opportunity's facts; `created` is now for those added while the sandbox runs.
    pub(super) fn facts(&self, serial: u32, person: u32, created: Option<i64>) -> (Facts, Seeded) {
        let mut r = self.rng(Kind::Opportunity, serial as usize);
        let added = created.is_some();
        let created = created.unwrap_or_else(|| self.now - r.between(QUIET, self.years * YEAR));
        let now = if added { created } else { self.now };
        let quiet = created.max(now - QUIET);
        let posting = (!self.postings.is_empty() && r.chance(72))
            .then(|| u32::try_from(r.below(self.postings.len())).unwrap_or(0));
        let entry = if posting.is_some() { 3 } else { 0 };
        let stage = if added || r.chance(40) { entry } else { (entry + r.below(6)).min(8) };
        let moved = |r: &mut Rng, from: i64, days: i64| r.between(from, (from + days * DAY).min(quiet));
        let advanced = if stage == entry { created } else { moved(&mut r, created, 60) };
        let interaction = if added { created } else { moved(&mut r, advanced, 90) };
        let dated = added || created > self.now - UPDATED_AT_SINCE || !r.chance(30);
        let archived = !added && r.chance(35);
        let snoozed = !added && r.chance(4);
        let anonymized = !added && self.rng(Kind::Person, person as usize).chance(2);
        let facts = Facts {
            created,
            updated: dated.then_some(interaction + i64::from(!added)),
            advanced: Some(advanced),
            interaction: (added || r.chance(97)).then_some(interaction),
            stage: u32::try_from(stage).unwrap_or(0),
            archived_at: archived.then_some(interaction),
            snoozed_until: snoozed.then(|| now + r.between(DAY, 60 * DAY)),
            confidential: false,
        };
        let reason = u32::try_from(r.below(REASONS.len())).unwrap_or(0);
        (facts, Seeded { serial, person, anonymized, reason, posting })
    }

    /// The opportunity as a plain listing shows it.
    pub(super) fn opportunity(&self, facts: &Facts, s: Seeded) -> Value {
        let mut r = self.rng(Kind::OpportunityBody, s.serial as usize);
        let person = self.person(s.person, s.anonymized);
        let id = self.opportunity_id(s.serial).to_string();
        let old = facts.created < self.now - UPDATED_AT_SINCE;
        let entry: u32 = if s.posting.is_some() { 3 } else { 0 };
        let mut steps = vec![entry];
        if facts.stage > entry + 1 && r.chance(60) {
            steps.push(entry + 1);
        }
        if facts.stage != entry {
            steps.push(facts.stage);
        }
        let last = i64::try_from(steps.len()).unwrap_or(1) - 1;
        let advanced = facts.advanced.unwrap_or(facts.created);
        let changes: Vec<Value> = (0i64..)
            .zip(&steps)
            .map(|(k, step)| {
                let at = facts.created + (advanced - facts.created) * k / last.max(1);
                let mut change = json!({
                    "toStageId": self.stage_id(*step), "toStageIndex": step, "updatedAt": at,
                });
                if k > 0 && r.chance(if old { 20 } else { 85 }) {
                    change["userId"] = r.id_of(&self.users);
                }
                change
            })
            .collect();
        let posting = s.posting.and_then(|p| self.postings.get(p as usize));
        let origin = match posting {
            Some(_) => r.pick(&["applied", "applied", "applied", "agency", "referred", "internal"]),
            None => r.pick(&["sourced", "sourced", "sourced", "university", "referred"]),
        };
        let mut tags: Vec<&str> = Vec::new();
        if let Some(posting) = posting {
            tags.push(&posting.title);
        }
        for _ in 0..r.below(4) {
            let tag = r.pick(TAGS);
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let sources: Vec<&str> = (0..r.below(3)).map(|_| r.pick(SOURCES)).collect();
        let sourced_by = if origin == "sourced" { r.id_of(&self.users) } else { Value::Null };
        let owner = if r.chance(85) { r.id_of(&self.users) } else { Value::Null };
        let followers: Vec<Value> = if s.serial.is_multiple_of(3) { vec![] } else { vec![r.id_of(&self.users)] };
        let applications: Vec<String> = posting.iter().map(|_| self.application_id(s.serial).to_string()).collect();
        let mut body = json!({
            "id": id,
            "name": person.name,
            "contact": self.contact_id(s.person).to_string(),
            "headline": person.headline,
            "stage": self.stage_id(facts.stage),
            "confidentiality": confidentiality(facts.confidential),
            "location": person.location,
            "tags": tags,
            "sources": sources,
            "origin": origin,
            "applications": applications,
            "createdAt": facts.created,
            "updatedAt": facts.updated,
            "lastInteractionAt": facts.interaction,
            "lastAdvancedAt": facts.advanced,
            "snoozedUntil": facts.snoozed_until,
            "urls": {
                "list": "https://hire.lever.co/candidates",
                "show": format!("https://hire.lever.co/candidates/{id}"),
            },
            "isAnonymized": s.anonymized,
        });
        // What is a value already is moved in: `json!` would walk through it again.
        body["phones"] = person.phones.into();
        body["emails"] = person.emails.into();
        body["links"] = person.links.into();
        body["archived"] = self.archived(facts, s);
        body["stageChanges"] = changes.into();
        body["sourcedBy"] = sourced_by;
        body["owner"] = owner;
        body["followers"] = followers.into();
        body["dataProtection"] = person.data_protection;
        if let Some(posting) = posting {
            body["opportunityLocation"] = json!(if r.chance(10) { "unspecified" } else { &posting.location });
        }
        self.lengthen(&mut body, facts, s);
        body
    }

    /// Makes the record about as long as it was asked to be, with what busy accounts have much of: moves between stages
    /// first, then tags, followers and links.
    fn lengthen(&self, body: &mut Value, facts: &Facts, s: Seeded) {
        if self.record_bytes == 0 {
            return;
        }
        let mut r = self.rng(Kind::Lengthened, s.serial as usize);
        let mut missing = self.record_bytes.saturating_sub(body.to_string().len());
        let advanced = facts.advanced.unwrap_or(facts.created);
        let mut add = |list: &str, at: usize, value: Value| {
            missing = missing.saturating_sub(value.to_string().len() + 1);
            if let Some(list) = body[list].as_array_mut() {
                list.insert(at.min(list.len()), value);
            }
            missing
        };
        for n in 0..MOST_MOVES {
            let stage = u32::try_from(r.below(self.stages.len().max(1))).unwrap_or(0);
            let at = facts.created + (advanced - facts.created) * (n + 1) / (MOST_MOVES + 1);
            let user = r.id_of(&self.users);
            let change =
                json!({ "toStageId": self.stage_id(stage), "toStageIndex": stage, "updatedAt": at, "userId": user });
            if add("stageChanges", 1 + usize::try_from(n).unwrap_or(0), change) < 60 {
                return;
            }
        }
        for n in 0.. {
            let left = match n % 3 {
                0 => add("followers", usize::MAX, r.id_of(&self.users)),
                1 => add("tags", usize::MAX, json!(format!("{} {n}", r.pick(TAGS)))),
                _ => add(
                    "links",
                    usize::MAX,
                    json!(format!("https://www.example.com/{}/{}/{n}", r.below(1_000), s.serial)),
                ),
            };
            if left < 20 {
                return;
            }
        }
    }

    /// The opportunity's application, if it has one.
    pub(super) fn application(&self, facts: &Facts, s: Seeded) -> Option<Value> {
        let posting = self.postings.get(s.posting? as usize)?;
        let mut r = self.rng(Kind::Application, s.serial as usize);
        let person = self.person(s.person, s.anonymized);
        let opportunity = self.opportunity_id(s.serial).to_string();
        let kind = r.pick(&["posting", "posting", "posting", "posting", "user", "referral"]);
        let by_hand = kind == "user" || s.anonymized;
        let told = |value: Value| if by_hand { Value::Null } else { value };
        let user = if kind == "posting" { Value::Null } else { r.id_of(&self.users) };
        let at = facts.created + i64::from(kind == "user");
        let hired = self.reasons.get(s.reason as usize).is_some_and(|reason| reason.3 == "hired");
        let requisition = self.requisitions.get(r.below(self.requisitions.len()));
        let for_hire = match requisition {
            Some((id, code)) if hired && facts.archived_at.is_some() => json!({
                "id": id, "requisitionCode": code, "hiringManagerOnHire": posting.manager,
            }),
            _ => Value::Null,
        };
        let seen = !by_hand && facts.created > self.now - UPDATED_AT_SINCE && r.chance(50);
        let trace = |text: &str| if seen { json!(text) } else { Value::Null };
        let links = if r.chance(20) { Value::Null } else { told(person.links.into()) };
        let comments = told(json!(r.pick(COMMENTS)));
        let questions = self.questions(&mut r, kind, by_hand, at, &user, &person.name);
        let mut body = json!({
            "id": self.application_id(s.serial).to_string(),
            "type": kind,
            "candidateId": opportunity,
            "opportunityId": opportunity,
            "posting": posting.id,
            "postingHiringManager": posting.manager,
            "postingOwner": posting.owner,
            "name": told(json!(person.name)),
            "company": told(json!(person.company)),
            "phone": told(person.phones.first().cloned().unwrap_or(Value::Null)),
            "email": told(json!(person.emails.first())),
            "comments": comments,
            "user": user,
            "createdAt": at,
            "ipAddress": trace("203.0.113.24"),
            "referer": trace("https://jobs.lever.co/"),
            "userAgent": trace("Mozilla/5.0 (synthetic)"),
            "acceptLanguage": trace("pt-PT,pt;q=0.9"),
            "timezone": trace("Europe/Lisbon"),
        });
        body["links"] = links;
        body["customQuestions"] = questions;
        body["archived"] = self.archived(facts, s);
        body["requisitionForHire"] = for_hire;
        Some(body)
    }

    /// The person behind one or several opportunities, as `/contacts/:id` shows it.
    pub(super) fn contact(&self, person: u32, anonymized: bool) -> Value {
        let p = self.person(person, anonymized);
        let mut protection = p.data_protection;
        if person.is_multiple_of(5)
            && let Some(parts) = protection.as_object_mut()
        {
            parts.insert("interviewIntelligence".into(), json!({"allowed": true, "expiresAt": null}));
        }
        let mut body = json!({
            "id": self.contact_id(person).to_string(),
            "name": p.name,
            "headline": p.headline,
            "isAnonymized": anonymized,
            "location": {"name": p.location},
        });
        body["emails"] = p.emails.into();
        body["phones"] = p.phones.into();
        body["dataProtection"] = protection;
        body
    }

    /// A user; the first is the Super Admin, one in eight is deactivated.
    pub(super) fn user(&self, n: usize, created: Option<i64>) -> Value {
        let mut r = self.rng(Kind::User, n);
        let (first, last) = (r.pick(FIRST), r.pick(LAST));
        let handle = format!("{}.{}{n}", ascii(first), ascii(last));
        let added = created.is_some();
        let created = created.unwrap_or_else(|| self.now - r.between(DAY, self.years * YEAR));
        let custom = self.id(Kind::Id, 7);
        let role = match n {
            0 => "super admin",
            n if n % 17 == 16 => &custom,
            _ => r.pick(&["admin", "team member", "team member", "limited team member", "interviewer"]),
        };
        let gone = !added && n > 0 && r.chance(12);
        let manager = if n > 0 && r.chance(70) {
            self.users.get(r.below(n.min(self.users.len()))).map(|id| json!(id))
        } else {
            None
        };
        let linked = r.chance(15).then(|| vec![self.contact_id(0).to_string()]);
        json!({
            "id": self.id(Kind::User, n),
            "name": format!("{first} {last}"),
            "username": if r.chance(97) { json!(handle) } else { Value::Null },
            "email": format!("{handle}@example.com"),
            "accessRole": role,
            "photo": r.chance(30).then(|| format!("https://images.example.com/u/{n}.png")),
            "createdAt": created,
            "deactivatedAt": gone.then(|| r.between(created, self.now)),
            "externalDirectoryId": match r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!(format!("emp-{n:04}")) },
            "linkedContactIds": linked,
            "jobTitle": r.chance(60).then(|| r.pick(TITLES)),
            "managerId": manager,
        })
    }

    /// A posting. Draws the same numbers in the same order as its [`PostingRef`] did, so that the two agree.
    pub(super) fn posting(&self, n: usize, created: Option<i64>, confidential: bool) -> Value {
        let mut r = self.rng(Kind::Posting, n);
        let (title, city) = (r.pick(TITLES), r.pick(CITIES));
        let owner = if r.chance(90) { r.id_of(&self.users) } else { Value::Null };
        let manager = if r.chance(60) { r.id_of(&self.users) } else { Value::Null };
        let id = self.id(Kind::Posting, n);
        let added = created.is_some();
        let created = created.unwrap_or_else(|| self.now - r.between(DAY, self.years * YEAR));
        let updated = if added { created } else { r.between(created, self.now - QUIET) };
        let state = if added {
            "published"
        } else {
            r.pick(&["published", "published", "closed", "closed", "internal", "draft", "pending", "rejected"])
        };
        let bare = r.chance(15);
        let word = |text: &str| if bare { Value::Null } else { json!(text) };
        let (team, department) = (r.pick(TEAMS), r.pick(DEPARTMENTS));
        // One in twenty is as long as real ones are, so that pages are not all alike.
        let paragraphs = if bare {
            0
        } else if n % 20 == 3 {
            120
        } else {
            3
        };
        let description = "Own our pipelines, and what they tell — every day.\n".repeat(paragraphs);
        let html = description.lines().map(|line| format!("<div>{line}</div>")).collect::<String>();
        let codes: Vec<&str> = if r.chance(50) {
            self.requisitions.get(r.below(self.requisitions.len())).map(|q| q.1.as_str()).into_iter().collect()
        } else {
            vec![]
        };
        let urls = if state == "draft" {
            Value::Null
        } else {
            let base = format!("https://jobs.lever.co/{}", self.account);
            json!({"list": base, "show": format!("{base}/{id}"), "apply": format!("{base}/{id}/apply")})
        };
        let mut content = json!({
            "description": description, "descriptionHtml": html,
            "lists": if bare { json!([]) } else { json!([{"text": "What you will do", "content": "<li>Build</li><li>Run</li>"}]) },
            "closing": if bare { "" } else { "See you soon." },
            "closingHtml": if bare { "" } else { "<div>See you soon.</div>" },
        });
        if r.chance(20) {
            content["customQuestions"] = json!([]);
        }
        let channels = match r.below(4) {
            0 => Value::Null,
            1 => json!(["internal"]),
            2 => json!(["public"]),
            _ => json!(["public", "internal"]),
        };
        let mut body = json!({
            "id": id,
            "text": title,
            "state": state,
            "distributionChannels": channels,
            "user": if bare { Value::Null } else { r.id_of(&self.users) },
            "owner": owner,
            "hiringManager": manager,
            "categories": {
                "commitment": word("Full-time"), "department": word(department),
                "level": if n.is_multiple_of(7) { json!("Junior") } else { Value::Null },
                "location": word(city), "team": word(team),
                "allLocations": if bare { json!([]) } else { json!([city, "Remote (EU)"]) },
            },
            "tags": if r.chance(40) { json!(["backend", "2024-h1"]) } else { json!([]) },
            "content": content,
            "country": word(r.pick(&["PT", "GB", "DE", "US", "JP"])),
            "followers": if r.chance(40) { json!([r.id_of(&self.users)]) } else { json!([]) },
            "reqCode": if r.chance(50) { json!("") } else { Value::Null },
            "requisitionCodes": codes,
            "urls": urls,
            "confidentiality": confidentiality(confidential),
            "createdAt": created,
            "updatedAt": updated,
            "workplaceType": r.pick(&["unspecified", "onsite", "remote", "hybrid"]),
        });
        if r.chance(40) {
            body["salaryRange"] = json!({
                "min": 52_000, "max": if r.chance(50) { json!(68_500.5) } else { json!(70_000) },
                "currency": "EUR", "interval": "per-year-salary",
            });
            body["salaryDescription"] = json!("Plus bonus");
            body["salaryDescriptionHtml"] = json!("<div>Plus bonus</div>");
        }
        if r.chance(80) {
            body["transcribeInterviews"] = json!(r.chance(20));
            body["screening"] = json!({"enabled": r.chance(20)});
        }
        body
    }

    /// A requisition, with the shapes of `headcountTotal`, `approval` and the absent keys that the reference warns of.
    pub(super) fn requisition(&self, n: usize, confidential: bool) -> Value {
        let mut r = self.rng(Kind::Requisition, n);
        let (id, code) =
            self.requisitions.get(n).cloned().unwrap_or_else(|| (self.id(Kind::Requisition, n), format!("SEC-{n}")));
        let created = self.now - r.between(DAY, self.years * YEAR);
        let updated = r.between(created, self.now - QUIET);
        let unlimited = n % 6 == 1;
        let total = 1 + r.below(4);
        let status = r.pick(&["open", "open", "onHold", "closed", "draft", "rejected"]);
        let manager = if r.chance(70) { r.id_of(&self.users) } else { Value::Null };
        let band = json!({"min": 50_000, "max": 70_000.5, "currency": "EUR", "interval": "per-year-salary"});
        let mut body = json!({
            "id": id,
            "createdAt": created,
            "status": status,
            "name": format!("{} {}", r.pick(TITLES), 2020 + n % 7),
            "requisitionCode": code,
            "headcountTotal": if unlimited { json!("unlimited") } else { json!(total) },
            "headcountHired": r.below(total + 1),
            "headcountInfinite": unlimited,
            "backfill": r.chance(30),
            "creator": r.id_of(&self.users),
            "owner": if r.chance(80) { r.id_of(&self.users) } else { Value::Null },
            "hiringManager": manager,
            "internalNotes": match r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!("Second seat opens in Q3.") },
            "compensationBand": if r.chance(60) { band } else { Value::Null },
            "approval": self.approval(&mut r, created),
            "employmentStatus": if r.chance(80) { json!(r.pick(&["full-time", "part-time", "intern", "contractor", "temp-worker"])) } else { Value::Null },
            "location": if r.chance(70) { json!(r.pick(CITIES)) } else { Value::Null },
            "team": if r.chance(70) { json!(r.pick(TEAMS)) } else { Value::Null },
            "postings": self.postings.get(r.below(self.postings.len())).map(|p| json!([p.id])).unwrap_or(json!([])),
            "offerIds": if r.chance(30) { json!([r.uuid().to_string()]) } else { json!([]) },
            "customFields": if r.chance(50) {
                json!({
                    "target_hire_date": updated, "cost_center": "CC-410", "seat_number": 7,
                    "bonus": {"kind": "annual", "percent": "10"},
                })
            } else {
                json!({})
            },
        });
        // A plain requisition may come without many keys.
        if confidential || n % 5 != 4 {
            body["confidentiality"] = json!(confidentiality(confidential));
            body["department"] = if r.chance(70) { json!(r.pick(DEPARTMENTS)) } else { Value::Null };
            body["timeToFillStartAt"] = json!(r.chance(50).then_some(created));
            body["timeToFillEndAt"] = json!(r.chance(20).then_some(updated));
            body["updatedAt"] = json!(r.chance(90).then_some(updated));
            body["closedAt"] = json!((status == "closed").then_some(updated));
        }
        body
    }

    pub(super) fn stage_rows(&self) -> Vec<Value> {
        self.stages.iter().map(|(id, text)| json!({"id": id, "text": text})).collect()
    }

    pub(super) fn reason_rows(&self) -> Vec<Value> {
        let row = |(id, text, status, kind): &(String, &str, &str, &str)| json!({"id": id, "text": text, "status": status, "type": kind});
        self.reasons.iter().map(row).collect()
    }

    pub(super) fn source_rows(&self) -> Vec<Value> {
        self.counted(SOURCES, 0)
    }

    pub(super) fn tag_rows(&self) -> Vec<Value> {
        let mut words: Vec<&str> = TAGS.to_vec();
        words.extend(TITLES);
        self.counted(&words, 1000)
    }

    /// A row of `/opportunities/deleted` and, when it had one, of `/applications/deleted`.
    pub(super) fn gone_opportunity(&self, n: usize) -> (Value, Option<Value>) {
        let serial = GONE + u32::try_from(n).unwrap_or(0);
        let (facts, seeded) = self.facts(serial, serial, None);
        let mut r = self.rng(Kind::Gone, n);
        let at = r.between(facts.updated.unwrap_or(facts.created), self.now - MINUTE);
        let by = if r.chance(80) { r.id_of(&self.users) } else { Value::Null };
        let body = self.opportunity(&facts, seeded);
        let application = seeded.posting.map(|_| self.application_id(serial));
        let posting = body["applications"].get(0).and(seeded.posting).and_then(|p| self.postings.get(p as usize));
        let tombstone = application.map(|id| {
            let bare = n % 4 == 1;
            let known = |value: Value| if bare { Value::Null } else { value };
            json!({
                "id": id.to_string(), "deletedAt": at,
                "opportunityId": known(body["id"].clone()), "postingId": known(json!(posting.map(|p| &p.id))),
            })
        });
        (tombstone_of(&body, at, &by, n), tombstone)
    }

    /// A row of `/postings/deleted`.
    pub(super) fn gone_posting(&self, n: usize) -> Value {
        let mut body = self.posting(GONE as usize + n, None, false);
        let updated = body["updatedAt"].as_i64().unwrap_or(self.now);
        body["deletedAt"] = json!(self.rng(Kind::Gone, n).between(updated, self.now));
        body
    }

    pub(super) fn some_user(&self, r: &mut Rng) -> Value {
        r.id_of(&self.users)
    }

    /// Somebody of the account: id, name and mail, the same as the user's row says.
    pub(super) fn user_card(&self, r: &mut Rng) -> (String, String, String) {
        let n = r.below(self.users.len());
        let mut r = self.rng(Kind::User, n);
        let (first, last) = (r.pick(FIRST), r.pick(LAST));
        let mail = format!("{}.{}{n}@example.com", ascii(first), ascii(last));
        (self.users.get(n).cloned().unwrap_or_default(), format!("{first} {last}"), mail)
    }

    /// What the person was made to be called.
    pub(super) fn person_name(&self, n: u32) -> String {
        let mut r = self.rng(Kind::Person, n as usize);
        r.next();
        format!("{} {}", r.pick(FIRST), r.pick(LAST))
    }

    pub(super) fn posting_id(&self, n: u32) -> Option<&str> {
        self.postings.get(n as usize).map(|posting| posting.id.as_str())
    }

    pub(super) fn some_reason(&self, r: &mut Rng) -> Value {
        self.reasons.get(r.below(self.reasons.len())).map_or(Value::Null, |reason| json!(reason.0))
    }

    pub(super) fn stage_id(&self, n: u32) -> &str {
        self.stages.get(n as usize).map_or("lead-new", |stage| &stage.0)
    }

    /// The opportunity's and its application's `archived`, which are alike.
    fn archived(&self, facts: &Facts, s: Seeded) -> Value {
        match (facts.archived_at, self.reasons.get(s.reason as usize)) {
            (Some(at), Some(reason)) => json!({"reason": reason.0, "archivedAt": at}),
            _ => Value::Null,
        }
    }

    /// Rows of `/sources` and `/tags`.
    fn counted(&self, words: &[&str], from: usize) -> Vec<Value> {
        let count = |n| self.rng(Kind::Count, from + n).below(500);
        words.iter().enumerate().map(|(n, text)| json!({"text": text, "count": count(n)})).collect()
    }

    /// An application's `customQuestions`: null, empty, a posting's form, or the different form of a referral.
    fn questions(&self, r: &mut Rng, kind: &str, by_hand: bool, at: i64, user: &Value, name: &str) -> Value {
        if by_hand || r.chance(30) {
            return if r.chance(50) { Value::Null } else { json!([]) };
        }
        let template = self.id(Kind::Id, 1);
        if kind == "referral" {
            return json!([{
                "accountId": self.account_id.to_string(), "createdAt": at, "text": "Referral", "description": "",
                "type": "referral", "baseTemplateId": template, "referrerId": user, "userId": user,
                "fields": [{
                    "type": "text", "required": true, "text": "Name of referrer", "description": "",
                    "options": [{"text": ""}], "isSummary": true, "summaryText": "Referred by", "value": "a colleague",
                }],
            }]);
        }
        let mut fields = vec![
            json!({
                "type": "yes-no", "text": "Do you need visa sponsorship?", "description": "", "required": true,
                "id": self.id(Kind::Id, 2), "prompt": "Select one", "options": [{"text": "Yes"}, {"text": "No"}],
                "value": r.pick(&["yes", "no"]),
            }),
            json!({
                "type": "text", "text": "Earliest start", "description": "", "required": false,
                "id": self.id(Kind::Id, 3), "value": null,
            }),
            json!({
                "type": "text", "text": "What shall we call you?", "description": "", "required": false,
                "id": self.id(Kind::Id, 6), "value": name,
            }),
        ];
        if r.chance(30) {
            fields.push(json!({
                "type": "multiple-select", "text": "Languages you work in", "description": "", "required": false,
                "id": self.id(Kind::Id, 4), "options": [{"text": "Rust"}, {"text": "Python"}, {"text": "SQL"}],
                "value": ["Rust", "SQL"],
            }));
        }
        if r.chance(10) {
            fields.push(json!({
                "type": "file-upload", "text": "Portfolio", "description": "", "required": false, "id": self.id(Kind::Id, 5),
                "value": {"id": r.uuid().to_string(), "ext": ".pdf", "name": "portfolio.pdf", "size": 20_480, "uploadedAt": at},
            }));
        }
        let mut form = json!({
            "type": "posting", "id": r.uuid().to_string(), "text": "Role questions", "fields": null, "user": null,
            "createdAt": at, "completedAt": at, "baseTemplateId": template,
        });
        form["fields"] = fields.into();
        Value::Array(vec![form])
    }

    /// A requisition's `approval`: null, bare, or with a static and a dynamic approver.
    fn approval(&self, r: &mut Rng, at: i64) -> Value {
        match r.below(4) {
            0 => Value::Null,
            1 => json!({"steps": []}),
            _ => json!({
                "id": r.uuid().to_string(), "status": "approved", "startedAt": at + MINUTE, "approvedAt": at + DAY,
                "accountId": self.account_id.to_string(), "createdBy": r.id_of(&self.users),
                "steps": [
                    {"id": r.uuid().to_string(), "completed": true, "status": "approved", "outOfBandOnly": false, "approvalsRequired": 1,
                     "approvers": [{"id": r.uuid().to_string(), "user": {"userId": r.id_of(&self.users), "email": "approver@example.com"},
                        "isDynamic": false, "approved": true, "approvedAt": at + DAY, "type": "static", "overridingUserId": null}]},
                    {"id": r.uuid().to_string(), "completed": true, "status": null, "outOfBandOnly": false, "approvalsRequired": 1,
                     "approvers": [{"id": r.uuid().to_string(), "user": "Requisition hiring manager",
                        "isDynamic": true, "approved": false, "approvedAt": null, "type": "dynamic", "overridingUserId": r.id_of(&self.users)}]},
                ],
            }),
        }
    }

    /// Who someone is; the same on contact, opportunities and applications.
    pub(super) fn person(&self, n: u32, anonymized: bool) -> Person {
        if anonymized {
            return Person::blank();
        }
        let mut r = self.rng(Kind::Person, n as usize);
        r.next(); // the first number decides about anonymity, see `facts`
        let (first, last) = (r.pick(FIRST), r.pick(LAST));
        let handle = format!("{}.{}.{n}", ascii(first), ascii(last));
        let company = r.pick(COMPANIES);
        let headline = match r.below(5) {
            0 => String::new(),
            1 => format!("{company}, {}", r.pick(COMPANIES)),
            _ => company.into(),
        };
        let number = format!("+351 555 01{:01} {:03}", r.below(10), r.below(1000));
        let mut phones = Vec::new();
        if r.chance(75) {
            phones.push(json!({"type": r.pick(&["mobile", "home", "work", "skype", "other"]), "value": number}));
        }
        if r.chance(15) {
            phones.push(json!({"type": null, "value": format!("5550{n}")}));
        }
        if r.chance(15) {
            phones.push(json!({"value": format!("55501{n}")}));
        }
        let mut emails = vec![format!("{handle}@example.com")];
        if r.chance(10) {
            emails.push(format!("{handle}.alt@example.com"));
        }
        let mut links = Vec::new();
        if r.chance(50) {
            links.push(format!("https://www.example.com/in/{handle}"));
        }
        let until = self.now + r.between(DAY, YEAR);
        let data_protection = match r.below(5) {
            0 | 1 => Value::Null,
            2 => {
                json!({"store": {"allowed": true, "expiresAt": until}, "contact": {"allowed": false, "expiresAt": null}})
            }
            3 => json!({"store": {"allowed": true, "expiresAt": until}}),
            _ => json!({"store": null, "contact": {"allowed": true, "expiresAt": until}}),
        };
        Person {
            name: format!("{first} {last}"),
            headline,
            company: company.into(),
            location: if r.chance(25) { String::new() } else { r.pick(CITIES).into() },
            phones,
            emails,
            links,
            data_protection,
        }
    }
}

/// Name and ways to be reached.
pub(super) struct Person {
    pub(super) name: String,
    headline: String,
    pub(super) company: String,
    pub(super) location: String,
    phones: Vec<Value>,
    pub(super) emails: Vec<String>,
    links: Vec<String>,
    data_protection: Value,
}

impl Person {
    fn blank() -> Self {
        Self {
            name: String::new(),
            headline: String::new(),
            company: String::new(),
            location: String::new(),
            phones: vec![],
            emails: vec![],
            links: vec![],
            data_protection: Value::Null,
        }
    }
}

/// A row of `/opportunities/deleted`: what was there plus two fields, but for every third, of which little is left.
pub(super) fn tombstone_of(body: &Value, at: i64, by: &Value, n: usize) -> Value {
    if n % 3 == 2 {
        return json!({"id": body["id"], "deletedAt": at});
    }
    let mut row = body.clone();
    row["deletedAt"] = json!(at);
    row["deletedBy"] = by.clone();
    row
}

/// Blanks what tells who someone was; `object` is an opportunity, a contact or an application.
pub(super) fn anonymize(object: &mut Map<String, Value>) {
    for field in ["name", "headline"] {
        if object.contains_key(field) {
            object.insert(field.into(), json!(""));
        }
    }
    if let Some(location) = object.get_mut("location") {
        *location = if location.is_object() { json!({"name": ""}) } else { json!("") };
    }
    for field in ["emails", "phones", "links"] {
        if object.contains_key(field) {
            object.insert(field.into(), json!([]));
        }
    }
    let personal = [
        "dataProtection",
        "company",
        "phone",
        "email",
        "comments",
        "customQuestions",
        "ipAddress",
        "referer",
        "userAgent",
        "acceptLanguage",
        "timezone",
    ];
    for field in personal {
        if object.contains_key(field) {
            object.insert(field.into(), Value::Null);
        }
    }
    if object.contains_key("isAnonymized") {
        object.insert("isAnonymized".into(), json!(true));
    }
}

pub(super) fn confidentiality(confidential: bool) -> &'static str {
    if confidential { "confidential" } else { "non-confidential" }
}

/// The letters a mail address can have.
fn ascii(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    if plain.is_empty() { "person".into() } else { plain.to_ascii_lowercase() }
}

/// Built-in stages have slugs for ids; those without one here get a UUID.
const STAGES: &[(&str, &str)] = &[
    ("lead-new", "New lead"),
    ("lead-reached-out", "Reached out"),
    ("lead-responded", "Responded"),
    ("applicant-new", "New applicant"),
    ("", "Phone interview"),
    ("", "Work sample"),
    ("", "On-site interview"),
    ("", "Reference check"),
    ("offer", "Offer"),
];
const REASONS: &[(&str, &str, &str)] = &[
    ("Underqualified", "active", "non-hired"),
    ("Withdrew", "inactive", "non-hired"),
    ("Hired", "active", "hired"),
    ("Position closed", "active", "non-hired"),
    ("Unresponsive", "active", "non-hired"),
];
const SOURCES: &[&str] =
    &["Job site", "Referral", "Sourcing tool", "University", "job site", "Agência Norte", "Conference, spring"];
const TAGS: &[&str] =
    &["priority", "Engineering", "Área técnica", "Porto", "relocation", "silver medalist", "2024-h1", "Night shift"];
pub(super) const TITLES: &[&str] = &[
    "Data Engineer",
    "Support Agent",
    "Head of Finance",
    "Night Porter",
    "Controller",
    "Product Designer",
    "Field Technician",
    "Site Reliability Engineer",
    "Translator (日本語)",
    "Account Executive",
];
const CODES: &[&str] = &["ENG", "SUP", "FIN", "OPS"];
const TEAMS: &[&str] = &["Data", "Platform", "Customer Care", "Ledger", "Field"];
const DEPARTMENTS: &[&str] = &["Engineering", "Operations", "Finance", "Sales"];
const COMMENTS: &[&str] =
    &["", "Happy to start in July.", "Prefiro trabalhar à distância.", "See \"portfolio\" \\ notes\nsecond line"];
const CITIES: &[&str] = &[
    "Porto, Portugal",
    "Leeds, UK",
    "Zürich",
    "Kraków, Poland",
    "São Paulo",
    "Kyoto 京都",
    "Remote",
    "Tallinn, Estonia",
    "Cork, Ireland",
    "Oulu",
];
pub(super) const COMPANIES: &[&str] = &[
    "Fenwick Robotics",
    "Orchard Analytics",
    "Quill & Cog",
    "Bluff Harbour Freight",
    "Marrow Lane Press",
    "Tidewater Looms",
    "Ostrich Systems",
    "Candlewick Bank",
    "Nine Elms Glass",
    "Pågen Verkstad",
];
const FIRST: &[&str] = &[
    "Marisol",
    "Bartholomew",
    "Inês",
    "Olu",
    "Petra",
    "Yuki",
    "Dagny",
    "Wilhelmina",
    "Zoë",
    "Łukasz",
    "Ólafur",
    "Siobhán",
    "Amara",
    "Teodor",
    "Nkechi",
    "Ravindra",
    "Mei-Ling",
    "Jürgen",
    "Fatoumata",
    "Søren",
    "Chiara",
    "Ebba",
    "Tomáš",
    "Hákon",
    "Priya",
    "Anselm",
    "Noor",
    "Beatriz",
    "渡辺",
    "Dmytro",
];
const LAST: &[&str] = &[
    "Quintanilha",
    "Okonjo-Reyes",
    "Caldeira",
    "Adesanya",
    "Lindqvist",
    "Haraguchi",
    "Halvorsen",
    "Ostrander",
    "Vejvoda",
    "Thistlewood",
    "O'Malley",
    "Szczepański",
    "Þorsteinsson",
    "Mbeki-Lowe",
    "van der Zwaan",
    "Åkerblom",
    "Castellanos",
    "Ferreira da Silva",
    "Novotná",
    "Birdwhistle",
    "ゆき",
    "Abernathy",
    "Kowalczyk",
    "Nakagawa",
    "Delacroix",
    "Umarov",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_the_real_ones() {
        let maker = Maker::new(7, &AccountSize::new("acme", 100), 1_700_000_000_000);
        let total: usize = (0..100)
            .map(|n| {
                let (facts, seeded) = maker.facts(n, n, None);
                let application = maker.application(&facts, seeded).map_or(0, |a| a.to_string().len());
                application
                    + maker.opportunity(&facts, seeded).to_string().len()
                    + maker.contact(n, false).to_string().len()
            })
            .sum();
        assert!((1_700..2_600).contains(&(total / 100)), "{}", total / 100);
    }

    #[test]
    fn anonymizing_leaves_no_name() {
        let maker = Maker::new(7, &AccountSize::new("acme", 100), 1_700_000_000_000);
        let (facts, seeded) =
            (0..).map(|n| maker.facts(n, n, None)).find(|(_, s)| !s.anonymized && s.posting.is_some()).unwrap();
        let person = maker.person(seeded.person, false);
        for mut body in [
            maker.opportunity(&facts, seeded),
            maker.application(&facts, seeded).unwrap(),
            maker.contact(seeded.person, false),
        ] {
            anonymize(body.as_object_mut().unwrap());
            let text = body.to_string();
            assert!(!text.contains(&person.name) && !text.contains(&person.emails[0]), "{text}");
        }
    }
}
