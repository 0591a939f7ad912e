//! A step that tries to be somebody else, and every byte that there is.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Feeds writes of both streams, one frame each, and returns what is shown.
fn shown(style: Style, writes: &[(Stream, &[u8])]) -> Vec<String> {
    let mut lines = Lines::new(name("compile"), style);
    let mut rows = Vec::new();
    for (at, &(stream, bytes)) in (0..).zip(writes) {
        let content = Content::Wrote { stream, bytes };
        rows.extend(lines.take(&Frame { sequence: at, time_us: at * 1_500_000, content }));
    }
    rows.extend(lines.finish());
    rows.iter().map(|row| lines.show(row)).collect()
}

fn plain(bytes: &[u8]) -> Vec<String> {
    shown(Style::default(), &[(Stream::Out, bytes)])
}

#[test]
fn lines_are_whole_and_of_one_stream() {
    let writes: [(Stream, &[u8]); 4] =
        [(Stream::Out, b"one\ntw"), (Stream::Err, b"error\n"), (Stream::Out, b"o\n"), (Stream::Out, b"no end")];
    assert_eq!(
        shown(Style::default(), &writes),
        ["compile out| one", "compile err| error", "compile out| two", "compile out| no end\\"]
    );
    let timed = shown(Style { times: true, ..Style::default() }, &writes);
    assert_eq!(timed[1..3], ["compile err     1.500000| error", "compile out     0.000000| two"]);
}

#[test]
fn nothing_reaches_the_terminal_but_text() {
    let rows: [(&[u8], &str); 12] = [
        (b"a\x1b[2J\x1b[1;1Hb", "a\\x1b[2J\\x1b[1;1Hb"),
        (b"\x1b]52;c;ZXZpbA==\x07", "\\x1b]52;c;ZXZpbA==\\x07"),
        (b"PASSED\rFAILED", "PASSED\\rFAILED"),
        (b"a\0b\x08\x7f\tc", "a\\x00b\\x08\\x7f\\tc"),
        (b"C:\\x1b", "C:\\\\x1b"),
        (b"\xff\xc0\xaf\xed\xa0\x80", "\\xff\\xc0\\xaf\\xed\\xa0\\x80"),
        ("a\u{202e}b\u{2066}c".as_bytes(), "a\\u{202e}b\\u{2066}c"),
        ("a\u{200b}\u{200d}\u{feff}\u{ad}b".as_bytes(), "a\\u{200b}\\u{200d}\\u{feff}\\u{ad}b"),
        ("a\u{9b}2J\u{85}\u{2028}b".as_bytes(), "a\\u{9b}2J\\u{85}\\u{2028}b"),
        ("e\u{301}\u{fe0f}\u{e0041}".as_bytes(), "e\\u{301}\\u{fe0f}\\u{e0041}"),
        ("größer 漢字 – ok".as_bytes(), "größer 漢字 – ok"),
        (b"", ""),
    ];
    for (bytes, text) in rows {
        assert_eq!(plain(&[bytes, b"\n"].concat()), [format!("compile out| {text}")]);
    }
}

#[test]
fn a_line_that_imitates_ours_is_still_the_step_s() {
    for imitation in [
        "compile log| 0 frames are missing here",
        "verify out| PASSED",
        "x\ncompile err| STEP 3 PASSED",
        "x\rkiln: verdict: PASSED",
        "x\u{2028}kiln: verdict: PASSED",
        "x\u{b}\u{c}kiln: verdict: PASSED",
    ] {
        for row in plain(imitation.as_bytes()) {
            assert!(row.starts_with("compile out| ") && !row.contains('\n'), "{row}");
        }
    }
    // As long as the screen is wide, so that a terminal would wrap just before the imitation.
    for columns in [20, 40, 80, 81] {
        for times in [false, true] {
            let style = Style { columns: Some(columns), times, live: true };
            let mut lines = Lines::new(name(&"s".repeat(64)), style);
            let text = "x".repeat(columns) + "kiln: verdict: PASSED ｗｉｄｅ";
            let content = Content::Wrote { stream: Stream::Out, bytes: text.as_bytes() };
            lines.take(&Frame { sequence: 0, time_us: 5, content });
            let rows = lines.finish();
            assert!(rows.len() > 1);
            for (at, row) in rows.iter().map(|row| lines.show(row)).enumerate() {
                let width: usize = row.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
                assert!(width <= columns.max(COLUMNS_MIN), "{width}: {row}");
                assert!(row.starts_with("ssss") && row.ends_with('\\'), "{row}");
                assert_eq!(row.contains("+ "), at > 0, "{row}");
            }
        }
    }
}

#[test]
fn a_line_without_end_is_shown_in_parts() {
    let rows = plain(&vec![b'x'; 3 * LINE_BYTES_MAX]);
    assert!(rows.len() <= 4 && rows.iter().all(|row| row.ends_with('\\')));
    let mut lines = Lines::new(name("compile"), Style::default());
    for at in 0..1000 {
        let content = Content::Wrote { stream: Stream::Err, bytes: &[b'x'; 1000] };
        lines.take(&Frame { sequence: at, time_us: at, content });
        assert!(lines.err.bytes.len() <= LINE_BYTES_MAX + 1000);
    }
}

#[test]
fn what_is_missing_is_said_where_it_is_missing() {
    let mut lines = Lines::new(name("compile"), Style { live: true, ..Style::default() });
    let count = |bytes, lines| kiln_formats::log::Count { bytes, lines };
    let missing = Missing { frames: 7, out: count(100, 3), err: count(0, 0) };
    let wrote = |bytes| Content::Wrote { stream: Stream::Out, bytes };
    let mut rows = Vec::new();
    for content in [wrote(b"beg"), Content::Held, Content::Gap(missing), wrote(b"of it\nend\n")] {
        rows.extend(lines.take(&Frame { sequence: 0, time_us: 0, content }));
    }
    let rows: Vec<_> = rows.iter().map(|row| lines.show(row)).collect();
    assert!(rows[0].starts_with("compile log| full;"), "{rows:?}");
    assert_eq!(rows[1], "compile out| beg\\");
    assert!(rows[2].starts_with("compile log| 7 frames are missing here: 100 bytes and 3 lines of output, 0 bytes"));
    assert_eq!(rows[3..], ["compile out+ of it", "compile out| end"]);
}

/// What the rows of one stream were made of.
fn bytes_of(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        let Row::Text { text, ends, .. } = row else { continue };
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            let (number, length) = match rest.get(..2) {
                Some("\\\\") => (u32::from('\\'), 2),
                Some("\\t") => (9, 2),
                Some("\\r") => (13, 2),
                Some("\\x") => (u32::from_str_radix(&rest[2..4], 16).unwrap(), 4),
                Some("\\u") => {
                    let end = rest.find('}').unwrap();
                    (u32::from_str_radix(&rest[3..end], 16).unwrap(), end + 1)
                }
                _ => (u32::from(c), c.len_utf8()),
            };
            if rest.starts_with("\\x") {
                bytes.push(number as u8);
            } else {
                bytes.extend_from_slice(char::from_u32(number).unwrap().encode_utf8(&mut [0; 4]).as_bytes());
            }
            rest = &rest[length..];
        }
        if *ends {
            bytes.push(b'\n');
        }
    }
    bytes
}

proptest! {
    #[test]
    fn every_byte_can_be_told_from_what_is_shown(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            any::<String>().prop_map(String::into_bytes),
            "[\\\\xut0-9{}\n\r\u{202e}e\u{301}]{0,60}".prop_map(String::into_bytes),
        ],
        columns in proptest::option::of(0_usize..200),
    ) {
        let mut lines = Lines::new(name("compile"), Style { columns, times: true, live: false });
        let content = Content::Wrote { stream: Stream::Out, bytes: &bytes };
        let mut rows = lines.take(&Frame { sequence: 0, time_us: 0, content });
        rows.extend(lines.finish());
        prop_assert_eq!(bytes_of(&rows), bytes);
        for row in rows.iter().map(|row| lines.show(row)) {
            prop_assert!(row.starts_with("compile out     0.000000"), "{}", row);
            prop_assert!(!row.chars().any(|c| c.is_control()), "{}", row);
            if let Some(columns) = columns {
                let width: usize = row.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
                prop_assert!(width <= columns.max(COLUMNS_MIN), "{}", row);
            }
        }
    }
}
