//! The proxy's HTTPS as the port that it is: [`PublicApi`].

use async_trait::async_trait;
use teleport_core::api::{
    AcceptInvite, ApiError, ApiErrorKind, ApiResult, HostCredentials, InviteInfo, JoinRequest, LoginRequest,
    LoginResponse, Ping, PublicApi,
};
use teleport_core::secret::SecretString;

use super::{WebClient, WebError};

impl From<WebError> for ApiError {
    fn from(error: WebError) -> Self {
        match error {
            WebError::Api(error) => error,
            // Nothing in these is secret, and the user must know which of them it was.
            error => Self::new(ApiErrorKind::Unavailable, error.to_string()).because(error),
        }
    }
}

#[async_trait]
impl PublicApi for WebClient {
    async fn ping(&self) -> ApiResult<Ping> {
        Ok(Self::ping(self).await?)
    }

    async fn join(&self, request: JoinRequest) -> ApiResult<HostCredentials> {
        Ok(Self::join(self, &request).await?)
    }

    async fn login(&self, request: LoginRequest) -> ApiResult<LoginResponse> {
        Ok(Self::login(self, &request).await?)
    }

    async fn invite(&self, token: SecretString) -> ApiResult<InviteInfo> {
        Ok(Self::invite(self, token).await?)
    }

    async fn accept_invite(&self, request: AcceptInvite) -> ApiResult<()> {
        Ok(Self::accept(self, &request).await?)
    }
}
