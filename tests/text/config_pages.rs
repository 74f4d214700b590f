//! The settings of p2pfs.toml(5) and the whole of `packaging/p2pfs.toml` are generated from the
//! declarations in `src/daemon/config`.

use std::fmt::Write as _;

use p2pfs::daemon::config::{Config, SECTIONS, SETTINGS, Section, Setting, SettingKind};

use crate::generated::{assert_generated, between};
use crate::roff::{heading, paragraphs, set};

/// The manual page of the settings.
const PAGE: &str = "man/p2pfs.toml.5";
/// The first release. Only settings of later releases name their release.
const FIRST_RELEASE: &str = "0.1.0";
/// Maximum length of a comment line in the commented file, in bytes.
const COMMENT_MAX_BYTES: usize = 98;
/// The beginning of the commented file.
const COMMENTED_HEAD: &str = "\
# p2pfs.toml: the configuration of p2pfs, see p2pfs.toml(5).
#
# Every line that is commented out shows the default. Durations and sizes need units: 10s, 500ms,
# 2m; 20GiB, 10MB. An unknown key prevents the start. To check this file:
#     p2pfs daemon --check-config
# To make the running daemon read it again: systemctl reload p2pfs
";

/// Returns the default as a file has it, if the setting has one.
fn default_value(setting: &Setting) -> Option<toml::Value> {
    let mut config = Config::default();
    config.share.push(p2pfs::daemon::config::ShareSettings::new(
        "/srv/share".into(),
    ));
    let table = config.to_table();
    match setting.key.split_once('.') {
        Some(("share", key)) => table["share"][0].get(key).cloned(),
        _ => setting.of(&table).cloned(),
    }
}

/// Returns the default in words.
fn default_text(setting: &Setting) -> String {
    if !setting.default.is_empty() {
        return setting.default.to_owned();
    }
    let Some(value) = default_value(setting) else {
        return "none".to_owned();
    };
    let names = value.as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(toml::Value::as_str).collect();
    match (&value, &names[..]) {
        (toml::Value::Array(_), []) => "none".to_owned(),
        (toml::Value::Array(_), [first]) => (*first).to_owned(),
        (toml::Value::Array(_), [first @ .., last]) => {
            format!("{} and {last}", first.join(", ")).replace('-', "\\-")
        }
        (value, _) => value.to_string(),
    }
}

/// Returns the entry of a setting in the manual.
fn entry(setting: &Setting) -> String {
    let mut paragraphs = paragraphs(setting.about);
    let first = paragraphs.remove(0);
    let mut text = first;
    if setting.key != "share.dir" && !text.contains("By default") {
        write!(text, " By default {}.", default_text(setting)).unwrap();
    }
    for paragraph in paragraphs {
        write!(text, " {paragraph}").unwrap();
    }
    if setting.since != FIRST_RELEASE {
        write!(text, " Since p2pfs {}.", setting.since).unwrap();
    }
    heading(&[setting.name()]) + &set(&text)
}

/// Returns the settings of the manual, section by section.
fn sections_of_the_manual() -> String {
    let mut roff = String::new();
    for section in SECTIONS {
        match title(&section) {
            None => roff.push_str(".SH KEYS ABOVE THE FIRST SECTION\n"),
            Some(title) => writeln!(roff, ".SH \"{title}\"").unwrap(),
        }
        for paragraph in paragraphs(section.about).iter().skip(1) {
            roff.push_str(&set(paragraph));
        }
        section
            .settings
            .iter()
            .for_each(|setting| roff.push_str(&entry(setting)));
    }
    roff
}

/// Returns the heading of a section in the file.
fn title(section: &Section) -> Option<String> {
    match section.name {
        "" => None,
        "share" => Some("[[share]]".to_owned()),
        name => Some(format!("[{name}]")),
    }
}

/// Returns the settings that a reload applies, as a part of a sentence.
fn live_settings() -> String {
    let mut parts = Vec::new();
    for section in SECTIONS.iter().filter(|section| section.name != "share") {
        let live = section.settings.iter().filter(|setting| setting.is_live);
        let names: Vec<String> = live.map(|it| format!("`{}`", it.name())).collect();
        match (&names[..], section.name) {
            ([], _) => {}
            (names, "") => parts.push(names.join(", ")),
            ([name], section) => parts.push(format!("{name} of `[{section}]`")),
            ([names @ .., last], section) => {
                parts.push(format!("{} and {last} of `[{section}]`", names.join(", ")));
            }
        }
    }
    set(&format!(
        "The running daemon applies {}, and shares.",
        parts.join(", ")
    ))
}

fn variables() -> String {
    let mut roff = String::new();
    for setting in SETTINGS.iter() {
        writeln!(roff, "{}", setting.variable()).unwrap();
    }
    roff
}

/// Returns the manual page of the settings as the source generates it. The other parts of the page
/// are compiled in, so that no test reads the file while another one writes it.
pub(crate) fn settings_page() -> String {
    let page = include_str!("../../man/p2pfs.toml.5");
    let page = between(page, ("\n.SH KEYS ABOVE", "\n.SH RELOADING"), &{
        let sections = sections_of_the_manual();
        format!("\n{}", sections.trim_end())
    });
    let page = between(
        &page,
        (
            "\nThe running daemon applies",
            "\nA change of any other key",
        ),
        &format!("\n{}", live_settings().trim_end()),
    );
    between(
        &page,
        ("\nP2PFS_NAME\n", ".RE\n"),
        &format!("\n{}", variables()),
    )
}

#[test]
fn manual_describes_the_settings_of_the_source() {
    assert_generated(PAGE, &settings_page());
}

/// Formats a text as comment lines, without Markdown.
pub(crate) fn comment(text: &str) -> String {
    let text = text.replace("_`", "").replace("`_", "").replace('`', "");
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        if length == 0 || length + 1 + word.len() > COMMENT_MAX_BYTES {
            let end = if length == 0 { "" } else { "\n" };
            write!(lines, "{end}# {word}").unwrap();
            length = 2 + word.len();
        } else {
            write!(lines, " {word}").unwrap();
            length += 1 + word.len();
        }
    }
    lines + "\n"
}

/// Returns the lines of a setting in the commented file.
fn commented(setting: &Setting) -> String {
    let mut text = paragraphs(setting.about).remove(0);
    let default = setting.default;
    if !default.is_empty() && setting.kind != SettingKind::Path {
        write!(text, " By default {default}.").unwrap();
    }
    let value = match setting.shown {
        "" => default_value(setting)
            .expect("a default or a value to show")
            .to_string(),
        shown => shown.to_owned(),
    };
    format!("{}#{} = {value}\n", comment(&text), setting.name())
}

fn commented_file() -> String {
    let mut file = COMMENTED_HEAD.to_owned();
    for section in SECTIONS {
        file.push('\n');
        if let Some(title) = title(&section) {
            for paragraph in paragraphs(section.about).iter().skip(1) {
                file.push_str(&comment(paragraph));
            }
            // A share needs its folder, so its heading is a comment too.
            let mark = if section.name == "share" { "#" } else { "" };
            writeln!(file, "{mark}{title}").unwrap();
        }
        section
            .settings
            .iter()
            .for_each(|setting| file.push_str(&commented(setting)));
    }
    file
}

#[test]
fn commented_file_has_the_settings_of_the_source() {
    assert_generated("packaging/p2pfs.toml", &commented_file());
}

#[test]
fn commented_file_names_every_setting_with_its_default() {
    let commented = commented_file();
    let untouched: Config = toml::from_str(&commented).unwrap();
    assert_eq!(untouched, Config::default());
    let uncommented: String = commented
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all: Config = toml::from_str(&uncommented).unwrap();
    assert_eq!(all.share.len(), 1);
    let all: toml::Table = toml::from_str(&uncommented).unwrap();
    for setting in SETTINGS.iter() {
        let found = match setting.section() {
            "share" => all["share"][0].get(setting.name()),
            _ => setting.of(&all),
        };
        let key = setting.key;
        let found = found.unwrap_or_else(|| panic!("{key} is missing"));
        match setting.shown {
            "" => assert_eq!(Some(found.clone()), default_value(setting), "{key}"),
            shown => assert_eq!(found.to_string(), shown, "{key}"),
        }
    }
}
