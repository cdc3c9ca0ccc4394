//! The catalogue as a person reads it: plain tables, legible without colour and without a wide terminal's help.

use comfy_table::{ContentArrangement, Table, presets};

use super::{Column, ColumnType, Granularity, Mode, Paging, Provider, Resource};

/// Every resource in a line: how it is read, what it needs, what identifies a row, how it is cut.
#[must_use]
pub fn overview(provider: &Provider) -> String {
    let mut table = plain(&["RESOURCE", "MODE", "SCOPE", "KEY", "PARTITION", "WHAT"]);
    for r in &provider.resources {
        table.add_row([
            r.name.to_string(),
            r.mode.word().to_owned(),
            r.scope.clone().unwrap_or_else(|| "-".to_owned()),
            r.key.join(", "),
            cut(r),
            r.about.clone(),
        ]);
    }
    trimmed(&table)
}

/// A resource in full: how it is read, then its columns.
#[must_use]
pub fn describe(provider: &Provider, resource: &Resource) -> String {
    let mut out = format!("{}/{}: {}\n\n", provider.name, resource.name, resource.about);
    for (label, text) in facts(resource) {
        out.push_str(&format!("{label:<11}{text}\n"));
    }
    out.push('\n');
    let mut table = plain(&["COLUMN", "TYPE", "SOURCE", "", "WHAT"]);
    for c in &resource.columns {
        row(&mut table, c, 0);
    }
    out.push_str(&trimmed(&table));
    out
}

fn facts(r: &Resource) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let bounds = |f: &super::TimeFilter| format!("{} ({}, {})", f.column, f.start, f.end);
    match &r.mode {
        Mode::Incremental { cursor, load, bare } => {
            facts.push(("read", format!("GET {}, then only what changed", r.path)));
            facts.push((
                "first load",
                load.as_ref().map_or("one listing".to_owned(), |l| format!("windows of {}", bounds(l))),
            ));
            let alone = if *bare { ", with no other filter" } else { "" };
            facts.push(("changes by", format!("{}{alone}", bounds(cursor))));
        }
        Mode::Full => facts.push(("read", format!("GET {}, whole in every run", r.path))),
        Mode::Tombstones { of, cursor } => {
            facts.push(("read", format!("GET {}, deletions of {of}", r.path)));
            facts.push(("changes by", bounds(cursor)));
        }
        Mode::Extracted { from, field } => {
            facts.push(("read", format!("out of `{field}` of {from}: no requests of its own")))
        }
        Mode::Children { from, absent_is_empty, skip } => {
            facts.push((
                "read",
                format!("GET {}, for each of {from} that changed, and for some others in turn", r.path),
            ));
            if *absent_is_empty {
                facts.push(("404", "there are none".to_owned()));
            }
            if let Some(skip) = skip {
                let is = match skip.is {
                    super::SkipIf::Null => "null",
                    super::SkipIf::Empty => "empty",
                };
                facts.push(("skips", format!("parents whose {} is {is}: {}", skip.column, skip.evidence)));
            }
        }
    }
    if !r.query.is_empty() {
        let query: Vec<String> = r.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        facts.push(("query", query.join(", ")));
    }
    for e in &r.expand {
        let needs = e.scope.as_ref().map_or(String::new(), |s| format!(" (needs {s})"));
        facts.push(("expands", format!("{}{needs}", e.name)));
    }
    if let (Paging::Token { limit, .. }, false) = (&r.paging, matches!(r.mode, Mode::Extracted { .. })) {
        facts.push(("page", format!("{limit} records")));
    }
    if let Some(span) = &r.span {
        facts.push(("bounds", format!("{} and {}, always sent", span.start, span.end)));
    }
    facts.push(("scope", r.scope.clone().unwrap_or_else(|| "none".to_owned())));
    facts.push(("key", r.key.join(", ")));
    if let Some(parent) = &r.parent {
        facts.push(("parent", format!("{parent}: all rows of a parent are replaced together")));
    }
    facts.push(("partition", cut(r)));
    facts.push((
        "default",
        match r.default {
            super::ByDefault::Always => "on",
            super::ByDefault::Granted => "on where its scope is granted",
            super::ByDefault::Named => "off: it must be named",
        }
        .to_owned(),
    ));
    if r.confidential.is_some() {
        facts.push(("hidden", "confidential ones, unless `confidential = true`".to_owned()));
    }
    if !r.keep_extra {
        facts.push(("extra", "undeclared fields are dropped".to_owned()));
    }
    facts
}

fn cut(r: &Resource) -> String {
    match &r.partition {
        Some(p) => match (&p.column, p.granularity) {
            (Some(column), Granularity::Year | Granularity::Month) => format!("{} of {column}", p.granularity),
            _ => p.granularity.to_string(),
        },
        None => Granularity::None.to_string(),
    }
}

/// A column, and below it the fields of a struct, two blanks further in.
fn row(table: &mut Table, c: &Column, depth: usize) {
    let (ty, inner) = c.ty.written();
    let mut marks = Vec::new();
    match (c.sensitive, c.class) {
        (true, Some(class)) => marks.push(format!("sensitive: {class}")),
        (true, None) => marks.push("sensitive".to_owned()),
        (false, Some(class)) => marks.push(class.to_string()),
        (false, None) => {}
    }
    if c.volatile {
        marks.push("volatile".to_owned());
    }
    let source = c.from_parent.as_ref().map_or_else(|| c.source.clone(), |f| format!("parent's {f}"));
    // A no-break space: the table trims ordinary ones.
    let indent = "\u{a0}\u{a0}".repeat(depth);
    table.add_row([format!("{indent}{}", c.name), ty, source, marks.join(", "), c.about.clone()]);
    if let ColumnType::Struct(fields) = inner {
        for field in fields {
            row(table, field, depth + 1);
        }
    }
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn trimmed(table: &Table) -> String {
    let mut out = String::new();
    for line in table.to_string().lines() {
        out.push_str(line.replace('\u{a0}', " ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::embedded;

    #[test]
    fn the_overview_has_every_resource() {
        insta::assert_snapshot!(overview(&embedded().unwrap()), @"
        RESOURCE               MODE         SCOPE                          KEY                  PARTITION                       WHAT
        opportunities          incremental  opportunities:read:admin       id                   year of created_at              a person considered for a job, or for none yet: the pipeline's unit
        applications           extracted    applications:read:admin        id                   year of opportunity_created_at  how a person came to a posting; taken out of opportunities
        contacts               extracted    contact:read:admin             id                   none                            a person, shared by their opportunities; taken out of opportunities
        users                  full         users:read:admin               id                   none                            people with an account at Lever, deactivated ones included
        postings               incremental  postings:read:admin            id                   none                            jobs, in every state
        stages                 full         stages:read:admin              id                   none                            stages of the pipeline, in its order
        archive_reasons        full         archive_reasons:read:admin     id                   none                            why opportunities end, inactive reasons included
        sources                full         sources:read:admin             text                 none                            where people come from, with counts
        tags                   full         tags:read:admin                text                 none                            tags of opportunities, with counts
        requisitions           full         requisitions:read:admin        id                   none                            approved seats to hire for
        opportunities_deleted  tombstones   opportunities:read:admin       id                   none                            tombstones of opportunities
        applications_deleted   tombstones   applications:read:admin        id                   none                            tombstones of applications
        postings_deleted       tombstones   postings:read:admin            id                   none                            tombstones of postings
        disposition_stages     full         stages:read:admin              id                   none                            stages with their place in the pipeline
        requisition_fields     full         requisition_fields:read:admin  id                   none                            the account's own fields of requisitions
        feedback_templates     full         feedback_templates:read:admin  id                   none                            active templates of feedback forms
        form_templates         full         form_templates:read:admin      id                   none                            active templates of profile forms
        audit_events           incremental  audit_events:read:admin        id                   year of created_at              who did what in the account's settings; never changed; a paid feature of Lever
        webhooks               full         webhooks:read:admin            id                   none                            what the account sends where; without the secrets
        feedback               children     feedback:read:admin            id                   year of opportunity_created_at  feedback forms about a person, filled in or pending
        files                  children     files:read:admin               id                   year of opportunity_created_at  files of an opportunity, without their contents
        file_actions           children     files:read:admin               id                   year of opportunity_created_at  what was done with the files of an opportunity
        interviews             children     interviews:read:admin          id                   year of opportunity_created_at  interviews, canceled ones included
        notes                  children     notes:read:admin               id                   year of opportunity_created_at  notes about a person, secret ones included; each is a thread
        offers                 children     offers:read:admin              id                   year of opportunity_created_at  offers in every state; without the documents' contents
        panels                 children     panels:read:admin              id                   year of opportunity_created_at  interviews scheduled together
        referrals              children     referrals:read:admin           id                   year of opportunity_created_at  forms by which somebody recommends a person
        resumes                children     resumes:read:admin             id                   year of opportunity_created_at  resumes and what Lever read in them; without the files' contents
        forms                  children     forms:read:admin               id                   year of opportunity_created_at  profile forms, filled in or pending
        posting_forms          children     postings:read:admin            posting_id           none                            what a posting's form asks of who applies
        posting_users          children     users:read:admin               posting_id           none                            who has a part in a posting; one row a posting
        eeo_responses          full         eeo_responses:read:admin       row_key              none                            answers on equal opportunity, anonymous
        eeo_responses_pii      full         eeo_responses_pii:read:admin   id                   none                            answers on equal opportunity, with whose they are
        surveys_diversity      children     diversity_surveys:read:admin   posting_id, id       none                            diversity surveys of a posting: the questions, no answers
        file_contents          children     files:read:admin               file_id              year of opportunity_created_at  the files themselves, downloaded into the lake's files/
        resume_contents        children     resumes:read:admin             resume_id, document  year of opportunity_created_at  the resumes' files themselves, downloaded into the lake's files/
        offer_contents         children     offers:read:admin              offer_id, document   year of opportunity_created_at  the offers' documents themselves, downloaded into the lake's files/
        ");
    }

    #[test]
    fn a_resource_is_described() {
        let p = embedded().unwrap();
        insta::assert_snapshot!(describe(&p, p.resource("contacts").unwrap()), @"
        lever/contacts: a person, shared by their opportunities; taken out of opportunities

        read       out of `contact` of opportunities: no requests of its own
        scope      contact:read:admin
        key        id
        partition  none
        default    on

        COLUMN                    TYPE                SOURCE                                       WHAT
        id                        text                id                                           the person
        name                      text                name                   sensitive: identity   name
        headline                  text                headline               sensitive: free_text  usually current organisations
        is_anonymized             bool                isAnonymized                                 personal data was removed at Lever
        location                  struct              location               sensitive: contact    where the person lives
          name                    text                name                                         as typed
        emails                    list<text>          emails                 sensitive: contact    mail addresses
        phones                    list<struct>        phones                 sensitive: contact    phone numbers
          type                    text                type                                         `mobile`, `home`, `work`, `skype`, `other`
          value                   text                value                                        the number as typed
        data_protection           struct              dataProtection                               what may be done with the data
          store                   struct              store                                        keeping it
            allowed               bool                allowed                                      allowed
            expires_at            timestamp(lenient)  expiresAt                                    until
          contact                 struct              contact                                      contacting the person
            allowed               bool                allowed                                      allowed
            expires_at            timestamp(lenient)  expiresAt                                    until
          interview_intelligence  struct              interviewIntelligence                        recording interviews
            allowed               bool                allowed                                      allowed
            expires_at            timestamp(lenient)  expiresAt                                    until
        ");
        insta::assert_snapshot!(describe(&p, p.resource("postings_deleted").unwrap()), @"
        lever/postings_deleted: tombstones of postings

        read       GET /postings/deleted, deletions of postings
        changes by deleted_at (deleted_at_start, deleted_at_end)
        page       100 records
        scope      postings:read:admin
        key        id
        partition  none
        default    on
        extra      undeclared fields are dropped

        COLUMN      TYPE                SOURCE        WHAT
        id          text                id            the deleted posting
        deleted_at  timestamp(lenient)  deletedAt     when
        ");
    }

    #[test]
    fn every_resource_can_be_described_without_colour() {
        let p = embedded().unwrap();
        for r in &p.resources {
            let text = describe(&p, r);
            assert!(!text.contains('\u{1b}') && !text.contains('\u{a0}'), "{}", r.name);
            assert!(text.lines().all(|l| l == l.trim_end()), "{}", r.name);
        }
    }
}
