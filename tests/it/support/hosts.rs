//! The balancer with a file of its own in the place of `/etc/hosts`.

use super::{Files, Lb, Program, eventually, lb::answers};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::process::Command;

/// The file's name, beside the configuration.
pub const HOSTS: &str = "hosts";

impl Files {
    /// Runs the balancer with the file `hosts` beside the configuration in the place of `/etc/hosts`, until
    /// it serves; `None`, which is said, where this user may not have that.
    pub fn start_with_hosts(self, test: &str) -> Option<Lb> {
        let own = ["--map-root-user", "--mount", "--"];
        let may = Command::new("unshare").args(own).arg("true").status();
        if !may.is_ok_and(|status| status.success()) {
            eprintln!("NOT CHECKED: {test}: this user may not unshare(1) what is mounted");
            return None;
        }
        let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let balancer = Program::command(["-c".as_ref(), self.path().as_os_str()]);
        let mut command = Command::new("unshare");
        command.args(own).args(["sh", "-c", script, "sh"]).arg(self.directory().join(HOSTS));
        command.arg(balancer.get_program()).args(balancer.get_args());
        let lb = Lb { program: Program::spawn(&mut command), files: self };
        eventually("it serves", || answers(&lb.web()));
        Some(lb)
    }

    /// Makes that file one that a lookup of any name waits on for ever.
    pub fn have_lookups_hang(&self) {
        let path = self.directory().join(HOSTS);
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
}
