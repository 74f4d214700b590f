//! Tests that need only the source tree and the program: rules of the tree, the manual, the command
//! line and the configuration.

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
