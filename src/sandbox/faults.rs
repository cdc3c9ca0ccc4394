//! The script of faults: what goes wrong, on which route, for whom, and how often.

use serde::{Deserialize, Serialize};

/// One line of the script. It counts the requests that it matches: the first `skip` pass, the next `times` suffer.
///
/// Lines are asked in order and the first that is due acts; those after it do not count that request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Beginning of a templated route, such as `GET /v1/opportunities/:id` or `POST /oauth/token`; `*` for all.
    /// The data, token and revoke endpoints are within reach; the consent page is not.
    /// A `$` at the end makes it the whole route: `GET /v1/opportunities$` leaves `/opportunities/deleted` alone.
    pub route: String,
    /// Only this account's requests; `None` for everyone's.
    #[serde(default)]
    pub account: Option<String>,
    /// Matching requests let through first.
    #[serde(default)]
    pub skip: u32,
    /// Matching requests that then suffer; 1 unless said, 0 for all that come.
    #[serde(default = "once")]
    pub times: u32,
    /// What happens.
    pub action: Action,
}

/// What goes wrong. In a script: `{"kind": "status", "code": 503}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// This status, and nothing done.
    Status {
        /// The HTTP status.
        code: u16,
        /// The body; the usual one of that status when absent.
        #[serde(default)]
        body: Option<String>,
        /// A `Retry-After` header, verbatim.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// The answer comes so much later.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection is reset without an answer; nothing was done.
    Reset,
    /// The work is done, then the connection is reset without an answer.
    ReplyLost,
    /// The body ends after so many bytes, short of its length.
    Truncate {
        /// Bytes that arrive.
        bytes: usize,
    },
    /// 200 with a page of HTML.
    Garbage,
    /// The body comes in pieces of 1 KiB.
    Drip {
        /// Milliseconds before each piece.
        ms_per_chunk: u64,
    },
    /// All access tokens of the account end now; this request gets 401.
    ExpireToken,
    /// The customer removes the app now: 401 here, `invalid_grant` at the next refresh.
    RevokeGrant,
    /// `next` is the offset just used. Only requests with an offset match.
    RepeatNext,
    /// `hasNext` is true and there is no `next`.
    MissingNext,
    /// 400 "Invalid offset token". Only requests with an offset match.
    StaleOffset,
    /// A redirect.
    Redirect {
        /// `Location`, verbatim.
        to: String,
        /// The status, 301 say.
        code: u16,
    },
    /// The page's last row is the first of the next page too.
    DuplicateRow,
    /// A token answer without a refresh token; the one sent stays valid.
    DropRefreshToken,
    /// The `Date` header is off.
    Date {
        /// Seconds, negative for the past.
        offset_s: i64,
    },
    /// One row is a string.
    BadRow,
    /// One row lacks its key.
    NoKey,
    /// 200 with a JSON body of at least so many bytes.
    Huge {
        /// Bytes.
        bytes: usize,
    },
    /// Of the requests that would suffer, so many in a hundred do: as if by chance, and the same in every run. The others pass
    /// and are not counted.
    Sometimes {
        /// How many in a hundred.
        percent: u8,
        /// What happens to them.
        action: Box<Action>,
    },
    /// 200 with a body that says no length and has no end, in pieces of 64 KiB.
    Endless {
        /// Milliseconds before each piece.
        ms_per_chunk: u64,
    },
    /// A page that is never the last: so many rows that nobody has seen, and another offset of so many bytes.
    NeverLast {
        /// Rows, each with an id and a text.
        rows: usize,
        /// Letters of the offset; at least 20.
        offset_bytes: usize,
    },
}

/// A request, as far as the script looks at it.
pub(super) struct Asked<'a> {
    pub(super) route: &'a str,
    pub(super) account: Option<&'a str>,
    pub(super) has_offset: bool,
}

/// The lines, each with the times it has left; `None` for ever.
#[derive(Default)]
pub(super) struct Script {
    lines: Vec<(Fault, Option<u32>)>,
    /// Of lines that strike by chance.
    throws: u64,
    /// Pages made up.
    pages: u64,
}

impl Script {
    /// Behind the lines that are there.
    pub(super) fn add(&mut self, fault: Fault) {
        let left = (fault.times > 0).then_some(fault.times);
        self.lines.push((fault, left));
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }

    /// The action due for this request, counted off.
    pub(super) fn due(&mut self, asked: &Asked<'_>) -> Option<Action> {
        for (fault, left) in &mut self.lines {
            if *left == Some(0) || !fault.matches(asked) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            let mut action = &fault.action;
            if let Action::Sometimes { percent, action: often } = action {
                self.throws += 1;
                if throw(self.throws) >= u64::from(*percent) {
                    continue;
                }
                action = often;
            }
            if let Some(left) = left {
                *left -= 1;
            }
            return Some(action.clone());
        }
        None
    }
}

impl Script {
    /// The number of the next made-up page.
    pub(super) fn page(&mut self) -> u64 {
        self.pages += 1;
        self.pages
    }
}

/// The nth throw of a die with the sides 0 to 99 (splitmix64): no pattern that a client could fall into step with.
fn throw(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % 100
}

impl Fault {
    /// Whether the request is of the kind that this line counts.
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let route = match self.route.strip_suffix('$') {
            Some(whole) => whole == asked.route,
            None => self.route == "*" || asked.route.starts_with(&self.route),
        };
        let wants_offset = matches!(self.action, Action::RepeatNext | Action::StaleOffset);
        route
            && self.account.as_deref().is_none_or(|name| Some(name) == asked.account)
            && (asked.has_offset || !wants_offset)
    }
}

fn once() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(script: &mut Script, route: &str, account: &str) -> bool {
        script.due(&Asked { route, account: Some(account), has_offset: false }).is_some()
    }

    #[test]
    fn a_script_is_json_or_toml() {
        let json = r#"{"route": "GET /v1/users", "skip": 1, "times": 2, "action": {"kind": "status", "code": 503}}"#;
        let fault: Fault = serde_json::from_str(json).unwrap();
        let toml = "route = \"GET /v1/users\"\nskip = 1\ntimes = 2\naction = { kind = \"status\", code = 503 }";
        assert_eq!(toml::from_str::<Fault>(toml).unwrap(), fault);
        assert!(
            serde_json::from_str::<Fault>(r#"{"route": "*", "acount": "x", "action": {"kind": "reset"}}"#).is_err()
        );

        let mut script = Script::default();
        script.add(fault);
        let seen: Vec<bool> = (0..5).map(|_| due(&mut script, "GET /v1/users", "acme")).collect();
        assert_eq!(seen, [false, true, true, false, false]);
    }

    #[test]
    fn a_line_knows_its_route_and_account() {
        let fault = |route: &str, account: Option<&str>| Fault {
            route: route.into(),
            account: account.map(Into::into),
            skip: 0,
            times: 0,
            action: Action::Reset,
        };
        let mut script = Script::default();
        script.add(fault("GET /v1/opportunities$", Some("acme")));
        assert!(due(&mut script, "GET /v1/opportunities", "acme"));
        assert!(!due(&mut script, "GET /v1/opportunities", "birch"));
        assert!(!due(&mut script, "GET /v1/opportunities/deleted", "acme"));
        script.add(fault("GET /v1/opportunities", None));
        assert!(due(&mut script, "GET /v1/opportunities/deleted", "birch"));
        script.clear();
        assert!(!due(&mut script, "GET /v1/opportunities", "acme"));
    }

    #[test]
    fn a_line_by_chance_strikes_about_as_often_as_it_says() {
        let mut script = Script::default();
        let action = Action::Sometimes { percent: 30, action: Box::new(Action::Reset) };
        script.add(Fault { route: "*".into(), account: None, skip: 0, times: 0, action });
        let struck = (0..1000).filter(|_| due(&mut script, "GET /v1/users", "acme")).count();
        assert!((260..=340).contains(&struck), "{struck} of 1000");
    }

    #[test]
    fn a_stale_offset_waits_for_an_offset() {
        let mut script = Script::default();
        script.add(Fault { route: "*".into(), account: None, skip: 0, times: 1, action: Action::StaleOffset });
        let ask = |has_offset| Asked { route: "GET /v1/users", account: None, has_offset };
        assert_eq!(script.due(&ask(false)), None);
        assert_eq!(script.due(&ask(true)), Some(Action::StaleOffset));
    }
}
