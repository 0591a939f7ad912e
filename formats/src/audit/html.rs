//! A report as one page: everything that there is to see is in it, and it asks for nothing.
//!
//! The page is whole without its script, which only searches, filters and moves the focus. A policy in the page itself forbids
//! every request, every style and every script but the two that are in it, by their digests; no element has a style or a handler
//! of its own. Foreign text comes inert (see [`crate::eventlog::decode::plain`]) and goes through [`Page::text`], the only way
//! from a value into the page.

mod parts;
mod views;

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Report;
use crate::digest::Sha256Digest;

/// How it looks.
const STYLE: &str = include_str!("html/page.css");
/// What it does.
const SCRIPT: &str = include_str!("html/page.js");

/// See [`Report::html`].
pub(super) fn page(report: &Report<'_>) -> String {
    let mut page = Page { out: String::new() };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(SCRIPT)
    );
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"").text(policy).raw("\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n");
    page.raw("<title>").text(views::title(report)).raw("</title>\n");
    page.raw("<style>").raw(STYLE).raw("</style>\n</head>\n<body>\n");
    page.raw("<a class=\"skip\" href=\"#content\">Skip to the content</a>\n");
    views::body(&mut page, report);
    page.raw("<script>").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    page.out
}

/// The digest of an element's content as a policy names it. Source: W3C Content Security Policy Level 3, section 2.3.1.
fn digest(content: &str) -> String {
    STANDARD.encode(Sha256Digest::of(content.as_bytes()).as_bytes())
}

/// The page in the making.
struct Page {
    out: String,
}

impl Page {
    /// Adds markup of our own.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.out.push_str(markup);
        self
    }

    /// Adds a value, in an element or in an attribute: whatever it is, it stays text.
    fn text(&mut self, value: impl Display) -> &mut Self {
        for c in value.to_string().chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                c => self.out.push(c),
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::log::{Ev, boot_of, made_here};
    use super::super::{Against, Member, Subject, Verdict, audit, compare, summarise};
    use super::*;
    use crate::boot::Boot;

    const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\"'><img src=x onerror=alert(1)>\x1b[31m</style>";

    fn member<'a>(name: &str, boot: &Boot<'a>) -> Member<'a> {
        let name = Subject::new(name).name;
        let (values, failures) = (boot.replay(), vec![HOSTILE.replace('\x1b', "")]);
        Member { name, boot: boot.clone(), verdict: Verdict::Unproven, values, failures }
    }

    fn pages() -> [String; 3] {
        let mut edited = made_here();
        let command = [b"grub_cmd: ", HOSTILE.as_bytes(), b"\0"].concat();
        edited.events.push(Ev::new(8, 0x0d, &command, HOSTILE.as_bytes()));
        let (log, other) = (edited.encode(), made_here().encode());
        let (boot, other) = (boot_of(&log, &[]), boot_of(&other, &[]));
        let subject = Subject::new(HOSTILE);
        let audit = audit(&boot, &Against::default());
        let comparison = compare(&other, &boot, &[]);
        let members = [member(HOSTILE, &boot), member("b", &other), member("c", &other)];
        let summary = summarise(&members, Vec::new());
        [
            Report::Audit(&subject, &audit).html(),
            Report::Diff(&subject, &subject, &comparison).html(),
            Report::Summary(&summary).html(),
        ]
    }

    #[test]
    fn hostile_text_stays_text() {
        for page in pages() {
            assert!(page.contains("&lt;script&gt;alert(1)"), "it is shown");
            assert_eq!(page.matches("<script").count(), 1, "one script, ours");
            assert_eq!((page.matches("</style").count(), page.matches("<img").count()), (1, 0));
            assert!(page.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }

    #[test]
    fn nothing_is_asked_for_and_nothing_is_inline() {
        for page in pages() {
            let markup = page.replace(STYLE, "").replace(SCRIPT, "");
            for forbidden in
                [" style=", " src=\"", "<link", "http://", "https://", "url(", "@import", "onclick=\"", "onload"]
            {
                let found = markup.find(forbidden).map(|at| markup.get(at..at + 60));
                assert!(found.is_none(), "{forbidden}: {found:?}");
            }
            assert!(page.contains(&format!("script-src &#39;sha256-{}&#39;", digest(SCRIPT))));
            assert!(page.contains(&format!("style-src &#39;sha256-{}&#39;", digest(STYLE))));
        }
        for forbidden in ["url(", "@import", "fetch(", "XMLHttp", "http", "innerHTML", "eval", "</"] {
            assert!(!STYLE.contains(forbidden) && !SCRIPT.contains(forbidden), "{forbidden}");
        }
    }
}
