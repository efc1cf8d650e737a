//! What every driver must keep, and what every store does with it: each case for each of them.
//!
//! A driver is entered by one line of the suite; it cannot choose among the cases.

mod bodies;
pub(crate) mod clauses;
mod copies;
mod digests;
pub(crate) mod lasting;
pub(crate) mod late;
mod sizes;

use crate::harness::stores::{self, Fixture};

/// Every case: the clauses of the contract, by their names there, and what is checked beside them. In
/// brackets are the capabilities without which there is nothing to look at; that they are refused then is
/// for `a_missing_capability_is_unsupported` to see.
macro_rules! every_case {
    ($then:ident $($arguments:tt)*) => {
        $then! {
            $($arguments)*
            clauses: [
                a_copy_is_independent(copy)
                a_foreign_location_is_invalid
                a_hole_is_zeros_and_takes_no_space_where_zeros_are_left_out(write)
                a_location_it_gave_is_one_it_serves
                a_missing_capability_is_unsupported
                a_missing_image_is_not_found
                a_version_is_of_one_image
                an_aborted_upload_leaves_nothing(write)
                delete_during_a_read(delete)
                deleting_twice_is_not_found(delete)
                digests_stay_with_the_image
                id_is_taken_once(write)
                invisible_until_commit(write)
                not_recovered_while_a_call_is_out(write)
                past_the_end_is_range(seek)
                recovering_twice_is_recovering_once(write)
                spans_are_slices(seek)
                the_list_is_what_was_put(write list)
                uploads_do_not_mix(write)
                what_is_committed_outlives_the_process(write)
                what_is_read_is_what_was_written(write)
            ]
            lasting: [
                what_a_killed_process_has_left_is_cleared_away(write)
            ]
            sizes: [
                chunks_of_any_length_and_place_make_one_image(write)
                every_size_comes_back_whatever_it_is_made_of(write)
                every_span_of_every_size_is_its_slice(seek)
                many_uploads_of_one_id_leave_one_winner(write)
                readers_that_leave_half_way_hold_nothing(seek)
            ]
            bodies: [
                a_body_that_fails_leaves_nothing(write)
                a_body_that_is_long_leaves_nothing(write)
                a_body_that_is_short_leaves_nothing(write)
                a_caller_that_leaves_leaves_nothing(write)
                a_cancelled_put_leaves_nothing(write)
                a_put_of_a_taken_id_is_refused_before_a_byte(write)
                a_put_shows_its_progress(write)
                a_stopping_daemon_leaves_nothing(write)
                a_store_that_is_read_only_takes_and_removes_nothing(write)
                of_many_puts_of_one_id_one_wins(write)
            ]
            digests: [
                a_wrong_promise_leaves_nothing_and_a_right_one_is_kept(write)
                what_is_recorded_is_what_was_stored(write)
            ]
            copies: [
                a_cancelled_copy_leaves_nothing(write)
                a_copy_has_an_md5_if_it_is_told_to_whatever_its_source_has
                a_copy_of_nothing_leaves_nothing(write)
                a_copy_onto_a_taken_id_is_refused(write)
                digests_follow_a_clone_as_a_job(write copy)
                every_mode_copies_from_every_store_or_says_why_not(write)
            ]
        }
    };
}

/// Runs every case on the driver that a fixture makes.
macro_rules! conformance {
    ($kind:ident: $name:ident) => {
        mod $name {
            every_case! { expand $kind $name }
        }
    };
}

macro_rules! expand {
    ($kind:ident $name:ident $($module:ident: [$($case:ident $(($($need:ident)+))?)*])*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = super::stores::$name().await;
                let _caps = fixture.caps();
                if super::applies(&fixture, stringify!($kind), &[$($(_caps.$need),+)?]) {
                    Box::pin(super::$module::$case(&fixture)).await;
                }
                super::finished(fixture).await;
            }
        )*)*
    };
}

/// The names of the cases that are clauses.
macro_rules! clause_names {
    (clauses: [$($case:ident $(($($need:ident)+))?)*] $($rest:tt)*) => { [$(stringify!($case)),*] };
}

every_store!(conformance);

/// Whether a case has something to look at in a store, which must be of the type that the list says.
fn applies(fixture: &Fixture, kind: &str, needed: &[bool]) -> bool {
    assert_eq!(fixture.store.config.kind, kind, "the list of stores says another type");
    let applies = needed.iter().all(|can| *can);
    if !applies {
        eprintln!("does not apply: {:?}", fixture.caps());
    }
    applies
}

async fn finished(fixture: Fixture) {
    fixture.assert_empty().await;
}

/// The names in square brackets in a text, by the pattern of clauses.
fn bracketed(text: &str) -> Vec<String> {
    let clause =
        |name: &str| name.contains('-') && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let mut names: Vec<_> = text
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']'))
        .map(|(name, _)| name)
        .filter(|name| clause(name))
        .map(|name| name.replace('-', "_"))
        .collect();
    names.sort();
    names
}

#[test]
fn clauses_and_cases_agree() {
    let contract = [
        include_str!("../../drivers/contract/copies.rs"),
        include_str!("../../drivers/contract/driver.rs"),
        include_str!("../../drivers/contract/upload.rs"),
        include_str!("../../drivers/contract/volumes.rs"),
    ];
    let clauses = bracketed(&contract.concat());
    let cases = every_case! { clause_names };
    assert_eq!(clauses, cases, "the left are in drivers/contract, the right are cases here");
}
