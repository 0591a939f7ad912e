//! What is built, and how: each script is what its README says.

use std::path::Path;

use crate::sources;

/// One build.
pub(crate) struct Build {
    pub(crate) name: &'static str,
    /// Lays the sources out in a fresh directory; the first path is where they are fetched to.
    pub(crate) sources: fn(&Path, &Path),
    /// What has to be allowed beside a root, a workspace and a `/tmp`.
    pub(crate) flags: &'static [&'static str],
    /// Whether the Rust toolchain is needed, at `/tmp/rust`.
    pub(crate) rust: bool,
    pub(crate) script: &'static str,
    /// What is there afterwards.
    pub(crate) makes: &'static [&'static str],
}

pub(crate) const BUILDS: [Build; 6] = [
    Build {
        name: "zlib",
        sources: |fetched, work| sources::debian(fetched, work, &sources::ZLIB),
        flags: &[],
        rust: false,
        script: "./configure; make -j2; make test",
        makes: &["libz.a", "libz.so.1.2.13"],
    },
    Build {
        name: "hello",
        sources: |fetched, work| sources::debian(fetched, work, &sources::HELLO),
        flags: &[],
        rust: false,
        script: "./configure; make -j2; make check; ./hello",
        makes: &["hello"],
    },
    Build {
        name: "lua",
        sources: |fetched, work| sources::debian(fetched, work, &sources::LUA),
        flags: &[],
        rust: false,
        script: "make -j2 linux; make test; ./src/lua -e 'assert(string.rep(\"a\", 3) == \"aaa\")'",
        makes: &["src/lua", "src/luac", "src/liblua.a"],
    },
    Build {
        name: "sqlite",
        sources: sources::sqlite,
        flags: &[],
        rust: false,
        script: "cc -O1 -o check check.c sqlite3.c -lpthread -ldl -lm; ./check",
        makes: &["check", "check.db"],
    },
    Build {
        name: "rust",
        sources: sources::rust_crate,
        flags: &["--env", "PATH=/tmp/rust/bin:/usr/bin:/bin", "--env", "CARGO_HOME=/tmp/cargo"],
        rust: true,
        script: "cargo build --offline --locked; cargo test --offline --locked",
        makes: &["target/debug/hexyl"],
    },
    Build {
        name: "wheel",
        sources: sources::python,
        flags: &["--env", "HOME=/tmp"],
        rust: false,
        script: "/usr/bin/python3 -m pip wheel --no-build-isolation --no-index --no-deps --wheel-dir wheels ./*.tar.gz; \
                 /usr/bin/python3 -m pip install --no-index --target installed wheels/*.whl; \
                 PYTHONPATH=installed /usr/bin/python3 -c 'import markupsafe._speedups as s; assert s.escape(\"<\") == \"&lt;\"'",
        makes: &["wheels/MarkupSafe-2.1.5-*", "installed/markupsafe"],
    },
];
