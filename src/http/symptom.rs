//! What a refusal is a symptom of: the provider's known ones (reference 2.7 and 3.5), each with the sentence that cures it.
//!
//! The one place that both a sync's errors and the doctor ask. Bodies are only searched for the provider's known sentences;
//! nothing of them is ever shown.

/// How much of a body is searched: the sentences stand in bodies of a hundred bytes, or near the top of a page.
const SEARCHED_BYTES: usize = 16 << 10;

/// A known trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symptom {
    /// 403 "Unable to find a signing key that matches": the token is of the other environment.
    OtherEnvironment,
    /// 403 "ClientID not found": the client is unknown on this host.
    UnknownClient,
    /// 403 "The key you provided does not have access to this endpoint": the scope or the key's permission is missing.
    NoAccess,
    /// 403 with another word: a paid feature, an account's setting, or confidential data.
    Withheld,
    /// A page of HTML where JSON is due: a proxy or a sign-in page answered.
    Intercepted,
    /// 401.
    Unauthorized,
    /// 400: a parameter is missing or wrong.
    Malformed,
    /// 404 or 410 on a listing.
    NotThere,
    /// 422.
    Unprocessable,
    /// 429.
    TooFast,
    /// 500 and others: the provider's fault.
    Trouble,
    /// 502 and 504.
    Gateway,
    /// 503.
    Maintenance,
    /// The page that says "undefined": the callback differs from the registration.
    CallbackDiffers,
    /// Consent lists, or the grant holds, nothing but the offline scope: the audience is wrong.
    OnlyOffline,
    /// Any other status.
    Refused(u16),
}

/// What was asked for, as far as a hint names it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The resource.
    pub resource: Option<&'a str>,
    /// The scope that opens it.
    pub scope: Option<&'a str>,
    /// What was asked for in line.
    pub expands: &'a [String],
    /// Whether the credential is an API key.
    pub api_key: bool,
    /// Whether confidential records were asked for.
    pub confidential: bool,
}

impl Symptom {
    /// What a status and its body say. Not asked for a success.
    #[must_use]
    pub fn of(status: u16, body: &[u8]) -> Self {
        match status {
            400 | 401 | 403 if says(body, "unable to find a signing key") => Self::OtherEnvironment,
            400 | 401 | 403 if says(body, "clientid not found") || says(body, "unknown client") => Self::UnknownClient,
            200..=499 if is_html(body) => Self::Intercepted,
            400 => Self::Malformed,
            401 => Self::Unauthorized,
            403 if says(body, "does not have access to this endpoint") => Self::NoAccess,
            403 => Self::Withheld,
            404 | 410 => Self::NotThere,
            422 => Self::Unprocessable,
            429 => Self::TooFast,
            502 | 504 => Self::Gateway,
            503 => Self::Maintenance,
            500..=599 => Self::Trouble,
            _ => Self::Refused(status),
        }
    }

    /// Whether the app is at fault, and so everything of the tenant and not one resource.
    #[must_use]
    pub fn is_of_the_app(self) -> bool {
        matches!(self, Self::OtherEnvironment | Self::UnknownClient)
    }

    /// The sentence that cures it.
    #[must_use]
    pub fn hint(self, asked: &Asked<'_>) -> String {
        let name = asked.resource.unwrap_or("it");
        let leave_out = format!("or leave {name} out of the tenant's resources");
        let text = match self {
            Self::OtherEnvironment => {
                "the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment, and that its api_base and token belong together"
            }
            Self::UnknownClient => {
                "the client is unknown on this host: sandbox and production are separate apps; check the app's client_id, environment and hosts"
            }
            Self::NoAccess if asked.api_key => {
                let also = if asked.expands.is_empty() {
                    String::new()
                } else {
                    format!(", and for what comes with it ({})", asked.expands.join(", "))
                };
                return format!(
                    "the API key lacks the permission for {name}{also}; a key cannot be changed: make one that has it and store it with `hirelake connect TENANT --api-key-file FILE`, {leave_out}"
                );
            }
            Self::NoAccess => {
                return match asked.scope {
                    Some(scope) => format!(
                        "it needs the scope {scope}: add it to the app at the provider and let the customer connect again; {leave_out}"
                    ),
                    None => format!("the account has no access to it; {}", leave_out.trim_start_matches("or ")),
                };
            }
            Self::Withheld if asked.confidential => {
                "confidential records need the scope confidential:access:admin, or an API key that was made with it; ask for them no longer, or let the customer connect again with it"
            }
            Self::Withheld => {
                let scope = asked
                    .scope
                    .map(|s| format!("the scope {s} is missing, or "))
                    .filter(|_| !asked.api_key)
                    .unwrap_or_default();
                return format!(
                    "{scope}the account's plan or settings do not open it (some features are paid add-ons): ask the customer, {leave_out}"
                );
            }
            Self::Intercepted => {
                "a page of HTML came where JSON is due: a proxy or a sign-in page answered in the provider's place; check the app's hosts and this machine's proxy"
            }
            Self::Unauthorized if asked.api_key => {
                "the key is wrong or was removed: `hirelake connect TENANT --api-key-file FILE` stores another"
            }
            Self::Unauthorized => {
                "a fresh token is refused too: the app may have been removed in the customer's settings, or the API host is of another environment than the token host"
            }
            Self::Malformed => {
                "a parameter in the catalogue is not what the provider takes; if the catalogue is the embedded one, report it"
            }
            Self::NotThere => {
                "the account may not have this feature, or the path in the catalogue is wrong; when every resource says so, the app's api_base is"
            }
            Self::Unprocessable => {
                "the provider could not process it; run again, and report it to the provider if it stays"
            }
            Self::TooFast => {
                "something else may be using up the account's limit: lower `rate` in the configuration, or run again later; it resumes"
            }
            Self::Trouble => "the provider is in trouble; run again later, it resumes",
            Self::Gateway => {
                "a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes"
            }
            Self::Maintenance => "the provider is down for maintenance; run again later, it resumes",
            Self::CallbackDiffers => {
                "the callback must stand in the app's registration exactly as in redirect_uris, to the last slash; the customer's page says \"undefined\" until it does"
            }
            Self::OnlyOffline => {
                "the audience is missing, wrong or without its final slash: check the app's audience and environment, then connect again"
            }
            Self::Refused(_) => "the provider does not say why; run again, and report it if it stays",
        };
        text.to_owned()
    }
}

/// Whether a body holds `sentence` (in lower case), whatever the case.
pub(crate) fn says(body: &[u8], sentence: &str) -> bool {
    let body = &body[..body.len().min(SEARCHED_BYTES)];
    body.windows(sentence.len()).any(|w| w.eq_ignore_ascii_case(sentence.as_bytes()))
}

/// Whether a body is a page for people.
pub(crate) fn is_html(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    text.trim_ascii_start().first() == Some(&b'<')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "{\"code\":\"Forbidden\",\"message\":\"Unable to find a signing key that matches kid canary\"}";
    const CLIENT: &str = "{\"error\":\"unauthorized_client\",\"error_description\":\"ClientID not found\"}";
    const ACCESS: &str = "{\"message\":\"The key you provided does not have access to this endpoint\"}";

    #[test]
    fn every_refusal_of_the_reference_has_its_own_cure() {
        let expands = ["contact".to_owned()];
        let asked =
            Asked { resource: Some("tags"), scope: Some("tags:read:admin"), expands: &expands, ..Asked::default() };
        let mut said = String::new();
        for (status, body, asked) in [
            (403, KEY, asked),
            (403, CLIENT, asked),
            (403, ACCESS, asked),
            (403, ACCESS, Asked { api_key: true, ..asked }),
            (403, "{\"message\":\"canary is an add-on\"}", asked),
            (403, "{}", Asked { confidential: true, ..asked }),
            (403, " <html>canary</html>", asked),
            (404, "<!doctype html>", asked),
            (400, "", asked),
            (401, "", asked),
            (401, "", Asked { api_key: true, ..asked }),
            (404, "", asked),
            (422, "", asked),
            (429, "", asked),
            (500, "", asked),
            (502, "<html>", asked),
            (503, "", asked),
            (504, "", asked),
            (418, "", asked),
        ] {
            let symptom = Symptom::of(status, body.as_bytes());
            let hint = symptom.hint(&asked);
            assert!(!hint.contains("canary"));
            said += &format!("{status} {symptom:?}: {hint}\n");
        }
        insta::assert_snapshot!(said, @"
        403 OtherEnvironment: the token is of the other environment: sandbox tokens do not work on production, nor the reverse; check the app's environment, and that its api_base and token belong together
        403 UnknownClient: the client is unknown on this host: sandbox and production are separate apps; check the app's client_id, environment and hosts
        403 NoAccess: it needs the scope tags:read:admin: add it to the app at the provider and let the customer connect again; or leave tags out of the tenant's resources
        403 NoAccess: the API key lacks the permission for tags, and for what comes with it (contact); a key cannot be changed: make one that has it and store it with `hirelake connect TENANT --api-key-file FILE`, or leave tags out of the tenant's resources
        403 Withheld: the scope tags:read:admin is missing, or the account's plan or settings do not open it (some features are paid add-ons): ask the customer, or leave tags out of the tenant's resources
        403 Withheld: confidential records need the scope confidential:access:admin, or an API key that was made with it; ask for them no longer, or let the customer connect again with it
        403 Intercepted: a page of HTML came where JSON is due: a proxy or a sign-in page answered in the provider's place; check the app's hosts and this machine's proxy
        404 Intercepted: a page of HTML came where JSON is due: a proxy or a sign-in page answered in the provider's place; check the app's hosts and this machine's proxy
        400 Malformed: a parameter in the catalogue is not what the provider takes; if the catalogue is the embedded one, report it
        401 Unauthorized: a fresh token is refused too: the app may have been removed in the customer's settings, or the API host is of another environment than the token host
        401 Unauthorized: the key is wrong or was removed: `hirelake connect TENANT --api-key-file FILE` stores another
        404 NotThere: the account may not have this feature, or the path in the catalogue is wrong; when every resource says so, the app's api_base is
        422 Unprocessable: the provider could not process it; run again, and report it to the provider if it stays
        429 TooFast: something else may be using up the account's limit: lower `rate` in the configuration, or run again later; it resumes
        500 Trouble: the provider is in trouble; run again later, it resumes
        502 Gateway: a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes
        503 Maintenance: the provider is down for maintenance; run again later, it resumes
        504 Gateway: a gateway before the provider gave up waiting for it, or a proxy of yours did; run again later, it resumes
        418 Refused(418): the provider does not say why; run again, and report it if it stays
        ");
    }

    #[test]
    fn only_the_apps_own_faults_concern_the_whole_tenant() {
        assert!(
            Symptom::of(403, KEY.as_bytes()).is_of_the_app() && Symptom::of(403, CLIENT.as_bytes()).is_of_the_app()
        );
        for (status, body) in [(403, ACCESS), (403, ""), (401, ""), (404, ""), (403, "<html>")] {
            assert!(!Symptom::of(status, body.as_bytes()).is_of_the_app(), "{status} {body}");
        }
    }
}
