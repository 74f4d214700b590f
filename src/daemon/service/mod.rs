//! The daemon's life: it starts a node with its settings, mounts its folder, answers the control
//! socket, and reports to the log and the service manager.
//!
//! Begin with [`run`]. It assembles `services::Services`, the node and the state around it. `answers`
//! has the answer to each call.

mod answers;
mod conditions;
mod confine;
pub mod copies;
mod effective_config;
mod fd_store;
mod folder;
mod former_names;
mod isolation;
mod journal;
mod journal_records;
#[cfg(feature = "legacy")]
mod legacy_peers;
mod limits;
pub mod logging;
mod memory;
mod metrics;
mod missing;
mod mount_rights;
mod node_config;
mod own_dirs;
mod paced;
mod rates;
mod record_queue;
mod reload;
mod remount;
pub mod run;
mod run_error;
mod seeds;
mod served;
mod services;
mod sharing;
mod started_by;
pub mod systemd;
mod telling;
mod users;
mod watchdog;
