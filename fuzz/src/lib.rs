//! What several fuzz targets share: the authorities of the corpus, and a model of what a certificate must be like.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod fixture;
pub mod json;
pub mod origin;
