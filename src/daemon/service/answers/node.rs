//! Answers about the node itself: its state, its peers, its setup and its limits.

use std::sync::Arc;

use super::{Asked, Service, reply_while_heard, reply_with, unanswered};
use crate::daemon::control::Call;

/// Answers the calls about the node.
pub(super) async fn answer(service: Arc<Service>, asked: Asked) {
    let Asked {
        call,
        viewer,
        reply,
        ..
    } = asked;
    let sight = viewer.sight;
    match call {
        Call::Status {} => {
            service.review().await;
            service.compute(reply, move |s| Ok(s.status(sight))).await
        }
        Call::Top {} => reply_with(reply, service.top(viewer).await),
        Call::Peers {} => reply_with(reply, service.peers().await),
        Call::Ping { peer } => reply_while_heard(reply, service.ping(&peer, sight)).await,
        Call::Doctor {} => service.doctor_in_turn(sight, reply).await,
        Call::Settings {} => reply_with(reply, Ok(service.in_force.load().shown.clone())),
        Call::Limits {} => reply_with(reply, Ok(service.limits())),
        Call::SetLimits {
            up_bytes_per_s,
            down_bytes_per_s,
            metered,
        } => {
            let rates = (up_bytes_per_s, down_bytes_per_s);
            reply_with(reply, service.set_limits(rates, metered));
        }
        other => unanswered(&other, reply),
    }
}
