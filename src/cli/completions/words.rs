//! Words in shell syntax: splitting a typed line, and quoting a name for the cursor position.

/// Quotes that are open at the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    None,
    Single,
    Double,
}

/// Returns the text that a quoted word means in the shell, and the quotes that are open at its end.
pub(super) fn meant(word: &[u8]) -> (Vec<u8>, Quotes) {
    let (mut text, mut quotes) = (Vec::new(), Quotes::None);
    let mut bytes = word.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quotes, byte) {
            (Quotes::None, b'\'') => quotes = Quotes::Single,
            (Quotes::None, b'"') => quotes = Quotes::Double,
            (Quotes::Single, b'\'') | (Quotes::Double, b'"') => quotes = Quotes::None,
            // Between double quotes a backslash is literal before most bytes.
            (Quotes::Double, b'\\')
                if !bytes.peek().is_some_and(|next| b"\\\"$`".contains(next)) =>
            {
                text.push(byte);
            }
            (Quotes::None | Quotes::Double, b'\\') => text.extend(bytes.next()),
            _ => text.push(byte),
        }
    }
    (text, quotes)
}

/// Splits a line into words as typed. The last word is the one at the cursor, and it is empty after
/// a blank.
pub(super) fn typed(line: &[u8]) -> Vec<&[u8]> {
    let is_within = |end: usize, begin: usize| {
        let before = &line[begin..end];
        let escaped = before
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count()
            % 2
            == 1;
        let quotes = meant(before).1;
        quotes != Quotes::None || escaped
    };
    let (mut words, mut begin) = (Vec::new(), 0);
    for (at, byte) in line.iter().enumerate() {
        if b" \t\n".contains(byte) && !is_within(at, begin) {
            if at > begin {
                words.push(&line[begin..at]);
            }
            begin = at + 1;
        }
    }
    words.push(&line[begin..]);
    words
}

/// Quotes text so that bash takes it literally after `quotes` were opened.
pub(super) fn quoted(text: &[u8], quotes: Quotes) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len());
    for byte in text {
        match (quotes, byte) {
            (Quotes::Single, b'\'') => quoted.extend(br"'\''"),
            // Within double quotes `!` refers to the history, and a backslash does not prevent it.
            (Quotes::Double, b'!') => quoted.extend(br#""'!'""#),
            (Quotes::Double, b'\\' | b'"' | b'$' | b'`') => quoted.extend([b'\\', *byte]),
            (Quotes::None, byte) if !is_plain(*byte) => quoted.extend([b'\\', *byte]),
            _ => quoted.push(*byte),
        }
    }
    quoted
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte) || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_the_meaning_that_a_shell_gives_it() {
        for (word, text, quotes) in [
            (&b"docs/a"[..], &b"docs/a"[..], Quotes::None),
            (br"my\ file", b"my file", Quotes::None),
            (br"'my fi", b"my fi", Quotes::Single),
            (br#"a"b c"d"#, b"ab cd", Quotes::None),
            (br#""\$x\y"#, br"$x\y", Quotes::Double),
            (br"'\'", br"\", Quotes::None),
            (b"\\", b"", Quotes::None),
        ] {
            assert_eq!(meant(word), (text.to_vec(), quotes), "{word:?}");
        }
    }

    #[test]
    fn a_line_is_split_as_a_shell_splits_it() {
        for (line, words) in [
            ("p2pfs", &["p2pfs"][..]),
            ("p2pfs  get ", &["p2pfs", "get", ""]),
            (r"p2pfs get my\ file", &["p2pfs", "get", r"my\ file"]),
            (r"p2pfs get a\\ b", &["p2pfs", "get", r"a\\", "b"]),
            (
                r#"p2pfs get 'a b' "c d"#,
                &["p2pfs", "get", "'a b'", "\"c d"],
            ),
        ] {
            let expected: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(typed(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_quoted_word_round_trips() {
        let every: Vec<u8> = (1..=255).collect();
        assert_eq!(meant(&quoted(&every, Quotes::None)).0, every);
        let single = [b"'", &quoted(&every, Quotes::Single)[..], b"'"].concat();
        assert_eq!(meant(&single).0, every);
        let double = [b"\"", &quoted(&every, Quotes::Double)[..], b"\""].concat();
        assert_eq!(meant(&double).0, every);
    }
}
