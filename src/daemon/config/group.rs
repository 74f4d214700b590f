//! The readers of a share in settings: nodes, and groups of nodes such as `office=alice bob`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::units::{Wrong, written_as_text};
use p2pfs_types::id::{NodeId, NodeName};

/// The text for all nodes.
pub const ALL_NODES: &str = "*";

/// Prefix of a group's name.
pub const GROUP_MARK: char = '@';

/// Several nodes under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name, without `@`.
    pub name: String,
    /// Names and keys of nodes, as configured.
    pub members: Vec<String>,
}

fn check_node(text: &str) -> Result<(), Wrong> {
    if text.parse::<NodeId>().is_ok() || NodeName::new(text).is_ok() {
        Ok(())
    } else {
        Err(Wrong(format!(
            "{text:?} is not a node: write the name of its certificate, or its key"
        )))
    }
}

/// Checks that each reader is a node's name or key, or the name of a group behind `@`.
///
/// # Errors
/// The first invalid reader.
pub fn check_readers(readers: &[String]) -> Result<(), Wrong> {
    let mut nodes = readers.iter();
    nodes.try_for_each(|text| check_node(text.strip_prefix(GROUP_MARK).unwrap_or(text)))
}

impl FromStr for Group {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let how = "write NAME=NODE NODE..., such as \"office=alice bob\"";
        let no_group = || Wrong(format!("{text:?} is not a group: {how}"));
        let (name, members) = text.split_once('=').ok_or_else(no_group)?;
        let name = name.trim();
        if NodeName::new(name).is_err() {
            return Err(no_group());
        }
        let members: Vec<String> = members.split_whitespace().map(str::to_owned).collect();
        members.iter().try_for_each(|node| check_node(node))?;
        Ok(Self {
            name: name.to_owned(),
            members,
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.members.join(" "))
    }
}

written_as_text!(Group);

/// Returns the readers of a share, sorted and without duplicates, with groups replaced by their
/// members. `None` means that all nodes are readers. An unknown group has no members.
pub fn readers_of(written: Option<&[String]>, groups: &[Group]) -> Option<Vec<String>> {
    let mut nodes: Vec<String> = Vec::new();
    for reader in written? {
        let group = reader.strip_prefix(GROUP_MARK);
        let meant = match group {
            None => std::slice::from_ref(reader),
            Some(name) => {
                let group = groups.iter().find(|group| group.name == name);
                group.map_or(&[][..], |group| &group.members)
            }
        };
        nodes.extend(meant.iter().cloned());
    }
    nodes.sort();
    nodes.dedup();
    Some(nodes)
}

/// Returns the first unknown group among the readers of a share.
pub fn missing_group<'a>(written: &'a [String], groups: &[Group]) -> Option<&'a str> {
    let mut named = written
        .iter()
        .filter_map(|reader| reader.strip_prefix(GROUP_MARK));
    named.find(|name| groups.iter().all(|group| group.name != *name))
}

/// Deserializes the readers of a share, for serde's `deserialize_with`.
pub(super) fn readers<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let readers = Vec::deserialize(from)?;
    check_readers(&readers).map_err(serde::de::Error::custom)?;
    Ok(Some(readers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_and_nodes_and_round_trips() {
        let key = "ab".repeat(32);
        for text in [
            "office=alice bob".to_owned(),
            format!("a={key}"),
            "nobody=".to_owned(),
        ] {
            let group: Group = text.parse().unwrap();
            assert_eq!(group.to_string(), text);
        }
        let group: Group = " office =  alice   bob ".parse().unwrap();
        assert_eq!((group.name.as_str(), group.members.len()), ("office", 2));
    }

    #[test]
    fn each_invalid_form_names_the_accepted_ones() {
        let say = |text: &str| text.parse::<Group>().unwrap_err().to_string();
        for text in ["", "office", "=alice", "an office=alice"] {
            assert!(say(text).contains("NAME=NODE"), "{text}");
        }
        assert!(say("office=al/ice").contains("its key"));
        assert!(say("office=@others").contains("its key"));
        for bad in ["", "a b", "@", "a/b"] {
            assert!(check_readers(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(check_readers(&["alice".to_owned(), "@office".to_owned()]).is_ok());
    }

    #[test]
    fn a_group_stands_for_its_nodes_and_a_missing_one_for_none() {
        let groups: Vec<Group> = vec!["office=bob alice".parse().unwrap()];
        assert_eq!(readers_of(None, &groups), None);
        let list =
            |list: &[&str]| -> Vec<String> { list.iter().map(|it| (*it).to_owned()).collect() };
        let written = list(&["@office", "bob", "carol", "@gone"]);
        assert_eq!(
            readers_of(Some(&written), &groups),
            Some(list(&["alice", "bob", "carol"]))
        );
        assert_eq!(missing_group(&written, &groups), Some("gone"));
        assert_eq!(
            readers_of(Some(&[]), &groups),
            Some(list(&[])),
            "nobody, not everybody"
        );
    }
}
