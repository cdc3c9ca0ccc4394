//! The account's settings: templates, fields of requisitions, webhooks, and the log of who changed what.
//!
//! The oddities of the reference are all here: a group that is an object, null or an empty text, times as texts, a template
//! whose id is a word, events of people that nobody knows.

use serde_json::{Value, json};

use super::data::{Kind, Maker};

const DAY: i64 = 86_400_000;
/// Events of an account at its start; more than two pages.
const EVENTS: usize = 230;
/// Stages of the first part of the pipeline, and its later parts.
const PIPELINE: [&str; 5] = ["lead", "applicant", "screen", "onsite", "offer"];

impl Maker {
    /// A row of `data.stages` of `/disposition_stages`: a stage and its place, which may be between two others.
    pub(super) fn disposition_stage(stage: &Value, n: usize) -> Value {
        let rank = if n % 4 == 2 { json!(100.5 + n as f64) } else { json!(101 + n) };
        json!({
            "id": stage["id"], "text": stage["text"], "pipeline": PIPELINE[n.min(PIPELINE.len() - 1)], "rank": rank,
            "hasInterview": n % 3 == 2,
        })
    }

    pub(super) fn requisition_field_rows(&self) -> Vec<Value> {
        let option = |n: usize, text: &str| json!({"id": self.id(Kind::Id, 20 + n), "text": text});
        vec![
            json!({"id": "target_hire_date", "text": "Target Hire Date", "type": "date", "isRequired": false}),
            json!({"id": "cost_center", "text": "Cost center", "type": "dropdown", "isRequired": true,
                "options": [option(0, "CC-410"), option(1, "CC-500")]}),
            json!({"id": "seat_number", "text": "Seat number", "type": "number", "isRequired": false}),
            json!({"id": "bonus", "text": "Bonus", "type": "object", "isRequired": false, "subfields": [
                {"id": "kind", "text": "Kind", "type": "text"}, {"id": "percent", "text": "Percent", "type": "text"},
            ]}),
        ]
    }

    /// Fields of a template: as of a form, without values.
    fn template_fields(&self, n: usize) -> Value {
        json!([
            {"type": "score-system", "text": "Overall rating", "description": "", "required": true, "id": self.id(Kind::Id, 40 + n),
             "prompt": "Select one", "options": [{"text": "4 - Strong Hire"}, {"text": "1 - Strong No Hire"}]},
            {"type": "scorecard", "text": "Core skills", "description": "Rate each skill", "required": false, "id": self.id(Kind::Id, 60 + n),
             "prompt": "Rate each skill", "scores": [{"text": "Systems design", "description": ""}], "options": [{"text": "1"}, {"text": "4"}]},
            {"type": "textarea", "text": "Notes", "description": "", "required": false, "id": self.id(Kind::Id, 80 + n)},
        ])
    }

    fn group(&self, n: usize) -> Value {
        match n % 3 {
            0 => json!({"id": self.id(Kind::Id, 100), "name": "Engineering"}),
            1 => Value::Null,
            _ => json!(""),
        }
    }

    pub(super) fn feedback_template_rows(&self) -> Vec<Value> {
        let named = (0..4).map(|n| {
            let stage = self.stages.get(n + 2).filter(|_| n % 2 == 0);
            let stage = stage
                .map_or(if n == 1 { Value::Null } else { json!("") }, |(id, text)| json!({"id": id, "text": text}));
            let created = (n != 3).then(|| self.now - 400 * DAY + n as i64 * DAY);
            json!({
                "id": self.id(Kind::Id, 110 + n), "text": format!("Interview {}", n + 1), "group": self.group(n),
                "instructions": if n == 0 { "Submit within a day." } else { "" }, "fields": self.template_fields(n),
                "createdAt": created, "stage": stage, "updatedAt": created.map(|c| c + 30 * DAY),
            })
        });
        let none = json!({
            "id": "no-feedback", "text": "No feedback form", "group": "", "instructions": "", "fields": [],
            "createdAt": null, "stage": null, "updatedAt": null,
        });
        named.chain([none]).collect()
    }

    pub(super) fn form_template_rows(&self) -> Vec<Value> {
        (0..3)
            .map(|n| {
                let at = self.now - 500 * DAY + n as i64 * DAY;
                let time = |at: i64| if n == 1 { json!(at.to_string()) } else { json!(at) };
                json!({
                    "id": self.id(Kind::Id, 120 + n), "text": format!("Checklist {}", n + 1), "group": self.group(n + 1),
                    "instructions": "Fill before offer.", "secretByDefault": n == 2, "fields": self.template_fields(10 + n),
                    "createdAt": time(at), "updatedAt": time(at + 90 * DAY),
                })
            })
            .collect()
    }

    pub(super) fn webhook_rows(&self) -> Vec<Value> {
        let hook = |n: usize, event: &str, origins: &[&str]| {
            let at = self.now - 200 * DAY + n as i64 * DAY;
            json!({
                "id": self.id(Kind::Id, 130 + n), "event": event, "url": format!("https://hooks.example.com/lever{n}"),
                "configuration": {"conditions": {"origins": origins}}, "createdAt": at, "updatedAt": at,
            })
        };
        vec![hook(0, "candidateStageChange", &["applied", "sourced"]), hook(1, "contactUpdated", &[])]
    }

    pub(super) fn audit_event_rows(&self) -> Vec<Value> {
        (0..EVENTS).map(|n| self.audit_event(n, None)).collect()
    }

    /// An event of the account's log; made now when `at` says so.
    pub(super) fn audit_event(&self, n: usize, at: Option<i64>) -> Value {
        let mut r = self.rng(Kind::Event, n);
        let at = at.unwrap_or_else(|| r.between(self.now - self.years * 365 * DAY, self.now - 60_000));
        let someone = |id: Value| json!({"id": id, "email": format!("user{n}@example.com"), "name": format!("User {n}"), "role": "super admin"});
        let (user, other) = (self.some_user(&mut r), self.some_user(&mut r));
        let (kind, user, target, meta) = match n % 4 {
            0 => (
                "user.role:changed",
                someone(user),
                json!({"id": other, "type": "user", "label": format!("User {n}")}),
                json!({"user": someone(other.clone()), "from": "interviewer", "to": "team member"}),
            ),
            1 => (
                "user.authentication:failed",
                json!({"email": "nobody@example.com"}),
                json!({"type": "user", "label": "nobody@example.com"}),
                json!({"user": {"email": "nobody@example.com"}, "authentication": {"method": "direct",
                    "error": {"message": "No such account", "type": "user-not-found"}}}),
            ),
            2 => (
                "key:added",
                someone(user),
                json!({"id": self.id(Kind::Id, 140), "type": "key", "label": "warehouse"}),
                json!({"key": {"id": self.id(Kind::Id, 140), "name": "warehouse", "partner": false, "tokenLastFour": "Zq7t", "service": "data-api"}}),
            ),
            _ => (
                "account.plan:changed",
                Value::Null,
                Value::Null,
                json!({"account": {"id": self.account_id.to_string(), "name": self.account}}),
            ),
        };
        json!({
            "id": self.id(Kind::Event, n), "createdAt": at, "type": kind, "user": user, "target": target, "meta": meta,
        })
    }
}
