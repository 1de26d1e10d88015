//! Annotations as the downward API writes them into a file: a line `key="value"` each, the value
//! quoted as Go's `strconv.Quote` does (`FormatMap` in pkg/fieldpath/fieldpath.go of Kubernetes).

use std::{collections::BTreeMap, str::Chars};

use crate::config::problem::quote;

/// Whether a text is of this kind rather than a manifest. A pod without annotations has an empty
/// file.
pub(super) fn is_one(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty());
    first.is_none_or(|line| {
        let parts = line.split_once('=');
        parts.is_some_and(|(key, value)| is_key(key) && value.starts_with('"'))
    })
}

pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut annotations = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let (key, value) = parse_line(line)
            .ok_or_else(|| format!("line {number} is not key=\"value\": {}", quote(line)))?;
        annotations.insert(key, value);
    }
    Ok(annotations)
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=')?;
    if !is_key(key) {
        return None;
    }
    Some((key.to_owned(), unquote(value)?))
}

/// A name of letters and digits, perhaps with a domain before it.
fn is_key(text: &str) -> bool {
    let possible = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    !text.is_empty() && text.bytes().all(possible)
}

/// The opposite of `strconv.Quote`. Bytes that were no text when they were quoted are replaced.
fn unquote(quoted: &str) -> Option<String> {
    let mut chars = quoted.strip_prefix('"')?.chars();
    let mut bytes = Vec::with_capacity(quoted.len());
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => unescape(&mut chars, &mut bytes)?,
            plain => push(plain, &mut bytes),
        }
    }
    // Nothing follows the closing quotation mark.
    match chars.next() {
        None => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Some(_) => None,
    }
}

/// What follows a backslash.
fn unescape(chars: &mut Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let simple = match chars.next()? {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => u8::try_from(hexadecimal(chars, 2)?).ok()?,
        'u' => return push_code(hexadecimal(chars, 4)?, bytes),
        'U' => return push_code(hexadecimal(chars, 8)?, bytes),
        _ => return None,
    };
    bytes.push(simple);
    Some(())
}

fn hexadecimal(chars: &mut Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |code, _| Some(code << 4 | chars.next()?.to_digit(16)?))
}

fn push_code(code: u32, bytes: &mut Vec<u8>) -> Option<()> {
    push(char::from_u32(code)?, bytes);
    Some(())
}

fn push(character: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}
