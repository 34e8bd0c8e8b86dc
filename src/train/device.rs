//! Training devices: what was asked for, and what there is.
//!
//! Takes the text of `--device`; gives a burn device, or an error that says what this build and this machine have. Nothing
//! falls back silently: only `auto` chooses, and says what it chose.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use super::TrainError;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Cpu,
    /// NVIDIA, through CUDA.
    Cuda,
    /// Any GPU, through Vulkan.
    Vulkan,
    /// Apple, through Metal.
    Metal,
}

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA, Metal or Vulkan device that this build can use, else the processor.
    #[default]
    Auto,
    /// The device of this kind with this number.
    Fixed(Kind, usize),
}

const GPUS: [Kind; 3] = [Kind::Cuda, Kind::Metal, Kind::Vulkan];

impl Kind {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Cuda => "cuda",
            Kind::Vulkan => "vulkan",
            Kind::Metal => "metal",
        }
    }

    /// Whether this build has the back end (Cargo features `cuda`, `vulkan`, `metal`).
    pub fn is_built(self) -> bool {
        match self {
            Kind::Cpu => true,
            Kind::Cuda => cfg!(feature = "cuda"),
            Kind::Vulkan => cfg!(feature = "vulkan"),
            Kind::Metal => cfg!(feature = "metal"),
        }
    }

    /// The devices of this kind on this machine, in order of their numbers.
    pub fn devices(self) -> Vec<Device> {
        match self {
            Kind::Cpu => vec![Device::flex()],
            #[cfg(feature = "cuda")]
            Kind::Cuda => Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec(),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Device::enumerate(burn::tensor::DeviceType::Vulkan).into_vec(),
            #[cfg(feature = "metal")]
            Kind::Metal => Device::enumerate(burn::tensor::DeviceType::Metal).into_vec(),
            #[cfg(not(feature = "cuda"))]
            Kind::Cuda => Vec::new(),
            #[cfg(not(feature = "vulkan"))]
            Kind::Vulkan => Vec::new(),
            #[cfg(not(feature = "metal"))]
            Kind::Metal => Vec::new(),
        }
    }
}

impl DeviceChoice {
    /// The device and the name to report (`cpu`, `cuda:0`).
    ///
    /// # Errors
    /// When this build or this machine does not have the device.
    pub fn open(self) -> Result<(Device, String), TrainError> {
        let (kind, number) = match self {
            DeviceChoice::Fixed(kind, number) => (kind, number),
            DeviceChoice::Auto => {
                let gpu = GPUS.into_iter().find(|kind| !kind.devices().is_empty());
                (gpu.unwrap_or(Kind::Cpu), 0)
            }
        };
        if kind == Kind::Cpu {
            return Ok((Device::flex(), "cpu".into()));
        }
        let name = format!("{}:{number}", kind.name());
        let device = kind.devices().into_iter().nth(number);
        device.map(|device| (device, name)).ok_or_else(|| missing(kind, number))
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, number) = text.split_once(':').unwrap_or((text, "0"));
        let number = number.parse().map_err(|_| format!("`{number}` is not a device number"))?;
        match word {
            "auto" if text == "auto" => Ok(Self::Auto),
            "cpu" if text == "cpu" => Ok(Self::Fixed(Kind::Cpu, 0)),
            "cuda" => Ok(Self::Fixed(Kind::Cuda, number)),
            "vulkan" => Ok(Self::Fixed(Kind::Vulkan, number)),
            "metal" => Ok(Self::Fixed(Kind::Metal, number)),
            _ => Err(format!("`{text}` is not a device; give auto, cpu, cuda[:N], vulkan[:N] or metal[:N]")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Fixed(Kind::Cpu, _) => f.write_str("cpu"),
            DeviceChoice::Fixed(kind, number) => write!(f, "{}:{number}", kind.name()),
        }
    }
}

fn missing(kind: Kind, number: usize) -> TrainError {
    let name = kind.name();
    let why = if kind.is_built() {
        let found: Vec<String> = std::iter::once("cpu".to_owned())
            .chain(GPUS.iter().flat_map(|k| (0..k.devices().len()).map(|i| format!("{}:{i}", k.name()))))
            .collect();
        format!("--device {name}:{number}: there is no such device here; found: {}", found.join(", "))
    } else {
        format!(
            "--device {name}: this build has no {name} back end; build it with `cargo build --release --features {name}`"
        )
    };
    TrainError::Device { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_asked_for() {
        for text in ["auto", "cpu", "cuda:0", "vulkan:1", "metal:2"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Fixed(Kind::Cuda, 0)));
        for text in ["gpu", "cpu:1", "cuda:x", "auto:0", ""] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_that_says_so() {
        let error = DeviceChoice::Fixed(Kind::Cuda, 77).open().unwrap_err().to_string();
        assert!(error.contains("--device cuda"), "{error}");
    }
}
