//! The sandbox over its own sockets, on paused time, spoken to as an ordinary HTTP client would.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::{Response, StatusCode, redirect};
use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;

const NOW: i64 = 1_750_000_000_000;
const ALL: &str = "offline_access applications:read:admin archive_reasons:read:admin contact:read:admin \
    opportunities:read:admin postings:read:admin requisitions:read:admin sources:read:admin stages:read:admin \
    tags:read:admin users:read:admin";
/// Everything below an opportunity.
const CHILDREN: [&str; 10] =
    ["feedback", "files", "file_actions", "interviews", "notes", "offers", "panels", "referrals", "resumes", "forms"];
const SINGLE: [&str; 8] = ["feedback", "files", "interviews", "notes", "panels", "referrals", "resumes", "forms"];

struct Bed {
    running: Running,
    control: Control,
    http: reqwest::Client,
    token: String,
}

fn options(opportunities: usize) -> Options {
    Options {
        accounts: vec![AccountSize::new("acme", opportunities), AccountSize::new("birch", 20)],
        clock: Clock::starting_at(Timestamp::from_ms(NOW)),
        ..Options::default()
    }
}

impl Bed {
    async fn of(options: Options) -> Self {
        let running = start(options).await.unwrap();
        let control = running.control();
        let http = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let token = control.grant("acme", "sandbox-client", ALL).unwrap().access_token;
        Self { running, control, http, token }
    }

    async fn new(opportunities: usize) -> Self {
        Self::of(options(opportunities)).await
    }

    /// With every scope there is.
    async fn open(opportunities: usize) -> Self {
        let mut bed = Self::new(opportunities).await;
        bed.grant(&Client::default().scopes.join(" ").replace("confidential:access:admin ", ""));
        bed
    }

    fn grant(&mut self, scopes: &str) {
        self.token = self.control.grant("acme", "sandbox-client", scopes).unwrap().access_token;
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.running.url())).bearer_auth(&self.token).query(query)
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Response {
        self.get(path, query).send().await.unwrap()
    }

    async fn page(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let response = self.ask(path, query).await;
        let status = response.status();
        let body = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path} {query:?}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn status(&self, path: &str, query: &[(&str, &str)]) -> u16 {
        self.ask(path, query).await.status().as_u16()
    }

    /// Every row, page by page, as the reference says one should.
    async fn walk(&self, path: &str, query: &[(&str, &str)]) -> Vec<Value> {
        let (mut rows, mut next) = (vec![], None::<String>);
        loop {
            let mut query = query.to_vec();
            if let Some(next) = &next {
                query.push(("offset", next));
            }
            let mut page = self.page(path, &query).await;
            rows.append(page["data"].as_array_mut().unwrap());
            next = page["next"].as_str().map(Into::into);
            assert_eq!(page["hasNext"], next.is_some());
            if next.is_none() {
                return rows;
            }
        }
    }

    async fn token_request(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let mut form = form.to_vec();
        form.extend([("client_id", "sandbox-client"), ("client_secret", "sandbox-secret")]);
        self.post("/oauth/token", &form).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let response = self.http.post(format!("{}{path}", self.running.url())).form(form).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn refresh(&self, token: &str) -> (u16, Value) {
        self.token_request(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    fn fault(&self, route: &str, action: Action) {
        self.control.fault(Fault { route: route.into(), account: None, skip: 0, times: 1, action });
    }

    async fn authorize(&self, changed: &[(&str, &str)]) -> Response {
        let audience = format!("{}/v1/", self.running.url());
        let mut query = vec![
            ("client_id", "sandbox-client"),
            ("redirect_uri", "http://127.0.0.1:8765/callback"),
            ("response_type", "code"),
            ("state", "s 1"),
            ("scope", "offline_access users:read:admin stages:write:admin"),
            ("audience", &audience),
        ];
        for (name, value) in changed {
            query.retain(|(known, _)| known != name);
            if !value.is_empty() {
                query.push((name, value));
            }
        }
        self.http.get(format!("{}/authorize", self.running.url())).query(&query).send().await.unwrap()
    }
}

fn location(response: &Response) -> url::Url {
    assert_eq!(response.status(), StatusCode::FOUND);
    response.headers()["location"].to_str().unwrap().parse().unwrap()
}

fn param(url: &url::Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn ids(rows: &[Value]) -> BTreeSet<&str> {
    rows.iter().map(|row| row["id"].as_str().unwrap()).collect()
}

fn code_of(grant: &Value) -> String {
    grant["refresh_token"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_quiet_listing_is_walked_record_by_record() {
    let bed = Bed::new(150).await;
    for (path, query, truth) in [
        ("/v1/opportunities", vec![("limit", "7")], "opportunities"),
        (
            "/v1/opportunities",
            vec![("expand", "applications"), ("expand", "contact"), ("limit", "40")],
            "opportunities_expanded",
        ),
        ("/v1/users", vec![("includeDeactivated", "true"), ("limit", "5")], "users"),
        ("/v1/postings", vec![("limit", "3")], "postings"),
        ("/v1/requisitions", vec![("limit", "2")], "requisitions"),
        ("/v1/stages", vec![("limit", "4")], "stages"),
        ("/v1/archive_reasons", vec![("limit", "1")], "archive_reasons"),
        ("/v1/sources", vec![("limit", "2")], "sources"),
        ("/v1/tags", vec![("limit", "3")], "tags"),
        ("/v1/opportunities/deleted", vec![("limit", "1")], "opportunities/deleted"),
        ("/v1/applications/deleted", vec![], "applications/deleted"),
        ("/v1/postings/deleted", vec![("limit", "2")], "postings/deleted"),
    ] {
        let truth = bed.control.dump("acme", truth).unwrap();
        assert!(!truth.is_empty());
        assert_eq!(bed.walk(path, &query).await, truth, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_offset_must_come_back_encoded_again() {
    let bed = Bed::new(30).await;
    let page = bed.page("/v1/opportunities", &[("limit", "10")]).await;
    let next = page["next"].as_str().unwrap();
    assert!(next.starts_with("%5B") && next.ends_with("%22%5D"), "{next}");
    let request = bed.get("/v1/opportunities", &[("limit", "10"), ("offset", next)]).build().unwrap();
    assert!(request.url().query().unwrap().contains("offset=%255B"));
    assert_eq!(bed.http.execute(request).await.unwrap().status(), 200);

    let raw = |offset: &str| {
        let url = format!("{}/v1/opportunities?limit=10&offset={offset}", bed.running.url());
        let request = bed.http.get(url).bearer_auth(&bed.token);
        async move { request.send().await.unwrap() }
    };
    let once = raw(next).await;
    assert_eq!(once.status(), 400);
    assert_eq!(
        once.json::<Value>().await.unwrap(),
        json!({"code": "BadRequestError", "message": "Invalid offset token"})
    );
    assert_eq!(raw(&next.replace('%', "%2525")).await.status(), 400);
    assert_eq!(raw(&next.replace('%', "%25")).await.status(), 200);
    for query in [
        vec![("limit", "11"), ("offset", next)],
        vec![("limit", "10"), ("archived", "true"), ("offset", next)],
        vec![("limit", "10"), ("offset", next), ("offset", next)],
        vec![("limit", "10"), ("offset", "%5B3%2C4%2C%22x%22%5D")],
        vec![("limit", "10"), ("offset", "")],
    ] {
        assert_eq!(bed.status("/v1/opportunities", &query).await, 400, "{query:?}");
    }
    assert_eq!(bed.status("/v1/users", &[("limit", "10"), ("offset", next)]).await, 400);
}

#[tokio::test(start_paused = true)]
async fn time_filters_include_both_ends_and_never_a_null() {
    let bed = Bed::new(400).await;
    let truth = bed.control.dump("acme", "opportunities").unwrap();
    let created: Vec<i64> = truth.iter().map(|o| o["createdAt"].as_i64().unwrap()).collect();
    let one = created[5].to_string();
    let rows = bed.walk("/v1/opportunities", &[("created_at_start", &one), ("created_at_end", &one)]).await;
    assert_eq!(rows, [truth[5].clone()]);

    let rows = bed.walk("/v1/opportunities", &[("updated_at_start", "0")]).await;
    let dated: Vec<Value> = truth.iter().filter(|o| !o["updatedAt"].is_null()).cloned().collect();
    assert!(dated.len() < truth.len());
    assert_eq!(rows, dated);

    let undated = truth.iter().find(|o| o["updatedAt"].is_null()).unwrap()["id"].as_str().unwrap();
    assert!(bed.control.archive("acme", undated));
    let now = NOW.to_string();
    let rows = bed.walk("/v1/opportunities", &[("updated_at_start", &now), ("archived", "true")]).await;
    assert_eq!(ids(&rows), BTreeSet::from([undated]));

    let gone = bed.control.dump("acme", "opportunities/deleted").unwrap();
    let at = gone[1]["deletedAt"].to_string();
    let rows = bed.walk("/v1/opportunities/deleted", &[("deleted_at_end", &at)]).await;
    assert_eq!(rows, gone[..=1]);
}

#[tokio::test(start_paused = true)]
async fn filters_take_several_values() {
    let bed = Bed::new(300).await;
    let truth = bed.control.dump("acme", "opportunities").unwrap();
    let expect = |test: &dyn Fn(&Value) -> bool| truth.iter().filter(|o| test(o)).cloned().collect::<Vec<_>>();
    let rows = bed.walk("/v1/opportunities", &[("stage_id", "offer"), ("stage_id", "lead-new")]).await;
    assert_eq!(rows, expect(&|o| o["stage"] == "offer" || o["stage"] == "lead-new"));
    let rows = bed.walk("/v1/opportunities", &[("tag", "Área técnica"), ("archived", "false")]).await;
    assert_eq!(
        rows,
        expect(&|o| o["archived"].is_null() && o["tags"].as_array().unwrap().contains(&json!("Área técnica")))
    );
    assert!(!rows.is_empty());
    let all = bed.control.dump("acme", "users").unwrap();
    assert!(bed.walk("/v1/users", &[]).await.len() < all.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_confidential_takes_a_scope_and_a_word() {
    let mut bed = Bed::new(100).await;
    let all = [("confidentiality", "all")];
    assert_eq!(bed.status("/v1/opportunities", &all).await, 403);
    let scopes = format!("{ALL} confidential:access:admin");
    bed.token = bed.control.grant("acme", "sandbox-client", &scopes).unwrap().access_token;
    assert_eq!(bed.walk("/v1/opportunities", &[]).await.len(), 100);
    assert_eq!(bed.walk("/v1/opportunities", &all).await.len(), 102);
    let hidden = bed.walk("/v1/opportunities", &[("confidentiality", "confidential")]).await;
    let path = format!("/v1/opportunities/{}", hidden[0]["id"].as_str().unwrap());
    assert_eq!(bed.status(&path, &[]).await, 200);
    bed.token = bed.control.grant("acme", "sandbox-client", ALL).unwrap().access_token;
    assert_eq!(bed.status(&path, &[]).await, 404);
}

#[tokio::test(start_paused = true)]
async fn expanding_puts_objects_in_place_of_ids() {
    let bed = Bed::new(120).await;
    let fields = ["applications", "contact", "stage", "owner", "followers", "sourcedBy"];
    let query: Vec<(&str, &str)> = fields.iter().map(|field| ("expand", *field)).collect();
    let rows = bed.walk("/v1/opportunities", &query).await;
    for row in &rows {
        assert!(row["contact"]["emails"].is_array() && row["stage"]["text"].is_string(), "{row}");
        assert!(row["owner"].is_null() || row["owner"]["accessRole"].is_string());
        assert!(row["followers"].as_array().unwrap().iter().all(|f| f["email"].is_string()));
        assert!(row["applications"].as_array().unwrap().iter().all(|a| a["opportunityId"] == row["id"]));
    }
    let applied = rows.iter().find(|row| row["applications"].get(0).is_some()).unwrap();
    let path = format!("/v1/opportunities/{}/applications", applied["id"].as_str().unwrap());
    assert_eq!(bed.page(&path, &[]).await["data"], applied["applications"]);
    let one = format!("{path}/{}", applied["applications"][0]["id"].as_str().unwrap());
    assert!(bed.page(&one, &[("expand", "posting")]).await["data"]["posting"]["state"].is_string());
    let contact = format!("/v1/contacts/{}", applied["contact"]["id"].as_str().unwrap());
    assert_eq!(bed.page(&contact, &[]).await["data"], applied["contact"]);

    assert!(bed.control.remove_stage("acme", "offer"));
    let rows = bed.walk("/v1/opportunities", &[("expand", "stage"), ("stage_id", "offer")]).await;
    assert!(!rows.is_empty() && rows.iter().all(|row| row["stage"] == "offer"));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_parameter_is_a_400() {
    let bed = Bed::new(10).await;
    for (path, name, value) in [
        ("/v1/opportunities", "limit", "0"),
        ("/v1/opportunities", "limit", "101"),
        ("/v1/opportunities", "limit", "ten"),
        ("/v1/opportunities", "updated_at_start", "2024-01-01"),
        ("/v1/opportunities", "created_at_end", ""),
        ("/v1/opportunities", "updated_at", "1"),
        ("/v1/opportunities", "update_at_start", "1"),
        ("/v1/opportunities", "expand", "posting"),
        ("/v1/opportunities", "archived", "yes"),
        ("/v1/opportunities", "archived_start", "1"),
        ("/v1/opportunities", "confidentiality", "both"),
        ("/v1/opportunities", "deleted_at_start", "1"),
        ("/v1/stages", "expand", "owner"),
        ("/v1/stages", "updated_at_start", "1"),
        ("/v1/requisitions", "updated_at_start", "1"),
        ("/v1/postings", "group", "team"),
    ] {
        assert_eq!(bed.status(path, &[(name, value)]).await, 400, "{path}?{name}={value}");
    }
    let updated = ("updated_at_start", "0");
    assert_eq!(bed.status("/v1/postings", &[updated, ("limit", "100")]).await, 200);
    assert_eq!(bed.status("/v1/postings", &[updated, ("state", "closed")]).await, 400);
    assert_eq!(bed.status("/v1/postings", &[updated, ("expand", "owner")]).await, 400);
    for path in
        ["/v1/nonsense", "/v1/opportunities/", "/v1/opportunities/x", "/v1/tags/priority", "/v1/contacts", "/v2/users"]
    {
        assert_eq!(bed.status(path, &[]).await, 404, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_more_than_granted() {
    let mut bed = Bed::new(10).await;
    let key = bed.control.api_key("birch").unwrap();
    let get = |path: &str| bed.http.get(format!("{}{path}", bed.running.url()));
    for (request, status) in [
        (get("/v1/users"), 401),
        (get("/v1/users").bearer_auth("nonsense"), 401),
        (get("/v1/users").bearer_auth("eyJraWQiOiJvdGhlciJ9.e30.x"), 403),
        (get("/v1/users").basic_auth(&key, Some("")), 200),
        (get("/v1/users").basic_auth(&key, Some("x")), 401),
        (get("/v1/users").basic_auth("nokey", Some("")), 401),
        (get("/v1/opportunities").query(&[("confidentiality", "all")]).basic_auth(&key, Some("")), 200),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let scopes = "opportunities:write:admin users:read:admin";
    let client = Client {
        id: "writer".into(),
        scopes: vec!["opportunities:write:admin".into(), "users:read:admin".into()],
        ..Client::default()
    };
    bed = Bed::of(Options { clients: vec![client, Client::default()], ..options(10) }).await;
    let grant = bed.control.grant("acme", "writer", &format!("{scopes} tags:read:admin")).unwrap();
    assert_eq!((grant.scope.as_str(), &grant.refresh_token), (scopes, &None));
    bed.token = grant.access_token;
    assert_eq!(bed.status("/v1/opportunities", &[]).await, 200);
    assert_eq!(bed.status("/v1/opportunities", &[("expand", "contact")]).await, 403);
    assert_eq!(bed.status("/v1/opportunities", &[("expand", "applications")]).await, 403);
    let denied = bed.ask("/v1/tags", &[]).await;
    assert_eq!(denied.status(), 403);
    let message = denied.json::<Value>().await.unwrap()["message"].clone();
    assert_eq!(message, "The key you provided does not have access to this endpoint");
}

#[tokio::test(start_paused = true)]
async fn the_bucket_empties_and_fills() {
    let rate = Some(Limit { per_second: 10.0, burst: 20 });
    let bed = Bed::of(Options { rate, ..options(10) }).await;
    let statuses = |n: usize| {
        let all = (0..n).map(|_| bed.status("/v1/stages", &[]));
        futures::future::join_all(all)
    };
    let first = statuses(30).await;
    assert_eq!(first.iter().filter(|status| **status == 200).count(), 20);
    assert_eq!(first.iter().filter(|status| **status == 429).count(), 10);
    let refused = bed.ask("/v1/stages", &[]).await;
    assert!(refused.headers().get("retry-after").is_none());
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "TooManyRequests");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(statuses(10).await.iter().filter(|status| **status == 200).count(), 5);
    assert_eq!(bed.control.stats().refused_429, 16);
    let other = bed.control.grant("birch", "sandbox-client", ALL).unwrap().access_token;
    let url = format!("{}/v1/stages", bed.running.url());
    assert_eq!(bed.http.get(url).bearer_auth(other).send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_its_time() {
    let bed = Bed::of(Options { latency: Duration::from_millis(250), ..options(10) }).await;
    let before = tokio::time::Instant::now();
    assert_eq!(bed.status("/v1/stages", &[]).await, 200);
    assert!(before.elapsed() >= Duration::from_millis(250));
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let reply = bed.ask("/v1/stages", &[]).await;
    assert_eq!(reply.status(), 401);
    let date = httpdate::parse_http_date(reply.headers()["date"].to_str().unwrap()).unwrap();
    let off = Timestamp::from_system(date).since(Timestamp::from_ms(NOW)).as_secs();
    assert!((86_400..86_403).contains(&off), "{off}");
    assert_eq!(reply.headers()["x-lever-region"], "global");
}

#[tokio::test(start_paused = true)]
async fn a_customer_consents_by_form() {
    let bed = Bed::new(10).await;
    let page = bed.authorize(&[]).await;
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("read users") && page.contains("keep access while you are away") && !page.contains("stages"));
    let request = page.split("name=\"request\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let decide = |account: &'static str, decision: &'static str| {
        let url = format!("{}/authorize/decision", bed.running.url());
        let form = [("request", request), ("account", account), ("decision", decision)];
        let request = bed.http.post(url).form(&form);
        async move { request.send().await.unwrap() }
    };
    let back = location(&decide("acme", "accept").await);
    assert_eq!(back.path(), "/callback");
    assert_eq!(param(&back, "state").as_deref(), Some("s 1"));
    assert_eq!(decide("acme", "accept").await.status(), 400);

    let code = param(&back, "code").unwrap();
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", "http://127.0.0.1:8765/callback"),
    ];
    let (status, grant) = bed.token_request(&form).await;
    assert_eq!((status, &grant["scope"]), (200, &json!("offline_access users:read:admin")));
    assert_eq!((&grant["token_type"], &grant["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let (status, again) = bed.token_request(&form).await;
    assert_eq!((status, &again["error_description"]), (403, &json!("Invalid authorization code")));

    let claims = grant["access_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert!(claims["https://oauth.lever.co/accountId"].is_string());

    // A code dies after ten minutes, and for another redirect.
    for (wait, redirect_uri) in [(600, "http://127.0.0.1:8765/callback"), (0, "http://localhost:8765/callback")] {
        let back = location(&bed.authorize(&[("auto_accept", "acme")]).await);
        let code = param(&back, "code").unwrap();
        tokio::time::advance(Duration::from_secs(wait)).await;
        form.truncate(1);
        form.push(("redirect_uri", redirect_uri));
        let mut form = form.clone();
        form.push(("code", &code));
        assert_eq!(bed.token_request(&form).await.0, 403);
    }
}

#[tokio::test(start_paused = true)]
async fn the_symptoms_of_the_reference_show() {
    let bed = Bed::new(10).await;
    let undefined = bed.authorize(&[("redirect_uri", "http://127.0.0.1:8765/callback/")]).await;
    assert!(undefined.text().await.unwrap().contains("undefined"));
    assert_eq!(bed.authorize(&[("client_id", "other")]).await.status(), 403);
    for audience in ["", "https://api.sandbox.lever.co/v1"] {
        let page = bed.authorize(&[("audience", audience)]).await.text().await.unwrap();
        assert!(page.contains("offline_access") && !page.contains("read users"), "{page}");
    }
    let page = bed.authorize(&[("audience", "https://api.sandbox.lever.co/v1/")]).await.text().await.unwrap();
    assert!(page.contains("read users"));
    for (name, value, error) in [
        ("state", "", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("scope", "offline_access  users:read:admin", "invalid_scope"),
        ("scope", "offline_access,users:read:admin", "invalid_scope"),
    ] {
        let back = location(&bed.authorize(&[(name, value)]).await);
        assert_eq!(param(&back, "error").as_deref(), Some(error), "{name}={value}");
    }
    let refresh = ("grant_type", "refresh_token");
    for (form, status, error) in [
        (vec![refresh, ("client_id", "sandbox-client"), ("client_secret", "no")], 401, "access_denied"),
        (vec![refresh, ("client_id", "no"), ("client_secret", "no")], 403, "unauthorized_client"),
        (vec![refresh], 400, "invalid_request"),
    ] {
        let (got, body) = bed.post("/oauth/token", &form).await;
        assert_eq!((got, body["error"].as_str()), (status, Some(error)));
    }
    let (status, body) = bed.token_request(&[("grant_type", "password")]).await;
    assert_eq!((status, &body["error"]), (400, &json!("unsupported_grant_type")));
    let (status, body) = bed.refresh("v1.nonsense").await;
    assert_eq!((status, &body["error"]), (403, &json!("invalid_grant")));
    let url = format!("{}/oauth/token", bed.running.url());
    let as_json = json!({"grant_type": "refresh_token"});
    assert_eq!(bed.http.post(url).json(&as_json).send().await.unwrap().status(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_used_once() {
    let mut bed = Bed::new(10).await;
    let first = bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    let (_, second) = bed.refresh(&first).await;
    let (status, third) = bed.refresh(&code_of(&second)).await;
    assert_eq!(status, 200);
    assert_ne!(code_of(&second), code_of(&third));
    third["access_token"].as_str().unwrap().clone_into(&mut bed.token);
    assert_eq!(bed.status("/v1/stages", &[]).await, 200);
    // Reuse takes the whole family with it, access tokens included.
    let (status, body) = bed.refresh(&first).await;
    assert_eq!((status, &body["error_description"]), (403, &json!("Unknown or invalid refresh token.")));
    assert_eq!(bed.refresh(&code_of(&third)).await.0, 403);
    assert_eq!(bed.status("/v1/stages", &[]).await, 401);
}

#[tokio::test(start_paused = true)]
async fn a_leeway_answers_the_same_again_for_a_while() {
    let bed = Bed::of(Options { refresh_leeway: Duration::from_secs(30), ..options(10) }).await;
    let first = bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    let (_, second) = bed.refresh(&first).await;
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(bed.refresh(&first).await, (200, second.clone()));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(bed.refresh(&first).await.0, 403);
    assert_eq!(bed.refresh(&code_of(&second)).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn tokens_grow_old() {
    let mut bed = Bed::new(10).await;
    let grant = bed.control.grant("acme", "sandbox-client", ALL).unwrap();
    bed.token = grant.access_token;
    let mut refresh = grant.refresh_token.unwrap();
    tokio::time::advance(Duration::from_secs(3590)).await;
    assert_eq!(bed.status("/v1/stages", &[]).await, 200);
    tokio::time::advance(Duration::from_secs(10)).await;
    let expired = bed.ask("/v1/stages", &[]).await;
    assert_eq!(expired.status(), 401);
    assert_eq!(expired.json::<Value>().await.unwrap()["message"], "The token has expired");

    let day = Duration::from_secs(86_400);
    for _ in 0..4 {
        tokio::time::advance(day * 80).await;
        refresh = code_of(&bed.refresh(&refresh).await.1);
    }
    // 320 days on: used often enough, but the year ends.
    tokio::time::advance(day * 46).await;
    assert_eq!(bed.refresh(&refresh).await.0, 403);
    let idle = bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    tokio::time::advance(day * 90).await;
    assert_eq!(bed.refresh(&idle).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn a_grant_can_be_taken_back() {
    let mut bed = Bed::new(10).await;
    let grant = bed.control.grant("acme", "sandbox-client", ALL).unwrap();
    let refresh = grant.refresh_token.unwrap();
    bed.token = grant.access_token;
    bed.control.expire_access_tokens("acme");
    assert_eq!(bed.status("/v1/stages", &[]).await, 401);
    let (_, second) = bed.refresh(&refresh).await;
    second["access_token"].as_str().unwrap().clone_into(&mut bed.token);
    assert_eq!(bed.status("/v1/stages", &[]).await, 200);
    let other = bed.control.grant("birch", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    bed.control.revoke("acme");
    assert_eq!(bed.status("/v1/stages", &[]).await, 401);
    assert_eq!(bed.refresh(&code_of(&second)).await.0, 403);
    assert_eq!(bed.refresh(&other).await.0, 200);

    let third = bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    let form = [("client_id", "sandbox-client"), ("client_secret", "sandbox-secret"), ("token", third.as_str())];
    assert_eq!(bed.post("/oauth/revoke", &form).await.0, 200);
    assert_eq!(bed.refresh(&third).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn faults_that_are_answers() {
    let bed = Bed::new(30).await;
    let route = "GET /v1/opportunities$";
    let ten = [("limit", "10")];
    let status = |code, body: Option<&str>, retry_after: Option<&str>| Action::Status {
        code,
        body: body.map(Into::into),
        retry_after: retry_after.map(Into::into),
    };
    bed.fault(route, status(429, None, Some("7")));
    let reply = bed.ask("/v1/opportunities", &ten).await;
    assert_eq!((reply.status().as_u16(), reply.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    bed.fault(route, status(502, None, None));
    assert!(bed.ask("/v1/opportunities", &ten).await.text().await.unwrap().starts_with("<html>"));
    bed.fault(route, status(400, Some("{\"code\":\"x\"}"), None));
    assert_eq!(bed.ask("/v1/opportunities", &ten).await.text().await.unwrap(), "{\"code\":\"x\"}");
    bed.fault("POST /oauth/token", status(429, None, None));
    assert_eq!(
        bed.refresh("x").await,
        (429, json!({"error": "too_many_requests", "error_description": "Global limit has been reached"}))
    );
    bed.fault(route, Action::Garbage);
    let reply = bed.ask("/v1/opportunities", &ten).await;
    assert_eq!((reply.status().as_u16(), reply.text().await.unwrap().starts_with("<html>")), (200, true));
    bed.fault(route, Action::Redirect { to: "https://elsewhere.example.com/v1".into(), code: 301 });
    let reply = bed.ask("/v1/opportunities", &ten).await;
    assert_eq!(reply.headers()["location"], "https://elsewhere.example.com/v1");
    bed.fault(route, Action::Huge { bytes: 3_000_000 });
    assert!(bed.ask("/v1/opportunities", &ten).await.bytes().await.unwrap().len() > 3_000_000);
    bed.fault(route, Action::Date { offset_s: -86_400 });
    let reply = bed.ask("/v1/opportunities", &ten).await;
    let date = httpdate::parse_http_date(reply.headers()["date"].to_str().unwrap()).unwrap();
    assert!(Timestamp::from_system(date) < Timestamp::from_ms(NOW - 86_000_000));
    assert_eq!(bed.status("/v1/opportunities", &ten).await, 200);
}

#[tokio::test(start_paused = true)]
async fn faults_of_a_page() {
    let bed = Bed::new(30).await;
    let route = "GET /v1/opportunities$";
    let ten = [("limit", "10")];
    let plain = bed.page("/v1/opportunities", &ten).await;
    let next = plain["next"].as_str().unwrap().to_owned();
    let second = [("limit", "10"), ("offset", next.as_str())];

    bed.fault(route, Action::RepeatNext);
    assert_eq!(bed.page("/v1/opportunities", &ten).await, plain);
    assert_eq!(bed.page("/v1/opportunities", &second).await["next"], next);
    bed.fault(route, Action::MissingNext);
    let page = bed.page("/v1/opportunities", &ten).await;
    assert_eq!((page.get("next"), &page["hasNext"]), (None, &json!(true)));
    bed.fault(route, Action::StaleOffset);
    assert_eq!(bed.status("/v1/opportunities", &ten).await, 200);
    assert_eq!(bed.status("/v1/opportunities", &second).await, 400);
    bed.fault(route, Action::DuplicateRow);
    let rows = bed.walk("/v1/opportunities", &ten).await;
    assert_eq!((rows.len(), &rows[9]), (31, &rows[10]));
    bed.fault(route, Action::BadRow);
    let page = bed.page("/v1/opportunities", &ten).await;
    assert_eq!(page["data"].as_array().unwrap().iter().filter(|row| row.is_string()).count(), 1);
    bed.fault(route, Action::NoKey);
    let page = bed.page("/v1/opportunities", &ten).await;
    assert_eq!(page["data"].as_array().unwrap().iter().filter(|row| row.get("id").is_none()).count(), 1);
    bed.fault("GET /v1/tags", Action::NoKey);
    let page = bed.page("/v1/tags", &[]).await;
    assert_eq!(page["data"].as_array().unwrap().iter().filter(|row| row.get("text").is_none()).count(), 1);
    assert_eq!(bed.page("/v1/opportunities", &ten).await, plain);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_wire() {
    let bed = Bed::new(30).await;
    let route = "GET /v1/opportunities$";
    for action in [Action::Reset, Action::ReplyLost] {
        bed.fault(route, action);
        let error = bed.get("/v1/opportunities", &[]).send().await.unwrap_err();
        assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    }
    assert_eq!(bed.control.stats().statuses.get(&0), Some(&2));
    bed.fault(route, Action::Truncate { bytes: 700 });
    let mut cut = bed.get("/v1/opportunities", &[]).send().await.unwrap();
    assert_eq!(cut.status(), 200);
    let mut got = 0;
    let error = loop {
        match cut.chunk().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("a whole body"),
            Err(error) => break error,
        }
    };
    assert!(got <= 700 && (error.is_body() || error.is_decode()), "{error:?}");
    for action in [Action::Delay { ms: 5_000 }, Action::Drip { ms_per_chunk: 1_000 }] {
        bed.fault(route, action);
        let before = tokio::time::Instant::now();
        assert_eq!(bed.page("/v1/opportunities", &[]).await["data"].as_array().unwrap().len(), 30);
        assert!(before.elapsed() >= Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_has_done_its_work_and_a_reset_has_not() {
    let bed = Bed::new(10).await;
    let grant = || bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    let send = |token: String| {
        let url = format!("{}/oauth/token", bed.running.url());
        let form = [
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", token),
            ("client_id", "sandbox-client".into()),
            ("client_secret", "sandbox-secret".into()),
        ];
        let request = bed.http.post(url).form(&form);
        async move { request.send().await }
    };
    let token = grant();
    bed.fault("POST /oauth/token", Action::Reset);
    assert!(send(token.clone()).await.unwrap_err().is_request());
    assert_eq!(bed.refresh(&token).await.0, 200);
    let token = grant();
    bed.fault("POST /oauth/token", Action::ReplyLost);
    assert!(send(token.clone()).await.unwrap_err().is_request());
    assert_eq!(bed.refresh(&token).await.0, 403);
    let token = grant();
    bed.fault("POST /oauth/token", Action::DropRefreshToken);
    let (status, body) = bed.refresh(&token).await;
    assert_eq!((status, body.get("refresh_token")), (200, None));
    assert_eq!(bed.refresh(&token).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_grant() {
    let bed = Bed::new(10).await;
    let refresh = bed.control.grant("acme", "sandbox-client", ALL).unwrap().refresh_token.unwrap();
    bed.fault("GET /v1/stages", Action::ExpireToken);
    assert_eq!(bed.status("/v1/stages", &[]).await, 401);
    assert_eq!(bed.status("/v1/stages", &[]).await, 401);
    let (_, second) = bed.refresh(&refresh).await;
    bed.fault("POST /oauth/token", Action::RevokeGrant);
    assert_eq!(bed.refresh(&code_of(&second)).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn a_listing_reorders_while_it_is_read() {
    let bed = Bed::new(300).await;
    bed.control.churn("acme", Some(1));
    let rows = bed.walk("/v1/opportunities", &[("limit", "10")]).await;
    let unique = ids(&rows);
    assert!(unique.len() < 300, "no record was missed: {}", unique.len());
    assert!(unique.len() < rows.len(), "no record came twice");
    // What was missed has moved, so a pass over the changes finds it.
    let now = NOW.to_string();
    bed.control.churn("acme", None);
    let moved = bed.walk("/v1/opportunities", &[("updated_at_start", &now)]).await;
    assert_eq!(unique.union(&ids(&moved)).count(), 300);
}

#[tokio::test(start_paused = true)]
async fn every_edit_shows_over_the_api() {
    let bed = Bed::new(60).await;
    let c = &bed.control;
    let first = |resource: &str| c.dump("acme", resource).unwrap()[0].clone();
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    tokio::time::advance(Duration::from_secs(60)).await;
    let since = (NOW + 60_000).to_string();

    let edited = c.edit("acme", 5, 1);
    let added = c.add("acme", 2);
    let mut expected: BTreeSet<String> = edited.iter().chain(&added).cloned().collect();
    let applied = first("applications")["opportunityId"].as_str().unwrap().to_owned();
    assert!(c.edit_application("acme", &applied));
    expected.insert(applied.clone());
    let rows = bed.walk("/v1/opportunities", &[("updated_at_start", &since)]).await;
    assert_eq!(ids(&rows), expected.iter().map(String::as_str).collect());
    assert!(c.delete_application("acme", &applied));
    assert!(!c.delete_application("acme", &applied));
    assert_eq!(bed.page(&format!("/v1/opportunities/{applied}"), &[]).await["data"]["applications"], json!([]));
    let gone = bed.walk("/v1/applications/deleted", &[("deleted_at_start", &since)]).await;
    assert_eq!(gone[0]["opportunityId"], applied.as_str());
    assert!(c.delete_opportunity("acme", &added[0]));
    assert_eq!(bed.status(&format!("/v1/opportunities/{}", added[0]), &[]).await, 404);
    assert_eq!(bed.walk("/v1/opportunities/deleted", &[("deleted_at_start", &since)]).await.len(), 1);

    let posting = id(&first("postings"));
    assert!(c.edit_posting("acme", &posting));
    let new = c.add_posting("acme").unwrap();
    let rows = bed.walk("/v1/postings", &[("updated_at_start", &since)]).await;
    assert_eq!(ids(&rows), BTreeSet::from([posting.as_str(), new.as_str()]));
    assert!(c.delete_posting("acme", &new));
    assert_eq!(
        ids(&bed.walk("/v1/postings/deleted", &[("deleted_at_start", &since)]).await),
        BTreeSet::from([new.as_str()])
    );

    let user = c.add_user("acme").unwrap();
    assert!(c.edit_user("acme", &user) && c.deactivate_user("acme", &user));
    assert!(!ids(&bed.walk("/v1/users", &[]).await).contains(user.as_str()));
    assert!(
        bed.page(&format!("/v1/users/{user}"), &[]).await["data"]["jobTitle"].as_str().unwrap().starts_with("Edited")
    );
    assert!(c.remove_user("acme", &user));
    assert_eq!(bed.status(&format!("/v1/users/{user}"), &[]).await, 404);

    let requisition = id(&first("requisitions"));
    let path = format!("/v1/requisitions/{requisition}");
    let before = bed.page(&path, &[]).await["data"].clone();
    assert!(c.edit_requisition("acme", &requisition, false));
    let after = bed.page(&path, &[]).await["data"].clone();
    assert_eq!(after.get("updatedAt"), before.get("updatedAt"));
    assert_ne!(after["headcountHired"], before["headcountHired"]);
    assert!(c.remove_requisition("acme", &requisition));
    assert_eq!(bed.status(&path, &[]).await, 404);

    assert!(c.rename_tag("acme", "priority", "urgent"));
    let all = c.dump("acme", "opportunities").unwrap();
    let has = |tag: &str| all.iter().any(|o| o["tags"].as_array().unwrap().contains(&json!(tag)));
    assert!(has("urgent") && !has("priority"));
    let count = first("sources")["count"].as_i64();
    c.bump_source_counts("acme");
    assert_eq!(first("sources")["count"].as_i64(), count.map(|n| n + 1));

    let some = id(&all[0]);
    assert!(c.set_field("acme", "opportunities", &some, "emails", json!("not a list"), false));
    assert!(c.remove_field("acme", "opportunities", &some, "origin", false));
    let row = bed.page(&format!("/v1/opportunities/{some}"), &[]).await["data"].clone();
    assert_eq!(
        (&row["emails"], row.get("origin"), &row["updatedAt"]),
        (&json!("not a list"), None, &all[0]["updatedAt"])
    );
    let contact = row["contact"].as_str().unwrap().to_owned();
    assert!(c.set_field("acme", "contacts", &contact, "newField", json!({"a": 1}), false));
    assert_eq!(bed.page(&format!("/v1/contacts/{contact}"), &[]).await["data"]["newField"]["a"], 1);
    assert!(!c.edit_user("acme", "nobody") && !c.edit_user("nowhere", "nobody"));
}

#[tokio::test(start_paused = true)]
async fn the_control_endpoint_is_the_same_hand() {
    let bed = Bed::new(20).await;
    let url = format!("{}/_control", bed.running.url());
    let op = |body: Value| {
        let request = bed.http.post(&url).json(&body);
        async move { request.send().await.unwrap() }
    };
    let ids: Value = op(json!({"op": "edit", "account": "acme", "n": 3})).await.json().await.unwrap();
    assert_eq!(ids["result"].as_array().unwrap().len(), 3);
    let grant: Value = op(json!({"op": "grant", "account": "acme", "client_id": "sandbox-client", "scopes": ALL}))
        .await
        .json()
        .await
        .unwrap();
    assert!(grant["result"]["refresh_token"].is_string());
    let fault = json!({"op": "fault", "fault": {"route": "GET /v1/tags", "action": {"kind": "status", "code": 500}}});
    assert_eq!(op(fault).await.status(), 200);
    assert_eq!(bed.status("/v1/tags", &[]).await, 500);
    assert_eq!(op(json!({"op": "edit", "account": "acme", "n": 3, "sed": 1})).await.status(), 400);
    let plain = bed.http.post(&url).body("{\"op\": \"clear_faults\"}").send().await.unwrap();
    assert_eq!(plain.status(), 415);
    let dump: Value =
        bed.http.get(format!("{url}/dump/acme/opportunities/deleted")).send().await.unwrap().json().await.unwrap();
    assert_eq!(dump["data"], json!(bed.control.dump("acme", "opportunities/deleted").unwrap()));
    let stats: Value = bed.http.get(format!("{url}/stats")).send().await.unwrap().json().await.unwrap();
    insta::assert_json_snapshot!(stats["per_account"], @r#"
    {
      "acme": {
        "GET /v1/tags": 1
      }
    }
    "#);
    assert_eq!(stats["statuses"]["500"], 1);
    op(json!({"op": "reset_stats"})).await;
    assert_eq!(bed.control.stats(), Stats::default());
}

#[tokio::test(start_paused = true)]
async fn equal_options_give_equal_answers() {
    let (a, b) = (Bed::new(40).await, Bed::new(40).await);
    let query = [("expand", "applications"), ("expand", "contact"), ("limit", "20")];
    for path in ["/v1/opportunities", "/v1/users", "/v1/postings"] {
        let query = if path == "/v1/opportunities" { &query[..] } else { &[] };
        let (one, two) = (a.ask(path, query).await, b.ask(path, query).await);
        assert_eq!(one.bytes().await.unwrap(), two.bytes().await.unwrap());
    }
    assert_eq!(a.control.api_key("acme"), b.control.api_key("acme"));
    assert_ne!(a.control.api_key("acme"), a.control.api_key("birch"));
}

#[tokio::test(start_paused = true)]
async fn children_are_walked_record_by_record() {
    let bed = Bed::open(60).await;
    let opportunities = bed.control.dump("acme", "opportunities").unwrap();
    for child in CHILDREN {
        let truth = bed.control.children("acme", child).unwrap();
        assert!(!truth.is_empty(), "{child}");
        let mut seen = Vec::new();
        for opportunity in &opportunities {
            let path = format!("/v1/opportunities/{}/{child}", opportunity["id"].as_str().unwrap());
            let mine: Vec<Value> =
                truth.iter().filter(|c| opportunity["id"] == c.parent_id.as_str()).map(|c| c.record.clone()).collect();
            if child == "resumes" && bed.status(&path, &[]).await == 404 {
                assert!(mine.is_empty());
                continue;
            }
            let rows = bed.walk(&path, &[("limit", "2")]).await;
            assert_eq!(rows, mine, "{path}");
            for row in &rows {
                let one = format!("{path}/{}", row["id"].as_str().unwrap());
                if SINGLE.contains(&child) {
                    assert_eq!(bed.page(&one, &[]).await, json!({"data": row}));
                } else {
                    assert_eq!(bed.status(&one, &[]).await, 404);
                }
            }
            seen.extend(rows);
        }
        assert_eq!(seen.len(), truth.len());
        assert_eq!(ids(&seen).len(), truth.len(), "ids of {child} repeat");
        let dump = bed.control.dump("acme", child).unwrap();
        assert_eq!(dump, truth.iter().cloned().map(ChildRecord::with_parent).collect::<Vec<_>>());
        assert!(dump.iter().zip(&truth).all(|(row, child)| row["opportunityId"] == child.parent_id.as_str()));
        let one = &truth[0].parent_id;
        let mine: Vec<ChildRecord> = truth.iter().filter(|c| c.parent_id == *one).cloned().collect();
        assert_eq!(bed.control.children_of("acme", child, one), Some(mine.clone()));
        let mine = mine.into_iter().map(ChildRecord::with_parent).collect();
        assert_eq!(bed.control.dump("acme", &format!("opportunities/{one}/{child}")), Some(mine));
        assert_eq!(bed.control.dump("acme", &format!("opportunities/nobody/{child}")), None);
    }
}

#[tokio::test(start_paused = true)]
async fn some_have_more_children_than_a_page() {
    let bed = Bed::open(30).await;
    let truth = bed.control.children("acme", "notes").unwrap();
    let crowded = truth.iter().find(|c| truth.iter().filter(|d| d.parent_id == c.parent_id).count() == 130).unwrap();
    let path = format!("/v1/opportunities/{}/notes", crowded.parent_id);
    let page = bed.page(&path, &[]).await;
    assert_eq!((page["data"].as_array().unwrap().len(), &page["hasNext"]), (100, &json!(true)));
    let next = page["next"].as_str().unwrap().to_owned();
    assert!(next.starts_with("%5B"));
    let rest = bed.page(&path, &[("offset", &next)]).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["hasNext"]), (30, &json!(false)));
    assert_eq!(bed.status(&path, &[("limit", "50"), ("offset", &next)]).await, 400);
    let other = format!("/v1/opportunities/{}/feedback", crowded.parent_id);
    assert_eq!(bed.status(&other, &[("offset", &next)]).await, 400);
    let truth = bed.control.children("acme", "files").unwrap();
    assert!(truth.iter().any(|c| truth.iter().filter(|d| d.parent_id == c.parent_id).count() == 101));
}

#[tokio::test(start_paused = true)]
async fn children_need_their_scope_and_their_parent() {
    let mut bed = Bed::open(40).await;
    let all = Client::default().scopes;
    let without = |scope: &str| {
        let left: Vec<&str> = all.iter().map(String::as_str).filter(|s| *s != format!("{scope}:read:admin")).collect();
        left.join(" ")
    };
    let parent = |c: &Control, child: &str| c.children("acme", child).unwrap()[0].parent_id.clone();
    for child in CHILDREN {
        let path = format!("/v1/opportunities/{}/{child}", parent(&bed.control, child));
        let scopes = match child {
            "file_actions" => vec!["files", "opportunities"],
            child => vec![child],
        };
        for scope in scopes {
            bed.grant(&without(scope));
            let denied = bed.ask(&path, &[]).await;
            assert_eq!(denied.status(), 403, "{path} without {scope}");
            let message = denied.json::<Value>().await.unwrap()["message"].clone();
            assert_eq!(message, "The key you provided does not have access to this endpoint");
        }
        // A scope of the children is enough; only records of file actions want the opportunities' too.
        if child != "file_actions" {
            bed.grant(&format!("{child}:read:admin"));
            assert_eq!(bed.status(&path, &[]).await, 200, "{path}");
        }
        bed.grant(&without("confidential"));
        let unknown = format!("/v1/opportunities/8e605404-8010-46ae-a173-8cec5d82f149/{child}");
        assert_eq!(bed.ask(&unknown, &[]).await.json::<Value>().await.unwrap()["code"], "ResourceNotFound");
        assert_eq!(bed.status(&format!("{path}/nobody"), &[]).await, 404);
        assert_eq!(bed.status(&path, &[("updated_at_start", "1")]).await, 400);
        assert_eq!(bed.status(&path, &[("expand", "contact")]).await, 400);
    }
    for (path, scope) in [
        ("/v1/eeo/responses", "eeo_responses"),
        ("/v1/eeo/responses/pii", "eeo_responses_pii"),
        ("/v1/surveys/diversity/x", "diversity_surveys"),
        ("/v1/postings/x/apply", "postings"),
        ("/v1/postings/x/users", "postings"),
        ("/v1/postings/x/users", "users"),
    ] {
        bed.grant(&without(scope));
        assert_eq!(bed.status(path, &[]).await, 403, "{path}");
        bed.grant(&without("nothing"));
        assert_eq!(bed.status(path, &[]).await, if path.contains("/x") { 404 } else { 200 }, "{path}");
    }

    let scopes = format!("{} confidential:access:admin", without("nothing"));
    bed.grant(&scopes);
    let hidden = bed.walk("/v1/opportunities", &[("confidentiality", "confidential")]).await;
    let hidden = hidden[0]["id"].as_str().unwrap();
    let secret = bed.walk("/v1/postings", &[("confidentiality", "confidential")]).await;
    let secret = secret[0]["id"].as_str().unwrap();
    for child in CHILDREN {
        bed.control.add_child("acme", child, hidden).unwrap();
        assert!(bed.control.children("acme", child).unwrap().iter().all(|c| c.parent_id != hidden));
        let truth = bed.control.children_of("acme", child, hidden).unwrap();
        let path = format!("/v1/opportunities/{hidden}/{child}");
        bed.grant(&scopes);
        let rows = bed.walk(&path, &[]).await;
        assert_eq!(rows, truth.into_iter().map(|c| c.record).collect::<Vec<_>>());
        bed.grant(&scopes.replace("confidential:access:admin", ""));
        for path in [path.clone(), format!("{path}/{}", rows[0]["id"].as_str().unwrap())] {
            let wanted = if path.matches('/').count() == 5 && !SINGLE.contains(&child) { 404 } else { 403 };
            assert_eq!(bed.status(&path, &[]).await, wanted, "{path}");
        }
    }
    for path in [
        format!("/v1/opportunities/{hidden}/applications"),
        format!("/v1/postings/{secret}/apply"),
        format!("/v1/postings/{secret}/users"),
        format!("/v1/surveys/diversity/{secret}"),
    ] {
        let denied = bed.ask(&path, &[]).await;
        assert_eq!(denied.status(), 403, "{path}");
        let message = denied.json::<Value>().await.unwrap()["message"].clone();
        assert_eq!(message, "The key you provided does not have access to this endpoint");
        bed.grant(&scopes);
        assert_eq!(bed.status(&path, &[]).await, 200, "{path}");
        bed.grant(&scopes.replace("confidential:access:admin", ""));
    }
}

#[tokio::test(start_paused = true)]
async fn the_oddities_of_children_are_there() {
    let bed = Bed::open(400).await;
    let rows =
        |child: &str| bed.control.children("acme", child).unwrap().into_iter().map(|c| c.record).collect::<Vec<_>>();
    let some = |rows: &[Value], what: &dyn Fn(&Value) -> bool| rows.iter().any(what) && !rows.iter().all(what);
    let feedback = rows("feedback");
    for field in ["interview", "panel", "completedAt", "deletedAt", "instructions"] {
        assert!(some(&feedback, &|row| row[field].is_null()), "{field}");
    }
    assert!(some(&feedback, &|row| row.get("updatedAt").is_none()));
    assert!(feedback.iter().any(|row| row.get("updatedAt") == Some(&Value::Null)));
    assert!(some(&feedback, &|row| row["baseTemplateId"] == "no-feedback"));
    let values = |test: &dyn Fn(&Value) -> bool| {
        feedback.iter().flat_map(|row| row["fields"].as_array().unwrap()).any(|field| test(&field["value"]))
    };
    assert!(values(&|v| v.is_string()) && values(&|v| v.is_array()) && values(&|v| v.is_null()));
    assert!(values(&|v| v == 3) && values(&|v| v == "4 - Strong Hire") && values(&|v| v.is_f64()));
    let files = rows("files");
    for field in ["uploadedAt", "size"] {
        assert!(some(&files, &|row| row[field].is_string()), "{field}");
    }
    assert!(some(&files, &|row| row["status"].is_null()) && some(&files, &|row| row["ext"].is_null()));
    let interviews = rows("interviews");
    assert!(some(&interviews, &|row| row.get("opportunityId").is_some()));
    assert!(some(&interviews, &|row| row["canceledAt"].is_null()));
    assert!(some(&interviews, &|row| row["feedbackForms"][0].is_string()));
    for child in CHILDREN.iter().filter(|child| !["interviews", "file_actions"].contains(child)) {
        assert!(rows(child).iter().all(|row| row.get("opportunityId").is_none()), "{child}");
    }
    let notes = rows("notes");
    assert!(some(&notes, &|row| row["secret"] == true) && some(&notes, &|row| row["deletedAt"].is_null()));
    assert!(notes.iter().any(|row| row["fields"].to_string().contains("Reminds me of")));
    assert!(some(&rows("forms"), &|row| row["deletedAt"].is_null()));
    let offers = rows("offers");
    assert!(some(&offers, &|row| row["signatures"].is_null()) && some(&offers, &|row| row.get("posting").is_none()));
    assert!(offers.iter().any(|row| row["status"] == "opened" && row["signedDocument"].is_object()));
    let resumes = rows("resumes");
    assert!(some(&resumes, &|row| row["file"].is_null()) && some(&resumes, &|row| row.get("parsedData").is_none()));
    assert!(some(&rows("referrals"), &|row| row["referrer"].is_null()));
    assert!(rows("referrals").iter().any(|row| row["completedAt"].as_i64() < row["createdAt"].as_i64()));
    // A panel has its interviews, and they have it.
    let panels = rows("panels");
    assert!(some(&panels, &|row| row["externallyManaged"] == true));
    for part in panels.iter().flat_map(|row| row["interviews"].as_array().unwrap().iter().map(move |part| (row, part)))
    {
        let (panel, part) = part;
        let one = interviews.iter().find(|row| row["id"] == part["id"]).unwrap();
        assert_eq!((&one["panel"], &one["date"]), (&panel["id"], &part["date"]));
    }
    // No child is younger than the parent's last interaction.
    let opportunities = bed.control.dump("acme", "opportunities").unwrap();
    for child in ["feedback", "notes", "resumes", "interviews"] {
        for child in bed.control.children("acme", child).unwrap() {
            let parent = opportunities.iter().find(|o| o["id"] == child.parent_id.as_str()).unwrap();
            assert_eq!(parent["createdAt"], child.parent_created_at);
            assert!(child.record["createdAt"].as_i64() >= parent["createdAt"].as_i64());
            if let Some(last) = parent["lastInteractionAt"].as_i64() {
                assert!(child.record["createdAt"].as_i64() <= Some(last));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn some_without_a_resume_answer_404() {
    let bed = Bed::open(60).await;
    let with: BTreeSet<String> =
        bed.control.children("acme", "resumes").unwrap().into_iter().map(|c| c.parent_id).collect();
    let (mut missing, mut empty) = (None, 0);
    for opportunity in bed.control.dump("acme", "opportunities").unwrap() {
        let id = opportunity["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/opportunities/{id}/resumes");
        let reply = bed.ask(&path, &[]).await;
        match (with.contains(&id), reply.status().as_u16()) {
            (true, 200) => {}
            (false, 200) => empty += 1,
            (false, 404) => {
                assert_eq!(reply.json::<Value>().await.unwrap()["code"], "ResourceNotFound");
                missing = Some((id, path));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let (id, path) = missing.unwrap();
    assert!(empty > 0);
    let resume = bed.control.add_child("acme", "resumes", &id).unwrap();
    assert_eq!(bed.page(&path, &[]).await["data"][0]["id"], resume.as_str());
    assert!(bed.control.delete_child("acme", "resumes", &id, &resume, false));
    assert_eq!(bed.status(&path, &[]).await, 404);
}

#[tokio::test(start_paused = true)]
async fn what_a_child_does_to_its_parent() {
    let bed = Bed::open(80).await;
    let c = &bed.control;
    for (child, by_adding, by_editing) in [
        ("feedback", true, false),
        ("files", true, false),
        ("file_actions", false, false),
        ("interviews", true, false),
        ("notes", true, true),
        ("offers", false, false),
        ("panels", false, false),
        ("referrals", false, false),
        ("resumes", true, false),
        ("forms", false, false),
    ] {
        let parent = c.children("acme", child).unwrap()[0].parent_id.clone();
        let path = format!("/v1/opportunities/{parent}");
        let stamps = async || {
            let body = bed.page(&path, &[]).await["data"].clone();
            (body["updatedAt"].clone(), body["lastInteractionAt"].clone())
        };
        tokio::time::advance(Duration::from_secs(10)).await;
        let before = stamps().await;
        let id = c.add_child("acme", child, &parent).unwrap();
        let added = stamps().await;
        assert_eq!(added != before, by_adding, "adding to {child}");
        if by_adding {
            let at = added.1.as_i64().unwrap();
            assert!(at >= NOW + 10_000 && added.0.as_i64() == Some(at + 1), "{child}");
        }
        assert_eq!(bed.page(&format!("{path}/{child}"), &[]).await["data"][0]["id"], id.as_str());
        tokio::time::advance(Duration::from_secs(10)).await;
        let row = bed.page(&format!("{path}/{child}"), &[]).await["data"][0].clone();
        assert!(c.edit_child("acme", child, &parent, &id, None, None));
        let edited = stamps().await;
        assert_eq!(edited != added, by_editing, "editing {child}");
        assert_ne!(bed.page(&format!("{path}/{child}"), &[]).await["data"][0], row);
        assert!(c.edit_child("acme", child, &parent, &id, json!({"extra": 1}).as_object(), Some(!by_editing)));
        let forced = stamps().await;
        assert_eq!(forced != edited, !by_editing, "editing {child} otherwise");
        assert_eq!(bed.page(&format!("{path}/{child}"), &[]).await["data"][0]["extra"], 1);
        assert!(c.delete_child("acme", child, &parent, &id, false));
        assert_eq!(stamps().await, forced, "deleting {child}");
        let left = bed.ask(&format!("{path}/{child}"), &[]).await.json::<Value>().await.unwrap();
        if ["feedback", "notes", "forms"].contains(&child) {
            assert!(left["data"][0]["deletedAt"].is_i64());
            assert!(c.delete_child("acme", child, &parent, &id, true));
            assert_ne!(bed.page(&format!("{path}/{child}"), &[]).await["data"][0]["id"], id.as_str());
            assert!(bed.page(&format!("{path}/{child}/{id}"), &[]).await["data"]["deletedAt"].is_i64());
        } else {
            assert_ne!(left["data"][0]["id"], id.as_str());
            assert!(!c.delete_child("acme", child, &parent, &id, false));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panel_follows_its_interviews() {
    let bed = Bed::open(60).await;
    let c = &bed.control;
    let first = c.children("acme", "interviews").unwrap()[0].clone();
    let path = format!("/v1/opportunities/{}", first.parent_id);
    let (id, panel) = (first.record["id"].as_str().unwrap(), first.record["panel"].as_str().unwrap());
    let part = async || {
        let panel = bed.page(&format!("{path}/panels/{panel}"), &[]).await;
        panel["data"]["interviews"].as_array().unwrap().iter().find(|part| part["id"] == id).cloned()
    };
    assert_eq!(part().await.unwrap()["date"], first.record["date"]);
    assert!(c.edit_child("acme", "interviews", &first.parent_id, id, None, None));
    assert_eq!(part().await.unwrap()["date"].as_i64(), Some(NOW + 86_400_000));
    for child in c.children("acme", "interviews").unwrap() {
        if child.record["panel"] == panel {
            let id = child.record["id"].as_str().unwrap();
            assert!(c.delete_child("acme", "interviews", &child.parent_id, id, false));
        }
    }
    assert_eq!(bed.status(&format!("{path}/panels/{panel}"), &[]).await, 404);
    let new = c.add_child("acme", "interviews", &first.parent_id).unwrap();
    let row = bed.page(&format!("{path}/interviews/{new}"), &[]).await["data"].clone();
    let panel = bed.page(&format!("{path}/panels/{}", row["panel"].as_str().unwrap()), &[]).await;
    assert_eq!(panel["data"]["interviews"][0]["id"], new.as_str());
}

#[tokio::test(start_paused = true)]
async fn children_go_and_come_with_their_parent() {
    let bed = Bed::open(60).await;
    let c = &bed.control;
    let note = c.children("acme", "notes").unwrap()[0].clone();
    let path = format!("/v1/opportunities/{}/notes", note.parent_id);
    let one = format!("{path}/{}", note.record["id"].as_str().unwrap());
    assert!(c.delete_opportunity("acme", &note.parent_id));
    for child in CHILDREN {
        let gone = bed.ask(&format!("/v1/opportunities/{}/{child}", note.parent_id), &[]).await;
        assert_eq!(gone.status(), 404);
        assert_eq!(gone.json::<Value>().await.unwrap()["code"], "ResourceNotFound");
        assert!(c.children("acme", child).unwrap().iter().all(|c| c.parent_id != note.parent_id));
        assert_eq!(c.children_of("acme", child, &note.parent_id), None);
    }
    assert_eq!(bed.status(&one, &[]).await, 404);
    assert!(c.children("acme", "notes").unwrap().iter().all(|c| c.parent_id != note.parent_id));
    assert_eq!(c.add_child("acme", "notes", &note.parent_id), None);
    assert!(c.restore_opportunity("acme", &note.parent_id));
    assert_eq!(bed.page(&one, &[]).await["data"], note.record);
    // Those that are added have children too.
    let added = c.add("acme", 40);
    let all: Vec<ChildRecord> = CHILDREN.iter().flat_map(|child| c.children("acme", child).unwrap()).collect();
    assert!(all.iter().any(|child| added.contains(&child.parent_id)));
}

#[tokio::test(start_paused = true)]
async fn an_anonymized_person_is_in_no_child() {
    let bed = Bed::open(120).await;
    let c = &bed.control;
    let words = |parent: &str| {
        let all = CHILDREN.iter().flat_map(|child| c.children("acme", child).unwrap());
        all.filter(|child| child.parent_id == parent).map(|child| child.record.to_string()).collect::<String>()
    };
    let mut seen = BTreeSet::new();
    for opportunity in c.dump("acme", "opportunities").unwrap() {
        let (id, name) = (opportunity["id"].as_str().unwrap(), opportunity["name"].as_str().unwrap());
        if name.is_empty() {
            continue;
        }
        for child in CHILDREN {
            if c.children("acme", child)
                .unwrap()
                .iter()
                .any(|c| c.parent_id == id && c.record.to_string().contains(name))
            {
                seen.insert(child);
            }
        }
        if seen.len() == CHILDREN.len() {
            break;
        }
    }
    assert_eq!(seen.len(), CHILDREN.len(), "only {seen:?} hold a name");

    let note = c
        .children("acme", "notes")
        .unwrap()
        .into_iter()
        .find(|c| c.record["fields"].to_string().contains('@'))
        .unwrap();
    let parent = note.parent_id;
    let body = bed.page(&format!("/v1/opportunities/{parent}"), &[]).await["data"].clone();
    for child in CHILDREN {
        c.add_child("acme", child, &parent).unwrap();
    }
    let (name, mail) = (body["name"].as_str().unwrap(), body["emails"][0].as_str().unwrap());
    assert!(words(&parent).contains(name) && words(&parent).contains(mail));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(c.anonymize("acme", &parent));
    let text = words(&parent);
    // Names of users may be alike.
    assert!(
        !text.contains(mail) && !text.contains(&format!("{name} ")) && !text.contains(&format!("for {name}")),
        "{text}"
    );
    let after = bed.page(&format!("/v1/opportunities/{parent}"), &[]).await["data"].clone();
    assert!(after["updatedAt"].as_i64() >= Some(NOW + 60_000));
    let file = c.add_child("acme", "files", &parent).unwrap();
    assert_eq!(bed.page(&format!("/v1/opportunities/{parent}/files"), &[]).await["data"][0]["id"], file.as_str());
    assert_eq!(bed.page(&format!("/v1/opportunities/{parent}/files"), &[]).await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn merged_contacts_leave_one() {
    let bed = Bed::open(40).await;
    let c = &bed.control;
    let contacts = c.dump("acme", "contacts").unwrap();
    let [from, into] = [0, 5].map(|n| contacts[n]["id"].as_str().unwrap());
    let notes = c.children("acme", "notes").unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let moved = c.merge_contacts("acme", from, into);
    assert!(!moved.is_empty());
    assert_eq!(bed.status(&format!("/v1/contacts/{from}"), &[]).await, 404);
    for id in &moved {
        let body = bed.page(&format!("/v1/opportunities/{id}"), &[("expand", "contact")]).await["data"].clone();
        assert_eq!((&body["contact"], &body["name"]), (&contacts[5], &contacts[5]["name"]));
        assert!(body["updatedAt"].as_i64() >= Some(NOW + 60_000));
    }
    assert_eq!(c.dump("acme", "contacts").unwrap().len(), contacts.len() - 1);
    assert_eq!(c.children("acme", "notes").unwrap(), notes);
    assert_eq!(c.edit_contact("acme", into).iter().filter(|id| moved.contains(id)).count(), moved.len());
    assert!(c.merge_contacts("acme", from, into).is_empty() && c.merge_contacts("acme", into, into).is_empty());
}

#[tokio::test(start_paused = true)]
async fn children_are_expanded() {
    let mut bed = Bed::open(120).await;
    let interview = bed.control.children("acme", "interviews").unwrap();
    let interview = interview
        .iter()
        .find(|c| c.record["feedbackForms"][0].is_string() && c.record["postings"][0].is_string())
        .unwrap();
    let path = format!("/v1/opportunities/{}/interviews", interview.parent_id);
    let query = [("expand", "user"), ("expand", "stage"), ("expand", "postings"), ("expand", "feedbackForms")];
    let page = bed.page(&path, &query).await;
    let row = page["data"].as_array().unwrap().iter().find(|row| row["id"] == interview.record["id"]).unwrap();
    assert!(row["user"]["accessRole"].is_string() && row["stage"]["text"].is_string());
    assert!(row["postings"][0]["state"].is_string() && row["feedbackForms"][0]["fields"].is_array());
    for child in ["feedback", "notes", "forms", "referrals", "panels"] {
        let rows = bed.control.children("acme", child).unwrap();
        let one = rows.iter().find(|c| c.record["user"].is_string()).unwrap();
        let path = format!("/v1/opportunities/{}/{child}/{}", one.parent_id, one.record["id"].as_str().unwrap());
        let user = bed.page(&path, &[("expand", "user")]).await["data"]["user"].clone();
        assert_eq!(user["id"], one.record["user"]);
        assert!(user["email"].is_string());
    }
    bed.grant("interviews:read:admin");
    assert_eq!(bed.status(&path, &[("expand", "feedbackForms")]).await, 403);
    assert_eq!(bed.status(&path, &[]).await, 200);
}

#[tokio::test(start_paused = true)]
async fn files_are_filtered_by_their_time_and_downloaded() {
    let bed = Bed::open(200).await;
    for (child, field) in [("files", "uploaded_at"), ("resumes", "uploaded_at"), ("file_actions", "occurred_at")] {
        let all = bed.control.children("acme", child).unwrap();
        let one = all.iter().find(|c| all.iter().filter(|d| d.parent_id == c.parent_id).count() == 2).unwrap();
        let path = format!("/v1/opportunities/{}/{child}", one.parent_id);
        let row = &one.record;
        let time = [&row["uploadedAt"], &row["file"]["uploadedAt"], &row["createdAt"], &row["occurredAt"]];
        let time = match child {
            "files" => time[0],
            "file_actions" => time[3],
            _ if time[1].is_null() => time[2],
            _ => time[1],
        };
        let time = time.to_string().replace('"', "");
        let [start, end] = ["start", "end"].map(|end| format!("{field}_{end}"));
        let rows = bed.walk(&path, &[(&start, &time), (&end, &time)]).await;
        assert!(rows.contains(row) && !rows.is_empty(), "{child}");
        let later = (time.parse::<i64>().unwrap() + 1).to_string();
        assert!(!bed.walk(&path, &[(&start, &later)]).await.contains(row));
        assert_eq!(bed.status(&path, &[(&start, "yesterday")]).await, 400);
    }

    let mut seen = BTreeSet::new();
    for child in ["files", "resumes"] {
        for one in bed.control.children("acme", child).unwrap() {
            let path =
                format!("/v1/opportunities/{}/{child}/{}/download", one.parent_id, one.record["id"].as_str().unwrap());
            let file = if child == "files" { &one.record } else { &one.record["file"] };
            let reply = bed.ask(&path, &[]).await;
            let status = reply.status().as_u16();
            seen.insert(status);
            match file["status"].as_str() {
                _ if file.is_null() => assert_eq!(status, 404),
                Some("error" | "unsupported") => assert_eq!(status, 422),
                _ => {
                    let kind = reply.headers()["content-type"].to_str().unwrap().to_owned();
                    assert!(kind.starts_with("application/") && !kind.contains("json"), "{kind}");
                    let bytes = reply.bytes().await.unwrap();
                    assert_eq!(bytes.len().to_string(), file["size"].to_string().replace('"', ""));
                    assert!(std::str::from_utf8(&bytes).is_err());
                    assert_eq!(bed.ask(&path, &[]).await.bytes().await.unwrap(), bytes);
                }
            }
        }
    }
    assert_eq!(seen, BTreeSet::from([200, 404, 422]));
    let offers = bed.control.children("acme", "offers").unwrap();
    for (status, field) in [("sent", "sentDocument"), ("signed", "signedDocument")] {
        let path = |there: bool| {
            let one = offers.iter().find(|c| c.record[field].is_null() != there).unwrap();
            format!("/v1/opportunities/{}/offers/{}/download", one.parent_id, one.record["id"].as_str().unwrap())
        };
        assert_eq!(bed.status(&path(true), &[("status", status)]).await, 200);
        assert_eq!(bed.status(&path(false), &[("status", status)]).await, 404);
        assert_eq!(bed.status(&path(true), &[]).await, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn object_storage_wants_no_credential() {
    let bed = Bed::open(60).await;
    let one = bed.control.children("acme", "resumes").unwrap();
    let one = one.iter().find(|c| c.record["file"]["status"] == "processed").unwrap();
    let path = format!("/v1/opportunities/{}/resumes/{}/download", one.parent_id, one.record["id"].as_str().unwrap());
    let bytes = bed.ask(&path, &[]).await.bytes().await.unwrap();
    bed.control.redirect_downloads(Some(2));
    assert_eq!(bed.status(&path, &[]).await, 200);
    let to = location(&bed.ask(&path, &[]).await);
    assert_eq!((to.host_str(), to.port()), (Some("localhost"), Some(bed.running.addr().port())));
    let leaked = bed.http.get(to.clone()).bearer_auth(&bed.token).send().await.unwrap();
    assert_eq!((leaked.status().as_u16(), bed.control.stats().credentials_at_storage), (400, 1));
    assert_eq!(bed.http.get(to.clone()).send().await.unwrap().bytes().await.unwrap(), bytes);
    let forged: String = to.as_str().replace("resumes", "files");
    assert_eq!(bed.http.get(forged).send().await.unwrap().status(), 403);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(bed.http.get(to).send().await.unwrap().status(), 403);
    assert_eq!(bed.control.stats().requests["GET /_storage/:object"], 4);
    bed.control.redirect_downloads(None);
    assert_eq!((bed.status(&path, &[]).await, bed.status(&path, &[]).await), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn eeo_answers_are_of_the_last_week_unless_asked() {
    let bed = Bed::open(2_000).await;
    let week = NOW - 7 * 86_400_000;
    let time = |value: &Value| value.to_string().replace('"', "").parse::<i64>().unwrap();
    for (path, truth, field, start, end) in [
        ("/v1/eeo/responses", "eeo_responses", "appliedAt", "fromDate", "toDate"),
        ("/v1/eeo/responses/pii", "eeo_responses_pii", "eeoSurveyRespondedAt", "created_at_start", "created_at_end"),
    ] {
        let truth = bed.control.dump("acme", truth).unwrap();
        let expect = |from: i64, to: i64| {
            truth.iter().filter(|row| (from..=to).contains(&time(&row[field]))).cloned().collect::<Vec<_>>()
        };
        assert!(truth.len() > 300, "{}", truth.len());
        let recent = bed.walk(path, &[]).await;
        assert_eq!(recent, expect(week, NOW + 60_000), "{path}");
        assert!(recent.len() < truth.len() / 20);
        let all = bed.walk(path, &[(start, "0")]).await;
        assert_eq!(all, truth);
        let (from, to) = (NOW - 200 * 86_400_000, NOW - 100 * 86_400_000);
        let rows = bed.walk(path, &[(start, &from.to_string()), (end, &to.to_string()), ("limit", "3")]).await;
        assert!(!rows.is_empty());
        assert_eq!(rows, expect(from, to));
        assert!(bed.walk(path, &[(end, &to.to_string())]).await.is_empty(), "the other bound is the usual one");
        assert_eq!(bed.status(path, &[(start, "2024-01-01")]).await, 400);
        assert_eq!(bed.status(path, &[("updated_at_start", "1")]).await, 400);
        for row in &truth {
            assert_eq!(row.get("id").is_some(), path.ends_with("pii"));
        }
        assert!(truth.iter().any(|row| row["appliedAt"].is_string()));
    }
    let query = [("created_at_start", "0"), ("expand", "contact"), ("expand", "hiringManager"), ("expand", "posting")];
    let rows = bed.walk("/v1/eeo/responses/pii", &query).await;
    assert!(
        rows.iter().all(|row| row["contact"]["emails"].is_array() && row["posting"]["text"] == row["applicationTitle"])
    );
    assert!(rows.iter().any(|row| row["hiringManager"]["email"].is_string()));
    let one = rows[0]["opportunityId"].as_str().unwrap();
    // An answer that moves in time, and one of somebody who comes.
    let (id, to) = (rows[1]["opportunityId"].as_str().unwrap(), NOW - 900 * 86_400_000);
    assert!(bed.control.set_field("acme", "opportunities", id, "createdAt", json!(to), false));
    let window = [("created_at_start", to.to_string()), ("created_at_end", (to + 86_400_000).to_string())];
    let window: Vec<(&str, &str)> = window.iter().map(|(name, time)| (*name, time.as_str())).collect();
    let moved = bed.walk("/v1/eeo/responses/pii", &window).await;
    assert!(moved.iter().any(|row| row["opportunityId"] == id));
    let added = bed.control.add("acme", 30);
    tokio::time::advance(Duration::from_secs(60)).await;
    let recent = bed.walk("/v1/eeo/responses/pii", &[]).await;
    assert!(recent.iter().any(|row| added.iter().any(|id| row["opportunityId"] == id.as_str())));
    let rows = bed.walk("/v1/eeo/responses/pii", &query).await;
    assert_eq!(bed.control.dump("acme", "eeo_responses_pii").unwrap().len(), rows.len());
    assert!(bed.control.set_field("acme", "opportunities", id, "confidentiality", json!("confidential"), false));
    assert!(bed.walk("/v1/eeo/responses/pii", &window).await.iter().all(|row| row["opportunityId"] != id));
    assert!(bed.control.archive("acme", one));
    let rows = bed.walk("/v1/eeo/responses/pii", &query).await;
    let row = rows.iter().find(|row| row["opportunityId"] == one).unwrap();
    assert!(row["applicationArchivedAt"].as_i64() >= Some(NOW) && row["applicationArchiveReason"].is_string());
    let anonymous = bed.walk("/v1/eeo/responses", &[("fromDate", "0")]).await.len();
    assert!(bed.control.anonymize("acme", one));
    assert_eq!(bed.walk("/v1/eeo/responses", &[("fromDate", "0")]).await.len(), anonymous);
    assert!(bed.walk("/v1/eeo/responses/pii", &query).await.iter().all(|row| row["opportunityId"] != one));
    assert!(bed.control.delete_opportunity("acme", one));
    assert_eq!(bed.walk("/v1/eeo/responses", &[("fromDate", "0")]).await.len(), anonymous - 1);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_on_postings() {
    let bed = Bed::open(600).await;
    let postings = bed.control.dump("acme", "postings").unwrap();
    let (mut users, mut surveys) = (vec![], vec![]);
    for posting in &postings {
        let path = format!("/v1/postings/{}", posting["id"].as_str().unwrap());
        let apply = bed.page(&format!("{path}/apply"), &[]).await;
        assert_eq!((&apply["data"]["id"], &apply["data"]["text"]), (&posting["id"], &posting["text"]));
        let team = bed.page(&format!("{path}/users"), &[]).await;
        assert_eq!(team.as_object().unwrap().keys().collect::<Vec<_>>(), ["posting", "roles", "users"]);
        users.push(team);
        let path = format!("/v1/surveys/diversity/{}", posting["id"].as_str().unwrap());
        surveys.extend(bed.walk(&path, &[("limit", "1")]).await);
    }
    let truth = |resource: &str| {
        bed.control.children("acme", resource).unwrap().into_iter().map(|c| c.record).collect::<Vec<_>>()
    };
    assert!(users.iter().any(|team| team["users"][0].is_object()) && !surveys.is_empty());
    assert_eq!((truth("posting_users"), truth("surveys_diversity")), (users, surveys));
    for (names, path) in [
        (["posting_forms", "posting_apply", "postings/apply"], "postings/{}/apply"),
        (["posting_users", "posting_users", "postings/users"], "postings/{}/users"),
        (["surveys_diversity", "diversity_surveys", "surveys/diversity"], "surveys/diversity/{}"),
    ] {
        let all = bed.control.dump("acme", names[0]).unwrap();
        assert!(names.iter().all(|name| bed.control.dump("acme", name).as_ref() == Some(&all)));
        for posting in &postings {
            let id = posting["id"].as_str().unwrap();
            let mine: Vec<Value> = all.iter().filter(|row| row["postingId"] == id).cloned().collect();
            assert!(path.starts_with("surveys") || mine.len() == 1);
            assert_eq!(bed.control.dump("acme", &path.replace("{}", id)), Some(mine));
        }
    }

    let asked = truth("posting_apply").into_iter().find(|form| form["customQuestions"][0].is_object()).unwrap();
    let path = format!("/v1/postings/{}/apply", asked["id"].as_str().unwrap());
    let external = bed.page(&path, &[("distribution", "external")]).await;
    assert_eq!(external["data"]["customQuestions"][0]["fields"].as_array().unwrap().len(), 3);
    assert_eq!(bed.status(&path, &[("distribution", "both")]).await, 400);
    let id = asked["id"].as_str().unwrap();
    for resource in ["posting_apply", "posting_users"] {
        let before = truth(resource);
        assert!(bed.control.edit_posting_child("acme", resource, id, None));
        assert_ne!(truth(resource), before);
    }
    assert_eq!(bed.control.dump("acme", "postings").unwrap(), postings);
    assert!(bed.control.delete_posting("acme", id));
    assert_eq!(bed.status(&path, &[]).await, 404);
    let survey = bed.control.children("acme", "diversity_surveys").unwrap()[0].clone();
    assert!(bed.control.edit_posting_child("acme", "diversity_surveys", &survey.parent_id, None));
    let path = format!("/v1/surveys/diversity/{}", survey.parent_id);
    assert!(bed.page(&path, &[]).await["data"][0]["text"].as_str().unwrap().starts_with("Edited"));
    assert!(bed.page(&path, &[("country_code", "PT")]).await["data"].as_array().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn children_over_the_control_endpoint() {
    let bed = Bed::open(60).await;
    let op = async |body: Value| {
        let url = format!("{}/_control", bed.running.url());
        let reply: Value = bed.http.post(url).json(&body).send().await.unwrap().json().await.unwrap();
        reply["result"].clone()
    };
    let added = op(json!({"op": "add_child", "account": "acme", "resource": "notes", "n": 5, "seed": 3})).await;
    let touched: BTreeSet<String> =
        added.as_array().unwrap().iter().map(|one| one["opportunity"].as_str().unwrap().to_owned()).collect();
    assert_eq!(touched.len(), 5);
    let one = touched.first().unwrap();
    let added = op(json!({"op": "add_child", "account": "acme", "resource": "offers", "opportunity": one})).await;
    let id = added[0]["id"].clone();
    let edit = json!({"op": "edit_child", "account": "acme", "resource": "offers", "opportunity": one, "id": id,
        "fields": {"status": "sent"}, "bump": true});
    assert_eq!(op(edit).await, added);
    let newest = json!({"op": "edit_child", "account": "acme", "resource": "offers", "opportunity": one});
    assert_eq!(op(newest).await, added);
    let deleted = json!({"op": "delete_child", "account": "acme", "resource": "offers", "opportunity": one, "id": id});
    assert_eq!(op(deleted.clone()).await, added);
    assert_eq!(op(deleted).await, json!([]));
    let many = op(json!({"op": "edit_child", "account": "acme", "resource": "forms", "n": 3})).await;
    assert_eq!(many.as_array().unwrap().len(), 3);
    let many = op(json!({"op": "delete_child", "account": "acme", "resource": "files", "n": 2})).await;
    assert_eq!(many.as_array().unwrap().len(), 2);
    assert_eq!(op(json!({"op": "add_child", "account": "acme", "resource": "nonsense", "n": 2})).await, json!([]));
    let contacts = bed.control.dump("acme", "contacts").unwrap();
    let merge =
        json!({"op": "merge_contacts", "account": "acme", "from": contacts[1]["id"], "into": contacts[2]["id"]});
    assert!(op(merge).await[0].is_string());
    assert_eq!(op(json!({"op": "redirect_downloads", "every_nth": 1})).await, Value::Null);
    let url = format!("{}/_control/dump/acme/notes", bed.running.url());
    let dump: Value = bed.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(dump["data"], json!(bed.control.dump("acme", "notes").unwrap()));
}

#[tokio::test(start_paused = true)]
async fn children_are_a_function_of_the_options() {
    let (a, b) = (Bed::open(40).await, Bed::open(40).await);
    let other = Bed::of(Options { seed: 2, ..options(40) }).await;
    // Asking for one, or editing a parent, changes nothing of the others.
    b.control.edit("acme", 10, 1);
    for child in CHILDREN.iter().rev() {
        b.control.children("acme", child).unwrap();
    }
    let of = |bed: &Bed, child| {
        let mut all = bed.control.children("acme", child).unwrap();
        all.sort_by(|a, b| a.parent_id.cmp(&b.parent_id));
        all
    };
    for child in CHILDREN {
        assert_eq!(of(&a, child), of(&b, child));
        assert_ne!(of(&a, child), of(&other, child));
        let parent = of(&a, child)[0].parent_id.clone();
        let path = format!("/v1/opportunities/{parent}/{child}");
        assert_eq!(a.ask(&path, &[]).await.bytes().await.unwrap(), b.ask(&path, &[]).await.bytes().await.unwrap());
    }
    let stats = a.control.stats();
    assert_eq!(stats.per_account["acme"]["GET /v1/opportunities/:id/notes"], 1);
    assert_eq!(stats.requests.len(), CHILDREN.len());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_and_when_dropped() {
    let bed = Bed::new(10).await;
    bed.fault("GET /v1/tags", Action::Delay { ms: 3_600_000 });
    let slow = tokio::spawn(bed.get("/v1/tags", &[]).send());
    while bed.control.stats().requests.is_empty() {
        tokio::task::yield_now().await;
    }
    bed.running.clone().shutdown().await;
    assert!(slow.await.unwrap().is_err());
    bed.running.wait().await;
    assert!(bed.get("/v1/stages", &[]).send().await.unwrap_err().is_connect());

    let bed = Bed::new(10).await;
    let Bed { running, http, token, .. } = bed;
    let url = format!("{}/v1/stages", running.url());
    assert_eq!(http.get(&url).bearer_auth(&token).send().await.unwrap().status(), 200);
    drop(running);
    while http.get(&url).bearer_auth(&token).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn options_that_cannot_be_are_refused() {
    let refused = |change: &dyn Fn(&mut Options)| {
        let mut options = options(1);
        change(&mut options);
        async move { start(options).await.err().unwrap().to_string() }
    };
    insta::assert_snapshot!(
        refused(&|o| o.listen = ([0, 0, 0, 0], 0).into()).await,
        @r"
        the sandbox listens on loopback addresses only, not on 0.0.0.0:0
        hint: it asks nobody who they are; give 127.0.0.1 and a port
        "
    );
    insta::assert_snapshot!(
        refused(&|o| o.accounts[1].name = "acme".into()).await,
        @r"
        sandbox options: two accounts are called acme
        hint: `hirelake sandbox --help` shows what they take
        "
    );
    insta::assert_snapshot!(
        refused(&|o| o.accounts[1].name = "../acme".into()).await,
        @r#"
        sandbox options: "../acme" is not a name for an account
        hint: `hirelake sandbox --help` shows what they take
        "#
    );
    insta::assert_snapshot!(
        refused(&|o| o.rate = Some(Limit { per_second: 0.0, burst: 1 })).await,
        @r"
        sandbox options: a rate limit needs a rate above zero and a burst of at least one
        hint: `hirelake sandbox --help` shows what they take
        "
    );
}

#[test]
fn no_secret_in_debug() {
    let mut options = options(1);
    options.clients[0].secret = "canary".into();
    assert!(!format!("{options:?}").contains("canary"));
    let grant = IssuedGrant {
        access_token: "canary".into(),
        refresh_token: Some("canary".into()),
        token_type: "Bearer",
        scope: String::new(),
        expires_in: 1,
    };
    assert!(!format!("{grant:?}").contains("canary"));
}
