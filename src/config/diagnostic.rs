//! What is wrong with a configuration, and where.

pub(super) use crate::model::fault::{Fault, Position, alternatives, nearest, quote};

use crate::model::fault::one_line;
use std::{error::Error, fmt};

/// One error or warning about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as the user named it.
    pub file: String,
    /// Where in the file; `None` when it is about the file as a whole.
    pub position: Option<Position>,
    /// The key path, such as `pools.app.backends[1].weight`; empty at the top.
    pub path: String,
    /// What was found, what was expected and the nearest spelling.
    pub message: String,
}

impl Diagnostic {
    /// What `fault` says, on one line whatever keys and values have in them.
    pub(super) fn new(file: &str, position: Option<Position>, path: &str, fault: &Fault) -> Self {
        Self::said(file, position, path, &fault.to_string())
    }

    /// The same with a message that is put together already.
    pub(super) fn said(file: &str, position: Option<Position>, path: &str, message: &str) -> Self {
        let (path, message) = (one_line(path), one_line(message));
        Self { file: file.to_owned(), position, path, message }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Diagnostic>);

impl ConfigErrors {
    /// Sorts `diagnostics` by position; those at the same place keep their order.
    pub(super) fn sorted(mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.position);
        Self(diagnostics)
    }

    /// An error about the file as a whole or about its syntax.
    pub(super) fn single(file: &str, position: Option<Position>, fault: &Fault) -> Self {
        Self(vec![Diagnostic::new(file, position, "", fault)])
    }

    /// Errors about no place in the file.
    pub(super) fn general(file: &str, faults: &[Fault]) -> Self {
        Self(faults.iter().map(|fault| Diagnostic::new(file, None, "", fault)).collect())
    }

    /// The errors in file order.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    /// Writes one error a line, without a newline after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
