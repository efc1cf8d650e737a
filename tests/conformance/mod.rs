//! What every driver must keep, and what every store does with it: each case for each of them.
//!
//! A driver is entered by one line of the suite; it cannot choose among the cases.

mod bodies;
mod clauses;
mod copies;
mod digests;
mod modest;
mod sizes;

use crate::harness::stores::{self, Fixture};

/// Every case: the clauses of the contract, by their names there, and what is checked beside them.
macro_rules! every_case {
    ($then:ident $($arguments:tt)*) => {
        $then! {
            $($arguments)*
            clauses: [
                a_copy_is_independent
                a_foreign_location_is_invalid
                a_location_it_gave_is_one_it_serves
                a_missing_capability_is_unsupported
                a_missing_image_is_not_found
                a_version_is_of_one_image
                an_aborted_upload_leaves_nothing
                delete_during_a_read
                deleting_twice_is_not_found
                digests_stay_with_the_image
                id_is_taken_once
                invisible_until_commit
                past_the_end_is_range
                recovering_twice_is_recovering_once
                spans_are_slices
                the_list_is_what_was_put
                uploads_do_not_mix
                what_is_read_is_what_was_written
            ]
            sizes: [
                chunks_of_any_length_and_place_make_one_image
                every_size_comes_back_whatever_it_is_made_of
                every_span_of_every_size_is_its_slice
                many_uploads_of_one_id_leave_one_winner
                readers_that_leave_half_way_hold_nothing
            ]
            bodies: [
                a_body_that_fails_leaves_nothing
                a_body_that_is_long_leaves_nothing
                a_body_that_is_short_leaves_nothing
                a_caller_that_leaves_leaves_nothing
                a_cancelled_put_leaves_nothing
                a_put_of_a_taken_id_is_refused_before_a_byte
                a_put_shows_its_progress
                a_stopping_daemon_leaves_nothing
                a_store_that_is_read_only_takes_and_removes_nothing
                of_many_puts_of_one_id_one_wins
            ]
            digests: [
                a_wrong_promise_leaves_nothing_and_a_right_one_is_kept
                what_is_recorded_is_what_was_stored
            ]
            copies: [
                a_cancelled_copy_leaves_nothing
                a_copy_of_nothing_leaves_nothing
                a_copy_onto_a_taken_id_is_refused
                digests_follow_a_clone_as_a_job
                every_mode_copies_from_every_store_or_says_why_not
            ]
        }
    };
}

/// Runs every case on the driver that a fixture makes.
macro_rules! conformance {
    ($name:ident) => {
        mod $name {
            every_case! { expand $name }
        }
    };
}

macro_rules! expand {
    ($name:ident $($module:ident: [$($case:ident)*])*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = super::stores::$name().await;
                Box::pin(super::$module::$case(&fixture)).await;
                super::finished(fixture).await;
            }
        )*)*
    };
}

/// The names of the cases that are clauses.
macro_rules! clause_names {
    (clauses: [$($case:ident)*] $($rest:tt)*) => { [$(stringify!($case)),*] };
}

every_store!(conformance);

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
