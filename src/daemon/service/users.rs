//! Names of local users, for messages.

/// Returns the name of a user, or the number of a user without a name.
pub(super) fn user_name(uid: u32) -> String {
    let user = uzers::get_user_by_uid(uid);
    user.map_or_else(
        || uid.to_string(),
        |user| user.name().to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_named_as_in_the_list_of_users_and_by_number_without_an_entry() {
        let list = std::fs::read_to_string("/etc/passwd").unwrap();
        let mut uids = Vec::new();
        for line in list.lines() {
            let [name, _, uid, ..] = line.split(':').collect::<Vec<_>>()[..] else {
                continue;
            };
            let uid: u32 = uid.parse().unwrap();
            // The first of several names of a user is the one that counts.
            if !uids.contains(&uid) {
                assert_eq!(user_name(uid), name);
                uids.push(uid);
            }
        }
        assert!(uids.contains(&0));
        let unnamed = (1 << 30..).find(|uid| uzers::get_user_by_uid(*uid).is_none());
        let unnamed = unnamed.unwrap();
        assert_eq!(user_name(unnamed), unnamed.to_string());
    }
}
