use crate::config::{
    access_log, action, admin, backend, balance, document, ejection, health_check, listener, load,
    matches, pool, reader::Keys, retry, route, server, sticky, tls, tree,
};
use crate::filter::Registry;
use std::{fs, path::PathBuf};

/// Every section with its keys.
const SECTIONS: [&Keys; 30] = [
    &document::KEYS,
    &server::KEYS,
    &admin::KEYS,
    &access_log::KEYS,
    &listener::KEYS,
    &listener::TIMEOUTS,
    &listener::LIMITS,
    &tls::LISTENER,
    &tls::CERTIFICATE,
    &route::KEYS,
    &matches::KEYS,
    &matches::VALUE,
    &matches::QUERY_VALUE,
    &action::REDIRECT,
    &action::RESPOND,
    &pool::KEYS,
    &pool::TIMEOUTS,
    &pool::LIMITS,
    &tls::POOL,
    &backend::KEYS,
    &balance::KEYS,
    &balance::HASH_ON,
    &sticky::KEYS,
    &ejection::KEYS,
    &retry::KEYS,
    &retry::BACKOFF,
    &retry::BUDGET,
    &health_check::KEYS,
    &health_check::HTTP,
    &health_check::TCP,
];

fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The paths of all keys in `node`, with `*` for names and indexes as in [`Keys::section`].
fn key_paths(node: &tree::Node, section: &str, found: &mut Vec<String>) {
    match &node.value {
        tree::Value::Map(entries) => {
            let known = SECTIONS.iter().any(|keys| keys.section == section);
            for entry in entries {
                let key = if known { entry.key.as_str() } else { "*" };
                let separator = if section.is_empty() { "" } else { "." };
                let path = format!("{section}{separator}{key}");
                key_paths(&entry.node, &path, found);
                found.push(path);
            }
        }
        tree::Value::List(items) => {
            for item in items {
                key_paths(item, &format!("{section}[*]"), found);
            }
        }
        tree::Value::Null | tree::Value::Scalar(_) => {}
    }
}

#[test]
fn shipped_files_have_no_errors_and_no_warnings() {
    for file in ["conf/lb.yaml", "conf/full.yaml"] {
        let checked =
            load(&shipped(file), &Registry::default()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(checked.warnings, [], "{file}");
    }
}

#[test]
fn the_full_example_has_every_key() {
    let text = fs::read_to_string(shipped("conf/full.yaml")).unwrap();
    let mut found = Vec::new();
    key_paths(&tree::parse(&text).unwrap(), "", &mut found);
    for keys in SECTIONS {
        for name in keys.names {
            let separator = if keys.section.is_empty() { "" } else { "." };
            let path = format!("{}{separator}{name}", keys.section);
            assert!(found.contains(&path), "{path} is not in conf/full.yaml");
        }
    }
}

#[test]
fn the_reference_explains_every_key() {
    let text = fs::read_to_string(shipped("docs/configuration.md")).unwrap();
    for keys in SECTIONS {
        for name in keys.names {
            let code = format!("`{name}`");
            assert!(text.contains(&code), "{code} of {} is not in the reference", keys.section);
        }
    }
}

/// Each `yaml` block of the reference is a file of its own, or completed by the smallest one.
#[test]
fn the_examples_of_the_reference_are_valid() {
    let text = fs::read_to_string(shipped("docs/configuration.md")).unwrap();
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 5, "found {} examples", blocks.len());
    for block in blocks {
        let mut file = block.to_owned();
        for (key, rest) in [("listeners:", super::LISTENERS), ("pools:", super::POOLS)] {
            if !file.lines().any(|line| line.starts_with(key)) {
                file.push_str(rest);
            }
        }
        super::parse_shipped(&file).unwrap_or_else(|errors| panic!("{file}\n{errors}"));
    }
}
