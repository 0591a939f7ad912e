//! The pages of `kiln audit --html` in a real browser: by keyboard, without script, on paper, in the dark, on a narrow screen; and
//! hostile logs in them.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use kiln_formats::{boot, cel, digest, event, eventlog, pcr, runtime_log};

mod browser;
#[path = "../../../../formats/src/audit/tests/log.rs"]
#[expect(dead_code, reason = "the library's tests need more of it")]
mod log;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use browser::Browser;
use log::{Ev, made_here, runtime_log as words};

/// What a hostile log may write: markup, a picture from elsewhere, text that turns round, control bytes.
const HOSTILE: &str =
    "</script><script>window.owned=1;alert(1)</script><img src=http://192.0.2.1/x onerror=alert(2)>\u{202e}\x1b[2J\x07";

/// Writes a machine's log, hostile words and all, and what `kiln audit` makes a page of.
fn page(directory: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let page = directory.join(name);
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.arg("audit").args(arguments).arg("--html").arg(&page).current_dir(directory);
    let output = kiln.output().unwrap();
    assert!(page.is_file(), "{}", String::from_utf8_lossy(&output.stderr));
    page
}

fn machines(directory: &Path) {
    let mut log = made_here();
    let command = [b"grub_cmd: ", HOSTILE.as_bytes(), b"\0"].concat();
    log.events.push(Ev::new(8, 0x0d, &command, HOSTILE.as_bytes()));
    log.events.push(Ev::new(8, 0x0d, &[b"grub_cmd: ", "x".repeat(200_000).as_bytes()].concat(), b"long"));
    let record = json!({ "pcr": 15, "digests": [], "content_type": "systemd", "content": { "string": HOSTILE, "eventType": HOSTILE } });
    let runtime = [words(3, false), format!("\x1e{record}\n").into_bytes()].concat();
    for (name, log) in [("hostile", &log), ("plain", &made_here())] {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("binary_bios_measurements"), log.encode()).unwrap();
        fs::write(directory.join(name).join("tpm2-measure.log"), &runtime).unwrap();
    }
}

/// How many events are to be seen.
const SHOWN: &str = "document.querySelectorAll('[data-item]:not([hidden])').length";
/// Whether nothing is wider than the screen.
const FITS: &str = "document.documentElement.scrollWidth <= window.innerWidth";

#[test]
fn a_person_finds_an_event_by_keyboard_alone() {
    let Some(mut browser) = Browser::start("a_person_finds_an_event_by_keyboard_alone") else { return };
    let directory = tempfile::tempdir().unwrap();
    machines(directory.path());
    browser.open(&page(directory.path(), "page.html", &["hostile"]));
    let all = browser.value(SHOWN).as_u64().unwrap();
    assert!(all > 20);

    // Search, and go to what is found.
    browser.press("/");
    assert_eq!(browser.value("document.activeElement.id"), "search");
    browser.call("Input.insertText", json!({ "text": "SECUREBOOT on" }));
    assert_eq!(browser.value(SHOWN), 1);
    assert_eq!(browser.value("document.getElementById('count').textContent"), format!("1 of {all}"));
    browser.press("Enter");
    assert_eq!(browser.value("document.activeElement.closest('li').id"), "e1");
    browser.press("Enter");
    assert_eq!(browser.value("document.querySelector('#e1 details').open"), true);
    browser.press("Escape");
    assert_eq!(browser.value(SHOWN), all);

    // From event to event, and all at once.
    browser.press("j");
    browser.press("j");
    assert_eq!(browser.value("document.activeElement.closest('li').id"), "e1");
    browser.press("ArrowDown");
    assert_eq!(browser.value("document.activeElement.closest('li').id"), "e2");
    browser.press("k");
    assert_eq!(browser.value("document.activeElement.closest('li').id"), "e1");
    browser.press("o");
    assert_eq!(browser.value("document.querySelectorAll('.line details:not([open])').length"), 0);
    browser.press("Escape");

    // A register, picked with the keys of the list itself.
    browser.press("/");
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.name"), "pcr");
    browser.call("Input.insertText", json!({ "text": "" }));
    for key in ["P", "C", "R"] {
        browser.press(key);
    }
    browser.value("document.activeElement.value = '7'; document.activeElement.dispatchEvent(new Event('change'))");
    let of_pcr_7 = browser.value(SHOWN).as_u64().unwrap();
    assert!(of_pcr_7 > 0 && of_pcr_7 < all, "{of_pcr_7} of {all}");
    assert_eq!(browser.value("document.querySelectorAll('.stage:not([hidden])').length"), 1);
    browser.press("Escape");
    // A link of a finding shows its event, whatever is filtered.
    browser.value("document.querySelector('#search').value = 'no such thing'; document.querySelector('#search').dispatchEvent(new Event('input'))");
    assert_eq!(
        (browser.value(SHOWN), browser.value("document.getElementById('empty').hidden")),
        (json!(0), json!(false))
    );
    browser.value(
        "new Promise(done => { addEventListener('hashchange', () => setTimeout(done, 50)); location.hash = '#e3' })",
    );
    assert_eq!(browser.value("document.activeElement.closest('li').id"), "e3");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn hostile_words_stay_words_and_nothing_is_asked_for() {
    let Some(mut browser) = Browser::start("hostile_words_stay_words_and_nothing_is_asked_for") else { return };
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    machines(here);
    fs::create_dir(here.join("fleet")).unwrap();
    for name in ["a", "b", "<img src=x onerror=alert(3)>"] {
        let from = if name == "a" { "hostile" } else { "plain" };
        fs::create_dir(here.join("fleet").join(name)).unwrap();
        for file in ["binary_bios_measurements", "tpm2-measure.log"] {
            fs::copy(here.join(from).join(file), here.join("fleet").join(name).join(file)).unwrap();
        }
    }
    let pages = [
        page(here, "audit.html", &["hostile"]),
        page(here, "diff.html", &["plain", "hostile"]),
        page(here, "fleet.html", &["fleet"]),
    ];
    for page in &pages {
        browser.open(page);
        assert_eq!(browser.value("typeof window.owned"), "undefined");
        assert_eq!(browser.value("document.scripts.length + document.images.length"), 1, "{}", page.display());
        assert_eq!(browser.value("document.querySelectorAll('[style],[onerror],[onclick],b').length"), 0);
        assert_eq!(
            browser.value("/[\\u0000-\\u0009\\u000b-\\u001f\\u202e]/.test(document.documentElement.outerHTML)"),
            false
        );
        assert_eq!(browser.requests(), [format!("file://{}", page.display())]);
        assert_eq!(browser.complaints(), Vec::<String>::new());
        assert_eq!(browser.value(FITS), true, "{}", page.display());
    }
    browser.open(&pages[0]);
    let text = browser.value("document.querySelector('main').textContent");
    assert!(text.as_str().unwrap().contains("</script><script>window.owned=1;alert(1)</script><img"), "it is shown");
    assert!(text.as_str().unwrap().contains("\\u{202e}\\x1b[2J\\x07"), "what is invisible is shown");

    // Were it not inert, the page's own policy would still stop it.
    let attack = "new Promise(done => {
        const found = [];
        addEventListener('securitypolicyviolation', (event) => found.push(event.effectiveDirective));
        document.body.append(Object.assign(new Image(), { src: 'http://192.0.2.1/x' }));
        document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.owned = 2' }));
        document.body.setAttribute('style', 'display: none');
        fetch('http://192.0.2.1/y').catch(() => {});
        setTimeout(() => done(found.sort().join()), 300);
    })";
    assert_eq!(browser.value(attack), "connect-src,img-src,script-src-elem,style-src-attr");
    assert_eq!(browser.value("typeof window.owned + getComputedStyle(document.body).display"), "undefinedblock");
    let sent = browser.requests().into_iter().filter(|url| url.starts_with("http"));
    let blocked = browser.complaints().iter().filter(|said| said.contains("Content Security Policy")).count();
    assert!(blocked >= 4 && sent.count() <= 2, "requests that the policy blocked, at most");
}

#[test]
fn it_is_whole_without_script_on_paper_in_the_dark_and_on_a_narrow_screen() {
    let test = "it_is_whole_without_script_on_paper_in_the_dark_and_on_a_narrow_screen";
    let Some(mut browser) = Browser::start(test) else { return };
    let directory = tempfile::tempdir().unwrap();
    machines(directory.path());
    let page = page(directory.path(), "page.html", &["hostile"]);
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    browser.open(&page);
    let all = browser.value(SHOWN).as_u64().unwrap();
    assert!(all > 20);
    assert_eq!(browser.value("document.querySelector('.controls').hidden"), true, "controls that do nothing");
    assert_eq!(browser.value("document.querySelector('#e1').checkVisibility()"), true);
    browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": false }));
    browser.open(&page);
    assert_eq!(browser.value("document.querySelector('.controls').checkVisibility()"), true);

    let height = "document.querySelector('#e1').offsetHeight";
    let closed = browser.value(height).as_u64().unwrap();
    let light = browser.value("getComputedStyle(document.body).backgroundColor");
    browser.call("Emulation.setEmulatedMedia", json!({ "media": "print" }));
    let printed = browser.value(height).as_u64().unwrap();
    assert!(printed > closed + 40, "closed on the screen, open on paper: {closed}, {printed}");
    assert_eq!(browser.value("document.querySelector('.controls').checkVisibility()"), false);
    let dark = json!({ "media": "", "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.call("Emulation.setEmulatedMedia", dark);
    assert_ne!(browser.value("getComputedStyle(document.body).backgroundColor"), light);
    let narrow = json!({ "width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true });
    browser.call("Emulation.setDeviceMetricsOverride", narrow);
    browser.press("o");
    assert_eq!(browser.value(FITS), true, "wider than a narrow screen");
}
