//! The way to stdout and stderr: results, messages and progress bars.
//!
//! Takes text, results and errors; results go to stdout, all else to stderr. With `--json` stdout gets exactly one line, the
//! JSON of the result or of the error. A reader that closes the pipe early is no error: the rest is not written. What is
//! said is left to the commands.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::Common;

/// How loud the program is, and in which form it answers.
#[derive(Debug, Clone)]
pub struct Console {
    quiet: bool,
    verbose: bool,
    json: bool,
    bars: MultiProgress,
}

/// A progress bar with rate and remaining time. Where stderr is no terminal, or all is quiet, it is hidden; see
/// [`Bar::is_hidden`]. It disappears when dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Console {
    /// As the options say.
    pub fn new(options: &Common) -> Self {
        let target = if options.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bars = MultiProgress::with_draw_target(target);
        Self { quiet: options.quiet, verbose: options.verbose, json: options.json, bars }
    }

    /// Whether `-v` asked for more.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Says something on stderr, unless `-q`.
    pub fn message(&self, text: impl Display) {
        if !self.quiet {
            self.to_stderr(text);
        }
    }

    /// Says something on stderr with `-v` only.
    pub fn detail(&self, text: impl Display) {
        if self.verbose {
            self.to_stderr(text);
        }
    }

    /// Warns on stderr, unless `-q`.
    pub fn warn(&self, text: impl Display) {
        self.message(format_args!("warning: {text}"));
    }

    /// A bar over `len` of `what`, such as `images`.
    pub fn bar(&self, len: u64, what: &str) -> Bar {
        let bar = self.bars.add(ProgressBar::new(len)).with_prefix(what.to_owned());
        let template = "{prefix} [{bar:30}] {pos}/{len} ({per_sec}, {eta} left) {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template").progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }

    /// Gives the result: with `--json` its JSON, else what `text` makes of it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn result<T: Serialize>(&self, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let line = if self.json { serde_json::to_string(result).context("the result as JSON")? } else { text(result) };
        to_stdout(&line)
    }

    /// Reports what made the command fail: on stderr, and with `--json` as `{"ok": false, "error": ...}` on stdout too.
    pub fn failure(&self, error: &Error) {
        let text = chain(error);
        self.to_stderr(format_args!("error: {}", text.join("\n  because: ")));
        if self.json {
            let json = serde_json::json!({ "ok": false, "error": text.join(": ") });
            // The message is on stderr already, and the status tells the rest.
            let _ = to_stdout(&json.to_string());
        }
    }

    /// Bars step aside. Who closed stderr does not want to know, so a failure is ignored.
    fn to_stderr(&self, text: impl Display) {
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }
}

impl Bar {
    /// `n` more are done.
    pub fn advance(&self, n: u64) {
        self.0.inc(n);
    }

    /// `done` of `len` are done.
    pub fn set(&self, done: u64, len: u64) {
        self.0.set_length(len);
        self.0.set_position(done);
    }

    /// Shows `text` behind the bar.
    pub fn note(&self, text: impl Display) {
        self.0.set_message(text.to_string());
    }

    /// Whether nobody sees it, so that now and then a plain line is due.
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The error and its causes. A cause that the message before it contains already is left out: many errors end with theirs.
fn chain(error: &Error) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !lines.last().is_some_and(|line| line.contains(&cause)) {
            lines.push(cause);
        }
    }
    lines
}

fn to_stdout(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let io = || io::Error::new(ErrorKind::NotFound, "no such file");
        let told = Error::new(io()).context("a.yaml: no such file").context("cannot search");
        assert_eq!(chain(&told), ["cannot search", "a.yaml: no such file"]);
        let untold = Error::new(io()).context("cannot read a.yaml");
        assert_eq!(chain(&untold), ["cannot read a.yaml", "no such file"]);
    }
}
