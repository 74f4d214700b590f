//! Greeting: each side proves membership before anything else is sent.
//!
//! TLS has shown the other end's key. If members are listed in a ledger, that key must be in the
//! ledger or come with certificates that add it. Otherwise each side proves that it has the secret.
//! The dialler goes first. Its proof names no epoch and no node, and it shows its certificates,
//! which contain names, only to a member. The acceptor refuses a stranger by an alert without data.
//! The alert is sealed, so a dialler can tell a refusal from a connection that broke on the way. An
//! expelled former member also receives the signed statement that expelled it, with the
//! certificates of its signers, so that it can report why it is refused. A node that asks for
//! admission by an invitation does not learn why it is refused. The acceptor reports the reason on
//! its own side.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::Shared;
use super::counters::DropReason;
use super::framing::{FrameReader, Pulse, flush, reason_of, write_frame};
use super::limits::PeerLimits;
use super::tls::{Protocol, channel_of};
use crate::net::LedgerHandle;
use p2pfs_proto::trust::{
    CHAIN_MAX, Channel, EpochSecret, Grant, InviteRefusal, InviteToken, InvitedNode, Invites,
    Known, Redeemed, Role, TrustCommand, TrustError, TrustView, Welcome,
};
use p2pfs_proto::wire::native::tcp::{DeclineReason, Greeting, Lane, Phase};
use p2pfs_records::TlsStream;
use p2pfs_types::id::{NodeId, NodeName};

/// Data by which an acceptor decides whether to admit a node.
pub(super) struct AdmissionPolicy<'a> {
    pub(super) ledger: &'a LedgerHandle,
    pub(super) invites: Option<Arc<Invites>>,
    pub(super) now_unix_s: u64,
    /// Receives each refusal of a node that asks for admission.
    pub(super) on_refused: &'a (dyn Fn(RefusedJoin) + Sync),
}

/// A node that asked for admission by an invitation, and why it was refused.
#[derive(Debug)]
pub struct RefusedJoin {
    /// Key of the node, which TLS has proven.
    pub node: NodeId,
    /// Name that the node gives itself, or `None` if that is not a valid name.
    pub name: Option<NodeName>,
    /// Reason of the refusal.
    pub why: JoinRefusal,
}

/// Reason why a node is not admitted.
#[derive(Debug)]
pub enum JoinRefusal {
    /// The name that the node gives itself is not a valid name.
    BadName,
    /// This node may not admit nodes. The invitation was not checked.
    CannotAdmit(TrustError),
    /// The invitation does not admit the node.
    Invite(InviteRefusal),
    /// The invitation was valid, and the admission could not be recorded.
    NotRecorded(TrustError),
    /// The invitation was valid, and this node is stopping.
    Stopping,
}

/// Way in which a dialler was admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As a member, for this lane.
    Member(Lane),
    /// By an invitation. The dialler has the secret now, and the connection has served its purpose.
    Enrolled,
}

/// Runs the dialler's side of a greeting between members, within its time limit: proves this node's
/// membership and checks the other node's proof.
pub(super) async fn prove<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    lane: Lane,
) -> Result<(), DropReason> {
    let proving = exchange_proofs(shared, stream, lane);
    let proven = timeout(shared.limits.times.handshake, proving).await;
    proven.unwrap_or(Err(DropReason::SlowGreeting))
}

async fn exchange_proofs<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    lane: Lane,
) -> Result<(), DropReason> {
    let (me, ledger, limits) = (shared.local.me, &shared.local.ledger, &shared.limits);
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let trust = ledger.view();
    let secret = trust.epochs().sealing();
    let proof = channel.membership_proof(&secret, Role::Client);
    let chain = chain_for(&trust, me, channel.server);
    send(stream, &Greeting::Prove { lane, proof, chain }, limits).await?;
    let (proof, chain) = match receive(stream, limits).await? {
        Greeting::Proven { proof, chain } => (proof, chain),
        Greeting::PutOut { word } => {
            let is_out = hear_put_out(shared, stream, word).await;
            return Err(if is_out {
                DropReason::PutOut
            } else {
                DropReason::Stranger
            });
        }
        _ => return Err(DropReason::Stranger),
    };
    let is_member = if trust.has_ledger() {
        ledger.receive_certificates(&channel.server, &chain).await
    } else {
        channel.verify_membership(&secret, Role::Server, &proof)
    };
    is_member.then_some(()).ok_or(DropReason::Stranger)
}

/// Handles the statement that expelled this node. If the statement alone does not suffice, reads
/// the certificates that follow it: its signer may have joined without this node's knowledge.
/// Returns whether this node is out.
async fn hear_put_out<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut TlsStream<S>,
    word: Bytes,
) -> bool {
    let (me, ledger, limits) = (shared.local.me, &shared.local.ledger, &shared.limits);
    if ledger.receive_expulsion(&me, &word).await {
        return true;
    }
    let mut said = word.to_vec();
    for _ in 0..CHAIN_MAX {
        // an older version sends the statement alone
        let Ok(Greeting::PutOut { word }) = receive(stream, limits).await else {
            break;
        };
        said.extend_from_slice(&word);
    }
    ledger.receive_expulsion(&me, &said).await
}

/// Returns our certificates if the ledger lists the other end, since it may not know us yet.
/// Otherwise returns nothing.
fn chain_for(trust: &TrustView, me: NodeId, other: NodeId) -> Bytes {
    if trust.has_ledger() && trust.is_member(&other) {
        trust.certificates_of(&me).into()
    } else {
        Bytes::new()
    }
}

/// Data that a node receives when an invitation admits it.
#[derive(Debug)]
pub struct Enrolment {
    /// Secret of the cluster's epoch.
    pub secret: EpochSecret,
    /// Certificates from the founding to the node's own.
    pub chain: Bytes,
}

/// Answer to a node with an invitation.
#[derive(Debug)]
pub(super) enum EnrolAnswer {
    Admitted(Enrolment),
    Declined(DeclineReason),
}

/// Runs the dialler's side for a node with an invitation.
pub(super) async fn enrol<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    me: NodeId,
    token: &InviteToken,
    name: &NodeName,
    limits: &PeerLimits,
) -> Result<EnrolAnswer, DropReason> {
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let proof = channel.enrolment_proof(&token.key, Role::Client);
    let name = Bytes::copy_from_slice(name.as_str().as_bytes());
    send(stream, &Greeting::Enrol { proof, name }, limits).await?;
    let (secret, proof, chain) = match receive(stream, limits).await? {
        Greeting::Enrolled {
            secret,
            proof,
            chain,
        } => (secret, proof, chain),
        Greeting::Declined(why) => return Ok(EnrolAnswer::Declined(why)),
        _ => return Err(DropReason::Stranger),
    };
    if !channel.verify_enrolment(&token.key, Role::Server, &proof) {
        return Err(DropReason::Stranger);
    }
    let secret = EpochSecret::new(secret);
    Ok(EnrolAnswer::Admitted(Enrolment { secret, chain }))
}

/// Runs the acceptor's side. Sends no data to a node that can prove nothing and never was a member.
pub(super) async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    me: NodeId,
    door: AdmissionPolicy<'_>,
    limits: &PeerLimits,
) -> Result<Admission, DropReason> {
    let channel = channel_of(stream, me).ok_or(DropReason::TlsFailed)?;
    let (answer, admission) = match receive(stream, limits).await? {
        Greeting::Prove { lane, proof, chain } => {
            let trust = door.ledger.view();
            let answer = if trust.has_ledger() {
                answer_certified(&channel, door.ledger, &chain).await
            } else {
                answer_member(&channel, &trust, &proof)
            };
            (answer, Admission::Member(lane))
        }
        Greeting::Enrol { proof, name } => {
            let name = std::str::from_utf8(&name).ok();
            let name = name.and_then(|it| NodeName::new(it).ok());
            let answer = answer_invited(&channel, &door, &proof, name.as_ref()).await;
            match answer {
                Ok(answer) => (Some(answer), Admission::Enrolled),
                Err(why) => {
                    let told =
                        told_to_joiner(&why).filter(|_| Protocol::of(stream).knows_decline());
                    (door.on_refused)(RefusedJoin {
                        node: channel.client,
                        name,
                        why,
                    });
                    if let Some(why) = told {
                        let declined = Greeting::Declined(why).encode();
                        write_frame(stream, &declined, limits).await?;
                    }
                    (None, Admission::Enrolled)
                }
            }
        }
        Greeting::Proven { .. }
        | Greeting::Enrolled { .. }
        | Greeting::PutOut { .. }
        | Greeting::Declined(_) => (None, Admission::Enrolled),
    };
    if let Some(answer) = answer {
        send(stream, &answer, limits).await?;
        return Ok(admission);
    }
    if let Admission::Member(_) = admission {
        // each statement in its own frame: an older version reads only the first one
        for said in door.ledger.view().expulsion_of(&channel.client) {
            let word = said.encode().into();
            write_frame(stream, &Greeting::PutOut { word }.encode(), limits).await?;
        }
    }
    // without the alert the dialler would take the refusal for a broken connection
    let _worn = stream.refuse();
    flush(stream, limits).await?;
    Err(DropReason::Stranger)
}

/// Returns what a refused joiner is told: the reason if it has proven an invitation of this node,
/// and otherwise nothing.
fn told_to_joiner(why: &JoinRefusal) -> Option<DeclineReason> {
    match why {
        JoinRefusal::BadName | JoinRefusal::CannotAdmit(_) => None,
        JoinRefusal::NotRecorded(_) => Some(DeclineReason::NotRecorded),
        JoinRefusal::Stopping => Some(DeclineReason::Stopping),
        JoinRefusal::Invite(invite) => match invite {
            InviteRefusal::Unknown => None,
            InviteRefusal::Expired => Some(DeclineReason::Expired),
            InviteRefusal::Used(_) => Some(DeclineReason::Used),
            InviteRefusal::OtherCluster => Some(DeclineReason::OtherCluster),
            InviteRefusal::BeforeExpulsion => Some(DeclineReason::BeforeExpulsion),
            InviteRefusal::NameTaken(_) => Some(DeclineReason::NameTaken),
            InviteRefusal::NameReserved(_) => Some(DeclineReason::NameReserved),
        },
    }
}

fn answer_member(channel: &Channel, trust: &TrustView, proof: &[u8; 32]) -> Option<Greeting> {
    let is_proven = |it: &&Arc<EpochSecret>| channel.verify_membership(it, Role::Client, proof);
    let secret = trust.epochs().all().find(is_proven)?;
    let proof = channel.membership_proof(secret, Role::Server);
    let chain = Bytes::new();
    Some(Greeting::Proven { proof, chain })
}

async fn answer_certified(
    channel: &Channel,
    ledger: &LedgerHandle,
    shown: &[u8],
) -> Option<Greeting> {
    let Channel { client, server, .. } = channel;
    let is_member = ledger.receive_certificates(client, shown).await;
    is_member.then(|| Greeting::Proven {
        // TLS has proven our key, and the ledger lists keys
        proof: [0; 32],
        chain: ledger.view().certificates_of(server).into(),
    })
}

/// Admits the holder of an invitation, and returns the answer once the admission is stored. A holder that was admitted with it
/// before receives the same membership again, because the first answer may have been lost. If the
/// admission cannot be recorded, the holder is refused, and the invitation is used up all the same.
///
/// # Errors
/// The reason of the refusal.
async fn answer_invited(
    channel: &Channel,
    door: &AdmissionPolicy<'_>,
    proof: &[u8; 32],
    name: Option<&NodeName>,
) -> Result<Greeting, JoinRefusal> {
    let none = JoinRefusal::Invite(InviteRefusal::Unknown);
    let invites = door.invites.as_ref().ok_or(none)?;
    let name = name.ok_or(JoinRefusal::BadName)?;
    let (trust, client) = (door.ledger.view(), channel.client);
    let ledger = trust.ledger();
    // a node that left by itself may return with any invitation
    let needed = Known::needed_for(&client, ledger);
    if let Some(ledger) = ledger {
        // an invitation that this node cannot honour is not used up
        let may_admit = ledger.check_admits(&channel.server, trust.now_s());
        may_admit.map_err(JoinRefusal::CannotAdmit)?;
    }
    let former_name = ledger.and_then(|it| it.last_name_of(&client));
    let is_taken = |name: &NodeName| ledger.is_some_and(|it| it.is_name_taken(&client, name));
    // a name to which settings give rights is reserved: a joining node gets it only if the
    // invitation gives it, or if the node had it before
    let check = |grant: &Grant| {
        let given = grant.name.as_ref();
        let is_own = given.is_some() || former_name.as_ref() == Some(name);
        let called = given.unwrap_or(name);
        if is_taken(called) {
            Err(InviteRefusal::NameTaken(called.clone()))
        } else if !is_own && invites.is_reserved(name) {
            Err(InviteRefusal::NameReserved(name.clone()))
        } else {
            Ok(())
        }
    };
    let redeemed = invites.redeem(channel, proof, &needed, door.now_unix_s, check);
    let Redeemed {
        key,
        grant,
        known,
        is_repeated,
    } = redeemed.map_err(JoinRefusal::Invite)?;
    let invited = InvitedNode {
        node: client,
        name: name.clone(),
        grant,
        known,
        is_repeated,
    };
    let admitted = (door.ledger)
        .run(|reply| TrustCommand::Admit { invited, reply })
        .await;
    let welcome = admitted.map_err(|_| JoinRefusal::Stopping)?;
    let Welcome { secret, chain } = welcome.map_err(JoinRefusal::NotRecorded)?;
    Ok(Greeting::Enrolled {
        secret: *secret.as_bytes(),
        proof: channel.enrolment_proof(&key, Role::Server),
        chain: chain.into(),
    })
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    greeting: &Greeting,
    limits: &PeerLimits,
) -> Result<(), DropReason> {
    write_frame(stream, &greeting.encode(), limits).await?;
    flush(stream, limits).await
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut TlsStream<S>,
    limits: &PeerLimits,
) -> Result<Greeting, DropReason> {
    let pulse = Pulse::new();
    let (header, body) = FrameReader::new(stream, limits, &pulse)
        .next(Phase::Greeting)
        .await?;
    Greeting::decode(header.kind, &body).map_err(|error| reason_of(&error))
}
