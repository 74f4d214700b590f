//! The greeting: each side proves that it belongs here before anything else is said.
//!
//! TLS has shown which key the other end has. Where members are those of a ledger, that key is in
//! it or comes with certificates that make it so; else each side proves that it has the secret. The
//! dialler goes first. Its proof names no epoch and no node, and certificates, which hold names,
//! are shown to members alone, so a stranger who is dialled learns nothing; and the acceptor
//! answers only whom it admits, so a stranger who dials sees the connection close and nothing more.
//! Who was a member and was put out is handed the signed word that did it, and the certificates of
//! who said it, so that it can say why nobody talks to it: it learns the names of those who may
//! admit and led to that, and of nobody else.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, Pulse, flush, reason_of, write_frame};
use super::limits::PeerLimits;
use super::tls::channel_of;
use p2pfs_proto::trust::{
    CHAIN_MAX, Channel, EpochSecret, Grant, InviteToken, Invites, Keyring, NodeKey, Redeemed, Role,
    Welcome,
};
use p2pfs_proto::wire::native::tcp::{Greeting, Lane, Phase};
use p2pfs_types::id::{NodeId, NodeName};

/// What an acceptor admits by.
pub(super) struct Door<'a> {
    pub(super) key: &'a NodeKey,
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

/// The dialler's side for a member, within the time of a greeting.
pub(super) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    lane: Lane,
) -> Result<(), DropReason> {
    let proving = exchange_proofs(shared, stream, lane);
    let proven = timeout(shared.limits.handshake, proving).await;
    proven.unwrap_or(Err(DropReason::SlowGreeting))
}

async fn exchange_proofs<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    lane: Lane,
) -> Result<(), DropReason> {
    let (me, keyring, limits) = (shared.me, &shared.keyring, &shared.limits);
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let secret = keyring.current();
    let proof = channel.membership_proof(&secret, Role::Client);
    let chain = chain_for(keyring, me, channel.server);
    say(stream, &Greeting::Prove { lane, proof, chain }, limits).await?;
    let (proof, chain) = match hear(stream, limits).await? {
        Greeting::Proven { proof, chain } => (proof, chain),
        Greeting::PutOut { word } => {
            hear_put_out(shared, stream, word).await;
            return Err(DropReason::Stranger);
        }
        _ => return Err(DropReason::Stranger),
    };
    let is_member = if keyring.has_ledger() {
        keyring.admits(&channel.server, &chain)
    } else {
        channel.verify_membership(&secret, Role::Server, &proof)
    };
    is_member.then_some(()).ok_or(DropReason::Stranger)
}

/// Hears the word by which this node was put out, and where that is not enough, the certificates
/// that follow it: whoever said it may have been let in meanwhile.
async fn hear_put_out<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    word: Bytes,
) {
    let (me, keyring, limits) = (shared.me, &shared.keyring, &shared.limits);
    if keyring.hear_put_out(&me, &word) {
        return;
    }
    let mut said = word.to_vec();
    for _ in 0..CHAIN_MAX {
        // a version before says the word alone
        let Ok(Greeting::PutOut { word }) = hear(stream, limits).await else {
            break;
        };
        said.extend_from_slice(&word);
    }
    keyring.hear_put_out(&me, &said);
}

/// Our certificates, where the other is a member and may not have heard of us.
fn chain_for(keyring: &Keyring, me: NodeId, other: NodeId) -> Bytes {
    if keyring.has_ledger() && keyring.is_member(&other) {
        keyring.chain_of(&me).into()
    } else {
        Bytes::new()
    }
}

/// What one who was admitted has.
#[derive(Debug)]
pub struct Enrolment {
    /// Of the cluster's epoch.
    pub secret: EpochSecret,
    /// The certificates from the founding to its own.
    pub chain: Bytes,
}

/// The dialler's side for one with an invitation; gives the epoch's secret.
pub(super) async fn enrol<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    me: NodeId,
    token: &InviteToken,
    name: &NodeName,
    limits: &PeerLimits,
) -> Result<Enrolment, DropReason> {
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let proof = channel.enrolment_proof(&token.key, Role::Client);
    let name = Bytes::copy_from_slice(name.as_str().as_bytes());
    say(stream, &Greeting::Enrol { proof, name }, limits).await?;
    let Greeting::Enrolled {
        secret,
        proof,
        chain,
    } = hear(stream, limits).await?
    else {
        return Err(DropReason::Stranger);
    };
    if !channel.verify_enrolment(&token.key, Role::Server, &proof) {
        return Err(DropReason::Stranger);
    }
    let secret = EpochSecret::new(secret);
    Ok(Enrolment { secret, chain })
}

/// The acceptor's side. Says nothing to one who cannot prove anything and never was a member.
pub(super) async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    me: NodeId,
    door: Door<'_>,
    limits: &PeerLimits,
) -> Result<Admission, DropReason> {
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let (answer, admission) = match hear(stream, limits).await? {
        Greeting::Prove { lane, proof, chain } => {
            let answer = if door.keyring.has_ledger() {
                answer_certified(&channel, door.keyring, &chain)
            } else {
                answer_member(&channel, door.keyring, &proof)
            };
            (answer, Admission::Member(lane))
        }
        Greeting::Enrol { proof, name } => (
            answer_invited(&channel, &door, &proof, &name),
            Admission::Enrolled,
        ),
        Greeting::Proven { .. } | Greeting::Enrolled { .. } | Greeting::PutOut { .. } => {
            (None, Admission::Enrolled)
        }
    };
    if let Some(answer) = answer {
        say(stream, &answer, limits).await?;
        return Ok(admission);
    }
    if let Admission::Member(_) = admission {
        // each in a frame of its own: a version before hears the first
        for said in door.keyring.told_to_put_out(&channel.client) {
            let word = said.encode().into();
            write_frame(stream, &Greeting::PutOut { word }.encode(), limits).await?;
        }
        flush(stream, limits).await?;
    }
    Err(DropReason::Stranger)
}

fn answer_member(channel: &Channel, keyring: &Keyring, proof: &[u8; 32]) -> Option<Greeting> {
    let epochs = keyring.all();
    let mut epochs = epochs.iter();
    let secret = epochs.find(|it| channel.verify_membership(it, Role::Client, proof))?;
    let proof = channel.membership_proof(secret, Role::Server);
    let chain = Bytes::new();
    Some(Greeting::Proven { proof, chain })
}

fn answer_certified(channel: &Channel, keyring: &Keyring, chain: &[u8]) -> Option<Greeting> {
    let Channel { client, server, .. } = channel;
    keyring.admits(client, chain).then(|| Greeting::Proven {
        // TLS has proven our key, and the ledger is about keys
        proof: [0; 32],
        chain: keyring.chain_of(server).into(),
    })
}

/// Admits who holds an invitation. Where that cannot be written down, it is refused, and the
/// invitation is used up all the same.
fn answer_invited(
    channel: &Channel,
    door: &Door<'_>,
    proof: &[u8; 32],
    name: &[u8],
) -> Option<Greeting> {
    let invites = door.invites.as_ref()?;
    let name = NodeName::new(std::str::from_utf8(name).ok()?).ok()?;
    let (keyring, client) = (door.keyring, channel.client);
    // who left of its own may come back with any invitation
    let needed = keyring.needed_for(&client);
    if keyring.has_ledger() {
        // what nobody can be let in by is not used up either
        keyring.check_admits(&channel.server).ok()?;
    }
    // settings give rights by name: a joiner gets such a name only from the issuer
    let accepted = |grant: &Grant| {
        let given = grant.name.as_ref();
        let is_own = given.is_some() || keyring.was_called(&client, &name);
        let is_free = !keyring.is_name_taken(&client, given.unwrap_or(&name));
        is_free && (is_own || !invites.is_reserved(&name))
    };
    let redeemed = invites.redeem(channel, proof, &needed, door.now_unix_s, accepted)?;
    let Redeemed { key, grant, known } = redeemed;
    let welcome = keyring.welcome(door.key, client, name, &grant, &known);
    let Welcome { secret, chain } = welcome.ok()?;
    Some(Greeting::Enrolled {
        secret: *secret.as_bytes(),
        proof: channel.enrolment_proof(&key, Role::Server),
        chain: chain.into(),
    })
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
