//! What customers read: pages of plain HTML without a script, and the sentences for each way in which connecting can fail.

use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, html};
use url::Url;

use super::words::words;
use crate::auth::AuthError;
use crate::auth::connect::Refused;
use crate::catalog::Environment;
use crate::clock::Timestamp;
use crate::state::StateError;

/// Served at `style.css`.
pub(super) const STYLE: &str = include_str!("style.css");

/// Who asks, as far as it is known for a page.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// The app as customers know it.
    pub(super) app: String,
    /// The provider's name, with a capital letter.
    pub(super) provider: String,
    /// Which side; `None` where the page belongs to no app.
    pub(super) environment: Option<Environment>,
    /// Where `style.css` is.
    pub(super) base_path: String,
}

/// What an invitation's page says.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) tenant: &'a str,
    pub(super) description: Option<&'a str>,
    pub(super) expires: Timestamp,
    pub(super) scopes: &'a [String],
    pub(super) offline: &'a str,
    /// The host of the consent page.
    pub(super) host: &'a str,
    /// Where the form is sent.
    pub(super) action: &'a str,
}

/// A scope that was not granted, and the tables that stay empty.
#[derive(Debug)]
pub(super) struct Lacking {
    pub(super) scope: String,
    pub(super) tables: Vec<String>,
}

/// The ways in which connecting fails, as far as they differ for the person before the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    UnknownLink,
    Expired(Timestamp),
    Used,
    NoCookie,
    StateMismatch,
    Denied,
    WrongAccount,
    AccountTaken,
    Audience,
    NoRefreshToken,
    Request,
    CodeRefused,
    Setup,
    Unavailable,
    Busy,
    Internal,
    OtherSite,
    NotFound,
    Method,
    TooLarge,
}

/// Whether the same link can be opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
    /// The page belongs to no link.
    Unsaid,
}

impl From<&AuthError> for Failure {
    fn from(error: &AuthError) -> Self {
        match error {
            AuthError::Connect { kind, .. } => match kind {
                Refused::Denied => Self::Denied,
                Refused::StateMismatch => Self::StateMismatch,
                Refused::NoCode | Refused::Request => Self::Request,
                Refused::CodeRefused | Refused::SeedRefused => Self::CodeRefused,
                Refused::Client | Refused::Callback | Refused::OtherKind | Refused::AccountUnknown => Self::Setup,
                Refused::Unavailable | Refused::NobodyCame => Self::Unavailable,
                Refused::Audience => Self::Audience,
                Refused::NoRefreshToken => Self::NoRefreshToken,
                Refused::WrongAccount => Self::WrongAccount,
                Refused::AccountTaken => Self::AccountTaken,
            },
            AuthError::Config(_) | AuthError::Shut { .. } => Self::Setup,
            AuthError::State(StateError::Busy { .. }) => Self::Busy,
            _ => Self::Internal,
        }
    }
}

impl Failure {
    /// For the log: one word, never a value.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::UnknownLink => "unknown link",
            Self::Expired(_) => "expired link",
            Self::Used => "used link",
            Self::NoCookie => "no cookie",
            Self::StateMismatch => "state mismatch",
            Self::Denied => "denied",
            Self::WrongAccount => "wrong account",
            Self::AccountTaken => "account taken",
            Self::Audience => "only the offline scope granted",
            Self::NoRefreshToken => "no refresh token",
            Self::Request => "request refused",
            Self::CodeRefused => "code refused",
            Self::Setup => "not set up right",
            Self::Unavailable => "provider unavailable",
            Self::Busy => "tenant busy",
            Self::Internal => "internal error",
            Self::OtherSite => "sent by another site",
            Self::NotFound => "no such page",
            Self::Method => "method not allowed",
            Self::TooLarge => "request too large",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::UnknownLink | Self::NotFound => StatusCode::NOT_FOUND,
            Self::Expired(_) | Self::Used => StatusCode::GONE,
            Self::NoCookie | Self::StateMismatch => StatusCode::BAD_REQUEST,
            Self::Denied | Self::OtherSite => StatusCode::FORBIDDEN,
            Self::WrongAccount | Self::AccountTaken => StatusCode::CONFLICT,
            Self::Audience | Self::NoRefreshToken | Self::Setup | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Request | Self::CodeRefused => StatusCode::BAD_GATEWAY,
            Self::Unavailable | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Whether the team must look at it: its configuration, the provider, or this program.
    pub(super) fn is_ours(self) -> bool {
        self.status().is_server_error()
    }

    fn again(self) -> Again {
        match self {
            Self::Expired(_) | Self::Used => Again::No,
            Self::UnknownLink | Self::NotFound | Self::Method | Self::TooLarge => Again::Unsaid,
            _ => Again::Yes,
        }
    }

    /// Title, what happened, what to do.
    fn says(self, provider: &str, tenant: Option<&str>) -> (&'static str, String, String) {
        let customer = tenant.unwrap_or("this customer");
        match self {
            Self::UnknownLink => (
                "This link is not known here",
                "It is incomplete or was changed; mail programs sometimes cut long links.".into(),
                "Copy the whole link from the message, or ask the team that sent it for a new one.".into(),
            ),
            Self::Expired(at) => (
                "This link has expired",
                format!("It could be used until {}.", day(at)),
                "Ask the team that sent it for a new one.".into(),
            ),
            Self::Used => (
                "This link was used already",
                "An account was connected with it, and each link works once.".into(),
                "If that was you, all is done and you may close this page. If it was not, tell the team that sent you the link."
                    .into(),
            ),
            Self::NoCookie => (
                "This browser did not begin here",
                format!(
                    "{provider}'s answer came to a browser in which the link was not opened, or later than 15 minutes after it; or this browser keeps no cookies."
                ),
                format!("Open the link again, and finish on {provider}'s page in the same browser window."),
            ),
            Self::StateMismatch => (
                "This answer belongs to another attempt",
                format!("The link was opened again after the page of {provider} that you answered, so that answer no longer counts."),
                "Close the other pages and open the link once more.".into(),
            ),
            Self::Denied => (
                "Nothing was connected",
                format!("The request was not accepted on {provider}'s page."),
                format!(
                    "If that was a slip, open the link again and press Accept. Only a Super Admin can accept: if you are not one, pass the link on to a Super Admin of {customer}."
                ),
            ),
            Self::WrongAccount => (
                "This is another account",
                format!(
                    "{customer} was connected to a different {provider} account before. The account that you chose now was not connected, and the earlier connection is as it was."
                ),
                format!(
                    "Open the link again and sign in to the right {provider} account. If the account has really changed, ask the team for a link that allows it."
                ),
            ),
            Self::AccountTaken => (
                "This account is connected already",
                format!("This {provider} account is connected under another name, and nothing was changed."),
                format!(
                    "If you have several {provider} accounts, open the link again and sign in to the other one. Else tell the team that sent you the link."
                ),
            ),
            Self::Audience => (
                "Nothing could be read",
                format!("{provider} offered no permission to read anything, so nothing was connected."),
                "The application is not set up right, and there is nothing that you can correct. Tell the team that sent you the link: its audience or its registered scopes are wrong."
                    .into(),
            ),
            Self::NoRefreshToken => (
                "The connection would not last",
                format!("{provider} gave access for an hour only, so nothing was connected."),
                "There is nothing that you can correct. Tell the team that sent you the link: the application is not registered for offline access."
                    .into(),
            ),
            Self::Request => (
                "The request was refused",
                format!("{provider} did not take the request of this application, so nothing was connected."),
                "There is nothing that you can correct. Tell the team that sent you the link: the application's registration differs from its configuration."
                    .into(),
            ),
            Self::CodeRefused => (
                "The consent could not be completed",
                format!("You accepted, but {provider} no longer took the confirmation: it was used already or took too long."),
                "Open the link again and accept once more.".into(),
            ),
            Self::Setup => (
                "The application is not set up right",
                format!("It could not identify itself to {provider}, or a part of its configuration is wrong. Nothing was connected."),
                "There is nothing that you can correct. Tell the team that sent you the link.".into(),
            ),
            Self::Unavailable => (
                "The other side did not answer",
                format!("{provider} did not answer as it should, so nothing was connected."),
                "Wait some minutes and open the link again.".into(),
            ),
            Self::Busy => (
                "Please try again in some minutes",
                format!("Data of {customer} is being read at this moment, so the new connection could not be stored."),
                "Wait some minutes and open the link again.".into(),
            ),
            Self::Internal => (
                "Something went wrong here",
                "The connection could not be stored. Nothing is wrong with your account.".into(),
                "Try again later, or tell the team that sent you the link.".into(),
            ),
            Self::OtherSite => (
                "Please open the link itself",
                "The request came from another website, so it was not followed.".into(),
                "Open the link from the message that you got, and press Connect there.".into(),
            ),
            Self::NotFound => (
                "There is no such page",
                "The address leads nowhere.".into(),
                "Copy the whole link from the message that you got.".into(),
            ),
            Self::Method => (
                "That cannot be done here",
                "The page was asked for in a way that it does not know.".into(),
                "Open the link from the message that you got.".into(),
            ),
            Self::TooLarge => (
                "That is too much",
                "The request is larger than any that this page needs.".into(),
                "Open the link from the message that you got.".into(),
            ),
        }
    }
}

/// `30 November 2026, 08:00 UTC`.
fn day(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.ms())
        .map_or_else(|_| at.to_string(), |t| t.strftime("%-d %B %Y, %H:%M UTC").to_string())
}

/// A page inside its frame.
fn whole(frame: &Frame, title: &str, body: &Markup) -> Markup {
    let letter: String =
        frame.app.chars().find(|c| c.is_alphanumeric()).into_iter().flat_map(char::to_uppercase).collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex, nofollow";
                title { (title) " · " (frame.app) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href=(format!("{}style.css", frame.base_path));
            }
            body {
                header {
                    span.letter aria-hidden="true" { (letter) }
                    p.name { (frame.app) }
                    @match frame.environment {
                        Some(Environment::Production) => p.side { "Production" },
                        Some(Environment::Sandbox) => p.side.test { "Sandbox" },
                        None => {},
                    }
                }
                main { (body) }
                footer {
                    p { "This page keeps one cookie while you connect and uses no script. It never sees your password." }
                }
            }
        }
    }
}

/// The page at the root: it tells nobody who is connected.
pub(super) fn home(frame: &Frame) -> Markup {
    whole(
        frame,
        "Connect",
        &html! {
            h1 { "Connect your " (frame.provider) " account" }
            p.lead { "On this page, customers of " (frame.app) " allow it to read data of their " (frame.provider) " account." }
            p { "It works with a personal link only. If you got one in a message, open it; if you expected one, ask the team of " (frame.app) "." }
        },
    )
}

/// What is asked for, and the button.
pub(super) fn invitation(frame: &Frame, asked: &Asked<'_>) -> Markup {
    let (app, provider) = (&frame.app, &frame.provider);
    let reads: Vec<_> = asked.scopes.iter().filter(|s| *s != asked.offline).map(|s| words(s)).collect();
    let offline = asked.scopes.iter().any(|s| s == asked.offline);
    let writes = reads.iter().any(|w| w.writes);
    whole(
        frame,
        &format!("Connect {provider}"),
        &html! {
            h1 { "Connect " (provider) " to " (app) }
            p.lead { (app) " asks to read data of your " (provider) " account. Nothing happens before you press the button below and accept on " (provider) "'s own page." }
            @if let Some(description) = asked.description { p.quiet { (description) } }
            dl {
                dt { "Customer" } dd { (asked.tenant) }
                dt { "Environment" }
                dd {
                    @match frame.environment {
                        Some(Environment::Sandbox) => { "Sandbox: " (provider) "'s test environment, no real data" },
                        _ => { "Production: your real " (provider) " account" },
                    }
                }
                dt { "This link" } dd { "works once, until " (day(asked.expires)) }
            }
            section aria-labelledby="reads" {
                h2 #reads { "What " (app) " will be able to read" }
                ul.reads {
                    @for w in &reads {
                        li {
                            strong { (w.title) }
                            @if w.personal { " " span.tag { "about people" } }
                            @if w.writes { " " span.tag { "may be changed too" } }
                            span.what { (w.what) }
                        }
                    }
                }
                @if offline {
                    p.small.quiet { "It may go on reading while you are away, so that the data stays up to date, until you end it." }
                }
            }
            section aria-labelledby="not" {
                h2 #not { "What it will not do" }
                ul.plain {
                    @if writes {
                        li { "It reads only. Some of the permissions above would allow changes too; they are not used for that." }
                    } @else {
                        li { "Nothing in " (provider) " is added, changed or deleted: only permissions to read are asked for." }
                    }
                    li { "It never sees your password: you sign in on " strong { (asked.host) } "." }
                    li { "It does not last longer than you want: a Super Admin can remove the application in " (provider) "'s settings at any time." }
                }
            }
            section aria-labelledby="how" {
                h2 #how { "How it goes" }
                ol {
                    li { "Press the button; you are taken to " (provider) "." }
                    li { "Sign in as a " strong { "Super Admin" } " of " (asked.tenant) " and accept. " (provider) " asks for the consent of the whole organization, so nobody else can give it." }
                    li { "You come back here and see whether it worked." }
                }
            }
            form method="post" action=(asked.action) { button type="submit" { "Connect to " (provider) } }
        },
    )
}

/// It worked.
pub(super) fn connected(frame: &Frame, tenant: &str, granted: &[String], lacking: &[Lacking], offline: &str) -> Markup {
    let provider = &frame.provider;
    whole(
        frame,
        "Connected",
        &html! {
            p.state.good { span.sign aria-hidden="true" { "✓" } "Done" }
            h1 { (provider) " is connected" }
            p.lead { "Thank you. The " (provider) " account of " strong { (tenant) } " is now connected to " (frame.app) ". There is nothing more to do; you may close this page." }
            @if !lacking.is_empty() {
                section.box aria-labelledby="lacking" {
                    h2 #lacking { "Not granted" }
                    p { "These were asked for and not granted. Everything else works without them:" }
                    ul.plain {
                        @for l in lacking {
                            @let w = words(&l.scope);
                            li {
                                strong { (w.title) } " (" code { (l.scope) } ")"
                                @if !l.tables.is_empty() { ", needed for " (l.tables.join(", ")) }
                            }
                        }
                    }
                    p.small { "If they were meant to be read too, tell the team of " (frame.app) ": the permissions must be registered for the application, and then connected again with a new link." }
                }
            }
            section aria-labelledby="granted" {
                h2 #granted { "What was granted" }
                ul.plain {
                    @for scope in granted.iter().filter(|s| *s != offline) { li { (words(scope).title) } }
                }
            }
            p.small.quiet { "To end it, remove the application in " (provider) "'s settings, or tell the team of " (frame.app) "." }
        },
    )
}

/// It did not work. `link` is the invitation's own address, where it is known.
pub(super) fn failure(frame: &Frame, failure: Failure, tenant: Option<&str>, link: Option<&Url>) -> Markup {
    let (title, what, next) = failure.says(&frame.provider, tenant);
    whole(
        frame,
        title,
        &html! {
            p.state.bad { span.sign aria-hidden="true" { "!" } @if failure == Failure::Used { "Nothing to do" } @else { "Not connected" } }
            h1 { (title) }
            p.lead { (what) }
            p { (next) }
            @match failure.again() {
                Again::Yes => { p.quiet { "The same link can be used again." } },
                Again::No => { p.quiet { "The same link cannot be used again." } },
                Again::Unsaid => {},
            }
            @if let (Again::Yes, Some(link)) = (failure.again(), link) {
                p.again { a.button href=(link.path()) { "Open the link again" } }
            }
        },
    )
}
