//! What hangs on an opportunity: feedback, files, interviews and the rest of the reference's 4.5 to 4.14.
//!
//! Nothing here is kept. How many children of each kind an opportunity has, and each of them, is a function of the seed
//! and of the opportunity as it was made, so an account of any size costs nothing until somebody asks, and an edit of the
//! parent changes no child. Children of a kind are numbered from zero, the oldest first. `overlay` holds what was edited.
//!
//! Rows carry the person's own name and mail where real ones do (names of files, parsed text, offers, comments), so that
//! an erasure has something to find; a few notes name somebody else.

use serde_json::{Map, Value, json};

use super::data::{ADDED, COMPANIES, Facts, Kind, Maker, Person, Rng, Seeded, TITLES};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Children older than this may lack `updatedAt`, as their parents may.
const UPDATED_AT_SINCE: i64 = 2 * 365 * DAY;
/// One opportunity in so many has more notes than fit a page.
const TALKED_ABOUT: u32 = 500;
const MANY_NOTES: usize = 130;
/// One in so many has more files than fit a page.
const WELL_FILED: u32 = 1_000;
const MANY_FILES: usize = 101;
/// One note in so many names another person.
const GOSSIP: usize = 40;

/// A listing below an opportunity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Child {
    Feedback,
    Files,
    FileActions,
    Interviews,
    Notes,
    Offers,
    Panels,
    Referrals,
    Resumes,
    Forms,
}

impl Child {
    pub(super) const ALL: [Self; 10] = [
        Self::Feedback,
        Self::Files,
        Self::FileActions,
        Self::Interviews,
        Self::Notes,
        Self::Offers,
        Self::Panels,
        Self::Referrals,
        Self::Resumes,
        Self::Forms,
    ];

    /// As in the path.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Feedback => "feedback",
            Self::Files => "files",
            Self::FileActions => "file_actions",
            Self::Interviews => "interviews",
            Self::Notes => "notes",
            Self::Offers => "offers",
            Self::Panels => "panels",
            Self::Referrals => "referrals",
            Self::Resumes => "resumes",
            Self::Forms => "forms",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|child| child.name() == name)
    }

    /// Whether adding one is an interaction, which bumps the opportunity (reference 4.1.2).
    pub(super) fn interacts(self) -> bool {
        matches!(self, Self::Feedback | Self::Files | Self::Interviews | Self::Notes | Self::Resumes)
    }

    /// Whether a deleted one stays, with `deletedAt`.
    pub(super) fn deleted_softly(self) -> bool {
        matches!(self, Self::Feedback | Self::Notes | Self::Forms)
    }

    /// Whether anonymization removes them. The reference does not say what becomes of children: what is a document of the
    /// person, or tells of one, goes; of the rest, whose structure counts, only the words are blanked (see [`blank`]).
    pub(super) fn goes_with_the_name(self) -> bool {
        matches!(self, Self::Files | Self::FileActions | Self::Referrals | Self::Resumes)
    }
}

/// An opportunity as it was made, and how many children of each kind it was made with.
pub(super) struct Parent<'a> {
    maker: &'a Maker,
    pub(super) id: String,
    serial: u32,
    seeded: Seeded,
    from: i64,
    to: i64,
    stage: u32,
    /// The interviews of each panel.
    panels: Vec<usize>,
    /// The interview that each feedback is about.
    feedback: Vec<Option<usize>>,
    files: usize,
    resumes: usize,
    removals: usize,
    notes: usize,
    offers: usize,
    referrals: usize,
    forms: usize,
}

impl<'a> Parent<'a> {
    /// `created` is the creation time of an opportunity that was added while the sandbox ran.
    pub(super) fn new(maker: &'a Maker, seeded: Seeded, created: i64) -> Self {
        let serial = seeded.serial;
        let (Facts { created, interaction, advanced, stage, .. }, _) =
            maker.facts(serial, seeded.person, (serial >= ADDED).then_some(created));
        let mut r = maker.child_rng(0, serial, 0);
        let panels: Vec<usize> = match r.below(10) {
            0..6 => vec![],
            6..9 => vec![1 + r.below(2)],
            // A panel that an API client made may have no interview.
            _ => vec![1 + r.below(2), r.below(2)],
        };
        let interviews: usize = panels.iter().sum();
        let mut feedback: Vec<Option<usize>> = (0..interviews).filter(|_| r.below(10) < 7).map(Some).collect();
        if r.below(7) == 0 {
            feedback.push(None);
        }
        let files = match r.below(20) {
            _ if serial % WELL_FILED == 13 => MANY_FILES,
            0..12 => 0,
            12..17 => 1,
            17..19 => 2,
            _ => 3,
        };
        let resumes = match r.below(20) {
            0..7 => 0,
            7..18 => 1,
            _ => 2,
        };
        let notes = match r.below(20) {
            _ if serial % TALKED_ABOUT == 7 => MANY_NOTES,
            0..9 => 0,
            9..15 => 1,
            15..18 => 2,
            _ => 3,
        };
        let offers = match (stage, r.below(20)) {
            (8, n) => 1 + usize::from(n < 5),
            (_, 0) => 1,
            _ => 0,
        };
        let forms = match r.below(20) {
            0..16 => 0,
            16..19 => 1,
            _ => 2,
        };
        Self {
            maker,
            id: maker.opportunity_id(serial).to_string(),
            serial,
            seeded,
            from: created,
            to: interaction.or(advanced).unwrap_or(created),
            stage,
            panels,
            feedback,
            removals: usize::from(files > 0 && r.below(5) == 0),
            files,
            resumes,
            notes,
            offers,
            referrals: usize::from(r.below(12) == 0),
            forms,
        }
    }

    /// How many the opportunity was made with.
    pub(super) fn count(&self, child: Child) -> usize {
        match child {
            Child::Feedback => self.feedback.len(),
            Child::Files => self.files,
            Child::FileActions => self.files + self.resumes + self.removals,
            Child::Interviews => self.panels.iter().sum(),
            Child::Notes => self.notes,
            Child::Offers => self.offers,
            Child::Panels => self.panels.len(),
            Child::Referrals => self.referrals,
            Child::Resumes => self.resumes,
            Child::Forms => self.forms,
        }
    }

    /// The id of the n-th.
    pub(super) fn child_id(&self, child: Child, n: usize) -> String {
        self.maker.child_rng(1 + child as u64, self.serial, u64::MAX - n as u64).uuid().to_string()
    }

    /// The n-th child; made now when `added` says so.
    pub(super) fn child(&self, child: Child, n: usize, added: Option<i64>) -> Value {
        let mut made = Making {
            parent: self,
            maker: self.maker,
            r: self.maker.child_rng(1 + child as u64, self.serial, n as u64),
            n,
            id: self.child_id(child, n),
            at: added.unwrap_or_else(|| self.time(n, self.count(child))),
            added: added.is_some(),
        };
        match child {
            Child::Feedback => made.feedback(),
            Child::Files => made.file(),
            Child::FileActions => made.file_action(),
            Child::Interviews => made.interview(),
            Child::Notes => made.note(),
            Child::Offers => made.offer(),
            Child::Panels => made.panel(),
            Child::Referrals => made.referral(),
            Child::Resumes => made.resume(),
            Child::Forms => made.form(),
        }
    }

    /// Children are spread evenly over what the opportunity has lived; none is younger than its last interaction.
    fn time(&self, n: usize, of: usize) -> i64 {
        let part = |n: usize| i64::try_from(n).unwrap_or(0);
        self.from + (self.to - self.from) / part(of + 1) * part(n + 1)
    }

    fn person(&self) -> Person {
        self.maker.person(self.seeded.person, false)
    }

    fn name(&self) -> String {
        self.maker.person_name(self.seeded.person)
    }

    /// The panel that an interview is in.
    fn panel_of(&self, interview: usize) -> usize {
        let mut before = 0;
        let panel = self.panels.iter().position(|n| {
            before += n;
            interview < before
        });
        panel.unwrap_or(0)
    }

    fn is_old(&self, at: i64) -> bool {
        at < self.maker.now - UPDATED_AT_SINCE
    }
}

/// A child in the making.
struct Making<'a> {
    parent: &'a Parent<'a>,
    maker: &'a Maker,
    r: Rng,
    n: usize,
    id: String,
    at: i64,
    added: bool,
}

impl Making<'_> {
    fn user(&mut self) -> Value {
        self.maker.some_user(&mut self.r)
    }

    fn stage(&self) -> Value {
        json!(self.maker.stage_id(self.parent.stage))
    }

    /// A page of the web application, which no credential of the API opens.
    fn web_url(&self, kind: &str) -> String {
        format!("https://hire.lever.co/candidates/{}/{kind}/{}/download", self.parent.id, self.id)
    }

    /// A number, or in one case of five its text.
    fn number(&mut self, n: i64) -> Value {
        if self.r.below(5) == 0 { json!(n.to_string()) } else { json!(n) }
    }

    fn feedback(&mut self) -> Value {
        let about = self.parent.feedback.get(self.n).copied().flatten().filter(|_| !self.added);
        let panel = about.map(|i| self.parent.child_id(Child::Panels, self.parent.panel_of(i)));
        let pending = !self.added && self.r.below(5) == 0;
        let template = self.r.below(5);
        let name = self.parent.name();
        let id = |n: usize| self.maker.id(Kind::Id, 200 + n);
        let value = |value: Value| if pending { Value::Null } else { value };
        let fields = match template {
            0 => json!([
                {"type": "score-system", "text": "Overall rating", "description": "", "required": true, "id": id(0),
                 "prompt": "Select one", "options": [{"text": "4 - Strong Hire"}, {"text": "1 - Strong No Hire"}],
                 "value": value(json!("4 - Strong Hire"))},
                {"type": "scorecard", "text": "Core skills", "description": "Rate each skill", "required": false, "id": id(1),
                 "prompt": "Rate each skill",
                 "scores": [{"text": "Systems design", "description": "Breaks a problem into parts"}, {"text": "Communication", "description": ""}],
                 "options": [{"text": "1"}, {"text": "4"}],
                 "value": value(json!([{"score": 4, "comment": format!("{name} saw the trade-offs")}, {"score": null, "comment": null}]))},
                {"type": "textarea", "text": "Notes", "description": "", "required": false, "id": id(2),
                 "value": value(json!(format!("{name} asked good questions about on-call.")))},
            ]),
            1 => json!([
                {"type": "score", "text": "Rating", "description": "", "required": true, "id": id(3),
                 "options": [{"text": "1"}, {"text": "4"}],
                 "value": value(if self.n.is_multiple_of(2) { json!(3) } else { json!("4 - Strong Hire") })},
                {"type": "date", "text": "Available from", "description": "", "required": false, "id": id(4), "value": value(json!(self.at + 30 * DAY))},
                {"type": "currency", "text": "Expected pay", "description": "", "required": false, "id": id(5), "currency": "EUR", "value": value(json!(61_500.5))},
                {"type": "code", "text": "Snippet", "description": "", "required": false, "id": id(6), "language": "rust", "value": value(json!("fn main() {}\n"))},
            ]),
            2 => json!([
                {"type": "yes-no", "text": "Would you work with them?", "description": "", "required": true, "id": id(7), "value": value(json!("yes"))},
                {"type": "multiple-select", "text": "Strengths", "description": "", "required": false, "id": id(8),
                 "options": [{"text": "Rust", "optionId": id(9)}, {"text": "SQL", "optionId": id(10)}], "value": value(json!(["SQL"]))},
                // A field may lack its id.
                {"type": "textarea", "text": "Notes", "description": "", "required": false, "value": value(json!(""))},
            ]),
            3 => json!([
                {"type": "text", "text": "In a word", "description": "", "required": false, "id": id(11), "value": value(json!("curious"))},
            ]),
            _ => json!([]),
        };
        let base = if template == 4 { "no-feedback".into() } else { self.maker.id(Kind::Id, 110 + template) };
        let kind = if about.is_some() { "interview" } else { self.r.pick(&["share", "assignment"]) };
        let completed = (!pending).then_some(self.at + 2 * HOUR * i64::from(!self.added));
        let user = self.user();
        let deleted = !self.added && self.r.below(12) == 0;
        let mut row = json!({
            "id": self.id,
            "type": kind,
            "text": self.r.pick(&["Onsite interview", "Phone screen", "Werkprobe"]),
            "instructions": match self.r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!("Submit within a day.") },
            "baseTemplateId": base,
            "interview": about.map(|i| self.parent.child_id(Child::Interviews, i)),
            "panel": panel,
            "user": user,
            "createdAt": self.at,
            "completedAt": completed,
            "deletedAt": deleted.then_some(self.at + DAY),
        });
        row["fields"] = fields;
        // Null or missing on old ones that nobody touched.
        if !self.parent.is_old(self.at) {
            row["updatedAt"] = json!(completed.unwrap_or(self.at) + 3);
        } else if self.r.below(2) == 0 {
            row["updatedAt"] = Value::Null;
        }
        row
    }

    fn file(&mut self) -> Value {
        let name = self.parent.name();
        let (ext, name) = match self.r.below(4) {
            0 => (json!(".zip"), format!("take-home {}.zip", self.n)),
            1 => (Value::Null, format!("{name} references")),
            _ => (json!(".pdf"), format!("{name} portfolio.pdf")),
        };
        let size = 1_000 + self.r.between(0, 20_000);
        let statuses = [
            json!("processed"),
            json!("processed"),
            json!("unsupported"),
            Value::Null,
            json!("error"),
            json!("processing"),
        ];
        let status = statuses[self.r.below(statuses.len())].clone();
        let (at, size) = (self.number(self.at), self.number(size));
        json!({
            "id": self.id, "downloadUrl": self.web_url("files"), "ext": ext, "name": name,
            "uploadedAt": at, "status": status, "size": size,
        })
    }

    fn resume(&mut self) -> Value {
        let person = self.parent.person();
        let size = 1_000 + self.r.between(0, 40_000);
        let status = self.r.pick(&["processed", "processed", "processed", "unsupported", "error"]);
        let ext = self.r.pick(&[".pdf", "pdf", ".docx"]);
        let file = json!({
            "name": format!("{} resume.pdf", person.name), "ext": ext, "downloadUrl": self.web_url("resumes"),
            "uploadedAt": self.at, "status": status, "size": self.number(size),
        });
        let bare = self.r.below(8) == 0 && !self.added;
        let mut row = json!({"id": self.id, "createdAt": self.at, "file": if bare { Value::Null } else { file }});
        let year = 2024 - self.r.below(8);
        match self.r.below(8) {
            0 => {}
            1 => row["parsedData"] = json!({"positions": [], "schools": []}),
            _ => {
                row["parsedData"] = json!({
                    "positions": [
                        {"org": person.company, "title": self.r.pick(TITLES), "location": person.location,
                         "summary": format!("{} ({}) built pipelines.", person.name, person.emails.first().map_or("", String::as_str)),
                         "start": {"year": year, "month": 3}, "end": null},
                        {"org": self.r.pick(COMPANIES), "title": "Analyst", "summary": null, "location": null,
                         "start": {"year": year - 3, "month": null}, "end": {"year": year, "month": 2}},
                    ],
                    "schools": [{"org": "Example University", "degree": "MSc", "field": "Statistics", "summary": null,
                        "start": {"year": year - 8, "month": 9}, "end": null}],
                });
            }
        }
        row
    }

    /// One for each file and each resume that the opportunity was made with, then removals of files that are gone.
    fn file_action(&mut self) -> Value {
        let p = self.parent;
        let (kind, name, at) = if self.n < p.files {
            ("file-added", Value::Null, p.time(self.n, p.files))
        } else if self.n < p.files + p.resumes {
            let n = self.n - p.files;
            ("resume-imported", json!(format!("{} resume.pdf", p.name())), p.time(n, p.resumes))
        } else {
            ("file-remove", Value::Null, p.to)
        };
        let user = self.user();
        json!({
            "id": self.id, "opportunityId": p.id, "type": kind, "occurredAt": at, "createdAt": at + 5,
            "user": if self.r.below(4) == 0 { Value::Null } else { json!({"id": user}) },
            "meta": if name.is_null() { json!({}) } else { json!({"fileName": name}) },
        })
    }

    fn interview(&mut self) -> Value {
        let p = self.parent;
        let panel = p.panel_of(self.n);
        let feedback: Vec<String> = (0..p.feedback.len())
            .filter(|n| !self.added && p.feedback[*n] == Some(self.n))
            .map(|n| p.child_id(Child::Feedback, n))
            .collect();
        // What a panel and its interviews agree on is drawn from the panel's numbers.
        let common = Common::of(p, if self.added { None } else { Some(panel) }, self.at);
        let place = p.panels.iter().take(panel).sum::<usize>();
        let step = if self.added { 0 } else { i64::try_from(self.n.saturating_sub(place)).unwrap_or(0) };
        let interviewers: Vec<Value> = (0..1 + self.r.below(2))
            .map(|n| {
                let (id, name, email) = self.maker.user_card(&mut self.r);
                let mut one = json!({"id": id, "name": name, "email": email});
                match n {
                    0 => one["feedbackTemplate"] = json!(self.maker.id(Kind::Id, 110)),
                    _ if self.r.below(2) == 0 => one["feedbackTemplate"] = json!("no-feedback"),
                    _ => {}
                }
                one
            })
            .collect();
        let template = match self.r.below(3) {
            0 => Value::Null,
            1 => json!("no-feedback"),
            _ => json!(self.maker.id(Kind::Id, 110)),
        };
        let subject = match self.r.below(3) {
            0 => json!("Phone screen"),
            1 => Value::Null,
            _ => json!(format!("Systems design - {}", p.name())),
        };
        let mut row = json!({
            "id": self.id,
            "panel": common.panel,
            "subject": subject,
            "note": match self.r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!("Bring the diagram.") },
            "timezone": common.timezone,
            "createdAt": common.created + step,
            "date": common.start + step * HOUR,
            "duration": 60,
            "location": match self.r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!("Room Azulejo") },
            "feedbackTemplate": template,
            "feedbackForms": feedback,
            "feedbackReminder": common.reminder,
            "user": common.user,
            "stage": self.stage(),
            "canceledAt": common.canceled,
            "gcalEventUrl": (self.r.below(2) == 0).then_some("https://calendar.example.com/event?eid=c3ludGhldGlj"),
        });
        row["interviewers"] = interviewers.into();
        row["postings"] = p.posting().into_iter().collect();
        if self.r.below(2) == 0 {
            row["opportunityId"] = json!(p.id);
        }
        row
    }

    fn panel(&mut self) -> Value {
        let p = self.parent;
        let common = Common::of(p, (!self.added).then_some(self.n), self.at);
        let first: usize = p.panels.iter().take(self.n).sum();
        let count = if self.added { 0 } else { p.panels.get(self.n).copied().unwrap_or(0) };
        let interviews = (first..first + count).map(|n| panel_part(&p.child(Child::Interviews, n, None)));
        let mut row = json!({
            "id": self.id,
            "canceledAt": common.canceled,
            "createdAt": common.created,
            "start": common.start,
            "end": common.start + HOUR * i64::try_from(count.max(1)).unwrap_or(1),
            "timezone": common.timezone,
            "feedbackReminder": common.reminder,
            "user": common.user,
            "stage": self.stage(),
            "note": match self.r.below(3) { 0 => Value::Null, 1 => json!(""), _ => json!(format!("Loop for {}", p.name())) },
            "externallyManaged": count == 0,
            "externalUrl": (count == 0).then_some("https://schedule.example.com/p/91"),
        });
        row["interviews"] = interviews.collect();
        row["applications"] =
            p.seeded.posting.map(|_| json!(self.maker.application_id(p.serial).to_string())).into_iter().collect();
        row
    }

    fn note(&mut self) -> Value {
        let p = self.parent;
        let replies = 1 + usize::from(self.r.below(4) == 0);
        let fields: Vec<Value> = (0..replies)
            .map(|k| {
                let value = match self.r.below(GOSSIP) {
                    0 => {
                        let other = self.maker.person_name(p.seeded.person.saturating_sub(1));
                        format!("Reminds me of {other}, whom we met last year.")
                    }
                    1..8 => {
                        let person = p.person();
                        let mail = person.emails.first().map_or("", String::as_str);
                        format!("Spoke to {} <{mail}>: wants to work from home.", person.name)
                    }
                    8..16 => format!("{} is moving to onsite.", p.name()),
                    16..20 => String::new(),
                    20..24 => "Follow-up: \"references\" asked.\nBoa conversa – 面白い".into(),
                    _ => "Follow-up: references asked.".into(),
                };
                let user = self.user();
                let mut field = json!({
                    "type": "note", "text": "Comment", "value": value,
                    "createdAt": self.at + i64::try_from(k).unwrap_or(0) * 60_000, "user": user,
                });
                match self.r.below(3) {
                    0 => field["score"] = Value::Null,
                    1 => field["score"] = json!(3),
                    _ => {}
                }
                field["stage"] = if self.r.below(3) == 0 { Value::Null } else { self.stage() };
                field
            })
            .collect();
        let user = if self.r.below(10) == 0 { Value::Null } else { self.user() };
        let deleted = !self.added && self.r.below(12) == 0;
        let mut row = json!({
            "id": self.id, "text": "Note", "user": user, "secret": self.r.below(8) == 0, "createdAt": self.at,
            "completedAt": (self.r.below(8) > 0).then_some(self.at), "deletedAt": deleted.then_some(self.at + DAY),
        });
        row["fields"] = fields.into();
        row
    }

    fn offer(&mut self) -> Value {
        let p = self.parent;
        let status = if self.added {
            "draft"
        } else {
            self.r.pick(&["draft", "approval-sent", "approved", "sent", "sent-manually", "opened", "denied", "signed"])
        };
        let sent = matches!(status, "sent" | "sent-manually" | "opened" | "signed");
        // The signed document exists from the first signature on.
        let (first, all) = (matches!(status, "opened" | "signed"), status == "signed");
        let person = p.person();
        let approved = match status {
            "draft" => Value::Null,
            "approval-sent" | "denied" => json!(false),
            _ => json!(true),
        };
        let (manager, managers_name, managers_mail) = self.maker.user_card(&mut self.r);
        let sent_at = self.at + HOUR;
        let (parent_id, id) = (&p.id, self.id.clone());
        let document = |word: &str| {
            json!({
                "fileName": format!("Offer {} {word}.pdf", person.name), "uploadedAt": sent_at,
                "downloadUrl": format!("https://api.lever.co/v1/opportunities/{parent_id}/offers/{id}/download?status={word}"),
            })
        };
        let opened = |yes: bool, at: i64| yes.then_some(at);
        let signatures = json!({
            "candidate": {
                "role": "candidate", "name": person.name, "email": person.emails.first(), "signed": all,
                "firstOpenedAt": opened(first, sent_at + HOUR), "lastOpenedAt": opened(first, sent_at + 2 * HOUR),
                "signedAt": opened(all, sent_at + 2 * HOUR),
            },
            "signatory1": {
                "role": "signatory1", "name": managers_name, "email": managers_mail, "signed": first,
                "firstOpenedAt": opened(first, sent_at), "lastOpenedAt": opened(first, sent_at), "signedAt": opened(first, sent_at),
            },
        });
        let posting = p.posting();
        let fields = json!([
            {"text": "Job posting", "identifier": "job_posting", "value": posting},
            {"text": "Job title", "identifier": "job_title", "value": self.r.pick(TITLES)},
            {"text": "Candidate name", "identifier": "candidate_name", "value": person.name},
            {"text": "Salary amount", "identifier": "salary_amount", "value": 61_500 + self.r.below(100) * 10},
            {"text": "Compensation currency", "identifier": "compensation_currency", "value": "EUR"},
            {"text": "Salary interval", "identifier": "salary_interval", "value": "per-year-salary"},
            {"text": "Hiring manager", "identifier": "hiring_manager", "value": manager},
            {"text": "Anticipated start date", "identifier": "anticipated_start_date", "value": self.at + 60 * DAY},
            {"text": "Sign-on bonus", "identifier": "custom_sign_on_bonus", "value": null},
        ]);
        let creator = self.user();
        let mut row = json!({
            "id": self.id,
            "createdAt": self.at,
            "status": status,
            "creator": creator,
            "signatures": if sent { signatures } else { Value::Null },
            "approvedAt": (approved == true).then_some(self.at + HOUR / 2),
            "sentAt": sent.then_some(sent_at),
            "sentDocument": if sent { document("sent") } else { Value::Null },
            "signedDocument": if first { document("signed") } else { Value::Null },
        });
        row["fields"] = if status == "draft" && self.n % 2 == 1 { json!([]) } else { fields };
        // These two are not in the documented list of attributes.
        if self.r.below(4) > 0 {
            row["posting"] = json!(posting);
            row["approved"] = approved;
        }
        row
    }

    fn referral(&mut self) -> Value {
        let person = self.parent.person();
        let by_hand = self.r.below(3) == 0;
        let (user, referrer) = (self.user(), self.user());
        let fields = json!([
            // A field may lack its id.
            {"type": "text", "text": "Name", "description": "", "required": true, "value": person.name},
            {"type": "text", "text": "Email", "description": "", "required": false, "id": self.maker.id(Kind::Id, 220),
             "value": person.emails.first()},
            {"type": "score", "text": "Rating", "description": "", "required": false, "id": self.maker.id(Kind::Id, 221),
             "options": [{"text": "1"}, {"text": "4"}], "value": 4},
            {"type": "university", "text": "School", "description": "", "required": false, "value": null},
            {"type": "file-upload", "text": "CV", "description": "", "required": false, "id": self.maker.id(Kind::Id, 222),
             "value": {"id": self.parent.child_id(Child::Files, 1 << 20), "ext": ".pdf", "name": format!("{} cv.pdf", person.name),
                "size": 1_024, "uploadedAt": self.at}},
        ]);
        let completed = match self.r.below(3) {
            0 => Value::Null,
            // The form may be complete a moment before it exists.
            1 => json!(self.at - 1),
            _ => json!(self.at),
        };
        json!({
            "id": self.id, "type": "referral", "text": "Referral form",
            "instructions": if self.r.below(2) == 0 { "" } else { "Tell us about the person." },
            "fields": fields, "baseTemplateId": self.maker.id(Kind::Id, 1), "user": user,
            "referrer": if by_hand { Value::Null } else { referrer },
            "stage": if self.r.below(3) == 0 { Value::Null } else { self.stage() },
            "createdAt": self.at, "completedAt": completed,
        })
    }

    fn form(&mut self) -> Value {
        let empty = self.r.below(6) == 0;
        let fields = json!([
            {"type": "dropdown", "text": "Work pattern", "description": "", "required": false, "id": self.maker.id(Kind::Id, 230),
             "options": [{"text": "Remote"}, {"text": "Hybrid"}], "value": "Remote"},
            {"type": "yes-no", "text": "References checked", "description": "", "required": false, "id": self.maker.id(Kind::Id, 231), "value": null},
            {"type": "text", "text": "Name on the contract", "description": "", "required": false, "id": self.maker.id(Kind::Id, 232),
             "value": self.parent.name()},
            {"type": "multiple-choice", "text": "Notice", "description": "", "required": false, "id": self.maker.id(Kind::Id, 233),
             "options": [{"text": "One month", "optionId": self.maker.id(Kind::Id, 234)}], "value": "One month"},
        ]);
        let user = if self.r.below(6) == 0 { Value::Null } else { self.user() };
        let deleted = !self.added && self.r.below(10) == 0;
        json!({
            "id": self.id, "type": "form", "text": "Hiring checklist",
            "instructions": if self.r.below(2) == 0 { "" } else { "Fill before offer." },
            "baseTemplateId": self.maker.id(Kind::Id, 120 + self.r.below(3)),
            "fields": if empty { json!([]) } else { fields }, "user": user,
            "stage": if self.r.below(4) == 0 { Value::Null } else { self.stage() },
            "createdAt": self.at, "completedAt": (self.r.below(4) > 0).then_some(self.at + DAY),
            "deletedAt": deleted.then_some(self.at + DAY),
        })
    }
}

impl Parent<'_> {
    /// The posting applied to.
    fn posting(&self) -> Option<Value> {
        self.seeded.posting.and_then(|n| self.maker.posting_id(n)).map(Value::from)
    }
}

/// What a panel and its interviews have in common.
struct Common {
    panel: String,
    created: i64,
    start: i64,
    timezone: &'static str,
    reminder: &'static str,
    user: Value,
    canceled: Option<i64>,
}

impl Common {
    /// Of the n-th panel, or of a new one.
    fn of(p: &Parent<'_>, panel: Option<usize>, at: i64) -> Self {
        let n = panel.map_or(u64::MAX, |n| n as u64);
        let mut r = p.maker.child_rng(20, p.serial, n ^ if panel.is_none() { at.unsigned_abs() } else { 0 });
        let created = panel.map_or(at, |n| p.time(n, p.panels.len()));
        let user = p.maker.some_user(&mut r);
        Self {
            // An added interview brings a panel of its own, whose id `overlay` fills in.
            panel: panel.map(|n| p.child_id(Child::Panels, n)).unwrap_or_default(),
            created,
            start: created + 2 * DAY,
            timezone: ["Europe/Lisbon", "America/Los_Angeles", "Asia/Tokyo"][r.below(3)],
            reminder: ["once", "daily", "frequently", "none"][r.below(4)],
            user,
            canceled: (panel.is_some() && r.below(8) == 0).then_some(created + HOUR),
        }
    }
}

/// What a panel says of an interview.
pub(super) fn panel_part(interview: &Value) -> Value {
    let interviewers = interview["interviewers"].as_array().into_iter().flatten().map(|one| {
        let template = one.get("feedbackTemplate").cloned().unwrap_or(Value::Null);
        json!({
            "id": one["id"], "email": one["email"], "name": one["name"], "responseStatus": "needsAction",
            "feedbackTemplate": template,
        })
    });
    let mut part = Map::new();
    for field in ["id", "date", "duration", "feedbackReminder", "feedbackTemplate", "location", "note", "subject"] {
        part.insert(field.into(), interview[field].clone());
    }
    part.insert("interviewers".into(), interviewers.collect());
    Value::Object(part)
}

/// Takes the words out of a child of somebody who was anonymized; times, scores, ids and status stay.
pub(super) fn blank(child: Child, row: &mut Value) {
    let fields = |row: &mut Value, blank: &dyn Fn(&mut Value)| {
        row["fields"].as_array_mut().into_iter().flatten().for_each(blank);
    };
    match child {
        Child::Notes => fields(row, &|field| field["value"] = json!("")),
        Child::Forms => fields(row, &|field| field["value"] = Value::Null),
        Child::Feedback => fields(row, &|field| match field["type"].as_str() {
            Some("scorecard") => {
                for part in field["value"].as_array_mut().into_iter().flatten() {
                    part["comment"] = Value::Null;
                }
            }
            Some("text" | "textarea" | "code" | "university" | "file-upload") => field["value"] = Value::Null,
            _ => {}
        }),
        Child::Offers => {
            fields(row, &|field| {
                if field["identifier"] == "candidate_name" {
                    field["value"] = json!("");
                }
            });
            for field in ["signatures", "sentDocument", "signedDocument"] {
                row[field] = Value::Null;
            }
        }
        Child::Interviews => blank_words(row),
        Child::Panels => {
            blank_words(row);
            row["interviews"].as_array_mut().into_iter().flatten().for_each(blank_words);
        }
        Child::Files | Child::FileActions | Child::Referrals | Child::Resumes => {}
    }
}

fn blank_words(row: &mut Value) {
    for field in ["subject", "note"] {
        if let Some(text) = row.get_mut(field) {
            *text = json!("");
        }
    }
}
