//! Answers about the node itself: its state, its peers, its setup and its limits.

use std::sync::Arc;

use super::{
    Asked, Services, doctor, limits, network, reply_while_heard, reply_with, status, top,
    unanswered,
};
use crate::daemon::control::Call;
use crate::daemon::service::conditions;

/// Answers the calls about the node.
pub(super) async fn answer(services: Arc<Services>, asked: Asked) {
    let Asked {
        call,
        viewer,
        reply,
        ..
    } = asked;
    let sight = viewer.sight;
    match call {
        Call::Status {} => {
            conditions::review(&services).await;
            super::compute(&services, reply, move |s| Ok(status::status(s, sight))).await
        }
        Call::Top {} => reply_with(reply, top::top(&services, viewer).await),
        Call::Peers {} => reply_with(reply, status::peers(&services).await),
        Call::Ping { peer } => {
            reply_while_heard(reply, network::ping(&services, &peer, sight)).await
        }
        Call::Doctor {} => doctor::doctor_in_turn(&services, sight, reply).await,
        Call::Settings {} => reply_with(reply, Ok(services.settings.in_force.load().shown.clone())),
        Call::Limits {} => reply_with(reply, Ok(limits::limits(&services))),
        Call::SetLimits {
            up_bytes_per_s,
            down_bytes_per_s,
            metered,
        } => {
            let rates = (up_bytes_per_s, down_bytes_per_s);
            reply_with(reply, limits::set_limits(&services, rates, metered));
        }
        other => unanswered(&other, reply),
    }
}
