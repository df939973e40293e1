//! `server.watch`: files that change are a reload.

use crate::support::{Config, Lb, Origin, eventually, lb::server};
use std::{fs, os::unix::fs::symlink};

/// A configuration that answers with `body`, and with the error page `page.html` elsewhere.
fn text(body: &str) -> String {
    format!(
        "routes:\n\
         \x20 - {{ match: {{ path: /body }}, respond: {{ status: 200, body: {body} }} }}\n\
         \x20 - {{ match: {{ path: /page }}, filters: [error_pages: {{ \"418\": page.html }}], respond: {{ status: 418 }} }}\n\
         \x20 - {{ pool: app }}\n\
         pools: {{ app: {{ backends: [127.0.0.1:1], health_check: off }} }}\n"
    )
}

fn watching() -> Config {
    Config::new(text("one")).and(&server("watch: true")).file("page.html", "first page")
}

/// What is written in the place of the file that `lb` was started with.
fn other(lb: &Lb, body: &str) -> String {
    lb.read("lb.yaml").replace("body: one", &format!("body: {body}"))
}

fn body(lb: &Lb, path: &str) -> String {
    lb.get(path).text()
}

#[test]
fn a_file_that_is_written_or_renamed_into_place_is_read() {
    let lb = watching().start();
    let (two, three) = (other(&lb, "two"), other(&lb, "three"));
    fs::write(lb.path(), two).unwrap();
    eventually("what was written is in force", || body(&lb, "/body") == "two");
    let new = lb.directory().join(".lb.yaml.swp");
    fs::write(&new, three).unwrap();
    fs::rename(new, lb.path()).unwrap();
    eventually("what was renamed is in force", || body(&lb, "/body") == "three");
    lb.wait_for_line("reloaded with 1 changes");
}

#[test]
fn a_file_that_the_configuration_names_is_read_too() {
    let lb = watching().start();
    assert_eq!(body(&lb, "/page"), "first page");
    fs::write(lb.directory().join("page.html"), "second page").unwrap();
    eventually("the page is the new one", || body(&lb, "/page") == "second page");
}

/// As Kubernetes does it: the file is a link to one in `..data`, itself a link to a folder, which is
/// turned to another in one step.
#[test]
fn a_link_that_is_turned_to_another_folder_is_followed() {
    let lb = watching().start();
    let folder = lb.directory().to_owned();
    let (one, two, three) = (lb.read("lb.yaml"), other(&lb, "two"), other(&lb, "three"));
    let turn = |name: &str, text: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("lb.yaml"), text).unwrap();
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    turn("..1", &one);
    symlink("..data/lb.yaml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), lb.path()).unwrap();
    turn("..2", &two);
    eventually("the second folder is in force", || body(&lb, "/body") == "two");
    turn("..3", &three);
    eventually("the third folder is in force", || body(&lb, "/body") == "three");
}

#[test]
fn a_bad_file_is_told_once_and_changes_nothing_until_it_is_mended() {
    let lb = watching().start();
    let two = other(&lb, "two");
    fs::write(lb.path(), &two[..two.len() / 2]).unwrap();
    lb.wait_for_line("not reloaded: ");
    assert_eq!(body(&lb, "/body"), "one");
    // A page that is named before it is there.
    fs::write(lb.path(), two.replace("page.html", "later.html")).unwrap();
    lb.wait_for_line("later.html");
    assert_eq!((body(&lb, "/body").as_str(), lb.lines_with("cannot read")), ("one", 1));
    fs::write(lb.directory().join("later.html"), "late page").unwrap();
    eventually("the file is mended by the page", || body(&lb, "/body") == "two");
    assert_eq!(body(&lb, "/page"), "late page");
    assert_eq!(lb.lines_with("cannot read"), 1, "it is told more than once");
}

#[test]
fn what_cannot_change_while_it_runs_is_told_once() {
    let lb = watching().start();
    let changed = other(&lb, "two").replace("threads: 2", "threads: 3");
    fs::write(lb.path(), changed).unwrap();
    lb.wait_for_line("server.threads cannot change while it runs");
    // A later change is looked at again.
    fs::write(lb.path(), other(&lb, "two").replace("threads: 3", "threads: 2")).unwrap();
    eventually("the file is in force", || body(&lb, "/body") == "two");
    assert_eq!(lb.lines_with("cannot change while it runs"), 1);
}

#[test]
fn without_watch_only_a_signal_reloads() {
    let origin = Origin::named("a");
    let watching = watching().start();
    let lb = Config::new(text("one")).file("page.html", "first page").start();
    for lb in [&lb, &watching] {
        fs::write(lb.path(), other(lb, "two")).unwrap();
    }
    // The other one has seen its change by now.
    eventually("the one that watches has the change", || body(&watching, "/body") == "two");
    assert_eq!((body(&lb, "/body").as_str(), origin.count()), ("one", 0));
}
