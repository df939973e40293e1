//! `pingora-lb top`, in a terminal and without one.

use super::with_admin;
use crate::support::{Load, Origin, Program, Reserved, SOON, eventually, within};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// A terminal with a program in it.
struct Terminal {
    keys: File,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn run(args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).unwrap();
        let inside =
            OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut command = Program::command(args);
        command.stdin(inside.try_clone().unwrap()).stdout(inside).stderr(Stdio::inherit());
        let child = command.env("TERM", "xterm-256color").spawn().unwrap();
        // Its handles on the inside would keep the terminal open.
        drop(command);
        let keys = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, shared) = (keys.try_clone().unwrap(), seen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                shared.lock().unwrap().extend_from_slice(&bytes[..length]);
            }
        });
        Self { keys, seen, child }
    }

    fn shows(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text)
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- the terminal\n{:?}",
                String::from_utf8_lossy(&self.seen.lock().unwrap())
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_shows_backends_drains_one_and_gives_the_terminal_back() {
    let (a, b) = (Origin::named("alpha"), Origin::named("beta"));
    let lb = with_admin(&[&a, &b], "").start();
    let admin = lb.admin().to_string();
    let mut terminal = Terminal::run(&["top", "--admin", &admin]);
    eventually("both are shown", || terminal.shows("alpha") && terminal.shows("beta"));
    assert!(terminal.shows("\x1b[?1049h") && !terminal.shows("\x1b[?1049l"));
    terminal.press("jd");
    eventually("beta is drained", || lb.backend("beta")["state"] == "draining");
    assert_eq!(lb.backend("alpha")["state"], "active");
    eventually("it is shown", || terminal.shows("draining"));
    terminal.press("e");
    eventually("beta is enabled", || lb.backend("beta")["state"] == "active");
    // An instance that goes away is said, and is no end.
    drop(lb);
    // Only what differs from the line before is written; that was shorter than where this word is.
    eventually("it is said", || terminal.shows("refused"));
    terminal.press("q");
    let mut status = None;
    assert!(within(SOON, || {
        status = terminal.child.try_wait().unwrap();
        status.is_some()
    }));
    assert_eq!(status.unwrap().code(), Some(0));
    eventually("the screen is left", || terminal.shows("\x1b[?1049l"));
}

#[test]
fn without_a_terminal_it_is_one_table() {
    let (a, b) = (Origin::named("alpha"), Origin::named("beta"));
    let lb = with_admin(&[&a, &b], "").start();
    let load = Load::start(&lb.web(), 1, "/");
    let (code, stdout, stderr) = Program::run(["top", "--admin", &lb.admin().to_string()]);
    load.stop();
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[1].starts_with("BACKEND") && lines[2].starts_with("app (round_robin)  2 usable"));
    for (line, name) in lines[3..].iter().zip(["alpha", "beta"]) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!((words[0], words[1], words[2]), (name, "active", "healthy"), "{stdout}");
        assert!(words[4].parse::<f64>().unwrap() > 0.0, "{stdout}");
    }
}

#[test]
fn an_instance_that_is_not_there_is_said() {
    let nobody = Reserved::new().address().to_string();
    let (code, stdout, stderr) = Program::run(["top", "--admin", &nobody]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with(&format!("the admin API at {nobody}: cannot connect")), "{stderr}");
    assert_eq!(Program::run(["top", "--admin", "9901"]).0, 2);
}
