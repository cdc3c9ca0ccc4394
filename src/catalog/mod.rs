//! What providers offer, as data: `pipelines/*.toml` → [`Provider`], [`Resource`], [`Column`].
//!
//! The embedded catalogue can be overridden and extended from a folder of the user's. Everything here is a plain value,
//! validated when it is read (`parse`); rooms further down never meet an unknown key, a column twice or a resource that
//! extracts from nothing. Knows no HTTP, no store, no tenant.

mod lint;
mod parse;
mod privacy;
mod propose;
pub mod scopes;
mod show;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

pub use lint::{Finding, Linted, columns_in, lint, lint_text};
pub(crate) use parse::camel_case;
pub(crate) use parse::shortened;
pub use parse::{CatalogError, embedded, is_plain_path, load};
pub use privacy::{Act, Class, Privacy, held_by};
pub use propose::{
    Names, Proposed, extension, is_known_as_personal, is_personal, likely_class, may_be_time, proposal, quoted,
};
pub use show::{describe, overview};
pub use table::{
    DELETED_AT, EXTRA, Granularity, HASH, Layout, Order, PartitionValue, SYNCED_AT, SYSTEM_COLUMNS, Table, arrow_type,
    schema,
};
#[cfg(any(test, fuzzing))]
pub(crate) use {lint::fuzz_lint, parse::fuzz_assemble};

use crate::names::ResourceName;

/// A system that we read.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// `lever`: the first folder below the lake.
    pub name: ResourceName,
    /// The hosts of its production side.
    pub production: Endpoints,
    /// The hosts of its sandbox side.
    pub sandbox: Endpoints,
    /// How fast it may be asked.
    pub rate: Rate,
    /// Everything known of its OAuth.
    pub oauth: OAuthFacts,
    /// Every resource, in the order of the files.
    pub resources: Vec<Resource>,
    /// How confidential records are asked for, where it has such.
    pub confidential: Option<Confidential>,
}

/// How a provider is asked for confidential records, which its listings leave out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confidential {
    /// The query parameter.
    pub param: String,
    /// Its value: confidential records beside the others.
    pub value: String,
    /// The scope without which such a request is refused.
    pub scope: String,
    /// What a resource's column says of a confidential record.
    pub mark: String,
}

/// Which side of a provider an app belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Real accounts.
    Production,
    /// The provider's test accounts, or our own pretend server.
    Sandbox,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        })
    }
}

/// Where one environment lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Base of every data request, without a slash at its end.
    pub api_base: Url,
    /// The consent page.
    pub authorize: Url,
    /// The token endpoint.
    pub token: Url,
    /// The revocation endpoint, where there is one.
    pub revoke: Option<Url>,
    /// The `audience` parameter of the consent link, with its slash.
    pub audience: String,
    /// Hosts to which a credential may follow a redirect: `lever.co` also means `*.lever.co`.
    pub hosts: Vec<String>,
}

/// Whether a URL leads to this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// What becomes of a row whose record was deleted at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It stays, with `_deleted_at` set and its sensitive columns null.
    Redact,
    /// It stays, with `_deleted_at` set.
    Mark,
    /// It goes.
    Remove,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Steady requests per second, above 0.
    pub per_second: f64,
    /// Requests that a full bucket holds, at least 1.
    pub burst: u32,
}

/// What a provider's OAuth asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthFacts {
    /// The scope that yields a refresh token, always requested.
    pub offline_scope: String,
    /// Most scopes of one application.
    pub max_scopes: usize,
    /// Every scope that the provider knows.
    pub scopes: Vec<String>,
    /// Days without use after which a refresh token dies.
    pub idle_days: u32,
    /// Days after which a refresh token dies whatever happens.
    pub hard_days: u32,
    /// Whether the consent is sent with a PKCE challenge (RFC 7636, S256).
    pub pkce: bool,
}

/// A thing that the provider lists, and the table that it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Name of the table.
    pub name: ResourceName,
    /// One sentence for `hirelake catalog`.
    pub about: String,
    /// Path below the API base, with a leading slash.
    pub path: String,
    /// Path of a single object with `:id` in it, where the provider has one; confirms absences.
    pub item: Option<String>,
    /// The scope that opens it.
    pub scope: Option<String>,
    /// Parameters sent with every request of its listing.
    pub query: Vec<(String, String)>,
    /// Objects asked for in line.
    pub expand: Vec<Expand>,
    /// Where the rows stand in a page: a key of the body's object, or keys with dots from the outside in; `.` when the body
    /// itself is the one record.
    pub records: String,
    /// How pages follow each other.
    pub paging: Paging,
    /// How it is kept right.
    pub mode: Mode,
    /// Columns (by table name) that identify a row; not empty.
    pub key: Vec<String>,
    /// The column (by table name) with the id of the parent, for children: they are replaced by parent.
    pub parent: Option<String>,
    /// How its table is cut into files.
    pub partition: Option<Partition>,
    /// Its columns, in their order for ever.
    pub columns: Vec<Column>,
    /// Whether a tenant gets it without asking.
    pub default: ByDefault,
    /// Bounds that its listing must always be given, because it shows a part only without them.
    pub span: Option<Span>,
    /// The column (by table name) that is made from a record's whole content, for records that have no key of their own.
    pub content_key: Option<String>,
    /// The column (by table name) that is null as long as the record is active: its children are read again more often.
    pub dormant: Option<String>,
    /// Of documents: what is downloaded for each parent instead of a page of records.
    pub content: Option<Content>,
    /// The column (by table name) that says of a row whether it is confidential; `None` where the listing knows nothing of that.
    pub confidential: Option<String>,
    /// The column (by table name) that is true where a row is not for everybody's eyes.
    pub secret: Option<String>,
    /// The column (by table name) that is true once the provider has taken the person out of the record.
    pub anonymized: Option<String>,
    /// Whether undeclared fields are kept in `_extra`; false only where they would hold what must not be kept (tombstones).
    pub keep_extra: bool,
}

/// Whether a tenant that names no resources gets this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByDefault {
    /// Yes, and the consent asks for its scope.
    Always,
    /// Where its scope was granted, which the consent does not ask for by itself: one app may have 20 scopes, and children cost
    /// a request for each parent.
    Granted,
    /// No: it must be named.
    Named,
}

/// Bounds that are sent with every listing, both inclusive epoch milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Query parameter of the lower bound.
    pub start: String,
    /// Query parameter of the upper bound.
    pub end: String,
}

/// A rule by which parents are not asked for their children. It stands in the catalogue with its evidence; the embedded one
/// has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The parent's column (by table name) that decides.
    pub column: String,
    /// What it must be.
    pub is: SkipIf,
    /// Why that parent has no children.
    pub evidence: String,
}

/// What a parent's column must be for its children to be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipIf {
    /// Null.
    Null,
    /// An empty list, or null.
    Empty,
}

/// Documents that are downloaded into the lake, each with a row that tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The parent's column (by table name) with the ending of its file's name.
    pub ext: Option<String>,
    /// What there is to download of a parent.
    pub documents: Vec<Document>,
}

/// A document of a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Which, where a parent has several.
    pub name: Option<String>,
    /// The parent's column (by table name) that is null as long as there is none.
    pub when: Option<String>,
    /// Parameters of the request.
    pub query: Vec<(String, String)>,
}

/// Columns (by table name) that a table of documents must have, and their types.
pub const CONTENT_COLUMNS: [(&str, ColumnType); 5] = [
    ("status", ColumnType::Text),
    ("path", ColumnType::Text),
    ("bytes", ColumnType::Int { lenient: false }),
    ("sha256", ColumnType::Text),
    ("content_type", ColumnType::Text),
];

/// An object asked for in line in place of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expand {
    /// Value of the `expand` parameter.
    pub name: String,
    /// The scope without which it is not asked for.
    pub scope: Option<String>,
}

/// How pages follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paging {
    /// An opaque token of the last page is sent with the next request.
    Token {
        /// Query parameter that takes the token.
        param: String,
        /// Key of the body that holds it.
        next: String,
        /// Key of the body that says whether there is more.
        more: String,
        /// Query parameter for the page size.
        limit_param: String,
        /// The page size.
        limit: u32,
    },
    /// One page is all.
    Single,
}

/// A time filter of a listing: both bounds are inclusive epoch milliseconds at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFilter {
    /// Column (by table name) that the filter looks at.
    pub column: String,
    /// Query parameter of the lower bound.
    pub start: String,
    /// Query parameter of the upper bound.
    pub end: String,
}

/// How a resource is kept right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A first load, then only what changed.
    Incremental {
        /// The filter of the increments.
        cursor: TimeFilter,
        /// The filter of the first load's windows; without one the first load is one unfiltered listing.
        load: Option<TimeFilter>,
        /// Whether the increments may carry no other filter or `expand` (Lever's postings).
        bare: bool,
    },
    /// The whole listing every run; what is missing from it is confirmed and deleted.
    Full,
    /// A feed of deletions of another resource.
    Tombstones {
        /// The resource whose rows it deletes.
        of: ResourceName,
        /// The filter on the time of deletion.
        cursor: TimeFilter,
    },
    /// Rows taken out of an expanded field of another resource's records.
    Extracted {
        /// The resource that carries them.
        from: ResourceName,
        /// The wire name of the field.
        field: String,
    },
    /// Asked for parent by parent, `:id` in the path being the parent's key; replaced by parent.
    Children {
        /// The resource whose rows are the parents.
        from: ResourceName,
        /// Whether a 404 means that there are none; else it means that the parent is gone.
        absent_is_empty: bool,
        /// Which parents are not asked.
        skip: Option<Skip>,
    },
}

impl Mode {
    /// One word for tables and reports.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Incremental { .. } => "incremental",
            Self::Full => "full",
            Self::Tombstones { .. } => "tombstones",
            Self::Extracted { .. } => "extracted",
            Self::Children { .. } => "children",
        }
    }
    /// The resource by whose rows this one's come: out of their records, or asked for one by one.
    #[must_use]
    pub fn parent(&self) -> Option<&ResourceName> {
        match self {
            Self::Extracted { from, .. } | Self::Children { from, .. } => Some(from),
            Self::Incremental { .. } | Self::Full | Self::Tombstones { .. } => None,
        }
    }
}

/// By what a table is cut into files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The timestamp column (by table name) whose UTC value decides; for children a column filled from their parent.
    /// Without one the table is one file, or `bucket(n)` by key hash when configured.
    pub column: Option<String>,
    /// First half of the folder's name: `created` gives `created_year=2026`.
    pub label: String,
    /// What is used unless the configuration says otherwise.
    pub granularity: Granularity,
}

impl Partition {
    /// Names that no column may have, because a folder has them.
    fn folders(&self) -> [String; 4] {
        [format!("{}_year", self.label), format!("{}_month", self.label), "bucket".into(), "tenant".into()]
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name in the table: `snake_case`.
    pub name: String,
    /// Name on the wire.
    pub source: String,
    /// Its type, for ever.
    pub ty: ColumnType,
    /// Nulled when the person is deleted.
    pub sensitive: bool,
    /// What it says of a person, or of what somebody is paid.
    pub class: Option<Class>,
    /// Left out of `_row_hash`, such as a counter.
    pub volatile: bool,
    /// Filled from this wire field of the parent record (rows taken out of an expanded parent).
    pub from_parent: Option<String>,
    /// Texts that the provider documents beside the type (`"unlimited"`): kept in `_extra`, not counted as drift.
    pub also: Vec<String>,
    /// One phrase for `hirelake catalog RESOURCE`.
    pub about: String,
}

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// A JSON string.
    Text,
    /// A whole number. `lenient` also takes a numeric string.
    Int {
        /// Whether `"12"` is taken for 12.
        lenient: bool,
    },
    /// A number.
    Float,
    /// `true` or `false`.
    Bool,
    /// Epoch milliseconds → `timestamp(µs, UTC)`. `lenient` also takes a numeric string.
    Timestamp {
        /// Whether `"1719073600001"` is taken.
        lenient: bool,
    },
    /// Any JSON value, kept as its text.
    Json,
    /// An id, or the expanded object in its place, of which the `id` is kept.
    Ref,
    /// A list.
    List(Box<ColumnType>),
    /// A nested object; its fields have names and types of their own.
    Struct(Vec<Column>),
}

impl ColumnType {
    /// As a catalogue file writes it, the fields of a struct standing beside it; and the type inside its lists.
    fn written(&self) -> (String, &Self) {
        let mut inner = self;
        let mut ty = String::new();
        while let Self::List(item) = inner {
            ty.push_str("list<");
            inner = item;
        }
        let closing = ">".repeat(ty.len() / "list<".len());
        match inner {
            Self::Struct(_) => ty.push_str("struct"),
            other => ty.push_str(&other.to_string()),
        }
        ty.push_str(&closing);
        (ty, inner)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Int { lenient: false } => f.write_str("int"),
            Self::Int { lenient: true } => f.write_str("int(lenient)"),
            Self::Float => f.write_str("float"),
            Self::Bool => f.write_str("bool"),
            Self::Timestamp { lenient: false } => f.write_str("timestamp"),
            Self::Timestamp { lenient: true } => f.write_str("timestamp(lenient)"),
            Self::Json => f.write_str("json"),
            Self::Ref => f.write_str("ref"),
            Self::List(item) => write!(f, "list<{item}>"),
            Self::Struct(fields) => {
                f.write_str("struct<")?;
                for (i, field) in fields.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{}: {}", field.name, field.ty)?;
                }
                f.write_str(">")
            }
        }
    }
}

impl Column {
    /// A column that is called alike on both sides and is nothing special.
    #[must_use]
    pub fn plain(name: &str, ty: ColumnType) -> Self {
        Self {
            name: name.into(),
            source: name.into(),
            ty,
            sensitive: false,
            class: None,
            volatile: false,
            from_parent: None,
            also: Vec::new(),
            about: String::new(),
        }
    }
}

impl Provider {
    /// The resource of that name.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| r.name.as_str() == name)
    }
    /// The hosts of an environment.
    #[must_use]
    pub fn endpoints(&self, environment: Environment) -> &Endpoints {
        match environment {
            Environment::Production => &self.production,
            Environment::Sandbox => &self.sandbox,
        }
    }
}

impl Resource {
    /// A table that no provider lists: of the state, say. Its key is `id`; it has no path and no scope.
    #[must_use]
    pub fn of_our_own(name: ResourceName, columns: Vec<Column>, partition: Option<Partition>) -> Self {
        Self {
            name,
            about: String::new(),
            path: String::new(),
            item: None,
            scope: None,
            query: Vec::new(),
            expand: Vec::new(),
            records: String::new(),
            paging: Paging::Single,
            mode: Mode::Full,
            key: vec!["id".into()],
            parent: None,
            partition,
            columns,
            default: ByDefault::Named,
            span: None,
            content_key: None,
            dormant: None,
            content: None,
            confidential: None,
            secret: None,
            anonymized: None,
            keep_extra: true,
        }
    }

    /// The column by which its rows name whose they are, of a table that hangs on nobody's: of answers that are listed for all
    /// people at once. `people` are those who can be deleted or anonymized.
    #[must_use]
    pub fn names_whose(&self, people: &Self) -> Option<&Column> {
        let listed = self.mode.parent().is_none() && !matches!(self.mode, Mode::Tombstones { .. });
        // From whose records the people themselves are taken, that one says by itself who is gone.
        let listed = listed && people.mode.parent() != Some(&self.name);
        let personal = listed && people.anonymized.is_some() && self.is_personal();
        self.columns.iter().filter(|_| personal).find(|c| self.target_of(c).as_ref() == Some(&people.name))
    }

    /// The column of the time by which increments (or a feed) are read: it tells the newer of two versions.
    #[must_use]
    pub fn cursor_column(&self) -> Option<&str> {
        match &self.mode {
            Mode::Incremental { cursor, .. } | Mode::Tombstones { cursor, .. } => Some(&cursor.column),
            Mode::Full | Mode::Extracted { .. } | Mode::Children { .. } => None,
        }
    }

    /// Whether its rows hold something of a person that goes when the person is deleted.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        self.columns.iter().any(|c| c.sensitive)
    }

    /// The column of that table name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The table to which a column refers, by its name: the parent's, or `posting` and `posting_id` → `postings`,
    /// `opportunity_id` → `opportunities`. Whether there is such a table is not known here.
    #[must_use]
    pub fn target_of(&self, column: &Column) -> Option<ResourceName> {
        let parent = self.parent.as_deref().filter(|p| *p == column.name).and(self.mode.parent());
        let stem = column.name.trim_end_matches("_id");
        let many = stem.strip_suffix('y').map_or_else(|| format!("{stem}s"), |stem| format!("{stem}ies"));
        parent.cloned().or_else(|| many.parse().ok()).filter(|t| *t != self.name && column.ty == ColumnType::Ref)
    }
}
