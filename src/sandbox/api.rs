//! The data API: one table of routes, and what each serves.
//!
//! The order of judgement: who asks (401), the bucket (429), the script of faults, the route (404), the scope (403), the
//! parameters (400), the object (404). A parameter that the reference does not give to an endpoint is a 400, so that a
//! misspelt filter never looks like a full listing; `include` and `group`, which change the shape, are among those.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::account::{Account, Opportunity, Span, text};
use super::children::Child;
use super::eeo::{self, Eeo};
use super::faults::{Action, Asked};
use super::files::{self, Wanted};
use super::oauth::Caller;
use super::paging::Position;
use super::posting::{self, OfPosting};
use super::reply::{Manner, Reply};
use super::{World, lock};

/// Rows of a page, at most and unless asked.
const PAGE_ROWS: usize = 100;
/// `/applications/deleted` is said to give fewer unless asked.
const FEW_ROWS: usize = 50;
/// A route's label when there is none.
const UNKNOWN: &str = "(unknown)";

/// One line of the reference's table 4.0.
struct Route {
    /// Under `/v1`; `:x` stands for any id. Literal paths come before those with ids.
    path: &'static str,
    /// Read scope without `:read:admin`.
    scope: &'static str,
    /// Parameters beside `limit` and `offset` of listings; `x_at` stands for `x_at_start` and `x_at_end`.
    params: &'static [&'static str],
    /// Field that may be expanded, and the table or resource it is found in.
    expand: &'static [(&'static str, &'static str)],
    serves: Serves,
}

/// What a route shows.
#[derive(Clone, Copy)]
enum Serves {
    Opportunities,
    Opportunity,
    Applications,
    Application,
    Contact,
    /// A listing of the small table of that name.
    Rows(&'static str),
    /// A listing of it that has neither pages nor an end.
    All(&'static str),
    /// One row of it.
    Row(&'static str),
    /// Two lists in one object.
    Dispositions,
    /// A listing below an opportunity.
    Children(Child),
    /// One row of it.
    Child(Child),
    /// Its bytes.
    Download(Child),
    OfPosting(OfPosting),
    Eeo(Eeo),
}

impl Serves {
    /// Scopes, without `:read:admin`, that the route needs beside its own.
    fn also(self) -> &'static [&'static str] {
        match self {
            Self::Children(Child::FileActions) => &["opportunities"],
            // Which of the two is not known.
            Self::OfPosting(OfPosting::Users) => &["users"],
            _ => &[],
        }
    }
}

const NO_PARAMS: &[&str] = &[];
const NO_EXPAND: &[(&str, &str)] = &[];
const OPPORTUNITY_EXPAND: &[(&str, &str)] = &[
    ("applications", "applications"),
    ("contact", "contacts"),
    ("stage", "stages"),
    ("owner", "users"),
    ("followers", "users"),
    ("sourcedBy", "users"),
];
const APPLICATION_EXPAND: &[(&str, &str)] =
    &[("posting", "postings"), ("postingOwner", "users"), ("postingHiringManager", "users"), ("user", "users")];
const POSTING_EXPAND: &[(&str, &str)] =
    &[("user", "users"), ("owner", "users"), ("hiringManager", "users"), ("followers", "users")];
const REQUISITION_EXPAND: &[(&str, &str)] =
    &[("creator", "users"), ("owner", "users"), ("hiringManager", "users"), ("postings", "postings")];
const USER_EXPAND: &[(&str, &str)] = &[("user", "users")];
const CREATOR_EXPAND: &[(&str, &str)] = &[("creator", "users")];
const STAGE_EXPAND: &[(&str, &str)] = &[("user", "users"), ("stage", "stages")];
const REFERRAL_EXPAND: &[(&str, &str)] = &[("user", "users"), ("referrer", "users"), ("stage", "stages")];
const INTERVIEW_EXPAND: &[(&str, &str)] =
    &[("user", "users"), ("stage", "stages"), ("postings", "postings"), ("feedbackForms", "feedback")];
const EEO_EXPAND: &[(&str, &str)] = &[("contact", "contacts"), ("hiringManager", "users"), ("posting", "postings")];
const UPLOADED: &[&str] = &["uploaded_at"];
const OPPORTUNITY_PARAMS: &[&str] = &[
    "email",
    "tag",
    "origin",
    "source",
    "confidentiality",
    "stage_id",
    "posting_id",
    "archived_posting_id",
    "archive_reason_id",
    "contact_id",
    "archived",
    "snoozed",
    "created_at",
    "updated_at",
    "advanced_at",
    "archived_at",
];
const POSTING_PARAMS: &[&str] = &[
    "state",
    "distributionChannel",
    "confidentiality",
    "team",
    "department",
    "location",
    "commitment",
    "level",
    "tag",
    "updated_at",
];

#[rustfmt::skip]
const ROUTES: &[Route] = &[
    Route { path: "/opportunities", scope: "opportunities", params: OPPORTUNITY_PARAMS, expand: OPPORTUNITY_EXPAND, serves: Serves::Opportunities },
    Route { path: "/opportunities/deleted", scope: "opportunities", params: &["deleted_at"], expand: NO_EXPAND, serves: Serves::Rows("opportunities_deleted") },
    Route { path: "/opportunities/:id", scope: "opportunities", params: NO_PARAMS, expand: OPPORTUNITY_EXPAND, serves: Serves::Opportunity },
    Route { path: "/opportunities/:id/applications", scope: "applications", params: NO_PARAMS, expand: APPLICATION_EXPAND, serves: Serves::Applications },
    Route { path: "/opportunities/:id/applications/:application", scope: "applications", params: NO_PARAMS, expand: APPLICATION_EXPAND, serves: Serves::Application },
    Route { path: "/opportunities/:id/feedback", scope: "feedback", params: NO_PARAMS, expand: USER_EXPAND, serves: Serves::Children(Child::Feedback) },
    Route { path: "/opportunities/:id/feedback/:child", scope: "feedback", params: NO_PARAMS, expand: USER_EXPAND, serves: Serves::Child(Child::Feedback) },
    Route { path: "/opportunities/:id/files", scope: "files", params: UPLOADED, expand: NO_EXPAND, serves: Serves::Children(Child::Files) },
    Route { path: "/opportunities/:id/files/:child", scope: "files", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Child(Child::Files) },
    Route { path: "/opportunities/:id/files/:child/download", scope: "files", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Download(Child::Files) },
    Route { path: "/opportunities/:id/file_actions", scope: "files", params: &["occurred_at"], expand: NO_EXPAND, serves: Serves::Children(Child::FileActions) },
    Route { path: "/opportunities/:id/interviews", scope: "interviews", params: NO_PARAMS, expand: INTERVIEW_EXPAND, serves: Serves::Children(Child::Interviews) },
    Route { path: "/opportunities/:id/interviews/:child", scope: "interviews", params: NO_PARAMS, expand: INTERVIEW_EXPAND, serves: Serves::Child(Child::Interviews) },
    Route { path: "/opportunities/:id/notes", scope: "notes", params: NO_PARAMS, expand: USER_EXPAND, serves: Serves::Children(Child::Notes) },
    Route { path: "/opportunities/:id/notes/:child", scope: "notes", params: NO_PARAMS, expand: USER_EXPAND, serves: Serves::Child(Child::Notes) },
    Route { path: "/opportunities/:id/offers", scope: "offers", params: NO_PARAMS, expand: CREATOR_EXPAND, serves: Serves::Children(Child::Offers) },
    Route { path: "/opportunities/:id/offers/:child/download", scope: "offers", params: &["status"], expand: NO_EXPAND, serves: Serves::Download(Child::Offers) },
    Route { path: "/opportunities/:id/panels", scope: "panels", params: NO_PARAMS, expand: STAGE_EXPAND, serves: Serves::Children(Child::Panels) },
    Route { path: "/opportunities/:id/panels/:child", scope: "panels", params: NO_PARAMS, expand: STAGE_EXPAND, serves: Serves::Child(Child::Panels) },
    Route { path: "/opportunities/:id/referrals", scope: "referrals", params: NO_PARAMS, expand: REFERRAL_EXPAND, serves: Serves::Children(Child::Referrals) },
    Route { path: "/opportunities/:id/referrals/:child", scope: "referrals", params: NO_PARAMS, expand: REFERRAL_EXPAND, serves: Serves::Child(Child::Referrals) },
    Route { path: "/opportunities/:id/resumes", scope: "resumes", params: UPLOADED, expand: NO_EXPAND, serves: Serves::Children(Child::Resumes) },
    Route { path: "/opportunities/:id/resumes/:child", scope: "resumes", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Child(Child::Resumes) },
    Route { path: "/opportunities/:id/resumes/:child/download", scope: "resumes", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Download(Child::Resumes) },
    Route { path: "/opportunities/:id/forms", scope: "forms", params: NO_PARAMS, expand: STAGE_EXPAND, serves: Serves::Children(Child::Forms) },
    Route { path: "/opportunities/:id/forms/:child", scope: "forms", params: NO_PARAMS, expand: STAGE_EXPAND, serves: Serves::Child(Child::Forms) },
    Route { path: "/applications/deleted", scope: "applications", params: &["deleted_at"], expand: NO_EXPAND, serves: Serves::Rows("applications_deleted") },
    Route { path: "/contacts/:id", scope: "contact", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Contact },
    Route { path: "/users", scope: "users", params: &["email", "accessRole", "accessRole[]", "includeDeactivated", "external_directory_id"], expand: NO_EXPAND, serves: Serves::Rows("users") },
    Route { path: "/users/:id", scope: "users", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("users") },
    Route { path: "/postings", scope: "postings", params: POSTING_PARAMS, expand: POSTING_EXPAND, serves: Serves::Rows("postings") },
    Route { path: "/postings/deleted", scope: "postings", params: &["deleted_at"], expand: NO_EXPAND, serves: Serves::Rows("postings_deleted") },
    Route { path: "/postings/:id", scope: "postings", params: NO_PARAMS, expand: POSTING_EXPAND, serves: Serves::Row("postings") },
    Route { path: "/postings/:id/apply", scope: "postings", params: &["location", "distribution"], expand: NO_EXPAND, serves: Serves::OfPosting(OfPosting::Apply) },
    Route { path: "/postings/:id/users", scope: "postings", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::OfPosting(OfPosting::Users) },
    Route { path: "/surveys/diversity/:id", scope: "diversity_surveys", params: &["country_code", "location"], expand: NO_EXPAND, serves: Serves::OfPosting(OfPosting::Surveys) },
    Route { path: "/eeo/responses", scope: "eeo_responses", params: &["fromDate", "toDate"], expand: NO_EXPAND, serves: Serves::Eeo(Eeo::Anonymous) },
    Route { path: "/eeo/responses/pii", scope: "eeo_responses_pii", params: &["created_at"], expand: EEO_EXPAND, serves: Serves::Eeo(Eeo::Personal) },
    Route { path: "/stages", scope: "stages", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Rows("stages") },
    Route { path: "/stages/:id", scope: "stages", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("stages") },
    Route { path: "/archive_reasons", scope: "archive_reasons", params: &["type"], expand: NO_EXPAND, serves: Serves::Rows("archive_reasons") },
    Route { path: "/archive_reasons/:id", scope: "archive_reasons", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("archive_reasons") },
    Route { path: "/sources", scope: "sources", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Rows("sources") },
    Route { path: "/tags", scope: "tags", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Rows("tags") },
    Route { path: "/requisitions", scope: "requisitions", params: &["created_at", "requisition_code", "status", "confidentiality"], expand: REQUISITION_EXPAND, serves: Serves::Rows("requisitions") },
    Route { path: "/requisitions/:id", scope: "requisitions", params: NO_PARAMS, expand: REQUISITION_EXPAND, serves: Serves::Row("requisitions") },
    Route { path: "/disposition_stages", scope: "stages", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Dispositions },
    Route { path: "/requisition_fields", scope: "requisition_fields", params: &["isRequired", "type"], expand: NO_EXPAND, serves: Serves::All("requisition_fields") },
    Route { path: "/requisition_fields/:id", scope: "requisition_fields", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("requisition_fields") },
    Route { path: "/feedback_templates", scope: "feedback_templates", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Rows("feedback_templates") },
    Route { path: "/feedback_templates/:id", scope: "feedback_templates", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("feedback_templates") },
    Route { path: "/form_templates", scope: "form_templates", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Rows("form_templates") },
    Route { path: "/form_templates/:id", scope: "form_templates", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::Row("form_templates") },
    Route { path: "/audit_events", scope: "audit_events", params: &["created_at", "type", "user_id", "target_type", "target_id"], expand: NO_EXPAND, serves: Serves::Rows("audit_events") },
    Route { path: "/webhooks", scope: "webhooks", params: NO_PARAMS, expand: NO_EXPAND, serves: Serves::All("webhooks") },
];

/// The data API's refusal, in its envelope.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, json!({"code": code, "message": message}).to_string())
}

fn bad(message: &str) -> Reply {
    refusal(400, "BadRequestError", message)
}

/// What lack of a scope gives.
fn forbidden() -> Reply {
    Reply::of_status(403, None, None, true)
}

pub(super) fn missing(what: &str, id: &str) -> Reply {
    refusal(404, "ResourceNotFound", &format!("{what} {id} was not found"))
}

/// Answers a request for anything that no other endpoint took.
pub(super) async fn answer(world: &World, method: &str, path: &str, query: &str, headers: &HeaderMap) -> Reply {
    let now = world.clock.now();
    let Some(rest) = path.strip_prefix("/v1/") else {
        lock(&world.stats).arrived(&format!("{method} {UNKNOWN}"), None, now);
        return missing("path", path);
    };
    let segments: Vec<&str> = rest.split('/').collect();
    let found = (method == "GET").then(|| find(&segments)).flatten();
    let label = match &found {
        Some((route, _)) => format!("GET /v1{}", route.path),
        None => format!("{method} /v1/{UNKNOWN}"),
    };
    let caller = lock(&world.oauth).caller(headers, now);
    let account = caller.as_ref().map(|caller| caller.account.clone());
    lock(&world.stats).arrived(&label, account.as_deref().ok(), now);
    let caller = match caller {
        Ok(caller) => caller,
        Err(reply) => {
            tokio::time::sleep(world.latency).await;
            return reply;
        }
    };
    let permitted = world.permit(&caller.account);
    tokio::time::sleep(world.latency).await;
    if !permitted {
        return Reply::of_status(429, None, None, true);
    }
    let params = Params::parse(query);
    let has_offset = params.0.iter().any(|(name, _)| name == "offset");
    with_faults(world, &label, Some(&caller.account), has_offset, |action| {
        let Some((route, captures)) = &found else { return missing("path", path) };
        let ask = Ask { world, route, captures, path, params: &params, caller: &caller, action };
        ask.serve().unwrap_or_else(|refusal| refusal)
    })
    .await
}

/// Does `work` unless the script has something else in mind.
pub(super) async fn with_faults(
    world: &World,
    route: &str,
    account: Option<&str>,
    has_offset: bool,
    work: impl FnOnce(Option<&Action>) -> Reply,
) -> Reply {
    let of_data_api = route.contains(" /v1");
    let action = lock(&world.script).due(&Asked { route, account, has_offset });
    match &action {
        Some(Action::Status { code, body, retry_after }) => {
            return Reply::of_status(*code, body.as_deref(), retry_after.as_deref(), of_data_api);
        }
        Some(Action::Reset) => return Reply::dropped(),
        Some(Action::Garbage) => return Reply::html(200, "<html><body><h1>Lever</h1>Signing you in…</body></html>"),
        Some(Action::Redirect { to, code }) => return Reply::redirect(*code, to),
        Some(Action::StaleOffset) => return bad("Invalid offset token"),
        Some(Action::Huge { bytes }) => return Reply::huge(*bytes),
        Some(Action::Endless { ms_per_chunk }) => return Reply::endless(Duration::from_millis(*ms_per_chunk)),
        Some(Action::NeverLast { rows, offset_bytes }) => {
            return Reply::never_last(lock(&world.script).page(), *rows, *offset_bytes);
        }
        Some(Action::Delay { ms }) => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Some(Action::ExpireToken | Action::RevokeGrant) => {
            let mut oauth = lock(&world.oauth);
            if let Some(account) = account {
                match &action {
                    Some(Action::RevokeGrant) => oauth.revoke_account(account),
                    _ => oauth.expire_access(account, world.clock.now()),
                }
            }
            if of_data_api {
                return Reply::of_status(401, None, None, true);
            }
        }
        _ => {}
    }
    let mut reply = work(action.as_ref());
    match action {
        Some(Action::ReplyLost) => reply = Reply::dropped(),
        Some(Action::Truncate { bytes }) => reply.manner = Manner::Cut(bytes),
        Some(Action::Drip { ms_per_chunk }) => reply.manner = Manner::Drip(Duration::from_millis(ms_per_chunk)),
        Some(Action::Date { offset_s }) => reply.date_offset_s = offset_s,
        _ => {}
    }
    reply
}

/// The first route that fits, and what stands for its `:x`.
fn find<'a>(segments: &[&'a str]) -> Option<(&'static Route, Vec<&'a str>)> {
    let route = ROUTES.iter().find(|route| {
        let mut pattern = route.path[1..].split('/');
        let fits = |segment: &&str| {
            pattern.next().is_some_and(|p| if p.starts_with(':') { !segment.is_empty() } else { p == *segment })
        };
        segments.iter().all(fits) && pattern.next().is_none()
    })?;
    let captures = route.path[1..].split('/').zip(segments).filter(|(p, _)| p.starts_with(':')).map(|(_, s)| *s);
    Some((route, captures.collect()))
}

/// One request that has a route and a caller.
struct Ask<'a> {
    world: &'a World,
    route: &'static Route,
    captures: &'a [&'a str],
    path: &'a str,
    params: &'a Params,
    caller: &'a Caller,
    action: Option<&'a Action>,
}

/// A page before it is text. With more to come there is one position more than rows.
struct Page {
    rows: Vec<Arc<str>>,
    positions: Vec<Position>,
}

impl Ask<'_> {
    /// The reply, or as an error the refusal; both go to the client.
    fn serve(&self) -> Result<Reply, Reply> {
        for scope in [self.route.scope].iter().chain(self.route.serves.also()) {
            if !self.caller.may(&format!("{scope}:read:admin")) {
                return Err(forbidden());
            }
        }
        self.check_names()?;
        let expand = self.expand()?;
        for (field, scope) in [
            ("applications", "applications:read:admin"),
            ("contact", "contact:read:admin"),
            ("feedbackForms", "feedback:read:admin"),
        ] {
            if expand.iter().any(|(name, _)| *name == field) && !self.caller.may(scope) {
                return Err(forbidden());
            }
        }
        let confidential = self.confidentiality()?;
        let mut account = match self.world.accounts.get(&self.caller.account) {
            Some(account) => lock(account),
            None => return Err(Reply::of_status(401, None, None, true)),
        };
        let account = &mut *account;
        let id = self.captures.first().copied().unwrap_or("");
        match self.route.serves {
            Serves::Opportunities => self.opportunities(account, &expand, confidential),
            Serves::All(table) => {
                let rows = account.dump(table).unwrap_or_default();
                let is =
                    |name: &str, field: &Value| self.params.any(name, |v| field.to_string().trim_matches('"') == v);
                let rows: Vec<Value> =
                    rows.into_iter().filter(|r| is("type", &r["type"]) && is("isRequired", &r["isRequired"])).collect();
                Ok(single(&text(&rows.into())))
            }
            Serves::Dispositions => {
                let reasons = account.dump("archive_reasons").unwrap_or_default();
                let reasons: Vec<Value> = reasons
                    .into_iter()
                    .map(|mut r| {
                        if r["type"] == "non-hired" {
                            r["type"] = Value::Null;
                        }
                        r
                    })
                    .collect();
                let body = json!({"stages": account.disposition_stages(), "archiveReasons": reasons});
                Ok(single(&text(&body)))
            }
            Serves::Rows(table) => self.rows(account, table, &expand, confidential),
            Serves::Opportunity => {
                let slot = self.visible(account, id)?;
                Ok(single(&self.opportunity(account, slot, &expand)))
            }
            Serves::Applications => {
                let slot = self.parent(account, id)?;
                let position = Position { numbers: vec![0], id: id.into() };
                let application = account.application(slot).map(|a| a.into_owned()).map(|mut body| {
                    put_in_place(account, &mut body, &expand);
                    text(&body)
                });
                let rows: Vec<Arc<str>> = application.into_iter().collect();
                let positions = rows.iter().map(|_| position.clone()).collect();
                self.page(account, Page { rows, positions })
            }
            Serves::Application => {
                let slot = self.parent(account, id)?;
                let wanted = self.captures.get(1).copied().unwrap_or("");
                let application = account.application(slot).filter(|a| a["id"] == wanted).map(|a| a.into_owned());
                let mut body = application.ok_or_else(|| missing("applications", wanted))?;
                put_in_place(account, &mut body, &expand);
                Ok(single(&text(&body)))
            }
            Serves::Contact => {
                let hidden = account.contact_is_confidential(id) && !self.sees_confidential();
                let contact = account.contact(id).filter(|_| !hidden);
                Ok(single(&contact.ok_or_else(|| missing("contacts", id))?.to_string()))
            }
            Serves::Children(child) => {
                let slot = self.parent(account, id)?;
                self.children(account, slot, child, &expand)
            }
            Serves::Child(child) => {
                let slot = self.parent(account, id)?;
                let wanted = self.captures.get(1).copied().unwrap_or("");
                let row = account.child(slot, child, wanted).ok_or_else(|| missing(child.name(), wanted))?;
                Ok(single(&child_text(account, slot, row, &expand)))
            }
            Serves::Download(child) => {
                let slot = self.parent(account, id)?;
                let status = match (child, self.params.one("status")?) {
                    (Child::Offers, Some(status @ ("sent" | "signed"))) => status,
                    (Child::Offers, _) => return Err(bad("status must be sent or signed")),
                    _ => "",
                };
                let wanted = self.captures.get(1).copied().unwrap_or("");
                let wanted = Wanted { opportunity: id, child, id: wanted, status };
                let bytes = account.download(slot, &wanted)?;
                Ok(files::redirect(self.world, &self.caller.account, &wanted).unwrap_or(bytes))
            }
            Serves::OfPosting(of) => self.of_posting(account, id, of),
            Serves::Eeo(kind) => self.eeo(account, kind, &expand),
            Serves::Row(table) => {
                let mut row = self.row(account, table, id)?.clone();
                put_in_place(account, &mut row, &expand);
                Ok(single(&text(&row)))
            }
        }
    }

    /// The living opportunity of that id, unless it is confidential and the caller must not know of it.
    fn visible(&self, account: &Account, id: &str) -> Result<u32, Reply> {
        let slot = account.find(id);
        let may = |slot: &u32| !account.at(*slot).facts.confidential || self.sees_confidential();
        slot.filter(may).ok_or_else(|| missing("opportunities", id))
    }

    /// The living opportunity that something hangs on. What hangs on a confidential one is refused, not hidden: nobody
    /// learns of it but who saw the opportunity before it became confidential.
    fn parent(&self, account: &Account, id: &str) -> Result<u32, Reply> {
        match account.find(id) {
            None => Err(missing("opportunities", id)),
            Some(slot) if account.at(slot).facts.confidential && !self.sees_confidential() => Err(forbidden()),
            Some(slot) => Ok(slot),
        }
    }

    fn sees_confidential(&self) -> bool {
        self.caller.may("confidential:access:admin")
    }

    /// The row of a small table, likewise.
    fn row<'a>(&self, account: &'a Account, table: &str, id: &str) -> Result<&'a Value, Reply> {
        let row = account.table(table).and_then(|rows| rows.get(id));
        let row = row.filter(|row| row["confidentiality"] != "confidential" || self.sees_confidential());
        row.ok_or_else(|| missing(table, id))
    }

    /// One record as text; the expansions that a sync asks for come from the kept text.
    fn opportunity(&self, account: &mut Account, slot: u32, expand: &[(&'static str, &'static str)]) -> Arc<str> {
        let has = |field: &str| expand.iter().any(|(name, _)| *name == field);
        let (applications, contact) = (has("applications"), has("contact"));
        if expand.len() == usize::from(applications) + usize::from(contact) {
            return account.json(slot, applications, contact);
        }
        let mut body = account.expanded(slot, applications, contact);
        put_in_place(account, &mut body, expand);
        text(&body)
    }

    /// The main listing. Its order is the same under every filter: what a filter does to it is undocumented.
    fn opportunities(
        &self,
        account: &mut Account,
        expand: &[(&'static str, &'static str)],
        confidential: Option<bool>,
    ) -> Result<Reply, Reply> {
        let p = self.params;
        let [created, updated, advanced, archived_at] =
            [p.range("created_at")?, p.range("updated_at")?, p.range("advanced_at")?, p.range("archived_at")?];
        let (archived, snoozed) = (p.flag("archived")?, p.flag("snoozed")?);
        let now = self.world.clock.now().ms();
        let limit = p.limit(PAGE_ROWS)?;
        let start = self.start(account)?;
        account.before_listing(now);
        let by_body: Vec<(&str, Vec<&str>)> = [
            "email",
            "tag",
            "origin",
            "source",
            "stage_id",
            "contact_id",
            "posting_id",
            "archived_posting_id",
            "archive_reason_id",
        ]
        .into_iter()
        .map(|name| (name, p.all(name)))
        .filter(|(_, values)| !values.is_empty())
        .collect();
        let span = |updated, range: Range| {
            let (from, to) = (range.start.unwrap_or(i64::MIN), range.end.unwrap_or(i64::MAX));
            range.is_set().then_some(Span { updated, from, to })
        };
        let span = span(false, created).or_else(|| span(true, updated));
        if let Some(span) = span {
            account.narrow(span);
        }
        let wanted = |o: &Opportunity, slot: u32| {
            let f = &o.facts;
            confidential.is_none_or(|wanted| wanted == f.confidential)
                && created.holds(Some(f.created))
                && updated.holds(f.updated)
                && advanced.holds(f.advanced)
                && archived_at.holds(f.archived_at)
                && archived.is_none_or(|wanted| wanted == f.archived_at.is_some())
                && snoozed.is_none_or(|wanted| wanted == f.snoozed_until.is_some_and(|until| until > now))
                && (by_body.is_empty() || matches_body(account, slot, &by_body))
        };
        let mut slots = account.select(start.as_ref(), limit, span, wanted);
        let positions = slots.iter().map(|slot| account.position(*slot)).collect();
        slots.truncate(limit);
        let rows = slots.into_iter().map(|slot| self.opportunity(account, slot, expand)).collect();
        self.page(account, Page { rows, positions })
    }

    /// A small listing. Parameters were checked against the route, so one predicate serves all tables.
    fn rows(
        &self,
        account: &mut Account,
        table: &'static str,
        expand: &[(&'static str, &'static str)],
        confidential: Option<bool>,
    ) -> Result<Reply, Reply> {
        let p = self.params;
        let ranges = [
            ("createdAt", p.range("created_at")?),
            ("updatedAt", p.range("updated_at")?),
            ("deletedAt", p.range("deleted_at")?),
        ];
        let alone = ["updated_at_start", "updated_at_end", "confidentiality", "limit", "offset"];
        if table == "postings" && ranges[1].1.is_set() && p.0.iter().any(|(name, _)| !alone.contains(&name.as_str())) {
            return Err(bad("updated_at_start and updated_at_end may be combined only with confidentiality"));
        }
        if !p.all("target_id").is_empty() && p.all("target_type").is_empty() {
            return Err(bad("target_id needs target_type"));
        }
        let with_deactivated = table != "users" || p.flag("includeDeactivated")? == Some(true);
        let limit = p.limit(if table == "applications_deleted" { FEW_ROWS } else { PAGE_ROWS })?;
        let start = self.start(account)?;
        // The public site shows what is published in public, unless a channel is named.
        let public_only = p.all("state").contains(&"published") && p.all("distributionChannel").is_empty();
        let wanted = |row: &Value| {
            let is = |name: &str, field: &Value| p.any(name, |value| contains(field, value));
            let categories = &row["categories"];
            confidential.is_none_or(|wanted| wanted == (row["confidentiality"] == "confidential"))
                && ranges.iter().all(|(field, range)| range.holds(row[*field].as_i64()))
                && (with_deactivated || row["deactivatedAt"].is_null())
                && (!public_only || contains(&row["distributionChannels"], "public"))
                && is("email", &row["email"])
                && is("accessRole", &row["accessRole"])
                && is("accessRole[]", &row["accessRole"])
                && is("external_directory_id", &row["externalDirectoryId"])
                && is("state", &row["state"])
                && is("distributionChannel", &row["distributionChannels"])
                && ["team", "department", "location", "commitment", "level"]
                    .iter()
                    .all(|name| is(name, &categories[*name]))
                && is("tag", &row["tags"])
                && is("requisition_code", &row["requisitionCode"])
                && is("status", &row["status"])
                && is("type", &row["type"])
                && p.any(
                    "user_id",
                    |id| if id == "null" { row["user"].is_null() } else { contains(&row["user"]["id"], id) },
                )
                && is("target_type", &row["target"]["type"])
                && is("target_id", &row["target"]["id"])
        };
        let Some(rows) = account.table(table) else { return Err(missing("path", self.path)) };
        let mut keys = rows.select(start.as_ref(), limit, wanted);
        let positions = keys.iter().map(|key| rows.position(key)).collect();
        keys.truncate(limit);
        let rows = keys.iter().filter_map(|key| {
            if expand.is_empty() {
                return account.table_mut(table)?.json(key);
            }
            let mut row = account.table(table)?.get(key)?.clone();
            put_in_place(account, &mut row, expand);
            Some(text(&row))
        });
        let rows = rows.collect();
        self.page(account, Page { rows, positions })
    }

    /// A listing below an opportunity, the newest first.
    fn children(
        &self,
        account: &mut Account,
        slot: u32,
        child: Child,
        expand: &[(&'static str, &'static str)],
    ) -> Result<Reply, Reply> {
        let p = self.params;
        let (uploaded, occurred) = (p.range("uploaded_at")?, p.range("occurred_at")?);
        let limit = p.limit(PAGE_ROWS)?;
        let start = self.start(account)?;
        let first = start.as_ref().map(|at| at.numbers.first().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0));
        let wanted = |row: &Value| match child {
            Child::Files => uploaded.holds(time(&row["uploadedAt"])),
            // A resume without an upload goes by its creation.
            Child::Resumes => uploaded.holds(time(&row["file"]["uploadedAt"]).or_else(|| time(&row["createdAt"]))),
            Child::FileActions => occurred.holds(time(&row["occurredAt"])),
            _ => true,
        };
        let mut rows = account.child_rows(slot, child, first, limit, wanted);
        if rows.is_empty() && account.answers_404(slot, child) {
            return Err(missing(child.name(), self.captures.first().copied().unwrap_or("")));
        }
        let position = |(n, row): &(usize, Value)| Position {
            numbers: vec![i64::try_from(*n).unwrap_or(0)],
            id: row["id"].as_str().unwrap_or("").into(),
        };
        let positions = rows.iter().map(position).collect();
        rows.truncate(limit);
        let rows = rows.into_iter().map(|(_, row)| child_text(account, slot, row, expand)).collect();
        self.page(account, Page { rows, positions })
    }

    /// What is below a posting.
    fn of_posting(&self, account: &mut Account, id: &str, of: OfPosting) -> Result<Reply, Reply> {
        let p = self.params;
        let row = account.table("postings").and_then(|rows| rows.get(id)).ok_or_else(|| missing("postings", id))?;
        if row["confidentiality"] == "confidential" && !self.sees_confidential() {
            return Err(forbidden());
        }
        let mut body = account.of_posting(of, row);
        match of {
            OfPosting::Apply => {
                match p.one("distribution")? {
                    None => {}
                    Some(way @ ("internal" | "external")) => posting::keep_distribution(&mut body, way),
                    Some(_) => return Err(bad("distribution must be internal or external")),
                }
                Ok(single(&text(&body)))
            }
            OfPosting::Users => Ok(Reply::json(200, text(&body).to_string())),
            OfPosting::Surveys => {
                let limit = p.limit(PAGE_ROWS)?;
                let start = self.start(account)?;
                let wanted = |row: &&Value| {
                    p.any("country_code", |code| contains(&row["candidateLocations"]["countryCodes"], code))
                        && p.any("location", |place| contains(&row["postingLocations"], place))
                };
                let rows = body
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(wanted)
                    .skip_while(|row| start.as_ref().is_some_and(|start| row["id"] != start.id.as_str()));
                let rows: Vec<&Value> = rows.take(limit + 1).collect();
                let position = |row: &&Value| Position { numbers: vec![], id: row["id"].as_str().unwrap_or("").into() };
                let positions = rows.iter().map(position).collect();
                let rows = rows.into_iter().take(limit).map(text).collect();
                self.page(account, Page { rows, positions })
            }
        }
    }

    /// Answers for the statistics; each bound that is not given is that of the last week.
    fn eeo(&self, account: &mut Account, kind: Eeo, expand: &[(&'static str, &'static str)]) -> Result<Reply, Reply> {
        let p = self.params;
        let now = self.world.clock.now().ms();
        let asked = match kind {
            Eeo::Anonymous => Range { start: p.time("fromDate")?, end: p.time("toDate")? },
            Eeo::Personal => p.range("created_at")?,
        };
        let times = asked.start.unwrap_or(now - eeo::USUAL_WINDOW_MS)..=asked.end.unwrap_or(now);
        let limit = p.limit(PAGE_ROWS)?;
        let start = self.start(account)?;
        let found = account.eeo_rows(kind, start.as_ref(), limit, &times);
        let (positions, mut rows): (Vec<Position>, Vec<Value>) = found.into_iter().unzip();
        rows.truncate(limit);
        for row in &mut rows {
            put_in_place(account, row, expand);
            if expand.iter().any(|(field, _)| *field == "contact")
                && let Some(contact) = row["contact"].as_str().and_then(|id| account.contact(id))
            {
                row["contact"] = contact.into_owned();
            }
        }
        let rows = rows.iter().map(text).collect();
        self.page(account, Page { rows, positions })
    }

    /// What a token belongs to: the path and every parameter but the token.
    fn query(&self) -> String {
        let mut params: Vec<String> = self
            .params
            .0
            .iter()
            .filter(|(name, _)| name != "offset")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        params.sort();
        format!("{}?{}", self.path, params.join("&"))
    }

    /// Where the page begins: at the token's place under the data as they are now, which may have moved.
    fn start(&self, account: &Account) -> Result<Option<Position>, Reply> {
        let Some(token) = self.params.one("offset")? else { return Ok(None) };
        let known = account.issued.knows(&self.query(), token);
        Position::from_token(token).filter(|_| known).map(Some).ok_or_else(|| bad("Invalid offset token"))
    }

    /// The envelope, with what the script wants done to it.
    fn page(&self, account: &mut Account, page: Page) -> Result<Reply, Reply> {
        let Page { mut rows, positions } = page;
        let mut next = positions.get(rows.len()).map(Position::token);
        let middle = rows.len() / 2;
        match self.action {
            Some(Action::DuplicateRow) if rows.len() > 1 && next.is_some() => {
                next = positions.get(rows.len() - 1).map(Position::token);
            }
            Some(Action::RepeatNext) => next = self.params.one("offset")?.map(str::to_owned),
            Some(Action::BadRow) => {
                if let Some(row) = rows.get_mut(middle) {
                    *row = "\"this is no record\"".into();
                }
            }
            Some(Action::NoKey) => {
                if let Some(row) = rows.get_mut(middle)
                    && let Ok(mut body) = serde_json::from_str::<Value>(row)
                    && let Some(object) = body.as_object_mut()
                {
                    let key = if object.contains_key("id") { "id" } else { "text" };
                    object.remove(key);
                    *row = text(&body);
                }
            }
            _ => {}
        }
        if let Some(next) = &next {
            account.issued.remember(&self.query(), next);
        }
        let lost = self.action == Some(&Action::MissingNext);
        let mut out = String::with_capacity(rows.iter().map(|row| row.len() + 1).sum::<usize>() + 160);
        out.push_str("{\"data\":[");
        for (n, row) in rows.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push_str(row);
        }
        out.push(']');
        if let Some(next) = next.as_ref().filter(|_| !lost) {
            out.push_str(",\"next\":");
            out.push_str(&Value::from(next.as_str()).to_string());
        }
        out.push_str(if next.is_some() || lost { ",\"hasNext\":true}" } else { ",\"hasNext\":false}" });
        Ok(Reply::json(200, out))
    }

    /// Refuses parameters that the endpoint does not have.
    fn check_names(&self) -> Result<(), Reply> {
        let listing = matches!(
            self.route.serves,
            Serves::Opportunities
                | Serves::Rows(_)
                | Serves::Applications
                | Serves::Children(_)
                | Serves::Eeo(_)
                | Serves::OfPosting(OfPosting::Surveys)
        );
        for (name, _) in &self.params.0 {
            let time = name.strip_suffix("_start").or(name.strip_suffix("_end")).filter(|time| time.ends_with("_at"));
            let known = match (name.as_str(), time) {
                ("limit" | "offset", _) => listing,
                ("expand", _) => !self.route.expand.is_empty(),
                (_, Some(time)) => self.route.params.contains(&time),
                (name, None) => self.route.params.contains(&name) && !name.ends_with("_at"),
            };
            if !known {
                return Err(bad(&format!("{name} is not a parameter of this endpoint")));
            }
        }
        Ok(())
    }

    /// The fields to expand, each once.
    fn expand(&self) -> Result<Vec<(&'static str, &'static str)>, Reply> {
        let mut all: Vec<(&'static str, &'static str)> = Vec::new();
        for field in self.params.all("expand") {
            let known = self.route.expand.iter().find(|(name, _)| *name == field);
            let known = known.ok_or_else(|| bad(&format!("{field} cannot be expanded")))?;
            if !all.contains(known) {
                all.push(*known);
            }
        }
        Ok(all)
    }

    /// `Some(false)` unless asked otherwise, which needs a scope of its own; `None` for both kinds.
    fn confidentiality(&self) -> Result<Option<bool>, Reply> {
        let has = self.route.params.contains(&"confidentiality");
        let wanted = match self.params.one("confidentiality")? {
            None => return Ok(has.then_some(false)),
            Some("non-confidential") => return Ok(Some(false)),
            Some("confidential") => Some(true),
            Some("all") => None,
            Some(_) => return Err(bad("confidentiality must be non-confidential, confidential or all")),
        };
        if self.sees_confidential() { Ok(wanted) } else { Err(forbidden()) }
    }
}

fn single(row: &str) -> Reply {
    Reply::json(200, format!("{{\"data\":{row}}}"))
}

/// Puts whole objects in place of ids. Where the target is gone the id stays.
fn put_in_place(account: &Account, body: &mut Value, expand: &[(&'static str, &'static str)]) {
    for (field, table) in expand {
        let Some(rows) = account.table(table) else { continue };
        let replace = |value: &mut Value| {
            if let Some(row) = value.as_str().and_then(|id| rows.get(id)) {
                *value = row.clone();
            }
        };
        match body.get_mut(*field) {
            Some(Value::Array(items)) => items.iter_mut().for_each(replace),
            Some(value) => replace(value),
            None => {}
        }
    }
}

/// A child as it goes out.
fn child_text(account: &Account, slot: u32, mut row: Value, expand: &[(&'static str, &'static str)]) -> Arc<str> {
    put_in_place(account, &mut row, expand);
    if expand.iter().any(|(field, _)| *field == "feedbackForms") {
        for form in row["feedbackForms"].as_array_mut().into_iter().flatten() {
            if let Some(feedback) = form.as_str().and_then(|id| account.child(slot, Child::Feedback, id)) {
                *form = feedback;
            }
        }
    }
    text(&row)
}

/// A time, or its text.
fn time(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// The filters that look into the record; several values of one mean any of them.
fn matches_body(account: &Account, slot: u32, filters: &[(&str, Vec<&str>)]) -> bool {
    let body = account.body(slot);
    let application = account.application(slot);
    let posting = application.as_ref().map_or(&Value::Null, |a| &a["posting"]);
    let nothing = Value::Null;
    filters.iter().all(|(name, values)| {
        let field = match *name {
            "email" => &body["emails"],
            "tag" => &body["tags"],
            "source" => &body["sources"],
            "stage_id" => &body["stage"],
            "contact_id" => &body["contact"],
            "archive_reason_id" => &body["archived"]["reason"],
            "posting_id" => posting,
            "archived_posting_id" => {
                if body["archived"].is_null() {
                    &nothing
                } else {
                    posting
                }
            }
            name => &body[name],
        };
        values.iter().any(|value| contains(field, value))
    })
}

/// A text that is the value, or a list that has it.
fn contains(field: &Value, value: &str) -> bool {
    match field {
        Value::Array(items) => items.iter().any(|item| item == value),
        field => field == value,
    }
}

/// The query, decoded once.
struct Params(Vec<(String, String)>);

impl Params {
    fn parse(query: &str) -> Self {
        Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// True when the parameter is absent or one of its values will do.
    fn any(&self, name: &str, accept: impl Fn(&str) -> bool) -> bool {
        let values = self.all(name);
        values.is_empty() || values.into_iter().any(accept)
    }

    fn one(&self, name: &str) -> Result<Option<&str>, Reply> {
        match self.all(name).as_slice() {
            [] => Ok(None),
            [value] => Ok(Some(value)),
            _ => Err(bad(&format!("{name} is given more than once"))),
        }
    }

    fn time(&self, name: &str) -> Result<Option<i64>, Reply> {
        let parse = |text: &str| text.parse().map_err(|_| bad(&format!("{name} must be a time in milliseconds")));
        self.one(name)?.map(parse).transpose()
    }

    fn range(&self, name: &str) -> Result<Range, Reply> {
        Ok(Range { start: self.time(&format!("{name}_start"))?, end: self.time(&format!("{name}_end"))? })
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Reply> {
        match self.one(name)? {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(&format!("{name} must be true or false"))),
        }
    }

    fn limit(&self, usual: usize) -> Result<usize, Reply> {
        let Some(text) = self.one("limit")? else { return Ok(usual) };
        let limit = text.parse().ok().filter(|n| (1..=PAGE_ROWS).contains(n));
        limit.ok_or_else(|| bad("limit must be between 1 and 100"))
    }
}

/// A time filter, inclusive at both ends; a null time never passes one.
#[derive(Clone, Copy)]
struct Range {
    start: Option<i64>,
    end: Option<i64>,
}

impl Range {
    /// Whether either bound was sent.
    fn is_set(self) -> bool {
        self.start.is_some() || self.end.is_some()
    }

    fn holds(self, time: Option<i64>) -> bool {
        match time {
            Some(time) => self.start.is_none_or(|start| start <= time) && self.end.is_none_or(|end| time <= end),
            None => !self.is_set(),
        }
    }
}
