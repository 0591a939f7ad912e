//! A headless Chromium, driven by its own protocol over two pipes; gone when it is dropped.
//!
//! Source: Chrome DevTools Protocol 1.3; `--remote-debugging-pipe` reads from descriptor 3 and writes to 4, messages end in NUL.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kiln_image::packages::{self, TEST_PACKAGES};
use kiln_image::progress::Silent;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the browser is called in Debian, the small one first.
const NAMES: [&str; 2] = ["chromium-headless-shell", "chromium"];
/// How long the browser may be silent. It answers in milliseconds; this ends a test that hangs.
const ANSWER: Duration = Duration::from_secs(120);

pub(crate) struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    next: u64,
    session: String,
    /// Everything that the browser said without being asked.
    events: Vec<Value>,
    /// Its profile and pipes.
    _home: TempDir,
}

/// The browser's program. Where tests are watched over it is installed; elsewhere its absence is said aloud.
fn program(test: &str) -> Option<PathBuf> {
    let find = || {
        let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
    };
    if find().is_none() && std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        packages::ensure(&Silent, &TEST_PACKAGES, true).unwrap();
        return Some(find().unwrap());
    }
    let found = find();
    if found.is_none() {
        println!("LEFT OUT: {test}: there is no browser; apt-get install chromium-headless-shell");
    }
    found
}

impl Browser {
    /// Starts one with an empty page; `None`, aloud, if there is none.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let program = program(test)?;
        let home = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = home.path().join(name);
            mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        let child = Command::new("sh")
            .args(["-c", "to=$1 from=$2; shift 2; exec \"$@\" 3<\"$to\" 4>\"$from\"", "sh"])
            .args([&to, &from, &program])
            // Root has no other sandbox to be had; the pages are ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // In the order in which the shell opens them.
        let to = File::options().write(true).open(&to).unwrap();
        let from = BufReader::new(File::open(&from).unwrap());
        let (said, heard) = channel();
        std::thread::spawn(move || {
            for message in from.split(0).map_while(Result::ok) {
                let message: Value = serde_json::from_slice(&message).unwrap_or_default();
                if said.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser =
            Self { child, to, from: heard, next: 0, session: String::new(), events: Vec::new(), _home: home };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", target)["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Asks for something and waits for the answer.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(&[message.to_string().as_bytes(), b"\0"].concat()).unwrap();
        loop {
            let message = self.from.recv_timeout(ANSWER).unwrap();
            if message["id"] == self.next {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Opens a file and waits until it is there. What was said before is forgotten.
    pub(crate) fn open(&mut self, page: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", page.display()) }));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.from.recv_timeout(ANSWER).unwrap();
            self.events.push(event);
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Presses a key, as a person does.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Escape" => 27,
            "Enter" => 13,
            "Tab" => 9,
            "ArrowDown" => 40,
            _ => u32::from(key.bytes().next().unwrap().to_ascii_uppercase()),
        };
        let text = match key {
            "Enter" => "\r",
            one if one.chars().count() == 1 => one,
            _ => "",
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let down = json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
    }

    /// What the browser wanted from anywhere since the page was opened.
    pub(crate) fn requests(&self) -> Vec<String> {
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the page complained of since it was opened: errors, exceptions, dialogs.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let bad = ["Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"];
        let of = |event: &&Value| bad.iter().any(|method| event["method"] == *method);
        self.events.iter().filter(of).map(|event| event["params"].to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
