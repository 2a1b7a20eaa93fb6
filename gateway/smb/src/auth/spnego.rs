//! The acceptor that sessions use: NTLM within SPNEGO, or bare (RFC 4178, MS-SPNG).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::ntlm::{
    Authenticate, Challenge, NtlmV2Response, decode_negotiate, message_type,
};
use sluice_smb_wire::spnego::{self, ClientToken, Init, NegState};

use super::ntlm::{Direction, Exchange, challenge_flags, list_mic};
use super::{AcceptSecurity, Login, Refused, Step, Users};
use crate::crypto;

/// Length of an NTLMv1 response in bytes.
const NTLM_V1_RESPONSE_LEN: usize = 24;

/// Names that the CHALLENGE states.
#[derive(Debug, Clone)]
pub struct ServerNames {
    /// NetBIOS name, at most 15 characters, upper case.
    pub netbios: String,
    /// DNS name.
    pub dns: String,
}

enum State {
    Start,
    /// The client's first token was for a mechanism that this server lacks.
    AwaitNegotiate,
    AwaitAuthenticate(Exchange),
    Finished,
}

/// How tokens are wrapped.
enum Wrapping {
    Bare,
    /// With the DER of the client's mechanism list.
    Spnego(Bytes),
}

/// One exchange.
pub struct Acceptor {
    users: Arc<dyn Users>,
    names: Arc<ServerNames>,
    from: IpAddr,
    now_filetime: u64,
    state: State,
    wrapping: Wrapping,
}

impl Acceptor {
    /// An exchange with a client at `from`. `now_filetime` goes into the challenge.
    pub fn new(
        users: Arc<dyn Users>,
        names: Arc<ServerNames>,
        from: IpAddr,
        now_filetime: u64,
    ) -> Acceptor {
        Acceptor {
            users,
            names,
            from,
            now_filetime,
            state: State::Start,
            wrapping: Wrapping::Bare,
        }
    }

    fn first(&mut self, init: Init) -> Result<Step, Refused> {
        if !init.offers_ntlm {
            return Err(Refused::now(NtStatus::NOT_SUPPORTED));
        }
        self.wrapping = Wrapping::Spnego(init.mechanisms);
        match init.token {
            Some(token) if init.prefers_ntlm => self.challenge(&token),
            _ => {
                self.state = State::AwaitNegotiate;
                let state = if init.prefers_ntlm {
                    NegState::AcceptIncomplete
                } else {
                    NegState::RequestMic
                };
                Ok(Step::Continue(spnego::encode_response(
                    state, true, None, None,
                )))
            }
        }
    }

    fn challenge(&mut self, negotiate: &Bytes) -> Result<Step, Refused> {
        let flags =
            decode_negotiate(negotiate).map_err(|_| Refused::now(NtStatus::INVALID_PARAMETER))?;
        let exchange = Exchange::begin(
            negotiate,
            &Challenge {
                flags: challenge_flags(flags),
                challenge: crypto::random(),
                netbios_name: &self.names.netbios,
                dns_name: &self.names.dns,
                timestamp: self.now_filetime,
            },
        );
        let reply = match self.wrapping {
            Wrapping::Bare => exchange.challenge_message.clone(),
            Wrapping::Spnego(_) => spnego::encode_response(
                NegState::AcceptIncomplete,
                true,
                Some(&exchange.challenge_message),
                None,
            ),
        };
        self.state = State::AwaitAuthenticate(exchange);
        Ok(Step::Continue(reply))
    }

    async fn authenticate(
        &self,
        exchange: Exchange,
        raw: &Bytes,
        mic: Option<Bytes>,
    ) -> Result<Step, Refused> {
        let message =
            Authenticate::decode(raw).map_err(|_| Refused::now(NtStatus::INVALID_PARAMETER))?;
        if message.user.is_empty() {
            // Anonymous: nothing to guess, so nothing to slow down.
            return Err(Refused::now(NtStatus::ACCESS_DENIED));
        }
        // NTLMv1 is a wrong login; a v2 response that is damaged is no login at all.
        let is_v2 = message.nt_response.len() > NTLM_V1_RESPONSE_LEN;
        if is_v2 && NtlmV2Response::decode(&message.nt_response).is_err() {
            return Err(Refused::now(NtStatus::INVALID_PARAMETER));
        }
        let found = self.users.nt_hash(&message.user).await?;
        // An unknown user takes the same steps as a wrong password.
        let hash = found
            .as_ref()
            .map_or_else(crypto::random, |(_, hash)| *hash);
        let session_key = exchange.verify(raw, &message, &hash);
        let (Some(session_key), Some((identity, _))) = (session_key, found) else {
            return Err(self.refuse(&message.user));
        };
        let token = match (&self.wrapping, mic) {
            (Wrapping::Bare, _) => Vec::new(),
            (Wrapping::Spnego(_), None) => {
                spnego::encode_response(NegState::AcceptCompleted, false, None, None)
            }
            (Wrapping::Spnego(list), Some(mic)) => {
                let expected =
                    list_mic(&session_key, message.flags, Direction::ClientToServer, list);
                if aws_lc_rs::constant_time::verify_slices_are_equal(&expected, &mic).is_err() {
                    return Err(self.refuse(&message.user));
                }
                let own = list_mic(&session_key, message.flags, Direction::ServerToClient, list);
                spnego::encode_response(NegState::AcceptCompleted, false, None, Some(&own))
            }
        };
        self.users.succeeded(&message.user, self.from);
        let workstation = message.workstation;
        Ok(Step::Done(
            token,
            Login {
                identity,
                workstation,
                session_key,
            },
        ))
    }

    fn refuse(&self, user: &str) -> Refused {
        let delay = self
            .users
            .failed(user, self.from)
            .min(Duration::from_secs(30));
        tracing::info!(user, client = %self.from, ?delay, "login refused");
        Refused {
            status: NtStatus::LOGON_FAILURE,
            delay,
        }
    }

    async fn take(&mut self, token: &Bytes) -> Result<Step, Refused> {
        let malformed = Refused::now(NtStatus::INVALID_PARAMETER);
        let (raw, mic) = match spnego::decode(token).map_err(|_| malformed)? {
            ClientToken::Init(init) if matches!(self.state, State::Start) => {
                return self.first(init);
            }
            ClientToken::Init(_) => return Err(malformed),
            ClientToken::RawNtlm(raw) => (raw, None),
            ClientToken::Response { token, mic } => (token.ok_or(malformed)?, mic),
        };
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Start | State::AwaitNegotiate if message_type(&raw) == Ok(1) => {
                self.challenge(&raw)
            }
            State::AwaitAuthenticate(exchange) => self.authenticate(exchange, &raw, mic).await,
            _ => Err(malformed),
        }
    }
}

impl AcceptSecurity for Acceptor {
    fn step<'a>(&'a mut self, token: &'a Bytes) -> BoxFuture<'a, Result<Step, Refused>> {
        Box::pin(self.take(token))
    }
}
