//! The greeting: each side proves that it belongs here before anything else is said.
//!
//! The dialler goes first. Its proof names no epoch and no node, so a stranger who is dialled
//! learns nothing from it; and the acceptor answers only a proof that holds, so a stranger who
//! dials sees the connection close and nothing more.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsStream;

use super::counters::DropReason;
use super::framing::{FrameReader, Pulse, flush, reason_of, write_frame};
use super::limits::PeerLimits;
use super::tls::exporter_of;
use crate::id::NodeId;
use crate::trust::{
    EpochSecret, InviteToken, Invites, Keyring, Role, enrolment_proof, membership_proof,
    verify_enrolment, verify_membership,
};
use crate::wire::native::tcp::{Greeting, Lane, Phase};

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) client: NodeId,
    pub(super) server: NodeId,
}

/// What an acceptor admits by.
pub(super) struct Door<'a> {
    pub(super) keyring: &'a Keyring,
    pub(super) invites: Option<Arc<Invites>>,
    pub(super) now_unix_s: u64,
}

/// How a dialler was admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As a member, for this lane.
    Member(Lane),
    /// By an invitation; it has the secret now, and the connection has served its purpose.
    Enrolled,
}

/// The dialler's side for a member.
pub(super) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    ends: Ends,
    keyring: &Keyring,
    lane: Lane,
    limits: &PeerLimits,
) -> Result<(), DropReason> {
    let exporter = exporter_of(stream).ok_or(DropReason::TlsFailed)?;
    let secret = keyring.current();
    let Ends { client, server } = ends;
    let proof = membership_proof(&secret, Role::Client, client, server, &exporter);
    say(stream, &Greeting::Prove { lane, proof }, limits).await?;
    let Greeting::Proven { proof } = hear(stream, limits).await? else {
        return Err(DropReason::Stranger);
    };
    if !verify_membership(&secret, Role::Server, client, server, &exporter, &proof) {
        return Err(DropReason::Stranger);
    }
    Ok(())
}

/// The dialler's side for one with an invitation; gives the epoch's secret.
pub(super) async fn enrol<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    ends: Ends,
    token: &InviteToken,
    limits: &PeerLimits,
) -> Result<EpochSecret, DropReason> {
    let exporter = exporter_of(stream).ok_or(DropReason::TlsFailed)?;
    let Ends { client, server } = ends;
    let proof = enrolment_proof(&token.key, Role::Client, client, server, &exporter);
    say(stream, &Greeting::Enrol { proof }, limits).await?;
    let Greeting::Enrolled { secret, proof } = hear(stream, limits).await? else {
        return Err(DropReason::Stranger);
    };
    if !verify_enrolment(&token.key, Role::Server, client, server, &exporter, &proof) {
        return Err(DropReason::Stranger);
    }
    Ok(EpochSecret::new(secret))
}

/// The acceptor's side. Says nothing to one who cannot prove anything.
pub(super) async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    ends: Ends,
    door: Door<'_>,
    limits: &PeerLimits,
) -> Result<Admission, DropReason> {
    let exporter = exporter_of(stream).ok_or(DropReason::TlsFailed)?;
    let (answer, admission) = match hear(stream, limits).await? {
        Greeting::Prove { lane, proof } => {
            let answer = answer_member(ends, door.keyring, &exporter, &proof);
            (answer, Admission::Member(lane))
        }
        Greeting::Enrol { proof } => (
            answer_invited(ends, &door, &exporter, &proof),
            Admission::Enrolled,
        ),
        Greeting::Proven { .. } | Greeting::Enrolled { .. } => (None, Admission::Enrolled),
    };
    say(stream, &answer.ok_or(DropReason::Stranger)?, limits).await?;
    Ok(admission)
}

fn answer_member(
    Ends { client, server }: Ends,
    keyring: &Keyring,
    exporter: &[u8; 32],
    proof: &[u8; 32],
) -> Option<Greeting> {
    let knows = |secret: &&Arc<EpochSecret>| {
        verify_membership(secret, Role::Client, client, server, exporter, proof)
    };
    let epochs = keyring.all();
    let secret = epochs.iter().find(knows)?;
    let proof = membership_proof(secret, Role::Server, client, server, exporter);
    Some(Greeting::Proven { proof })
}

fn answer_invited(
    Ends { client, server }: Ends,
    door: &Door<'_>,
    exporter: &[u8; 32],
    proof: &[u8; 32],
) -> Option<Greeting> {
    let invites = door.invites.as_ref()?;
    let key = invites.redeem(client, server, exporter, proof, door.now_unix_s)?;
    let secret = *door.keyring.current().as_bytes();
    let proof = enrolment_proof(&key, Role::Server, client, server, exporter);
    Some(Greeting::Enrolled { secret, proof })
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    greeting: &Greeting,
    limits: &PeerLimits,
) -> Result<(), DropReason> {
    write_frame(stream, &greeting.encode(), limits).await?;
    flush(stream, limits).await
}

async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    limits: &PeerLimits,
) -> Result<Greeting, DropReason> {
    let pulse = Pulse::new();
    let (header, body) = FrameReader::new(stream, limits, &pulse)
        .next(Phase::Greeting)
        .await?;
    Greeting::decode(header.kind, &body).map_err(|error| reason_of(&error))
}
