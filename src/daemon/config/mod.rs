//! The daemon's settings: what they are, where they come from, and which of them may change while
//! it runs.
//!
//! Later layers win: defaults, the configuration file, the files of its `.d` folder in the order
//! of their names, the environment, the command line. Lists are replaced as a whole, but for
//! shares, which add up. Owns the names of all settings ([`SETTINGS`]) and the parsers of their
//! units. Reads files and never writes them, but for what the daemon itself keeps under its state
//! directory ([`saved`]). An error names the file, the line and the key, or the variable, and what
//! is accepted; nothing of a configuration with an error is used.

mod check;
mod environment;
mod error;
mod load;
mod mask;
mod place;
mod program_budget;
mod reload;
pub mod saved;
mod seed;
mod settings;
pub mod units;

pub use environment::Environment;
pub use error::ConfigError;
pub use load::{Loaded, Overrides, Sources, load};
pub use mask::{ModeMask, ModeMaskError};
pub use place::Place;
pub use program_budget::{ProgramBudget, ProgramBudgetError, RATE_MIN_BYTES};
pub use reload::{Changes, SETTINGS, Setting, compare};
pub use seed::Seed;
pub use settings::{
    CacheSettings, Config, LanSettings, LegacySettings, LimitSettings, LogLevel, LogSettings,
    MembershipSettings, MountSettings, ReaderSettings, ShareSettings,
};

/// The port that a node listens on where nothing else is said, the one of the older peers.
pub const DEFAULT_PORT: u16 = 1378;
