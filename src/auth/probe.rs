//! What an app's own hosts say of it before any customer does: for the doctor. No grant is touched, and no lease needed.

use url::Url;

use super::token::{self, TokenError};
use crate::catalog::Rate;
use crate::config::App;
use crate::http::{Client, Gate, HttpError, Looked, Symptom, says};
use crate::secret::Secret;

/// A code that nobody issued: whoever refuses it as such has accepted the client before.
const NO_CODE: &str = "hirelake-check-no-such-code";

/// What the consent page does with our request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// It shows itself, or a sign-in before it. Whether the audience fits and the scopes are registered is seen after that.
    Shown,
    /// It refuses.
    Refused(Symptom),
    /// It sends the customer back at once, with this word (`invalid_scope`, say).
    SentBack(String),
}

fn gate(client: &Client) -> Gate {
    Gate::new(client.clock(), Rate { per_second: 10.0, burst: 10 })
}

/// Whether the token endpoint knows the client and takes its secret: it is given a code that nobody issued, and should refuse
/// that.
///
/// # Errors
///
/// What it says of the client.
pub async fn client(client: &Client, app: &App, secret: &Secret) -> Result<(), TokenError> {
    let callback = app.redirect_uris.first().map_or("", Url::as_str);
    let form = [("grant_type", "authorization_code"), ("code", NO_CODE), ("redirect_uri", callback)];
    match token::post(client, &gate(client), app, secret, &form).await {
        Ok(_) | Err(TokenError::InvalidGrant) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the consent page as a customer's browser would, without a customer.
///
/// # Errors
///
/// When it does not answer.
pub async fn consent(client: &Client, app: &App, callback: &Url, scopes: &str) -> Result<Consent, HttpError> {
    let mut page = app.endpoints.authorize.clone();
    page.query_pairs_mut()
        .append_pair("client_id", &app.client_id)
        .append_pair("redirect_uri", callback.as_str())
        .append_pair("response_type", "code")
        .append_pair("state", "hirelake-check")
        .append_pair("scope", scopes)
        .append_pair("audience", &app.endpoints.audience)
        .append_pair("prompt", "consent");
    Ok(judge(&client.look(&gate(client), &page).await?, callback))
}

fn judge(seen: &Looked, callback: &Url) -> Consent {
    let Some(to) = seen.location.as_ref().filter(|_| (300..400).contains(&seen.status)) else {
        let mismatch = || says(&seen.body, "undefined") || says(&seen.body, "mismatch");
        return match (seen.status, Symptom::of(seen.status, &seen.body)) {
            (200..=299, _) => Consent::Shown,
            (_, Symptom::UnknownClient) => Consent::Refused(Symptom::UnknownClient),
            (400..=403, _) if mismatch() => Consent::Refused(Symptom::CallbackDiffers),
            // Pages are for people here, and so their being pages says nothing.
            (status, _) => Consent::Refused(Symptom::of(status, &[])),
        };
    };
    let get = |name: &str| to.query_pairs().find(|(k, _)| k == name).map(|(_, v)| v.into_owned());
    let Some(error) = get("error") else { return Consent::Shown };
    if (to.origin(), to.path()) == (callback.origin(), callback.path()) {
        // Nothing longer than the words of the standard is repeated.
        let plain = error.len() <= 40 && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        return Consent::SentBack(if plain { error } else { "an error".to_owned() });
    }
    // An error page of the provider's own: only client and callback can keep it from sending the customer back to us.
    let described = get("error_description").unwrap_or_default();
    let unknown = says(described.as_bytes(), "client") && !says(described.as_bytes(), "callback");
    Consent::Refused(if unknown { Symptom::UnknownClient } else { Symptom::CallbackDiffers })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_consent_page_is_judged_by_what_it_can_show_without_a_customer() {
        let callback: Url = "https://app.example/cb".parse().unwrap();
        let said = [
            (200, "", "<html>Sign in</html>"),
            (302, "https://auth.lever.co/u/login?state=x", ""),
            (302, "https://app.example/cb?error=invalid_scope&error_description=canary", ""),
            (302, "https://app.example/cb?error=Canary%20text", ""),
            (302, "https://auth.lever.co/error?error=x&error_description=Unknown%20client:%20canary", ""),
            (302, "https://auth.lever.co/error?error=x&error_description=Callback%20URL%20mismatch", ""),
            (403, "", "<html>ClientID not found</html>"),
            (400, "", "<p>undefined</p>"),
            (403, "", "Callback URL mismatch."),
            (404, "", "<html>"),
            (503, "", ""),
        ]
        .map(|(status, to, body)| {
            let location = Url::parse(to).ok();
            let seen = Looked { status, location, body: Bytes::from_static(body.as_bytes()) };
            format!("{:?}", judge(&seen, &callback))
        });
        insta::assert_snapshot!(said.join("\n"), @r#"
        Shown
        Shown
        SentBack("invalid_scope")
        SentBack("an error")
        Refused(UnknownClient)
        Refused(CallbackDiffers)
        Refused(UnknownClient)
        Refused(CallbackDiffers)
        Refused(CallbackDiffers)
        Refused(NotThere)
        Refused(Maintenance)
        "#);
    }
}
