//! What a condition depends on.

use super::compile::{Condition, List, Text};

/// Something of the resource on which a condition depends.
pub(super) enum Read<'c> {
    /// One label.
    Label(&'c str),
    /// Any of the labels.
    Labels,
    Name,
    Session,
}

impl Condition {
    /// Tells of everything that it depends on.
    pub(super) fn reads<'c>(&'c self, tell: &mut dyn FnMut(Read<'c>)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.reads(tell)),
            Self::Constant(_) => {}
            Self::Contains(list, text) | Self::HasPrefix(list, text) | Self::HasSuffix(list, text) => {
                list.reads(tell);
                text.reads(tell);
            }
            Self::ContainsAll(one, other) | Self::ContainsAny(one, other) | Self::SameList(one, other) => {
                one.reads(tell);
                other.reads(tell);
            }
            Self::Exists(list) | Self::Match(list, _) => list.reads(tell),
            Self::Not(inner) => inner.reads(tell),
            Self::SameText(one, other) => {
                one.reads(tell);
                other.reads(tell);
            }
            Self::Search(_) => {
                tell(Read::Name);
                tell(Read::Labels);
            }
        }
    }
}

impl Text {
    fn reads<'c>(&'c self, tell: &mut dyn FnMut(Read<'c>)) {
        match self {
            Self::Label(key) => tell(Read::Label(key)),
            Self::Literal(_) | Self::UserName => {}
            Self::Mapped(of, _) => of.reads(tell),
            Self::ResourceName => tell(Read::Name),
            Self::SessionLogin | Self::SessionServerId | Self::SessionServerName => tell(Read::Session),
        }
    }
}

impl List {
    fn reads<'c>(&'c self, tell: &mut dyn FnMut(Read<'c>)) {
        match self {
            Self::LabelsMatching(_) => tell(Read::Labels),
            Self::Mapped(of, _) => of.reads(tell),
            Self::Participants => tell(Read::Session),
            Self::Split(text, _) => text.reads(tell),
            Self::Texts(texts) => texts.iter().for_each(|text| text.reads(tell)),
            Self::Trait(_) | Self::UserRoles => {}
        }
    }
}
