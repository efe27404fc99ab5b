//! What a condition depends on.

use super::compile::{Condition, List, Text};

/// It depends on more of the resource than on labels that it names.
pub(super) struct More;

impl Condition {
    /// Adds the keys of the labels on which it depends.
    pub(super) fn labels<'c>(&'c self, keys: &mut Vec<&'c str>) -> Result<(), More> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().try_for_each(|part| part.labels(keys)),
            Self::Constant(_) => Ok(()),
            Self::Contains(list, text) | Self::HasPrefix(list, text) | Self::HasSuffix(list, text) => {
                list.labels(keys)?;
                text.labels(keys)
            }
            Self::ContainsAll(one, other) | Self::ContainsAny(one, other) | Self::SameList(one, other) => {
                one.labels(keys)?;
                other.labels(keys)
            }
            Self::Search(_) => Err(More),
            Self::Exists(list) | Self::Match(list, _) => list.labels(keys),
            Self::Not(inner) => inner.labels(keys),
            Self::SameText(one, other) => {
                one.labels(keys)?;
                other.labels(keys)
            }
        }
    }
}

impl Text {
    fn labels<'c>(&'c self, keys: &mut Vec<&'c str>) -> Result<(), More> {
        match self {
            Self::Label(key) => keys.push(key),
            Self::Literal(_) | Self::UserName => {}
            Self::Mapped(of, _) => return of.labels(keys),
            Self::ResourceName | Self::SessionLogin | Self::SessionServerId | Self::SessionServerName => {
                return Err(More);
            }
        }
        Ok(())
    }
}

impl List {
    fn labels<'c>(&'c self, keys: &mut Vec<&'c str>) -> Result<(), More> {
        match self {
            Self::LabelsMatching(_) | Self::Participants => Err(More),
            Self::Mapped(of, _) => of.labels(keys),
            Self::Split(text, _) => text.labels(keys),
            Self::Texts(texts) => texts.iter().try_for_each(|text| text.labels(keys)),
            Self::Trait(_) | Self::UserRoles => Ok(()),
        }
    }
}
