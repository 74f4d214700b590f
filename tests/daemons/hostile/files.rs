//! What a member says of files, and asks for.

use p2pfs::extent::ByteRange;

use super::*;

#[apply(promise)]
fn a_member_that_says_a_wrong_size_of_a_hash_keeps_nobody_from_its_bytes() {
    let mut scene = scene();
    let bytes = noise(9, 300_000);
    let hash = ContentHash::of(&bytes);
    scene.eve.say(vec![
        file("half.bin", hash, 150_000, 1),
        file("twice.bin", hash, 600_000, 1),
    ]);
    scene.one.wait_for_file("half.bin");
    scene.one.wait_for_file("twice.bin");
    scene.two.write("whole.bin", &bytes);
    scene.one.wait_for_file("whole.bin");
    for name in ["half.bin", "twice.bin"] {
        let read = fs::read(scene.one.mounted(name));
        let errno = read.expect_err(name).raw_os_error();
        // by the size that she says, nobody gives anything, or nobody has it
        assert!(
            [Some(libc::EIO), Some(libc::ESTALE)].contains(&errno),
            "{errno:?}"
        );
    }
    assert!(fs::read(scene.one.mounted("whole.bin")).unwrap() == bytes);
    eventually("who says another size is shunned", SOON, || {
        peer(&scene.one, &scene.eve.id.to_string())["shunned"].is_string()
    });
    let how = "do not fit their hash";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_file_that_became_private_is_given_to_no_member_from_then_on() {
    let mut scene = scene();
    let bytes = noise(17, 100_000);
    let request = Request::Range {
        hash: ContentHash::of(&bytes),
        size_bytes: bytes.len() as u64,
        range: ByteRange::new(0, bytes.len() as u64),
    };
    let is_given = |scene: &Scene| {
        let answer = scene.eve.ask(scene.two.address, request.clone());
        matches!(answer, Some(Response::Data { .. }))
    };
    scene.two.write("secret.bin", &bytes);
    let path = scene.two.share.join("secret.bin");
    for _ in 0..5 {
        set_mode(&path, 0o644);
        eventually("it is given", SOON, || is_given(&scene));
        set_mode(&path, 0o600);
        // before any watcher can tell
        assert!(!is_given(&scene), "a private file was given");
    }
    scene.assert_unharmed();
}
