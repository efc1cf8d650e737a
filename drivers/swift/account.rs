//! One account of a Swift, as one login reaches it.

use std::{fmt, sync::Arc, time::Duration};

use super::{failure, location::Address};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        http::{Answer, Client, HeaderName, Method, Payload, Request, StatusCode, Url, beneath},
        keystone::{Service, TOKEN, Token, Tokens},
    },
};

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Account(Arc<Inner>);

struct Inner {
    service: Service,
    /// How long the answer to a request without bytes of an image may take, other tries included.
    patience: Duration,
    /// Another account than the login's own: where it is.
    instead: Option<Url>,
}

/// What the account is asked for.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, String)>,
    payload: Payload,
    idempotent: bool,
    whole: Option<usize>,
}

impl Call {
    /// A call about the account itself.
    pub(super) fn account(method: Method) -> Self {
        let idempotent = method.is_idempotent() || method == Method::POST;
        let (path, query, headers) = (Vec::new(), Vec::new(), Vec::new());
        let payload = Payload::Empty;
        Self { method, path, query, headers, payload, idempotent, whole: None }
    }

    /// A call about a container.
    pub(super) fn container(method: Method, container: &str) -> Self {
        Self { path: vec![container.to_owned()], ..Self::account(method) }
    }

    /// A call about an object.
    pub(super) fn object(method: Method, container: &str, object: &str) -> Self {
        let path = vec![container.to_owned(), object.to_owned()];
        Self { path, ..Self::account(method) }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn headers(
        mut self,
        headers: impl IntoIterator<Item = (HeaderName, String)>,
    ) -> Self {
        self.headers.extend(headers);
        self
    }

    pub(super) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// The same, whose answer is read whole if it is a success of at most so many bytes: one that breaks
    /// off is asked for again.
    pub(super) fn whole(mut self, limit: usize) -> Self {
        self.whole = Some(limit);
        self
    }

    /// The same, which is sent once: its failure is judged by who calls.
    pub(super) fn once(mut self) -> Self {
        self.idempotent = false;
        self
    }

    /// What it is about, in the account at `url`.
    fn url(&self, url: &Url) -> Url {
        let mut url = beneath(url, &self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    fn request(&self, token: &Token, instead: Option<&Url>) -> Result<Request> {
        let url = self.url(instead.unwrap_or(token.endpoint()));
        let mut request = Request::new(self.method.clone(), url)
            .payload(self.payload.clone())
            .idempotent(self.idempotent)
            .secret(TOKEN, token.value())?;
        if let Some(limit) = self.whole {
            request = request.whole(limit);
        }
        for (name, value) in &self.headers {
            request = request.header(name.clone(), value)?;
        }
        Ok(request)
    }
}

impl Account {
    pub(super) fn new(client: Client, tokens: Tokens, patience: Duration) -> Self {
        let service = Service::new(client, tokens);
        Self(Arc::new(Inner { service, patience, instead: None }))
    }

    /// The account at `address`, which its login reaches beside its own; `None` if that is not in the same
    /// Swift, as far as is known: no token goes to a server that only a location names.
    pub(super) fn beside(&self, address: &Address) -> Option<Self> {
        let known = self.0.service.tokens().known()?;
        let own = known.endpoint();
        let own_address = Address::of(own.as_str(), None);
        let (there, name) = address.rest.rsplit_once('/')?;
        let (here, _) = own_address.rest.rsplit_once('/')?;
        if there != here || address.secure != own_address.secure || name.contains(['%', '.', '@']) {
            return None;
        }
        let mut url = own.clone();
        url.path_segments_mut().ok()?.pop_if_empty().pop().push(name);
        let (service, patience) = (self.0.service.clone(), self.0.patience);
        Some(Self(Arc::new(Inner { service, patience, instead: Some(url) })))
    }

    /// Sends `call` with a token that is good, and again with another one if the server does not think so. An
    /// answer of any other status is the caller's to judge.
    ///
    /// # Errors
    /// No token is to be had; `Unavailable` if no answer is, also if none came in time: what that means for
    /// something that may be done all the same is for the caller to say; `BackendDenied` if the new token
    /// is refused too.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer> {
        let exchange = self.exchange(call);
        let answer = match call.payload {
            // How long that takes is for the image's length to say; that it moves is watched.
            Payload::Part(_) => exchange.await,
            Payload::Empty | Payload::Bytes(_) => {
                let late =
                    |_elapsed| Err(Error::new(Kind::Unavailable, "the server does not answer"));
                tokio::time::timeout(self.0.patience, exchange).await.unwrap_or_else(late)
            }
        };
        answer.map_err(|error| {
            if error.kind() == Kind::Timeout {
                return Error::new(Kind::Unavailable, error.to_string()).because(error);
            }
            error
        })
    }

    async fn exchange(&self, call: &Call) -> Result<Answer> {
        let Inner { service, instead, .. } = &*self.0;
        let answer = service.send(|token| call.request(token, instead.as_ref())).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(failure::of(answer, "take a new token").await);
        }
        Ok(answer)
    }

    /// Where it is.
    pub(super) async fn url(&self) -> Result<Url> {
        Ok(self.0.service.tokens().token().await?.endpoint().clone())
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.service.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_whatever_is_in_them() {
        let url = "http://swift/v1/AUTH_a%3Ab/".parse().unwrap();
        let call = Call::object(Method::GET, "a b%2F", "x/y?é#").query("prefix", "a&b/");
        assert_eq!(
            call.url(&url).as_str(),
            "http://swift/v1/AUTH_a%3Ab/a%20b%252F/x%2Fy%3F%C3%A9%23?prefix=a%26b%2F"
        );
    }
}
