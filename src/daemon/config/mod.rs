//! The daemon's settings: their types, their sources, and the subset that may change while the
//! daemon runs.
//!
//! Later layers win: defaults, the configuration file, the files of its `.d` folder in the order of
//! their names, the environment, the command line. Lists are replaced as a whole, except for
//! shares, which are appended. Owns the names of all settings ([`SETTINGS`]) and the parsers of
//! their units. Reads files and never writes them, except for the daemon's own files under its
//! state directory ([`saved`]). Errors are reported together, each with its position or variable
//! and the accepted values. No setting of a configuration with an error is applied.
//!
//! Begin with a file of `sections`: each field there is a whole setting.

mod account;
mod alike;
mod check;
mod document;
mod dscp;
mod environment;
mod error;
mod fields;
mod file;
mod group;
mod inspect;
mod kept_path;
mod layer;
mod load;
mod mask;
mod metrics;
mod one_folder;
mod place;
mod program_budget;
mod rate_limit;
mod reload;
pub mod saved;
mod secret;
mod sections;
mod seed;
mod setting;
mod settings;
mod shown;
pub mod units;
mod variables;

pub use check::NO_LEGACY;
pub use environment::Environment;
pub use error::ConfigError;
pub use fields::parse_listen_address;
pub use group::{ALL_NODES, GROUP_MARK, Group, check_readers, missing_group, readers_of};
pub use inspect::{Inspection, inspect};
pub use load::{Loaded, Overrides, Sources, load, load_texts, socket_of};
pub use mask::ModeMask;
pub use metrics::MetricsAddress;
pub use one_folder::folder_names;
pub use place::Place;
pub use program_budget::ProgramBudget;
pub use rate_limit::{RATE_MIN_BYTES, RateError, RateLimit, RateLimitError};
pub use reload::{Changes, compare};
pub use sections::*;
pub use seed::Seed;
pub use setting::{SETTINGS, Section, Setting, SettingKind};
pub use settings::{Config, SECTIONS};

/// Default port of a node, the one of the legacy peers.
pub const DEFAULT_PORT: u16 = 1378;
