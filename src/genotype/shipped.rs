//! The genotypes that come with the program, embedded from `genotypes/`.
//!
//! Gives their names and texts; reading them is left to the YAML reader.

/// The names of the shipped genotypes.
pub(super) const NAMES: [&str; 7] =
    ["DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "PC_DARTS_image", "NASNet", "AmoebaNet", "idarts_cifar10_seed0"];

/// The file in `genotypes/` and its text, in the order of [`NAMES`].
pub(super) const FILES: [(&str, &str); 7] = [
    ("darts_v1.yaml", include_str!("../../genotypes/darts_v1.yaml")),
    ("darts_v2.yaml", include_str!("../../genotypes/darts_v2.yaml")),
    ("pc_darts_cifar.yaml", include_str!("../../genotypes/pc_darts_cifar.yaml")),
    ("pc_darts_image.yaml", include_str!("../../genotypes/pc_darts_image.yaml")),
    ("nasnet.yaml", include_str!("../../genotypes/nasnet.yaml")),
    ("amoebanet.yaml", include_str!("../../genotypes/amoebanet.yaml")),
    ("idarts_cifar10_seed0.yaml", include_str!("../../genotypes/idarts_cifar10_seed0.yaml")),
];
