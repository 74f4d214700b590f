//! Answers about the node itself: its state, its peers, its setup and its limits.

use super::{Asked, doctor, limits, network, status, top};
use crate::daemon::control::{
    Answer, Checkup, Failure, Limits, Peers, Pong, Settings, Status, Top, parameters,
};
use crate::daemon::service::conditions;

impl Answer<Asked> for parameters::Status {
    async fn answer(self, asked: &mut Asked) -> Result<Status, Failure> {
        conditions::review(&asked.services).await;
        let sight = asked.viewer.sight;
        asked
            .blocking(move |services| Ok(status::status(services, sight)))
            .await
    }
}

impl Answer<Asked> for parameters::Top {
    async fn answer(self, asked: &mut Asked) -> Result<Top, Failure> {
        top::top(&asked.services, asked.viewer).await
    }
}

impl Answer<Asked> for parameters::Peers {
    async fn answer(self, asked: &mut Asked) -> Result<Peers, Failure> {
        status::peers(&asked.services).await
    }
}

impl Answer<Asked> for parameters::Ping {
    async fn answer(self, asked: &mut Asked) -> Result<Pong, Failure> {
        let ping = network::ping(&asked.services, &self.peer, asked.viewer.sight);
        asked.while_heard(ping).await
    }
}

impl Answer<Asked> for parameters::Doctor {
    async fn answer(self, asked: &mut Asked) -> Result<Checkup, Failure> {
        doctor::doctor_in_turn(&asked.services, asked.viewer.sight, &asked.reply).await
    }
}

impl Answer<Asked> for parameters::Settings {
    async fn answer(self, asked: &mut Asked) -> Result<Settings, Failure> {
        Ok(asked.services.settings.in_force.load().shown.clone())
    }
}

impl Answer<Asked> for parameters::Limits {
    async fn answer(self, asked: &mut Asked) -> Result<Limits, Failure> {
        Ok(limits::limits(&asked.services))
    }
}

impl Answer<Asked> for parameters::SetLimits {
    async fn answer(self, asked: &mut Asked) -> Result<Limits, Failure> {
        let rates = (self.up_bytes_per_s, self.down_bytes_per_s);
        limits::set_limits(&asked.services, rates, self.metered)
    }
}
