//! Scopes in plain words, as a customer reads them.

use std::borrow::Cow;

/// What a scope opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) title: Cow<'static, str>,
    pub(super) what: Cow<'static, str>,
    /// It opens data about people.
    pub(super) personal: bool,
    /// It lets data be changed too.
    pub(super) writes: bool,
}

/// The first part of a scope, its title, what it opens, and whether that is about people.
const KNOWN: &[(&str, &str, &str, bool)] = &[
    ("applications", "Applications", "to which postings candidates applied, when, and how they came", true),
    ("archive_reasons", "Archive reasons", "the list of reasons for which candidates are archived", false),
    ("audit_events", "Audit events", "who changed what in your account, and when", true),
    (
        "confidential",
        "Confidential records",
        "opportunities, postings and requisitions that are marked confidential",
        true,
    ),
    ("contact", "Contacts", "candidates' names, e-mail addresses, telephone numbers and locations", true),
    ("diversity_surveys", "Diversity surveys", "the surveys that candidates are asked to fill in", true),
    ("eeo_responses", "Equal-opportunity answers", "answers about equal opportunity, without names", true),
    (
        "eeo_responses_pii",
        "Equal-opportunity answers with names",
        "answers about equal opportunity, with the person who gave them",
        true,
    ),
    ("feedback", "Feedback", "what interviewers wrote about candidates", true),
    ("feedback_templates", "Feedback templates", "the empty forms for feedback", false),
    ("files", "Files", "files that are attached to candidates", true),
    ("forms", "Profile forms", "forms that were filled in about candidates", true),
    ("form_templates", "Form templates", "the empty profile forms", false),
    ("groups", "Groups", "groups of your users", false),
    ("interviews", "Interviews", "when candidates were interviewed, and by whom", true),
    ("notes", "Notes", "notes that were written about candidates", true),
    ("offers", "Offers", "offers to candidates with their terms, such as pay", true),
    (
        "opportunities",
        "Candidates and their opportunities",
        "names, how to reach them, stage, owner, tags, and the history of each",
        true,
    ),
    ("panels", "Interview panels", "panels of interviews: when, and who takes part", true),
    ("permissions", "Permissions", "what your users may do", false),
    ("postings", "Job postings", "titles, texts, teams, places, and their state", false),
    ("referrals", "Referrals", "who recommended which candidate", true),
    ("requisitions", "Requisitions", "open and filled positions, with headcount and pay range", false),
    ("requisition_fields", "Requisition fields", "which fields your requisitions have", false),
    ("resumes", "Résumés", "candidates' résumés", true),
    ("roles", "Roles", "the roles that users can have", false),
    ("sources", "Sources", "the list of places from which candidates come", false),
    ("stages", "Stages", "the steps of your hiring pipeline", false),
    ("tags", "Tags", "the tags that candidates can have", false),
    ("tasks", "Tasks", "tasks of your users", false),
    ("uploads", "Uploads", "sending files", false),
    ("users", "Users", "your own team in the account: names, e-mail addresses and roles", true),
    ("webhooks", "Webhooks", "which of your systems are told of changes", false),
];

/// A scope in words; of one that is not known, what its name says.
pub(super) fn words(scope: &str) -> Words {
    let mut parts = scope.split(':');
    let (name, deed) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let writes = deed == "write";
    match KNOWN.iter().find(|(known, ..)| *known == name) {
        Some((_, title, what, personal)) => {
            Words { title: (*title).into(), what: (*what).into(), personal: *personal, writes }
        }
        None => {
            let mut title = name.replace('_', " ");
            if let Some(first) = title.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            let what = format!("what the permission `{scope}` opens");
            // What is not known is not played down.
            Words { title: title.into(), what: what.into(), personal: true, writes }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_of_the_catalogue_has_words() {
        let oauth = crate::catalog::embedded().unwrap().oauth;
        for scope in oauth.scopes.iter().filter(|s| **s != oauth.offline_scope) {
            let words = words(scope);
            assert!(!words.what.contains(scope.as_str()), "{scope} has no words");
            assert_eq!(words.writes, scope.contains(":write:"));
        }
    }

    #[test]
    fn a_scope_without_words_says_its_name() {
        let words = words("new_things:read:admin");
        assert_eq!((words.title.as_ref(), words.personal, words.writes), ("New things", true, false));
        assert_eq!(words.what, "what the permission `new_things:read:admin` opens");
    }
}
