//! The walls between the modules: who may import whom.
//!
//! ```text
//! main -> cli, testing -> app -> { listener, admin } -> { proxy, tcp } -> runtime -> { route, pool, filter } -> model
//!                app -> config -> { filter, tls } -> model  observe: imported by anyone, imports only model
//! tls: imported by all that is between app and model, except route
//! aside: imported by app and pool, imports nothing
//! ```

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each module may import besides itself. A module that is not here is a mistake: find it
/// its place first.
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["allocator", "cli", "app"]),
    ("allocator", &[]),
    ("cli", &["app", "config", "explain", "filter", "model", "observe"]),
    ("fuzzing", &["app", "config", "listener", "proxy", "route", "tcp", "testing"]),
    ("testing", &["app", "config", "filter", "listener", "proxy", "route", "model"]),
    (
        "app",
        &[
            "config", "listener", "admin", "explain", "proxy", "tcp", "runtime", "route", "pool",
            "filter", "tls", "model", "observe", "aside",
        ],
    ),
    (
        "explain",
        &["listener", "proxy", "runtime", "route", "pool", "filter", "tls", "model", "observe"],
    ),
    ("admin", &["explain", "runtime", "route", "pool", "filter", "tls", "model", "observe"]),
    (
        "listener",
        &["proxy", "tcp", "runtime", "route", "pool", "filter", "tls", "model", "observe"],
    ),
    ("proxy", &["runtime", "route", "pool", "filter", "tls", "model", "observe"]),
    ("tcp", &["runtime", "pool", "tls", "model", "observe"]),
    ("runtime", &["route", "pool", "filter", "tls", "model", "observe"]),
    ("route", &["model", "observe"]),
    ("pool", &["tls", "model", "observe", "aside"]),
    ("filter", &["tls", "model", "observe"]),
    ("config", &["filter", "tls", "model", "observe"]),
    ("tls", &["model", "observe"]),
    ("observe", &["model"]),
    ("model", &[]),
    ("aside", &[]),
];

#[test]
fn modules_import_only_what_lies_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in rust_files(&source) {
        let inside = file.strip_prefix(&source).unwrap();
        let place = place_of(inside);
        // The root declares the modules and exports what users of the library need.
        let Some(module) = place.first().filter(|module| *module != "lib") else { continue };
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == module) else {
            wrong.push(format!("{module} has no place among the layers"));
            continue;
        };
        for imported in imports(&fs::read_to_string(&file).unwrap(), place.len()) {
            if imported != *module && !allowed.contains(&imported.as_str()) {
                wrong.push(format!("{}: {module} imports {imported}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_none_or(|stem| stem != "tests")
        {
            files.push(path);
        }
    }
    files
}

/// The path of the module in a file: `pool/health/mod.rs` and `pool/health.rs` are both
/// `[pool, health]`.
fn place_of(file: &Path) -> Vec<String> {
    let mut place: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if place.last().is_some_and(|last| last == "mod") {
        place.pop();
    }
    place
}

/// The top-level modules that a source mentions: `crate::x`, `pingora_lb::x`, and `super::x` with
/// as many `super` as lead to the root.
///
/// Unit tests at the end of a file may reach further, and are left out.
fn imports(source: &str, depth: usize) -> BTreeSet<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let unit_tests = lines
        .windows(2)
        .position(|two| {
            two[0] == "#[cfg(test)]" && two[1].starts_with("mod ") && two[1].contains('{')
        })
        .unwrap_or(lines.len());
    let code: String = lines[..unit_tests]
        .iter()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let to_root = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for root in ["crate::", "pingora_lb::", to_root.as_str()] {
        let starts = code.match_indices(root).filter(|(at, _)| {
            // `$crate::` and `super::super::` are other paths than what they end with.
            let before = code[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'))
        });
        for (at, _) in starts {
            found.extend(first_names(code[at + root.len()..].trim_start()));
        }
    }
    // Macros and what the root exports itself are not modules.
    found.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    found
}

/// The first names of the paths in `rest`: one, or one for each part of a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut depth = 0;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "
        use crate::model::{Pool, Weight};
        use crate::{config::{a, b}, observe, App};
        use super::super::pool::Thing; // crate::commented::out
        /// crate::documented
        fn f() -> crate::route::Route { super::sibling() }
        #[cfg(test)]
        mod tests { use crate::tested; }
    ";
    let found: Vec<String> = imports(source, 2).into_iter().collect();
    assert_eq!(found, ["config", "model", "observe", "pool", "route"]);
}
