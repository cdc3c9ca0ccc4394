//! What a column says of a person, and what a tenant's settings make of it: kept, dropped, or replaced by a pseudonym.
//!
//! Plain values: `transform` applies them, `config` reads them. A column by which rows are found can be neither dropped nor
//! replaced ([`held_by`]).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Column, Mode, Resource};
use crate::names::ResourceName;

/// What a column says of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Who it is: names, pictures, signatures.
    Identity,
    /// How to reach the person: mail, phone, links, address.
    Contact,
    /// What somebody wrote: comments, notes, feedback, headlines.
    FreeText,
    /// Answers to the questions of forms.
    Answers,
    /// Documents: their names, addresses and what was read in them.
    Documents,
    /// Salaries and what else is offered.
    Pay,
    /// What the person's machine said: address, browser, language.
    Technical,
    /// Specially protected: answers on equal opportunity.
    Protected,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::Contact,
        Self::FreeText,
        Self::Answers,
        Self::Documents,
        Self::Pay,
        Self::Technical,
        Self::Protected,
    ];

    /// As catalogues and configurations write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Contact => "contact",
            Self::FreeText => "free_text",
            Self::Answers => "answers",
            Self::Documents => "documents",
            Self::Pay => "pay",
            Self::Technical => "technical",
            Self::Protected => "protected",
        }
    }

    /// The class of that word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.word() == word)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What becomes of a column's values before they are written anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// They stay as they came.
    Keep,
    /// Null.
    Drop,
    /// Each text becomes a keyed hash of it; what is no text becomes null.
    Pseudonymize,
}

/// The settings of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privacy {
    /// By class.
    pub classes: BTreeMap<Class, Act>,
    /// By table and column; wins over the class.
    pub columns: BTreeMap<(ResourceName, String), Act>,
    /// Whether rows that are marked as secret lose their sensitive columns.
    pub drop_secret: bool,
    /// Whether fields that the catalogue does not declare are dropped.
    pub drop_extra: bool,
}

impl Privacy {
    /// What becomes of a column. One that is sensitive and of no class is of what nobody has said yet what it is, and goes with
    /// undeclared fields, among which it was before somebody (or an evolving table) declared it. `all`: every resource of the
    /// provider.
    #[must_use]
    pub fn act(&self, all: &[Resource], resource: &Resource, column: &Column) -> Act {
        let own = self.columns.get(&(resource.name.clone(), column.name.clone()));
        let class = || column.class.and_then(|c| self.classes.get(&c));
        let unknown = column.sensitive && column.class.is_none() && self.drop_extra;
        own.or_else(class).copied().unwrap_or_else(|| match unknown && held_by(all, resource, column).is_none() {
            true => Act::Drop,
            false => Act::Keep,
        })
    }
}

/// Why a column can be neither dropped nor replaced, where that is so: rows are found, placed or compared by it. `all`: every
/// resource of the provider, for those that are read by this one's rows.
#[must_use]
pub fn held_by(all: &[Resource], resource: &Resource, column: &Column) -> Option<&'static str> {
    let is = |name: Option<&String>| name == Some(&column.name);
    if resource.key.contains(&column.name) {
        return Some("it is the key, by which a row is found");
    }
    if is(resource.parent.as_ref()) || column.from_parent.is_some() {
        return Some("it ties the row to its parent");
    }
    if is(resource.partition.as_ref().and_then(|p| p.column.as_ref())) {
        return Some("it says in which file a row lies");
    }
    let filters = match &resource.mode {
        Mode::Incremental { cursor, load, .. } => [Some(cursor), load.as_ref()],
        Mode::Tombstones { cursor, .. } => [Some(cursor), None],
        Mode::Full | Mode::Extracted { .. } | Mode::Children { .. } => [None, None],
    };
    if filters.into_iter().flatten().any(|f| f.column == column.name) {
        return Some("it says which version of a row is the newest");
    }
    if is(resource.confidential.as_ref()) {
        return Some("it says which rows are confidential");
    }
    if is(resource.anonymized.as_ref()) {
        return Some("it says who was anonymized, which their other rows follow");
    }
    if is(resource.dormant.as_ref()) {
        return Some("it says whose children are read more often");
    }
    let by_a_child = all.iter().filter(|c| c.mode.parent() == Some(&resource.name)).any(|c| {
        let filled = c.columns.iter().any(|own| own.from_parent.as_ref() == Some(&column.source));
        filled
            || match &c.mode {
                Mode::Extracted { field, .. } => *field == column.source,
                Mode::Children { skip, .. } => skip.as_ref().is_some_and(|s| s.column == column.name),
                _ => false,
            }
    });
    by_a_child.then_some("other tables' rows are found by it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::embedded;

    #[test]
    fn a_class_is_read_back() {
        for class in Class::ALL {
            assert_eq!(Class::of(class.word()), Some(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.word());
        }
        assert_eq!(Class::of("salary"), None);
    }

    #[test]
    fn every_sensitive_column_has_a_class_and_none_by_which_rows_are_found() {
        let p = embedded().unwrap();
        for r in &p.resources {
            for c in &r.columns {
                assert!(!c.sensitive || c.class.is_some(), "{}.{} is sensitive and has no class", r.name, c.name);
                assert!(c.class.is_none() || held_by(&p.resources, r, c).is_none(), "{}.{}", r.name, c.name);
            }
        }
        let of = |class: Class| -> Vec<String> {
            let all = p.resources.iter().flat_map(|r| r.columns.iter().map(move |c| (r, c)));
            all.filter(|(_, c)| c.class == Some(class)).map(|(r, c)| format!("{}.{}", r.name, c.name)).collect()
        };
        assert_eq!(
            of(Class::Pay),
            [
                "postings.salary_range",
                "postings.salary_description",
                "postings.salary_description_html",
                "requisitions.compensation_band",
                "offers.fields"
            ]
        );
        assert_eq!(
            of(Class::Identity),
            ["opportunities.name", "applications.name", "contacts.name", "offers.signatures"]
        );
    }

    #[test]
    fn what_lists_everybodys_answers_names_whose_they_are() {
        let p = embedded().unwrap();
        for people in ["opportunities", "contacts", "postings"] {
            let of = p.resource(people).unwrap();
            let named = p.resources.iter().filter_map(|r| Some(format!("{}.{}", r.name, r.names_whose(of)?.name)));
            let expected: &[&str] = match people {
                "opportunities" => &["eeo_responses_pii.opportunity_id"],
                "contacts" => &["eeo_responses_pii.contact"],
                _ => &[],
            };
            assert_eq!(named.collect::<Vec<_>>(), expected, "{people}");
        }
    }

    #[test]
    fn a_column_wins_over_its_class() {
        let p = embedded().unwrap();
        let r = p.resource("opportunities").unwrap();
        let mut privacy = Privacy::default();
        privacy.classes.insert(Class::Contact, Act::Drop);
        privacy.columns.insert((r.name.clone(), "emails".into()), Act::Pseudonymize);
        privacy.columns.insert((r.name.clone(), "stage".into()), Act::Drop);
        let act = |name: &str| privacy.act(&p.resources, r, r.column(name).unwrap());
        assert_eq!(
            ["emails", "phones", "name", "stage"].map(act),
            [Act::Pseudonymize, Act::Drop, Act::Keep, Act::Drop]
        );
    }

    #[test]
    fn a_sensitive_column_of_no_class_goes_with_what_is_undeclared() {
        let p = embedded().unwrap();
        let mut r = p.resource("opportunities").unwrap().clone();
        for name in ["stage", "id"] {
            let c = r.columns.iter_mut().find(|c| c.name == name).unwrap();
            c.sensitive = true;
        }
        let act = |privacy: &Privacy, name: &str| privacy.act(&p.resources, &r, r.column(name).unwrap());
        let mut privacy = Privacy { drop_extra: true, ..Privacy::default() };
        // A row is found by its key, whatever is said of it.
        assert_eq!(["stage", "id", "name"].map(|c| act(&privacy, c)), [Act::Drop, Act::Keep, Act::Keep]);
        privacy.columns.insert((r.name.clone(), "stage".into()), Act::Keep);
        assert_eq!(act(&privacy, "stage"), Act::Keep);
        assert_eq!(act(&Privacy::default(), "stage"), Act::Keep);
    }
}
