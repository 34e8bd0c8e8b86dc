//! Reads one Rust file the way the rules need it.
//!
//! Takes the text of a file and gives its [`Token`]s in order, each with its line and whether test code holds it, and
//! from those the [`Path`]s, with `use` trees spread out and `self`, `super` and `crate` resolved, and the `match`es.
//! Comments and the inside of strings are gone. Judges nothing: that is left to `rules`.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A word, a sign, or an opening or closing bracket. `::`, `=>` and `->` are one token each, a literal is `"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// As written, except literals.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// Whether it stands in an item under `#[cfg(test)]` or `#[test]`.
    pub test: bool,
}

/// A path as `a::b::c`, from a `use` or from anywhere else in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// From the crate root, starting with `crate`, or from an external or local name. A glob ends in `*`.
    pub segments: Vec<String>,
    /// Where it starts.
    pub line: usize,
    /// Whether test code holds it.
    pub test: bool,
    /// Whether it comes from a `use`.
    pub imported: bool,
    /// Whether `!` and a bracket follow: the name of a macro that is called.
    pub called_as_macro: bool,
}

/// One arm of a `match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// The alternatives of its pattern, without the guard.
    pub alternatives: Vec<Vec<String>>,
    /// Whether it has an `if`.
    pub guarded: bool,
    /// Where it starts.
    pub line: usize,
    /// Whether test code holds it.
    pub test: bool,
}

/// The tokens of a file; the error is the lexer's.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let stream: TokenStream = text.parse().map_err(|e: proc_macro2::LexError| e.to_string())?;
    let mut out = Vec::new();
    flatten(stream, false, &mut out);
    Ok(out)
}

/// The paths of a file that is module `module` of the crate: `["train", "fit"]` for `src/train/fit.rs`.
pub fn paths(tokens: &[Token], module: &[String]) -> Vec<Path> {
    let mut out = Vec::new();
    // The inline modules around the token, with the number of open brackets outside each.
    let mut inside: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while let Some(token) = tokens.get(i) {
        let here: Vec<String> = module.iter().cloned().chain(inside.iter().map(|(name, _)| name.clone())).collect();
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth -= 1;
                inside.pop_if(|(_, outside)| *outside == depth);
            }
            "mod" if text(tokens, i + 2) == "{" => {
                inside.push((tokens[i + 1].text.clone(), depth));
                i += 1;
            }
            "use" if text(tokens, i.wrapping_sub(1)) != "." && text(tokens, i + 1) != "<" => {
                i = use_tree(tokens, i + 1, &[], &here, &mut out);
                continue;
            }
            _ if is_word(token) && starts_path(tokens, i) => {
                let mut segments = vec![token.text.clone()];
                while text(tokens, i + 1) == "::" && tokens.get(i + 2).is_some_and(is_word) {
                    segments.push(tokens[i + 2].text.clone());
                    i += 2;
                }
                let bang = text(tokens, i + 1) == "!" && matches!(text(tokens, i + 2), "(" | "[" | "{");
                if segments.len() > 1 || bang {
                    out.push(Path {
                        segments: resolve(segments, &here),
                        line: token.line,
                        test: token.test,
                        imported: false,
                        called_as_macro: bang,
                    });
                }
            }
            _ => {}
        }
        i += 1;
    }
    out
}

/// The arms of every `match` of a file, one list a match.
pub fn matches(tokens: &[Token]) -> Vec<Vec<Arm>> {
    let mut out = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        if token.text == "match"
            && let Some(body) = find(tokens, i + 1, &["{"])
        {
            out.push(arms(tokens, body + 1));
        }
    }
    out
}

/// Names of the modules that the file declares, with whether each is for tests and lies in a file of its own.
pub fn modules(tokens: &[Token]) -> Vec<(String, bool, bool)> {
    let declared = |w: &[Token]| w[0].text == "mod" && matches!(w[2].text.as_str(), "{" | ";");
    let triples = tokens.windows(3).filter(|w| declared(w));
    triples.map(|w| (w[1].text.clone(), w[0].test, w[2].text == ";")).collect()
}

fn arms(tokens: &[Token], mut i: usize) -> Vec<Arm> {
    let mut arms = Vec::new();
    while text(tokens, i) != "}" && i < tokens.len() {
        let Some(arrow) = find(tokens, i, &["=>"]) else { break };
        let guard = find(&tokens[..arrow], i, &["if"]);
        let mut pattern: Vec<&Token> = tokens[i..guard.unwrap_or(arrow)].iter().collect();
        while pattern.len() > 1 && pattern[0].text == "#" && pattern[1].text == "[" {
            let end = pattern.iter().position(|t| t.text == "]").expect("brackets are paired by the lexer");
            pattern.drain(..=end);
        }
        let mut alternatives = vec![Vec::new()];
        let mut depth = 0;
        for token in &pattern {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                "|" if depth == 0 => {
                    alternatives.push(Vec::new());
                    continue;
                }
                _ => {}
            }
            alternatives.last_mut().expect("starts with one").push(token.text.clone());
        }
        alternatives.retain(|a| !a.is_empty());
        let first = pattern.first().map_or(tokens[arrow].line, |t| t.line);
        arms.push(Arm { alternatives, guarded: guard.is_some(), line: first, test: tokens[i].test });
        i = if text(tokens, arrow + 1) == "{" {
            let end = closing(tokens, arrow + 1) + 1;
            end + usize::from(text(tokens, end) == ",")
        } else {
            match find(tokens, arrow + 1, &[",", "}"]) {
                Some(end) if text(tokens, end) == "," => end + 1,
                Some(end) => end,
                None => break,
            }
        };
    }
    arms
}

/// Spreads the tree of a `use` that starts at token `i` and gives the token behind it.
fn use_tree(tokens: &[Token], mut i: usize, prefix: &[String], here: &[String], out: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let mut start = None;
    loop {
        let Some(token) = tokens.get(i) else { return i };
        match token.text.as_str() {
            "::" => {}
            "{" => {
                i += 1;
                while text(tokens, i) != "}" && i < tokens.len() {
                    i = use_tree(tokens, i, &segments, here, out);
                    i += usize::from(text(tokens, i) == ",");
                }
                return i + 1;
            }
            "as" => i += 1,
            "," | "}" | ";" => break,
            word => {
                // `a::{self}` is `a` itself.
                if word != "self" || segments.is_empty() {
                    segments.push(word.to_owned());
                }
                start.get_or_insert(token);
            }
        }
        i += 1;
    }
    if let Some(token) = start {
        out.push(Path {
            segments: resolve(segments, here),
            line: token.line,
            test: token.test,
            imported: true,
            called_as_macro: false,
        });
    }
    i
}

/// A path that starts with `self` or `super` as one that starts with `crate`.
fn resolve(segments: Vec<String>, here: &[String]) -> Vec<String> {
    let mut base = here.to_vec();
    let mut rest = segments.as_slice();
    match rest.first().map(String::as_str) {
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|s| s == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return segments,
    }
    std::iter::once("crate".to_owned()).chain(base).chain(rest.iter().cloned()).collect()
}

fn starts_path(tokens: &[Token], i: usize) -> bool {
    let before = text(tokens, i.wrapping_sub(1));
    let two_before = tokens.get(i.wrapping_sub(2));
    // `::name` at the start of a path is one, `Type::name` and `<T>::name` are not.
    before != "." && (before != "::" || two_before.is_none_or(|t| !is_word(t) && t.text != ">"))
}

/// The first token from `i` on that is one of `wanted` outside of brackets, `::<...>` among them.
fn find(tokens: &[Token], mut i: usize, wanted: &[&str]) -> Option<usize> {
    while i < tokens.len() {
        let here = text(tokens, i);
        if wanted.contains(&here) {
            return Some(i);
        }
        match here {
            "(" | "[" | "{" => i = closing(tokens, i),
            ")" | "]" | "}" => return None,
            "::" if text(tokens, i + 1) == "<" => {
                let mut open = 0;
                for (at, token) in tokens.iter().enumerate().skip(i + 1) {
                    open += usize::from(token.text == "<");
                    open -= usize::from(token.text == ">" && open > 0);
                    i = at;
                    if open == 0 {
                        break;
                    }
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// The bracket that closes the one at `i`.
fn closing(tokens: &[Token], i: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(i) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn flatten(stream: TokenStream, mut inside: bool, out: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut test = inside;
    let mut joint = false;
    for (i, tree) in trees.iter().enumerate() {
        let line = tree.span().start().line;
        if is_sign(tree, '#') && trees.get(i + 1).is_some_and(is_test_attribute) {
            test = true;
        }
        // `#![cfg(test)]` is about everything around it.
        if is_sign(tree, '!') && i > 0 && is_sign(&trees[i - 1], '#') && trees.get(i + 1).is_some_and(is_test_attribute)
        {
            inside = true;
            test = true;
        }
        let mut push = |text: &str, line| out.push(Token { text: text.to_owned(), line, test });
        let continues = std::mem::take(&mut joint);
        match tree {
            TokenTree::Ident(ident) => push(&ident.to_string(), line),
            TokenTree::Literal(_) => push("\"", line),
            TokenTree::Punct(punct) => {
                let sign = punct.as_char();
                match out.last_mut() {
                    Some(last) if continues && matches!((last.text.as_str(), sign), (":", ':') | ("=" | "-", '>')) => {
                        last.text.push(sign);
                    }
                    _ => {
                        out.push(Token { text: sign.to_string(), line, test });
                        joint = punct.spacing() == Spacing::Joint;
                    }
                }
                if sign == ';' {
                    test = inside;
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace | Delimiter::None => ("{", "}"),
                };
                push(open, line);
                flatten(group.stream(), test, out);
                out.push(Token { text: close.to_owned(), line: group.span_close().start().line, test });
                if open == "{" {
                    test = inside;
                }
            }
        }
    }
}

fn is_sign(tree: &TokenTree, sign: char) -> bool {
    matches!(tree, TokenTree::Punct(p) if p.as_char() == sign)
}

/// `[cfg(test)]`, `[cfg(all(test, ...))]` or `[test]`.
fn is_test_attribute(tree: &TokenTree) -> bool {
    let TokenTree::Group(group) = tree else { return false };
    let text: String = group.stream().to_string().split_whitespace().collect();
    text == "test" || text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

fn is_word(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn text(tokens: &[Token], i: usize) -> &str {
    tokens.get(i).map_or("", |t| &t.text)
}
