//! sqlite, with its locks, its journals and its shared memory.

use crate::pair::{Pair, need};

fn transactions(mode: &str) {
    let Some(pair) = Pair::new() else { return };
    need(&["sqlite3"]);
    pair.sh(&format!("sqlite3 db 'PRAGMA journal_mode={mode}; CREATE TABLE t(k INTEGER PRIMARY KEY, v TEXT);'"));
    pair.sh(
        "for n in 1 2 3 4 5; do sqlite3 db \"PRAGMA synchronous=FULL; BEGIN; WITH RECURSIVE s(i) AS (VALUES(1) UNION ALL
         SELECT i+1 FROM s WHERE i<2000) INSERT INTO t(v) SELECT printf('%d of %d', i, $n) FROM s; COMMIT;\"; done > /dev/null",
    );
    pair.sh("sqlite3 db 'UPDATE t SET v = upper(v) WHERE k % 3 = 0; DELETE FROM t WHERE k % 7 = 0; PRAGMA integrity_check;'");
    pair.sh("sqlite3 db 'SELECT count(*), sum(k), min(v), max(v) FROM t; VACUUM; PRAGMA integrity_check;'");
    // Two at once: locks keep them apart.
    pair.sh(
        "for n in 1 2; do (for i in $(seq 30); do sqlite3 -cmd '.timeout 20000' db \"INSERT INTO t(v) VALUES('w')\"; done) & done; wait;
         sqlite3 db \"SELECT count(*) FROM t WHERE v = 'w'; PRAGMA integrity_check;\"",
    );
}

#[test]
fn sqlite_with_a_rollback_journal() {
    transactions("DELETE");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    transactions("WAL");
}
