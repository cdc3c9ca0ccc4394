//! What applicants told about themselves for the statistics of equal opportunity: `/eeo/responses` without and
//! `/eeo/responses/pii` with the person (reference 4.31).
//!
//! A response follows its application: it changes when that does and is gone when it goes. Those of confidential
//! opportunities are never listed (which parameter would ask for them is not documented). An anonymized person's response
//! stays among the anonymous ones and leaves the others. Rows come newest first.

use std::ops::RangeInclusive;

use serde_json::{Value, json};
use uuid::Uuid;

use super::account::{Account, Opportunity};
use super::data::{ADDED, Maker, Rng};
use super::paging::Position;

const DAY: i64 = 86_400_000;
/// Without parameters a listing reaches back so far.
pub(super) const USUAL_WINDOW_MS: i64 = 7 * DAY;
/// A form is answered so long after the application,
const ANSWERED_AFTER_MS: i64 = 60;
/// or, one in ten, as late as that.
const LATE_ANSWER_MS: i64 = 90 * 60_000;
/// Streams of random numbers, apart from those of children.
const STREAM: u64 = 100;

/// Whether rows tell who somebody is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Eeo {
    Anonymous,
    Personal,
}

/// When somebody answered, whose opportunity it is, and its slot.
type Answer = (i64, Uuid, u32);

/// Every answer ever given, for each kind in its listing's order. Made when somebody asks, so that a page costs what it
/// shows; whether an answer is to be seen is judged row by row.
pub(super) struct Answers([Vec<Answer>; 2]);

impl Account {
    /// The answers by the time that the listing filters by: of applying, or of answering.
    fn answers(&self, kind: Eeo) -> &[Answer] {
        let Answers(both) = self.answers.get_or_init(|| {
            // Two in five answered.
            let answered = |o: &Opportunity| self.maker.child_rng(STREAM, o.seeded.serial, 0).below(5) < 2;
            let applied: Vec<Answer> = (0u32..)
                .zip(self.slots())
                .filter(|(_, o)| answered(o))
                .map(|(slot, o)| (o.facts.created, o.id, slot))
                .collect();
            let after = |slot: u32| match self.at(slot).seeded.serial {
                serial if serial % 10 == 3 && serial < ADDED => LATE_ANSWER_MS,
                _ => ANSWERED_AFTER_MS,
            };
            let given = applied.iter().map(|(time, id, slot)| (time + after(*slot), *id, *slot)).collect();
            let mut both = [applied, given];
            both.iter_mut().for_each(|answers| answers.sort_unstable_by(|a, b| b.cmp(a)));
            Answers(both)
        });
        &both[usize::from(kind == Eeo::Personal)]
    }

    fn shows_answer(&self, slot: u32, kind: Eeo) -> bool {
        let o = self.at(slot);
        o.alive && !o.facts.confidential && o.has_application() && (kind == Eeo::Anonymous || !o.blanked)
    }

    /// Up to `limit` rows and the one after them, from `start` on, of those whose time is in `times`.
    pub(super) fn eeo_rows(
        &self,
        kind: Eeo,
        start: Option<&Position>,
        limit: usize,
        times: &RangeInclusive<i64>,
    ) -> Vec<(Position, Value)> {
        let all = self.answers(kind);
        let first = start.map(|at| {
            let id = Uuid::parse_str(&at.id).unwrap_or(Uuid::nil());
            (at.numbers.first().copied().unwrap_or(0), id)
        });
        let before = |(time, id, _): &Answer| time > times.end() || first.is_some_and(|first| (*time, *id) > first);
        let rows = all[all.partition_point(before)..].iter().take_while(|(time, ..)| time >= times.start());
        rows.filter(|(_, _, slot)| self.shows_answer(*slot, kind))
            .take(limit.saturating_add(1))
            .map(|(time, id, slot)| {
                let row = match kind {
                    Eeo::Anonymous => self.eeo_row(*slot),
                    Eeo::Personal => self.eeo_personal_row(*slot, *time),
                };
                (Position { numbers: vec![*time], id: id.to_string() }, row)
            })
            .collect()
    }

    /// What both kinds have in common.
    fn eeo_row(&self, slot: u32) -> Value {
        let o = self.at(slot);
        let body = self.body(slot);
        let archived = &body["archived"];
        let mut r = self.maker.child_rng(STREAM, o.seeded.serial, 1);
        let by = self.maker.some_user(&mut r);
        let text = |table: &str, id: &Value| {
            let row = id.as_str().and_then(|id| self.table(table)?.get(id));
            row.map_or(Value::Null, |row| row["text"].clone())
        };
        let posting = self.application(slot).map_or(Value::Null, |application| application["posting"].clone());
        let applied = o.facts.created;
        let mut row = json!({
            "applicationTitle": text("postings", &posting),
            "appliedAt": if o.seeded.serial % 5 == 1 { json!(applied.to_string()) } else { json!(applied) },
            "currentStage": body["stage"],
            "applicationArchivedAt": archived["archivedAt"],
            "applicationArchivedBy": if archived.is_null() { Value::Null } else { by },
            "applicationArchiveReason": text("archive_reasons", &archived["reason"]),
        });
        Maker::eeo_answers(&mut r, applied, &mut row);
        row
    }

    fn eeo_personal_row(&self, slot: u32, answered: i64) -> Value {
        let o = self.at(slot);
        let body = self.body(slot);
        let application = self.application(slot);
        let application = application.as_deref().unwrap_or(&Value::Null);
        let mut row = self.eeo_row(slot);
        let hired = application["requisitionForHire"].is_object();
        for (field, value) in [
            ("id", &application["id"]),
            ("applicationId", &application["id"]),
            ("contact", &body["contact"]),
            ("eeoResponseSource", &json!("api")),
            ("eeoSurveyRespondedAt", &json!(answered)),
            ("hiredDate", &json!(o.facts.archived_at.filter(|_| hired))),
            ("hiringManager", &application["postingHiringManager"]),
            ("opportunityId", &body["id"]),
            ("opportunityOwner", &body["owner"]),
            ("origin", &body["origin"]),
            ("posting", &application["posting"]),
            ("sources", &body["sources"]),
        ] {
            row[field] = value.clone();
        }
        match o.seeded.serial % 3 {
            0 => {}
            1 => row["requisitionCodes"] = json!([]),
            _ => row["requisitionCodes"] = json!(["ENG-100"]),
        }
        if o.seeded.serial % 7 == 2 {
            row["source"] = body["sources"].get(0).cloned().unwrap_or(Value::Null);
        }
        row
    }
}

impl Maker {
    /// Answers, refusals to answer, nulls and missing keys.
    fn eeo_answers(r: &mut Rng, applied: i64, row: &mut Value) {
        let answers: [(&str, &[&str]); 4] = [
            ("gender", &["Female", "Male", "Decline to self-identify"]),
            ("race", &["Two or More Races (Not Hispanic or Latino)", "Decline to self-identify"]),
            ("veteran", &["I am not a Protected Veteran", "I am a veteran", "Decline to self-identify"]),
            ("disability", &["I don't wish to answer", "Yes, I have a disability"]),
        ];
        for (field, texts) in answers {
            match r.below(6) {
                0 => {}
                1 => row[field] = Value::Null,
                _ => row[field] = json!(r.pick(texts)),
            }
        }
        if row["disability"].is_string() {
            // MM/DD/YYYY.
            let days = applied.div_euclid(DAY);
            let (year, month, day) = civil(days);
            row["disabilitySignatureDate"] = json!(format!("{month:02}/{day:02}/{year}"));
        }
    }
}

/// Year, month and day of so many days after 1970-01-01 (Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_are_dates() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(19_782), (2024, 2, 29));
        assert_eq!(super::civil(20_528), (2026, 3, 16));
    }
}
