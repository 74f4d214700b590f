//! Tests of `readers`.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use super::*;

fn header(pid: u32) -> RequestHeader {
    RequestHeader {
        opcode: super::super::abi::opcode::READ,
        unique: 2,
        nodeid: 5,
        uid: 0,
        gid: 0,
        pid,
    }
}

fn me() -> u32 {
    std::process::id()
}

#[test]
fn a_name_is_compared_up_to_the_length_that_the_kernel_stores() {
    assert!(is_name("tumblerd", "tumblerd"));
    assert!(is_name("evince-thumbnailer", "evince-thumbnai"));
    assert!(!is_name("evince", "evince-thumbnai"));
    assert!(!is_name("evince-thumbnailer", "evince"));
}

#[test]
fn a_unit_is_found_in_its_control_group_path() {
    let groups = "0::/user.slice/user-1000.slice/user@1000.service/localsearch-3.service\n";
    assert!(is_in_group("localsearch-3.service", groups));
    assert!(!is_in_group("search-3.service", groups));
    assert!(!is_in_group("user.slice", groups), "a slice is no program");
    assert!(is_in_group("a.service", "4:memory:/a.service\n0::/\n"));
    assert!(!is_in_group("a.service", ""));
    assert_eq!(unit_of(groups).as_deref(), Some("localsearch-3.service"));
    assert_eq!(unit_of("0::/\n"), None);
}

#[test]
fn a_process_is_known_by_its_own_name_in_all_its_threads() {
    let readers = Readers::default();
    let reach = |thread| readers.opener(thread, 0).reach();
    assert_eq!(reach(me()), Reach::Everything, "nobody is listed");
    let name = name_of(me()).unwrap();
    readers.set_cached_only(vec!["somebody".to_owned(), name]);
    assert_eq!(reach(me()), Reach::Cached);
    assert_eq!(reach(me()), Reach::Cached, "and remembered");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: the call takes no arguments and returns the number of this thread.
            let thread = unsafe { libc::gettid() };
            assert_eq!(leader_of(thread as u32), Some(me()));
            reach(thread as u32)
        });
        assert_eq!(other.join().unwrap(), Reach::Cached);
    });
    readers.set_cached_only(vec!["somebody".to_owned()]);
    assert_eq!(reach(me()), Reach::Everything, "a new list holds at once");
}

#[test]
fn a_reader_with_a_budget_fetches_only_what_it_reads_and_a_denied_one_nothing() {
    let readers = Readers::default();
    let program = name_of(me()).unwrap();
    let bytes_s = 1 << 20;
    readers.set_budgets(vec![ReaderBudget {
        program: program.clone(),
        bytes_s,
    }]);
    assert_eq!(readers.opener(me(), 0).reach(), Reach::Asked);
    readers.set_cached_only(vec![program]);
    assert_eq!(readers.opener(me(), 0).reach(), Reach::Cached);
    readers.set_cached_only(Vec::new());
    readers.set_budgets(Vec::new());
    assert_eq!(readers.opener(me(), 0).reach(), Reach::Everything);
}

#[test]
fn a_reconfigured_budget_keeps_what_was_spent() {
    let readers = Readers::default();
    let rule = ReaderBudget {
        program: name_of(me()).unwrap(),
        bytes_s: 1 << 20,
    };
    let of_me = || readers.opener(me(), 0).0.budget.unwrap();
    readers.set_budgets(vec![rule.clone()]);
    let before = of_me();
    readers.set_budgets(vec![rule.clone()]);
    assert!(Arc::ptr_eq(&before, &of_me()));
    readers.set_budgets(vec![ReaderBudget { bytes_s: 5, ..rule }]);
    assert_eq!(of_me().rule.bytes_s, 5, "another rate holds at once");
}

#[test]
fn a_reader_using_anothers_handle_is_distinguished_from_it() {
    let readers = Readers::default();
    let opener = readers.opener(me(), 1000);
    readers.opened(&opener, 3, 5, b"docs/a", false);
    let now = Instant::now();
    let own = readers.reader(3, &header(me()), now).unwrap();
    readers.record_read(&own.reading, 10, 4, now);
    // A child that inherited the handle; no process has this number.
    let other = readers.reader(3, &header(0x7fff_fff0), now).unwrap();
    readers.record_read(&other.reading, 1, 0, now);
    let mut reports = readers.report(&WaitingReads::default());
    // Reports are sorted by rate, which depends on the clock.
    reports.sort_by_key(|it| it.pid);
    let bytes: Vec<_> = reports
        .iter()
        .map(|it| (it.pid, it.given.cache_bytes))
        .collect();
    assert_eq!(bytes, [(me(), 6), (0x7fff_fff0, 1)]);
    assert_eq!(&*reports[1].files[0].path, b"docs/a");
    assert_eq!((reports[0].files[0].open, reports[1].files[0].open), (1, 0));
    assert!(readers.reader(4, &header(me()), now).is_none(), "not open");
}

#[test]
fn handles_of_the_previous_process_follow_the_rules_of_their_reader() {
    let readers = Readers::default();
    readers.set_cached_only(vec![name_of(me()).unwrap()]);
    let reach = |handle, pid| {
        let reader = readers.reader(handle, &header(pid), Instant::now());
        reader.unwrap().reach
    };
    let opener = readers.opener(me(), 0);
    readers.inherited(&opener, 3, 5, b"a");
    readers.inherited(&opener, 3, 5, b"a");
    assert_eq!(reach(3, me()), Reach::Cached);
    assert_eq!(reach(3, 0x7fff_fff0), Reach::Everything);
    readers.opened(&opener, 4, 5, b"a", false);
    assert_eq!(reach(4, me()), Reach::Everything, "its open says how far");
    readers.set_cached_only(Vec::new());
    assert_eq!(reach(3, me()), Reach::Everything);
    let report = &readers.report(&WaitingReads::default())[0];
    assert_eq!((report.opens, report.files[0].open), (2, 2));
}

#[test]
fn closed_readers_are_reported_for_a_while() {
    let readers = Readers::default();
    let opener = readers.opener(me(), 0);
    readers.opened(&opener, 3, 5, b"a", true);
    readers.closed(3);
    readers.closed(3);
    readers.update_rates();
    let reports = readers.report(&WaitingReads::default());
    assert_eq!((reports[0].opens, reports[0].files[0].open), (1, 0));
    assert!(reports[0].files[0].by_kernel);
}

#[test]
fn remembered_readers_are_bounded() {
    let readers = Readers::default();
    for pid in 0..3 * KNOWN_MAX as u32 {
        readers.opener(0x7000_0000 + pid, 0);
    }
    assert!(readers.known.read().len() <= KNOWN_MAX);
    assert!(readers.processes.lock().len() <= PROCESSES_MAX);
}
