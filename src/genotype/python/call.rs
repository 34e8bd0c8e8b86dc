//! The arguments of a call of `Genotype`.
//!
//! Takes the tokens, gives the two cells as they are written, with the place of each item:
//! keywords in any order or arguments in the order of the namedtuple, lists or tuples,
//! `range(a, b)`. Which node an edge belongs to is left to `parse`.

use super::Fault;
use super::module::Literal;
use super::token::{Kind, Token};
use crate::genotype::Edge;
use crate::genotype::error::{Position, Problem};
use crate::genotype::primitive::{Primitive, UnknownPrimitive};
use crate::genotype::suggest::nearest;

/// The fields of the namedtuple in their order.
const FIELDS: [&str; 4] = ["normal", "normal_concat", "reduce", "reduce_concat"];

/// What is added where a field of [`FIELDS`] is missing.
const EXAMPLES: [&str; 4] = [
    "normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ...]",
    "normal_concat=range(2, 6)",
    "reduce=[('max_pool_3x3', 0), ('skip_connect', 1), ...]",
    "reduce_concat=range(2, 6)",
];

/// One cell as it is written.
pub(super) struct Written {
    pub edges: Edges,
    pub states: States,
}

/// A list of edges and where it starts.
pub(super) struct Edges {
    pub position: Position,
    pub items: Vec<WrittenEdge>,
}

/// An edge and where its primitive and its input stand.
pub(super) struct WrittenEdge {
    pub edge: Edge,
    pub op: Position,
    pub input: Position,
}

/// A concat and where it starts.
pub(super) struct States {
    pub position: Position,
    pub list: StateList,
}

pub(super) enum StateList {
    Items(Vec<(usize, Position)>),
    Range(usize, usize),
}

/// The normal and the reduction cell of `literal`.
pub(super) fn cells(tokens: &[Token], literal: &Literal) -> Result<[Written; 2], Fault> {
    let index = literal.start;
    let mut cursor = Cursor { tokens, index };
    let mut edges = [None, None];
    let mut states = [None, None];
    let mut keywords = false;
    let mut count = 0;
    while !cursor.take(')') {
        let position = cursor.position();
        let keyword = cursor.keyword()?;
        keywords |= keyword.is_some();
        let field = match keyword {
            Some(field) => field,
            None if keywords => return Err(cursor.expected("a keyword, e.g. `normal=`", "")),
            None if count == FIELDS.len() => return Err(cursor.expected("`)`", "")),
            None => count,
        };
        count += 1;
        let key = FIELDS[field];
        let cell = field / 2;
        let is_doubled = match field % 2 {
            0 => edges[cell].replace(cursor.edges(key)?).is_some(),
            _ => states[cell].replace(cursor.states(key)?).is_some(),
        };
        if is_doubled {
            let key = key.to_owned();
            return Err(Fault::new(position, Problem::DuplicateKey { key }));
        }
        cursor.separator(')', "")?;
    }
    let missing = |field: usize| {
        let (key, example) = (FIELDS[field], EXAMPLES[field]);
        Fault::new(literal.position, Problem::MissingKey { key, example })
    };
    let [normal, reduce] = edges;
    let [normal_concat, reduce_concat] = states;
    let normal = Written { edges: normal.ok_or_else(|| missing(0))?, states: normal_concat.ok_or_else(|| missing(1))? };
    let reduce = Written { edges: reduce.ok_or_else(|| missing(2))?, states: reduce_concat.ok_or_else(|| missing(3))? };
    Ok([normal, reduce])
}

/// The tokens from `index` on. Only tokens other than the last are stepped over.
struct Cursor<'a> {
    tokens: &'a [Token],
    index: usize,
}

impl Cursor<'_> {
    /// The field of `FIELD=`, if that stands here.
    fn keyword(&mut self) -> Result<Option<usize>, Fault> {
        let Kind::Name(name) = self.kind() else {
            return Ok(None);
        };
        // A name is not the last token, so there is a next one.
        if self.tokens[self.index + 1].kind != Kind::Symbol('=') {
            return Ok(None);
        }
        let field = FIELDS.iter().position(|field| field == name);
        let field = field.ok_or_else(|| {
            let problem = Problem::UnknownKey { key: name.clone(), known: &FIELDS, nearest: nearest(name, FIELDS) };
            Fault::new(self.position(), problem)
        })?;
        self.index += 2;
        Ok(Some(field))
    }

    fn edges(&mut self, key: &str) -> Result<Edges, Fault> {
        let position = self.position();
        let mut items = Vec::new();
        let close = self.open("a list of edges, e.g. [('sep_conv_3x3', 0), ...]", key)?;
        while !self.take(close) {
            let item = format!("{key}[{}]", items.len());
            items.push(self.edge(&item)?);
            self.separator(close, key)?;
        }
        Ok(Edges { position, items })
    }

    fn edge(&mut self, key: &str) -> Result<WrittenEdge, Fault> {
        let close = self.open("an edge, e.g. ('sep_conv_3x3', 0)", key)?;
        let op = self.position();
        let Kind::Text(name) = self.kind() else {
            return Err(self.expected("the name of a primitive in quotes", key));
        };
        let primitive: Primitive = name.parse().map_err(|unknown: UnknownPrimitive| Fault {
            position: op,
            key: format!("{key}[0]"),
            problem: unknown.into(),
        })?;
        self.index += 1;
        self.need(',', "`,` and the state that the edge reads", key)?;
        let position = self.position();
        let input = self.number(&format!("{key}[1]"))?;
        self.take(',');
        self.need(close, "the end of the edge: it has a primitive and a state", key)?;
        let edge = Edge { primitive, input };
        Ok(WrittenEdge { edge, op, input: position })
    }

    fn states(&mut self, key: &str) -> Result<States, Fault> {
        let position = self.position();
        let is_wrapped = self.take_name("list") || self.take_name("tuple");
        if is_wrapped {
            self.need('(', "`(`", key)?;
        }
        let list = match self.take_name("range") {
            true => self.range(key)?,
            false => self.state_list(key)?,
        };
        if is_wrapped {
            self.need(')', "`)`", key)?;
        }
        Ok(States { position, list })
    }

    fn range(&mut self, key: &str) -> Result<StateList, Fault> {
        self.need('(', "`(`", key)?;
        let first = self.number(key)?;
        let has_end = self.take(',') && *self.kind() != Kind::Symbol(')');
        let (from, to) = match has_end {
            true => (first, self.number(key)?),
            false => (0, first),
        };
        self.take(',');
        self.need(')', "`)`: a range of states has no step", key)?;
        Ok(StateList::Range(from, to))
    }

    fn state_list(&mut self, key: &str) -> Result<StateList, Fault> {
        let close = self.open("a list of states, e.g. [2, 3, 4, 5] or range(2, 6)", key)?;
        let mut items = Vec::new();
        while !self.take(close) {
            let position = self.position();
            let item = format!("{key}[{}]", items.len());
            items.push((self.number(&item)?, position));
            self.separator(close, key)?;
        }
        Ok(StateList::Items(items))
    }

    fn number(&mut self, key: &str) -> Result<usize, Fault> {
        let number = match self.kind() {
            Kind::Number(digits) => digits.parse().ok(),
            _ => None,
        };
        let expected = "the number of a state (0 and 1 are the cell's inputs, 2 is node 0)";
        let number = number.ok_or_else(|| self.expected(expected, key))?;
        self.index += 1;
        Ok(number)
    }

    /// Step over `[` or `(`, and give the bracket that closes it.
    fn open(&mut self, expected: &'static str, key: &str) -> Result<char, Fault> {
        let close = match self.kind() {
            Kind::Symbol('[') => ']',
            Kind::Symbol('(') => ')',
            _ => return Err(self.expected(expected, key)),
        };
        self.index += 1;
        Ok(close)
    }

    /// Step over a comma, which may be left out before the closing bracket.
    fn separator(&mut self, close: char, key: &str) -> Result<(), Fault> {
        if self.take(',') || *self.kind() == Kind::Symbol(close) {
            return Ok(());
        }
        Err(self.expected("`,` or the closing bracket", key))
    }

    fn need(&mut self, symbol: char, expected: &'static str, key: &str) -> Result<(), Fault> {
        match self.take(symbol) {
            true => Ok(()),
            false => Err(self.expected(expected, key)),
        }
    }

    fn take(&mut self, symbol: char) -> bool {
        let is_here = *self.kind() == Kind::Symbol(symbol);
        self.index += usize::from(is_here);
        is_here
    }

    fn take_name(&mut self, wanted: &str) -> bool {
        let is_here = matches!(self.kind(), Kind::Name(name) if name == wanted);
        self.index += usize::from(is_here);
        is_here
    }

    fn expected(&self, expected: &'static str, key: &str) -> Fault {
        let found = self.kind().described();
        Fault { position: self.position(), key: key.to_owned(), problem: Problem::Expected { expected, found } }
    }

    fn kind(&self) -> &Kind {
        &self.tokens[self.index].kind
    }

    fn position(&self) -> Position {
        self.tokens[self.index].position
    }
}
