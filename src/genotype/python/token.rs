//! Python text to tokens.
//!
//! Knows names, numbers, strings of every kind, comments, and where a logical line ends. Keywords
//! and operators have no meaning here: an operator is its characters, one token each.

use super::Fault;
use crate::genotype::error::{Position, Problem};

/// A token and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    pub position: Position,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    /// A number as written: only `0` to `9` are read, so nothing is lost here.
    Number(String),
    /// The text of a string as written between its quotes.
    Text(String),
    Symbol(char),
    /// The end of a line outside of brackets, or a `;`.
    LineEnd,
    End,
}

/// The tokens of `text`; the last one, and only that, is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut scanner = Scanner { rest: text.strip_prefix('\u{feff}').unwrap_or(text), position: Position::START };
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    while let Some(c) = scanner.peek() {
        let position = scanner.position;
        let kind = match c {
            '\n' | ';' => {
                scanner.skip(1);
                if depth > 0 {
                    continue;
                }
                Kind::LineEnd
            }
            '#' => {
                scanner.take_while(|c| c != '\n');
                continue;
            }
            '\\' if scanner.rest[1..].trim_start_matches('\r').starts_with('\n') => {
                scanner.take_while(|c| c != '\n');
                scanner.skip(1);
                continue;
            }
            c if c.is_whitespace() => {
                scanner.skip(1);
                continue;
            }
            '\'' | '"' => scanner.string(c)?,
            c if c.is_ascii_digit() => Kind::Number(scanner.take_while(is_word_or_dot)),
            c if is_word(c) => {
                let name = scanner.take_while(is_word);
                match scanner.peek() {
                    Some(quote @ ('\'' | '"')) if is_string_prefix(&name) => scanner.string(quote)?,
                    _ => Kind::Name(name),
                }
            }
            c => {
                scanner.skip(1);
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                Kind::Symbol(c)
            }
        };
        tokens.push(Token { kind, position });
    }
    tokens.push(Token { kind: Kind::End, position: scanner.position });
    Ok(tokens)
}

impl Kind {
    /// The token in the words of an error message.
    pub fn described(&self) -> String {
        match self {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Number(number) => format!("the number {number}"),
            Kind::Text(text) => format!("the string {text:?}"),
            Kind::Symbol(symbol) => format!("`{symbol}`"),
            Kind::LineEnd => "the end of the line".to_owned(),
            Kind::End => "the end of the file".to_owned(),
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
    position: Position,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            let mut chars = self.rest.chars();
            match chars.next() {
                Some('\n') => {
                    self.position.line += 1;
                    self.position.column = 1;
                }
                Some(_) => self.position.column += 1,
                None => return,
            }
            self.rest = chars.as_str();
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let taken: String = self.rest.chars().take_while(|c| wanted(*c)).collect();
        self.skip(taken.chars().count());
        taken
    }

    /// A string in single or triple quotes, which starts here.
    fn string(&mut self, quote: char) -> Result<Kind, Fault> {
        let start = self.position;
        let triple = quote.to_string().repeat(3);
        let is_triple = self.rest.starts_with(&triple);
        self.skip(if is_triple { 3 } else { 1 });
        let mut text = String::new();
        loop {
            match self.peek() {
                Some(c) if c == quote && !is_triple => {
                    self.skip(1);
                    return Ok(Kind::Text(text));
                }
                Some(c) if c == quote && self.rest.starts_with(&triple) => {
                    self.skip(3);
                    return Ok(Kind::Text(text));
                }
                Some('\\') => {
                    // The character after a backslash never ends a string.
                    text.extend(self.rest.chars().take(2));
                    self.skip(2);
                }
                None => return Err(Fault::new(start, Problem::UnterminatedString)),
                Some('\n') if !is_triple => {
                    return Err(Fault::new(start, Problem::UnterminatedString));
                }
                Some(c) => {
                    text.push(c);
                    self.skip(1);
                }
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_word_or_dot(c: char) -> bool {
    is_word(c) || c == '.'
}

fn is_string_prefix(name: &str) -> bool {
    let prefixes = ["r", "b", "u", "f", "t", "rb", "br", "rf", "fr", "rt", "tr"];
    prefixes.iter().any(|prefix| name.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        let Ok(tokens) = tokens(text) else {
            return vec!["error".to_owned()];
        };
        tokens.iter().map(|token| token.kind.described()).collect()
    }

    #[test]
    fn a_line_becomes_its_tokens() {
        for (text, expected) in [
            ("x = 1_0.5e3", "`x` `=` the number 1_0.5e3"),
            ("a_1(b) # c (", "`a_1` `(` `b` `)`"),
            ("'a\\'b' \"#\"", "the string \"a\\\\'b\" the string \"#\""),
            ("rb'x' f\"y\" g'z'", "the string \"x\" the string \"y\" `g` the string \"z\""),
            ("'''a\n'b''c'''", "the string \"a\\n'b''c\""),
            ("''", "the string \"\""),
            ("(a\n,\nb)", "`(` `a` `,` `b` `)`"),
            ("a\nb;c", "`a` the end of the line `b` the end of the line `c`"),
            ("a \\\n b", "`a` `b`"),
            ("a \\\r\n b\r\n", "`a` `b` the end of the line"),
            ("\u{feff}\u{e9}t\u{e9}", "`\u{e9}t\u{e9}`"),
            ("]]", "`]` `]`"),
            ("", ""),
        ] {
            let mut expected: Vec<_> = vec![expected, "the end of the file"];
            expected.retain(|part| !part.is_empty());
            assert_eq!(kinds(text).join(" "), expected.join(" "), "{text:?}");
        }
    }

    #[test]
    fn places_are_counted_in_characters() {
        let tokens = tokens("\u{4e2d}\u{6587} x\n  '''a\nb''' y").expect("tokens");
        let places: Vec<_> = tokens.iter().map(|token| (token.position.line, token.position.column)).collect();
        assert_eq!(places, [(1, 1), (1, 4), (1, 5), (2, 3), (3, 6), (3, 7)]);
    }

    #[test]
    fn an_open_string_is_an_error_where_it_starts() {
        for (text, line, column) in [("x = 'abc\ny", 1, 5), ("x = 'abc\\", 1, 5), ("\n \"\"\"a\"\"\nb", 2, 2)] {
            let fault = tokens(text).expect_err(text);
            assert_eq!(fault.position, Position { line, column }, "{text:?}");
            assert_eq!(fault.problem, Problem::UnterminatedString);
        }
    }
}
