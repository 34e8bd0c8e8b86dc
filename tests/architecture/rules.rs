//! The rules of the architecture and the house style.
//!
//! Takes the path and the text of a file and gives its [`Finding`]s; which module may do what stands in the tables of
//! the crate root, reading the file is left to `scan`, and `cases` shows that each rule finds what it should. Test code (`#[cfg(test)]`) may use whatever is left of its
//! module's layer, may unwrap, panic, print and touch files; the rules on external crates hold for it too.

use crate::scan::{self, Path, Token};
use crate::{EXTERNAL, MODULES, Module, PRINTING, PURE};
use std::fmt;

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    file: String,
    line: usize,
    /// One word: the check that found it.
    pub rule: &'static str,
    message: String,
}

impl Finding {
    /// `rule` is one word; `message` says what is wrong and what to do instead.
    pub fn new(file: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.file, self.line, self.rule, self.message)
    }
}

/// All that is wrong with one file, by the rules that need no other file. `is_test` says that the file is the body of a
/// `#[cfg(test)] mod name;`.
pub fn check(file: &str, text: &str, is_test: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mark = if file.ends_with(".wgsl") { "//" } else { "//!" };
    if !text.starts_with(mark) {
        let message = format!("must open with a `{mark}` header: what it takes, gives and leaves to others");
        findings.push(Finding::new(file, 1, "header", message));
    }
    let (Some(in_src), true) = (file.strip_prefix("src/"), file.ends_with(".rs")) else { return findings };
    let mut tokens = match scan::tokens(text) {
        Ok(tokens) => tokens,
        Err(why) => {
            findings.push(Finding::new(file, 1, "syntax", why));
            return findings;
        }
    };
    if is_test {
        tokens.iter_mut().for_each(|t| t.test = true);
    }
    let path: Vec<String> = module_path(in_src);
    // The crate root declares the modules and belongs to none of them.
    let owner = path.first().map_or("lib", String::as_str);
    let row = MODULES.iter().find(|m| m.name == owner);
    let here = if owner == "main" { &[] } else { path.as_slice() };
    for path in scan::paths(&tokens, here) {
        findings.extend(import(file, owner, row, &path));
        findings.extend(external(file, owner, &path, &tokens));
        findings.extend(effects(file, owner, &path));
    }
    findings.extend(panics(file, &tokens));
    findings.extend(wildcards(file, &tokens));
    findings
}

/// The files that are test code because a parent declares them, or the module they lie in, under `#[cfg(test)]`.
pub fn test_files(files: &[(String, String)]) -> Vec<String> {
    let mut modules = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| name.starts_with("src/") && name.ends_with(".rs")) {
        let folder = name.strip_suffix("/mod.rs").or(name.strip_suffix(".rs")).expect("filtered by its ending");
        let folder = if matches!(folder, "src/lib" | "src/main") { "src" } else { folder };
        for (module, test, own_file) in scan::modules(&scan::tokens(text).unwrap_or_default()) {
            if test && own_file {
                modules.push(format!("{folder}/{module}"));
            }
        }
    }
    let within = |name: &str| {
        modules.iter().any(|m| name.strip_prefix(m.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')))
    };
    files.iter().filter(|(name, _)| within(name)).map(|(name, _)| name.clone()).collect()
}

/// `train/fit.rs` and `train/fit/mod.rs` are `["train", "fit"]`, `lib.rs` is the root.
fn module_path(in_src: &str) -> Vec<String> {
    let stem = in_src.trim_end_matches(".rs").trim_end_matches("/mod");
    if stem == "lib" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// Layers: a module uses only those of its row.
fn import(file: &str, owner: &str, row: Option<&Module>, path: &Path) -> Option<Finding> {
    let finding = |message| Some(Finding::new(file, path.line, "layers", message));
    let inside = match path.segments.first().map(String::as_str) {
        Some("crate") => owner != "main",
        Some("idarts_compile") => true,
        _ => false,
    };
    if !inside || owner == "lib" {
        return None;
    }
    let Some(used) = path.segments.get(1).filter(|s| *s != "*" && *s != "self") else {
        return finding("imports the crate root; name the module, so that the layers can be seen".to_owned());
    };
    let Some(other) = MODULES.iter().find(|m| m.name == used) else {
        return finding(format!("`{used}` is no module of the table; use the path through its module"));
    };
    let Some(row) = row else { return finding(format!("`{owner}` has no row in the table, so it may use nothing")) };
    let left = other.layer < row.layer || row.in_tests.contains(&other.name);
    if used == owner || row.uses.contains(&other.name) || (path.test && left) {
        return None;
    }
    let may = if row.uses.is_empty() { "nothing of this crate".to_owned() } else { row.uses.join(", ") };
    finding(format!("`{owner}` may not use `{used}`; it may use {may}"))
}

/// An external crate is used only where its row says.
fn external(file: &str, owner: &str, path: &Path, tokens: &[Token]) -> Option<Finding> {
    let name = path.segments.first()?;
    let (_, modules) = EXTERNAL.iter().find(|(known, _)| known == name)?;
    // A module of that name beside the code shadows the crate.
    let shadowed = scan::modules(tokens).iter().any(|(module, ..)| module == name);
    if shadowed || modules.contains(&"*") || modules.contains(&owner) {
        return None;
    }
    let message = format!("`{name}` belongs to {}; `{owner}` goes through that", modules.join(", "));
    Some(Finding::new(file, path.line, "external", message))
}

/// Files, environment, stdout and stderr.
fn effects(file: &str, owner: &str, path: &Path) -> Option<Finding> {
    if path.test {
        return None;
    }
    let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let last = *segments.last()?;
    if PURE.contains(&owner) && matches!(segments[..], ["std", "fs" | "env" | "net" | "process", ..]) {
        let message = format!("`{owner}` touches neither files nor environment; take the contents as arguments");
        return Some(Finding::new(file, path.line, "pure", message));
    }
    let macros = ["print", "println", "eprint", "eprintln"];
    let stream = matches!(segments[..], ["io", _] | ["std", "io", _]) && matches!(last, "stdout" | "stderr");
    if !PRINTING.contains(&owner) && (stream || (path.called_as_macro && macros.contains(&last))) {
        let message = format!("`{last}` only in cli; return the text or report through a callback");
        return Some(Finding::new(file, path.line, "printing", message));
    }
    None
}

/// No panic on what a user or another module may bring about.
fn panics(file: &str, tokens: &[Token]) -> Vec<Finding> {
    let mut out = Vec::new();
    let text = |i: usize| tokens.get(i).map_or("", |t: &Token| &t.text);
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| !t.test) {
        let method = matches!(text(i.wrapping_sub(1)), "." | "::") && text(i.wrapping_sub(2)) != "crate";
        let message = match token.text.as_str() {
            "unwrap" | "unwrap_err" if method => "return an error, or `expect` with the invariant",
            "panic" | "todo" | "unimplemented" | "dbg" if text(i + 1) == "!" && text(i + 2) != "=" => "return an error",
            "unreachable" if text(i + 1) == "!" && text(i + 3) == ")" => "say why it is unreachable",
            _ => continue,
        };
        out.push(Finding::new(file, token.line, "panics", format!("`{}`: {message}", token.text)));
    }
    out
}

/// A `match` on `Op` answers for every op. One on a pair of ops is a peephole and may leave the rest alone.
fn wildcards(file: &str, tokens: &[Token]) -> Vec<Finding> {
    let mut out = Vec::new();
    for path in scan::paths(tokens, &[]).iter().filter(|p| p.imported && !p.test) {
        let after = path.segments.iter().position(|s| s == "Op").map(|i| i + 1);
        if after.is_some_and(|i| i < path.segments.len()) {
            let message = "import `Op`, not its variants: `Op::Relu` shows what is matched";
            out.push(Finding::new(file, path.line, "wildcard", message));
        }
    }
    for arms in scan::matches(tokens) {
        let on_op = arms.iter().flat_map(|a| &a.alternatives).any(|a| names_op(unwrapped(a)));
        for arm in arms.iter().filter(|a| on_op && !a.guarded && !a.test) {
            if arm.alternatives.iter().any(|a| catches_all(unwrapped(a))) {
                let message = "catches every op not named: list them, or ask about the named ones by `let ... else` or `matches!`";
                out.push(Finding::new(file, arm.line, "wildcard", message));
            }
        }
    }
    out
}

/// A pattern without the references and the `Some(...)` or `Ok(...)` around it.
fn unwrapped(mut pattern: &[String]) -> &[String] {
    loop {
        let words: Vec<&str> = pattern.iter().map(String::as_str).collect();
        pattern = match words[..] {
            ["&" | "ref" | "mut", ..] => &pattern[1..],
            ["Some" | "Ok", "(", .., ")"] => &pattern[2..pattern.len() - 1],
            _ => return pattern,
        };
    }
}

/// `Op::X`, `ir::Op::X { .. }`, `op @ Op::X`.
fn names_op(pattern: &[String]) -> bool {
    let head = pattern.iter().take_while(|t| !matches!(t.as_str(), "(" | "{" | "[")).collect::<Vec<_>>();
    head.windows(2).any(|w| w[0] == "Op" && w[1] == "::")
}

/// `_`, `name` or `name @ _`.
fn catches_all(pattern: &[String]) -> bool {
    let is_name = |t: &str| t.starts_with(|c: char| c.is_lowercase() || c == '_');
    match pattern.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name] => is_name(name) && !matches!(name, "true" | "false"),
        [name, "@", "_"] => is_name(name),
        _ => false,
    }
}
