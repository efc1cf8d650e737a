//! One question to a server, through its redirects.

use super::location::Location;
use crate::{
    contract::{Error, Kind, Result},
    kit::http::{
        Answer, Client, Method, Request,
        header::{ACCEPT_ENCODING, HeaderName, LOCATION},
    },
};

/// Redirects that are followed, one after another.
const REDIRECTS: usize = 5;

/// How a store's servers are asked.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    pub(super) client: Client,
    /// No certificate is verified, so that a redirect out of https loses nothing.
    pub(super) insecure: bool,
}

impl Servers {
    /// Asks for `at`, with these headers, and tells where the answer came from.
    ///
    /// # Errors
    /// `Invalid` if the server redirects too often, or to where it must not; as [`Client::send`].
    pub(super) async fn ask(
        &self,
        method: Method,
        at: &Location,
        headers: &[(HeaderName, &str)],
    ) -> Result<(Answer, Location)> {
        let mut next = at.clone();
        for _ in 0..=REDIRECTS {
            // What is packed has another length than the image.
            let mut request = Request::new(method.clone(), next.url.clone())
                .header(ACCEPT_ENCODING, "identity")?;
            for (name, value) in headers {
                request = request.header(name.clone(), value)?;
            }
            for sign in next.signs() {
                request = request.hiding(&sign);
            }
            if let Some(user) = &next.user {
                request = request.basic(&user.name, &user.password)?;
            }
            let answer = self.client.send(request).await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, next));
            }
            let Some(text) = answer.header(&LOCATION) else {
                return Err(answer.error(Kind::Unavailable, "the server redirects to nowhere"));
            };
            let target = next.redirected(text)?;
            if next.url.scheme() == "https" && target.url.scheme() == "http" && !self.insecure {
                let what = "the server redirects from https to http, where anybody may answer";
                return Err(answer.error(Kind::Invalid, what));
            }
            answer.finish().await;
            next = target;
        }
        Err(Error::new(
            Kind::Invalid,
            format!("the server redirects more than {REDIRECTS} times: location=`{at}`"),
        ))
    }
}
