//! What hangs on a posting: the form that applicants fill, the users who work on it, the diversity surveys it is sent
//! with (reference 4.18, 4.19 and 4.31).
//!
//! Made from the posting's row when somebody asks; what was edited is kept whole.

use serde_json::{Map, Value, json};

use super::account::Account;
use super::data::{Kind, Maker, Rng};
use super::overlay::ChildRecord;

const DAY: i64 = 86_400_000;

/// A thing below a posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OfPosting {
    Apply,
    Users,
    Surveys,
}

impl OfPosting {
    /// By the name of its sample page, of its path, or of what it is.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "posting_apply" | "posting_forms" | "postings/apply" => Some(Self::Apply),
            "posting_users" | "postings/users" => Some(Self::Users),
            "surveys_diversity" | "diversity_surveys" | "surveys/diversity" => Some(Self::Surveys),
            _ => None,
        }
    }

    /// The rows in an answer: the surveys, or the one body.
    fn rows(self, body: Value) -> Vec<Value> {
        match (self, body) {
            (Self::Surveys, Value::Array(rows)) => rows,
            (_, body) => vec![body],
        }
    }
}

impl Account {
    /// The body of the answer: an object with `id`, an object with `users`, a list of surveys.
    pub(super) fn of_posting(&self, of: OfPosting, posting: &Value) -> Value {
        let id = posting["id"].as_str().unwrap_or("");
        match self.posting_edits.get(&(of, id.to_owned())) {
            Some(edited) => edited.clone(),
            None => self.maker.of_posting(of, posting),
        }
    }

    /// Every row below the postings of a default listing.
    pub(super) fn all_of_postings(&self, of: OfPosting) -> Vec<ChildRecord> {
        let postings = self.dump("postings").unwrap_or_default();
        postings.iter().flat_map(|posting| self.of_one_posting(of, posting)).collect()
    }

    /// The rows below one posting.
    pub(super) fn of_one_posting(&self, of: OfPosting, posting: &Value) -> impl Iterator<Item = ChildRecord> + use<> {
        let parent_id = posting["id"].as_str().unwrap_or("").to_owned();
        let parent_created_at = posting["createdAt"].as_i64().unwrap_or(0);
        of.rows(self.of_posting(of, posting)).into_iter().map(move |record| ChildRecord {
            parent_id: parent_id.clone(),
            parent_created_at,
            parent_field: "postingId",
            record,
        })
    }

    /// Sets fields of the answer (of its first survey), or changes what people usually do. The posting is not bumped.
    pub(super) fn edit_of_posting(
        &mut self,
        of: OfPosting,
        id: &str,
        fields: Option<&Map<String, Value>>,
        now: i64,
    ) -> bool {
        let Some(posting) = self.table("postings").and_then(|rows| rows.get(id)) else { return false };
        let mut body = self.of_posting(of, posting);
        let (user, name, _) = self.maker.user_card(&mut Rng::new(&[now.unsigned_abs()]));
        let target = if of == OfPosting::Surveys { body.get_mut(0) } else { Some(&mut body) };
        let Some(object) = target.and_then(Value::as_object_mut) else { return false };
        match (fields, of) {
            (Some(fields), _) => object.extend(fields.clone()),
            (None, OfPosting::Apply) => {
                let question = json!({"id": format!("question-{now}"), "text": "Added later", "fields": []});
                object.insert("customQuestions".into(), json!([question]));
            }
            (None, OfPosting::Users) => {
                object.insert("users".into(), json!([{"id": user, "name": name, "roles": ["owner"]}]));
            }
            (None, OfPosting::Surveys) => {
                object.insert("text".into(), json!(format!("Edited at {now}")));
                object.insert("updatedAt".into(), json!(now));
            }
        }
        self.posting_edits.insert((of, id.to_owned()), body);
        true
    }
}

impl Maker {
    fn of_posting(&self, of: OfPosting, posting: &Value) -> Value {
        let id = posting["id"].as_str().unwrap_or("");
        let mut r =
            id.bytes().fold(self.rng(Kind::Apply, of as usize), |mut r, byte| Rng::new(&[r.next(), u64::from(byte)]));
        match of {
            OfPosting::Apply => self.apply_form(&mut r, posting),
            OfPosting::Users => self.posting_users(&mut r, posting),
            OfPosting::Surveys => self.surveys(&mut r, posting),
        }
    }

    /// Parts that are not configured are empty or absent.
    fn apply_form(&self, r: &mut Rng, posting: &Value) -> Value {
        let id = |n: usize| self.id(Kind::Id, 300 + n);
        let question = |name: &str, text: &str, kind: &str, required: bool| json!({"text": text, "name": name, "type": kind, "required": required, "value": null});
        let mut personal = vec![
            question("fullName", "Full name", "text", true),
            question("email", "Email", "text", true),
            question("resume", "Resume", "file-upload", false),
        ];
        if let Some(places) = posting["categories"]["allLocations"].as_array().filter(|places| !places.is_empty()) {
            let mut place = question("preferredPostingLocation", "Which location?", "dropdown", false);
            place["options"] = places.iter().map(|place| json!({"text": place})).collect();
            personal.push(place);
        }
        let questions = json!([{
            "id": r.uuid().to_string(), "text": "Role questions",
            "fields": [
                {"type": "multiple-choice", "text": "Shift", "description": "", "required": true, "id": id(0), "prompt": "Select one",
                 "options": [{"text": "Day", "optionId": id(1)}, {"text": "Night", "optionId": id(2)}], "value": null,
                 "distribution": ["external", "internal"]},
                {"type": "textarea", "text": "Why us?", "description": "Short is fine", "required": false, "id": id(3), "value": null},
                {"type": "multiple-select", "text": "Tools", "description": "", "required": false, "id": id(4),
                 "options": [{"text": "dbt"}, {"text": "Airflow"}], "value": []},
                {"type": "text", "text": "Who told you?", "description": "", "required": false, "id": id(5), "value": null,
                 "distribution": ["internal"]},
            ],
        }]);
        let mut form = json!({
            "id": posting["id"], "text": posting["text"],
            "customQuestions": if r.below(3) == 0 { json!([]) } else { questions },
            "urls": [question("LinkedIn", "LinkedIn", "text", false)],
        });
        form["personalInformation"] = personal.into();
        let options =
            |texts: &[&str]| texts.iter().map(|text| json!({"text": text, "optionId": text})).collect::<Value>();
        let dropdown = |text: &str, texts: &[&str]| json!({"description": null, "required": false, "text": text, "type": "dropdown", "options": options(texts), "prompt": text, "value": null});
        match r.below(3) {
            0 => {}
            1 => form["eeoQuestions"] = Value::Null,
            _ => {
                form["eeoQuestions"] = json!({
                    "gender": dropdown("Gender", &["Female", "Male", "Decline to self-identify"]),
                    "race": dropdown("Race", &["Asian (Not Hispanic or Latino)", "Decline to self-identify"]),
                    "veteran": dropdown("Veteran status", &["I am a veteran", "I am not a veteran"]),
                    "disabilitySignature": {"text": "Your name", "type": "text", "required": false, "value": null},
                });
            }
        }
        match r.below(3) {
            0 => {}
            1 => form["consentDisclosures"] = json!({}),
            _ => {
                form["consentDisclosures"] = json!({
                    "store": {"statement": "We keep your data for two years.", "statementHtml": "<p>We keep your data for two years.</p>",
                        "displayState": "MANDATORY_DISCLOSURE_SHOWN", "compliancePolicyId": id(6)},
                    "marketing": {"displayState": "ASSUMED_DISCLOSURE_HIDDEN", "compliancePolicyId": id(6)},
                });
            }
        }
        form
    }

    /// No `data` around it. What an entry of `users` looks like is a guess of the sample page.
    fn posting_users(&self, r: &mut Rng, posting: &Value) -> Value {
        let mut users: Vec<Value> = Vec::new();
        for _ in 0..r.below(4) {
            let (id, name, _) = self.user_card(r);
            if users.iter().all(|user| user["id"] != id.as_str()) {
                users.push(json!({"id": id, "name": name, "roles": [r.pick(&["team", "admin", "owner"])]}));
            }
        }
        json!({
            "posting": {"id": posting["id"], "text": posting["text"]},
            "users": users,
            "roles": [
                {"id": "admin", "name": "Admin", "isReadOnly": true},
                {"id": "owner", "name": "Super Admin", "isReadOnly": true},
                {"id": "team", "name": "Team Member", "isReadOnly": true, "conditions": {}},
                {"id": self.id(Kind::Id, 7), "name": "Coordinator", "isReadOnly": false, "conditions": null},
            ],
        })
    }

    /// None, one by the candidate's country, or another one by the posting's location too.
    fn surveys(&self, r: &mut Rng, posting: &Value) -> Value {
        let id = |n: usize| self.id(Kind::Id, 320 + n);
        let at = self.now - 300 * DAY;
        let by_country = json!({
            "id": r.uuid().to_string(), "createdAt": at, "updatedAt": at + 100 * DAY, "text": "Voluntary survey (GB)",
            "candidateLocations": {"countryCodes": ["GB", "IE"]}, "instructions": "Optional.",
            // The blank in the type is Lever's.
            "fields": [{"type": "multiple choice", "text": "Gender", "description": "", "required": false, "id": id(0),
                "options": [{"text": "Woman", "optionId": id(1)}, {"text": "Man", "optionId": id(2)}, {"text": "Prefer not to say", "optionId": id(3)}]}],
        });
        let by_place = json!({
            "id": r.uuid().to_string(), "createdAt": at, "updatedAt": at, "text": "Voluntary survey",
            "postingLocations": [posting["categories"]["location"]], "instructions": "", "fields": [],
        });
        match r.below(3) {
            0 => json!([]),
            1 => json!([by_country]),
            _ => json!([by_country, by_place]),
        }
    }
}

/// Leaves out the questions that are not asked of applicants who come this way, `internal` or `external`.
pub(super) fn keep_distribution(form: &mut Value, way: &str) {
    for question in form["customQuestions"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = question["fields"].as_array_mut() {
            fields.retain(|field| match &field["distribution"] {
                Value::Array(ways) => ways.iter().any(|known| known == way),
                _ => true,
            });
        }
    }
}
