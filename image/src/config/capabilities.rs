//! The set of kernel capabilities that a container may have.

use serde::{Deserialize, Serialize};

/// Every capability by its number (include/uapi/linux/capability.h), without `CAP_`.
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The default set of container engines (moby and containerd).
const ENGINES: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

/// A set of capabilities: bit N is capability number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Every capability of the kernel, whatever its version.
    pub const ALL: Self = Self(u64::MAX);

    /// Parses `all`, `none`, `default`, or a comma-separated list of names and `default`. Upper case and a `CAP_` prefix are
    /// accepted.
    pub fn named(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "all" => Some(Self::ALL),
            "none" => Some(Self(0)),
            list => Self::together(list.split(',')),
        }
    }

    /// The union of these words, which are in lower case.
    fn together<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        words.try_fold(Self(0), |all, word| Some(Self(all.0 | Self::word(word.trim())?.0)))
    }

    fn word(text: &str) -> Option<Self> {
        if text == "default" {
            return Self::together(ENGINES.into_iter());
        }
        let name = text.strip_prefix("cap_").unwrap_or(text);
        NAMES.iter().position(|known| *known == name).map(|number| Self(1 << number))
    }

    /// Returns whether the capability with this number is in the set.
    pub fn has(self, number: u8) -> bool {
        1_u64.checked_shl(number.into()).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Returns whether a program with this set cannot mount, and so cannot undo the container's read-only mounts.
    pub fn confine(self) -> bool {
        Self::word("sys_admin").is_some_and(|admin| self.0 & admin.0 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_headers_and_numbers_too() {
        let header =
            std::fs::read_to_string("/usr/include/linux/capability.h").expect("libc6-dev is installed");
        let said: Vec<(String, usize)> = header
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("#define CAP_")?.split_whitespace();
                let name = words.next()?.to_lowercase();
                Some((name, words.next()?.parse().ok()?))
            })
            .collect();
        assert!(said.len() >= 38, "{said:?}");
        for (name, number) in said {
            assert_eq!(NAMES.get(number), Some(&name.as_str()));
        }
    }

    #[test]
    fn sets_are_written_as_container_engines_write_them() {
        let set = |text: &str| Capabilities::named(text).unwrap_or_else(|| panic!("{text}")).0;
        assert_eq!(set("all"), u64::MAX);
        assert_eq!((set("none"), set("ALL"), set("NONE")), (0, u64::MAX, 0));
        assert_eq!(set("CAP_CHOWN,kill"), 0b10_0001);
        // What /proc/self/status says in a container of moby's.
        assert_eq!(set("default"), 0xa804_25fb);
        assert_eq!(set("default,SYS_PTRACE"), 0xa804_25fb | 1 << 19);
        for nonsense in ["", "default,", "cap_", "all,kill", "root", "-1"] {
            assert_eq!(Capabilities::named(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn who_may_mount_is_not_confined() {
        for (text, confined) in [("all", false), ("sys_admin", false), ("default", true), ("none", true)] {
            assert_eq!(Capabilities::named(text).unwrap().confine(), confined, "{text}");
        }
        assert!(Capabilities::ALL.has(63) && !Capabilities::ALL.has(64));
    }
}
