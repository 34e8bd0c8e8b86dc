//! Starts the program in a folder of its own and keeps what it said.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A folder that disappears when dropped.
pub struct Folder(tempfile::TempDir);

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("the folder for temporary files is writable"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), contents).expect("the folder is writable");
    }

    /// The program, to be run in this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idarts-compile"));
        command.args(arguments).current_dir(self.0.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// As [`Self::run`], on a machine without any graphics driver, as far as the program can see.
    pub fn run_without_drivers(&self, arguments: &[&str]) -> Run {
        let mut command = self.command(arguments);
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
            command.env(variable, "/nonexistent");
        }
        Run::of(&mut command)
    }
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        // A signal or a panic has no status here, and no test expects this one.
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The one JSON object that stdout must be.
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "stdout must be one line: {self:?}");
        let value: Value = serde_json::from_str(&self.stdout).expect("stdout is JSON");
        assert!(value.is_object(), "{value}");
        value
    }
}
