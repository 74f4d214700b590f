//! The description of one setting, and the list of all settings.
//!
//! A section of the file is one invocation of [`settings!`] in `sections`: a struct whose fields
//! have a default and a [`Setting`]. The fields parse the file (serde). The descriptions give the
//! environment variables, `p2pfs config show`, p2pfs.toml(5) and `packaging/p2pfs.toml`.

use std::sync::LazyLock;

use super::settings::SECTIONS;

/// The format of a value. It decides how the environment variable is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// A text.
    Text,
    /// A text with a size: `"10GiB"`.
    Size,
    /// A text with a duration: `"10s"`.
    Duration,
    /// A text with a size per second, or `"none"`.
    Rate,
    /// A path; in a variable, a relative path is resolved against the working directory.
    Path,
    /// A list of texts; in a variable, separated by commas.
    List,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file, with its section: `cache.size`.
    pub key: &'static str,
    /// The format of its value.
    pub kind: SettingKind,
    /// The lines of its documentation, in Markdown. The first paragraph is the comment in
    /// `packaging/p2pfs.toml`; the whole text is the entry in p2pfs.toml(5).
    pub about: &'static [&'static str],
    /// The default in words, if the value in `Config::default` does not say it.
    pub default: &'static str,
    /// The value in the commented file, as TOML, if there is no default value.
    pub shown: &'static str,
    /// A valid value that is not the default, as in the environment.
    pub example: &'static str,
    /// A value out of range, as in the environment; empty if each value of its kind is valid.
    pub refused: &'static str,
    /// Whether a reload applies it to the running daemon.
    pub is_live: bool,
    /// The release that introduced it; a later one is written
    /// `Setting { since: "0.2.0", ..Setting::new(…) }`.
    pub since: &'static str,
}

/// One section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its name; empty for the keys above the first section.
    pub name: &'static str,
    /// The lines of its documentation, in Markdown. The first paragraph is for readers of the
    /// source; the others introduce the section in p2pfs.toml(5).
    pub about: &'static [&'static str],
    /// Its settings, in the order of the file.
    pub settings: &'static [Setting],
}

/// All settings, in the order of the file.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let settings = SECTIONS.iter().flat_map(|section| section.settings);
    settings.copied().collect()
});

impl Setting {
    /// Describes a setting that a reload does not apply.
    pub(super) const fn new(key: &'static str, kind: SettingKind, example: &'static str) -> Self {
        Self {
            key,
            kind,
            about: &[],
            default: "",
            shown: "",
            example,
            refused: "",
            is_live: false,
            since: "0.1.0",
        }
    }

    /// Adds a value that is out of range.
    pub(super) const fn refuses(self, refused: &'static str) -> Self {
        Self { refused, ..self }
    }

    /// States the default in words.
    pub(super) const fn by_default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// Sets the value in the commented file.
    pub(super) const fn shown_as(self, shown: &'static str) -> Self {
        Self { shown, ..self }
    }

    /// Marks the setting as one that a reload applies.
    pub(super) const fn live(self) -> Self {
        Self {
            is_live: true,
            ..self
        }
    }

    /// Adds the documentation of the field.
    pub(super) const fn with_about(self, about: &'static [&'static str]) -> Self {
        Self { about, ..self }
    }

    /// Returns the name of its environment variable: `cache.size` is `P2PFS_CACHE_SIZE`.
    pub fn variable(&self) -> String {
        format!("P2PFS_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// Returns the section of the file; empty for a key above the first section.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// Returns the key within its section.
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// Returns the value of the setting in a configuration as TOML.
    pub fn of<'a>(&self, table: &'a toml::Table) -> Option<&'a toml::Value> {
        match self.key.split_once('.') {
            None => table.get(self.key),
            Some((section, key)) => table.get(section)?.get(key),
        }
    }
}

/// Declares a section: the struct, its defaults (`Default`), and its descriptions (`SECTION`).
///
/// Each field is written `pub NAME: TYPE = DEFAULT, SETTING;`, below its documentation and its
/// attributes for serde. The macro copies the struct, and passes the documentation on as text.
macro_rules! settings {
    (
        $(#[doc = $section_doc:literal])* $(#[serde $container:tt])*
        pub struct $Section:ident in $name:literal {
            $(
                $(#[doc = $doc:literal])* $(#[serde $serde:tt])*
                pub $field:ident: $Type:ty = $default:expr, $setting:expr;
            )*
        }
        $(sections { $($(#[doc = $inner_doc:literal])* pub $inner:ident: $Inner:ty,)* })?
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $(#[serde $container])*
        pub struct $Section {
            $( $(#[doc = $doc])* $(#[serde $serde])* pub $field: $Type, )*
            $($( $(#[doc = $inner_doc])* pub $inner: $Inner, )*)?
        }

        impl Default for $Section {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $($( $inner: <$Inner>::default(), )*)?
                }
            }
        }

        impl $Section {
            /// The descriptions of the section and its settings.
            pub(in crate::daemon::config) const SECTION: $crate::daemon::config::Section =
                $crate::daemon::config::Section {
                    name: $name,
                    about: &[$($section_doc),*],
                    settings: &[$( $setting.with_about(&[$($doc),*]) ),*],
                };
        }
    };
}
pub(super) use settings;
