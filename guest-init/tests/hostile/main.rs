//! Hostile container roots: whatever an image holds, PID 1 stays inside it, ends in time, takes little memory, and
//! has an error, a warning or a success to show for it.
//!
//! Each case is a real directory. guest-init works on it in a process of its own with a deadline and a limit on
//! memory; what lies beside the root is watched, and may not even be opened.
//!
//! What NVIDIA's container toolkit, libnvidia-container and GPU operator had to fix since 2024, by its class, and the
//! test here that shows the class to be closed:
//!
//! | CVE | class | test |
//! |---|---|---|
//! | CVE-2024-0132 | a path of the image is checked, then used: a link swapped in between leads to the host | `race::a_directory_swapped_for_a_link_is_never_followed_out` |
//! | CVE-2024-0133 | files of the host are made through links of the image | `links::links_never_lead_out_of_the_root` |
//! | CVE-2024-0134 | files of the host are made through links of the image | `links::magic_links_of_a_proc_in_the_root_never_lead_out` |
//! | CVE-2024-0135 | an image's code runs in a helper of the host and changes a program of the host | `cves::the_images_own_programs_are_never_run` |
//! | CVE-2024-0136 | an image's code runs in a helper before it is confined, and reaches devices | `cves::no_device_of_the_root_is_opened_and_no_node_is_made` |
//! | CVE-2024-0137 | an image's code runs in a helper before it is confined, in the host's network | `cves::injection_needs_no_exec_no_fork_no_mount_and_no_executable_memory` |
//! | CVE-2025-23266 | a helper runs with the image's environment and loads its libraries (LD_PRELOAD) | `cves::the_containers_environment_has_no_effect_on_pid_1` |
//! | CVE-2025-23267 | the hook that updates the loader cache follows the image's links | `links::the_loader_cache_is_written_inside_the_root_whatever_links_say` |
//! | CVE-2025-23359 | CUDA's compatibility libraries are mounted from paths that the image can change | `cves::compatibility_libraries_are_looked_at_and_never_mounted_or_loaded` |
//! | CVE-2026-24260 | a path of the image is checked, then used | `race::a_layer_is_built_from_nothing_outside` |

// In a test, a panic is the report.
#![allow(clippy::unwrap_used)]

mod access;
mod conf;
mod cves;
mod elf;
mod links;
mod race;
mod record;
mod scene;
mod sizes;
