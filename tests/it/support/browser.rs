//! A browser without a screen, driven over the `WebDriver` protocol.

use super::{Client, Reserved, SOON, address::Address, request, within};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// How long one command may take: a browser starts slowly on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
];

/// A browser with one window.
pub struct Browser {
    driver: Child,
    address: Address,
    session: String,
    _port: Reserved,
    /// Removed with this.
    profile: TempDir,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Browser {
    /// Starts one; `None` if there is none on this machine, which is said.
    pub fn start(test: &str) -> Option<Self> {
        let (Some(driver), Some(browser)) = (program("chromedriver"), program("chromium")) else {
            eprintln!(
                "NOT CHECKED: {test}: there is no chromium with chromedriver; `make dashboard-test` installs them"
            );
            return None;
        };
        let (port, profile) = (Reserved::new(), tempfile::tempdir().unwrap());
        let mut command = Command::new(driver);
        command.arg(format!("--port={}", port.port())).stdin(Stdio::null());
        let driver = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = port.address();
        let session = String::new();
        let mut it = Self { driver, address, session, _port: port, profile };
        let up = || Client::try_connect(&it.address).is_ok();
        assert!(within(PATIENCE, up), "chromedriver does not listen");
        let data = format!("--user-data-dir={}", it.profile.path().display());
        let flags: Vec<_> = FLAGS.into_iter().chain([data.as_str()]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": browser, "args": flags },
        } } });
        let session = it.command("POST", "/session", &wanted);
        it.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        Some(it)
    }

    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut client = Client::connect(&self.address);
        client.set_patience(PATIENCE);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let host = format!("Host: {}", self.address);
        let fields = [host.as_str(), "Content-Type: application/json", "Connection: close"];
        let response = client.ask(request(method, path, &fields, body.as_bytes()));
        let told = response.json()["value"].clone();
        assert_eq!(response.status, 200, "{method} {path}: {told:#}");
        told
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.command("POST", &format!("{}{path}", self.session), body)
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The element that a CSS selector finds.
    #[track_caller]
    fn find(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.expect("an element").to_owned()
    }

    /// Clicks as a person does: what cannot be seen cannot be clicked.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.post(&format!("/element/{}/click", self.find(selector)), &json!({}));
    }

    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        self.post(&format!("/element/{}/value", self.find(selector)), &json!({ "text": text }));
    }

    /// The text of the element as it can be seen; empty if there is none.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let selector = Value::from(selector);
        let script = format!(
            "const it = document.querySelector({selector}); return it?.checkVisibility() ? it.innerText : ''"
        );
        self.run(&script).as_str().expect("a text").to_owned()
    }

    /// Waits until the element's text contains `text`.
    #[track_caller]
    pub fn wait_for(&self, selector: &str, text: &str) {
        let found = within(3 * SOON, || self.text(selector).contains(text));
        assert!(found, "{text} is not in {selector}: {}", self.text("body"));
    }

    /// What the browser has complained about.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Has the page be that wide and high, in this colour scheme.
    #[track_caller]
    pub fn look_like(&self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        for (command, params) in
            [("Emulation.setDeviceMetricsOverride", metrics), ("Emulation.setEmulatedMedia", media)]
        {
            self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }));
        }
    }

    /// Keeps a picture of the page as `target/screenshots/NAME.png`.
    #[track_caller]
    pub fn keep_picture(&self, name: &str) {
        let picture = self.command("GET", &format!("{}/screenshot", self.session), &Value::Null);
        let bytes = STANDARD.decode(picture.as_str().expect("base64")).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("screenshots");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser; killing the driver alone would leave that behind.
        if let Ok(mut client) = Client::try_connect(&self.address) {
            client.set_patience(SOON);
            let host = format!("Host: {}", self.address);
            let end = request("DELETE", &self.session, &[&host], b"");
            let _ = client.try_send(&end).and_then(|()| client.try_response().map(drop));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
