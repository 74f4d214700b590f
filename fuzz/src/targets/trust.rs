//! Statements about membership, exchanges of them, and tokens.

use std::sync::LazyLock;

use p2pfs_proto::trust::{
    EpochSecret, InviteToken, Ledger, NodeKey, STATEMENTS_MAX, SignedStatement, TestKeyring,
};
use p2pfs_types::id::NodeName;

static FOUNDER: LazyLock<NodeKey> = LazyLock::new(|| NodeKey::from_seed(&[1; 32]));

/// Decodes one statement or many, in the stored and transmitted form.
pub fn statements(bytes: &[u8]) {
    if let Some(statement) = SignedStatement::decode(bytes) {
        let again = statement.encode();
        assert_eq!(SignedStatement::decode(&again).as_ref(), Some(&statement));
        assert!(!statement.is_genuine() || again.len() <= bytes.len());
    }
    if let Some(all) = SignedStatement::decode_all(bytes, STATEMENTS_MAX) {
        assert!(all.len() <= STATEMENTS_MAX);
        let _ledger = Ledger::of(all);
    }
}

/// Handles a member's questions, answers and news. None of them may cost this node its membership.
pub fn exchanges(bytes: &[u8]) {
    let founder = FOUNDER.node_id();
    let name = NodeName::new("founder").expect("a name");
    let secret = EpochSecret::new([7; 32]);
    let keyring = TestKeyring::founded_in_memory(secret, &FOUNDER, name, 1_000_000);
    let _answer = keyring.answer(bytes);
    let _news = keyring.receive_news(bytes);
    let _changed = keyring.receive_answer(bytes);
    assert!(keyring.is_member(&founder) && keyring.view().is_admin(&founder));
    let stranger = NodeKey::from_seed(&[2; 32]).node_id();
    assert!(!keyring.receive_certificates(&stranger, bytes));
}

/// Decodes a token as pasted by a user.
pub fn tokens(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(token) = InviteToken::parse(text) {
        let again = InviteToken::parse(&token.encode()).expect("what was read can be said");
        assert_eq!(again.encode(), token.encode());
    }
}
