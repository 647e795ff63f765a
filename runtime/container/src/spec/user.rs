//! Who a container runs as: numbers from names, looked up in the image's `/etc/passwd` and `/etc/group`.
//!
//! The files are opened with the image's root as the root, so no link in it leads to the node's files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::cri::{ContainerConfig, ContainerUser, SupplementalGroupsPolicy};
use crate::error::RuntimeError;

/// Larger account files are cut; real ones have a few kilobytes.
const LIMIT: u64 = 4 * 1024 * 1024;

/// Account files of an image; empty where the image has none.
#[derive(Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Accounts {
    /// Reads them from a mounted root filesystem.
    pub fn read(rootfs: &Path) -> Self {
        Self {
            passwd: read_in_root(rootfs, "etc/passwd").unwrap_or_default(),
            group: read_in_root(rootfs, "etc/group").unwrap_or_default(),
        }
    }
}

fn read_in_root(rootfs: &Path, path: &str) -> Option<String> {
    let root = File::open(rootfs).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

struct Passwd<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Passwd { name, uid, gid })
    })
}

/// Name, gid and members of each group.
fn groups(text: &str) -> impl Iterator<Item = (&str, i64, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn number(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|n| *n >= 0)
}

/// The user of a container. `image_user` is the image's `User` (`user[:group]`, names or numbers).
///
/// # Errors
/// `InvalidArgument` when a name is in no file or the request makes no sense.
pub fn resolve(
    config: &ContainerConfig,
    image_user: &str,
    accounts: &Accounts,
) -> Result<ContainerUser, RuntimeError> {
    let context = &config.security_context;
    let (user, group) = match (context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), _) => (uid.to_string(), None),
        (None, "") if context.run_as_group.is_some() && image_user.is_empty() => {
            return Err(RuntimeError::InvalidArgument(
                "runAsGroup is specified without a runAsUser".to_owned(),
            ));
        }
        (None, "") => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group).filter(|g| !g.is_empty())),
            None => (image_user.to_owned(), None),
        },
        (None, name) => (name.to_owned(), None),
    };
    let user = if user.is_empty() { "0".to_owned() } else { user };
    let by_name = passwd(&accounts.passwd).find(|p| p.name == user);
    let entry = match (by_name, number(&user)) {
        (Some(entry), _) => Some(entry),
        (None, Some(uid)) => passwd(&accounts.passwd).find(|p| p.uid == uid),
        (None, None) => {
            return Err(RuntimeError::InvalidArgument(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let uid = entry.as_ref().map(|e| e.uid).or_else(|| number(&user)).unwrap_or(0);
    let gid = match (context.run_as_group, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => match groups(&accounts.group).find(|(name, _, _)| *name == group) {
            Some((_, gid, _)) => gid,
            None => number(group).ok_or_else(|| {
                RuntimeError::InvalidArgument(format!(
                    "unable to find group {group}: no matching entries in group file"
                ))
            })?,
        },
        (None, None) => entry.as_ref().map_or(0, |e| e.gid),
    };
    let fits = |id: i64| (0..=i64::from(u32::MAX) - 1).contains(&id);
    let mut supplemental = vec![gid];
    if context.supplemental_groups_policy == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        let member =
            groups(&accounts.group).filter(|(_, _, members)| members.split(',').any(|m| m == entry.name));
        supplemental.extend(member.map(|(_, gid, _)| gid));
    }
    supplemental.extend(&context.supplemental_groups);
    let mut seen = std::collections::HashSet::new();
    supplemental.retain(|g| seen.insert(*g));
    if !fits(uid) || !supplemental.iter().all(|g| fits(*g)) {
        return Err(RuntimeError::InvalidArgument(
            "user and group ids must be between 0 and 4294967294".to_owned(),
        ));
    }
    Ok(ContainerUser { uid, gid, supplemental_groups: supplemental })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::ContainerSecurityContext;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n12:x:500:501::/:\n".into(),
            group: "root:x:0:\nweb:x:34:\nextra:x:77:web,other\n".into(),
        }
    }

    fn check(context: ContainerSecurityContext, image: &str) -> Result<(i64, i64, Vec<i64>), String> {
        let config = ContainerConfig { security_context: context, ..Default::default() };
        let user = resolve(&config, image, &accounts()).map_err(|e| e.to_string())?;
        Ok((user.uid, user.gid, user.supplemental_groups))
    }

    #[test]
    fn from_the_image() {
        let none = ContainerSecurityContext::default;
        assert_eq!(check(none(), ""), Ok((0, 0, vec![0])));
        assert_eq!(check(none(), "web"), Ok((33, 34, vec![34, 77])));
        assert_eq!(check(none(), "33"), Ok((33, 34, vec![34, 77])));
        assert_eq!(check(none(), "web:extra"), Ok((33, 77, vec![77])));
        assert_eq!(check(none(), "9999:8"), Ok((9999, 8, vec![8])));
        assert_eq!(check(none(), "12"), Ok((500, 501, vec![501])), "a name of digits is a name first");
        assert_eq!(
            check(none(), "nobody").unwrap_err(),
            "unable to find user nobody: no matching entries in passwd file"
        );
    }

    #[test]
    fn from_the_pod() {
        let mut context = ContainerSecurityContext {
            run_as_user: Some(1000),
            run_as_group: Some(3000),
            supplemental_groups: vec![2000, 3000],
            ..Default::default()
        };
        assert_eq!(check(context.clone(), "web"), Ok((1000, 3000, vec![3000, 2000])));
        context.run_as_user = None;
        assert!(check(context.clone(), "").is_err());
        context = ContainerSecurityContext { run_as_username: "web".into(), ..Default::default() };
        context.supplemental_groups_policy = SupplementalGroupsPolicy::Strict;
        assert_eq!(check(context, ""), Ok((33, 34, vec![34])));
        let context = ContainerSecurityContext { run_as_user: Some(-1), ..Default::default() };
        assert!(check(context, "").is_err());
    }

    #[test]
    fn links_stay_in_the_image() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/group-of-image", root.path().join("etc/group")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/passwd", root.path().join("etc/passwd")).unwrap();
        let accounts = Accounts::read(root.path());
        assert_eq!(accounts.passwd, "", "it would resolve to itself, not to the node's file");
        std::fs::write(root.path().join("etc/group-of-image"), "x:x:5:\n").unwrap();
        assert_eq!(Accounts::read(root.path()).group, "x:x:5:\n");
    }
}
