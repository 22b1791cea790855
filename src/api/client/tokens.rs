//! Calls about tokens.

use hyper::Method;

use super::{Client, Result, escape};
use crate::api::types::{CreateToken, NewToken, RotateToken, Ticket, Token};

impl Client {
    /// `GET /v1/tokens`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        self.get("/v1/tokens").await
    }
    /// `POST /v1/tokens`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn create_token(&self, token: &CreateToken) -> Result<NewToken> {
        self.post("/v1/tokens", token).await
    }
    /// `POST /v1/tokens/{token}/rotate`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn rotate_token(&self, token: &str, how: &RotateToken) -> Result<NewToken> {
        self.post(&format!("/v1/tokens/{}/rotate", escape(token, false)), how).await
    }
    /// `DELETE /v1/tokens/{token}`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn revoke_token(&self, token: &str) -> Result<()> {
        self.json(Method::DELETE, &format!("/v1/tokens/{}", escape(token, false)), None).await
    }
    /// `POST /v1/tickets`.
    ///
    /// # Errors
    /// [`super::ClientError`].
    pub async fn ticket(&self) -> Result<Ticket> {
        self.json(Method::POST, "/v1/tickets", None).await
    }
}
