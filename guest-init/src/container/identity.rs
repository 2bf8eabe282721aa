//! Users and groups by the image's own /etc/passwd and /etc/group.

use crate::rootfs::RootDir;
use std::path::Path;

/// Databases longer than this are not read.
const MAX_DATABASE: u64 = 1 << 20;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Looks up `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; empty is root.
///
/// # Errors
/// What was expected, and in which file.
pub fn lookup(root: &RootDir, user: &str) -> Result<Identity, String> {
    let read = |path: &str| match root.read(Path::new(path), MAX_DATABASE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.is_not_found() => Ok(String::new()),
        Err(error) => Err(error.to_string()),
    };
    resolve(user, &read("/etc/passwd")?, &read("/etc/group")?)
}

fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let row = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 6 && (fields[0] == name || fields[2] == name));
    let number = |text: &str| text.parse::<u32>().ok();
    let uid =
        row.as_ref().and_then(|fields| number(fields[2])).or_else(|| number(name)).ok_or_else(|| {
            format!("expected user {name:?} in the image's /etc/passwd, which has no such user")
        })?;
    let gid = match group_name {
        None => row.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0),
        Some(wanted) => {
            let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let mut found = fields.filter(|fields| fields.len() >= 3 && fields[0] == wanted);
            let found = found.next().and_then(|fields| number(fields[2]));
            found.or_else(|| number(wanted)).ok_or_else(|| {
                format!("expected group {wanted:?} in the image's /etc/group, which has no such group")
            })?
        }
    };
    let home = row.as_ref().map_or("/", |fields| fields[5]);
    let home = if home.is_empty() { "/" } else { home };
    let groups = row.as_ref().map(|fields| supplementary(fields[0], group)).unwrap_or_default();
    Ok(Identity { uid, gid, groups, home: home.into() })
}

fn supplementary(user: &str, group: &str) -> Vec<u32> {
    let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member = |fields: &Vec<&str>| fields.len() >= 4 && fields[3].split(',').any(|name| name == user);
    fields.filter(member).filter_map(|fields| fields[2].parse().ok()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nvideo:x:44:other,app\napp:x:1001:\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let app = Identity { uid: 1000, gid: 1001, groups: vec![44], home: "/home/app".into() };
        assert_eq!(resolve("app", PASSWD, GROUP).unwrap(), app);
        assert_eq!(resolve("1000", PASSWD, GROUP).unwrap(), app);
        assert_eq!(resolve("app:video", PASSWD, GROUP).unwrap().gid, 44);
        assert_eq!(resolve("4242:4243", PASSWD, GROUP).unwrap().gid, 4243);
        assert_eq!(resolve("", PASSWD, GROUP).unwrap().home, "/root");
        assert_eq!(resolve("", "", "").unwrap().uid, 0);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_says_where_it_was_looked_for() {
        assert!(resolve("nobody", PASSWD, GROUP).unwrap_err().contains("/etc/passwd"));
        assert!(resolve("app:nogroup", PASSWD, GROUP).unwrap_err().contains("/etc/group"));
    }
}
