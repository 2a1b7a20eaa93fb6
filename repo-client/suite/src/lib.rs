//! What any repository must do: a conformance suite, a reference model with random operations, and a wrapper that
//! injects faults through the same trait. Knows no implementation.
//!
//! An implementation runs all of it with one line in its tests:
//! `sluice_repo_suite::conformance!(open_repository);`

mod accounts;
mod commits;
mod fault;
mod model;
mod names;
mod properties;
mod tools;

pub use fault::{Fault, FaultyRepository};
pub use model::{Model, Step, run_steps, steps};
pub use tools::*;

/// The rules, one function each; see the functions of this module for what they prove.
pub mod rules {
    pub use crate::accounts::*;
    pub use crate::commits::*;
    pub use crate::names::*;
    pub use crate::properties::*;
}

/// Makes a test of each rule. The argument is an async function that returns `(impl Repository, guard)`, an empty
/// repository and something to keep until the test has ended.
#[macro_export]
macro_rules! conformance {
    ($open:path) => {
        $crate::conformance!($open;
            names_are_found_exactly_and_without_regard_to_case,
            names_that_differ_only_in_case_can_both_exist,
            a_name_is_taken_for_those_who_do_not_see_case,
            bad_names_and_bad_parents_are_refused,
            an_exclusive_create_is_repeatable,
            pages_of_a_listing_are_complete_and_stable,
            a_listing_survives_changes_between_its_pages,
            resolve_goes_as_far_as_the_path_does,
            paths_follow_renames,
            hard_links_share_everything,
            a_folder_with_entries_is_not_removed,
            an_unlinked_document_stays_for_its_opens,
            a_rename_replaces_in_one_step,
            a_rename_checks_what_it_replaces,
            a_rename_to_the_same_document_does_nothing,
            a_rename_can_change_only_the_case,
            a_folder_cannot_move_into_itself,
            link_counts_of_folders_follow_their_subfolders,
            links_and_special_files_keep_what_they_are,
            expected_nodes_guard_unlink_and_rename,
            change_numbers_grow_with_every_change,
            attributes_are_set_one_by_one,
            a_guarded_change_needs_the_right_change_time,
            access_lists_come_back_as_stored,
            extended_attributes_come_and_go,
            streams_have_names_and_content_of_their_own,
            a_commit_needs_the_current_version,
            a_repeated_commit_is_done_once,
            an_old_fencing_token_is_refused,
            flushes_of_one_session_make_one_version,
            versions_are_kept_by_count,
            a_restored_version_is_a_new_version,
            one_refused_commit_leaves_the_others,
            objects_of_lost_versions_become_garbage,
            objects_that_a_later_version_needs_are_kept,
            deleting_a_document_gives_up_its_objects,
            content_can_come_with_the_creation,
            usage_is_what_is_current_below_a_folder,
            users_groups_shares_and_rules_are_kept,
            settings_and_counters_are_kept,
            documents_with_nfs_locks_are_noted,
            a_used_repository_checks_clean,
        );
    };
    ($open:path; $($rule:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $rule() {
                let (repository, _guard) = $open().await;
                $crate::rules::$rule(&repository).await;
            }
        )*
    };
}
