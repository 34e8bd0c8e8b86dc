//! The primitives an edge can hold, and their DARTS names.
//!
//! Takes names, gives [`Primitive`] values and back. What a primitive computes is left to the
//! lowering, which expands it into operators.

use std::fmt;
use std::str::FromStr;

use super::suggest::{hint, nearest};

/// The operation on an edge of a cell, named as in the DARTS code.
///
/// The order is the order of [`Primitive::ALL`]: the searched primitives first, in the order of
/// the columns of alpha.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Primitive {
    /// `none`: the zero map. It is searched, but it never stands in a genotype.
    None,
    /// `max_pool_3x3`: maximum over 3x3, padding 1.
    MaxPool3x3,
    /// `avg_pool_3x3`: mean over 3x3, padding 1, padding not counted.
    AvgPool3x3,
    /// `skip_connect`: the identity; a factorized reduction at stride 2.
    SkipConnect,
    /// `sep_conv_3x3`: (ReLU, depthwise 3x3, pointwise, BN) twice.
    SepConv3x3,
    /// `sep_conv_5x5`: (ReLU, depthwise 5x5, pointwise, BN) twice.
    SepConv5x5,
    /// `dil_conv_3x3`: ReLU, depthwise 3x3 of dilation 2, pointwise, BN.
    DilConv3x3,
    /// `dil_conv_5x5`: ReLU, depthwise 5x5 of dilation 2, pointwise, BN.
    DilConv5x5,
    /// `sep_conv_7x7`: (ReLU, depthwise 7x7, pointwise, BN) twice. NASNet and AmoebaNet use it.
    SepConv7x7,
    /// `conv_7x1_1x7`: ReLU, full 1x7 convolution, full 7x1 convolution, BN. AmoebaNet uses it.
    Conv7x1x7,
}

/// No primitive has this name. Its message lists the names and suggests the nearest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown primitive `{name}`{}; the primitives are {}", hint(*.nearest), Primitive::listed())]
pub struct UnknownPrimitive {
    /// What was given.
    pub name: String,
    /// The known name that is nearest to it, if one is near.
    pub nearest: Option<&'static str>,
}

impl Primitive {
    /// What the supernet searches over, in the order of the columns of alpha.
    pub const SEARCHED: [Primitive; 8] = [
        Primitive::None,
        Primitive::MaxPool3x3,
        Primitive::AvgPool3x3,
        Primitive::SkipConnect,
        Primitive::SepConv3x3,
        Primitive::SepConv5x5,
        Primitive::DilConv3x3,
        Primitive::DilConv5x5,
    ];

    /// Every primitive: the searched ones, then those that only published cells use.
    pub const ALL: [Primitive; 10] = [
        Primitive::None,
        Primitive::MaxPool3x3,
        Primitive::AvgPool3x3,
        Primitive::SkipConnect,
        Primitive::SepConv3x3,
        Primitive::SepConv5x5,
        Primitive::DilConv3x3,
        Primitive::DilConv5x5,
        Primitive::SepConv7x7,
        Primitive::Conv7x1x7,
    ];

    /// The name in DARTS code, genotype files and parameter names.
    pub fn name(self) -> &'static str {
        match self {
            Primitive::None => "none",
            Primitive::MaxPool3x3 => "max_pool_3x3",
            Primitive::AvgPool3x3 => "avg_pool_3x3",
            Primitive::SkipConnect => "skip_connect",
            Primitive::SepConv3x3 => "sep_conv_3x3",
            Primitive::SepConv5x5 => "sep_conv_5x5",
            Primitive::DilConv3x3 => "dil_conv_3x3",
            Primitive::DilConv5x5 => "dil_conv_5x5",
            Primitive::SepConv7x7 => "sep_conv_7x7",
            Primitive::Conv7x1x7 => "conv_7x1_1x7",
        }
    }

    /// Whether the primitive has no weights at stride 1: `none`, the pools and the skip.
    ///
    /// At stride 2 a skip is a factorized reduction, which has weights.
    pub fn is_parameter_free(self) -> bool {
        match self {
            Primitive::None | Primitive::MaxPool3x3 | Primitive::AvgPool3x3 | Primitive::SkipConnect => true,
            Primitive::SepConv3x3
            | Primitive::SepConv5x5
            | Primitive::DilConv3x3
            | Primitive::DilConv5x5
            | Primitive::SepConv7x7
            | Primitive::Conv7x1x7 => false,
        }
    }

    /// The names that may stand in a genotype, as one line for a message.
    pub(super) fn listed() -> String {
        let in_genotypes = Primitive::ALL.iter().filter(|p| **p != Primitive::None);
        let names: Vec<_> = in_genotypes.map(|p| p.name()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Primitive {
    type Err = UnknownPrimitive;

    fn from_str(name: &str) -> Result<Self, UnknownPrimitive> {
        let found = Primitive::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| UnknownPrimitive {
            name: name.to_owned(),
            nearest: nearest(name, Primitive::ALL.map(Primitive::name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_its_primitive() {
        for primitive in Primitive::ALL {
            assert_eq!(primitive.to_string().parse(), Ok(primitive));
        }
    }

    #[test]
    fn the_searched_primitives_open_the_list_of_all_and_are_in_order() {
        assert_eq!(Primitive::SEARCHED, Primitive::ALL[..8]);
        assert!(Primitive::ALL.is_sorted());
        assert_eq!(Primitive::SEARCHED[0], Primitive::None);
    }

    #[test]
    fn four_primitives_have_no_weights() {
        let free: Vec<_> = Primitive::ALL.into_iter().filter(|p| p.is_parameter_free()).collect();
        assert_eq!(free, Primitive::ALL[..4]);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest_and_the_list() {
        let message = "sep_conv3x3".parse::<Primitive>().expect_err("it is not a name").to_string();
        assert_eq!(
            message,
            "unknown primitive `sep_conv3x3` (did you mean `sep_conv_3x3`?); the primitives are \
             max_pool_3x3, avg_pool_3x3, skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, \
             dil_conv_5x5, sep_conv_7x7, conv_7x1_1x7"
        );
    }

    #[test]
    fn display_keeps_a_column_width() {
        assert_eq!(format!("[{:>6}]", Primitive::None), "[  none]");
    }
}
