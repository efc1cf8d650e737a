//! Requests to one service of OpenStack, each with a token that is good.

use std::fmt;

use super::{Token, Tokens};
use crate::{
    contract::Result,
    kit::http::{Answer, Client, Request, StatusCode},
};

/// Tokens that may be refused before the server is believed. The one in place of the first may be as old as that:
/// when a password is changed, all tokens that were given before are none any more.
const REFUSALS: usize = 2;

/// A service as one login reaches it. Clones are the same.
#[derive(Clone)]
pub struct Service {
    client: Client,
    tokens: Tokens,
}

impl Service {
    /// A service whose servers `client` reaches, with `tokens`. Asks nobody yet.
    #[must_use]
    pub fn new(client: Client, tokens: Tokens) -> Self {
        Self { client, tokens }
    }

    /// The tokens that are sent.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Sends what `request` makes of a token that is good, and again with another one if the server does not
    /// think so. An answer of any other status is the caller's to judge, and so is 401 when the new tokens are
    /// refused too.
    ///
    /// # Errors
    /// No token is to be had, or there is no answer.
    pub async fn send(&self, request: impl Fn(&Token) -> Result<Request>) -> Result<Answer> {
        let mut token = self.tokens.token().await?;
        let mut refused = 0;
        loop {
            let answer = self.client.send(request(&token)?).await?;
            if answer.status != StatusCode::UNAUTHORIZED || refused == REFUSALS {
                return Ok(answer);
            }
            answer.finish().await;
            refused += 1;
            token = self.tokens.instead_of(&token).await?;
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.fmt(f)
    }
}
