/* A database on disk, journalled both ways: locks, shared memory, fsync. */
#include <stdio.h>
#include "sqlite3.h"

static const char *steps[] = {
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT INTO t SELECT i, hex(i) FROM n",
    "PRAGMA journal_mode = WAL",
    "UPDATE t SET b = b || 'x' WHERE a % 7 = 0",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA integrity_check",
};

int main(void) {
    sqlite3 *db;
    char *error = NULL;
    if (sqlite3_open("check.db", &db) != SQLITE_OK) return 1;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (sqlite3_exec(db, steps[i], NULL, NULL, &error) != SQLITE_OK) {
            fprintf(stderr, "%s: %s\n", steps[i], error);
            return 1;
        }
    }
    printf("sqlite %s: well\n", sqlite3_libversion());
    return sqlite3_close(db) != SQLITE_OK;
}
