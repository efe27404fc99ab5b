//! What browsers are shown at the web port: certificates of an authority by ACME, judged by `pebble`, and files; judged by `openssl`.

mod by_acme;
mod faults;
mod from_files;
