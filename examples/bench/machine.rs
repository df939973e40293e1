//! What all rows share: processors, files, origins.

use crate::{
    Outcome,
    measuring::processes::Cores,
    origins::{self, Origins},
    proxies::Contender,
    rows::{Front, Row},
};
use std::{fs, path::PathBuf, process::Command};
use tempfile::TempDir;

/// Prepared for measuring.
pub(crate) struct Machine {
    folder: TempDir,
    /// All processors there are for us.
    pub(crate) all: Cores,
    pub(crate) origins: Origins,
    /// The certificate that listeners show, for clients to trust.
    pub(crate) certificate: String,
    /// Whether our build serves HTTP/2 inside of TLS; if not, its rows are in clear text, for all.
    pub(crate) h2_over_tls: bool,
}

impl Machine {
    /// From here on this thread, and what it starts, leaves the first processor to the proxies.
    pub(crate) fn prepare(ours: &Contender) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let all = Cores::ours()?;
        all.split(1).1.take()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.path().join("cert.pem"), &certificate)?;
        fs::write(folder.path().join("key.pem"), &key)?;
        // HAProxy wants them in one file.
        fs::write(folder.path().join("both.pem"), format!("{certificate}{key}"))?;
        let origins = origins::start(folder.path())?;
        let mut machine = Self { folder, all, origins, certificate, h2_over_tls: false };
        machine.h2_over_tls = machine.serves_h2_over_tls(ours)?;
        Ok(machine)
    }

    /// A file of ours.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether clients come over TLS.
    pub(crate) fn tls_of(&self, row: &Row) -> bool {
        row.front == Front::Tls || row.front == Front::Http2 && self.h2_over_tls
    }

    fn serves_h2_over_tls(&self, ours: &Contender) -> Outcome<bool> {
        let path = self.path("try.yaml");
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:1, tls: {{ alpn: [h2], certificates: \
             [{{ cert: {}, key: {} }}] }} }} }}\nroutes: [{{ respond: {{ status: 200 }} }}]\n",
            self.path("cert.pem").display(),
            self.path("key.pem").display()
        );
        fs::write(&path, text)?;
        Ok(Command::new(&ours.program).arg("-t").arg("-c").arg(path).output()?.status.success())
    }
}
