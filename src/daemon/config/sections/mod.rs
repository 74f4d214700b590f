//! The sections of the configuration file, one file each.
//!
//! A field of a section is a whole setting: its documentation, its default, and its description.

mod cache;
mod inbox;
mod keep;
mod lan;
mod legacy;
mod limits;
mod log;
mod membership;
mod mesh;
mod metrics;
mod mount;
mod readers;
mod share;
mod write;

pub use cache::CacheSettings;
pub use inbox::InboxSettings;
pub use keep::KeepSettings;
pub use lan::LanSettings;
pub use legacy::LegacySettings;
pub use limits::LimitSettings;
pub use log::{LogLevel, LogSettings};
pub use membership::MembershipSettings;
pub use mesh::MeshSettings;
pub use metrics::MetricsSettings;
pub use mount::MountSettings;
pub use readers::ReaderSettings;
pub use share::ShareSettings;
pub use write::WriteSettings;
