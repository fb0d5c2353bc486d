//! How things look: colours on a terminal, none in a pipe (anstream strips them, and honours NO_COLOR).

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Text in the colour of good news.
pub(crate) fn good(text: impl Display) -> String {
    paint(text, AnsiColor::Green.on_default())
}

/// Text in the colour of a warning.
pub(crate) fn doubtful(text: impl Display) -> String {
    paint(text, AnsiColor::Yellow.on_default())
}

/// Text in the colour of bad news.
pub(crate) fn bad(text: impl Display) -> String {
    paint(text, AnsiColor::Red.on_default().bold())
}

/// Text that matters less.
pub(crate) fn dim(text: impl Display) -> String {
    paint(text, Style::new().dimmed())
}

/// A heading.
pub(crate) fn bold(text: impl Display) -> String {
    paint(text, Style::new().bold())
}

/// To standard output. Whoever reads only the beginning (`| head`) has what they want: no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// One more line of a text.
pub(crate) fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// For programs.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// One and many: `1 pod`, `2 pods`.
pub(crate) fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn paint(text: impl Display, style: Style) -> String {
    format!("{style}{text}{style:#}")
}
