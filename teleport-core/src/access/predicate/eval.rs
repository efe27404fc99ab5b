//! Evaluation. What is not known stays unknown, unless the answer is the same either way.

use std::borrow::Cow;

use super::compile::{Condition, List, Text};
use super::facts::{Facts, ResourceFacts};
use crate::access::search::has_words;
use crate::access::transform::TooLong;

/// The answer depends on a fact that is not given, or on a text that is too long.
struct Unknown;

impl From<TooLong> for Unknown {
    fn from(_: TooLong) -> Self {
        Self
    }
}

impl Condition {
    pub(super) fn evaluate(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::All(parts) => join(parts, facts, false),
            Self::Any(parts) => join(parts, facts, true),
            Self::Not(inner) => inner.evaluate(facts).map(|value| !value),
            other => other.compare(facts).ok(),
        }
    }

    fn compare(&self, facts: &Facts<'_>) -> Result<bool, Unknown> {
        match self {
            Self::Contains(list, item) => match item.value(facts)? {
                Some(item) => list.any(facts, &mut |value| value == item),
                None => Ok(false),
            },
            Self::ContainsAll(list, items) => {
                let (values, items) = (list.values(facts)?, items.values(facts)?);
                Ok(!items.is_empty() && items.iter().all(|item| values.contains(item)))
            }
            Self::ContainsAny(list, items) => {
                let values = list.values(facts)?;
                items.any(facts, &mut |item| values.iter().any(|value| value == item))
            }
            Self::Exists(list) => list.any(facts, &mut |_| true),
            Self::HasPrefix(list, with) => match with.value(facts)? {
                Some(with) => list.any(facts, &mut |value| value.starts_with(&*with)),
                None => Ok(false),
            },
            Self::HasSuffix(list, with) => match with.value(facts)? {
                Some(with) => list.any(facts, &mut |value| value.ends_with(&*with)),
                None => Ok(false),
            },
            Self::Match(list, pattern) => list.any(facts, &mut |value| pattern.matches(value)),
            Self::SameList(left, right) => {
                let (left, right) = (left.values(facts)?, right.values(facts)?);
                let within = |some: &[_], others: &[_]| some.iter().all(|value| others.contains(value));
                Ok(within(&left, &right) && within(&right, &left))
            }
            Self::SameText(left, right) => {
                Ok(left.value(facts)?.unwrap_or_default() == right.value(facts)?.unwrap_or_default())
            }
            Self::Search(words) => {
                let ResourceFacts { name, address, labels, session: _ } = facts.resource;
                let texts = [name.ok_or(Unknown)?, address.ok_or(Unknown)?];
                Ok(has_words(words, texts, labels.ok_or(Unknown)?))
            }
            Self::Constant(value) => Ok(*value),
            Self::All(_) | Self::Any(_) | Self::Not(_) => self.evaluate(facts).ok_or(Unknown),
        }
    }
}

/// `decisive` if a part is, else unknown if a part is, else the opposite.
fn join(parts: &[Condition], facts: &Facts<'_>, decisive: bool) -> Option<bool> {
    let mut joined = Some(!decisive);
    for part in parts {
        match part.evaluate(facts) {
            Some(value) if value == decisive => return Some(decisive),
            Some(_) => {}
            None => joined = None,
        }
    }
    joined
}

impl Text {
    fn value<'f>(&'f self, facts: &Facts<'f>) -> Result<Option<Cow<'f, str>>, Unknown> {
        let session = || facts.resource.session.ok_or(Unknown);
        let text = match self {
            Self::Label(key) => match facts.resource.labels.ok_or(Unknown)?.get(key) {
                Some(value) => value,
                None => return Ok(None),
            },
            Self::Literal(text) => text,
            Self::Mapped(of, transform) => {
                let Some(value) = of.value(facts)? else { return Ok(None) };
                return Ok(transform.apply(&value)?.map(Cow::Owned));
            }
            Self::ResourceName => facts.resource.name.ok_or(Unknown)?,
            Self::SessionLogin => session()?.login,
            Self::SessionServerId => session()?.server_id,
            Self::SessionServerName => session()?.server_hostname,
            Self::UserName => facts.subject.name,
        };
        Ok(Some(Cow::Borrowed(text)))
    }
}

impl List {
    /// Whether one of the values passes.
    fn any<'f>(&'f self, facts: &Facts<'f>, passes: &mut dyn FnMut(&str) -> bool) -> Result<bool, Unknown> {
        match self {
            Self::LabelsMatching(keys) => {
                let labels = facts.resource.labels.ok_or(Unknown)?;
                Ok(labels.iter().any(|(key, value)| keys.matches(key) && passes(value)))
            }
            Self::Mapped(of, transform) => {
                let mut known = Ok(());
                let found = of.any(facts, &mut |value| match transform.apply(value) {
                    Ok(result) => result.is_some_and(|result| passes(&result)),
                    Err(too_long) => {
                        known = Err(Unknown::from(too_long));
                        false
                    }
                })?;
                if found { Ok(true) } else { known.map(|()| false) }
            }
            Self::Participants => {
                let session = facts.resource.session.ok_or(Unknown)?;
                Ok(session.participants.iter().any(|user| passes(user)))
            }
            Self::Split(text, at) => {
                let value = text.value(facts)?.unwrap_or_default();
                let mut parts = value.split(at.as_str()).map(str::trim).filter(|part| !part.is_empty());
                Ok(parts.any(passes))
            }
            Self::Texts(texts) => {
                for text in texts {
                    if text.value(facts)?.is_some_and(|value| passes(&value)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Trait(name) => Ok(facts
                .subject
                .traits
                .get(name)
                .is_some_and(|values| values.iter().any(|value| passes(value)))),
            Self::UserRoles => Ok(facts.subject.held().any(|role| passes(role.as_str()))),
        }
    }

    fn values<'f>(&'f self, facts: &Facts<'f>) -> Result<Vec<String>, Unknown> {
        let mut values = Vec::new();
        self.any(facts, &mut |value| {
            values.push(value.to_owned());
            false
        })?;
        Ok(values)
    }
}
