//! Texts with request variables, such as `https://www.example.com${path_and_query}`.

use std::{fmt::Write as _, str::FromStr};

/// A request variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The client's address, after trusted proxies.
    ClientIp,
    /// The request's host without its port.
    Host,
    /// The path in normal form.
    Path,
    /// The query without its question mark.
    Query,
    /// The path, and the query with its question mark if there is one.
    PathAndQuery,
    /// The method.
    Method,
    /// `http` or `https`.
    Scheme,
    /// The request's id.
    RequestId,
    /// The listener's name.
    Listener,
    /// The route's name.
    Route,
    /// The pool's name, where one is chosen already.
    Pool,
    /// The backend's name, where one is chosen already.
    Backend,
}

impl Variable {
    /// Every variable.
    pub const ALL: [Self; 12] = [
        Self::ClientIp,
        Self::Host,
        Self::Path,
        Self::Query,
        Self::PathAndQuery,
        Self::Method,
        Self::Scheme,
        Self::RequestId,
        Self::Listener,
        Self::Route,
        Self::Pool,
        Self::Backend,
    ];

    /// Those that are known before a pool is chosen.
    pub fn early() -> &'static [Self] {
        const ALL: &[Variable] = &Variable::ALL;
        ALL.split_at(ALL.len() - 2).0
    }

    /// The name between the braces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientIp => "client_ip",
            Self::Host => "host",
            Self::Path => "path",
            Self::Query => "query",
            Self::PathAndQuery => "path_and_query",
            Self::Method => "method",
            Self::Scheme => "scheme",
            Self::RequestId => "request_id",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Pool => "pool",
            Self::Backend => "backend",
        }
    }
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No variable has this name.
    #[error("unknown variable ${{{0}}}")]
    Unknown(String),
    /// A `${` without its `}`.
    #[error("a `${{` without its `}}`")]
    Unclosed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

/// A text with request variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Whether the text has a variable in it.
    pub fn has_variables(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Variable(_)))
    }

    /// The text up to the first variable.
    pub fn beginning(&self) -> &str {
        match self.0.first() {
            Some(Part::Literal(literal)) => literal,
            Some(Part::Variable(_)) | None => "",
        }
    }

    /// The variables in the text, in order.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(*variable),
            Part::Literal(_) => None,
        })
    }

    /// The text with each variable replaced by what `write` writes for it.
    pub fn render(&self, mut write: impl FnMut(Variable, &mut String)) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(variable) => write(*variable, &mut text),
            }
        }
        text
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    /// Reads a text in which `$$` is a dollar sign and `${name}` a variable.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
                let variable = Variable::ALL
                    .into_iter()
                    .find(|variable| variable.as_str() == name)
                    .ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Variable(variable));
                rest = after;
            } else {
                literal.write_char('$').expect("writing to a String cannot fail");
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_variables_and_dollar_signs() {
        let template: Template = "a$$b${path_and_query}$c${host}".parse().unwrap();
        let text = template.render(|variable, out| write!(out, "<{}>", variable.as_str()).unwrap());
        assert_eq!(text, "a$b<path_and_query>$c<host>");
        assert!(template.has_variables());
    }

    #[test]
    fn refuses_unknown_variables_and_open_braces() {
        assert_eq!("${pth}".parse::<Template>(), Err(TemplateError::Unknown("pth".into())));
        assert_eq!("x${host".parse::<Template>(), Err(TemplateError::Unclosed));
    }
}
