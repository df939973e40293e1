//! The first section of docs/filters.md, done as it is written: its files, its commands, what they
//! print.

use crate::support::{Program, Reserved, eventually, lb::answers};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A block of the page, with the line before it.
struct Block {
    kind: String,
    lead: String,
    text: String,
}

/// The blocks of a section.
fn blocks(page: &str, heading: &str) -> Vec<Block> {
    let section = page.split_once(heading).unwrap_or_else(|| panic!("no section {heading}")).1;
    let section = section.split("\n## ").next().unwrap();
    let (mut blocks, mut lead, mut lines) = (Vec::new(), "", section.lines());
    while let Some(line) = lines.next() {
        match line.strip_prefix("```") {
            Some(kind) => {
                let text = lines.by_ref().take_while(|line| *line != "```");
                let text = text.fold(String::new(), |text, line| text + line + "\n");
                let kind = kind.split(',').next().unwrap().to_owned();
                blocks.push(Block { kind, lead: lead.to_owned(), text });
            }
            None if !line.is_empty() => lead = line,
            None => {}
        }
    }
    blocks
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// The dependencies of this package and of its tests, each with how it is written. Of one that is in
/// both tables, the features are added up.
fn own_dependencies() -> BTreeMap<String, String> {
    let manifest = page("Cargo.toml");
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for name in ["dependencies", "dev-dependencies"] {
        let table = manifest.split_once(&format!("\n[{name}]\n")).unwrap().1;
        let lines = table.lines().take_while(|line| !line.starts_with('['));
        for (name, value) in lines.filter_map(|line| line.split_once(" = ")) {
            let value = match found.get(name) {
                Some(first) => first.replace(']', &format!(", {}]", features(value))),
                None => value.to_owned(),
            };
            found.insert(name.to_owned(), value);
        }
    }
    found
}

/// What stands in the brackets of `features = [...]`.
fn features(value: &str) -> &str {
    value.split(['[', ']']).nth(1).unwrap_or_default()
}

/// What the reader has typed so far, and where.
struct Reader {
    folder: PathBuf,
    running: Vec<Program>,
    ports: [(&'static str, Reserved); 2],
}

impl Reader {
    /// Writes a file that the page shows.
    fn write(&self, block: &Block) {
        let name = block.lead.split('`').nth(1).expect("the line before a file names it");
        let path = self.folder.join(name);
        let text = self.own_ports(&block.text);
        match name {
            "Cargo.toml" => {
                let new = fs::read_to_string(&path).unwrap();
                let checkout = text.replace("../pingora-lb", ROOT);
                let manifest = new.replace("[dependencies]\n", &checkout);
                fs::write(&path, manifest + &as_in_this_build(&text)).unwrap();
            }
            _ if block.lead.starts_with("A filter can be tested") => {
                fs::write(&path, fs::read_to_string(&path).unwrap() + "\n" + &text).unwrap();
            }
            _ => fs::write(path, text).unwrap(),
        }
    }

    /// The ports that are ours in the place of those on the page.
    fn own_ports(&self, text: &str) -> String {
        self.ports
            .iter()
            .fold(text.to_owned(), |text, (port, own)| text.replace(port, &own.port().to_string()))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let target =
            Path::new(env!("CARGO_BIN_EXE_pingora-lb")).parent().unwrap().parent().unwrap();
        command
            // A program that is ended takes no shell with it.
            .args(["-c", &format!("exec {}", self.own_ports(line))])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
            .env("XDG_RUNTIME_DIR", &self.folder)
            // What cargo tells the tests that it runs is not for the cargo that they run.
            .env_remove("CARGO_MANIFEST_DIR")
            .stdin(Stdio::null());
        command
    }

    /// Types the commands of a block, and returns what they print.
    fn run(&mut self, commands: &str) -> String {
        let mut printed = String::new();
        for line in commands.lines() {
            if let Some(folder) = line.strip_prefix("cd ") {
                self.folder.push(folder);
                fs::copy(Path::new(ROOT).join("Cargo.lock"), self.folder.join("Cargo.lock"))
                    .unwrap();
            } else if line.starts_with("cargo run -- backend") {
                self.start(line, 1);
            } else if line == "cargo run -- -c lb.yaml" {
                self.start(line, 0);
            } else {
                let output = self.command(line).output().unwrap();
                printed += &String::from_utf8_lossy(&output.stdout);
                printed += &String::from_utf8_lossy(&output.stderr);
            }
        }
        printed
    }

    /// Starts what runs in a terminal of its own, and waits until it answers on that port.
    fn start(&mut self, line: &str, port: usize) {
        let built = line.replace("cargo run --", &Self::binary().to_string_lossy());
        self.running.push(Program::spawn(&mut self.command(&built)));
        let address = self.ports[port].1.address();
        eventually(line, || answers(&address));
    }

    /// What `cargo run` runs: by itself, so that it can be ended.
    fn binary() -> PathBuf {
        Path::new(env!("CARGO_BIN_EXE_pingora-lb")).with_file_name("my-balancer")
    }
}

/// Dependencies with the features that this build has, so that little is built again. They come below
/// those of the page, which stay as they are.
fn as_in_this_build(shown: &str) -> String {
    let mut own = own_dependencies();
    own.retain(|name, _| !shown.contains(&format!("\n{name} = ")));
    own.iter().fold(String::new(), |text, (name, value)| text + name + " = " + value + "\n")
}

#[test]
fn the_page_on_filters_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut reader = Reader {
        folder: folder.path().to_owned(),
        running: Vec::new(),
        ports: [("8080", Reserved::new()), ("9001", Reserved::new())],
    };
    let mut printed = String::new();
    let blocks = blocks(&page("docs/filters.md"), "\n## In five minutes\n");
    assert!(blocks.len() > 12, "{} blocks", blocks.len());
    for block in &blocks {
        match block.kind.as_str() {
            "sh" => printed = reader.run(&block.text),
            "text" => {
                for line in block.text.lines() {
                    assert!(printed.contains(line), "{line:?} in:\n{printed}");
                }
            }
            _ => reader.write(block),
        }
    }
}

#[test]
fn the_readme_shows_the_program_of_the_page() {
    let program = |name: &str, heading: &str| {
        let mut programs = blocks(&page(name), heading);
        programs.retain(|block| block.kind == "rust");
        programs.remove(0).text
    };
    let readme = program("README.md", "\n## Extend it\n");
    assert_eq!(readme, program("docs/filters.md", "\n## In five minutes\n"));
}
