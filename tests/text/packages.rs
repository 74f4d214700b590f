//! The two lists of files that a package installs: they name the same files and are complete.

use std::collections::BTreeMap;
use std::path::Path;

/// Each file with its mode and the number of its entries.
type Assets = BTreeMap<String, (String, usize)>;

fn assets(packager: &str, of: impl Fn(&toml::Value) -> (String, String)) -> Assets {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let listed = &manifest["package"]["metadata"][packager]["assets"];
    let mut assets = Assets::new();
    for asset in listed.as_array().unwrap() {
        let (source, mode) = of(asset);
        let entry = assets.entry(source).or_insert((mode.clone(), 0));
        assert_eq!(entry.0, mode);
        entry.1 += 1;
    }
    assets
}

fn text(value: &toml::Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn both_packages_install_the_same_files_with_the_same_modes() {
    let debian = assets("deb", |asset| (text(&asset[0]), text(&asset[2])));
    let rpm = assets("generate-rpm", |asset| {
        (text(&asset["source"]), text(&asset["mode"]))
    });
    let modes = |assets: &Assets| -> BTreeMap<String, String> {
        let each = assets.iter();
        each.map(|(source, (mode, _))| (source.clone(), mode.clone()))
            .collect()
    };
    assert_eq!(modes(&debian), modes(&rpm));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = |source: &str| source.starts_with("target/release/");
    for source in debian.keys().filter(|source| !built(source)) {
        assert!(root.join(source).is_file(), "{source} is not there");
    }
    for folder in [
        "packaging",
        "packaging/completions",
        "packaging/grafana",
        "packaging/user",
        "man",
    ] {
        for file in root.join(folder).read_dir().unwrap() {
            let file = file.unwrap();
            let name = format!("{folder}/{}", file.file_name().display());
            let is_dir = file.file_type().unwrap().is_dir();
            assert!(
                is_dir || debian.contains_key(&name),
                "{name} is in no package"
            );
        }
    }
}

#[test]
fn files_that_the_manual_places_in_usr_are_in_the_packages() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let listed = manifest["package"]["metadata"]["deb"]["assets"].as_array();
    let installed = listed.unwrap().iter().map(|asset| {
        let (source, place) = (text(&asset[0]), text(&asset[1]));
        let name = Path::new(&source).file_name().unwrap();
        if place.ends_with('/') {
            Path::new("/").join(place).join(name)
        } else {
            Path::new("/").join(place)
        }
    });
    let installed: Vec<_> = installed.collect();
    let is_place = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    for page in Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("man")
        .read_dir()
        .unwrap()
    {
        let manual = std::fs::read_to_string(page.unwrap().path()).unwrap();
        let manual = manual.replace("\\-", "-");
        let words = manual.split(|letter| !is_place(letter));
        let named = words.filter(|word| word.starts_with("/usr/") && word.contains("p2pfs"));
        for place in named.map(|place| Path::new(place.trim_end_matches('.'))) {
            let is_there = installed.iter().any(|file| file.starts_with(place));
            assert!(is_there, "{} is in no package", place.display());
        }
    }
}

#[test]
fn both_units_of_the_daemon_bound_its_memory() {
    let units = [
        include_str!("../../packaging/p2pfs.service"),
        include_str!("../../packaging/user/p2pfs.service"),
    ];
    for unit in units {
        let percent = |setting: &str| {
            let mut lines = unit.lines().filter_map(|line| line.strip_prefix(setting));
            let value = lines.next().and_then(|it| it.strip_suffix('%'));
            let value = value.and_then(|it| it.parse::<u32>().ok());
            value.unwrap_or_else(|| panic!("{setting} is no percentage:\n{unit}"))
        };
        let (high, most) = (percent("MemoryHigh="), percent("MemoryMax="));
        assert!(0 < high && high < most && most < 100, "{high} {most}");
    }
}
