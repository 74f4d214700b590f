//! Formats Markdown of the source as roff for the manual. Code becomes bold, emphasised code
//! italic.

/// Maximum length of a line of text in a manual page, in bytes.
pub(crate) const LINE_MAX_BYTES: usize = 79;

/// Splits documentation into its paragraphs, each in one line.
pub(crate) fn paragraphs(about: &[&str]) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in about.iter().map(|line| line.trim()) {
        let last = all.last_mut().expect("one paragraph");
        match (line.is_empty(), last.is_empty()) {
            (true, false) => all.push(String::new()),
            (true, true) => {}
            (false, true) => last.push_str(line),
            (false, false) => {
                last.push(' ');
                last.push_str(line);
            }
        }
    }
    all.retain(|paragraph| !paragraph.is_empty());
    all
}

/// Formats a text in lines of at most [`LINE_MAX_BYTES`]. Each sentence begins a line.
pub(crate) fn set(text: &str) -> String {
    let mut roff = String::new();
    let mut length = 0;
    let mut is_new_sentence = true;
    for word in words(&fonts(text)) {
        let fits = length + 1 + word.len() <= LINE_MAX_BYTES;
        if !roff.is_empty() {
            let between = if fits && !is_new_sentence { ' ' } else { '\n' };
            roff.push(between);
            length = if between == ' ' { length + 1 } else { 0 };
        }
        // A control character would make the line a request.
        if length == 0 && word.starts_with(['.', '\'']) {
            roff.push_str("\\&");
            length += 2;
        }
        roff.push_str(&word);
        length += word.len();
        is_new_sentence = word
            .trim_end_matches("\\fR")
            .trim_end_matches([')', '"'])
            .ends_with(['.', '!', '?']);
    }
    roff.push('\n');
    roff
}

/// Formats names in bold, separated by commas, as the heading of an entry.
pub(crate) fn heading(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| escaped(name)).collect();
    match &names[..] {
        [name] => format!(".TP\n.B {name}\n"),
        names => format!(".TP\n.BR {}\n", names.join(" \", \" ")),
    }
}

/// Returns the words of a text.
fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Replaces Markdown by changes of the font.
fn fonts(text: &str) -> String {
    let mut roff = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        let (code, after) = after.split_once('`').expect("code that ends");
        let (before, is_path) = match before.strip_suffix('_') {
            Some(before) => (before, true),
            None => (before, false),
        };
        roff.push_str(&plain(before));
        roff.push_str(&set_code(code, is_path));
        rest = if is_path {
            after.strip_prefix('_').expect("emphasis that ends")
        } else {
            after
        };
    }
    roff.push_str(&plain(rest));
    roff
}

fn set_code(code: &str, is_path: bool) -> String {
    let text = escaped(code);
    let section = code.strip_suffix(')').and_then(|it| it.rsplit_once('('));
    match section {
        _ if code.starts_with(['"', '[']) && code.contains('"') => text,
        Some((page, number)) if number.len() == 1 => {
            format!("\\fB{}\\fR({number})", escaped(page))
        }
        // A font lasts for one word, so that a line may end in between.
        _ if is_path => each_word(&text, "\\fI"),
        _ => each_word(&text, "\\fB"),
    }
}

fn each_word(text: &str, font: &str) -> String {
    let words = text.split(' ').map(|word| format!("{font}{word}\\fR"));
    words.collect::<Vec<_>>().join(" ")
}

/// Escapes a literal. Its hyphens differ from the hyphens of a text.
pub(crate) fn escaped(literal: &str) -> String {
    literal
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti")
        .replace('^', "\\(ha")
}

/// Escapes quotes around a literal. An apostrophe in a word stays.
fn plain(text: &str) -> String {
    let mut roff = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        match letter {
            '\'' if !before.is_alphanumeric() => roff.push_str("\\(aq"),
            letter => roff.push(letter),
        }
        before = letter;
    }
    roff
}

#[test]
fn code_is_bold_and_each_sentence_begins_a_line() {
    let text = "Reads `a-b c` and _`/etc/x-y`_. See `p2pfs(1)`, or `\"x-y\"`.";
    let roff = "Reads \\fBa\\-b\\fR \\fBc\\fR and \\fI/etc/x\\-y\\fR.\n\
                See \\fBp2pfs\\fR(1), or \"x\\-y\".\n";
    assert_eq!(set(text), roff);
}

#[test]
fn a_line_never_begins_with_a_control_character() {
    assert_eq!(set(".env and others"), "\\&.env and others\n");
    assert_eq!(
        set("A name of 'x' or '.'."),
        "A name of \\(aqx' or \\(aq.\\(aq.\n"
    );
}
