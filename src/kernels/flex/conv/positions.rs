//! Where outputs lie and what their taps add to it: the indices the loops of a convolution walk over.
//!
//! Takes rows of outputs and the number of lanes; gives one position a vector, with the largest index kept beside, so that one
//! comparison before a loop vouches for every load in it. The fields are private for that reason.
/// Offsets from a position, in the order of the weights.
#[derive(Clone, Debug)]
pub struct Taps {
    offsets: Vec<usize>,
    max: usize,
}

/// Source and destination of each output vector.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Private, because the largest of them is what the unchecked loads rely on.
    wide: Vec<Position>,
    short: Vec<Position>,
    disjoint: usize,
    width: usize,
    lanes: usize,
    max_source: usize,
    max_target: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub source: usize,
    pub target: usize,
}

impl Taps {
    pub fn new(offsets: Vec<usize>) -> Self {
        let max = offsets.iter().copied().max().unwrap_or(0);
        Self { offsets, max }
    }

    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }
}

impl Positions {
    /// `rows` are the source and target of the first output of each row of `width` outputs.
    pub fn new(lanes: usize, width: usize, rows: impl IntoIterator<Item = [usize; 2]>) -> Self {
        let (mut disjoint, mut overlapping, mut short) = (Vec::new(), Vec::new(), Vec::new());
        for [source, target] in rows {
            let at = |column| Position { source: source + column, target: target + column };
            if width == 0 {
            } else if width < lanes {
                short.push(at(0));
            } else {
                disjoint.extend((0..width / lanes).map(|i| at(i * lanes)));
                if !width.is_multiple_of(lanes) {
                    overlapping.push(at(width - lanes));
                }
            }
        }
        let count = disjoint.len();
        let mut wide = disjoint;
        wide.extend(overlapping);
        let all = || wide.iter().chain(&short);
        let max_source = all().map(|position| position.source).max().unwrap_or(0);
        let max_target = all().map(|position| position.target).max().unwrap_or(0);
        Self { wide, short, disjoint: count, width, lanes, max_source, max_target }
    }

    /// Vectors that lie wholly in a row of outputs, some of them moved back from its end over their neighbour.
    pub fn wide(&self) -> &[Position] {
        &self.wide
    }

    /// Those of [`Positions::wide`] that overlap no other.
    pub fn disjoint(&self) -> &[Position] {
        &self.wide[..self.disjoint]
    }

    /// Those moved back; only their last [`Positions::own_lanes`] lanes are theirs alone.
    pub fn overlapping(&self) -> &[Position] {
        &self.wide[self.disjoint..]
    }

    pub fn own_lanes(&self) -> usize {
        self.width % self.lanes
    }

    /// Rows shorter than a vector, each [`Positions::short_width`] long.
    pub fn short(&self) -> &[Position] {
        &self.short
    }

    pub fn short_width(&self) -> usize {
        self.width
    }

    pub fn is_empty(&self) -> bool {
        self.wide.is_empty() && self.short.is_empty()
    }

    /// Whether a vector of `lanes` at every position plus every offset lies in a source of `len` floats.
    pub fn fit_source(&self, taps: &Taps, len: usize, lanes: usize) -> bool {
        lanes == self.lanes && self.max_source + taps.max + lanes <= len
    }

    /// Whether a vector at every target lies in a buffer of `len` floats.
    pub fn fit_target(&self, len: usize) -> bool {
        self.max_target + self.width.min(self.lanes) <= len
    }
}
