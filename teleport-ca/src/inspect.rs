//! Describing certificates for people.
