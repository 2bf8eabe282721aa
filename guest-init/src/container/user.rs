//! Resolves users and groups with the image's /etc/passwd and /etc/group.

use crate::confined_fs::RootDir;
use std::path::Path;

/// Maximum size of a database in bytes.
const MAX_DATABASE: u64 = 1 << 20;

/// The largest id that container engines accept. The kernel's largest id means "unchanged".
const MAX_ID: u32 = i32::MAX as u32;

/// The user that a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Resolves `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; empty is root.
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
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let name = if name.is_empty() { "0" } else { name };
    let id = number(name)?;
    let row = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 6)
        .find(|fields| id.map_or(fields[0] == name, |id| of_file(fields[2]) == Some(id)));
    let uid = id
        .or_else(|| row.as_ref().and_then(|fields| of_file(fields[2])))
        .ok_or_else(|| format!("user {name:?} is not in the image's /etc/passwd"))?;
    let home = row.as_ref().map(|fields| fields[5]).filter(|home| !home.is_empty()).unwrap_or("/");
    let (gid, groups) = if group_name.is_empty() {
        let gid = row.as_ref().and_then(|fields| of_file(fields[3])).unwrap_or(0);
        (gid, row.as_ref().map(|fields| supplementary(fields[0], group)).unwrap_or_default())
    } else {
        // An explicit group replaces the supplementary groups.
        (group_id(group_name, group)?, Vec::new())
    };
    Ok(Identity { uid, gid, groups, home: home.into() })
}

fn group_id(name: &str, group: &str) -> Result<u32, String> {
    if let Some(id) = number(name)? {
        return Ok(id);
    }
    let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.len() >= 3 && fields[0] == name);
    found
        .next()
        .and_then(|fields| of_file(fields[2]))
        .ok_or_else(|| format!("group {name:?} is not in the image's /etc/group"))
}

/// Digits are always an id, even if the image has a user with that name, such as `1000` with the id 0.
fn number(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|id| *id <= MAX_ID);
    id.map(Some).ok_or_else(|| format!("user or group id {text} is above {MAX_ID}, the maximum"))
}

/// Parses an id in a file of the image.
fn of_file(text: &str) -> Option<u32> {
    number(text).ok().flatten()
}

fn supplementary(user: &str, group: &str) -> Vec<u32> {
    let fields = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member = |fields: &Vec<&str>| fields.len() >= 4 && fields[3].split(',').any(|name| name == user);
    fields.filter(member).filter_map(|fields| of_file(fields[2])).take(64).collect()
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
    fn digits_are_an_id_whatever_the_image_calls_its_users() {
        let passwd =
            "1000:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n+5:x:0:0::/:/bin/sh\n";
        let group = "1000:x:0:\nvideo:x:44:app\n";
        let found =
            |user: &str| resolve(user, passwd, group).map(|found| (found.uid, found.gid, found.groups));
        assert_eq!(found("1000:1000"), Ok((1000, 1000, vec![])));
        assert_eq!(found("1000"), Ok((1000, 1001, vec![44])));
        assert_eq!(found("0001000"), Ok((1000, 1001, vec![44])));
        // No group is none that is named, and who names one has no others.
        assert_eq!(found("app:"), Ok((1000, 1001, vec![44])));
        assert_eq!(found("app:video"), Ok((1000, 44, vec![])));
        assert_eq!(found("app:1000"), Ok((1000, 1000, vec![])));
        for user in ["4294967295", "2147483648", "0:4294967295", "99999999999"] {
            assert!(found(user).unwrap_err().contains("is above 2147483647"), "{user}");
        }
        assert!(found("-1").unwrap_err().contains("/etc/passwd"));
        // One that the image itself says wrongly is none.
        assert!(resolve("x", "x:x:4294967295:0::/:/bin/sh\n", "").is_err());
    }

    #[test]
    fn an_unknown_name_is_an_error_that_says_where_it_was_looked_for() {
        assert!(resolve("nobody", PASSWD, GROUP).unwrap_err().contains("/etc/passwd"));
        assert!(resolve("app:nogroup", PASSWD, GROUP).unwrap_err().contains("/etc/group"));
    }
}
