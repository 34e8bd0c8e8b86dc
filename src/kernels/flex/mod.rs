//! The kernels on burn's CPU back end.
use burn::backend::Flex;

use super::ops::{KernelGrads, KernelOps};

impl KernelOps for Flex {}
impl KernelGrads for Flex {}
