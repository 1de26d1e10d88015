//! Files of the downward API.

use proptest::prelude::*;

use super::*;

/// `strconv.Quote`, with fewer characters left as they are.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\0'..=' ' | '\x7f' if character != ' ' => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
            '\u{80}'..='\u{ff}' => quoted.push(character),
            '\u{100}'..='\u{ffff}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            '\u{10000}'.. => quoted.push_str(&format!("\\U{:08x}", u32::from(character))),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[test]
fn a_line_is_an_annotation() {
    let text = "kubernetes.io/config.seen=\"2026-08-22T10:00:00.000000000Z\"\n\
                traffic.sidecar.istio.io/includeOutboundIPRanges=\"10.0.0.0/8,fd00::/8\"\n\
                x=\"\"";
    assert_eq!(
        annotations(text),
        [
            pair(
                "kubernetes.io/config.seen",
                "2026-08-22T10:00:00.000000000Z"
            ),
            pair(
                "traffic.sidecar.istio.io/includeOutboundIPRanges",
                "10.0.0.0/8,fd00::/8"
            ),
            pair("x", ""),
        ]
    );
}

#[test]
fn a_pod_without_annotations_has_an_empty_file() {
    assert_eq!(annotations(""), []);
    assert_eq!(annotations("\n \n"), []);
}

#[test]
fn values_are_quoted_as_go_does() {
    let text = r#"a="{\"b\":\"c\\d\"}"
n="proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n"
u="\u00e9é\U0001f980🦀\ufffd"
x="\a\b\f\n\r\t\v\x00\x7f"
broken="\xff\xfe."
"#;
    assert_eq!(
        annotations(text),
        [
            pair("a", r#"{"b":"c\d"}"#),
            pair("broken", "\u{fffd}\u{fffd}."),
            pair("n", "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n"),
            pair("u", "éé🦀🦀\u{fffd}"),
            pair("x", "\x07\x08\x0c\n\r\t\x0b\0\x7f"),
        ]
    );
}

#[test]
fn what_is_no_such_line_is_refused_with_its_number() {
    for bad in [
        r#"a="x"#,
        r#"a="x"y"#,
        r#"a="\q""#,
        r#"a="\x4""#,
        r#"a="\x4g""#,
        r#"a="\ud800""#,
        r#"a="\U00110000""#,
        r#"a="\"#,
        "a='x'",
        "a=x",
        "a",
        r#"="x""#,
        r#"a b="x""#,
        r#" a="x""#,
    ] {
        let problem = described(&format!("first=\"fine\"\n\n{bad}\n")).unwrap_err();
        assert!(
            problem.starts_with("the-file: line 3 is not key=\"value\"")
                && problem.contains("downward API"),
            "{bad}: {problem}"
        );
    }
}

proptest! {
    #[test]
    fn unquoting_undoes_quoting(value in any::<String>()) {
        let line = format!("key={}\n", go_quote(&value));
        prop_assert_eq!(annotations(&line), [pair("key", &value)]);
    }

    #[test]
    fn no_value_makes_it_panic(value in "[\\\\\"xuU0-9a-fé]{0,20}") {
        let _ = described(&format!("key=\"{value}"));
    }
}
