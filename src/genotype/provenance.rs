//! Where a genotype comes from.
//!
//! Holds the facts and lists those that are known, in file order. How they are written is left to
//! the YAML and Python writers.

/// Where a genotype comes from: a paper, or a search and its settings. Nothing here changes the
/// network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// The publication or run it stems from, as free text.
    pub source: Option<String>,
    /// The search method, e.g. `idarts`, `pc-darts`, `darts`.
    pub method: Option<String>,
    /// The data set that was searched on.
    pub dataset: Option<String>,
    /// The seed of the search.
    pub seed: Option<u64>,
    /// Epochs of the search.
    pub epochs: Option<usize>,
    /// The supernet's top-1 accuracy on its validation half, as a fraction of 1.
    pub valid_top1: Option<f64>,
    /// A hash of the search's configuration.
    pub config_hash: Option<String>,
    /// Name and version of the program that wrote the genotype.
    pub tool: Option<String>,
    /// When it was written, as ISO 8601 text.
    pub created: Option<String>,
}

/// One known fact, as the writers need it.
pub(super) enum Fact<'a> {
    Text(&'a str),
    Whole(u64),
    Real(f64),
}

impl Provenance {
    /// The keys of a genotype file's `provenance`.
    pub(super) const KEYS: [&'static str; 9] =
        ["source", "method", "dataset", "seed", "epochs", "valid_top1", "config_hash", "tool", "created"];

    /// The known facts with their keys, in the order of [`Provenance::KEYS`].
    pub(super) fn facts(&self) -> Vec<(&'static str, Fact<'_>)> {
        fn text(field: &Option<String>) -> Option<Fact<'_>> {
            field.as_deref().map(Fact::Text)
        }
        let facts = [
            text(&self.source),
            text(&self.method),
            text(&self.dataset),
            self.seed.map(Fact::Whole),
            self.epochs.map(|epochs| Fact::Whole(epochs as u64)),
            self.valid_top1.map(Fact::Real),
            text(&self.config_hash),
            text(&self.tool),
            text(&self.created),
        ];
        let keyed = Self::KEYS.into_iter().zip(facts);
        keyed.filter_map(|(key, fact)| Some((key, fact?))).collect()
    }
}
