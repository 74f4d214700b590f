//! What needs nothing but the source tree and the program: the tree and the manual are as they
//! should be, and the command line and the configuration say what they say.

mod architecture;
mod cli_alone;
mod cli_cluster;
mod cli_commands;
mod cli_get;
mod cli_manual;
mod cli_names;
mod cli_socket;
mod conditions;
mod config_files;
mod config_layers;
mod config_pages;
mod config_refusals;
mod config_shares;
mod control_pages;
mod corpus;
mod generated;
mod limits;
mod manual;
mod medians;
mod packages;
mod roff;
mod security;
mod tidy;
mod tree;
