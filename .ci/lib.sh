# Shared by the scripts of this folder: steps with a title and their time. Sourced, never run.
# shellcheck shell=bash

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0; fi
export CARGO_NET_RETRY="${CARGO_NET_RETRY:-5}"

ci_started=$SECONDS
ci_step_started=$SECONDS
ci_step_title=""

# Ends the step before, with its seconds, and begins the next.
step() {
    step_end
    ci_step_title="$*"
    ci_step_started=$SECONDS
    printf '\n==> %s\n' "$ci_step_title"
}

step_end() {
    [ -z "$ci_step_title" ] || printf '<== %s: %d s\n' "$ci_step_title" $((SECONDS - ci_step_started))
    ci_step_title=""
}

note() { printf '    %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Says which step ended the run, whatever ended it.
ci_on_exit() {
    local status=$?
    if [ "$status" -ne 0 ]; then
        printf '\nFAILED (status %d) in: %s, after %d s\n' "$status" "${ci_step_title:-start}" $((SECONDS - ci_started)) >&2
    fi
}
trap ci_on_exit EXIT

# The crates that others add to their Cargo.toml, in the order in which they depend on each other.
libraries=(teleport-core teleport-ca teleport-backend teleport-ssh)
