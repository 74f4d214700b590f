//! Tour: commands that a user would type, their results, and checks of these results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::DemoError;
use super::files::{FILM, FILM_BYTES, FILM_OWNER};
use super::nodes::{DemoCluster, DemoNode, run, run_json};
use super::typed::typed_on_lines;

/// The file that the tour writes into a mount.
const LETTER: &str = "Written into the mount of the first node.\n";

/// Tour of a running cluster.
pub struct Tour<'a> {
    cluster: &'a mut DemoCluster,
}

/// Measurement of a read of the large file.
struct Reading {
    seconds: f64,
    received_bytes: u64,
}

impl<'a> Tour<'a> {
    /// Creates a tour of the cluster.
    pub fn new(cluster: &'a mut DemoCluster) -> Self {
        Self { cluster }
    }

    /// Shows all steps in order and ends at the first wrong result.
    ///
    /// # Errors
    /// [`DemoError::Broken`] for a wrong result, [`DemoError::Command`] for a failed command,
    /// [`DemoError::Folder`] for an unreadable file, [`DemoError::Output`], and
    /// [`DemoError::Interrupted`].
    pub fn walk(&mut self) -> Result<(), DemoError> {
        self.show_union()?;
        let copy = self.cluster.folder.join("copy-of-the-film");
        let cold = self.show_copy(&copy)?;
        let warm = self.show_cached_read(&copy)?;
        if warm.received_bytes != 0 || cold.received_bytes < FILM_BYTES as u64 {
            let what = format!(
                "the copy took {} bytes from other nodes and the second read {}",
                cold.received_bytes, warm.received_bytes
            );
            return Err(DemoError::Broken { what });
        }
        self.show_provenance()?;
        self.show_writing()
    }

    fn first(&self) -> &DemoNode {
        &self.cluster.nodes[0]
    }

    /// Shows that every mount has the files of all nodes.
    fn show_union(&self) -> Result<(), DemoError> {
        headline("one folder, the files of all nodes")?;
        let mut union = Vec::new();
        for node in &self.cluster.nodes {
            union.extend(files_below(&node.share()));
        }
        union.sort();
        for node in &self.cluster.nodes {
            for file in &union {
                let file = file.to_string_lossy();
                run(&mut node.command(&["wait", "--file", &file, "--timeout", "30s"])?)?;
            }
            let listed = files_below(&node.mount());
            if listed != union {
                let what = format!("{} lists {listed:?}, not {union:?}", node.name);
                return Err(DemoError::Broken { what });
            }
        }
        let mut list = Command::new("ls");
        list.arg("-lR").arg(self.first().mount());
        let output = show(&mut list)?;
        print_indented(&String::from_utf8_lossy(&output))?;
        say!(
            "  the same {} files on all {} mounts",
            union.len(),
            self.cluster.nodes.len()
        )?;
        Ok(())
    }

    /// Copies a file of another node and compares it with its source.
    fn show_copy(&self, copy: &Path) -> Result<Reading, DemoError> {
        headline("copying what another node has")?;
        let mut cp = Command::new("cp");
        cp.arg(self.first().mount().join(FILM)).arg(copy);
        let reading = self.timed(&mut cp)?;
        let owner = &self.cluster.nodes[FILM_OWNER];
        if !is_equal(copy, &owner.share().join(FILM))? {
            return Err(DemoError::Broken {
                what: "the copy differs from its source".into(),
            });
        }
        print_rate(&reading)?;
        for peer in self.serving_peers()? {
            say!("  {peer}")?;
        }
        say!("  equal to the original, every byte verified on the way")?;
        Ok(reading)
    }

    fn serving_peers(&self) -> Result<Vec<String>, DemoError> {
        let peers = run_json(&mut self.first().command(&["peers", "--json"])?)?;
        let served = |peer: &serde_json::Value| {
            let bytes = peer["received_bytes"].as_u64()?;
            let name = peer["name"].as_str()?;
            (bytes > 0).then(|| format!("{name} served {:.1} MiB", mebibytes(bytes)))
        };
        let lines: Vec<String> = peers["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(served)
            .collect();
        if lines.is_empty() {
            return Err(DemoError::Broken {
                what: "no peer served anything".into(),
            });
        }
        Ok(lines)
    }

    /// Reads the same file again, from the local cache.
    fn show_cached_read(&self, copy: &Path) -> Result<Reading, DemoError> {
        headline("reading it again")?;
        let mut compare = Command::new("cmp");
        compare.arg(self.first().mount().join(FILM)).arg(copy);
        let reading = self.timed(&mut compare)?;
        print_rate(&reading)?;
        say!("  from the local cache: nothing crossed the network")?;
        Ok(reading)
    }

    /// Shows the holders of the file and why the name shows it.
    fn show_provenance(&self) -> Result<(), DemoError> {
        headline("where it comes from")?;
        let why = run_json(&mut self.first().command(&["why", FILM, "--json"])?)?;
        let owner = &self.cluster.nodes[FILM_OWNER];
        let expected = hash_of(&owner.share().join(FILM))?;
        let version = &why["versions"][0];
        let holders = version["holders"].to_string();
        if version["hash"].as_str() != Some(&expected) || !holders.contains(&owner.name) {
            return Err(DemoError::Broken {
                what: format!("why says {why}"),
            });
        }
        let output = show(&mut self.first().command(&["why", FILM])?)?;
        print_indented(&String::from_utf8_lossy(&output))?;
        Ok(())
    }

    /// Writes a file into one mount and reads it in another.
    fn show_writing(&self) -> Result<(), DemoError> {
        headline("writing into the folder")?;
        let letter = self.cluster.folder.join("letter.txt");
        write(&letter, LETTER)?;
        let [first, .., last] = &self.cluster.nodes[..] else {
            unreachable!("a demo has at least two nodes");
        };
        show(Command::new("cp").arg(&letter).arg(first.mount()))?;
        let wait = ["wait", "--file", "letter.txt", "--timeout", "30s"];
        run(&mut last.command(&wait)?)?;
        let read = show(Command::new("cat").arg(last.mount().join("letter.txt")))?;
        print_indented(&String::from_utf8_lossy(&read))?;
        if read != LETTER.as_bytes() {
            return Err(DemoError::Broken {
                what: format!("{} reads other bytes than were written", last.name),
            });
        }
        say!("  its bytes are on the disk of {}:", first.name)?;
        let said = show(&mut first.command(&["write"])?)?;
        print_indented(&String::from_utf8_lossy(&said))
    }

    /// Runs a command, and measures its time and the bytes that the first node receives meanwhile.
    fn timed(&self, command: &mut Command) -> Result<Reading, DemoError> {
        let before = self.received_bytes()?;
        let start = Instant::now();
        show(command)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Reading {
            seconds,
            received_bytes: self.received_bytes()? - before,
        })
    }

    fn received_bytes(&self) -> Result<u64, DemoError> {
        let status = run_json(&mut self.first().command(&["status", "--json"])?)?;
        Ok(status["traffic"]["received_bytes"]
            .as_u64()
            .unwrap_or_default())
    }
}

fn headline(text: &str) -> Result<(), DemoError> {
    say!("\n{text}")
}

/// Prints a command as typed, runs it and returns its output.
fn show(command: &mut Command) -> Result<Vec<u8>, DemoError> {
    say!("  $ {}", typed_on_lines(command))?;
    Ok(run(command)?.stdout)
}

fn print_indented(text: &str) -> Result<(), DemoError> {
    text.lines().try_for_each(|line| say!("    {line}"))
}

fn print_rate(reading: &Reading) -> Result<(), DemoError> {
    let rate = mebibytes(FILM_BYTES as u64) / reading.seconds.max(1e-9);
    say!("  {:.2} s, {rate:.0} MiB/s", reading.seconds)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => files.extend(entry.path().strip_prefix(dir).map(Path::to_owned)),
                Err(_) => {}
            }
        }
    }
    files.sort();
    files
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::write(path, text).map_err(|source| DemoError::Folder {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn hash_of(path: &Path) -> Result<String, DemoError> {
    let mut hasher = blake3::Hasher::new();
    fs::File::open(path)
        .and_then(|mut file| std::io::copy(&mut file, &mut hasher))
        .map_err(|source| DemoError::Folder {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn is_equal(one: &Path, other: &Path) -> Result<bool, DemoError> {
    Ok(hash_of(one)? == hash_of(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_reported_as_such() {
        let error = hash_of(Path::new("/nonexistent/film")).unwrap_err();
        let shown = error.to_string();
        assert!(
            shown.starts_with("cannot read /nonexistent/film: "),
            "{shown}"
        );
    }
}
